"""Other layouts of a report: what a rule, a register or a catalogue wants to see of it, and nothing that is not in it.

A profile selects, orders and words; the only arithmetic is a quotient of two rates that are in the report. Every value
carries its path there (RFC 6901). None says that anything conforms to a law: that is for people to judge.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fairlead.errors import BadInput
from fairlead.evaluation.profiles.card import cyclonedx, model_card
from fairlead.evaluation.profiles.documents import Profile, markdown
from fairlead.evaluation.profiles.rules import eu_ai_act_annex_iv, four_fifths, nyc_ll144

LAYOUTS: Mapping[str, Callable[[Mapping[str, Any]], Profile]] = {
    "four_fifths": four_fifths,
    "nyc_ll144": nyc_ll144,
    "eu_ai_act_annex_iv": eu_ai_act_annex_iv,
}
PROFILES = (*LAYOUTS, "model_card", "cyclonedx")
"""Everything that ``render_profile`` knows."""


def render_profile(report: Mapping[str, Any], name: str) -> tuple[bytes, str]:
    """A profile as a file: its bytes and its media type, ``text/markdown`` but for CycloneDX.

    ``report``: a ``rai-report/1`` document. Raises ``BadInput`` for an unknown name, and for a report that the profile
    can say nothing of.
    """
    if name == "cyclonedx":
        return cyclonedx(report), "application/vnd.cyclonedx+json"
    if name == "model_card":
        return model_card(report).encode(), "text/markdown"
    if name not in LAYOUTS:
        raise BadInput(f"there is no profile {name!r}; there are {', '.join(PROFILES)}")
    return markdown(LAYOUTS[name](report)).encode(), "text/markdown"


__all__ = ["LAYOUTS", "PROFILES", "Profile", "cyclonedx", "model_card", "render_profile"]

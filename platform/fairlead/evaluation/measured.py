"""What no count holds: numbers that platform code measures in the ranks, beside the counts, as JSON.

A *section* is a part of the report with a name of its own, asked for by the field of that name in the spec. It has
``metrics``, each with ``value``, ``lower95``, ``upper95`` and, where there is no value, a ``reason``; what else it
holds is its own business. ``METRICS`` names those that gates may ask for, ``SECTIONS`` how a section comes from what
ranks gave. Rank 0's word counts; what is one a node comes through files (``fairlead.run.energy``).

To add one: a field of the spec (``ExperimentSpec.measured``), its section here, and its metrics.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairlead.evaluation.attributions import attributions_section, share_limits
from fairlead.evaluation.drift import drift_section, largest_limits
from fairlead.evaluation.energy import energy_section
from fairlead.evaluation.explanations import explanations_section
from fairlead.evaluation.privacy import privacy_section
from fairlead.evaluation.temperature import temperature_section
from fairlead.spec import Document, GateSpec

FORMAT = "fairlead-measurements/1"
MAX_SECTION_BYTES = 2**22
MAX_BYTES = 2**23
"""Of all sections, as a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredMetric:
    """A number that gates may ask for though no count holds it."""

    title: str
    """As people say it, after "The"; with its unit."""
    section: str
    """Where it stands, and the field of the spec that asks for it, if ``where`` names no other."""
    where: str = ""
    """The field of the spec, where it is not called like the section."""
    is_lower_better: bool = True
    is_exact: bool = True
    """Whether chance has no part in it: no bounds, and no correction among gates."""
    limits: Callable[[Any, Any], Callable[[float], tuple[float, float]]] | None = None
    """From the spec's field and what was found to one-sided limits as a function of alpha; None where it is exact."""
    problem: Callable[[Any], str | None] = lambda asked: None
    """What the section's field of the spec lacks for it; None if nothing."""


def _lacks_intensity(asked: Any) -> str | None:
    if asked.has_intensity:
        return None
    return "CO2e needs a stated intensity: give energy.country or energy.intensity_g_per_kwh"


METRICS: dict[str, MeasuredMetric] = {
    "epsilon": MeasuredMetric(title="privacy loss ε", section="privacy"),
    "energy_kwh": MeasuredMetric(title="energy used, in kWh", section="energy"),
    "drift_psi_max": MeasuredMetric(
        title="largest population stability index of any column",
        section="drift",
        is_exact=False,
        where="probes.drift",
        limits=largest_limits,
    ),
    "completeness_error": MeasuredMetric(
        title="largest completeness error of the attributions, in logits",
        section="attributions",
        where="probes.attributions",
    ),
    "attribution_share": MeasuredMetric(
        title="share of all attribution that falls on sensitive or named columns",
        section="attributions",
        is_exact=False,
        where="probes.attributions",
        limits=share_limits,
    ),
    "co2e_kg": MeasuredMetric(title="emissions, in kg of CO2e", section="energy", problem=_lacks_intensity),
}

Section = Callable[[Any, Any, float], dict[str, Any]]


def _at_any(make: Callable[[Any, Any], dict[str, Any]]) -> Section:
    """A section whose metrics have no bounds."""
    return lambda asked, found, alpha: make(asked, found)


SECTIONS: dict[str, Section] = {
    "attributions": attributions_section,
    "drift": drift_section,
    "energy": _at_any(energy_section),
    "privacy": _at_any(privacy_section),
    "explanations": explanations_section,
    "temperature": _at_any(temperature_section),
}
"""From the spec's field, what was found and alpha to the section. They raise ``ValueError`` for what cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """What the spec asks for beside the counts, and what was found."""

    asked: Mapping[str, Document] = field(default_factory=dict)
    """The spec's fields by section."""
    found: Mapping[str, Any] = field(default_factory=dict)
    why_not: str = "the workers gave nothing"
    """Why a section is not among ``found``."""
    alpha: float = 0.05
    """Of the one-sided bounds of ``sections``; the report puts that of ``evaluation.confidence`` here."""

    def limits(self, metric: str) -> Callable[[float], tuple[float, float]]:
        """One-sided limits of a metric that has a value and is not exact, as a function of alpha."""
        known = METRICS[metric]
        assert known.limits is not None, "what is not exact has limits"
        return known.limits(self.asked[known.section], self.found[known.section])

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """Every section asked for; one without figures says why in ``why_not_measured``."""
        return {name: self._section(name, asked) for name, asked in self.asked.items()}

    def _section(self, name: str, asked: Document) -> dict[str, Any]:
        if name not in self.found:
            return {"why_not_measured": self.why_not, "metrics": {}}
        try:
            return SECTIONS[name](asked, self.found[name], self.alpha)
        except ValueError as error:  # pydantic's among them
            why = f"what the workers gave cannot be read: {str(error).splitlines()[0]}"
            return {"why_not_measured": why, "metrics": {}}


NOTHING = Measurements()
"""Nothing was asked for."""


def problem_with_measured_gate(gate: GateSpec, asked: Mapping[str, Document] | None) -> str | None:
    """Why a gate on one of ``METRICS`` can never be decided, with what to do about it; None if it can."""
    metric = METRICS[gate.metric]
    if asked is None:
        return f"{gate.metric!r} is measured while a model is trained, and predictions made elsewhere do not tell it"
    if gate.by:
        return f"{gate.metric!r} is one number for the whole training: drop by"
    if metric.section not in asked:
        return f"{gate.metric!r} is only measured where the spec asks for it: add {metric.where or metric.section}"
    if gate.requirement.is_upper is not metric.is_lower_better:
        better = "smaller" if metric.is_lower_better else "larger"
        return f"of {gate.metric!r} {better} is better: {gate.require!r} asks for the contrary"
    return metric.problem(asked[metric.section])


def section_bytes(name: str, value: Any) -> bytes:
    """``value`` as JSON. Raises ``ValueError`` for what JSON cannot say, NaN included, and for what is too large."""
    if name not in SECTIONS:
        raise ValueError(f"the report has no section {name!r}, only {', '.join(SECTIONS)}")
    try:
        content = json.dumps(value, allow_nan=False, sort_keys=True).encode()
    except TypeError as error:
        raise ValueError(f"{name} cannot be written as JSON: {error}") from error
    if len(content) > MAX_SECTION_BYTES:
        raise ValueError(f"{name} has {len(content)} bytes, more than {MAX_SECTION_BYTES}")
    return content


def measurements_bytes(sections: Mapping[str, Any]) -> bytes:
    """The file of all sections. Raises ``ValueError`` as ``section_bytes`` does."""
    for name, value in sections.items():
        section_bytes(name, value)
    document = {"format": FORMAT, "sections": dict(sections)}
    return f"{json.dumps(document, allow_nan=False, sort_keys=True, indent=1)}\n".encode()


def read_measurements(content: bytes) -> dict[str, Any]:
    """The sections of ``measurements_bytes``. Raises ``ValueError`` for what is no such file."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"measurements have {len(content)} bytes, more than {MAX_BYTES}")
    document = json.loads(content)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"this is no {FORMAT}")
    sections = document.get("sections")
    if not isinstance(sections, dict):
        raise ValueError("measurements have no sections")
    return sections

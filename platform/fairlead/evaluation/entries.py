"""Values and gaps as the report writes them: each with what it is made of, its bounds, method and support."""

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite
from typing import Any

from fairlead.evaluation.disparities import Disparity, Extreme
from fairlead.evaluation.estimates import Estimates, ExactAreas, FScores, Means, Quotients, RankAreas, Rates
from fairlead.evaluation.intervals import Bounds
from fairlead.evaluation.metrics import PUBLISHED
from fairlead.spec import EvaluationSpec

_LARGEST_EXACT = 2**53


def values_of(estimates: Estimates, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """The value of every group, with what it is made of."""
    alpha = 1 - evaluation.confidence
    one_sided, two_sided = (estimates.limits(tail) if estimates.method else None for tail in (alpha, alpha / 2))
    values, supports = estimates.values, estimates.support
    entries = []
    for index, support in enumerate(supports):
        reason = estimates.reason(index)
        bounds = None
        if reason is None and one_sided is not None and two_sided is not None:
            bounds = Bounds(
                lower=float(one_sided.lower[index]),
                upper=float(one_sided.upper[index]),
                interval=(float(two_sided.lower[index]), float(two_sided.upper[index])),
            )
        numerator, denominator = _made_of(estimates, index)
        entries.append(
            {
                "value": None if reason else float(values[index]),
                "num": numerator,
                "den": denominator,
                "method": estimates.method,
                "support": "none" if support == 0 else "ok" if support >= evaluation.min_support else "low",
                **bounds_of(bounds),
                **({"reason": reason} if reason else {}),
                **_remarks(estimates, index, is_defined=reason is None),
            }
        )
    return entries


def _remarks(estimates: Estimates, group: int, *, is_defined: bool) -> dict[str, Any]:
    if isinstance(estimates, RankAreas) and is_defined:
        return {"bin_error": float(estimates.bin_errors[group])}
    if isinstance(estimates, ExactAreas) and is_defined:
        return {"bin_error": 0.0}
    if isinstance(estimates, Means) and estimates.skips_undefined:
        return {"n_classes_undefined": estimates.num_undefined_parts(group)}
    return {}


def _made_of(estimates: Estimates, group: int) -> tuple[int | None, int | None]:
    if isinstance(estimates, Rates | Quotients):
        return int(estimates.numerators[group]), int(estimates.denominators[group])
    if isinstance(estimates, FScores):
        hits, errors = int(estimates.hits[group]), int(estimates.errors[group])
        return 2 * hits, 2 * hits + errors
    return _exact(estimates.exact(group))


def _exact(fraction: Fraction | None) -> tuple[int | None, int | None]:
    """Numerator and denominator where readers of JSON can hold them exactly."""
    if fraction is None or fraction.denominator > _LARGEST_EXACT:
        return None, None
    return fraction.numerator, fraction.denominator


def bounds_of(bounds: Bounds | None) -> dict[str, Any]:
    """Bounds as the report writes them, null where there are none, or where they know nothing: JSON has no infinity."""
    if bounds is None:
        return {"lower95": None, "upper95": None, "interval": None}
    is_whole = all(map(isfinite, bounds.interval))
    lower, upper = (side if isfinite(side) else None for side in (bounds.lower, bounds.upper))
    return {"lower95": lower, "upper95": upper, "interval": list(bounds.interval) if is_whole else None}


def disparity_of(found: Disparity, keys: Sequence[dict[str, str]]) -> dict[str, Any]:
    """One gap; ``keys`` are the groups'."""
    entry = {
        "metric": found.metric,
        "by": list(found.by),
        "aggregate": found.aggregate,
        "n_undefined": len(found.undefined),
        "n_low_support": len(found.low_support),
        "undefined": [keys[index] for index in found.undefined],
        "low_support": [keys[index] for index in found.low_support],
        "complete": found.of_all.is_complete,
        "supported": None if found.of_supported == found.of_all else _extreme(found.of_supported, keys),
        **_extreme(found.of_all, keys),
    }
    if found.metric in PUBLISHED:
        entry["same_as"] = PUBLISHED[found.metric]
    return entry


def _extreme(extreme: Extreme, keys: Sequence[dict[str, str]]) -> dict[str, Any]:
    numerator, denominator = _exact(extreme.exact)
    entry = {
        "value": extreme.value,
        "num": numerator,
        "den": denominator,
        "max": None if extreme.highest is None else keys[extreme.highest],
        "min": None if extreme.lowest is None else keys[extreme.lowest],
        "method": extreme.method,
        "n_groups": extreme.num_groups,
        **bounds_of(extreme.bounds if extreme.value is not None else None),
    }
    if extreme.reason:
        entry["reason"] = extreme.reason
    if extreme.class_name is not None:
        entry["class"] = extreme.class_name
    return entry

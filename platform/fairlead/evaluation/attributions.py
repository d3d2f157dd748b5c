"""What each answer is made of: the report's ``attributions``, from sums over the rows that ranks explained.

*Integrated gradients*: the *attribution* of an input is its distance from a baseline times the mean gradient of the
model's answer on the straight way between the two. Sundararajan, Taly, Yan 2017 (arXiv 1703.01365), by captum. That of
a feature is the sum over its inputs: the levels of a column of texts, the pixels and channels of a part of a picture.
*Completeness*: the attributions of a row add up to the difference between its answer and that of the baseline. What
they miss it by is the error of an integral over so many steps, and of arithmetic.

Means over rows have Student's intervals. The *share* of some columns in all absolute attribution is a ratio of means,
with the limits of Cochran 1977, Sampling techniques, chapter 6 (delta method), and Student's quantiles.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from fairlead.evaluation.estimates import SampleMeans
from fairlead.evaluation.explanations import ExplainedGroup
from fairlead.spec import AttributionsSpec, Document

METRICS = ("completeness_error", "attribution_share")
_NOBODY = "no sensitive attribute is an input: name columns under probes.attributions.share_of"
_FloatArray = NDArray[np.float64]


class AttributedFeature(Document):
    """Sums of one feature, in the order of the groups."""

    name: str
    sums: tuple[tuple[float, float, float], ...]
    """Of absolute attributions, of attributions, and of their squares."""


class ShareSums(Document):
    """Sums over rows of ``part``, the absolute attribution of the columns asked for, and ``whole``, that of all."""

    columns: tuple[str, ...]
    part: float = Field(ge=0)
    whole: float = Field(ge=0)
    part_squares: float = Field(ge=0)
    products: float = Field(ge=0)
    whole_squares: float = Field(ge=0)


class AttributionSums(Document):
    """Everything that is added up for attributions. The first group is all rows that were explained."""

    n: int = Field(ge=0)
    n_split: int = Field(ge=0)
    """Rows of the split they were drawn from."""
    n_not_finite: int = Field(ge=0)
    """Of ``n``: rows with an answer or an attribution that is no finite number. They are in no sum."""
    kind: Literal["column", "part"]
    """What features are: columns of a table, or parts of a picture."""
    rows: tuple[int, ...]
    """Rows in the sums, a group."""
    groups: tuple[ExplainedGroup, ...]
    features: tuple[AttributedFeature, ...]
    left_out: dict[str, int] = Field(default_factory=dict)
    """As in ``ExplanationCounts``."""
    error_sum: float = Field(ge=0)
    """Of absolute completeness errors."""
    error_largest: float = Field(ge=0)
    change_sum: float = Field(ge=0)
    """Of absolute differences between the answer for a row and that for the baseline."""
    share: ShareSums
    library: str


_SUMS: TypeAdapter[AttributionSums] = TypeAdapter(AttributionSums)


def attributions_section(asked: AttributionsSpec, found: Any, alpha: float = 0.05) -> dict[str, Any]:
    """The report's ``attributions`` from ``AttributionSums``, with one-sided bounds at ``alpha``.

    Raises ``ValueError`` for what is none.
    """
    sums = _read(found)
    if reason := _why_not(sums):
        return {
            "why_not_measured": reason,
            "metrics": {name: _metric(None, None, None, reason) for name in METRICS},
        }
    entries = [_feature(feature, sums, alpha) for feature in sums.features]
    return {
        "why_not_measured": None,
        "metrics": {
            "completeness_error": _metric(sums.error_largest, None, None, None),
            "attribution_share": _share_metric(sums, alpha),
        },
        "method": asked.method,
        "steps": asked.steps,
        "baseline": asked.baseline,
        "target": asked.target,
        "library": sums.library,
        "kind": sums.kind,
        "n": sums.n,
        "n_split": sums.n_split,
        "completeness": {
            "largest_error": sums.error_largest,
            "mean_error": sums.error_sum / sums.n,
            "mean_change": sums.change_sum / sums.n,
        },
        "share_of": list(sums.share.columns),
        "left_out": sums.left_out,
        "features": sorted(entries, key=lambda one: -one["groups"][0]["mean_absolute"]),
    }


def share_limits(asked: AttributionsSpec, found: Any) -> Callable[[float], tuple[float, float]]:
    """One-sided limits of ``attribution_share`` as a function of alpha. Raises ``ValueError`` for what is no sums."""
    sums = _read(found)
    return lambda alpha: _share_limits(sums.share, sums.n, alpha)


def _read(found: Any) -> AttributionSums:
    sums = _SUMS.validate_python(found)
    if not len(sums.groups) == len(sums.rows) > 0 or sums.rows[0] != sums.n - sums.n_not_finite:
        raise ValueError("the rows of the groups are not those that were explained")
    if uneven := [one.name for one in sums.features if len(one.sums) != len(sums.groups)]:
        raise ValueError(f"{uneven[0]} has not one sum a group")
    return sums


def _why_not(sums: AttributionSums) -> str | None:
    if not sums.n or not sums.features:
        return "there is nothing to explain"
    if sums.n_not_finite:
        return f"{sums.n_not_finite} of {sums.n} rows have attributions or answers that are no finite numbers"
    return None


def _metric(value: float | None, lower: float | None, upper: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "lower95": lower, "upper95": upper, "reason": reason}


def _share_metric(sums: AttributionSums, alpha: float) -> dict[str, Any]:
    if not sums.share.columns:
        return _metric(None, None, None, _NOBODY)
    if not sums.share.whole:
        return _metric(None, None, None, "no input moves the answer of any row")
    return _metric(sums.share.part / sums.share.whole, *_share_limits(sums.share, sums.n, alpha), None)


def _share_limits(share: ShareSums, n: int, tail: float) -> tuple[float, float]:
    """Limits of the ratio, each missed with probability ``tail``; of fewer than two rows nothing is known."""
    if n < 2 or not share.whole:
        return 0.0, 1.0
    ratio = share.part / share.whole
    # What a row is away from the ratio: part - ratio * whole. It is 0 on average.
    squares = share.part_squares - 2 * ratio * share.products + ratio**2 * share.whole_squares
    away = SampleMeans(rows=np.array([n]), means=np.zeros(1), variances=np.array([max(0.0, squares) / (n - 1)])).limits(
        tail
    )
    lower, upper = (ratio + float(side[0]) * n / share.whole for side in away)
    return max(0.0, lower), min(1.0, upper)


def _feature(feature: AttributedFeature, sums: AttributionSums, alpha: float) -> dict[str, Any]:
    rows, table = np.array(sums.rows, dtype=np.int64), np.array(feature.sums, dtype=np.float64)
    absolute = _means(rows, table[:, 0], table[:, 2], domain=(0.0, np.inf))
    signed = _means(rows, table[:, 1], table[:, 2])
    one_sided, two_sided, of_signed = absolute.limits(alpha), absolute.limits(alpha / 2), signed.limits(alpha / 2)
    return {
        "name": feature.name,
        "groups": [
            {
                "by": list(group.by),
                "key": group.key,
                "n": int(rows[at]),
                "mean_absolute": float(absolute.means[at]) if rows[at] else None,
                "lower95": float(one_sided.lower[at]) if rows[at] > 1 else None,
                "upper95": float(one_sided.upper[at]) if rows[at] > 1 else None,
                "interval": _interval(two_sided, at) if rows[at] > 1 else None,
                "mean": float(signed.means[at]) if rows[at] else None,
                "mean_interval": _interval(of_signed, at) if rows[at] > 1 else None,
            }
            for at, group in enumerate(sums.groups)
        ],
    }


def _means(
    rows: NDArray[np.int64],
    totals: _FloatArray,
    squares: _FloatArray,
    *,
    domain: tuple[float, float] = (-np.inf, np.inf),
) -> SampleMeans:
    n = np.maximum(rows, 1).astype(np.float64)
    means = totals / n
    variances = np.maximum(squares - n * means**2, 0.0) / np.maximum(n - 1, 1)
    return SampleMeans(rows=rows, means=means, variances=variances, domain=domain)


def _interval(limits: Sequence[_FloatArray], at: int) -> list[float]:
    return [float(side[at]) for side in limits]

"""Gaps within strata: whether two groups differ among those who are alike in something else, such as a department.

A gap over all rows may come about because groups are spread differently over strata, and may even have the opposite
sign within every one of them (Simpson's paradox). So the rates of a group and of a reference are compared stratum by
stratum, and combined by Mantel and Haenszel's weights into one difference and one odds ratio.

Sources: Mantel and Haenszel 1959 (common odds ratio, and with Cochran 1954 the test, here without the correction for
continuity); Robins, Breslow and Greenland 1986 (variance of its logarithm); Sato 1989 (variance of the difference).
Both variances hold for few large strata and for many small ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.intervals import FloatArray, normal_quantile
from fairlead.evaluation.metrics import RATES, one_against_rest
from fairlead.evaluation.state import CountState

CONDITIONAL = {
    "demographic_parity_difference": "selection_rate",
    "equal_opportunity_difference": "true_positive_rate",
}
"""What is compared within strata, and the rate it is made of."""


class Pooled(NamedTuple):
    """A value of all strata together, and its two-sided interval; all None where there is none."""

    value: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Strata:
    """Counts of two groups by stratum, each of shape (strata,): ``x`` of ``n`` rows, and those of the reference."""

    x: FloatArray
    n: FloatArray
    reference_x: FloatArray
    reference_n: FloatArray

    @property
    def is_informative(self) -> NDArray[np.bool_]:
        """Strata in which both groups have rows: the others say nothing of a difference."""
        return np.asarray((self.n > 0) & (self.reference_n > 0), dtype=np.bool_)

    def informative(self) -> "Strata":
        """Those strata alone."""
        kept = self.is_informative
        return Strata(
            x=self.x[kept], n=self.n[kept], reference_x=self.reference_x[kept], reference_n=self.reference_n[kept]
        )


def risk_difference(strata: Strata, *, confidence: float = 0.95) -> Pooled:
    """Mantel and Haenszel's weighted mean of x/n - reference_x/reference_n, with Sato's variance."""
    x, n, y, m = _parts(strata)
    total = n + m
    weight = float((n * m / total).sum())
    if not weight:
        return Pooled(None, None)
    value = float((x * m / total - y * n / total).sum()) / weight
    first = (n / total) ** 2 * y - (m / total) ** 2 * x + (n / total) * (m / total) * (m - n) / 2
    second = (x * (m - y) + y * (n - x)) / (2 * total)
    variance = max(value * float(first.sum()) + float(second.sum()), 0.0) / weight**2
    half = normal_quantile((1 - confidence) / 2) * math.sqrt(variance)
    return Pooled(value, (max(value - half, -1.0), min(value + half, 1.0)))


def odds_ratio(strata: Strata, *, confidence: float = 0.95) -> Pooled:
    """Mantel and Haenszel's common odds ratio, with the interval of Robins, Breslow and Greenland.

    No value where no pair of rows speaks against it, that is, where it would be infinite or 0/0; no interval at 0.
    """
    x, n, y, m = _parts(strata)
    total = n + m
    for_it, against = x * (m - y) / total, (n - x) * y / total
    more, less = float(for_it.sum()), float(against.sum())
    if not less:
        return Pooled(None, None)
    if not more:
        return Pooled(0.0, None)
    alike, unlike = (x + m - y) / total, (n - x + y) / total
    variance = float((alike * for_it).sum()) / (2 * more**2)
    variance += float((alike * against + unlike * for_it).sum()) / (2 * more * less)
    variance += float((unlike * against).sum()) / (2 * less**2)
    half = normal_quantile((1 - confidence) / 2) * math.sqrt(variance)
    centre = math.log(more / less)
    return Pooled(more / less, (math.exp(centre - half), math.exp(centre + half)))


def association_test(strata: Strata) -> tuple[float, float] | None:
    """Cochran, Mantel and Haenszel's statistic and its p-value: no difference within any stratum.

    Chi-squared with one degree of freedom, without correction for continuity. None where nothing varies.
    """
    from scipy import special  # large; see intervals.normal_quantile

    x, n, y, m = _parts(strata)
    total, chosen = n + m, x + y
    variance = float((n * m * chosen * (total - chosen) / (total**2 * np.maximum(total - 1, 1))).sum())
    if not variance:
        return None
    statistic = float((x - n * chosen / total).sum()) ** 2 / variance
    return statistic, float(special.chdtrc(1, statistic))


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditional:
    """One group against the reference, over all rows and within strata."""

    metric: str
    group: int
    """Position in the grouping; so is ``reference``."""
    reference: int
    strata: Strata
    keys: tuple[dict[str, str], ...]
    """Each stratum's levels of the control attributes."""
    crude: float | None
    """The difference over all rows of these strata; None where one group has no rows that count."""

    @property
    def is_reversed(self) -> bool:
        """Whether the pooled difference has the opposite sign of the one over all rows."""
        pooled = risk_difference(self.strata).value
        return self.crude is not None and pooled is not None and self.crude * pooled < 0


def conditional_gaps(
    state: CountState, by: Sequence[str], control: Sequence[str]
) -> tuple[Grouping, list[Conditional]]:
    """Every group of ``by`` against its largest, within strata of ``control``; binary tasks only.

    Strata and groups with an unknown level take no part. Raises ``ValueError`` for a name in both, and other tasks.
    """
    if set(by) & set(control) or len(state.classes) != 2:
        raise ValueError("gaps within strata need a binary task, and other attributes than those compared")
    groups, cells = grouping(state, by), grouping(state, (*by, *control))
    known = np.flatnonzero(~groups.is_unknown & (groups.sizes > 0))
    if len(known) < 2:
        return groups, []
    reference = int(known[np.argmax(groups.sizes[known])])
    others = [int(group) for group in known if group != reference]
    place = {key: index for index, key in enumerate(cells.keys)}
    whole = [key for key, is_unknown in zip(cells.keys, cells.is_unknown, strict=True) if not is_unknown]
    strata = list(dict.fromkeys(key[len(by) :] for key in whole))
    found = []
    for metric, rate in CONDITIONAL.items():
        confusion = one_against_rest(cells.counts.table, 1)
        top, bottom = RATES[rate].numerator(confusion), RATES[rate].denominator(confusion)
        for group in others:
            ours, theirs = ([place[(*groups.keys[one], *stratum)] for stratum in strata] for one in (group, reference))
            counts = Strata(
                x=top[ours].astype(np.float64),
                n=bottom[ours].astype(np.float64),
                reference_x=top[theirs].astype(np.float64),
                reference_n=bottom[theirs].astype(np.float64),
            )
            named = tuple(dict(zip(control, stratum, strict=True)) for stratum in strata)
            found.append(
                Conditional(
                    metric=metric,
                    group=group,
                    reference=reference,
                    strata=counts,
                    keys=named,
                    crude=_crude(counts),
                )
            )
    return groups, found


def _crude(strata: Strata) -> float | None:
    n, m = float(strata.n.sum()), float(strata.reference_n.sum())
    return float(strata.x.sum()) / n - float(strata.reference_x.sum()) / m if n and m else None


def _parts(strata: Strata) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    kept = strata.informative()
    return kept.x, kept.n, kept.reference_x, kept.reference_n

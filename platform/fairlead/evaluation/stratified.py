"""Gaps within strata: whether two groups differ among those who are alike in something else, such as a department.

A gap over all rows may come about because groups are spread differently over strata, and may even have the opposite
sign within every one of them (Simpson's paradox). So the rates of a group and of a reference are compared stratum by
stratum, and combined by Mantel and Haenszel's weights into one difference and one odds ratio.

Sources: Mantel and Haenszel 1959 (common odds ratio, and with Cochran 1954 the test, here without the correction for
continuity); Robins, Breslow and Greenland 1986 (variance of its logarithm); Sato 1989 (variance of the difference).
Both variances hold for few large strata and for many small ones.

A gate needs bounds that hold at small counts too, where a variance of 0 would be false certainty: they invert the
stratified score statistic of Miettinen and Nurminen 1985 with Mantel and Haenszel's weights. At a difference of 0 it is
the root of Cochran, Mantel and Haenszel's; of one stratum, the limits are theirs for two rates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.alternatives import crossing, restricted_rate
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.intervals import Bounds, FloatArray, Limits, normal_quantile
from fairlead.evaluation.metrics import RATES, one_against_rest
from fairlead.evaluation.state import CountState

CONDITIONAL = {
    "demographic_parity_difference": "selection_rate",
    "equal_opportunity_difference": "true_positive_rate",
}
"""What is compared within strata, and the rate it is made of."""
MOST_COMPARED = 20_000
"""Pairs of groups times strata that one gate looks at: so many take some seconds."""


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
    parted = _Parted.of(state, by, control)
    groups, known = parted.groups, parted.known
    if len(known) < 2:
        return groups, []
    reference = max(known, key=lambda group: groups.sizes[group])
    named = tuple(dict(zip(control, stratum, strict=True)) for stratum in parted.strata)
    found = []
    for metric, rate in CONDITIONAL.items():
        top, bottom = parted.counts_of(rate)
        for group in known:
            if group == reference:
                continue
            counts = Strata(x=top[group], n=bottom[group], reference_x=top[reference], reference_n=bottom[reference])
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parted:
    """Groups, and the cells of each within strata of other attributes."""

    groups: Grouping
    known: tuple[int, ...]
    """Groups without an unknown level that have rows."""
    cells: Grouping
    strata: tuple[tuple[str, ...], ...]
    """Levels of the other attributes, none of them unknown."""

    @classmethod
    def of(cls, state: CountState, by: Sequence[str], within: Sequence[str]) -> "_Parted":
        """Raises ``ValueError`` for an unknown attribute."""
        groups, cells = grouping(state, by), grouping(state, (*by, *within))
        known = np.flatnonzero(~groups.is_unknown & (groups.sizes > 0)).tolist()
        whole = [key for key, is_unknown in zip(cells.keys, cells.is_unknown, strict=True) if not is_unknown]
        strata = tuple(dict.fromkeys(key[len(by) :] for key in whole))
        return cls(groups=groups, known=tuple(known), cells=cells, strata=strata)

    def counts_of(self, rate: str) -> tuple[dict[int, FloatArray], dict[int, FloatArray]]:
        """Numerators and denominators of ``rate`` of each known group, shape (strata,) each."""
        confusion = one_against_rest(self.cells.counts.table, 1)
        place = {key: index for index, key in enumerate(self.cells.keys)}
        at = {one: [place[(*self.groups.keys[one], *each)] for each in self.strata] for one in self.known}
        top, bottom = (
            {one: part(confusion).astype(np.float64)[cells] for one, cells in at.items()}
            for part in (RATES[rate].numerator, RATES[rate].denominator)
        )
        return top, bottom


def _crude(strata: Strata) -> float | None:
    n, m = float(strata.n.sum()), float(strata.reference_n.sum())
    return float(strata.x.sum()) / n - float(strata.reference_x.sum()) / m if n and m else None


def _parts(strata: Strata) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    kept = strata.informative()
    return kept.x, kept.n, kept.reference_x, kept.reference_n


# ---- what gates ask -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class StratifiedGaps:
    """Every two groups within strata: the weighted difference of their rates, first less second.

    ``x`` of ``n`` rows of the first and ``y`` of ``m`` of the second group, shape (pairs, strata) each; strata in which
    one of them has no rows say nothing.
    """

    pairs: tuple[tuple[int, int], ...]
    """Positions in the grouping."""
    x: FloatArray
    n: FloatArray
    y: FloatArray
    m: FloatArray

    @property
    def values(self) -> FloatArray:
        """Shape (pairs,), NaN where no stratum has rows of both."""
        weights = self._weights
        total = weights.sum(axis=1)
        gaps = (weights * (self.x / np.maximum(self.n, 1) - self.y / np.maximum(self.m, 1))).sum(axis=1)
        return np.where(total > 0, gaps / np.where(total > 0, total, 1.0), np.nan)

    @property
    def support(self) -> FloatArray:
        """Rows of the smaller group in strata that tell something, shape (pairs,)."""
        both = self.is_informative
        ours, theirs = (np.where(both, part, 0.0).sum(axis=1) for part in (self.n, self.m))
        return np.asarray(np.minimum(ours, theirs), dtype=np.float64)

    @property
    def is_informative(self) -> NDArray[np.bool_]:
        """Strata with rows of both groups, shape (pairs, strata)."""
        return np.asarray((self.n > 0) & (self.m > 0), dtype=np.bool_)

    def exact(self, pair: int) -> Fraction:
        """The difference without rounding; only where there is one."""
        gap, total = Fraction(0), Fraction(0)
        for x, n, y, m in zip(*(map(int, part[pair]) for part in (self.x, self.n, self.y, self.m)), strict=True):
            if n and m:
                gap += Fraction(x * m - y * n, n + m)
                total += Fraction(n * m, n + m)
        return gap / total

    def limits(self, tail: float) -> Limits:
        """Where the score statistic leaves the normal quantiles of ``tail``, shape (pairs,) each."""
        z, values = normal_quantile(tail), np.nan_to_num(self.values)
        lower = crossing(lambda gap: self.score(gap) > z, np.full_like(values, -1.0), values)
        upper = crossing(lambda gap: self.score(gap) > -z, values, np.full_like(values, 1.0))
        return Limits(lower, upper)

    def score(self, gap: FloatArray) -> FloatArray:
        """The statistic of "the difference is ``gap`` in every stratum", shape (pairs,); decreasing in ``gap``."""
        both, weights, delta = self.is_informative, self._weights, gap[:, None]
        x, n, y, m = (np.where(both, part, least) for part, least in self._parts)
        second = restricted_rate(delta, np.stack([x, n, y, m]))
        first = np.clip(second + delta, 0.0, 1.0)
        variance = (first * (1 - first) / n + second * (1 - second) / m) * (n + m) / (n + m - 1)
        distance = (weights * (x / n - y / m - delta)).sum(axis=1)
        error = np.sqrt(np.maximum((weights**2 * variance).sum(axis=1), 1e-30))
        return np.where(np.abs(distance) < 1e-15, 0.0, distance / error)

    def take(self, pairs: Sequence[int]) -> "StratifiedGaps":
        """Some of the pairs."""
        chosen = list(pairs)
        return StratifiedGaps(
            pairs=tuple(self.pairs[pair] for pair in chosen),
            x=self.x[chosen],
            n=self.n[chosen],
            y=self.y[chosen],
            m=self.m[chosen],
        )

    def bounds(self, alpha: float) -> Bounds:
        """Of the largest difference: that of the truly largest pair needs no correction, a lower bound Bonferroni's."""
        ordered = 2 * len(self.pairs)

        def upper(tail: float) -> float:
            limits = self.limits(tail)
            return float(np.maximum(limits.upper, -limits.lower).max())

        def lower(tail: float) -> float:
            limits = self.limits(tail / ordered)
            return max(0.0, float(np.maximum(limits.lower, -limits.upper).max()))

        return Bounds(lower=lower(alpha), upper=upper(alpha), interval=(lower(alpha / 2), upper(alpha / 2)))

    @property
    def _weights(self) -> FloatArray:
        both = self.is_informative
        return np.where(both, self.n * self.m / np.maximum(self.n + self.m, 1), 0.0)

    @property
    def _parts(self) -> tuple[tuple[FloatArray, float], ...]:
        return (self.x, 0.0), (self.n, 1.0), (self.y, 0.0), (self.m, 1.0)


def rate_within(metric: str) -> str | None:
    """The rate whose gaps ``metric`` compares within strata; None where it compares none."""
    of_rate = {f"{rate}_difference": rate for rate in CONDITIONAL.values()}
    return CONDITIONAL.get(metric) or of_rate.get(metric)


def stratified_gaps(state: CountState, by: Sequence[str], within: Sequence[str], rate: str) -> StratifiedGaps:
    """Every two known groups of ``by`` that have rows, within strata of ``within``; see ``conditional_gaps``.

    Raises ``ValueError`` for more than ``MOST_COMPARED`` comparisons.
    """
    parted = _Parted.of(state, by, within)
    num_pairs, num_strata = math.comb(len(parted.known), 2), len(parted.strata)
    if num_pairs * num_strata > MOST_COMPARED:
        made = f"{num_pairs:,} pairs of groups in {num_strata:,} strata make {num_pairs * num_strata:,} comparisons"
        raise ValueError(f"{made}, and {MOST_COMPARED:,} can be made: compare fewer groups, or within fewer strata")
    pairs, (top, bottom) = tuple(combinations(parted.known, 2)), parted.counts_of(rate)
    x, n, y, m = (
        np.array([part[pair[side]] for pair in pairs]).reshape(num_pairs, num_strata)
        for side in (0, 1)
        for part in (top, bottom)
    )
    return StratifiedGaps(pairs=pairs, x=x, n=n, y=y, m=m)

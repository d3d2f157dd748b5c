"""A statistic of several groups: its values, their exact fractions, their limits, and the rows behind them.

*Support* is the number of rows in a statistic's denominator, the smallest one where it has several. A value that
has no meaning is NaN in ``values``, None in ``exact``, and has a reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.intervals import FloatArray, Limits, Spread, normal_quantile, wilson_limits
from fairlead.evaluation.replicates import Resampled

IntArray = NDArray[np.int64]
Groups = IntArray | Sequence[int]

BELOW_RESOLUTION = "below_resolution"
"""Reason for a mean that rounding has lost."""
_MOST_FREEDOM = 1e8
_ROUNDING = 1e-14


class Estimates(Protocol):
    """One statistic for each of several groups."""

    @property
    def method(self) -> str | None:
        """How the limits are made; None: there are none."""
        ...

    @property
    def values(self) -> FloatArray:
        """Shape (groups,), NaN where undefined."""
        ...

    @property
    def support(self) -> IntArray:
        """Rows behind each value, shape (groups,)."""
        ...

    def exact(self, group: int) -> Fraction | None:
        """The value without rounding; None where undefined or irrational."""
        ...

    def reason(self, group: int) -> str | None:
        """Why the value is undefined; None where it is defined."""
        ...

    def limits(self, tail: float) -> Limits:
        """Limits of all groups, shape (groups,) each. Only where ``method`` is given and values are defined."""
        ...

    def take(self, groups: Groups) -> Self:
        """The same statistic of some of the groups."""
        ...


def is_defined(estimates: Estimates) -> NDArray[np.bool_]:
    """Which groups have a value."""
    return ~np.isnan(estimates.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Counts over counts: binomial proportions with Wilson limits."""

    numerators: FloatArray
    denominators: FloatArray
    undefined: str
    """Reason for a denominator of 0 in a group that has rows."""
    is_empty: NDArray[np.bool_]
    """Groups without any row."""

    @property
    def method(self) -> str | None:
        return "wilson"

    @property
    def values(self) -> FloatArray:
        return _quotient(self.numerators, self.denominators)

    @property
    def support(self) -> IntArray:
        return self.denominators.astype(np.int64)

    def exact(self, group: int) -> Fraction | None:
        return _fraction(self.numerators[group], self.denominators[group])

    def reason(self, group: int) -> str | None:
        if self.denominators[group] > 0:
            return None
        return "empty" if self.is_empty[group] else self.undefined

    def limits(self, tail: float) -> Limits:
        return wilson_limits(self.numerators, self.denominators, tail=tail)

    def take(self, groups: Groups) -> "Rates":
        return Rates(
            numerators=self.numerators[groups],
            denominators=self.denominators[groups],
            undefined=self.undefined,
            is_empty=self.is_empty[groups],
        )

    def scaled(self, rows: float) -> "Rates":
        """The same rates, each with a denominator of ``rows``; groups without a value keep 0."""
        has_value = self.denominators > 0
        return Rates(
            numerators=np.where(has_value, self.values, 0.0) * rows,
            denominators=np.where(has_value, rows, 0.0),
            undefined=self.undefined,
            is_empty=self.is_empty,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedRates:
    """Sums of weights over sums of weights, with as many rows as would tell as much if all weights were equal.

    ``weighted_numerators``, ``weighted_denominators``: whole numbers (weights in fixed point). ``rows``: effective
    numbers, (sum of weights)**2 / sum of squared weights (Kish 1965). ``replicates``: the value in each resampling,
    shape (groups, R), for rows that come in clusters; limits are then t's with their spread, else Wilson's.
    """

    weighted_numerators: IntArray
    weighted_denominators: IntArray
    rows: FloatArray
    undefined: str
    is_empty: NDArray[np.bool_]
    replicates: FloatArray | None = None

    @property
    def method(self) -> str | None:
        return "wilson-effective" if self.replicates is None else "replicates-t"

    @property
    def values(self) -> FloatArray:
        return _quotient(self.weighted_numerators.astype(np.float64), self.weighted_denominators.astype(np.float64))

    @property
    def numerators(self) -> FloatArray:
        """What ``rows`` equal rows would have counted."""
        return np.where(self.weighted_denominators > 0, np.clip(np.nan_to_num(self.values), 0.0, 1.0), 0.0) * self.rows

    @property
    def denominators(self) -> FloatArray:
        """Effective rows."""
        return self.rows

    @property
    def support(self) -> IntArray:
        return np.floor(self.rows + 1e-6).astype(np.int64)

    def exact(self, group: int) -> Fraction | None:
        denominator = int(self.weighted_denominators[group])
        return Fraction(int(self.weighted_numerators[group]), denominator) if denominator else None

    def reason(self, group: int) -> str | None:
        if self.weighted_denominators[group] > 0:
            return None
        return "empty" if self.is_empty[group] else self.undefined

    def limits(self, tail: float) -> Limits:
        if self.replicates is None:
            return wilson_limits(self.numerators, self.denominators, tail=tail)
        return spread_limits(self.values, self.replicates, tail=tail)

    def take(self, groups: Groups) -> "WeightedRates":
        return WeightedRates(
            weighted_numerators=self.weighted_numerators[groups],
            weighted_denominators=self.weighted_denominators[groups],
            rows=self.rows[groups],
            undefined=self.undefined,
            is_empty=self.is_empty[groups],
            replicates=None if self.replicates is None else self.replicates[groups],
        )


def spread_limits(values: FloatArray, replicates: FloatArray, *, tail: float) -> Limits:
    """Limits of rates from the spread of their replicates, shape (groups, R): t on the logit scale, within [0, 1].

    A replicate without a value is left out; a rate of 0 or 1 does not vary, and gets no more than the whole range.
    """
    from scipy import special  # large; see intervals.normal_quantile

    is_there = ~np.isnan(replicates)
    used = np.maximum(is_there.sum(axis=1), 2)
    filled = np.where(is_there, replicates, 0.0)
    mean = filled.sum(axis=1) / used
    variance = (np.where(is_there, replicates - mean[:, None], 0.0) ** 2).sum(axis=1) / (used - 1)
    inside = (values > 0) & (values < 1)
    centre = np.where(inside, values, 0.5)
    step = -special.stdtrit(used - 1, tail) * np.sqrt(variance) / (centre * (1 - centre))
    logit = np.log(centre / (1 - centre))
    lower, upper = special.expit(logit - step), special.expit(logit + step)
    return Limits(np.where(inside, lower, 0.0), np.where(inside, upper, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleMeans:
    """Means of numbers, from their number, sum and sum of squares, with Student's limits.

    ``rows``: shape (groups,); ``means`` and ``variances`` (of one number, divided by n - 1) are NaN where there are
    too few rows for them; with one row a mean has a value and the whole line as its interval. Where all numbers are
    at one end of a bounded domain, a limit is that of the share at the other end that may be unseen.
    """

    rows: IntArray
    means: FloatArray
    variances: FloatArray
    undefined: str = "empty"
    domain: tuple[float, float] = (-np.inf, np.inf)
    """Where means may lie; limits stay within."""

    @property
    def method(self) -> str | None:
        return "t"

    @property
    def values(self) -> FloatArray:
        return np.where(self.rows > 0, self.means, np.nan)

    @property
    def support(self) -> IntArray:
        return self.rows

    def exact(self, group: int) -> Fraction | None:
        return None

    def reason(self, group: int) -> str | None:
        return _why_no_mean(self.rows[group], self.means[group], self.undefined)

    def limits(self, tail: float) -> Limits:
        from scipy import special  # large; see intervals.normal_quantile

        rows = np.maximum(self.rows, 2).astype(np.float64)
        error = np.sqrt(np.maximum(np.nan_to_num(self.variances), 0.0) / rows)
        half = np.where(self.rows >= 2, -special.stdtrit(rows - 1, tail) * error, np.inf)
        lower, upper = (np.clip(self.values + side, *self.domain) for side in (-half, half))
        start, end = self.domain
        if not np.isfinite(self.domain).all():
            return Limits(lower, upper)
        # Where all are at one end Student knows nothing: others may be as many as chance could have hidden.
        is_alike, unseen = (self.rows >= 2) & (self.variances == 0), (1 - tail ** (1 / rows)) * (end - start)
        lower = np.where(is_alike & (self.means == end), end - unseen, lower)
        return Limits(lower, np.where(is_alike & (self.means == start), start + unseen, upper))

    def take(self, groups: Groups) -> "SampleMeans":
        return SampleMeans(
            rows=self.rows[groups],
            means=self.means[groups],
            variances=self.variances[groups],
            undefined=self.undefined,
            domain=self.domain,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanSquares:
    """Means of squares of numbers, or their roots, with the limits of a sum of squares.

    That sum is taken for a multiple of a chi-squared variable with the same mean and variance (Satterthwaite 1946),
    as it is when the numbers are normal around 0; Student's limits ignore that it leans to one side. ``rows``: shape
    (groups,); ``means`` and ``variances`` (of one square, divided by n - 1): as in ``SampleMeans``.
    """

    rows: IntArray
    means: FloatArray
    variances: FloatArray
    is_root: bool

    @property
    def method(self) -> str | None:
        return "satterthwaite"

    @property
    def values(self) -> FloatArray:
        return self._unit(np.where(self.rows > 0, self.means, np.nan))

    @property
    def support(self) -> IntArray:
        return self.rows

    def exact(self, group: int) -> Fraction | None:
        return None

    def reason(self, group: int) -> str | None:
        return _why_no_mean(self.rows[group], self.means[group], "empty")

    def limits(self, tail: float) -> Limits:
        from scipy import special  # large; see intervals.normal_quantile

        means, rows = np.nan_to_num(self.means), np.maximum(self.rows, 2).astype(np.float64)
        spread = np.nan_to_num(self.variances)
        is_spread, is_enough = spread > 0, self.rows >= 2
        freedom = np.where(is_spread, 2 * rows * means**2 / np.where(is_spread, spread, 1.0), 1.0)
        freedom = np.minimum(freedom, _MOST_FREEDOM)
        with np.errstate(divide="ignore"):  # of very little freedom: the upper limit is infinite
            beyond = [means * freedom / special.chdtri(freedom, side) for side in (tail, 1 - tail)]
        lower, upper = (np.where(is_spread, limit, means) for limit in beyond)
        return Limits(self._unit(np.where(is_enough, lower, 0.0)), self._unit(np.where(is_enough, upper, np.inf)))

    def take(self, groups: Groups) -> "MeanSquares":
        return MeanSquares(
            rows=self.rows[groups],
            means=self.means[groups],
            variances=self.variances[groups],
            is_root=self.is_root,
        )

    def _unit(self, squares: FloatArray) -> FloatArray:
        return np.sqrt(squares) if self.is_root else squares


@dataclass(frozen=True, kw_only=True, slots=True)
class Jackknifed:
    """Sums over sums of rows that depend on each other, such as those of one list, with the spread between buckets.

    ``values``: shape (groups,); ``moved``: how far each value moves when a bucket is left out, shape (groups,
    buckets), 0 where the bucket has no row of the group; ``used``: buckets that have some. Limits are Student's with
    one degree of freedom less than those (delete-a-group jackknife; Kott 2001), without the factor (b - 1) / b, which
    errs on the safe side. Groups share buckets, so that their dependence is in ``covariances``.
    """

    values: FloatArray
    moved: FloatArray
    used: IntArray
    support: IntArray
    undefined: str
    domain: tuple[float, float]

    @classmethod
    def of(
        cls,
        numerators: FloatArray,
        denominators: FloatArray,
        *,
        rows: IntArray,
        domain: tuple[float, float],
        undefined: str,
    ) -> "Jackknifed":
        """Quotients of sums over buckets; both of shape (groups, buckets)."""
        whole, below = numerators.sum(axis=1), denominators.sum(axis=1)
        values = _quotient(whole, below)
        rest = _quotient(whole[:, None] - numerators, below[:, None] - denominators)
        is_there = (numerators != 0) | (denominators != 0)
        moved = np.where(is_there, rest - values[:, None], 0.0)  # NaN where nothing would be left
        moved = np.where(np.abs(moved) <= _ROUNDING * np.abs(values)[:, None], 0.0, moved)
        used = np.asarray(is_there.sum(axis=1), dtype=np.int64)
        return cls(values=values, moved=moved, used=used, support=rows, undefined=undefined, domain=domain)

    @property
    def method(self) -> str | None:
        return "jackknife-t"

    @property
    def covariances(self) -> FloatArray:
        """Of the values of each two groups, shape (groups, groups); infinite where one bucket is all there is."""
        is_lost = np.asarray(np.isnan(self.moved).any(axis=1), dtype=np.bool_)
        found = np.nan_to_num(self.moved) @ np.nan_to_num(self.moved).T
        return np.where(is_lost[:, None] | is_lost[None, :], np.inf, found)

    @property
    def logged(self) -> "Jackknifed":
        """The same of logarithms; values must be positive."""
        with np.errstate(divide="ignore"):
            moved = np.log(self.values[:, None] + self.moved) - np.log(self.values)[:, None]
        return replace(self, values=np.log(self.values), moved=np.where(np.isinf(moved), np.nan, moved))

    def exact(self, group: int) -> Fraction | None:
        return None

    def reason(self, group: int) -> str | None:
        if not np.isnan(self.values[group]):
            return None
        return self.undefined if self.support[group] else "empty"

    def limits(self, tail: float) -> Limits:
        half = _half_width(np.sqrt(np.diagonal(self.covariances)), self.used - 1, tail)
        values = self.values
        return Limits(*(np.clip(values + side, *self.domain) for side in (-half, half)))

    def pair_limits(self, tail: float) -> Limits:
        """Limits of the value of each group less that of each other, shape (groups, groups)."""
        between = self.covariances
        alone = np.diagonal(between)
        with np.errstate(invalid="ignore"):
            variances = np.maximum(alone[:, None] + alone[None, :] - 2 * between, 0.0)
        error = np.sqrt(np.where(np.isnan(variances), np.inf, variances))
        half = _half_width(error, np.minimum(self.used[:, None], self.used[None, :]) - 1, tail)
        gaps = self.values[:, None] - self.values[None, :]
        return Limits(gaps - half, gaps + half)

    def take(self, groups: Groups) -> "Jackknifed":
        return Jackknifed(
            values=self.values[groups],
            moved=self.moved[groups],
            used=self.used[groups],
            support=self.support[groups],
            undefined=self.undefined,
            domain=self.domain,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Logarithms:
    """Logarithms of positive values, and of their limits."""

    of: Estimates

    @property
    def values(self) -> FloatArray:
        return np.asarray(np.log(self.of.values), dtype=np.float64)

    def limits(self, tail: float) -> Limits:
        with np.errstate(divide="ignore"):
            return Limits(*(np.log(np.maximum(limit, 0.0)) for limit in self.of.limits(tail)))


def logarithms(estimates: Estimates) -> Spread:
    """The logarithms of ``estimates``, which are positive and have limits: their gap is that of a ratio."""
    return estimates.logged if isinstance(estimates, Jackknifed) else Logarithms(of=estimates)


def _half_width(error: FloatArray, freedom: IntArray, tail: float) -> FloatArray:
    """How far limits are from their value by Student's distribution; infinite where nothing tells."""
    from scipy import special  # large; see intervals.normal_quantile

    found = -special.stdtrit(np.maximum(freedom, 1).astype(np.float64), tail)
    is_known = (freedom >= 1) & np.isfinite(error)
    return np.where(is_known, found * np.where(is_known, error, 0.0), np.inf)


def _why_no_mean(rows: int, mean: float, undefined: str) -> str | None:
    if rows == 0:
        return undefined
    return BELOW_RESOLUTION if np.isnan(mean) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootstrapped:
    """Values with limits from resampled counts. ``source`` holds all groups; ``groups``: those meant here."""

    source: Resampled
    groups: IntArray
    support: IntArray
    undefined: str

    @property
    def method(self) -> str | None:
        return "bootstrap-bca"

    @property
    def values(self) -> FloatArray:
        return self.source.values[self.groups]

    def exact(self, group: int) -> Fraction | None:
        return None

    def reason(self, group: int) -> str | None:
        if not np.isnan(self.values[group]):
            return None
        return self.undefined if self.support[group] else "empty"

    def limits(self, tail: float) -> Limits:
        limits = self.source.limits(tail)
        return Limits(limits.lower[self.groups], limits.upper[self.groups])

    def take(self, groups: Groups) -> "Bootstrapped":
        return Bootstrapped(
            source=self.source,
            groups=self.groups[groups],
            support=self.support[groups],
            undefined=self.undefined,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Quotients:
    """Counts over counts that are no proportions (errors of one kind per error of the other): no limits."""

    numerators: FloatArray
    denominators: FloatArray
    rows: FloatArray
    undefined: str

    @property
    def method(self) -> str | None:
        return None

    @property
    def values(self) -> FloatArray:
        return _quotient(self.numerators, self.denominators)

    @property
    def support(self) -> IntArray:
        return self.denominators.astype(np.int64)

    def exact(self, group: int) -> Fraction | None:
        return _fraction(self.numerators[group], self.denominators[group])

    def reason(self, group: int) -> str | None:
        if self.denominators[group] > 0:
            return None
        return self.undefined if self.rows[group] else "empty"

    def limits(self, tail: float) -> Limits:
        raise ValueError("this statistic has no limits in closed form")

    def take(self, groups: Groups) -> "Quotients":
        return Quotients(
            numerators=self.numerators[groups],
            denominators=self.denominators[groups],
            rows=self.rows[groups],
            undefined=self.undefined,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FScores:
    """F1, as a rising function of the share of hits among all rows that are hit, missed or wrongly chosen.

    That share is a binomial proportion given their number, so its Wilson limits give F1's: f = 2s / (1 + s).
    """

    hits: FloatArray
    errors: FloatArray
    rows: FloatArray

    @property
    def method(self) -> str | None:
        return "wilson-transformed"

    @property
    def values(self) -> FloatArray:
        return _quotient(2 * self.hits, 2 * self.hits + self.errors)

    @property
    def support(self) -> IntArray:
        return (self.hits + self.errors).astype(np.int64)

    def exact(self, group: int) -> Fraction | None:
        return _fraction(2 * self.hits[group], 2 * self.hits[group] + self.errors[group])

    def reason(self, group: int) -> str | None:
        if self.support[group]:
            return None
        return "no_positives_at_all" if self.rows[group] else "empty"

    def limits(self, tail: float) -> Limits:
        lower, upper = wilson_limits(self.hits, self.hits + self.errors, tail=tail)
        return Limits(2 * lower / (1 + lower), 2 * upper / (1 + upper))

    def take(self, groups: Groups) -> "FScores":
        return FScores(hits=self.hits[groups], errors=self.errors[groups], rows=self.rows[groups])


@dataclass(frozen=True, kw_only=True, slots=True)
class Means:
    """The plain mean of several statistics of each group.

    With ``skips_undefined`` parts without a value are left out (classes without rows); otherwise one undefined part
    makes the mean undefined. Limits combine those of the parts as Newcombe's method does, which asks that the parts
    be independent; where they are not, ``is_independent`` is False and there are none.
    """

    parts: tuple[Estimates, ...]
    skips_undefined: bool
    is_independent: bool

    @property
    def method(self) -> str | None:
        has_limits = self.is_independent and all(part.method for part in self.parts)
        return "newcombe-mean" if has_limits else None

    @property
    def values(self) -> FloatArray:
        stacked = np.stack([part.values for part in self.parts])
        is_there = ~np.isnan(stacked)
        used = is_there.sum(axis=0)
        enough = used > 0 if self.skips_undefined else used == len(self.parts)
        total = np.where(is_there, stacked, 0.0).sum(axis=0)
        return np.where(enough, total / np.maximum(used, 1), np.nan)

    @property
    def support(self) -> IntArray:
        stacked = np.stack([part.support for part in self.parts])
        if not self.skips_undefined:
            return np.asarray(stacked.min(axis=0), dtype=np.int64)
        smallest = np.where(stacked > 0, stacked, np.iinfo(np.int64).max).min(axis=0)
        return np.where(stacked.max(axis=0) > 0, smallest, 0)

    def exact(self, group: int) -> Fraction | None:
        found = [part.exact(group) for part in self.parts]
        there = [fraction for fraction in found if fraction is not None]
        if not there or (len(there) < len(found) and not self.skips_undefined):
            return None
        return sum(there, Fraction(0)) / len(there)

    def reason(self, group: int) -> str | None:
        reasons = [reason for part in self.parts if (reason := part.reason(group))]
        if not reasons or (self.skips_undefined and len(reasons) < len(self.parts)):
            return None
        return reasons[0]

    def limits(self, tail: float) -> Limits:
        values = np.stack([part.values for part in self.parts])
        is_there = ~np.isnan(values)
        used = np.maximum(is_there.sum(axis=0), 1)
        each = [part.limits(tail) for part in self.parts]
        below = np.where(is_there, values - np.stack([limits.lower for limits in each]), 0.0)
        above = np.where(is_there, np.stack([limits.upper for limits in each]) - values, 0.0)
        centre = self.values
        lower = centre - np.sqrt((below**2).sum(axis=0)) / used
        upper = centre + np.sqrt((above**2).sum(axis=0)) / used
        return Limits(np.clip(lower, 0.0, centre), np.clip(upper, centre, 1.0))

    def num_undefined_parts(self, group: int) -> int:
        """Parts without a value in this group."""
        return sum(part.reason(group) is not None for part in self.parts)

    def take(self, groups: Groups) -> "Means":
        return Means(
            parts=tuple(part.take(groups) for part in self.parts),
            skips_undefined=self.skips_undefined,
            is_independent=self.is_independent,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """Values alone, such as correlation coefficients: irrational, and without limits in closed form."""

    values: FloatArray
    support: IntArray
    undefined: str

    @property
    def method(self) -> str | None:
        return None

    def exact(self, group: int) -> Fraction | None:
        return None

    def reason(self, group: int) -> str | None:
        if not np.isnan(self.values[group]):
            return None
        return self.undefined if self.support[group] else "empty"

    def limits(self, tail: float) -> Limits:
        raise ValueError("this statistic has no limits in closed form")

    def take(self, groups: Groups) -> "Plain":
        return Plain(values=self.values[groups], support=self.support[groups], undefined=self.undefined)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankAreas:
    """Areas under the ROC curve from binned scores, with limits on the logit scale.

    ``positives`` and ``negatives``: rows by score bin, shape (groups, bins). Standard errors: DeLong 1988 from the
    bins; Hanley and McNeil 1982 where a class has fewer than ten rows or the order is perfect. ``bin_errors`` bounds
    what binning may have changed: half the share of pairs that lie in one bin.
    """

    positives: IntArray
    negatives: IntArray

    @property
    def method(self) -> str | None:
        return "delong-logit"

    @property
    def values(self) -> FloatArray:
        return _quotient(self._twice_won(), 2.0 * self._pairs())

    @property
    def support(self) -> IntArray:
        return np.asarray(np.minimum(self.positives.sum(axis=1), self.negatives.sum(axis=1)), dtype=np.int64)

    @property
    def bin_errors(self) -> FloatArray:
        """Largest possible distance to the area of unbinned scores, shape (groups,), NaN where undefined."""
        return _quotient((self.positives * self.negatives).sum(axis=1).astype(np.float64), 2.0 * self._pairs())

    def exact(self, group: int) -> Fraction | None:
        one = self.take([group])
        return _fraction(one._twice_won()[0], 2.0 * one._pairs()[0])

    def reason(self, group: int) -> str | None:
        has_positives, has_negatives = self.positives[group].any(), self.negatives[group].any()
        if has_positives and has_negatives:
            return None
        if not has_positives and not has_negatives:
            return "empty"
        return "no_negative_labels" if has_positives else "no_positive_labels"

    def limits(self, tail: float) -> Limits:
        return _logit_limits(self.values, *self.spread(), tail=tail)

    def spread(self) -> tuple[FloatArray, FloatArray]:
        """Where limits start from, and the standard error there, shape (groups,) each."""
        centre = np.nan_to_num(self.values, nan=0.5)
        pairs = np.maximum(self._pairs(), 1.0)
        inner = (centre * pairs + 0.5) / (pairs + 1)  # a perfect order has a logit too, then
        few = (self.support < 10) | (centre <= 0) | (centre >= 1)
        error = np.where(few, self._hanley_mcneil_error(inner), self._delong_error(centre))
        return np.where(few, inner, np.clip(centre, 1e-12, 1 - 1e-12)), error

    def take(self, groups: Groups) -> "RankAreas":
        return RankAreas(positives=self.positives[groups], negatives=self.negatives[groups])

    def _pairs(self) -> FloatArray:
        pairs = self.positives.sum(axis=1).astype(np.float64) * self.negatives.sum(axis=1)
        return np.asarray(pairs, dtype=np.float64)

    def _twice_won(self) -> FloatArray:
        below = np.cumsum(self.negatives, axis=1) - self.negatives
        return np.asarray((self.positives * (2 * below + self.negatives)).sum(axis=1), dtype=np.float64)

    def _delong_error(self, area: FloatArray) -> FloatArray:
        num_positives = np.maximum(self.positives.sum(axis=1), 2).astype(np.float64)
        num_negatives = np.maximum(self.negatives.sum(axis=1), 2).astype(np.float64)
        below = np.cumsum(self.negatives, axis=1) - self.negatives / 2
        above = self.positives.sum(axis=1, keepdims=True) - np.cumsum(self.positives, axis=1) + self.positives / 2
        wins = below / num_negatives[:, None] - area[:, None]
        losses = above / num_positives[:, None] - area[:, None]
        of_positives = (self.positives * wins**2).sum(axis=1) / (num_positives - 1) / num_positives
        of_negatives = (self.negatives * losses**2).sum(axis=1) / (num_negatives - 1) / num_negatives
        return np.asarray(np.sqrt(of_positives + of_negatives), dtype=np.float64)

    def _hanley_mcneil_error(self, area: FloatArray) -> FloatArray:
        num_positives = np.maximum(self.positives.sum(axis=1), 1)
        num_negatives = np.maximum(self.negatives.sum(axis=1), 1)
        first, second = area / (2 - area), 2 * area**2 / (1 + area)
        of_positives = (num_positives - 1) * (first - area**2)
        of_negatives = (num_negatives - 1) * (second - area**2)
        variance = (area * (1 - area) + of_positives + of_negatives) / (num_positives * num_negatives)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactAreas:
    """Areas under the ROC curve from unbinned scores: those of ``RankAreas``, worked out once for each group.

    ``starts`` and ``errors``: what ``RankAreas.spread`` gives. All of shape (groups,).
    """

    values: FloatArray
    support: IntArray
    starts: FloatArray
    errors: FloatArray
    exacts: tuple[Fraction | None, ...]
    reasons: tuple[str | None, ...]

    @classmethod
    def of(cls, groups: Sequence[RankAreas]) -> "ExactAreas":
        """From the areas of one group each, whose bins are all the different scores."""
        spreads = [each.spread() for each in groups]
        return cls(
            values=np.concatenate([np.empty(0), *(each.values for each in groups)]),
            support=np.concatenate([np.empty(0, dtype=np.int64), *(each.support for each in groups)]),
            starts=np.concatenate([np.empty(0), *(start for start, _ in spreads)]),
            errors=np.concatenate([np.empty(0), *(error for _, error in spreads)]),
            exacts=tuple(each.exact(0) for each in groups),
            reasons=tuple(each.reason(0) for each in groups),
        )

    @property
    def method(self) -> str | None:
        return "delong-logit"

    def exact(self, group: int) -> Fraction | None:
        return self.exacts[group]

    def reason(self, group: int) -> str | None:
        return self.reasons[group]

    def limits(self, tail: float) -> Limits:
        return _logit_limits(self.values, self.starts, self.errors, tail=tail)

    def take(self, groups: Groups) -> "ExactAreas":
        chosen = [int(group) for group in groups]
        return ExactAreas(
            values=self.values[chosen],
            support=self.support[chosen],
            starts=self.starts[chosen],
            errors=self.errors[chosen],
            exacts=tuple(self.exacts[group] for group in chosen),
            reasons=tuple(self.reasons[group] for group in chosen),
        )


def _logit_limits(values: FloatArray, starts: FloatArray, errors: FloatArray, *, tail: float) -> Limits:
    centre = np.nan_to_num(values, nan=0.5)
    logit, step = np.log(starts / (1 - starts)), normal_quantile(tail) * errors / (starts * (1 - starts))
    lower, upper = 1 / (1 + np.exp(step - logit)), 1 / (1 + np.exp(-step - logit))
    return Limits(np.minimum(lower, centre), np.maximum(upper, centre))


def _quotient(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    return np.where(denominators > 0, numerators / np.where(denominators > 0, denominators, 1.0), np.nan)


def _fraction(numerator: float, denominator: float) -> Fraction | None:
    return Fraction(int(numerator), int(denominator)) if denominator > 0 else None

"""How certain a rate, a difference, a ratio, or the extreme of many of them is. Closed form, no random numbers.

A *tail* is the probability left beyond one limit: a two-sided 95 % interval has tails of 0.025, a one-sided 95 %
bound a tail of 0.05.

Sources: Wilson 1927 (score interval); Newcombe 1998, method 10 (difference), in the form for any estimate with
limits of its own (Zou and Donner 2008); Koopman 1984 (ratio), as the equivalent score statistic without the factor
N/(N-1). Extremes of many groups: an upper bound of the largest pair needs no correction for the number of pairs,
since the truly largest pair is one fixed pair; a lower bound does, and gets Bonferroni's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

MANY_GROUPS = 200
_SMALLEST_LOG_RATIO = -46.0  # e**-46 = 1e-20: below any ratio of counts
_HALVINGS = 60
_SCORE_TOLERANCE = 1e-9
_FINITE = -float(np.finfo(np.float64).max)


class Limits(NamedTuple):
    """Lower and upper limits, arrays of one shape."""

    lower: FloatArray
    upper: FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """One-sided bounds at the chosen confidence, and the two-sided interval."""

    lower: float
    upper: float
    interval: tuple[float, float]


class Spread(Protocol):
    """A statistic with a value for each of several groups, all defined, and limits at any tail."""

    @property
    def values(self) -> FloatArray:
        """Shape (groups,)."""
        ...

    def limits(self, tail: float) -> Limits:
        """Shape (groups,) each; they contain the values."""
        ...


@runtime_checkable
class Paired(Spread, Protocol):
    """A spread whose groups depend on each other, and which knows how any two differ."""

    def pair_limits(self, tail: float) -> Limits:
        """Limits of the value of each group less that of each other, shape (groups, groups)."""
        ...


class Counted(Protocol):
    """Rates of several groups with all their counts."""

    @property
    def numerators(self) -> FloatArray:
        """Shape (groups,)."""
        ...

    @property
    def denominators(self) -> FloatArray:
        """Shape (groups,), positive."""
        ...


def wilson_limits(numerators: ArrayLike, denominators: ArrayLike, *, tail: float) -> Limits:
    """Wilson's score limits of each rate. Shapes as given; a denominator of 0 gives (0, 1).

    Raises ``ValueError`` where a numerator lies outside 0 to its denominator.
    """
    x, n = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if np.any((x < 0) | (x > n)):
        raise ValueError("a numerator must lie between 0 and its denominator")
    z = normal_quantile(tail)
    rows = np.where(n > 0, n, 1.0)
    rate = x / rows
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * np.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    lower = np.where(x > 0, np.clip(centre - half, 0.0, rate), 0.0)
    upper = np.where(x < n, np.clip(centre + half, rate, 1.0), 1.0)
    return Limits(np.where(n > 0, lower, 0.0), np.where(n > 0, upper, 1.0))


def wilson_interval(successes: ArrayLike, totals: ArrayLike, *, confidence: float = 0.95) -> Limits:
    """Two-sided Wilson score interval of each proportion; see ``wilson_limits``."""
    return wilson_limits(successes, totals, tail=(1 - confidence) / 2)


def newcombe_interval(
    x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike, *, confidence: float = 0.95
) -> Limits:
    """Two-sided interval of x1/n1 - x2/n2 by Newcombe's hybrid of Wilson limits. Denominators positive."""
    first, second = np.asarray(x1) / np.asarray(n1), np.asarray(x2) / np.asarray(n2)
    tail = (1 - confidence) / 2
    of_first, of_second = wilson_limits(x1, n1, tail=tail), wilson_limits(x2, n2, tail=tail)
    difference = first - second
    below = np.hypot(first - of_first.lower, of_second.upper - second)
    above = np.hypot(of_first.upper - first, second - of_second.lower)
    return Limits(difference - below, difference + above)


def koopman_interval(x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike, *, confidence: float = 0.95) -> Limits:
    """Two-sided score interval of (x1/n1) / (x2/n2), elementwise; the upper limit is infinite where x2 is 0."""
    z = normal_quantile((1 - confidence) / 2)
    pairs = np.stack(np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x1, n1, x2, n2))))
    lower, upper = _koopman_limit(pairs, z), _koopman_limit(pairs, -z)
    return Limits(np.where(pairs[0] == 0, 0.0, lower), np.where(pairs[2] == 0, np.inf, upper))


def normal_quantile(tail: float) -> float:
    """The standard normal value that is exceeded with probability ``tail``."""
    if not 0 < tail < 1:
        raise ValueError(f"a tail is a probability between 0 and 1, not {tail}")
    from scipy import special  # large, and the agent, which imports this page, computes no interval

    return float(-special.ndtri(tail))


def gap_bounds(spreads: Sequence[Spread], *, alpha: float) -> Bounds:
    """Bounds of the largest max - min over ``spreads``; each needs two groups or more. Values in [0, inf)."""
    pairs = sum(ordered_pairs(spread) for spread in spreads)

    def upper(tail: float) -> float:
        return max(_largest_upper_difference(spread, tail) for spread in spreads)

    def lower(tail: float) -> float:
        return max(0.0, *(largest_lower_difference(spread, tail / pairs) for spread in spreads))

    return _bounds(lower, upper, alpha)


def ratio_bounds(rates: Sequence[Counted], *, alpha: float) -> Bounds:
    """Bounds of the smallest min / max over families of rates; each needs two groups or more. In [0, 1]."""
    pairs = sum(len(rate.numerators) * (len(rate.numerators) - 1) for rate in rates)

    def lower(tail: float) -> float:
        return min(_smallest_ratio_limit(rate, normal_quantile(tail)) for rate in rates)

    def upper(tail: float) -> float:
        return min(_smallest_ratio_limit(rate, -normal_quantile(tail / pairs)) for rate in rates)

    return _bounds(lower, upper, alpha)


def ratio_of_gap(logarithms: Sequence[Spread], *, alpha: float) -> Bounds:
    """Bounds of the smallest min / max of positive values, from their logarithms' largest gap. In [0, 1].

    Limits of the logarithms combined as for differences: Zou and Donner 2008, section 3.
    """
    gap = gap_bounds(logarithms, alpha=alpha)
    low, high = gap.interval
    return Bounds(lower=math.exp(-gap.upper), upper=math.exp(-gap.lower), interval=(math.exp(-high), math.exp(-low)))


def minimum_bounds(spreads: Sequence[Spread], *, alpha: float) -> Bounds:
    """Bounds of the smallest value over all groups of ``spreads``."""
    groups = sum(len(spread.values) for spread in spreads)
    return _bounds(
        lambda tail: float(min(spread.limits(tail).lower.min() for spread in spreads)),
        lambda tail: float(min(spread.limits(tail / groups).upper.min() for spread in spreads)),
        alpha,
    )


def maximum_bounds(spreads: Sequence[Spread], *, alpha: float) -> Bounds:
    """Bounds of the largest value over all groups of ``spreads``."""
    groups = sum(len(spread.values) for spread in spreads)
    return _bounds(
        lambda tail: float(max(spread.limits(tail / groups).lower.max() for spread in spreads)),
        lambda tail: float(max(spread.limits(tail).upper.max() for spread in spreads)),
        alpha,
    )


def overall_gap_bounds(rates: Sequence[Counted], *, totals: Sequence[tuple[float, float]], alpha: float) -> Bounds:
    """Bounds of the largest |group - overall|; ``totals`` holds each family's overall numerator and denominator.

    The difference to the overall rate is (1 - w) times the difference to the rest, w the group's share of the
    denominator; a group that is all there is has no rest and counts as 0.
    """
    pairs = 2 * sum(len(rate.numerators) for rate in rates)

    def upper(tail: float) -> float:
        both = [_limits_to_overall(rate, total, tail) for rate, total in zip(rates, totals, strict=True)]
        return max(float(np.maximum(-limits.lower, limits.upper).max()) for limits in both)

    def lower(tail: float) -> float:
        both = [_limits_to_overall(rate, total, tail / pairs) for rate, total in zip(rates, totals, strict=True)]
        return max(0.0, *(float(np.maximum(limits.lower, -limits.upper).max()) for limits in both))

    return _bounds(lower, upper, alpha)


def single_bounds(spread: Spread, *, alpha: float) -> Bounds:
    """Bounds of a statistic of one group: ``spread`` has exactly one value."""
    return _bounds(
        lambda tail: float(spread.limits(tail).lower[0]), lambda tail: float(spread.limits(tail).upper[0]), alpha
    )


def average(bounds: Sequence[Bounds]) -> Bounds:
    """Bounds of the mean of statistics, from bounds that each hold at its share of alpha."""
    return Bounds(
        lower=sum(b.lower for b in bounds) / len(bounds),
        upper=sum(b.upper for b in bounds) / len(bounds),
        interval=(
            sum(b.interval[0] for b in bounds) / len(bounds),
            sum(b.interval[1] for b in bounds) / len(bounds),
        ),
    )


def _bounds(lower: Callable[[float], float], upper: Callable[[float], float], alpha: float) -> Bounds:
    return Bounds(lower=lower(alpha), upper=upper(alpha), interval=(lower(alpha / 2), upper(alpha / 2)))


def ordered_pairs(spread: Spread) -> int:
    """How many differences between two groups there are, each sign for itself."""
    return len(spread.values) * (len(spread.values) - 1)


def _largest_upper_difference(spread: Spread, tail: float) -> float:
    """max over i != j of v_i - v_j + hypot(u_i - v_i, v_j - l_j), or of the upper limits of pairs."""
    if isinstance(spread, Paired):
        return _largest_of_pairs(spread.pair_limits(tail).upper)
    values, limits = spread.values, spread.limits(tail)
    above, below = limits.upper - values, values - limits.lower
    first, second = _undominated(values, above), _undominated(-values, below)
    gaps = values[first, None] - values[None, second] + np.hypot(above[first, None], below[None, second])
    return _largest_off_diagonal(gaps, first, second)


def largest_lower_difference(spread: Spread, tail: float) -> float:
    """max over i != j of v_i - v_j - hypot(v_i - l_i, u_j - v_j), or of the lower limits of pairs."""
    if isinstance(spread, Paired):
        return _largest_of_pairs(spread.pair_limits(tail).lower)
    values, limits = spread.values, spread.limits(tail)
    above, below = limits.upper - values, values - limits.lower
    first, second = _undominated(values, -below), _undominated(-values, -above)
    gaps = values[first, None] - values[None, second] - np.hypot(below[first, None], above[None, second])
    return _largest_off_diagonal(gaps, first, second)


def _largest_of_pairs(limits: FloatArray) -> float:
    return float(limits[~np.eye(len(limits), dtype=bool)].max())


def _largest_off_diagonal(gaps: FloatArray, first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    return float(np.where(first[:, None] == second[None, :], -np.inf, gaps).max())


def _undominated(first: FloatArray, second: FloatArray) -> NDArray[np.int64]:
    """Groups that fewer than two others beat in both coordinates: only these can be part of the extreme pair."""
    order = np.lexsort((-second, -first))
    heights = second[order]
    heights = np.nan_to_num(heights, nan=_FINITE, neginf=_FINITE, posinf=np.inf)  # below nothing that is there
    best = _before(np.maximum.accumulate(heights))
    runner_up = _before(np.maximum.accumulate(np.minimum(heights, best)))
    return np.asarray(order[heights > runner_up], dtype=np.int64)


def _before(running: FloatArray) -> FloatArray:
    """What a running maximum was before each element."""
    return np.concatenate([[-np.inf], running[:-1]])


def _limits_to_overall(rate: Counted, total: tuple[float, float], tail: float) -> Limits:
    x, n = rate.numerators, rate.denominators
    rest_x, rest_n = total[0] - x, total[1] - n
    has_rest = rest_n > 0
    limits = newcombe_interval(x, n, rest_x, np.where(has_rest, rest_n, 1.0), confidence=1 - 2 * tail)
    share = np.where(has_rest, 1 - n / total[1], 0.0)
    return Limits(share * limits.lower, share * limits.upper)


def _koopman_score(ratio: FloatArray | float, pairs: FloatArray) -> FloatArray:
    """The score statistic of "rate 1 is ``ratio`` times rate 2"; decreasing in ``ratio``."""
    x1, n1, x2, n2 = pairs
    half_b = n1 * ratio + x1 + n2 + x2 * ratio
    root = np.sqrt(np.maximum(half_b**2 - 4 * (n1 + n2) * ratio * (x1 + x2), 0.0))
    second = 2 * (x1 + x2) / (half_b + root)  # the stable form of the smaller root
    first = np.minimum(ratio * second, 1.0)
    variance = first * (1 - first) / n1 + ratio**2 * second * (1 - second) / n2
    distance = x1 / n1 - ratio * x2 / n2
    with np.errstate(divide="ignore", invalid="ignore"):
        score = distance / np.sqrt(np.maximum(variance, 0.0))
    return np.where(distance == 0, 0.0, score)


def _koopman_limit(pairs: FloatArray, critical: float) -> FloatArray:
    """Where the score of each pair falls to ``critical``, by bisection of the logarithm."""
    low = np.full(pairs.shape[1:], _SMALLEST_LOG_RATIO)
    high = -low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_above = _koopman_score(np.exp(middle), pairs) > critical
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    return np.asarray(np.exp((low + high) / 2), dtype=np.float64)


def _smallest_ratio_limit(rate: Counted, critical: float) -> float:
    """The smallest limit over ordered pairs, at most 1.

    Starts at the limit of the pair with the smallest ratio. As long as another pair's score lies below ``critical``
    there, that pair's limit is smaller, and is taken next: each step is exact, and two or three are enough.
    """
    pairs = _pairs(rate, few_rows_first=critical > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(pairs[2] > 0, (pairs[0] / pairs[1]) / (pairs[2] / pairs[3]), np.inf)
    limit, lowest = 1.0, int(np.argmin(ratios))
    while limit > 0:
        found = min(limit, _pair_limit(tuple(pairs[:, lowest].tolist()), critical))
        scores = _koopman_score(found, pairs)
        following = int(np.argmin(scores))
        if scores[following] >= critical - _SCORE_TOLERANCE or (following == lowest and found < 1):
            return found
        limit, lowest = found, following
    return 0.0


def _pair_limit(pair: tuple[float, ...], critical: float) -> float:
    """Where the score of one pair falls to ``critical``: a root of ordinary numbers, quicker than arrays of one."""
    from scipy import optimize  # large; see normal_quantile

    def excess(log_ratio: float) -> float:
        return math.atan(_koopman_score_of(math.exp(log_ratio), *pair)) - math.atan(critical)

    if excess(0.0) >= 0:
        return 1.0
    if excess(_SMALLEST_LOG_RATIO) <= 0:
        return 0.0
    return math.exp(optimize.brentq(excess, _SMALLEST_LOG_RATIO, 0.0, xtol=1e-13))


def _koopman_score_of(ratio: float, x1: float, n1: float, x2: float, n2: float) -> float:
    """``_koopman_score`` of one pair."""
    half_b = n1 * ratio + x1 + n2 + x2 * ratio
    root = math.sqrt(max(half_b**2 - 4 * (n1 + n2) * ratio * (x1 + x2), 0.0))
    second = 2 * (x1 + x2) / (half_b + root)
    first = min(ratio * second, 1.0)
    variance = max(first * (1 - first) / n1 + ratio**2 * second * (1 - second) / n2, 0.0)
    distance = x1 / n1 - ratio * x2 / n2
    if distance == 0:
        return 0.0
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _pairs(rate: Counted, *, few_rows_first: bool) -> FloatArray:
    """Ordered pairs as rows x1, n1, x2, n2; of many groups only those that can be extreme.

    A pair's limits are smaller the smaller the first rate and the larger the second; with fewer rows its lower
    limit is smaller, its upper limit larger.
    """
    x, n = rate.numerators, rate.denominators
    first = second = np.arange(len(x))
    if len(x) > MANY_GROUPS:
        sign = -1.0 if few_rows_first else 1.0
        first, second = _undominated(-x / n, sign * n), _undominated(x / n, sign * n)
    one, two = np.repeat(first, len(second)), np.tile(second, len(first))
    one, two = one[one != two], two[one != two]
    return np.stack([x[one], n[one], x[two], n[two]])

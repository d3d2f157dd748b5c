"""Other intervals of rates, their differences and ratios, for those who must report them.

The defaults are in ``intervals``. None of these is Wald's or the plain log ratio: both are poor at small counts
(Fagerland, Lydersen, Laake 2015).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.intervals import FloatArray, Limits, normal_quantile, wilson_limits

_HALVINGS = 60


def clopper_pearson_interval(successes: ArrayLike, totals: ArrayLike, *, confidence: float = 0.95) -> Limits:
    """Two-sided exact interval of each proportion: its coverage is never below ``confidence``. Shapes as given.

    A total of 0 gives (0, 1). Source: Clopper and Pearson 1934, as quantiles of beta distributions.
    """
    return _beta_interval(successes, totals, confidence=confidence, below=(0.0, 1.0), above=(1.0, 0.0))


def jeffreys_interval(successes: ArrayLike, totals: ArrayLike, *, confidence: float = 0.95) -> Limits:
    """Two-sided interval of each proportion: equal tails of the posterior under Jeffreys' prior, Beta(1/2, 1/2)."""
    return _beta_interval(successes, totals, confidence=confidence, below=(0.5, 0.5), above=(0.5, 0.5))


def _beta_interval(
    successes: ArrayLike,
    totals: ArrayLike,
    *,
    confidence: float,
    below: tuple[float, float],
    above: tuple[float, float],
) -> Limits:
    """Quantiles of Beta(x + a, n - x + b); ``below`` and ``above``: a and b of the lower and of the upper limit."""
    from scipy import special  # large; see intervals.normal_quantile

    x, n = np.asarray(successes, dtype=np.float64), np.asarray(totals, dtype=np.float64)
    if np.any((x < 0) | (x > n)):
        raise ValueError("a numerator must lie between 0 and its denominator")
    tail = (1 - confidence) / 2
    low = special.betaincinv(np.maximum(x + below[0], 0.5), np.maximum(n - x + below[1], 0.5), tail)
    high = special.betaincinv(np.maximum(x + above[0], 0.5), np.maximum(n - x + above[1], 0.5), 1 - tail)
    return Limits(np.where(x > 0, low, 0.0), np.where(x < n, high, 1.0))


def log_ratio_interval(
    x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike, *, confidence: float = 0.95
) -> Limits:
    """Two-sided interval of (x1/n1) / (x2/n2) on the log scale, half a row added everywhere (Walter 1975)."""
    one, all_one, two, all_two = (np.asarray(v, dtype=np.float64) + 0.5 for v in (x1, n1, x2, n2))
    centre = np.log(one / all_one) - np.log(two / all_two)
    error = np.sqrt(np.maximum(1 / one - 1 / all_one + 1 / two - 1 / all_two, 0.0))
    step = normal_quantile((1 - confidence) / 2) * error
    return Limits(np.exp(centre - step), np.exp(centre + step))


def miettinen_nurminen_interval(
    x1: ArrayLike, n1: ArrayLike, x2: ArrayLike, n2: ArrayLike, *, confidence: float = 0.95
) -> Limits:
    """Two-sided score interval of x1/n1 - x2/n2, with the factor N/(N-1). Source: Miettinen and Nurminen 1985."""
    z = normal_quantile((1 - confidence) / 2)
    pairs = np.stack(np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (x1, n1, x2, n2))))
    difference = pairs[0] / pairs[1] - pairs[2] / pairs[3]
    lower = crossing(lambda delta: _difference_score(delta, pairs) > z, np.full_like(difference, -1.0), difference)
    upper = crossing(lambda delta: _difference_score(delta, pairs) > -z, difference, np.full_like(difference, 1.0))
    return Limits(lower, upper)


def paired_newcombe_interval(
    both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike, *, confidence: float = 0.95
) -> Limits:
    """Two-sided interval of the difference of two rates measured on the same rows, elementwise.

    Rows where both succeed, only the first, only the second, neither; at least one row. Source: Newcombe 1998
    (paired), method 10: Wilson limits combined with the correlation phi, corrected for continuity.
    """
    return paired_newcombe_limits(both, first, second, neither, tail=(1 - confidence) / 2)


def paired_newcombe_limits(
    both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike, *, tail: float
) -> Limits:
    """``paired_newcombe_interval`` with its tail."""
    a, b, c, d = (np.asarray(v, dtype=np.float64) for v in (both, first, second, neither))
    n = a + b + c + d
    one, two = (a + b) / n, (a + c) / n
    of_one, of_two = wilson_limits(a + b, n, tail=tail), wilson_limits(a + c, n, tail=tail)
    phi = _corrected_phi(a, b, c, d)
    below = _hybrid(one - of_one.lower, of_two.upper - two, phi)
    above = _hybrid(of_one.upper - one, two - of_two.lower, phi)
    return Limits(one - two - below, one - two + above)


def _corrected_phi(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    product = a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - (a + b + c + d) / 2, 0.0), product)
    spread = np.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    return np.where(spread > 0, corrected / np.where(spread > 0, spread, 1.0), 0.0)


def _hybrid(one: FloatArray, two: FloatArray, phi: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum(one**2 - 2 * phi * one * two + two**2, 0.0)), dtype=np.float64)


def _difference_score(delta: FloatArray, pairs: FloatArray) -> FloatArray:
    """The score statistic of "rate 1 is rate 2 plus ``delta``"; decreasing in ``delta``."""
    x1, n1, x2, n2 = pairs
    second = restricted_rate(delta, pairs)
    first = np.clip(second + delta, 0.0, 1.0)
    total = n1 + n2
    variance = (first * (1 - first) / n1 + second * (1 - second) / n2) * total / (total - 1)
    distance = x1 / n1 - x2 / n2 - delta
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(distance) < 1e-15, 0.0, distance / np.sqrt(np.maximum(variance, 1e-30)))


def restricted_rate(delta: FloatArray, pairs: FloatArray) -> FloatArray:
    """The likeliest rate 2 when rate 1 is ``delta`` more: the middle root of a cubic, by the cosine formula."""
    x1, n1, x2, n2 = pairs
    total = n1 + n2
    a3 = total
    a2 = (n1 + 2 * n2) * delta - total - (x1 + x2)
    a1 = (n2 * delta - total - 2 * x2) * delta + (x1 + x2)
    a0 = x2 * delta * (1 - delta)
    q = a2**3 / (3 * a3) ** 3 - a1 * a2 / (6 * a3**2) + a0 / (2 * a3)
    p = np.where(q >= 0, 1.0, -1.0) * np.sqrt(np.maximum(a2**2 / (3 * a3) ** 2 - a1 / (3 * a3), 0.0))
    cubed = np.where(p == 0, 1.0, p**3)
    angle = (np.pi + np.arccos(np.clip(np.where(p == 0, 0.0, q / cubed), -1.0, 1.0))) / 3
    root = 2 * p * np.cos(angle) - a2 / (3 * a3)
    return np.asarray(np.clip(root, np.maximum(0.0, -delta), np.minimum(1.0, 1.0 - delta)), dtype=np.float64)


def crossing(is_above: Callable[[FloatArray], NDArray[np.bool_]], low: FloatArray, high: FloatArray) -> FloatArray:
    """Where a falling function comes down to its level, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = is_above(middle)
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2

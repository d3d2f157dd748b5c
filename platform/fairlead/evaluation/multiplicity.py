"""Many comparisons at once: how small a p-value must be when it is one of several.

Of twenty true claims that are each tested at 5 %, one is rejected by chance. *Holm* keeps the probability of any
false rejection at the level, whatever the dependence between tests (Holm 1979, Scandinavian Journal of Statistics 6).
*Benjamini and Hochberg* keep the expected share of false ones among the rejections at the level, for tests that are
independent or positively dependent (1995, JRSS B 57; Benjamini and Yekutieli 2001). An adjusted p-value is the
smallest level at which the method rejects. Adjusted values are never below the plain ones, and never exceed 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.intervals import FloatArray, Spread, largest_lower_difference, ordered_pairs
from fairlead.spec.evaluation import Correction

SMALLEST_P = 1e-12
"""Smaller p-values than this say nothing more, and are given as this."""


def holm(p_values: ArrayLike) -> FloatArray:
    """Adjusted p-values, in the order given, shape (m,): the running maximum of (m - rank + 1) times p.

    Raises ``ValueError`` for anything but probabilities.
    """
    values, order = _ranked(p_values)
    factors = np.arange(len(values), 0, -1)
    return _unranked(np.minimum(np.maximum.accumulate(factors * values[order]), 1.0), order)


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Adjusted p-values, in the order given, shape (m,): the running minimum, from the largest, of m / rank times p.

    Raises ``ValueError`` for anything but probabilities.
    """
    values, order = _ranked(p_values)
    scaled = values[order] * (len(values) / np.arange(1, len(values) + 1))
    return _unranked(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0), order)


def adjusted(p_values: ArrayLike, correction: Correction) -> FloatArray:
    """Adjusted p-values by the method called ``correction``, shape (m,); with ``none`` the plain ones."""
    match correction:
        case "holm":
            return holm(p_values)
        case "benjamini_hochberg":
            return benjamini_hochberg(p_values)
        case _:
            return _ranked(p_values)[0]


def gap_p_value(spreads: Sequence[Spread]) -> float:
    """The smallest alpha at which ``gap_bounds`` puts the lower bound of the largest max - min above 0.

    It tests that all groups are alike in all of ``spreads``, each of two groups or more. From ``SMALLEST_P`` to 1.
    """
    from scipy import optimize  # large; see intervals.normal_quantile

    pairs = sum(ordered_pairs(spread) for spread in spreads)

    def excess(log_alpha: float) -> float:
        tail = float(np.exp(log_alpha)) / pairs
        return max(largest_lower_difference(spread, tail) for spread in spreads)

    smallest = float(np.log(SMALLEST_P))
    if excess(0.0) <= 0:
        return 1.0
    if excess(smallest) > 0:
        return SMALLEST_P
    return float(np.exp(optimize.brentq(excess, smallest, 0.0, xtol=1e-6)))


def _ranked(p_values: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    values = np.asarray(p_values, dtype=np.float64).reshape(-1)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError("p-values are probabilities from 0 to 1")
    return values, np.argsort(values, kind="stable")


def _unranked(values: FloatArray, order: NDArray[np.int64]) -> FloatArray:
    found = np.empty_like(values)
    found[order] = values
    return found

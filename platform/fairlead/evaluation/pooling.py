"""What the other groups suggest about the rate of a group of few rows.

It is shown beside what was measured, and decides no gate. Empirical Bayes with a beta-binomial model: the rates of
groups come from one beta distribution, whose mean is the rate over all rows and whose variance is what their spread
shows beyond chance (moments, groups weighted by rows as in Kleinman 1973, JASA 68). A group's pooled rate is the mean
of its posterior, the interval its equal-tailed quantiles. The interval takes the distribution as known, and so is
too narrow where there are few groups: with twelve, nominal 95 % covered 91.5 % in simulation.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

from fairlead.evaluation.cells import IntArray
from fairlead.evaluation.intervals import FloatArray

FEWEST_GROUPS = 3
"""With two groups, the spread between them is a single difference."""


class Pooled(NamedTuple):
    """Rates and two-sided limits, each of shape (groups,)."""

    values: FloatArray
    lower: FloatArray
    upper: FloatArray


class Prior(NamedTuple):
    """A beta distribution: ``mean`` of the rates, and as many rows as it counts for."""

    mean: float
    rows: float


def prior_of(numerators: FloatArray | IntArray, denominators: FloatArray | IntArray) -> Prior | None:
    """The distribution of the rates of groups; None with fewer than three that have rows.

    ``numerators``, ``denominators``: shape (groups,). Where groups spread no more than chance makes them, it counts for
    as many rows as all have together: they are then as good as one group.
    """
    n = np.asarray(denominators, dtype=np.float64)
    x = np.asarray(numerators, dtype=np.float64)[n > 0]
    n = n[n > 0]
    total = n.sum()
    if len(n) < FEWEST_GROUPS:
        return None
    mean = float(x.sum() / total)
    bernoulli = mean * (1 - mean)
    spread = float((n * (x / n - mean) ** 2).sum())
    # With variance A between groups, E[spread] = (k - 1) v + A (N - sum n^2 / N - (k - 1)), v = mean (1 - mean)
    beyond = spread - (len(n) - 1) * bernoulli
    weight = total - float((n**2).sum()) / total - (len(n) - 1)
    if beyond <= 0 or weight <= 0 or bernoulli == 0:
        return Prior(mean, float(total))
    between = min(beyond / weight, bernoulli)
    return Prior(mean, float(min(max(bernoulli / between - 1, 0.0), total)))


def pooled_rates(
    numerators: FloatArray | IntArray, denominators: FloatArray | IntArray, prior: Prior, *, confidence: float
) -> Pooled:
    """What ``prior`` and a group's own rows say together; a group without rows has the prior alone.

    Where the mean is 0 or 1, all rates are, without limits that would say more than the data do.
    """
    x, n = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    hits, misses = prior.mean * prior.rows + x, (1 - prior.mean) * prior.rows + n - x
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        values = hits / (hits + misses)
        lower, upper = (stats.beta.ppf(level, hits, misses) for level in (tail, 1 - tail))
    return Pooled(values, lower, upper)

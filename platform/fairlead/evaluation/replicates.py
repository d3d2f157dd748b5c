"""Resampling from counts alone: as if the rows of each group had been drawn again, whatever their number.

Drawing rows with replacement within a group is one multinomial draw over its table, so a thousand replicates cost the
same for a thousand rows and for a billion. Limits are bias-corrected and accelerated (BCa, Efron 1987) where these are
defined, and *basic* (the value less the replicates' distance to it) where they are not: all replicates on one side, or
no acceleration. Where replicates do not vary at all, the limits are the whole range. The generator is Philox, keyed by
a seed, the statistic's name and a group's own counts, so that equal counts give equal limits anywhere, in any order.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.intervals import FloatArray, Limits, normal_quantile

IntArray = NDArray[np.int64]
Statistic = Callable[[FloatArray, IntArray], FloatArray]
"""From tables, shape (..., groups, *inner), and the groups' positions, shape (groups,), to values of shape
(..., groups), NaN where undefined."""

REPLICATES = 1000
MOST_DRAWN = 2**24
"""Counts that one statistic may draw in all: about a second."""


def generator(name: str, *, seed: int = 0, content: bytes = b"") -> np.random.Generator:
    """The random numbers of one statistic."""
    key = hashlib.sha256(f"{seed}\0{name}\0".encode() + content).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def draw_tables(tables: IntArray, *, replicates: int = REPLICATES, name: str, seed: int = 0) -> IntArray:
    """Draw the rows of every group again, shape (replicates, groups, *inner) for ``tables`` of (groups, *inner).

    Group sizes are held fixed; a group without rows stays empty.
    """
    flat = tables.reshape(len(tables), -1)
    rows = flat.sum(axis=1)
    shares = flat / np.maximum(rows, 1)[:, None]
    shares[rows == 0, 0] = 1.0  # no rows: nothing is drawn, but shares must add up
    random = generator(name, seed=seed, content=np.ascontiguousarray(flat, dtype="<i8").tobytes())
    drawn = random.multinomial(rows, shares, size=(replicates, len(rows)))
    return np.asarray(drawn.reshape(replicates, *tables.shape), dtype=np.int64)


def is_drawable(tables: IntArray) -> bool:
    """Whether replicates of these tables can be had in reasonable time."""
    return tables.size * REPLICATES <= MOST_DRAWN


class Resampled:
    """Limits of a statistic of every group, from replicates; nothing is drawn before limits are asked for.

    ``tables``: shape (groups, *inner); ``domain``: where values may lie.
    """

    def __init__(
        self,
        tables: IntArray,
        statistic: Statistic,
        *,
        name: str,
        domain: tuple[float, float] = (-np.inf, np.inf),
        seed: int = 0,
    ) -> None:
        self._tables, self._statistic, self._name = tables, statistic, name
        self._domain, self._seed = domain, seed
        self._everyone = np.arange(len(tables))
        self.values: FloatArray = statistic(tables.astype(np.float64), self._everyone)
        self._drawn: tuple[FloatArray, ...] | None = None
        self._accelerations: FloatArray = np.zeros(len(tables))
        self._limits: dict[float, Limits] = {}

    def limits(self, tail: float) -> Limits:
        """Limits of all groups, shape (groups,) each; NaN where the value is."""
        if self._drawn is None:
            self._drawn = tuple(self._draw(group) for group in range(len(self._tables)))
            self._accelerations = self._acceleration()
        if tail not in self._limits:
            both = [self._limit(group, drawn, tail) for group, drawn in enumerate(self._drawn)]
            lower, upper = np.array(both, dtype=np.float64).reshape(-1, 2).T
            self._limits[tail] = Limits(np.minimum(lower, self.values), np.maximum(upper, self.values))
        return self._limits[tail]

    def _draw(self, group: int) -> FloatArray:
        """The statistic in every replicate where it is defined, smallest first."""
        drawn = draw_tables(self._tables[[group]], name=self._name, seed=self._seed)
        found = self._statistic(drawn.astype(np.float64), np.array([group]))[:, 0]
        return np.sort(found[~np.isnan(found)])

    def _acceleration(self) -> FloatArray:
        """Efron's a, from leaving out one row of each kind: a sum over kinds instead of over rows."""
        flat = self._tables.reshape(len(self._tables), -1).astype(np.float64)
        left_out = np.full(flat.shape, np.nan)
        for kind in range(flat.shape[1]):
            there = np.flatnonzero(flat[:, kind] > 0)
            less = flat[there]
            less[:, kind] -= 1
            left_out[there, kind] = self._statistic(less.reshape(-1, *self._tables.shape[1:]), there)
        weights = np.where(np.isnan(left_out), 0.0, flat)
        values = np.nan_to_num(left_out)
        mean = (weights * values).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        influence = mean[:, None] - values
        with np.errstate(divide="ignore", invalid="ignore"):
            skew = (weights * influence**3).sum(axis=1) / (6 * (weights * influence**2).sum(axis=1) ** 1.5)
        return np.asarray(skew, dtype=np.float64)

    def _limit(self, group: int, drawn: FloatArray, tail: float) -> tuple[float, float]:
        value, acceleration = float(self.values[group]), float(self._accelerations[group])
        if np.isnan(value) or not len(drawn):
            return np.nan, np.nan
        if drawn[0] == drawn[-1]:
            return self._domain  # nothing varies in these few rows: that is no certainty
        below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
        if 0 < below < 1 and np.isfinite(acceleration):
            lower, upper = _accelerated(drawn, 1 - below, acceleration, tail)
        else:
            low, high = np.quantile(drawn, [tail, 1 - tail])
            lower, upper = 2 * value - high, 2 * value - low
        return max(lower, self._domain[0]), min(upper, self._domain[1])


def _accelerated(drawn: FloatArray, above: float, acceleration: float, tail: float) -> tuple[float, float]:
    from scipy import special  # large; see intervals.normal_quantile

    bias, z = normal_quantile(above), normal_quantile(tail)
    sides = [bias + side for side in (-z, z)]
    shares = [special.ndtr(bias + side / max(1 - acceleration * side, 1e-6)) for side in sides]
    lower, upper = np.quantile(drawn, shares)
    return float(lower), float(upper)

"""Resampling from counts alone: as if the rows of each group had been drawn again, whatever their number.

Drawing rows with replacement within a group is one multinomial draw over its table, so a thousand replicates cost the
same for a thousand rows and for a billion. Limits are bias-corrected and accelerated (BCa, Efron 1987) where these are
defined, and *basic* (the value less the replicates' distance to it) where they are not: all replicates on one side, or
no acceleration. The generator is Philox, keyed by a seed and the statistic's name, so that equal counts give equal
limits anywhere.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.intervals import FloatArray, Limits, normal_quantile

REPLICATES = 1000
_MOST_NUMBERS = 2**22
"""Counts drawn at a time: 32 MB."""

Statistic = Callable[[FloatArray], FloatArray]
"""From tables of shape (..., *inner) to values of shape (...), NaN where undefined."""


def generator(name: str, *, seed: int = 0) -> np.random.Generator:
    """The random numbers of one statistic."""
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def draw_tables(
    tables: NDArray[np.int64], *, replicates: int = REPLICATES, name: str, seed: int = 0
) -> NDArray[np.int64]:
    """Draw the rows of every group again, shape (replicates, groups, *inner) for ``tables`` of (groups, *inner).

    Group sizes are held fixed; a group without rows stays empty.
    """
    flat = tables.reshape(len(tables), -1)
    rows = flat.sum(axis=1)
    shares = flat / np.maximum(rows, 1)[:, None]
    shares[rows == 0, 0] = 1.0  # no rows: nothing is drawn, but shares must add up
    drawn = generator(name, seed=seed).multinomial(rows, shares, size=(replicates, len(rows)))
    return np.asarray(drawn.reshape(replicates, *tables.shape), dtype=np.int64)


class Resampled:
    """Values of groups with limits from replicates; nothing is drawn before limits are asked for.

    ``tables``: shape (groups, *inner); ``statistic`` gives a value for each table; ``domain``: where values may lie.
    """

    def __init__(
        self,
        tables: NDArray[np.int64],
        statistic: Statistic,
        *,
        name: str,
        domain: tuple[float, float] = (-np.inf, np.inf),
        seed: int = 0,
    ) -> None:
        self._tables, self._statistic, self._name = tables, statistic, name
        self._domain, self._seed = domain, seed
        self.values: FloatArray = statistic(tables.astype(np.float64))
        self._drawn: FloatArray | None = None
        self._accelerations: FloatArray | None = None

    def limits(self, tail: float) -> Limits:
        """Limits of all groups, shape (groups,) each; NaN where the value is."""
        if self._drawn is None:
            self._drawn = np.sort(self._draw(), axis=0)
            self._accelerations = self._acceleration()
        assert self._accelerations is not None, "made together with the draws"
        both = [
            self._limit(group, acceleration, tail) for group, acceleration in enumerate(self._accelerations.tolist())
        ]
        lower, upper = np.array(both, dtype=np.float64).reshape(-1, 2).T
        return Limits(np.minimum(lower, self.values), np.maximum(upper, self.values))

    def _draw(self) -> FloatArray:
        """The statistic of every replicate, shape (replicates, groups); drawn in parts, to spare memory."""
        size = max(1, self._tables[0].size) if len(self._tables) else 1
        step = max(1, _MOST_NUMBERS // (size * REPLICATES))
        parts = [
            self._statistic(
                draw_tables(self._tables[start : start + step], name=f"{self._name}/{start}", seed=self._seed).astype(
                    np.float64
                )
            )
            for start in range(0, len(self._tables), step)
        ]
        return np.concatenate(parts, axis=1) if parts else np.zeros((REPLICATES, 0))

    def _acceleration(self) -> FloatArray:
        """Efron's a from leaving out one row of each kind: a sum over kinds instead of over rows."""
        flat = self._tables.reshape(len(self._tables), -1).astype(np.float64)
        moments = np.zeros((2, len(flat)))
        left_out = np.full(flat.shape, np.nan)
        for kind in range(flat.shape[1]):
            there = flat[:, kind] > 0
            less = flat[there].copy()
            less[:, kind] -= 1
            left_out[there, kind] = self._statistic(less.reshape(-1, *self._tables.shape[1:]))
        weights = np.where(np.isnan(left_out), 0.0, flat)
        values = np.nan_to_num(left_out)
        total = np.maximum(weights.sum(axis=1), 1)
        influence = (weights * values).sum(axis=1)[:, None] / total[:, None] - values
        moments[0] = (weights * influence**3).sum(axis=1)
        moments[1] = (weights * influence**2).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(moments[0] / (6 * moments[1] ** 1.5), dtype=np.float64)

    def _limit(self, group: int, acceleration: float, tail: float) -> tuple[float, float]:
        value = float(self.values[group])
        assert self._drawn is not None, "drawn before"
        drawn = self._drawn[:, group]
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(value) or not len(drawn):
            return np.nan, np.nan
        below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
        if 0 < below < 1 and np.isfinite(acceleration):
            lower, upper = _accelerated(drawn, 1 - below, acceleration, tail)
        else:
            low, high = np.quantile(drawn, [tail, 1 - tail])
            lower, upper = 2 * value - high, 2 * value - low
        return max(lower, self._domain[0]), min(upper, self._domain[1])


def _accelerated(drawn: FloatArray, above: float, acceleration: float, tail: float) -> tuple[float, float]:
    from scipy import special  # large; see intervals.normal_quantile

    bias = normal_quantile(above)
    z = normal_quantile(tail)
    shares = [
        float(special.ndtr(bias + (bias + side) / max(1 - acceleration * (bias + side), 1e-6))) for side in (-z, z)
    ]
    lower, upper = np.quantile(drawn, shares)
    return float(lower), float(upper)

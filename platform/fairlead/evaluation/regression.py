"""Regression: what workers keep of the numbers a model predicts, and metrics of each group made of it.

Values are scaled by a power of two, chosen from the declared range, to whole numbers of 30 bits, so that merging is
addition; a product of two has 60 bits and is summed as a high and a low word. Every metric is exact for the rounded
values, which are off by at most a thousand-millionth of the range's larger end.

| array | shape, dtype | holds |
| --- | --- | --- |
| moments | [cells, 10] int64 | n, sums of y, p and abs(p - y), then of y*y, p*p and y*p as two words each |
| book | [6] uint64 | as in ``cells``; its last two entries count rows whose target or prediction is NaN |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.cells import (
    CHUNK_ROWS,
    UNKNOWN,
    Book,
    Incomplete,
    IntArray,
    Key,
    cells_of,
    is_unknown_cell,
    keys_of,
    listed,
    margin,
    refuse_ambiguous,
    refuse_length,
    refuse_unknown_codes,
    shape_of,
    shaped_codes,
)
from fairlead.evaluation.disparities import Disparity, compare
from fairlead.evaluation.encoding import Encoded, digest, encode
from fairlead.evaluation.estimates import Estimates, Plain, SampleMeans
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.metrics import split_aggregate
from fairlead.workload import Attribute

MEANS = ("mean_prediction", "mean_target", "mean_error", "mean_absolute_error")
"""Metrics with Student's limits; ``mean_error`` is the prediction less the target (bias)."""
OTHERS = ("mean_squared_error", "root_mean_squared_error", "r2_score")
REGRESSION_METRICS = MEANS + OTHERS
_FORMAT = "fairlead-moments/1"
_BITS, _WORD = 30, 31


class MomentState:
    """Moments of targets and predictions by cell; ``low`` and ``high``: the declared range of both.

    Raises ``ValueError`` for an empty or infinite range and for ambiguous attributes.
    """

    def __init__(self, *, attributes: Sequence[Attribute], low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the range of the target must be finite and not empty, not {low} to {high}")
        self.attributes, self.low, self.high = tuple(attributes), float(low), float(high)
        refuse_ambiguous(self.attributes)
        cells = math.prod(shape_of(self.attributes))
        self._arrays: dict[str, NDArray[Any]] = {
            "book": np.zeros(6, dtype=np.uint64),
            "moments": np.zeros((cells, 10), dtype=np.int64),
        }

    @property
    def moments(self) -> IntArray:
        """Sums by cell, shape (cells, 10)."""
        return self._arrays["moments"]

    @property
    def book(self) -> Book:
        """Rows seen, and what proves that they were seen once."""
        return Book(self._arrays["book"])

    @property
    def scale(self) -> float:
        """A power of two: values times it are whole numbers of 30 bits."""
        return 2.0 ** (_BITS - math.frexp(max(abs(self.low), abs(self.high)))[1])

    def update(self, codes: ArrayLike, targets: ArrayLike, predictions: ArrayLike, *, record_hashes: ArrayLike) -> None:
        """Add some rows, in place; a row whose target or prediction is NaN is entered in the book alone.

        ``codes``: shape (n, attributes); the others: shape (n,). Raises ``ValueError`` for other shapes, unknown codes
        and numbers outside the declared range.
        """
        y, p = (np.asarray(values, dtype=np.float64) for values in (targets, predictions))
        hashes = np.asarray(record_hashes, dtype=np.uint64)
        levels = shaped_codes(codes, rows=len(y), columns=len(self.attributes))
        for what, values in (("predictions", p), ("record_hashes", hashes)):
            refuse_length(what, values, len(y))
        refuse_unknown_codes(levels, self.attributes)
        for what, values in (("targets", y), ("predictions", p)):
            if np.any((values < self.low) | (values > self.high)):  # NaN compares false: it is counted, not refused
                raise ValueError(f"{what} must lie between {self.low:g} and {self.high:g}: declare a wider range")
        for start in range(0, len(y), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            self._count(levels[rows], y[rows], p[rows], hashes[rows])

    def merge(self, other: "MomentState") -> "MomentState":
        """The sum of both. Raises ``ValueError`` when they count different things."""
        if self._identity() != other._identity():
            raise ValueError("only states over the same attributes and the same range can be merged")
        merged = MomentState(attributes=self.attributes, low=self.low, high=self.high)
        merged._arrays = {"moments": self.moments + other.moments, "book": self.book.merged(other.book)}
        return merged

    def to_bytes(self) -> bytes:
        """Deterministic bytes; see ``encoding``."""
        return encode(self._identity() | {"format": _FORMAT}, self._arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "MomentState":
        """Read what ``to_bytes`` wrote. Raises ``ValueError`` for anything else."""
        encoded = Encoded(data)
        header = encoded.header
        if header.get("format") != _FORMAT:
            raise ValueError(f"the format of this evaluation state is {header.get('format')!r}, not {_FORMAT!r}")
        attributes = [Attribute(name=str(name), levels=tuple(map(str, each))) for name, each in header["attributes"]]
        state = cls(attributes=attributes, low=header["low"], high=header["high"])
        state._arrays = encoded.restore(state._arrays)
        return state

    def digest(self) -> str:
        """``sha256:`` over the arrays and their meaning."""
        return digest(self._identity(), self._arrays)

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split."""
        return self.book.check_complete(expected_n=expected_n, expected_sum=expected_sum, expected_xor=expected_xor)

    def _identity(self) -> dict[str, Any]:
        attributes = [[attribute.name, list(attribute.levels)] for attribute in self.attributes]
        return {"attributes": attributes, "low": self.low, "high": self.high}

    def _count(self, codes: NDArray[Any], y: FloatArray, p: FloatArray, hashes: NDArray[np.uint64]) -> None:
        cells = cells_of(codes, shape_of(self.attributes))
        is_target, is_number = ~np.isnan(y), ~np.isnan(p)
        self.book.enter(
            hashes,
            unknown=int(is_unknown_cell(shape_of(self.attributes))[cells].sum()),
            nan_labels=int(np.count_nonzero(~is_target)),
            nan_scores=int(np.count_nonzero(~is_number)),
        )
        kept = is_target & is_number
        at = cells[kept]
        whole_y, whole_p = (np.rint(values[kept] * self.scale).astype(np.int64) for values in (y, p))
        single = [np.ones_like(at), whole_y, whole_p, np.abs(whole_p - whole_y)]
        double = [word for one, two in _products(whole_y, whole_p) for word in _words(one * two)]
        for column, values in enumerate((*single, *double)):
            total = np.bincount(at, weights=values.astype(np.float64), minlength=len(self.moments))
            self.moments[:, column] += total.astype(np.int64)


def _products(y: IntArray, p: IntArray) -> tuple[tuple[IntArray, IntArray], ...]:
    return (y, y), (p, p), (y, p)


def _words(values: IntArray) -> tuple[IntArray, IntArray]:
    return values >> _WORD, values & (2**_WORD - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentGroups:
    """Groups of one grouping, as in ``groups.Grouping``; ``moments``: shape (groups, 10)."""

    by: tuple[str, ...]
    keys: tuple[Key, ...]
    moments: IntArray
    scale: float

    @property
    def sizes(self) -> IntArray:
        """Rows of each group."""
        return self.moments[:, 0]

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Groups with a missing level."""
        return np.array([UNKNOWN in key for key in self.keys], dtype=bool)


def moment_grouping(state: MomentState, by: Sequence[str] = ()) -> MomentGroups:
    """Sum the cells over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute."""
    keys = keys_of(state.attributes, by)
    moments = margin(state.attributes, state.moments, by)
    chosen = listed(keys, moments[:, 0])
    return MomentGroups(
        by=tuple(by), keys=tuple(keys[index] for index in chosen), moments=moments[chosen], scale=state.scale
    )


def moment_estimates(metric: str, groups: MomentGroups) -> Estimates:
    """One of ``REGRESSION_METRICS`` for each group. Raises ``ValueError`` for another."""
    sums = [_Sums.of(row, groups.scale) for row in groups.moments]
    if metric in MEANS:
        pairs = [each.mean_and_variance(metric) for each in sums]
        means, variances = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
        return SampleMeans(rows=groups.sizes, means=means, variances=variances)
    if metric in OTHERS:
        values = np.array([each.other(metric) for each in sums], dtype=np.float64)
        undefined = "no_variation" if metric == "r2_score" else "empty"
        return Plain(values=values, support=groups.sizes, undefined=undefined)
    raise ValueError(f"{metric!r} is no metric of regression; there are {', '.join(REGRESSION_METRICS)}")


def moment_disparity(
    name: str, groups: MomentGroups, overall: MomentGroups, *, alpha: float, min_support: int
) -> Disparity:
    """A gap, ratio or extreme such as ``mean_absolute_error_group_max``, as ``disparities.disparity``."""
    metric, aggregate = split_aggregate(name)
    return compare(
        name,
        aggregate=aggregate,
        estimates=moment_estimates(metric, groups),
        total=moment_estimates(metric, overall),
        by=groups.by,
        is_unknown=groups.is_unknown,
        alpha=alpha,
        min_support=min_support,
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """The sums of one group, in whole numbers of any size; ``scale`` to the first power, squares to the second."""

    n: int
    y: int
    p: int
    absolute: int
    yy: int
    pp: int
    yp: int
    scale: float

    @classmethod
    def of(cls, row: IntArray, scale: float) -> "_Sums":
        n, y, p, absolute, *words = (int(value) for value in row)
        high, low = words[0::2], words[1::2]
        yy, pp, yp = ((one << _WORD) + two for one, two in zip(high, low, strict=True))
        return cls(n, y, p, absolute, yy, pp, yp, scale)

    @property
    def squared_error(self) -> int:
        return self.pp - 2 * self.yp + self.yy

    def mean_and_variance(self, metric: str) -> tuple[float, float]:
        total, squares = {
            "mean_prediction": (self.p, self.pp),
            "mean_target": (self.y, self.yy),
            "mean_error": (self.p - self.y, self.squared_error),
            "mean_absolute_error": (self.absolute, self.squared_error),
        }[metric]
        if self.n == 0:
            return np.nan, np.nan
        spread = self.n * squares - total * total  # whole numbers: nothing cancels
        variance = spread / (self.n * (self.n - 1)) / self.scale**2 if self.n > 1 else np.nan
        return total / self.n / self.scale, variance

    def other(self, metric: str) -> float:
        if self.n == 0:
            return np.nan
        if metric == "r2_score":
            spread = self.n * self.yy - self.y * self.y
            return 1 - self.n * self.squared_error / spread if spread else np.nan
        mean = self.squared_error / self.n / self.scale**2
        return mean if metric == "mean_squared_error" else math.sqrt(mean)

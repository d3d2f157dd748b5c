"""Regression: what workers keep of the numbers a model predicts, and metrics of each group made of it.

The same sums serve the task *quality*, where each row has one number that says how good the answer to it is: it takes
the place of the prediction, and there is no target (entered as the middle of the range, and shown nowhere).

Values are taken from the middle of their range and scaled by a power of two, chosen from its width, to whole numbers
of 50 bits, so that merging is addition; see ``words``. Every metric is exact for the rounded values, which are off by
at most half a *step*: 4e-16 of the range's width.

| array | shape, dtype | holds |
| --- | --- | --- |
| moments | [cells, 26] int64 | n; sums of y, p and abs(p - y), two words each; of y*y, p*p and (p - y)**2, four words
  each; of (p - y)**4, six words; rows whose error is not 0 and was rounded to 0 |
| bins | [cells, 20, 5] int64 | by equal bins of the prediction: rows, sums of y and of p, two words each |
| book | [6] uint64 | as in ``cells``; its last two entries count rows whose target or prediction is NaN |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
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
    refuse_large,
    refuse_length,
    refuse_unknown_codes,
    shape_of,
    shaped_codes,
)
from fairlead.evaluation.disparities import Disparity, compare
from fairlead.evaluation.encoding import Encoded, digest, encode
from fairlead.evaluation.estimates import Estimates, MeanSquares, Plain, SampleMeans
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.metrics import QUALITY_METRICS, REGRESSION_METRICS, split_aggregate
from fairlead.evaluation.words import add_words, fraction_words, square_words, total, whole_words
from fairlead.workload import Attribute

MEANS = ("mean_prediction", "mean_target", "mean_error", "mean_absolute_error")
"""Metrics with Student's limits; ``mean_error`` is the prediction less the target (bias)."""
SQUARES = ("mean_squared_error", "root_mean_squared_error")
"""Metrics with limits as of a sum of squares, see ``MeanSquares``."""
BINS = 20
_FORMAT = "fairlead-moments/2"
_BITS = 50
_WIDEST = 1e60
_FEWEST_STEPS = 2**14
"""Numbers that are on average fewer steps away from each other say little beside the rounding."""
_COLUMNS = 26


class MomentState:
    """Moments of targets and predictions by cell; ``low`` and ``high``: the declared range of both.

    ``measure``: of the task quality, what is measured of each answer, such as ``bits per byte``, and ``better``: which
    end of the range is good. Raises ``ValueError`` for an empty or endless range, ambiguous attributes, and a state of
    more than 64 MB.
    """

    def __init__(
        self,
        *,
        attributes: Sequence[Attribute],
        low: float,
        high: float,
        measure: str | None = None,
        better: str = "higher",
    ) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the range of the target must be finite and not empty, not {low} to {high}")
        if not (1 / _WIDEST < high / 2 - low / 2 < _WIDEST and max(abs(low), abs(high)) < _WIDEST):
            raise ValueError(f"the range of the target, {low:g} to {high:g}, cannot be kept: take another unit")
        self.attributes, self.low, self.high = tuple(attributes), float(low), float(high)
        self.measure, self.better = measure, better
        refuse_ambiguous(self.attributes)
        cells = math.prod(shape_of(self.attributes))
        refuse_large(self.attributes, 8 * cells * (_COLUMNS + 5 * BINS))
        self._arrays: dict[str, NDArray[Any]] = {
            "book": np.zeros(6, dtype=np.uint64),
            "bins": np.zeros((cells, BINS, 5), dtype=np.int64),
            "moments": np.zeros((cells, _COLUMNS), dtype=np.int64),
        }

    @property
    def moments(self) -> IntArray:
        """Sums by cell, shape (cells, 26)."""
        return self._arrays["moments"]

    @property
    def bins(self) -> IntArray:
        """Rows and sums by cell and bin of the prediction, shape (cells, 20, 5)."""
        return self._arrays["bins"]

    @property
    def book(self) -> Book:
        """Rows seen, and what proves that they were seen once."""
        return Book(self._arrays["book"])

    @property
    def unit(self) -> "Unit":
        """What the whole numbers mean."""
        half = self.high / 2 - self.low / 2
        return Unit(centre=self.low / 2 + self.high / 2, scale=2.0 ** (_BITS - math.frexp(half)[1]))

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

    def update_quality(self, codes: ArrayLike, values: ArrayLike, *, record_hashes: ArrayLike) -> None:
        """Add how good the answers to some rows are, in place; NaN: there is no answer. Raises as ``update`` does."""
        middle = np.full(np.shape(values), self.low / 2 + self.high / 2)
        self.update(codes, middle, values, record_hashes=record_hashes)

    def merge(self, other: "MomentState") -> "MomentState":
        """The sum of both. Raises ``ValueError`` when they count different things."""
        if self._identity() != other._identity():
            raise ValueError("only states over the same attributes and the same range can be merged")
        merged = MomentState(
            attributes=self.attributes, low=self.low, high=self.high, measure=self.measure, better=self.better
        )
        merged._arrays = {name: array + other._arrays[name] for name, array in self._arrays.items()}
        merged._arrays["book"] = self.book.merged(other.book)
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
        try:
            attributes = [
                Attribute(name=str(name), levels=tuple(map(str, each))) for name, each in header["attributes"]
            ]
            state = cls(
                attributes=attributes,
                low=float(header["low"]),
                high=float(header["high"]),
                measure=header.get("measure"),
                better=str(header.get("better", "higher")),
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"these bytes are not an evaluation state: {error!r}") from error
        state._arrays = encoded.restore(state._arrays)
        state._refuse_contradictions()
        return state

    def digest(self) -> str:
        """``sha256:`` over the arrays and their meaning."""
        return digest(self._identity(), self._arrays)

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split."""
        return self.book.check_complete(expected_n=expected_n, expected_sum=expected_sum, expected_xor=expected_xor)

    def _identity(self) -> dict[str, Any]:
        attributes = [[attribute.name, list(attribute.levels)] for attribute in self.attributes]
        measured = {} if self.measure is None else {"measure": self.measure, "better": self.better}
        return {"attributes": attributes, "low": self.low, "high": self.high, **measured}

    def _refuse_contradictions(self) -> None:
        """A state from elsewhere must at least agree with itself."""
        rows = self.moments[:, 0]
        if int(rows.min(initial=0)) < 0 or int(self.bins[:, :, 0].min(initial=0)) < 0:
            raise ValueError("this evaluation state has negative counts")
        if int(rows.sum()) > self.book.n or np.any(self.bins[:, :, 0].sum(axis=1) != rows):
            raise ValueError("this evaluation state contradicts itself: its counts do not add up to its rows")

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
        at, targets, predictions = cells[kept], y[kept], p[kept]
        whole_y, whole_p = (self.unit.steps(values) for values in (targets, predictions))
        error = np.abs(whole_p - whole_y)
        fourth = np.ldexp(error.astype(np.float64), -_BITS - 1) ** 4
        lost = (error == 0) & (targets != predictions)
        one, of_y, of_p = np.ones(len(at)), whole_words(whole_y), whole_words(whole_p)
        squares = [word for values in (whole_y, whole_p, error) for word in square_words(np.abs(values))]
        more = [*whole_words(error), *squares, *fraction_words(fourth, 6), lost.astype(np.float64)]
        add_words(self.moments, at, [one, *of_y, *of_p, *more])
        place = at * BINS + self._bin(predictions)
        add_words(self.bins.reshape(-1, 5), place, [one, *of_y, *of_p])

    def _bin(self, predictions: FloatArray) -> IntArray:
        """Equal bins of the range, closed on the left; the last on both sides."""
        width = self.high / 2 - self.low / 2
        share = (predictions / 2 - self.low / 2) / width
        return np.asarray(np.clip((share * BINS).astype(np.int64), 0, BINS - 1), dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What whole numbers stand for: ``centre + number / scale``."""

    centre: float
    scale: float

    @property
    def step(self) -> float:
        """The distance of two numbers that can be told apart."""
        return 1 / self.scale

    def steps(self, values: FloatArray) -> IntArray:
        """Whole numbers of these values."""
        return np.asarray(np.rint((values - self.centre) * self.scale).astype(np.int64), dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class MomentGroups:
    """Groups of one grouping, as in ``groups.Grouping``; ``moments``: shape (groups, 26), ``bins``: (groups, 20, 5)."""

    by: tuple[str, ...]
    keys: tuple[Key, ...]
    moments: IntArray
    bins: IntArray
    unit: Unit

    @property
    def sizes(self) -> IntArray:
        """Rows of each group that have a target and a prediction."""
        return self.moments[:, 0]

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Groups with a missing level."""
        return np.array([UNKNOWN in key for key in self.keys], dtype=bool)

    @cached_property
    def sums(self) -> tuple["Sums", ...]:
        """Each group's sums."""
        return tuple(Sums.of(row, self.unit) for row in self.moments)


def moment_grouping(state: MomentState, by: Sequence[str] = ()) -> MomentGroups:
    """Sum the cells over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute."""
    keys = keys_of(state.attributes, by)
    moments = margin(state.attributes, state.moments, by)
    bins = margin(state.attributes, state.bins, by)
    chosen = listed(keys, moments[:, 0])
    return MomentGroups(
        by=tuple(by),
        keys=tuple(keys[index] for index in chosen),
        moments=moments[chosen],
        bins=bins[chosen],
        unit=state.unit,
    )


def moment_estimates(metric: str, groups: MomentGroups) -> Estimates:
    """One of ``REGRESSION_METRICS`` for each group. Raises ``ValueError`` for another."""
    if metric not in REGRESSION_METRICS + QUALITY_METRICS:
        raise ValueError(f"{metric!r} is no metric of regression; there are {', '.join(REGRESSION_METRICS)}")
    if metric == "r2_score":
        values = np.array([each.r2 for each in groups.sums], dtype=np.float64)
        return Plain(values=values, support=groups.sizes, undefined="no_variation")
    is_square = metric in SQUARES
    pairs = [each.mean_square if is_square else each.mean_and_variance(metric) for each in groups.sums]
    means, variances = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    if is_square:
        is_root = metric == "root_mean_squared_error"
        return MeanSquares(rows=groups.sizes, means=means, variances=variances, is_root=is_root)
    domain = (0.0, np.inf) if metric == "mean_absolute_error" else (-np.inf, np.inf)
    return SampleMeans(rows=groups.sizes, means=means, variances=variances, domain=domain)


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
class Sums:
    """The sums of one group, in whole numbers of any size: of steps, their squares and fourth powers."""

    n: int
    y: int
    p: int
    absolute: int
    yy: int
    pp: int
    squared_error: int
    fourth: int
    lost: int
    unit: Unit

    @classmethod
    def of(cls, row: IntArray, unit: Unit) -> "Sums":
        """From one line of ``MomentState.moments``."""
        n, *words, lost = (int(value) for value in row)
        y, p, absolute = (total(words[at : at + 2]) for at in (0, 2, 4))
        yy, pp, squared = (total(words[at : at + 4]) for at in (6, 10, 14))
        fourth = total(words[18:]) << (4 * (_BITS + 1) - 6 * 26)
        return cls(n, y, p, absolute, yy, pp, squared, fourth, lost, unit)

    @property
    def is_coarse(self) -> bool:
        """Whether errors are so small beside the range that rounding tells more than they do."""
        is_nothing = self.absolute == 0 and self.lost == 0
        return self.n > 0 and not is_nothing and self.absolute < _FEWEST_STEPS * self.n

    def mean_and_variance(self, metric: str) -> tuple[float, float]:
        """The mean of one of ``MEANS``, and the variance of one row's number; NaN where there is none."""
        sums, squares, centre = {
            "mean_prediction": (self.p, self.pp, self.unit.centre),
            "mean_quality": (self.p, self.pp, self.unit.centre),
            "mean_target": (self.y, self.yy, self.unit.centre),
            "mean_error": (self.p - self.y, self.squared_error, 0.0),
            "mean_absolute_error": (self.absolute, self.squared_error, 0.0),
        }[metric]
        is_of_errors = metric in ("mean_error", "mean_absolute_error")
        if self.n == 0 or (is_of_errors and self.is_coarse):
            return np.nan, np.nan
        spread = self.n * squares - sums * sums  # whole numbers: nothing cancels
        variance = spread / (self.n * (self.n - 1)) / self.unit.scale**2 if self.n > 1 else np.nan
        return centre + sums / self.n / self.unit.scale, variance

    @property
    def mean_square(self) -> tuple[float, float]:
        """The mean squared error, and the variance of one row's squared error; NaN where there is none."""
        if self.n == 0 or self.is_coarse:
            return np.nan, np.nan
        mean = self.squared_error / self.n / self.unit.scale**2
        if self.n == 1:
            return mean, np.nan
        spread = max(self.n * self.fourth - self.squared_error**2, 0)
        return mean, spread / (self.n * (self.n - 1)) / self.unit.scale**4

    @property
    def r2(self) -> float:
        """The coefficient of determination; NaN where targets do not vary by more than rounding."""
        spread = self.n * self.yy - self.y * self.y
        is_varied = self.n > 0 and spread >= (_FEWEST_STEPS * self.n) ** 2
        return 1 - self.n * self.squared_error / spread if is_varied else np.nan

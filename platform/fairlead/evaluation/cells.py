"""Cells, their margins, and the book of rows: what all states share.

A *cell* is one combination of the levels of all attributes, each with one more level for a missing value. The *book*
proves that every row was counted once: six unsigned numbers that are added (one of them by exclusive or).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.encoding import MAX_STATE_BYTES
from fairlead.workload import Attribute

IntArray = NDArray[np.int64]
Key = tuple[str, ...]

UNKNOWN = "__unknown__"
CHUNK_ROWS = 65_536  # weighted bincount stays exact: 2**32 * 2**16 < 2**53
_ROWS, _UNKNOWN_ROWS, _SUM, _XOR, _NAN_LABELS, _NAN_SCORES = range(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Incomplete:
    """The merged state does not hold every row of the split exactly once."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Book:
    """Rows seen, and checksums of their hashes; ``numbers``: shape (6,), kept by the state."""

    numbers: NDArray[np.uint64]

    @property
    def n(self) -> int:
        """Rows seen, those with a NaN label included."""
        return int(self.numbers[_ROWS])

    @property
    def n_unknown(self) -> int:
        """Rows with at least one unknown level."""
        return int(self.numbers[_UNKNOWN_ROWS])

    @property
    def n_nan_labels(self) -> int:
        """Rows whose label is NaN."""
        return int(self.numbers[_NAN_LABELS])

    @property
    def n_nan_scores(self) -> int:
        """Rows whose score or prediction is NaN."""
        return int(self.numbers[_NAN_SCORES])

    @property
    def record_sum(self) -> int:
        """Wrapping 64-bit sum of record hashes."""
        return int(self.numbers[_SUM])

    @property
    def record_xor(self) -> int:
        """Exclusive or of record hashes."""
        return int(self.numbers[_XOR])

    def enter(self, hashes: NDArray[np.uint64], *, unknown: int, nan_labels: int, nan_scores: int) -> None:
        """Add some rows."""
        numbers = self.numbers
        numbers[_ROWS] += np.uint64(len(hashes))
        numbers[_UNKNOWN_ROWS] += np.uint64(unknown)
        numbers[_SUM : _SUM + 1] += np.sum(hashes, dtype=np.uint64)  # arrays wrap silently, as a checksum wants
        numbers[_XOR] ^= np.bitwise_xor.reduce(hashes, initial=np.uint64(0))
        numbers[_NAN_LABELS] += np.uint64(nan_labels)
        numbers[_NAN_SCORES] += np.uint64(nan_scores)

    def merged(self, other: "Book") -> NDArray[np.uint64]:
        """The numbers of both together."""
        total = self.numbers + other.numbers
        total[_XOR] = self.numbers[_XOR] ^ other.numbers[_XOR]
        return total

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether exactly the rows of a split were seen, by number and both checksums of record hashes."""
        if (self.n, self.record_sum, self.record_xor) == (expected_n, expected_sum, expected_xor):
            return None
        what = f"{self.n} rows were counted, the split has {expected_n}"
        if self.n == expected_n:
            what = f"{self.n} rows were counted, as many as the split has, but they are not the same rows"
        advice = "evaluate each row of the split once, without padding or dropping the last batch"
        return Incomplete(reason="rows counted twice or not at all", detail=f"{what}; {advice}")


def shape_of(attributes: Sequence[Attribute]) -> tuple[int, ...]:
    """Levels of each attribute, the unknown one included."""
    return tuple(len(attribute.levels) + 1 for attribute in attributes)


def cells_of(codes: NDArray[Any], shape: tuple[int, ...], narrow: type[Any] = np.int64) -> NDArray[Any]:
    """Each row's cell; ``codes``: shape (n, attributes)."""
    cells = np.zeros(len(codes), dtype=narrow)
    for column, num_levels in enumerate(shape):
        cells *= narrow(num_levels)
        cells += codes[:, column].astype(narrow)
    return cells


def is_unknown_cell(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells with a missing level, shape (cells,)."""
    is_unknown = np.zeros(shape, dtype=bool)
    for axis, levels in enumerate(shape):
        is_unknown[(slice(None),) * axis + (levels - 1,)] = True
    return is_unknown.reshape(-1)


def keys_of(attributes: Sequence[Attribute], by: Sequence[str]) -> tuple[Key, ...]:
    """All combinations of the levels of ``by``. Raises ``ValueError`` for a name that is no attribute."""
    levels = {attribute.name: attribute.levels for attribute in attributes}
    if missing := [name for name in by if name not in levels]:
        raise ValueError(f"no attribute is called {missing[0]!r}; there are {', '.join(levels) or 'none'}")
    return tuple(product(*((*levels[name], UNKNOWN) for name in by)))


def margin(attributes: Sequence[Attribute], array: IntArray, by: Sequence[str]) -> IntArray:
    """Sum ``array``, shape (cells, *inner), over all attributes but ``by``: shape (groups, *inner)."""
    names, shape = [attribute.name for attribute in attributes], shape_of(attributes)
    axes, inner = [names.index(name) for name in by], array.shape[1:]
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    summed = array.reshape(*shape, *inner).sum(axis=others)
    kept = sorted(axes)
    order = [kept.index(axis) for axis in axes] + [len(kept) + axis for axis in range(len(inner))]
    groups = int(np.prod([shape[axis] for axis in axes], dtype=np.int64))
    result: IntArray = summed.transpose(order).reshape(groups, *inner)
    return result


def groups_of_cells(attributes: Sequence[Attribute], by: Sequence[str]) -> IntArray:
    """The group of each cell, as a place in ``keys_of``, shape (cells,)."""
    names, shape = [attribute.name for attribute in attributes], shape_of(attributes)
    cells = np.arange(int(np.prod(shape, dtype=np.int64)))
    found = np.zeros(len(cells), dtype=np.int64)
    for name in by:
        axis = names.index(name)
        inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
        found = found * shape[axis] + cells // inner % shape[axis]
    return found


def listed(keys: Sequence[Key], rows: IntArray) -> IntArray:
    """Groups worth a line: an intersection with a missing level only if it has rows."""
    is_worth = [len(key) < 2 or UNKNOWN not in key for key in keys]
    return np.flatnonzero(np.array(is_worth, dtype=bool) | (rows > 0))


def refuse_ambiguous(attributes: Sequence[Attribute]) -> None:
    """Raises ``ValueError`` for names or levels that occur twice or mean a missing value."""
    names = [attribute.name for attribute in attributes]
    if len(set(names)) != len(names):
        raise ValueError(f"an attribute is named twice: {names!r}")
    for attribute in attributes:
        if len(set(attribute.levels)) != len(attribute.levels) or UNKNOWN in attribute.levels:
            raise ValueError(f"levels of {attribute.name!r} must be unique and not {UNKNOWN!r}")


def refuse_large(attributes: Sequence[Attribute], size: int, *, what: str = "") -> None:
    """Raises ``ValueError`` for a state of more than 64 MB; ``what``: it counts beside the attributes."""
    if size > MAX_STATE_BYTES:
        levels = ", ".join(f"{a.name} ({len(a.levels)} levels)" for a in attributes)
        raise ValueError(
            f"counting {levels}{what} needs {size >> 20} MB, at most {MAX_STATE_BYTES >> 20} "
            "are allowed: use fewer attributes, or bins with fewer levels"
        )


def shaped_codes(codes: ArrayLike, *, rows: int, columns: int) -> NDArray[Any]:
    """``codes`` with shape (rows, columns). Raises ``ValueError`` for others, and for NaN."""
    values = np.asarray(codes)
    if values.size != rows * columns or (values.ndim == 2 and columns and values.shape != (rows, columns)):
        raise ValueError(f"codes have shape {values.shape}, expected ({rows}, {columns})")
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise ValueError("codes must be whole numbers; a missing level has the code after the last one")
    return values.reshape(rows, columns)


def refuse_unknown_codes(codes: NDArray[Any], attributes: Sequence[Attribute]) -> None:
    """Raises ``ValueError`` for codes that no level has; ``codes``: shape (n, attributes)."""
    for column, attribute in enumerate(attributes):
        refuse_outside(f"codes of {attribute.name}", codes[:, column], 0, len(attribute.levels))


def refuse_length(what: str, values: NDArray[Any], n: int) -> None:
    """Raises ``ValueError`` unless there is one value a row."""
    if values.shape != (n,):
        raise ValueError(f"{what} have shape {values.shape}, expected ({n},) like the labels")


def refuse_outside(what: str, values: NDArray[Any], low: int, high: int) -> None:
    """Raises ``ValueError`` for all but whole numbers of a range, and NaN."""
    if np.issubdtype(values.dtype, np.floating):
        values = values[~np.isnan(values)]
        if np.any(values != np.rint(values)):
            raise ValueError(f"{what} must be whole numbers from {low} to {high}")
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{what} must be whole numbers from {low} to {high}")

"""What a URI holds before a spec chooses from it: named columns, pictures perhaps, and who they are about.

A column is an array of shape (rows,): bool, int64, float64 (NaN is missing), or objects that are texts or None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.spec import DataKind

Column = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """All rows of one place, in memory."""

    uri: str
    num_rows: int
    columns: Mapping[str, Column] = field(default_factory=dict)
    kind: DataKind = "table"
    array: NDArray[Any] | None = None
    """What the model sees of each row where that is no columns, first dimension rows, in the units of the source:
    pictures (rows, channels, height, width), sounds (rows, samples), texts as objects (rows,)."""
    targets: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What is to be learnt of each row where that is no column, by name, first dimension rows."""
    learns: str | None = None
    """A word for what is to be learnt where no column says it, such as ``next byte``: rows then have no label."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What holds for all rows, as JSON: see ``DatasetInfo.details``."""
    blocks: NDArray[np.int64] | None = None
    """Rows with the same number were cut from one piece, such as chunks of one file: see ``splits.split_rows``."""
    ids: Column | None = None
    """Record ids of its own, such as file names."""
    target: str | None = None
    positive: str | None = None
    level_order: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Levels of columns whose natural order is not that of their texts."""
    features: tuple[str, ...] | None = None
    """What a model sees when the spec does not say; None: all columns without another role."""


def column_of(series: Any) -> Column:
    """A pandas Series as a column: numbers stay numbers, everything else becomes texts or None."""
    kind = getattr(series.dtype, "kind", "O")
    if kind == "u" and series.max() > np.iinfo(np.int64).max:
        kind = "O"  # such numbers are names
    if kind in "biuf" and isinstance(series.dtype, np.dtype):
        wide = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}[kind]
        return np.asarray(series.to_numpy(), dtype=wide)
    if kind in "biuf" and not series.isna().any():
        return np.asarray(series.to_numpy(dtype={"b": bool, "f": float}.get(kind, np.int64)))
    if kind in "biuf":
        return np.asarray(series.to_numpy(dtype=float, na_value=np.nan))
    texts = np.empty(len(series), dtype=object)
    missing = series.isna().to_numpy()
    texts[:] = [None if gone else str(value) for value, gone in zip(series, missing, strict=True)]
    return texts


def as_texts(column: Column) -> Column:
    """The column as texts, None where missing; whole numbers are written without a point."""
    if column.dtype == object:
        return column
    if column.dtype.kind == "f":
        return _objects([None if np.isnan(value) else number_text(value) for value in column.tolist()])
    return _objects([str(value) for value in column.tolist()])


def number_text(value: float) -> str:
    """A number as people write it: 40.0 is ``40``."""
    return str(int(value)) if value.is_integer() else repr(value)


def _objects(values: list[str | None]) -> Column:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def is_text(column: Column) -> bool:
    """Whether the column holds texts rather than numbers."""
    return column.dtype == object


def first_missing(column: Column) -> int | None:
    """Position of the first missing value, or None."""
    if column.dtype.kind not in "fO":
        return None
    missing = np.isnan(column) if column.dtype.kind == "f" else np.array([value is None for value in column])
    return int(np.argmax(missing)) if missing.any() else None

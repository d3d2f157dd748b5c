"""From raw columns to what a model sees: the same code while training and while predicting.

A column of numbers becomes one input. A column of texts becomes one 0/1 input for each of its levels. Nothing is
scaled here: a workload scales by the statistics of the training split and exports them with its weights. Missing
and infinite values are refused: what to put in their place is a decision about the data, not about their format.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, as_texts, column_of, first_missing, is_text
from fairlead.workload import FeatureColumn

MAX_LEVELS = 200


def describe(name: str, column: Column) -> FeatureColumn:
    """What kind of input a column makes. Raises ``ValueError`` for one no model should see as it is."""
    if not is_text(column):
        return FeatureColumn(name=name, dtype="float32")
    found: dict[str, tuple[int, int]] = {}
    for row, text in enumerate(column.tolist()):
        if text is not None:
            first, count = found.get(text, (row, 0))
            found[text] = first, count + 1
    return describe_levels(name, found)


def describe_levels(name: str, found: Mapping[str, tuple[int, int]]) -> FeatureColumn:
    """The same of a column of texts, of which are known the first row and the number of rows of each."""
    if stray := _stray_text(found):
        raise ValueError(f"row {stray[0] + 1} of column {name!r}: {stray[1]!r} is not a number")
    if len(found) > MAX_LEVELS:
        hint = "leave it out by listing data.features, or make it coarser"
        raise ValueError(f"column {name!r} holds {len(found)} different texts, more than {MAX_LEVELS}; {hint}")
    return FeatureColumn(name=name, dtype="str", levels=tuple(sorted(found)))


def _stray_text(found: Mapping[str, tuple[int, int]]) -> tuple[int, str] | None:
    """The first text in a column that is mostly numbers: a slip of the pen rather than a category."""
    stray = {text: place for text, place in found.items() if not _is_number(text)}
    num_stray, num_known = (sum(count for _, count in each.values()) for each in (stray, found))
    return min((row, text) for text, (row, _) in stray.items()) if stray and num_stray * 2 < num_known else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def width(feature: FeatureColumn) -> int:
    """How many inputs a column makes."""
    return len(feature.levels) if feature.dtype == "str" else 1


def to_matrix(
    look_up: Callable[[str], Column], features: Sequence[FeatureColumn], *, num_rows: int, first_row: int = 0
) -> NDArray[np.float32]:
    """Inputs of all rows, shape (rows, sum of widths). Raises ``ValueError`` naming row and column.

    ``first_row``: the place of the first one where they are a part of more.
    """
    matrix = np.empty((num_rows, sum(map(width, features))), dtype=np.float32)
    start = 0
    for feature in features:
        column = look_up(feature.name)
        end = start + width(feature)
        convert = _one_hot if feature.dtype == "str" else _numbers
        matrix[:, start:end] = convert(column, feature, first_row)
        start = end
    return matrix


def _numbers(column: Column, feature: FeatureColumn, first_row: int) -> NDArray[np.float32]:
    if is_text(column):
        row, text = next((row, text) for row, text in enumerate(column.tolist()) if not _is_number(text or ""))
        raise ValueError(f"row {first_row + row + 1} of column {feature.name!r}: {text!r} is not a number")
    with np.errstate(over="ignore"):
        values = column.astype(np.float32)
    _refuse_missing(column, feature, first_row)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"row {first_row + row + 1} of column {feature.name!r}: {column[row]} is not a finite 32-bit number"
        )
    return values[:, None]


def _one_hot(column: Column, feature: FeatureColumn, first_row: int) -> NDArray[np.float32]:
    _refuse_missing(column, feature, first_row)
    place = {level: position for position, level in enumerate(feature.levels)}
    codes = np.array([place.get(text, -1) for text in as_texts(column).tolist()], dtype=np.int64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        known = ", ".join(feature.levels[:10])
        raise ValueError(f"row {first_row + row + 1} of column {feature.name!r}: {column[row]!r} is not one of {known}")
    return np.eye(len(feature.levels), dtype=np.float32)[codes]


def _refuse_missing(column: Column, feature: FeatureColumn, first_row: int) -> None:
    if (row := first_missing(column)) is not None:
        hint = "fill the gaps or leave the column out by listing data.features"
        raise ValueError(f"row {first_row + row + 1} of column {feature.name!r} is missing; {hint}")


def matrix_of(frame: Any, features: Iterable[FeatureColumn | Mapping[str, Any]]) -> NDArray[np.float32]:
    """Inputs of a DataFrame of raw columns, for predicting; columns it has besides are ignored.

    ``features`` as exported in ``model.json``. Raises ``ValueError`` naming a missing column, or row and column.
    """
    wanted = [item if isinstance(item, FeatureColumn) else feature_from(item) for item in features]
    if absent := [feature.name for feature in wanted if feature.name not in frame.columns]:
        raise ValueError(f"the rows lack the columns {', '.join(absent)}")
    return to_matrix(lambda name: column_of(frame[name]), wanted, num_rows=len(frame))


def feature_from(document: Mapping[str, Any]) -> FeatureColumn:
    """A feature as ``model.json`` writes it."""
    levels = tuple(str(level) for level in document.get("levels", ()))
    return FeatureColumn(name=str(document["name"]), dtype=str(document["dtype"]), levels=levels)

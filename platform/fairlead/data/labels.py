"""From the target's column to labels: of the whole column, or of parts of it where that does not fit into memory."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, Source, as_texts, first_missing
from fairlead.data.storage import bad
from fairlead.spec import DataSpec

MAX_CLASSES = 1000


def labels_of(spec: DataSpec, source: Source, target: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Class indices and classes, or numbers and none; shape (rows,). Raises ``BadData`` naming the row."""
    column = source.columns[target]
    if spec.predict == "number":
        return numbers_of(spec, source.uri, target, column), ()
    refuse_unfit(source.uri, target, column)
    texts = as_texts(column)
    default = source.positive if target == source.target else None
    has_texts = column.dtype.kind in "Ob"
    classes = classes_of(spec, source.uri, target, set(texts.tolist()), has_texts=has_texts, positive=default)
    return indices_of(texts, classes), classes


def refuse_unfit(uri: str, target: str, column: Column, *, first_row: int = 0) -> None:
    """Raise ``BadData`` for a value that is no class. ``first_row``: where the column is a part of one."""
    _refuse_missing(uri, target, column, first_row)
    if column.dtype.kind == "f" and np.any(column != np.rint(column)):
        row = int(np.argmax(column != np.rint(column)))
        message = f"{uri}: row {first_row + row + 1} of the target {target!r} is {column[row]:g}, which is no class"
        raise bad("/data/target", message, "classes are texts or whole numbers; add a column that has them")


def _refuse_missing(uri: str, target: str, column: Column, first_row: int) -> None:
    if (row := first_missing(column)) is not None:
        message = f"{uri}: row {first_row + row + 1} of the target {target!r} is missing"
        raise bad("/data/target", message, "remove such rows or fill them in")


def classes_of(
    spec: DataSpec, uri: str, target: str, found: Collection[str], *, has_texts: bool, positive: str | None = None
) -> tuple[str, ...]:
    """All classes in their order, of the texts found. ``positive``: what it is where the spec does not say."""
    ordered = sorted(found) if has_texts else sorted(found, key=float)
    if not 2 <= len(ordered) <= MAX_CLASSES:
        what = f"one class only, {ordered[0]!r}" if len(ordered) == 1 else f"{len(ordered)} classes"
        message = f"{uri}: the target {target!r} has {what}"
        raise bad("/data/target", message, f"from 2 to {MAX_CLASSES} classes are needed")
    return _positive_last(uri, target, ordered, spec.positive or positive)


def indices_of(texts: Column, classes: Sequence[str]) -> NDArray[np.int64]:
    """The place of each text among the classes, shape (rows,)."""
    place = {name: index for index, name in enumerate(classes)}
    return np.array([place[text] for text in texts.tolist()], dtype=np.int64)


def numbers_of(spec: DataSpec, uri: str, target: str, column: Column, *, first_row: int = 0) -> NDArray[np.float64]:
    """The target as numbers, shape (rows,)."""
    _refuse_missing(uri, target, column, first_row)
    if spec.positive is not None:
        raise bad("/data/positive", f"the target {target!r} is a number, and no number is the positive class")
    if column.dtype.kind not in "biuf":
        row = next((row for row, text in enumerate(column.tolist()) if not _is_number(text)), 0)
        message = f"{uri}: row {first_row + row + 1} of the target {target!r} is {column[row]!r}, which is no number"
        raise bad("/data/target", message, "set data.predict to classes, or correct it")
    values = column.astype(np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise bad("/data/target", f"{uri}: row {first_row + row + 1} of the target {target!r} is not finite")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _positive_last(uri: str, target: str, ordered: Sequence[str], positive: str | None) -> tuple[str, ...]:
    if positive is None:
        return tuple(ordered)
    if positive not in ordered or len(ordered) != 2:
        found = ", ".join(ordered[:10])
        message = f"{uri}: the target {target!r} is not binary with a label {positive!r}; it has {found}"
        raise bad("/data/positive", message)
    return (*(name for name in ordered if name != positive), positive)

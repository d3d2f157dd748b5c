"""What files of predictions hold before a row is counted: their columns, and the classes and groups in them.

Nothing here depends on where files were cut, nor on the order of rows: values are collected, then sorted.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import number_text
from fairlead.data.groups import MAX_LEVELS, UNKNOWN, band_levels, levels_of
from fairlead.data.labels import MAX_CLASSES
from fairlead.data.prediction_files import PredictionFile, Seen, Share, deal, find_files, stamps_of, told
from fairlead.data.storage import bad
from fairlead.errors import BadData, Problem
from fairlead.evaluation.metrics import Task
from fairlead.spec import PredictionsSpec
from fairlead.workload import Attribute


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Who reads and counts together: the number of this one, how many there are, and how they tell each other."""

    number: int = 0
    of: int = 1
    gather: Callable[[Any], Sequence[Any]] = lambda value: (value,)
    """From this rank's value to those of all, in their order, the same on all of them. Collective."""


ALONE = Ranks()
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NESTED = "cannot hold a class, a group or an id; columns of texts and numbers can"


@dataclass(slots=True)
class Values:
    """The different values of one column over all files."""

    found: set[Any] = field(default_factory=set)
    """As they are in the files, missing ones left out."""
    has_texts: bool = False
    """Whether a file says that they are texts; values of CSV files are texts of which nothing is said."""

    @property
    def are_texts(self) -> bool:
        """Whether they sort as texts; else as numbers."""
        return self.has_texts or not all(_is_number(value) for value in self.found)

    @property
    def texts(self) -> set[str]:
        """Each value as people write it: 1.0 is ``1``."""
        as_numbers = not self.are_texts
        return {text_of(value, is_number=as_numbers) for value in self.found}


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What the files hold, before a row is counted."""

    spec: PredictionsSpec
    files: tuple[PredictionFile, ...]
    values: Mapping[str, Values]
    """By column: of the target, the prediction and the groups that are not bands."""
    classes: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    prediction: str | None
    """The column that has it; None: it is found from the scores."""
    scores: tuple[str, ...]
    """One column for two classes, else one a class in their order; empty: there are none."""
    shares: tuple[Share, ...]
    """What this rank reads of each file."""
    stamps: tuple[str, ...]
    """Of the files as they were then, see ``PredictionFile.stamp``."""
    ranks: Ranks = ALONE
    limits: tuple[float, float] | None = None
    """The least and the largest number of a regression."""

    @property
    def num_rows(self) -> int:
        """Of all files together."""
        return sum(file.num_rows or 0 for file in self.files)

    @property
    def task(self) -> Task:
        """What gates are checked against."""
        if (asked := self.spec.task) != "classification":
            return asked
        return "binary" if len(self.classes) == 2 else "multiclass"


def survey(
    places: Sequence[Path | str], spec: PredictionsSpec, *, ranks: Ranks = ALONE, seen: Seen = lambda rows: None
) -> Survey:
    """Find files, columns, classes and levels. Raises ``BadData`` naming the file and the column.

    Collective: each rank reads its own part, and all of them come to know the same.
    """
    files = find_files(places, seen)
    prediction, score = _chosen(spec, files)
    bands = {name: spec.columns.bins[name].column for name in spec.sensitive if name in spec.columns.bins}
    groups = [name for name in spec.sensitive if name not in bands]
    _refuse_missing_columns(spec, files, prediction, score, [*groups, *bands.values()])
    is_of_classes = spec.task == "classification"
    named = [name for name in (spec.columns.target, prediction, spec.columns.champion) if name]
    wanted = list(dict.fromkeys([*(named if is_of_classes else ()), *groups]))
    most = {name: MAX_LEVELS if name in groups else MAX_CLASSES for name in wanted}
    numbers = named if spec.task == "regression" and spec.columns.target_range is None else []
    shares = deal(files, number=ranks.number, of=ranks.of)
    look = _Look(files=files, shares=shares, most=most, numbers=numbers, target=spec.columns.target)
    found = _merged([str(file.path) for file in files], ranks.gather(look.seen(seen)), most)
    files = tuple(replace(file, num_rows=rows) for file, rows in zip(files, found.num_rows, strict=True))
    if not sum(file.num_rows or 0 for file in files):
        raise BadData(f"{listed(files)}: there are columns but no rows")
    values = found.values
    classes = _classes(spec, values[spec.columns.target]) if is_of_classes else ()
    return Survey(
        spec=spec,
        files=files,
        values=values,
        classes=classes,
        attributes=tuple(_attribute(name, spec, values) for name in spec.sensitive),
        prediction=prediction,
        scores=_score_columns(spec, files, score, classes, has_prediction=prediction is not None),
        shares=shares,
        stamps=found.stamps,
        ranks=ranks,
        limits=_limits(spec, found.extent) if spec.task == "regression" else None,
    )


# ---- one rank's part, and all together ------------------------------------------------------------------------------

Extent = tuple[float, float]
_NOTHING: Extent = (math.inf, -math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What one rank has found, file by file."""

    names: tuple[tuple[str, ...], ...]
    stamps: tuple[str, ...]
    num_rows: tuple[int | None, ...]
    """None: not read here."""
    values: Mapping[str, Values]
    extent: Extent
    """The least and the largest of the numbers asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Look:
    """What one rank reads: the values of columns ``most``, and how far those of ``numbers`` reach."""

    files: Sequence[PredictionFile]
    shares: Sequence[Share]
    most: Mapping[str, int]
    numbers: Sequence[str]
    target: str

    def seen(self, seen: Seen) -> _Seen:
        """One pass over this rank's rows."""
        stamps = stamps_of(self.files, seen)
        values, extent = {name: Values() for name in self.most}, _NOTHING
        wanted = list(dict.fromkeys([*self.most, *self.numbers])) or [self.target]
        num_rows = []
        for file, share in zip(self.files, self.shares, strict=True):
            reading = file.read(wanted, share)
            for batch in reading:
                for name in self.most:
                    _collect(values[name], file, name, batch.columns[name], most=self.most[name])
                for name in self.numbers:
                    extent = _wider(extent, _extent_of(numbers_of(file, name, batch.columns[name])))
                seen(len(batch))
            num_rows.append(reading.num_rows)
        names = tuple(file.names for file in self.files)
        return _Seen(names=names, stamps=stamps, num_rows=tuple(num_rows), values=values, extent=extent)


def _extent_of(numbers: NDArray[np.float64]) -> Extent:
    """Of finite numbers: others are refused when they are counted, which names their rows."""
    finite = numbers[np.isfinite(numbers)]
    return (float(finite.min()), float(finite.max())) if len(finite) else _NOTHING


def _wider(one: Extent, other: Extent) -> Extent:
    return min(one[0], other[0]), max(one[1], other[1])


def _limits(spec: PredictionsSpec, extent: Extent) -> Extent:
    """What is declared, else what was found; where all numbers are one, a little around it."""
    low, high = spec.columns.target_range or extent
    if low > high:
        raise bad("/columns/target", f"no row of {spec.columns.target!r} has a number", "there is nothing to measure")
    room = max(abs(low), 1.0) / 2 if low == high else 0.0
    return low - room, high + room


def _merged(paths: Sequence[str], seen: Sequence[_Seen], most: Mapping[str, int]) -> _Seen:
    """What all ranks have found together. Raises ``BadData`` where they have not seen the same files."""
    refuse_change(paths, [one.stamps for one in seen])
    refuse_change(paths, [one.names for one in seen])
    rows = [{number for one in seen if (number := one.num_rows[place]) is not None} for place in range(len(paths))]
    for path, found in zip(paths, rows, strict=True):
        if len(found) > 1:
            refuse_change([path], [[f"{number} rows"] for number in sorted(found)])
    values = {name: Values() for name in most}
    for one in seen:
        for name, part in one.values.items():
            values[name].found.update(part.found)
            values[name].has_texts |= part.has_texts
    for name, together in values.items():
        _refuse_many(together, paths[0], name, most[name])
    num_rows = tuple(next(iter(found)) for found in rows)
    extent = reduce(_wider, (one.extent for one in seen))
    return _Seen(names=seen[0].names, stamps=seen[0].stamps, num_rows=num_rows, values=values, extent=extent)


def refuse_change(paths: Sequence[str], said: Sequence[Sequence[Any]]) -> None:
    """Raise ``BadData`` where what ranks, or passes, say of the files is not the same; one sequence each."""
    for place, path in enumerate(paths):
        first, *others = [one[place] for one in said]
        if other := next((each for each in others if each != first), None):
            raise BadData(
                f"{path} changed while being read, or is not the same on every node ({first}; then {other}): "
                "evaluate again when nothing writes there"
            )


# ---- columns --------------------------------------------------------------------------------------------------------


def _chosen(spec: PredictionsSpec, files: Sequence[PredictionFile]) -> tuple[str | None, Any]:
    """The columns of predictions and scores: those named, or those called so if any file has them."""
    columns = spec.columns
    if spec.task == "regression":
        return columns.prediction or "prediction", None
    if spec.task == "ranking":
        return None, None if columns.rank is not None else columns.score or "score"
    anywhere = {name for file in files for name in file.names}

    def there(role: str) -> Any:
        name = getattr(columns, role)
        return name if columns.is_named(role) or name in anywhere else None

    prediction, score = there("prediction"), there("score")
    if prediction is None and score is None:
        message = f"{files[0].path}: there is neither a column of predictions nor one of scores"
        hint = f"name one: --column prediction=NAME or --column score=NAME; there are {_names(files[0])}"
        raise bad("/columns/prediction", message, hint)
    return prediction, score


def _refuse_missing_columns(
    spec: PredictionsSpec, files: Sequence[PredictionFile], prediction: str | None, score: Any, groups: Sequence[str]
) -> None:
    columns = spec.columns
    scores = list(score.values()) if isinstance(score, Mapping) else [score]
    asked = [("target", columns.target), ("weight", columns.weight), ("record_id", columns.record_id)]
    asked += [("query", columns.query), ("rank", columns.rank)]
    asked += [("prediction", prediction), ("champion", columns.champion), *(("score", name) for name in scores)]
    asked += [("sensitive", name) for name in groups]
    problems = tuple(
        Problem(pointer=f"/columns/{role}", message=f"{file.path}: there is no column {name!r}", suggestion=hint)
        for file in files
        for role, name in asked
        if name and name not in file.names
        for hint in [_hint(role, name, file)]
    )
    if problems:
        raise BadData("; ".join(problem.message for problem in problems[:3]), problems=problems[:20])


def _hint(role: str, name: str, file: PredictionFile) -> str:
    near = difflib.get_close_matches(name, file.names, n=1)
    how = f"; or name it: --column {role}=NAME" if role != "sensitive" else ""
    return (f"did you mean {near[0]!r}?" if near else f"there are {_names(file)}") + how


def _score_columns(
    spec: PredictionsSpec, files: Sequence[PredictionFile], score: Any, classes: Sequence[str], *, has_prediction: bool
) -> tuple[str, ...]:
    """The columns that ``score`` means for these classes."""
    if isinstance(score, Mapping):
        wanted = classes[1:] if len(classes) == 2 else classes
        strangers = [name for name in score if name not in classes]
        missing = [name for name in wanted if name not in score]
        if strangers or missing:
            what = f"{strangers[0]!r} is no class" if strangers else f"there is no column for class {missing[0]!r}"
            raise bad("/columns/score", f"score: {what}", f"the classes are {few(classes)}")
        return tuple(score[name] for name in wanted)
    if score is None or len(classes) == 2 or spec.task == "ranking":
        return () if score is None else (score,)
    if spec.columns.is_named("score") or not has_prediction:
        message = f"{files[0].path}: one column of scores, {score!r}, says too little about {len(classes)} classes"
        raise bad("/columns/score", message, f"name one for each class: score: {{{classes[0]}: COLUMN, …}}")
    return ()


# ---- classes and levels ---------------------------------------------------------------------------------------------


def _collect(values: Values, file: PredictionFile, name: str, array: Any, *, most: int) -> None:
    with told(file.path, file.format):
        distinct = [value for value in plain(file, name, array).unique().to_pylist() if not is_missing(value)]
    values.found.update(distinct)
    values.has_texts |= file.format != "CSV" and any(isinstance(value, str) for value in distinct)
    _refuse_many(values, file.path, name, most)


def _refuse_many(values: Values, path: Path | str, name: str, most: int) -> None:
    if len(values.found) > most:
        hint = (
            "if it holds scores, give it as --column score=NAME; if it holds numbers, put them into bands with bins, "
            "or, if it is what was predicted, set evaluation.task: regression"
        )
        raise BadData(f"{path}: {name!r} has more than {most} different values, too many to be groups; {hint}")


def plain(file: PredictionFile, name: str, array: Any) -> Any:
    """The array without dictionaries. Raises ``BadData`` for lists, structures and bytes."""
    import pyarrow

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    types = pyarrow.types
    if any(
        is_one(kind) for is_one in (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    ):
        raise BadData(f"{file.path}: {name!r} is of type {kind}, which {_NESTED}")
    return array


def numbers_of(file: PredictionFile, name: str, array: Any) -> NDArray[np.float64]:
    """The column as numbers, NaN where missing. Raises ``BadData`` for texts that are none."""
    import pyarrow

    values = plain(file, name, array)
    if file.format != "CSV" and (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
        raise BadData(f"{file.path}: {name!r} holds texts; numbers are needed there")
    try:
        numbers = values.cast(pyarrow.float64(), safe=False)
    except pyarrow.ArrowException as error:
        raise BadData(f"{file.path}: {name!r} does not hold numbers: {error}") from error
    return np.asarray(numbers.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


def is_missing(value: Any) -> bool:
    """Whether a value of a column says nothing: null, NaN, or the name of the unknown level."""
    return value is None or value == UNKNOWN or (isinstance(value, float) and value != value)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value.strip()) is not None
    return isinstance(value, bool | int | float)


def text_of(value: Any, *, is_number: bool) -> str:
    """A value as people write it; ``is_number``: a text is a number that a CSV file holds."""
    if isinstance(value, str) and is_number:
        text = value.strip()
        return str(int(text)) if text.lstrip("+-").isdecimal() else number_text(float(text))
    return number_text(value) if isinstance(value, float) else str(value)


def _classes(spec: PredictionsSpec, target: Values) -> tuple[str, ...]:
    columns = spec.columns
    found = target.texts
    if not found:
        raise bad("/columns/target", f"no row of {columns.target!r} has a label", "nothing can be compared with it")
    if fractions := sorted(text for text in found if not target.are_texts and not _is_whole(text)):
        message = f"{columns.target!r} holds {fractions[0]}, which is no class"
        hint = "classes are texts or whole numbers; of predicted numbers say evaluation.task: regression"
        raise bad("/columns/target", message, hint)
    classes = columns.classes or tuple(sorted(found) if target.are_texts else sorted(found, key=_order))
    if len(classes) < 2:
        message = f"all labels of {columns.target!r} are {classes[0]!r}"
        raise bad("/columns/classes", message, 'say which classes there may be: classes: ["no", "yes"]')
    if columns.positive is None:
        return classes
    if columns.positive not in classes or len(classes) != 2:
        message = f"{columns.positive!r} cannot be the positive one of the classes {few(classes)}"
        raise bad("/columns/positive", message, "it must be one of two")
    return (*(name for name in classes if name != columns.positive), columns.positive)


def _is_whole(text: str) -> bool:
    return text in ("False", "True") or text.lstrip("-").isdecimal()


def _order(text: str) -> float:
    return {"False": 0.0, "True": 1.0}[text] if text in ("False", "True") else float(text)


def _attribute(name: str, spec: PredictionsSpec, values: Mapping[str, Values]) -> Attribute:
    if name in spec.columns.bins:
        return Attribute(name=name, levels=band_levels(spec.columns.bins[name].edges))
    try:
        levels = levels_of(name, values[name].texts, has_texts=values[name].are_texts, bins="columns.bins")
    except ValueError as error:
        raise bad("/columns/sensitive", str(error)) from error
    return Attribute(name=name, levels=levels)


# ---- words ----------------------------------------------------------------------------------------------------------


def _names(file: PredictionFile) -> str:
    return few(file.names)


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def listed(files: Sequence[PredictionFile]) -> str:
    """The first file, and how many more there are."""
    first = str(files[0].path)
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more files"

"""Predictions that were made elsewhere, from files to counts.

Two passes over the files, each in batches: ``survey`` finds the classes and levels that the columns hold, ``count``
counts the rows. Nothing depends on where files were cut, nor on the order of rows: classes and levels are sorted, and
counts are added.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count as numbers_from
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import number_text
from fairlead.data.dataset import MAX_CLASSES, Task
from fairlead.data.groups import MAX_LEVELS, UNKNOWN, band_codes, band_levels, levels_of
from fairlead.data.prediction_files import PredictionFile, find_files, told
from fairlead.data.records import hash_ids
from fairlead.errors import BadData, Problem
from fairlead.evaluation import ABSTAINED, CountState
from fairlead.evaluation.keyed import splitmix64
from fairlead.evaluation.state import LARGEST_WEIGHT, WEIGHT_SCALE
from fairlead.spec import PredictionsSpec
from fairlead.workload import Attribute

Batch = Mapping[str, Any]
"""Some rows: pyarrow arrays by the names of their columns."""
Seen = Callable[[int], None]
"""Hears of so many more rows."""
_MISSING, _STRANGER = -1, -2
_SMALLEST_WEIGHT = 1e-6
_SMALLEST_MEAN_WEIGHT = 1 / 32
"""Squares of smaller ones lose more than a thousandth to rounding."""
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
    num_rows: int

    @property
    def task(self) -> Task:
        """What gates are checked against."""
        return "binary" if len(self.classes) == 2 else "multiclass"


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Counted rows."""

    state: CountState
    digest: str
    """``sha256:`` of all that was counted, in any order: it finds accidents, not forgers."""
    remarks: tuple[str, ...]
    """What a reader of the report must know."""


def survey(paths: Sequence[Path], spec: PredictionsSpec, *, seen: Seen = lambda rows: None) -> Survey:
    """Find files, columns, classes and levels. Raises ``BadData`` naming the file and the column."""
    files = find_files(paths)
    prediction, score = _chosen(spec, files)
    bands = {name: spec.columns.bins[name].column for name in spec.sensitive if name in spec.columns.bins}
    groups = [name for name in spec.sensitive if name not in bands]
    _refuse_missing_columns(spec, files, prediction, score, [*groups, *bands.values()])
    wanted = list(dict.fromkeys([spec.columns.target, *([prediction] if prediction else []), *groups]))
    values: dict[str, Values] = {name: Values() for name in wanted}
    num_rows = 0
    for file in files:
        for batch in file.batches(wanted):
            for name, array in batch.items():
                _collect(values[name], file, name, array, most=MAX_LEVELS if name in groups else MAX_CLASSES)
            num_rows += len(batch[spec.columns.target])
            seen(len(batch[spec.columns.target]))
    if not num_rows:
        raise BadData(f"{_listed(files)}: there are columns but no rows")
    classes = _classes(spec, values[spec.columns.target])
    return Survey(
        spec=spec,
        files=files,
        values=values,
        classes=classes,
        attributes=tuple(_attribute(name, spec, values) for name in spec.sensitive),
        prediction=prediction,
        scores=_score_columns(spec, files, score, classes, has_prediction=prediction is not None),
        num_rows=num_rows,
    )


def count(found: Survey, *, seen: Seen = lambda rows: None) -> Predictions:
    """Count every row. Raises ``BadData`` naming file, row and column of what cannot be counted."""
    counting = _Counting(found)
    for file in found.files:
        for rows in _rows(found, file):
            counting.add(rows)
            seen(len(rows.labels))
    return counting.concluded()


# ---- columns --------------------------------------------------------------------------------------------------------


def _chosen(spec: PredictionsSpec, files: Sequence[PredictionFile]) -> tuple[str | None, Any]:
    """The columns of predictions and scores: those named, or those called so if any file has them."""
    columns = spec.columns
    anywhere = {name for file in files for name in file.names}

    def there(role: str) -> Any:
        name = getattr(columns, role)
        return name if columns.is_named(role) or name in anywhere else None

    prediction, score = there("prediction"), there("score")
    if prediction is None and score is None:
        message = f"{files[0].path}: there is neither a column of predictions nor one of scores"
        hint = f"name one: --column prediction=NAME or --column score=NAME; there are {_names(files[0])}"
        raise _bad("/columns/prediction", message, hint)
    return prediction, score


def _refuse_missing_columns(
    spec: PredictionsSpec, files: Sequence[PredictionFile], prediction: str | None, score: Any, groups: Sequence[str]
) -> None:
    columns = spec.columns
    scores = list(score.values()) if isinstance(score, Mapping) else [score]
    asked = [("target", columns.target), ("weight", columns.weight), ("record_id", columns.record_id)]
    asked += [("prediction", prediction), *(("score", name) for name in scores)]
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
            raise _bad("/columns/score", f"score: {what}", f"the classes are {_few(classes)}")
        return tuple(score[name] for name in wanted)
    if score is None or len(classes) == 2:
        return () if score is None else (score,)
    if spec.columns.is_named("score") or not has_prediction:
        message = f"{files[0].path}: one column of scores, {score!r}, says too little about {len(classes)} classes"
        raise _bad("/columns/score", message, f"name one for each class: score: {{{classes[0]}: COLUMN, …}}")
    return ()


# ---- classes and levels ---------------------------------------------------------------------------------------------


def _collect(values: Values, file: PredictionFile, name: str, array: Any, *, most: int) -> None:
    with told(file.path, file.format):
        distinct = [value for value in _plain(file, name, array).unique().to_pylist() if not _is_missing(value)]
    values.found.update(distinct)
    values.has_texts |= file.format != "CSV" and any(isinstance(value, str) for value in distinct)
    if len(values.found) > most:
        hint = "if it holds scores, give it as --column score=NAME; if it holds numbers, put them into bands with bins"
        raise BadData(f"{file.path}: {name!r} has more than {most} different values, too many to be groups; {hint}")


def _plain(file: PredictionFile, name: str, array: Any) -> Any:
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


def _is_missing(value: Any) -> bool:
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
        raise _bad("/columns/target", f"no row of {columns.target!r} has a label", "nothing can be compared with it")
    if fractions := sorted(text for text in found if not target.are_texts and not _is_whole(text)):
        message = f"{columns.target!r} holds {fractions[0]}, which is no class"
        raise _bad("/columns/target", message, "classes are texts or whole numbers")
    classes = columns.classes or tuple(sorted(found) if target.are_texts else sorted(found, key=_order))
    if len(classes) < 2:
        message = f"all labels of {columns.target!r} are {classes[0]!r}"
        raise _bad("/columns/classes", message, 'say which classes there may be: classes: ["no", "yes"]')
    if columns.positive is None:
        return classes
    if columns.positive not in classes or len(classes) != 2:
        message = f"{columns.positive!r} cannot be the positive one of the classes {_few(classes)}"
        raise _bad("/columns/positive", message, "it must be one of two")
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
        raise _bad("/columns/sensitive", str(error)) from error
    return Attribute(name=name, levels=levels)


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """One batch as numbers, missing ones -1 or NaN."""

    codes: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64] | None
    scores: NDArray[np.float64] | None
    weights: NDArray[np.float64] | None
    hashes: NDArray[np.uint64] | None


class _Place:
    """Where in a file a batch lies: refusals name the row."""

    def __init__(self, file: PredictionFile, first: int) -> None:
        self.file, self.first = file, first

    def refuse(self, is_bad: NDArray[np.bool_], name: str, array: Any, why: str) -> None:
        """Raises ``BadData`` for the first bad row, if there is one."""
        if is_bad.any():
            row = int(np.argmax(is_bad))
            shown = str(array[row].as_py())[:60]
            raise BadData(f"{self.file.path}: row {self.first + row + 1} of {name!r} is {shown}{why}")


def _rows(found: Survey, file: PredictionFile) -> Iterator[_Rows]:
    columns = found.spec.columns
    bands = {name: spec.column for name, spec in columns.bins.items()}
    groups = [bands.get(attribute.name, attribute.name) for attribute in found.attributes]
    roles = [columns.target, found.prediction, columns.weight, columns.record_id, *found.scores, *groups]
    names = list(dict.fromkeys(name for name in roles if name is not None))
    classes = {name: index for index, name in enumerate(found.classes)}
    first = 0
    for batch in file.batches(names):
        at = _Place(file, first)
        first += len(batch[columns.target])
        labels = _places(batch[columns.target], columns.target, classes, found.values[columns.target], at)
        yield _Rows(
            codes=_group_codes(found, batch, at),
            labels=labels,
            predictions=_predicted(found, batch, classes, at),
            scores=_scores(found, batch, at),
            weights=None if columns.weight is None else _weights(columns.weight, batch[columns.weight], at),
            hashes=None if columns.record_id is None else _hashes(columns.record_id, batch[columns.record_id], at),
        )


def _predicted(found: Survey, batch: Batch, classes: Mapping[str, int], at: _Place) -> NDArray[np.int64] | None:
    name = found.prediction
    return None if name is None else _places(batch[name], name, classes, found.values[name], at)


def _places(array: Any, name: str, classes: Mapping[str, int], values: Values, at: _Place) -> NDArray[np.int64]:
    """Class indices, -1 where missing. Raises ``BadData`` for a value that is no class."""
    places = _looked_up(at.file, name, array, classes, values)
    listed = _few(tuple(classes))
    advice = f", which is none of the classes {listed}; give them all as columns.classes, or correct the data"
    at.refuse(places == _STRANGER, name, array, advice)
    return places


def _looked_up(
    file: PredictionFile, name: str, array: Any, places: Mapping[str, int], values: Values
) -> NDArray[np.int64]:
    """The place of each value, -1 where missing and -2 where there is none; each different value is read once."""
    with told(file.path, file.format):
        encoded = _plain(file, name, array).dictionary_encode()
    is_number = not values.are_texts
    of_distinct = [
        _MISSING if _is_missing(value) else places.get(text_of(value, is_number=is_number), _STRANGER)
        for value in encoded.dictionary.to_pylist()
    ]
    indices = encoded.indices.fill_null(len(of_distinct)).to_numpy(zero_copy_only=False)
    return np.array([*of_distinct, _MISSING], dtype=np.int64)[indices]


def _group_codes(found: Survey, batch: Batch, at: _Place) -> NDArray[np.int64]:
    columns = []
    for attribute in found.attributes:
        if attribute.name in found.spec.columns.bins:
            spec = found.spec.columns.bins[attribute.name]
            columns.append(band_codes(_numbers(spec.column, batch[spec.column], at), spec.edges).astype(np.int64))
            continue
        name = attribute.name
        places = {level: code for code, level in enumerate(attribute.levels)}
        codes = _looked_up(at.file, name, batch[name], places, found.values[name])
        at.refuse(codes == _STRANGER, name, batch[name], ", which was not there when the file was read first")
        columns.append(np.where(codes == _MISSING, len(attribute.levels), codes))
    rows = len(batch[found.spec.columns.target])
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0), dtype=np.int64)


def _numbers(name: str, array: Any, at: _Place) -> NDArray[np.float64]:
    """The column as numbers, NaN where missing. Raises ``BadData`` for texts that are none."""
    import pyarrow

    plain = _plain(at.file, name, array)
    if at.file.format != "CSV" and (pyarrow.types.is_string(plain.type) or pyarrow.types.is_large_string(plain.type)):
        raise BadData(f"{at.file.path}: {name!r} holds texts; numbers are needed there")
    try:
        numbers = plain.cast(pyarrow.float64(), safe=False)
    except pyarrow.ArrowException as error:
        raise BadData(f"{at.file.path}: {name!r} does not hold numbers: {error}") from error
    return np.asarray(numbers.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


def _scores(found: Survey, batch: Batch, at: _Place) -> NDArray[np.float64] | None:
    """Shape (rows,) for two classes, else (rows, classes); None without scores."""
    if not found.scores:
        return None
    columns = []
    for name in found.scores:
        values = _numbers(name, batch[name], at)
        advice = "; scores must lie in [0, 1]: apply a sigmoid or softmax first, or name another column as score"
        at.refuse((values < 0) | (values > 1), name, batch[name], advice)
        columns.append(values + 0.0)  # no negative zero
    return columns[0] if len(found.classes) == 2 else np.stack(columns, axis=1)


def _weights(name: str, array: Any, at: _Place) -> NDArray[np.float64]:
    values = _numbers(name, array, at)
    at.refuse(~np.isfinite(values), name, array, "; every row needs a weight: give it one, or leave it out")
    at.refuse(values < 0, name, array, "; weights must not be negative")
    advice = "; divide the weights by their mean: they are counted from {:g} to {:g}, and 0"
    advice = advice.format(_SMALLEST_WEIGHT, LARGEST_WEIGHT)
    at.refuse((values > LARGEST_WEIGHT) | ((values > 0) & (values < _SMALLEST_WEIGHT)), name, array, advice)
    return values + 0.0


def _hashes(name: str, array: Any, at: _Place) -> NDArray[np.uint64]:
    values = _plain(at.file, name, array).to_pylist()
    is_missing = np.array([_is_missing(value) for value in values], dtype=bool)
    at.refuse(is_missing, name, array, "; every row needs an id, or name no record_id")
    return hash_ids(text_of(value, is_number=False) for value in values)


# ---- counting -------------------------------------------------------------------------------------------------------


class _Counting:
    """The sums over all batches."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._threshold = found.spec.evaluation.threshold
        has_weights = found.spec.columns.weight is not None
        try:
            self._state = CountState(
                attributes=found.attributes,
                classes=found.classes,
                has_scores=bool(found.scores),
                has_weights=has_weights,
            )
        except ValueError as error:
            hint = "; without scores it needs far less: columns: {score: null}" if found.scores else ""
            raise BadData(f"{error}{hint}") from error
        self._hashes: list[NDArray[np.uint64]] = []
        self._sums = np.zeros(2, dtype=np.uint64)
        self._num_disagreeing = 0

    def add(self, rows: _Rows) -> None:
        """Count one batch."""
        hashes = rows.hashes
        if hashes is None:
            start = self._state.n
            hashes = np.arange(start, start + len(rows.labels), dtype=np.uint64)
        else:
            self._hashes.append(hashes)
        said = self._said_by_scores(rows.scores)
        predictions = said if rows.predictions is None else rows.predictions
        assert predictions is not None, "a survey finds one of the two"
        if rows.predictions is not None and said is not None:
            differ = (rows.predictions != said) & (rows.predictions != ABSTAINED) & (said != ABSTAINED)
            self._num_disagreeing += int(differ.sum())
        self._sums += _digests(rows)
        self._state.update(
            rows.codes,
            np.where(rows.labels == _MISSING, np.nan, rows.labels),
            predictions,
            record_hashes=hashes,
            scores=rows.scores,
            weights=rows.weights,
        )

    def concluded(self) -> Predictions:
        """Everything together. Raises ``BadData`` for rows that were there twice."""
        found, state = self._found, self._state
        if state.n != found.num_rows:
            raise BadData(f"{_listed(found.files)} changed while being read: evaluate again when nothing writes there")
        self._refuse_repeated_ids()
        self._refuse_small_weights()
        content = [list(found.classes), [[a.name, list(a.levels)] for a in found.attributes], self._sums.tolist()]
        digest = hashlib.sha256(json.dumps([state.n, *content]).encode()).hexdigest()
        return Predictions(state=state, digest=f"sha256:{digest}", remarks=tuple(self._remarks()))

    def _said_by_scores(self, scores: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
        if scores is None:
            return None
        if scores.ndim == 1:
            return np.where(np.isnan(scores), ABSTAINED, (scores >= self._threshold).astype(np.int64))
        is_missing = np.isnan(scores).any(axis=1)
        return np.where(is_missing, ABSTAINED, np.nan_to_num(scores).argmax(axis=1))

    def _refuse_repeated_ids(self) -> None:
        if not self._hashes:
            return
        different, times = np.unique(np.concatenate(self._hashes), return_counts=True)
        if not (times > 1).any():
            return
        name = str(self._found.spec.columns.record_id)
        where = _where_is(self._found, name, different[times > 1][0])
        more = int((times > 1).sum()) - 1
        also = f", and {more} more ids do" if more else ""
        raise BadData(f"{name!r} names one row, but {where} occurs more than once{also}; keep one row of each")

    def _refuse_small_weights(self) -> None:
        """Fixed point says little about weights whose mean is far from 1."""
        if self._state.weights is None or not self._state.counts.any():
            return
        name, mean = self._found.spec.columns.weight, self._mean_weight()
        if mean == 0:
            raise BadData(f"all weights in {name!r} are 0: there is nothing to measure")
        if mean < _SMALLEST_MEAN_WEIGHT:
            raise BadData(
                f"the mean of {name!r} is {mean:.3g}; divide all weights by it: small ones are counted coarsely"
            )

    def _mean_weight(self) -> float:
        """Of rows that have one above 0."""
        state = self._state
        assert state.weights is not None, "asked by the caller"
        rows = int(state.counts.sum()) - state.n_zero_weights
        return float(state.weights.sum()) / WEIGHT_SCALE / rows if rows else 0.0

    def _remarks(self) -> Iterator[str]:
        found = self._found
        yield "Predictions were made elsewhere: labels, groups and predictions are taken as the files have them."
        if found.spec.columns.record_id is None:
            yield "Rows have no record ids: whether one was counted twice cannot be told."
        if self._num_disagreeing:
            rule = f"the threshold {self._threshold:g}" if len(found.classes) == 2 else "the highest score"
            number = self._num_disagreeing
            yield f"In {number} rows the prediction is not what the scores and {rule} say; the prediction counts."
        for attribute in found.attributes:
            if not attribute.levels:
                yield f"No row has a value of {attribute.name}: nothing can be compared by it."


def _digests(rows: _Rows) -> NDArray[np.uint64]:
    """Two sums over rows, shape (2,), in which every value of a row is mixed; the order of rows plays no part."""
    columns: list[NDArray[Any]] = [rows.labels, *rows.codes.T]
    columns += [column for column in (rows.predictions, rows.weights, rows.hashes) if column is not None]
    if rows.scores is not None:
        columns += list(np.nan_to_num(rows.scores, nan=-1.0).reshape(len(rows.labels), -1).T)
    sums = []
    for lane in (1, 2):
        mixed = np.full(len(rows.labels), lane, dtype=np.uint64)
        for column in columns:
            mixed = splitmix64(mixed ^ np.ascontiguousarray(column).view(np.uint64))
        sums.append(np.sum(mixed, dtype=np.uint64))
    return np.array(sums, dtype=np.uint64)


def _where_is(found: Survey, name: str, wanted: np.uint64) -> str:
    """The id with this hash, and its first file and row."""
    for file in found.files:
        rows = numbers_from(1)
        for batch in file.batches([name]):
            for value, row in zip(batch[name].to_pylist(), rows, strict=False):
                if hash_ids([text_of(value, is_number=False)])[0] == wanted:
                    return f"{text_of(value, is_number=False)!r} ({file.path}, row {row})"
    return "an id"


# ---- words ----------------------------------------------------------------------------------------------------------


def _bad(pointer: str, message: str, suggestion: str | None = None) -> BadData:
    text = f"{message}; {suggestion}" if suggestion else message
    return BadData(text, problems=(Problem(pointer=pointer, message=message, suggestion=suggestion),))


def _names(file: PredictionFile) -> str:
    return _few(file.names)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def _listed(files: Sequence[PredictionFile]) -> str:
    first = str(files[0].path)
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more files"

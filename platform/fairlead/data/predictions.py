"""Predictions that were made elsewhere, from files to counts.

Two passes over the files, each in batches: ``survey`` finds the classes and levels that the columns hold, ``count``
counts the rows. Counts are added, so they depend neither on where files were cut nor on the order of rows.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.groups import band_codes
from fairlead.data.prediction_files import PredictionFile, Seen, Share, stamps_of, told
from fairlead.data.prediction_survey import (
    ALONE,
    Ranks,
    Survey,
    Values,
    few,
    is_missing,
    plain,
    refuse_change,
    survey,
    text_of,
)
from fairlead.data.records import Book, book_of, hash_ids
from fairlead.errors import BadData, BadSpec, Problem
from fairlead.evaluation import ABSTAINED, CountState, problem_with_gate
from fairlead.evaluation.champion import problem_with_champion
from fairlead.evaluation.keyed import splitmix64
from fairlead.evaluation.state import LARGEST_WEIGHT, WEIGHT_SCALE

__all__ = ["ALONE", "Predictions", "Ranks", "Survey", "count", "refuse_hopeless_gates", "survey"]

Columns = Mapping[str, Any]
"""Some rows: pyarrow arrays by the names of their columns."""
_MISSING, _STRANGER = -1, -2
_PORTION_ROWS = 2**20
_SMALLEST_WEIGHT = 1e-6
_SMALLEST_MEAN_WEIGHT = 1 / 32
"""Squares of smaller ones lose more than a thousandth to rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Counted rows."""

    state: CountState
    """Those that this rank has counted; all of them where it is alone."""
    book: Book
    """What the rows of all ranks add up to when each was counted once."""
    digest: str
    """``sha256:`` of all that was counted, in any order: it finds accidents, not forgers."""
    remarks: tuple[str, ...]
    """What a reader of the report must know."""


def count(found: Survey, *, seen: Seen = lambda rows: None) -> Predictions:
    """Count every row of this rank's share. Raises ``BadData`` naming file, row and column of what cannot be counted.

    Collective: what is known of all rows together is the same on all ranks.
    """
    counting = _Counting(found)
    before = 0
    for file, share in zip(found.files, found.shares, strict=True):
        for rows in _rows(found, file, share, before):
            counting.add(rows)
            seen(len(rows.labels))
        before += file.num_rows or 0
    return counting.concluded(seen)


def refuse_hopeless_gates(found: Survey) -> None:
    """Gates that no number of rows could decide, before all rows are counted. Raises ``BadSpec``."""
    task, names = found.task, [attribute.name for attribute in found.attributes]
    without_champion = problem_with_champion(found.spec.columns, None)
    reasons = [
        problem_with_gate(gate, task=task, attributes=names)
        or (without_champion if gate.requirement.is_relative else None)
        for gate in found.spec.gates
    ]
    problems = tuple(
        Problem(pointer=f"/gates/{index}", message=reason) for index, reason in enumerate(reasons) if reason
    )
    if problems:
        raise BadSpec(problems[0].message, problems=problems)


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """One batch as numbers, missing ones -1 or NaN."""

    codes: NDArray[np.int64]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64] | None
    champion: NDArray[np.int64] | None
    scores: NDArray[np.float64] | None
    weights: NDArray[np.float64] | None
    hashes: NDArray[np.uint64]
    """Of the record ids; without any, the places of the rows over all files."""


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


def _rows(found: Survey, file: PredictionFile, share: Share, before: int) -> Iterator[_Rows]:
    """The rows of a share, batch by batch; ``before``: rows of the files before this one."""
    columns = found.spec.columns
    bands = {name: spec.column for name, spec in columns.bins.items()}
    groups = [bands.get(attribute.name, attribute.name) for attribute in found.attributes]
    roles = [
        columns.target,
        found.prediction,
        columns.champion,
        columns.weight,
        columns.record_id,
        *found.scores,
        *groups,
    ]
    names = list(dict.fromkeys(name for name in roles if name is not None))
    classes = {name: index for index, name in enumerate(found.classes)}
    reading = file.read(names, share)
    for batch in reading:
        at, arrays = _Place(file, batch.first), batch.columns
        places = np.arange(before + batch.first, before + batch.first + len(batch), dtype=np.uint64)
        yield _Rows(
            codes=_group_codes(found, arrays, at),
            labels=_places(arrays[columns.target], columns.target, classes, found.values[columns.target], at),
            predictions=_predicted(found, found.prediction, arrays, classes, at),
            champion=_predicted(found, columns.champion, arrays, classes, at),
            scores=_scores(found, arrays, at),
            weights=None if columns.weight is None else _weights(columns.weight, arrays[columns.weight], at),
            hashes=places if columns.record_id is None else _hashes(columns.record_id, arrays[columns.record_id], at),
        )
    if reading.num_rows not in (None, file.num_rows):
        refuse_change([str(file.path)], [[f"{file.num_rows} rows"], [f"{reading.num_rows} rows"]])


def _predicted(
    found: Survey, name: str | None, batch: Columns, classes: Mapping[str, int], at: _Place
) -> NDArray[np.int64] | None:
    return None if name is None else _places(batch[name], name, classes, found.values[name], at)


def _places(array: Any, name: str, classes: Mapping[str, int], values: Values, at: _Place) -> NDArray[np.int64]:
    """Class indices, -1 where missing. Raises ``BadData`` for a value that is no class."""
    places = _looked_up(at.file, name, array, classes, values)
    known = few(tuple(classes))
    advice = f", which is none of the classes {known}; give them all as columns.classes, or correct the data"
    at.refuse(places == _STRANGER, name, array, advice)
    return places


def _looked_up(
    file: PredictionFile, name: str, array: Any, places: Mapping[str, int], values: Values
) -> NDArray[np.int64]:
    """The place of each value, -1 where missing and -2 where there is none; each different value is read once."""
    with told(file.path, file.format):
        encoded = plain(file, name, array).dictionary_encode()
    is_number = not values.are_texts
    of_distinct = [
        _MISSING if is_missing(value) else places.get(text_of(value, is_number=is_number), _STRANGER)
        for value in encoded.dictionary.to_pylist()
    ]
    indices = encoded.indices.fill_null(len(of_distinct)).to_numpy(zero_copy_only=False)
    return np.array([*of_distinct, _MISSING], dtype=np.int64)[indices]


def _group_codes(found: Survey, batch: Columns, at: _Place) -> NDArray[np.int64]:
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

    values = plain(at.file, name, array)
    if at.file.format != "CSV" and (pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type)):
        raise BadData(f"{at.file.path}: {name!r} holds texts; numbers are needed there")
    try:
        numbers = values.cast(pyarrow.float64(), safe=False)
    except pyarrow.ArrowException as error:
        raise BadData(f"{at.file.path}: {name!r} does not hold numbers: {error}") from error
    return np.asarray(numbers.fill_null(np.nan).to_numpy(zero_copy_only=False), dtype=np.float64)


def _scores(found: Survey, batch: Columns, at: _Place) -> NDArray[np.float64] | None:
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
    values = plain(at.file, name, array).to_pylist()
    is_absent = np.array([is_missing(value) for value in values], dtype=bool)
    at.refuse(is_absent, name, array, "; every row needs an id, or name no record_id")
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
                has_champion=found.spec.columns.champion is not None,
                has_losses=bool(found.scores),
            )
        except ValueError as error:
            hint = "; without scores it needs far less: columns: {score: null}" if found.scores else ""
            raise BadData(f"{error}{hint}") from error
        self._has_ids = found.spec.columns.record_id is not None
        self._book = book_of(np.empty(0, dtype=np.uint64))
        self._hashes: list[NDArray[np.uint64]] = []
        """Of all record ids so far; nothing else is kept of a row."""
        self._sums = np.zeros(2, dtype=np.uint64)
        self._num_disagreeing = 0

    def add(self, rows: _Rows) -> None:
        """Count one batch."""
        self._book = _added([self._book, book_of(rows.hashes)])
        if self._has_ids:
            self._hashes.append(rows.hashes)
        said = self._said_by_scores(rows.scores)
        predictions = said if rows.predictions is None else rows.predictions
        assert predictions is not None, "a survey finds one of the two"
        if rows.predictions is not None and said is not None:
            differ = (rows.predictions != said) & (rows.predictions != ABSTAINED) & (said != ABSTAINED)
            self._num_disagreeing += int(differ.sum())
        self._sums += _digests(rows, has_ids=self._has_ids)
        self._state.update(
            rows.codes,
            np.where(rows.labels == _MISSING, np.nan, rows.labels),
            predictions,
            record_hashes=rows.hashes,
            scores=rows.scores,
            weights=rows.weights,
            champion=rows.champion,
        )

    def concluded(self, seen: Seen) -> Predictions:
        """Everything together. Raises ``BadData`` for rows that were there twice, and for files that have changed."""
        found, state = self._found, self._state
        parts: Sequence[_Part] = found.ranks.gather(_Part.of(state, self._book, self._sums, self._num_disagreeing))
        paths = [str(file.path) for file in found.files]
        for stamps in found.ranks.gather(stamps_of(found.files, seen)):
            refuse_change(paths, [found.stamps, stamps])
        book = _added([part.book for part in parts])
        if book.num_records != found.num_rows:
            refuse_change(paths[:1], [[f"{found.num_rows} rows"], [f"{book.num_records} rows"]])
        if self._has_ids:
            _refuse_repeated_ids(found, self._hashes, seen)
        self._refuse_small_weights(parts)
        sums = sum((part.sums for part in parts), np.zeros(2, dtype=np.uint64))
        content = [list(found.classes), [[a.name, list(a.levels)] for a in found.attributes], sums.tolist()]
        digest = hashlib.sha256(json.dumps([book.num_records, *content]).encode()).hexdigest()
        num_disagreeing = sum(part.num_disagreeing for part in parts)
        remarks = tuple(self._remarks(num_disagreeing))
        return Predictions(state=state, book=book, digest=f"sha256:{digest}", remarks=remarks)

    def _said_by_scores(self, scores: NDArray[np.float64] | None) -> NDArray[np.int64] | None:
        if scores is None:
            return None
        if scores.ndim == 1:
            return np.where(np.isnan(scores), ABSTAINED, (scores >= self._threshold).astype(np.int64))
        is_absent = np.isnan(scores).any(axis=1)
        return np.where(is_absent, ABSTAINED, np.nan_to_num(scores).argmax(axis=1))

    def _refuse_small_weights(self, parts: Sequence["_Part"]) -> None:
        """Fixed point says little about weights whose mean is far from 1."""
        name = self._found.spec.columns.weight
        if name is None or not any(part.num_counted for part in parts):
            return
        rows = sum(part.num_weighted for part in parts)  # those that have one above 0
        mean = sum(part.weight for part in parts) / WEIGHT_SCALE / rows if rows else 0.0
        if mean == 0:
            raise BadData(f"all weights in {name!r} are 0: there is nothing to measure")
        if mean < _SMALLEST_MEAN_WEIGHT:
            raise BadData(
                f"the mean of {name!r} is {mean:.3g}; divide all weights by it: small ones are counted coarsely"
            )

    def _remarks(self, num_disagreeing: int) -> Iterator[str]:
        found = self._found
        yield "Predictions were made elsewhere: labels, groups and predictions are taken as the files have them."
        if found.spec.columns.record_id is None:
            yield "Rows have no record ids: whether one was counted twice cannot be told."
        if num_disagreeing:
            rule = f"the threshold {self._threshold:g}" if len(found.classes) == 2 else "the highest score"
            number = num_disagreeing
            yield f"In {number} rows the prediction is not what the scores and {rule} say; the prediction counts."
        for attribute in found.attributes:
            if not attribute.levels:
                yield f"No row has a value of {attribute.name}: nothing can be compared by it."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one rank tells the others of the rows that it has counted."""

    book: Book
    sums: NDArray[np.uint64]
    num_disagreeing: int
    num_counted: int
    num_weighted: int
    weight: int
    """Sum of all weights, times 2**32."""

    @classmethod
    def of(cls, state: CountState, book: Book, sums: NDArray[np.uint64], num_disagreeing: int) -> "_Part":
        num_counted = int(state.counts.sum())
        return cls(
            book=book,
            sums=sums,
            num_disagreeing=num_disagreeing,
            num_counted=num_counted,
            num_weighted=num_counted - state.n_zero_weights,
            weight=0 if state.weights is None else int(state.weights.sum()),
        )


def _added(books: Sequence[Book]) -> Book:
    return Book(
        num_records=sum(book.num_records for book in books),
        hash_sum=sum(book.hash_sum for book in books) % 2**64,
        hash_xor=reduce(xor, (book.hash_xor for book in books)),
    )


def _refuse_repeated_ids(found: Survey, hashes: Sequence[NDArray[np.uint64]], seen: Seen) -> None:
    """Raise ``BadData`` for an id that occurs more than once on any ranks. Collective.

    The hashes go round in portions, each looked at by one rank: none ever holds those of all rows.
    """
    ranks, repeated = found.ranks, [np.empty(0, dtype=np.uint64)]
    portions = ranks.of * -(-found.num_rows // (ranks.of * _PORTION_ROWS))
    for portion in range(portions):
        own = [part[part % np.uint64(portions) == portion] for part in hashes]
        gathered = ranks.gather(np.concatenate([np.empty(0, dtype=np.uint64), *own]))
        if portion % ranks.of == ranks.number:
            different, times = np.unique(np.concatenate(gathered), return_counts=True)
            repeated.append(different[times > 1])
        seen(0)
    all_repeated = np.sort(np.concatenate(ranks.gather(np.concatenate(repeated))))
    if len(all_repeated):
        name = str(found.spec.columns.record_id)
        first = _where_is(found, name, all_repeated[0], seen) if ranks.number == 0 else ""
        where, more = ranks.gather(first)[0], len(all_repeated) - 1
        also = f", and {more} more ids do" if more else ""
        raise BadData(f"{name!r} names one row, but {where} occurs more than once{also}; keep one row of each")


def _digests(rows: _Rows, *, has_ids: bool) -> NDArray[np.uint64]:
    """Two sums over rows, shape (2,), in which every value of a row is mixed; the order of rows plays no part."""
    columns: list[NDArray[Any]] = [rows.labels, *rows.codes.T]
    columns += [column for column in (rows.predictions, rows.weights, rows.champion) if column is not None]
    columns += [rows.hashes] if has_ids else []
    if rows.scores is not None:
        columns += list(np.nan_to_num(rows.scores, nan=-1.0).reshape(len(rows.labels), -1).T)
    sums = []
    for lane in (1, 2):
        mixed = np.full(len(rows.labels), lane, dtype=np.uint64)
        for column in columns:
            mixed = splitmix64(mixed ^ np.ascontiguousarray(column).view(np.uint64))
        sums.append(np.sum(mixed, dtype=np.uint64))
    return np.array(sums, dtype=np.uint64)


def _where_is(found: Survey, name: str, wanted: np.uint64, seen: Seen) -> str:
    """The id with this hash, and its first file and row."""
    for file in found.files:
        for batch in file.read([name]):
            for row, value in enumerate(batch.columns[name].to_pylist(), start=batch.first + 1):
                if hash_ids([text_of(value, is_number=False)])[0] == wanted:
                    return f"{text_of(value, is_number=False)!r} ({file.path}, row {row})"
            seen(0)
    return "an id"

"""Predictions that were made elsewhere, from files to counts.

Two passes over the files, each in batches: ``survey`` finds the classes and levels that the columns hold, ``count``
counts the rows. Counts are added, so they depend neither on where files were cut nor on the order of rows. Classes are
counted here, numbers and lists in ``prediction_numbers``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.prediction_files import Seen
from fairlead.data.prediction_numbers import count_lists, count_numbers
from fairlead.data.prediction_rows import (
    MISSING,
    STRANGER,
    Columns,
    Place,
    Predictions,
    added,
    batches,
    digest_of,
    empty_levels,
    group_codes,
    group_columns,
    looked_up,
    mixed_sums,
    record_hashes,
    remarks_of,
    whole_book,
)
from fairlead.data.prediction_survey import ALONE, Ranks, Survey, Values, few, numbers_of, survey
from fairlead.data.records import Book, book_of
from fairlead.errors import BadData, BadSpec, Problem
from fairlead.evaluation import ABSTAINED, CountState, problem_with_gate
from fairlead.evaluation.champion import problem_with_champion
from fairlead.evaluation.state import LARGEST_WEIGHT, WEIGHT_SCALE

__all__ = ["ALONE", "Predictions", "Ranks", "Survey", "count", "refuse_hopeless_gates", "survey"]

_SMALLEST_WEIGHT = 1e-6
_SMALLEST_MEAN_WEIGHT = 1 / 32
"""Squares of smaller ones lose more than a thousandth to rounding."""


def count(found: Survey, *, seen: Seen = lambda rows: None) -> Predictions:
    """Count every row of this rank's share. Raises ``BadData`` naming file, row and column of what cannot be counted.

    Collective: what is known of all rows together is the same on all ranks.
    """
    if found.task == "regression":
        return count_numbers(found, seen=seen)
    if found.task == "ranking":
        return count_lists(found, seen=seen)
    counting = _Counting(found)
    for rows in _rows(found):
        counting.add(rows)
        seen(len(rows.labels))
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


def _rows(found: Survey) -> Iterator[_Rows]:
    """The rows of this rank, batch by batch."""
    columns = found.spec.columns
    roles = [
        columns.target,
        found.prediction,
        columns.champion,
        columns.weight,
        columns.record_id,
        *found.scores,
        *group_columns(found),
    ]
    names = list(dict.fromkeys(name for name in roles if name is not None))
    classes = {name: index for index, name in enumerate(found.classes)}
    for at, arrays, places in batches(found, names):
        yield _Rows(
            codes=group_codes(found, arrays, at),
            labels=_places(arrays[columns.target], columns.target, classes, found.values[columns.target], at),
            predictions=_predicted(found, found.prediction, arrays, classes, at),
            champion=_predicted(found, columns.champion, arrays, classes, at),
            scores=_scores(found, arrays, at),
            weights=None if columns.weight is None else _weights(columns.weight, arrays[columns.weight], at),
            hashes=record_hashes(found, arrays, places, at),
        )


def _predicted(
    found: Survey, name: str | None, batch: Columns, classes: Mapping[str, int], at: Place
) -> NDArray[np.int64] | None:
    return None if name is None else _places(batch[name], name, classes, found.values[name], at)


def _places(array: Any, name: str, classes: Mapping[str, int], values: Values, at: Place) -> NDArray[np.int64]:
    """Class indices, -1 where missing. Raises ``BadData`` for a value that is no class."""
    places = looked_up(at.file, name, array, classes, values)
    known = few(tuple(classes))
    advice = f", which is none of the classes {known}; give them all as columns.classes, or correct the data"
    at.refuse(places == STRANGER, name, array, advice)
    return places


def _scores(found: Survey, batch: Columns, at: Place) -> NDArray[np.float64] | None:
    """Shape (rows,) for two classes, else (rows, classes); None without scores."""
    if not found.scores:
        return None
    columns = []
    for name in found.scores:
        values = numbers_of(at.file, name, batch[name])
        advice = "; scores must lie in [0, 1]: apply a sigmoid or softmax first, or name another column as score"
        at.refuse((values < 0) | (values > 1), name, batch[name], advice)
        columns.append(values + 0.0)  # no negative zero
    return columns[0] if len(found.classes) == 2 else np.stack(columns, axis=1)


def _weights(name: str, array: Any, at: Place) -> NDArray[np.float64]:
    values = numbers_of(at.file, name, array)
    at.refuse(~np.isfinite(values), name, array, "; every row needs a weight: give it one, or leave it out")
    at.refuse(values < 0, name, array, "; weights must not be negative")
    advice = "; divide the weights by their mean: they are counted from {:g} to {:g}, and 0"
    advice = advice.format(_SMALLEST_WEIGHT, LARGEST_WEIGHT)
    at.refuse((values > LARGEST_WEIGHT) | ((values > 0) & (values < _SMALLEST_WEIGHT)), name, array, advice)
    return values + 0.0


# ---- counting -------------------------------------------------------------------------------------------------------


class _Counting:
    """The sums over all batches."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._threshold = found.spec.evaluation.threshold
        has_weights, has_two = found.spec.columns.weight is not None, len(found.classes) == 2
        try:
            self._state = CountState(
                attributes=found.attributes,
                classes=found.classes,
                has_scores=bool(found.scores),
                has_weights=has_weights,
                has_champion=found.spec.columns.champion is not None,
                has_losses=bool(found.scores),
                has_exact_scores=bool(found.scores) and has_two and found.spec.evaluation.exact_auc,
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
        self._book = added([self._book, book_of(rows.hashes)])
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
            np.where(rows.labels == MISSING, np.nan, rows.labels),
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
        book = whole_book(found, [part.book for part in parts], self._hashes if self._has_ids else None, seen)
        self._refuse_small_weights(parts)
        digest = digest_of(found, book, [part.sums for part in parts])
        num_disagreeing = sum(part.num_disagreeing for part in parts)
        return Predictions(state=state, book=book, digest=digest, remarks=tuple(self._remarks(num_disagreeing)))

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
        yield from remarks_of(found, "labels, groups and predictions")
        if num_disagreeing:
            rule = f"the threshold {self._threshold:g}" if len(found.classes) == 2 else "the highest score"
            number = num_disagreeing
            yield f"In {number} rows the prediction is not what the scores and {rule} say; the prediction counts."
        yield from empty_levels(found)


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


def _digests(rows: _Rows, *, has_ids: bool) -> NDArray[np.uint64]:
    """Two sums over rows, shape (2,), in which every value of a row is mixed."""
    columns: list[NDArray[Any]] = [rows.labels, *rows.codes.T]
    columns += [column for column in (rows.predictions, rows.weights, rows.champion) if column is not None]
    columns += [rows.hashes] if has_ids else []
    if rows.scores is not None:
        columns += list(np.nan_to_num(rows.scores, nan=-1.0).reshape(len(rows.labels), -1).T)
    return mixed_sums(columns, len(rows.labels))

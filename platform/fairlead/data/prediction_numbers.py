"""Predicted numbers, and rows ranked in lists, from files to counts.

Numbers are counted batch by batch. A list is counted whole, wherever its rows lie: they are kept, about 40 bytes each,
and then go round in portions of queries, each counted by one rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.prediction_files import Seen
from fairlead.data.prediction_rows import (
    Columns,
    Place,
    Predictions,
    added,
    batches,
    digest_of,
    empty_levels,
    group_codes,
    group_columns,
    hashes_of,
    mixed_sums,
    num_portions,
    record_hashes,
    remarks_of,
    where_is,
    whole_book,
)
from fairlead.data.prediction_survey import Survey, numbers_of
from fairlead.data.records import book_of
from fairlead.errors import BadData
from fairlead.evaluation import MomentState, RankState
from fairlead.evaluation.ranking import LARGEST_RELEVANCE, places

Floats = NDArray[np.float64]
_LARGEST_RANK = 1e9


def count_numbers(found: Survey, *, seen: Seen) -> Predictions:
    """Count this rank's rows of a regression. Raises ``BadData`` as ``count`` does. Collective."""
    assert found.prediction is not None, "a survey of a regression finds it"
    assert found.limits is not None, "and a range"
    columns, prediction, (low, high) = found.spec.columns, found.prediction, found.limits
    try:
        state = MomentState(attributes=found.attributes, low=low, high=high)
    except ValueError as error:
        raise BadData(str(error)) from error
    tally = _Tally(found)
    for at, arrays, positions in batches(found, _names(found, columns.target, prediction)):
        codes = group_codes(found, arrays, at)
        target, predicted = (_within(name, arrays, at, low, high) for name in (columns.target, prediction))
        hashes = record_hashes(found, arrays, positions, at)
        tally.enter(hashes, [target, predicted, *codes.T])
        state.update(codes, target, predicted, record_hashes=hashes)
        seen(len(hashes))
    return tally.concluded(state, "targets, groups and predictions", seen)


def count_lists(found: Survey, *, seen: Seen) -> Predictions:
    """Count the lists of a ranking: those of this rank's portions. Raises ``BadData`` as ``count`` does. Collective."""
    columns = found.spec.columns
    query, by = columns.query, columns.rank or found.scores[0]
    assert query is not None, "a spec of a ranking names it"
    try:
        state = RankState(attributes=found.attributes)
    except ValueError as error:
        raise BadData(str(error)) from error
    tally, kept = _Tally(found), [_Listed.empty(len(found.attributes))]
    for at, arrays, positions in batches(found, _names(found, columns.target, query, by)):
        rows = _Listed(
            queries=hashes_of(query, arrays[query], at, "every row needs a query: give it one, or leave the row out"),
            order=_ranks(by, arrays, at) if columns.rank else _scores(by, arrays, at),
            relevances=_relevances(columns.target, arrays, at),
            hashes=record_hashes(found, arrays, positions, at),
            codes=group_codes(found, arrays, at).astype(np.int16),
        )
        tally.enter(rows.hashes, [rows.queries, rows.order, rows.relevances, *rows.codes.astype(np.int64).T])
        kept.append(rows)
        seen(len(positions))
    for lists in _dealt(found, kept, seen):
        _count_lists(found, state, lists, query, seen)
    return tally.concluded(state, "relevances, groups and places", seen)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _names(found: Survey, *roles: str) -> list[str]:
    ids = [found.spec.columns.record_id] if found.spec.columns.record_id else []
    return list(dict.fromkeys([*roles, *ids, *group_columns(found)]))


def _finite(name: str, arrays: Columns, at: Place) -> Floats:
    """The column as numbers, NaN where missing."""
    values = numbers_of(at.file, name, arrays[name])
    at.refuse(np.isinf(values), name, arrays[name], "; numbers must be finite: correct it, or leave it empty")
    return np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, and no negative zero


def _within(name: str, arrays: Columns, at: Place, low: float, high: float) -> Floats:
    values = _finite(name, arrays, at)
    advice = f", outside the range from {low:g} to {high:g}; give a wider columns.target_range, or none"
    at.refuse((values < low) | (values > high), name, arrays[name], advice)
    return values


def _relevances(name: str, arrays: Columns, at: Place) -> Floats:
    values = _finite(name, arrays, at)
    advice = f"; relevances lie between 0 and {LARGEST_RELEVANCE:g}"
    at.refuse((values < 0) | (values > LARGEST_RELEVANCE), name, arrays[name], advice)
    return values


def _scores(name: str, arrays: Columns, at: Place) -> Floats:
    values = _finite(name, arrays, at)
    at.refuse(np.isnan(values), name, arrays[name], "; every row needs a score to have a place: leave the row out")
    return values


def _ranks(name: str, arrays: Columns, at: Place) -> Floats:
    values = _finite(name, arrays, at)
    is_place = (values >= 1) & (values <= _LARGEST_RANK) & (values == np.rint(values))
    at.refuse(~is_place, name, arrays[name], "; ranks are places: whole numbers, 1 for the first")
    return values


@dataclass(frozen=True, kw_only=True, slots=True)
class _Listed:
    """Rows of lists, n of them."""

    queries: NDArray[np.uint64]
    order: Floats
    """Scores or ranks, shape (n,)."""
    relevances: Floats
    hashes: NDArray[np.uint64]
    codes: NDArray[np.int16]
    """Shape (n, attributes)."""

    @classmethod
    def empty(cls, num_attributes: int) -> "_Listed":
        none, hashes = np.empty(0, dtype=np.float64), np.empty(0, dtype=np.uint64)
        codes = np.empty((0, num_attributes), dtype=np.int16)
        return cls(queries=hashes, order=none, relevances=none, hashes=hashes, codes=codes)

    @classmethod
    def together(cls, parts: Sequence[Mapping[str, NDArray[Any]]]) -> "_Listed":
        return cls(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def of_portion(self, portion: int, portions: int) -> dict[str, NDArray[Any]]:
        """The rows of some queries, as arrays that ranks can tell each other."""
        chosen = self.queries % np.uint64(portions) == portion
        return {name: getattr(self, name)[chosen] for name in self.__dataclass_fields__}


def _dealt(found: Survey, kept: Sequence[_Listed], seen: Seen) -> Iterator[_Listed]:
    """All rows of this rank's queries, portion by portion. Collective."""
    ranks, portions = found.ranks, num_portions(found)
    whole = _Listed.together([each.of_portion(0, 1) for each in kept])
    for portion in range(portions):
        gathered = ranks.gather(whole.of_portion(portion, portions))
        if portion % ranks.of == ranks.number:
            yield _Listed.together(gathered)
        seen(0)


def _count_lists(found: Survey, state: RankState, lists: _Listed, query: str, seen: Seen) -> None:
    ties = None
    if found.spec.columns.rank is None:
        ranks, ties = places(lists.order, lists.queries)
    else:
        ranks = lists.order.astype(np.int64)
        _refuse_shared_ranks(found, ranks, lists.queries, query, seen)
    state.update(lists.codes, ranks, lists.relevances, lists.queries, record_hashes=lists.hashes, ties=ties)


def _refuse_shared_ranks(
    found: Survey, ranks: NDArray[np.int64], queries: NDArray[np.uint64], query: str, seen: Seen
) -> None:
    order = np.lexsort((ranks, queries))
    is_again = (ranks[order][1:] == ranks[order][:-1]) & (queries[order][1:] == queries[order][:-1])
    if is_again.any():
        row = order[int(np.argmax(is_again))]
        where = where_is(found, query, queries[row], seen)
        raise BadData(
            f"query {where} has two rows of rank {ranks[row]}; give each a place of its own, "
            "or name scores, whose ties share their places"
        )


class _Tally:
    """Which rows were counted, for the book and the digest."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._book = book_of(np.empty(0, dtype=np.uint64))
        self._has_ids = found.spec.columns.record_id is not None
        self._hashes: list[NDArray[np.uint64]] = []
        self._sums = np.zeros(2, dtype=np.uint64)

    def enter(self, hashes: NDArray[np.uint64], columns: Sequence[NDArray[Any]]) -> None:
        """Note one batch: its record hashes, and all else that is counted of it."""
        self._book = added([self._book, book_of(hashes)])
        if self._has_ids:
            self._hashes.append(hashes)
        self._sums += mixed_sums([*columns, *([hashes] if self._has_ids else [])], len(hashes))

    def concluded(self, state: MomentState | RankState, what: str, seen: Seen) -> Predictions:
        """Everything together. Raises ``BadData`` for rows that were there twice, and for files that have changed."""
        found = self._found
        parts = found.ranks.gather((self._book, self._sums))
        book = whole_book(found, [each for each, _ in parts], self._hashes if self._has_ids else None, seen)
        digest = digest_of(found, book, [sums for _, sums in parts])
        remarks = (*remarks_of(found, what), *empty_levels(found))
        return Predictions(state=state, book=book, digest=digest, remarks=remarks)

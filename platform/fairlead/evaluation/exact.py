"""Rows by every different score: what an area under the ROC curve without an error of binning is made of.

An *entry* is a score, a *place* (cell and label: ``2 * cell + label``) and the rows that have both. Entries are sorted
by score, then place, so that equal rows give equal tables however they were dealt out, and merging is adding. A table
keeps at most four million entries, 16 bytes each; one that would need more drops them all, which again depends on the
rows alone: areas then come from the bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.estimates import ExactAreas, IntArray, RankAreas
from fairlead.evaluation.intervals import FloatArray

MOST_ENTRIES = 4_000_000
ENTRY_BYTES = 16
"""As written, but for scores that several rows share."""
_PENDING_ROWS = 2**20
_NAMES = ("exact_scores", "exact_places", "exact_more", "exact_dropped")
_ONE = np.float64(1.0).view(np.uint64)


@dataclass(frozen=True, slots=True)
class Entries:
    """Sorted entries; all of shape (entries,). Scores are the bits of floats from 0 to 1, which sort as these do."""

    scores: NDArray[np.uint64]
    places: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def together(cls, parts: Sequence["Entries"]) -> "Entries":
        """One entry for each score and place in any of ``parts``, which need not be sorted."""
        scores, places, rows = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "places", "rows")
        )
        order = np.lexsort((places, scores))
        scores, places, rows = scores[order], places[order], rows[order]
        is_new = np.ones(len(scores), dtype=bool)
        is_new[1:] = (scores[1:] != scores[:-1]) | (places[1:] != places[:-1])
        start = np.flatnonzero(is_new)
        return cls(scores[start], places[start], np.add.reduceat(rows, start) if len(start) else rows)


NOTHING = Entries(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class ScoreTable:
    """Rows by score and place, of any number of rows; see the module."""

    def __init__(self, entries: Entries = NOTHING, *, is_dropped: bool = False) -> None:
        self._entries, self._is_dropped = entries, is_dropped
        self._pending: list[Entries] = []
        self._num_pending = 0

    @property
    def entries(self) -> Entries:
        """All of them; none where they were dropped."""
        self._settle()
        return self._entries

    @property
    def is_dropped(self) -> bool:
        """Whether there were too many to keep."""
        self._settle()
        return self._is_dropped

    def add(self, scores: FloatArray, places: IntArray) -> None:
        """Count some rows, in place; ``scores``: from 0 to 1, shape (n,), like ``places``."""
        if self._is_dropped or not len(scores):
            return
        bits = (scores + 0.0).view(np.uint64)  # no negative zero
        self._pending.append(Entries(bits, places, np.ones(len(scores), dtype=np.int64)))
        self._num_pending += len(scores)
        if self._num_pending >= _PENDING_ROWS:
            self._settle()

    def merge(self, other: "ScoreTable") -> "ScoreTable":
        """The sum of both."""
        if self.is_dropped or other.is_dropped:
            return ScoreTable(is_dropped=True)
        merged = ScoreTable(self.entries)
        merged._pending.append(other.entries)
        merged._settle()
        return merged

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is written of it."""
        entries = self.entries
        dropped = np.array([self._is_dropped], dtype=np.int64)
        return dict(zip(_NAMES, (entries.scores, entries.places, entries.rows - 1, dropped), strict=True))

    @classmethod
    def like(cls, num_entries: int) -> dict[str, NDArray[Any]]:
        """Arrays of the shapes of a table of so many entries. Raises ``ValueError`` for more than there can be."""
        if not 0 <= num_entries <= MOST_ENTRIES:
            raise ValueError(f"these bytes are not an evaluation state: {num_entries} different scores")
        shapes = (num_entries, num_entries, num_entries, 1)
        kinds = (np.uint64, np.int64, np.int64, np.int64)
        return {name: np.zeros(shape, dtype=kind) for name, shape, kind in zip(_NAMES, shapes, kinds, strict=True)}

    @classmethod
    def of(cls, arrays: dict[str, NDArray[Any]], *, rows_by_place: IntArray) -> "ScoreTable":
        """What ``arrays`` gave. Raises ``ValueError`` where it contradicts itself, or ``rows_by_place``, (places,)."""
        scores, places, more, dropped = (arrays[name] for name in _NAMES)
        entries, is_dropped = Entries(scores, places, more + 1), bool(dropped[0])
        is_sorted = (scores[1:] > scores[:-1]) | ((scores[1:] == scores[:-1]) & (places[1:] > places[:-1]))
        is_there = np.all(is_sorted) and np.all(more >= 0) and np.all(scores <= _ONE)
        is_known = not len(places) or (places.min() >= 0 and places.max() < len(rows_by_place))
        if not (is_there and is_known) or (is_dropped and len(entries)):
            raise ValueError("the scores of this evaluation state are damaged")
        counted = np.zeros(len(rows_by_place), dtype=np.int64)
        np.add.at(counted, places, entries.rows)
        if not is_dropped and np.any(counted != rows_by_place):
            raise ValueError("this evaluation state contradicts itself: its scores do not add up to its rows")
        return cls(entries, is_dropped=is_dropped)

    def _settle(self) -> None:
        if not self._pending or self._is_dropped:
            return
        self._entries = Entries.together([self._entries, *self._pending])
        self._pending, self._num_pending = [], 0
        if len(self._entries) > MOST_ENTRIES:
            self._entries, self._is_dropped = NOTHING, True


@dataclass(frozen=True, kw_only=True)
class ExactScores:
    """The table seen by groups; ``group_of_cell``: shape (cells,), ``groups``: those that are meant, in their order."""

    table: ScoreTable
    group_of_cell: IntArray
    groups: IntArray

    def take(self, groups: IntArray | Sequence[int]) -> "ExactScores":
        """Some of the groups."""
        return ExactScores(table=self.table, group_of_cell=self.group_of_cell, groups=self.groups[groups])

    @cached_property
    def areas(self) -> ExactAreas:
        """The area under the ROC curve of each group."""
        return ExactAreas.of([self.area(int(group), int(group)) for group in self.groups])

    def area(self, positives: int, negatives: int) -> RankAreas:
        """That of the positives of one group among the negatives of another; numbers as in ``group_of_cell``."""
        parts = [self._of_group(group, label) for label, group in enumerate((negatives, positives))]
        scores = np.sort(np.concatenate([own for own, _ in parts]))  # several times as fast as numpy's unique
        scores = scores[np.flatnonzero(np.diff(scores, prepend=scores[:1] + np.uint64(1)))]
        tables = [np.zeros(len(scores), dtype=np.int64) for _ in parts]
        for table, (own, rows) in zip(tables, parts, strict=True):
            np.add.at(table, np.searchsorted(scores, own), rows)
        return RankAreas(positives=tables[1][None, :], negatives=tables[0][None, :])

    def _of_group(self, group: int, label: int) -> tuple[NDArray[np.uint64], IntArray]:
        """Scores and rows of its entries with this label."""
        entries = self.table.entries
        own = self._order[self._starts[group] : self._starts[group + 1]]
        own = own[entries.places[own] & 1 == label]
        return entries.scores[own], entries.rows[own]

    @cached_property
    def _by_group(self) -> IntArray:
        return np.asarray(self.group_of_cell[self.table.entries.places >> 1], dtype=np.int64)

    @cached_property
    def _order(self) -> IntArray:
        """Entries group by group, sorted by score in each."""
        return np.asarray(np.argsort(self._by_group, kind="stable"), dtype=np.int64)

    @cached_property
    def _starts(self) -> IntArray:
        num_groups = int(self.group_of_cell.max(initial=0)) + 1
        return np.concatenate([[0], np.cumsum(np.bincount(self._by_group, minlength=num_groups))])

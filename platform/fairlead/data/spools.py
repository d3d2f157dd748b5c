"""Columns of a table on disk, while it is taken in: one file a column, written and read by parts."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, as_texts, first_missing
from fairlead.data.records import hash_ids
from fairlead.data.storage import bad

MOST_TEXTS = 100_000
"""Different texts of one column: more than any column may have that is a feature, a target or a group."""


class Spool:
    """One column: numbers as they are, texts as their place in ``levels`` (-1: missing).

    ``pointer``: where the spec names it, for errors.
    """

    def __init__(self, path: Path, *, uri: str, name: str, pointer: str) -> None:
        self._path, self._uri, self._name, self._pointer = path, uri, name, pointer
        self.stray: tuple[int, str] | None = None
        """The first row whose text is no number; survives ``clear``."""
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self._path.write_bytes(b"")
        self._dtype: np.dtype[Any] | None = None
        self._place: dict[str, int] = {}
        self._firsts: list[int] = []
        self._counts: list[int] = []
        self.num_rows = 0
        self.first_missing: int | None = None

    @property
    def has_texts(self) -> bool:
        """Whether it holds texts rather than numbers."""
        return self._dtype is not None and self._dtype.kind == "O"

    @property
    def levels(self) -> dict[str, tuple[int, int]]:
        """Of texts: the first row and the number of rows of each."""
        places = zip(self._firsts, self._counts, strict=True)
        return dict(zip(self._place, places, strict=True))

    def add(self, column: Column) -> None:
        """Append a part, of the same type as those before. Raises ``BadData`` for too many different texts."""
        assert self._dtype in (None, column.dtype), "a column has one type; see Intake"
        if self.first_missing is None and (row := first_missing(column)) is not None:
            self.first_missing = self.num_rows + row
        self._dtype = column.dtype
        written = self._codes(column) if self.has_texts else column
        with self._path.open("ab") as file:
            file.write(np.ascontiguousarray(written).data)
        self.num_rows += len(column)

    def note_stray(self, column: Column, first_row: int) -> None:
        """Look for a text that is no number in a part that is not kept."""
        if self.stray is None:
            found = ((row, text) for row, text in enumerate(column.tolist()) if text is not None)
            self.stray = next(((first_row + row, text) for row, text in found if not _is_number(text)), None)

    def part(self, first: int, last: int) -> Column:
        """Rows from ``first`` to before ``last``."""
        dtype = np.dtype(np.int32) if self.has_texts else self._dtype
        assert dtype is not None, "rows have been added"
        found = np.fromfile(self._path, dtype, count=last - first, offset=first * dtype.itemsize)
        if not self.has_texts:
            return found
        texts = np.empty(len(self._place) + 1, dtype=object)  # the last one, None, is that of -1
        texts[:-1] = list(self._place)
        return texts[found]

    def distinct(self, *, step: int) -> Column:
        """Every value once, a missing one included; read ``step`` rows at a time."""
        if self.has_texts:
            return np.array([*self._place, *([None] if self.first_missing is not None else [])], dtype=object)
        values = np.empty(0, dtype=self._dtype)
        for first in range(0, self.num_rows, step):
            values = np.unique(np.concatenate([values, self.part(first, min(self.num_rows, first + step))]))
            if len(values) > MOST_TEXTS:
                raise self._too_many("values")
        return values

    def _codes(self, column: Column) -> NDArray[np.int32]:
        import pandas

        codes, texts = pandas.factorize(column)
        _, firsts = np.unique(codes[codes >= 0], return_index=True)
        rows = np.flatnonzero(codes >= 0)[firsts] + self.num_rows
        counts = np.bincount(codes[codes >= 0], minlength=len(texts))
        place = np.empty(len(texts) + 1, dtype=np.int32)
        place[-1] = -1
        for code, text in enumerate(texts.tolist()):
            if text not in self._place:
                self._place[text] = len(self._place)
                self._firsts.append(int(rows[code]))
                self._counts.append(0)
                if self.stray is None and not _is_number(text):
                    self.stray = int(rows[code]), text
            place[code] = self._place[text]
            self._counts[place[code]] += int(counts[code])
        if len(self._place) > MOST_TEXTS:
            raise self._too_many("texts")
        return place[codes]

    def _too_many(self, what: str) -> Exception:
        if what == "texts" and self.stray and sum(map(_is_number, self._place)) * 2 > len(self._place):
            row, text = self.stray
            return bad(self._pointer, f"{self._uri}: row {row + 1} of column {self._name!r}: {text!r} is not a number")
        message = f"{self._uri}: column {self._name!r} holds more than {MOST_TEXTS} different {what}"
        return bad(self._pointer, message, "leave it out by listing data.features, or make it coarser")


class IdSpool:
    """The column that names records: only hashes are kept."""

    def __init__(self, path: Path, *, uri: str, name: str) -> None:
        self._path, self._uri, self._name = path, uri, name
        self.clear()

    def clear(self) -> None:
        """Begin again."""
        self._path.write_bytes(b"")
        self._num_rows = 0
        self._missing: int | None = None

    def add(self, column: Column) -> None:
        """Append a part."""
        if self._missing is None and (row := first_missing(column)) is not None:
            self._missing = self._num_rows + row
        texts = ["" if text is None else text for text in as_texts(column).tolist()]
        with self._path.open("ab") as file:
            file.write(hash_ids(texts).data)
        self._num_rows += len(column)

    def hashes(self) -> NDArray[np.uint64]:
        """Of all rows, shape (rows,). Raises ``BadData`` for a name that is missing or used twice."""
        if self._missing is not None:
            raise bad("/data/record_id", f"{self._uri}: row {self._missing + 1} of {self._name!r} is missing")
        found = np.fromfile(self._path, np.uint64)
        order = np.argsort(found, kind="stable")
        if (again := found[order][1:] == found[order][:-1]).any():
            at = int(np.argmax(again))
            first, second = order[at] + 1, order[at + 1] + 1
            message = f"{self._uri}: rows {first} and {second} have the same {self._name!r}: it occurs more than once"
            raise bad("/data/record_id", message, "an id must name one row")
        return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Rows that stay on disk: an array that is read where it is indexed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PART_BYTES = 2**24
"""What is read at once where all rows are gone through."""


class Mapped:
    """Features on the disk of this node, indexed as an ndarray is: by a place, a slice, places or a mask.

    What is indexed is read then, into an ndarray of its own; nothing is kept. Rows that follow each other are read
    together, others one by one: they cost as many accesses as there are rows. It is ``pread`` rather than ``mmap``, so
    that memory holds no more than was asked for, and a disk that fails is an ``OSError`` rather than the end of the
    process. The file may be deleted meanwhile: it lasts as long as it is open.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], dtype: Any) -> None:
        self._file = path.open("rb", buffering=0)
        self._rows: NDArray[np.int64] | None = None
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._width = self.dtype.itemsize * int(np.prod(shape[1:]))

    def at(self, rows: NDArray[np.int64]) -> "Mapped":
        """Some of the rows, still on disk. ``rows``: places, shape (n,)."""
        part = object.__new__(Mapped)
        part._file, part.dtype, part._width = self._file, self.dtype, self._width
        part._rows = rows if self._rows is None else self._rows[rows]
        part.shape = (len(rows), *self.shape[1:])
        return part

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if isinstance(key, slice):
            return self._read(np.arange(*key.indices(len(self))))
        places = np.asarray(key)
        if places.dtype == bool:
            if places.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {places.shape} does not choose among {len(self)} rows")
            places = np.flatnonzero(places)
        if places.dtype.kind not in "iu" and places.size:
            raise IndexError("rows that stay on disk are indexed by places, slices or a mask of rows alone")
        places = places.astype(np.int64)
        if places.size and not -len(self) <= places.min() <= places.max() < len(self):
            raise IndexError(f"there are {len(self)} rows, and one of those asked for is not among them")
        found = self._read(np.where(places < 0, places + len(self), places).ravel())
        return found.reshape(*places.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        raise TypeError("these rows stay on disk (data.streaming): index those that are needed, such as rows[a:b]")

    def parts(self) -> Iterator[NDArray[Any]]:
        """All rows in their order, some at a time."""
        size = max(1, PART_BYTES // max(1, self._width))
        return (self[start : start + size] for start in range(0, len(self), size))

    def _read(self, places: NDArray[np.int64]) -> NDArray[Any]:
        rows = places if self._rows is None else self._rows[places]
        found = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        if not found.nbytes:
            return found
        view, width = found.reshape(-1).view(np.uint8).data, self._width
        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        firsts, lasts = [0, *edges.tolist()], [*edges.tolist(), len(rows)]
        for first, last, row in zip(firsts, lasts, rows[firsts].tolist(), strict=True):
            self._fill(view[first * width : last * width], row * width)
        return found

    def _fill(self, view: memoryview, offset: int) -> None:
        while len(view):
            num_read = os.preadv(self._file.fileno(), [view], offset)
            if not num_read:
                raise OSError(f"{self._file.name} has ended early: it was cut")
            view, offset = view[num_read:], offset + num_read


def parts_of(features: NDArray[Any] | Mapped) -> Iterator[NDArray[Any]]:
    """All rows in their order, some at a time where they stay on disk."""
    return features.parts() if isinstance(features, Mapped) else iter((features,))

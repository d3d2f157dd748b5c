"""What a model answered to each row, beside its counts, and two models' answers to the same rows put together.

Kept of a model that may become the champion, so that one that comes later can be held against it on the same rows. A
file of answers is an ``.npy`` array without pickle, of 16 bytes a row, ascending by record: the hash of the record id,
the cell of the counts, the label and the answer, -1 for none. Nothing else of a row is in it.
"""

import io
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.cells import cells_of
from fairlead.evaluation.state import ABSTAINED, CountState

ANSWER = np.dtype([("record", "<u8"), ("cell", "<u4"), ("label", "<i2"), ("answer", "<i2")])
MAX_ANSWERS = 10_000_000
"""Of larger splits none are kept."""
_PORTION_ROWS = 2**19
"""Rows of each model that are put together at once: memory does not grow with the split."""
_HASHES = 2**64
AnswerArray = NDArray[Any]
"""Rows of ``ANSWER``."""


class AnswerKeeper:
    """Keeps the answers to one rank's rows."""

    def __init__(self) -> None:
        self._parts: list[AnswerArray] = []
        self._num_rows = 0

    def add(
        self,
        state: CountState,
        codes: ArrayLike,
        labels: ArrayLike,
        predictions: ArrayLike,
        *,
        record_hashes: ArrayLike,
        scores: ArrayLike | None = None,
    ) -> None:
        """Keep some rows that ``state`` has just counted without objection, as it counted them.

        Rows beyond ``MAX_ANSWERS`` are not kept: whoever counts more than the split has counts some twice.
        """
        rows = np.empty(len(np.asarray(labels)), dtype=ANSWER)
        rows["record"] = record_hashes
        rows["cell"] = cells_of(np.asarray(codes).reshape(len(rows), len(state.attributes)), state.cell_shape)
        rows["label"] = labels
        rows["answer"] = state.answered(predictions, scores)
        self._parts.append(rows[: MAX_ANSWERS - self._num_rows])
        self._num_rows += len(self._parts[-1])

    def to_bytes(self) -> bytes:
        """All of them as a file."""
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, _in_order(self._parts), version=(1, 0), allow_pickle=False)
        return buffer.getvalue()


class AnswerFile:
    """Answers in an open file, of which portions are read. Raises ``ValueError`` for what is none, or a part."""

    def __init__(self, stream: BinaryIO) -> None:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("these answers have an unknown version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype != ANSWER or len(shape) != 1:
            raise ValueError(f"these are no answers: an array of type {dtype} and shape {shape}")
        self.num_rows: int = shape[0]
        self._stream, self._start = stream, stream.tell()
        if stream.seek(0, io.SEEK_END) != self._start + ANSWER.itemsize * self.num_rows:
            raise ValueError("these answers are cut short, or there is more than they say")

    def between(self, low: int, high: int) -> AnswerArray:
        """Rows whose record's hash is at least ``low`` and below ``high``."""
        first, last = (bisect_left(range(self.num_rows), edge, key=self._record_at) for edge in (low, high))
        content = self._read(first, ANSWER.itemsize * (last - first))
        return np.frombuffer(content, dtype=ANSWER)

    def _record_at(self, row: int) -> int:
        return int.from_bytes(self._read(row, 8), "little")

    def _read(self, row: int, size: int) -> bytes:
        self._stream.seek(self._start + ANSWER.itemsize * row)
        content = self._stream.read(size)
        if len(content) != size:
            raise ValueError("these answers are cut short")
        return content


class StrangeAnswers(ValueError):
    """The other model's answers name what is no class."""


class TooManyPairs(ValueError):
    """There are more groups and classes than pairs of answers can be counted for, though single ones could."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Two models' answers to the same rows."""

    state: CountState | None
    """Counts with pairs; None where the rows are not the same."""
    num_ours: int
    num_theirs: int
    num_same: int
    """Rows that both have, by record and label."""


def pair(state: CountState, ours: Sequence[AnswerFile], theirs: Sequence[AnswerFile]) -> Pairing:
    """Put the answers behind ``state``, those of ``ours``, beside those of ``theirs``, which knows the same classes.

    Rows are the same where record id and label are; all of both must be. Raises ``ValueError`` where ``ours`` are not
    the answers that ``state`` counted; ``StrangeAnswers`` where ``theirs`` are of no class, ``TooManyPairs`` where
    counts of pairs would be too large.
    """
    num_ours, num_theirs = (sum(file.num_rows for file in files) for files in (ours, theirs))
    portions = max(1, -(-max(num_ours, num_theirs) // _PORTION_ROWS))
    try:
        together = CountState(attributes=state.attributes, classes=state.classes, has_champion=True)
    except ValueError as error:
        raise TooManyPairs(str(error)) from error
    num_same = 0
    for low, high in pairwise(_HASHES * portion // portions for portion in range(portions + 1)):
        own, other = (_in_order([file.between(low, high) for file in files]) for files in (ours, theirs))
        _refuse_strangers(other["answer"], len(state.classes))
        if all(np.array_equal(own[name], other[name]) for name in ("record", "label")):
            num_same += len(own)
            _count(together, own, other)
        else:
            num_same += _num_same(own, other)
    if not num_same == num_ours == num_theirs:
        return Pairing(state=None, num_ours=num_ours, num_theirs=num_theirs, num_same=num_same)
    book = state.book
    expected = {"expected_n": book.n, "expected_sum": book.record_sum, "expected_xor": book.record_xor}
    if together.check_complete(**expected) is not None or not np.array_equal(together.counts, state.counts):
        raise ValueError("the answers are not those that were counted")
    return Pairing(state=together, num_ours=num_ours, num_theirs=num_theirs, num_same=num_same)


def _in_order(parts: Sequence[AnswerArray]) -> AnswerArray:
    """All rows, ascending by record."""
    rows = np.concatenate([np.empty(0, dtype=ANSWER), *parts])
    return rows[np.argsort(np.ascontiguousarray(rows["record"]), kind="stable")]


def _refuse_strangers(answers: NDArray[np.int16], num_classes: int) -> None:
    if len(answers) and (answers.min() < ABSTAINED or answers.max() >= num_classes):
        raise StrangeAnswers(f"some answers are none of the {num_classes} classes")


def _count(together: CountState, own: AnswerArray, other: AnswerArray) -> None:
    shape = together.cell_shape
    codes = (
        np.stack(np.unravel_index(own["cell"].astype(np.int64), shape), axis=1) if shape else np.empty((len(own), 0))
    )
    together.update(codes, own["label"], own["answer"], record_hashes=own["record"], champion=other["answer"])


def _num_same(own: AnswerArray, other: AnswerArray) -> int:
    """Rows of both, each in order, that have the same record and label."""
    if not len(other):
        return 0
    records, labels = np.ascontiguousarray(other["record"]), np.ascontiguousarray(other["label"])
    places = np.minimum(np.searchsorted(records, np.ascontiguousarray(own["record"])), len(records) - 1)
    return int(np.count_nonzero((records[places] == own["record"]) & (labels[places] == own["label"])))

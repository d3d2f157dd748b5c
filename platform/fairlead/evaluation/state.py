"""What workers keep of the rows they evaluated: integer sums per cell, and nothing else.

A *cell* is one combination of the levels of all attributes, each with one more level for a missing value. All
entries are integers and merging is addition, so the merged state is bit-identical for any sharding and any order.

| array | shape, dtype | holds |
| --- | --- | --- |
| counts | [cells, K, K+1] int64 | rows by label and prediction; the last prediction column is "abstained" |
| histogram | [cells, 2, 1024] int64 | rows by label and score bin; binary tasks with scores |
| calibration | [cells, 2, 15] int64 | rows by hit and confidence bin; tasks with scores |
| score_sums | [cells, 2, 15] int64 | sums of ``rint(confidence * 2**32)`` in the same bins |
| book | [6] uint64 | rows, rows with an unknown level, wrapping sum and xor of record hashes, NaN labels, NaN scores |

For binary tasks "confidence" is the score of class 1 and "hit" is the label; for multi-class tasks they are the
highest score and whether its class is the label.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.workload import Attribute

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

UNKNOWN = "__unknown__"
ABSTAINED = -1
"""The prediction of a row for which the model gave none."""
SCORE_BINS = 1024
CALIBRATION_BINS = 15
SCORE_SCALE = 2.0**32
CHUNK_ROWS = 65_536  # weighted bincount stays exact: 2**32 * 2**16 < 2**53
MAX_STATE_BYTES = 64 * 1024 * 1024
_FORMAT = "fairlead-state/1"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip member needs a date; a constant one keeps the bytes equal
_MOST_MEMBERS = 16
_ROWS, _UNKNOWN_ROWS, _SUM, _XOR, _NAN_LABELS, _NAN_SCORES = range(6)


@dataclass(frozen=True, kw_only=True, slots=True)
class Incomplete:
    """The merged state does not hold every row of the split exactly once."""

    reason: str
    detail: str


class CountState:
    """Counts of evaluated rows by cell, label and prediction; satisfies ``fairlead.workload.Accumulator``.

    ``attributes`` may be empty: then there is one cell. ``classes`` names the K >= 2 classes; in binary tasks the
    second is the positive one. ``has_scores`` says whether every ``update`` brings scores. Raises ``ValueError``
    when the state would exceed 64 MB; ``state_size_bytes`` tells beforehand.
    """

    def __init__(self, *, attributes: Sequence[Attribute], classes: Sequence[str], has_scores: bool = False) -> None:
        self.attributes = tuple(attributes)
        self.classes = tuple(classes)
        self.has_scores = has_scores
        _refuse_unusable(self.attributes, self.classes, has_scores=has_scores)
        shapes = _shapes(self.attributes, self.classes, has_scores=has_scores)
        self._arrays: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, dtype=_dtype(name)) for name, shape in shapes.items()
        }

    @property
    def counts(self) -> IntArray:
        """Rows by label and prediction, shape (cells, K, K+1)."""
        return self._arrays["counts"]

    @property
    def histogram(self) -> IntArray | None:
        """Rows by label and score bin, shape (cells, 2, 1024); None without scores or for K > 2."""
        return self._arrays.get("histogram")

    @property
    def calibration(self) -> IntArray | None:
        """Rows by hit and confidence bin, shape (cells, 2, 15); None without scores."""
        return self._arrays.get("calibration")

    @property
    def score_sums(self) -> IntArray | None:
        """Sums of confidences in fixed point (times 2**32), shape (cells, 2, 15); None without scores."""
        return self._arrays.get("score_sums")

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Levels of each attribute, the unknown one included."""
        return tuple(len(attribute.levels) + 1 for attribute in self.attributes)

    @property
    def n(self) -> int:
        """Rows seen, those with a NaN label included."""
        return int(self._arrays["book"][_ROWS])

    @property
    def n_unknown(self) -> int:
        """Rows with at least one unknown level."""
        return int(self._arrays["book"][_UNKNOWN_ROWS])

    @property
    def n_nan_labels(self) -> int:
        """Rows whose label is NaN; they are in no other array."""
        return int(self._arrays["book"][_NAN_LABELS])

    @property
    def n_nan_scores(self) -> int:
        """Rows whose score is NaN; they count as abstained."""
        return int(self._arrays["book"][_NAN_SCORES])

    @property
    def record_sum(self) -> int:
        """Wrapping 64-bit sum of record hashes."""
        return int(self._arrays["book"][_SUM])

    @property
    def record_xor(self) -> int:
        """Exclusive or of record hashes."""
        return int(self._arrays["book"][_XOR])

    def update(
        self,
        codes: ArrayLike,
        labels: ArrayLike,
        predictions: ArrayLike,
        *,
        record_hashes: ArrayLike,
        scores: ArrayLike | None = None,
    ) -> None:
        """Count some rows, in place.

        ``codes``: level codes, shape (n, attributes); code ``len(levels)`` is unknown. ``labels``: class indices,
        shape (n,), NaN where missing. ``predictions``: class indices, -1 for abstained. ``scores``: probability of
        class 1, shape (n,), or of every class, shape (n, K), in [0, 1]; a row with a NaN score counts as abstained.
        ``record_hashes``: uint64, shape (n,). Raises ``ValueError`` for shapes or values outside these.
        """
        batch = self._checked(codes, labels, predictions, scores, record_hashes)
        for start in range(0, len(batch.labels), CHUNK_ROWS):
            self._count(batch.part(start, start + CHUNK_ROWS))

    def merge(self, other: "CountState") -> "CountState":
        """The sum of both, as a new state. Raises ``ValueError`` when they count different things.

        A state without rows merges with any kind of scores: a worker without rows may not know the kind.
        """
        if self.n == 0 or other.n == 0:
            fuller = max(self, other, key=lambda state: (state.n, state.has_scores))
            if self.attributes == other.attributes and self.classes == other.classes:
                return fuller._copy()
        if self._identity() != other._identity():
            raise ValueError("only states over the same attributes, classes and kind of scores can be merged")
        merged = CountState(attributes=self.attributes, classes=self.classes, has_scores=self.has_scores)
        for name, array in self._arrays.items():
            merged._arrays[name] = array + other._arrays[name]
        merged._arrays["book"][_XOR] = self._arrays["book"][_XOR] ^ other._arrays["book"][_XOR]
        return merged

    def to_bytes(self) -> bytes:
        """A zip of ``.npy`` members without pickle, the same bytes for the same content.

        Mostly empty arrays are kept as positions and values. ``numpy.load`` reads it as an ``.npz``.
        """
        header = json.dumps(self._identity() | {"format": _FORMAT}, sort_keys=True).encode()
        members = {"header": np.frombuffer(header, dtype=np.uint8)}
        for name, array in sorted(self._arrays.items()):
            members |= _packed(name, array)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, array in sorted(members.items()):
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH), _npy(array))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "CountState":
        """Read what ``to_bytes`` wrote. Raises ``ValueError`` for anything else; never unpickles."""
        try:
            members = dict(_members(data))
            header = json.loads(members["header"].tobytes())
            if header["format"] != _FORMAT:
                raise ValueError(f"format {header['format']!r} is not {_FORMAT!r}")
            attributes = [
                Attribute(name=str(name), levels=tuple(map(str, levels))) for name, levels in header["attributes"]
            ]
            state = cls(attributes=attributes, classes=[*map(str, header["classes"])], has_scores=header["has_scores"])
            for name, array in state._arrays.items():
                state._arrays[name] = _unpacked(name, members, array)
        except (LookupError, TypeError, RuntimeError, OverflowError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"these bytes are not an evaluation state: {error!r}") from error
        state._refuse_contradictions()
        return state

    def digest(self) -> str:
        """``sha256:`` over name, dtype, shape and little-endian bytes of each array by name, then the level names."""
        sha = hashlib.sha256()
        for name, array in sorted(self._arrays.items()):
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            sha.update(json.dumps([name, little.dtype.str, list(little.shape)]).encode())
            sha.update(little.tobytes())
        sha.update(json.dumps(self._identity(), sort_keys=True).encode())
        return f"sha256:{sha.hexdigest()}"

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split, by number and both checksums of record hashes."""
        if (self.n, self.record_sum, self.record_xor) == (expected_n, expected_sum, expected_xor):
            return None
        what = f"{self.n} rows were counted, the split has {expected_n}"
        if self.n == expected_n:
            what = f"{self.n} rows were counted, as many as the split has, but they are not the same rows"
        advice = "evaluate each row of the split once, without padding or dropping the last batch"
        return Incomplete(reason="rows counted twice or not at all", detail=f"{what}; {advice}")

    def _copy(self) -> "CountState":
        twin = CountState(attributes=self.attributes, classes=self.classes, has_scores=self.has_scores)
        twin._arrays = {name: array.copy() for name, array in self._arrays.items()}
        return twin

    def _identity(self) -> dict[str, Any]:
        attributes = [[attribute.name, list(attribute.levels)] for attribute in self.attributes]
        return {"attributes": attributes, "classes": list(self.classes), "has_scores": self.has_scores}

    def _checked(
        self, codes: ArrayLike, labels: ArrayLike, predictions: ArrayLike, scores: ArrayLike | None, hashes: ArrayLike
    ) -> "_Batch":
        """All rows as given, or ``ValueError`` before anything is counted."""
        batch = _Batch(
            codes=_shaped_codes(codes, rows=len(np.asarray(labels)), columns=len(self.attributes)),
            labels=np.asarray(labels),
            predictions=np.asarray(predictions),
            scores=self._checked_scores(scores, len(np.asarray(labels))),
            hashes=np.asarray(hashes, dtype=np.uint64),
        )
        n = len(batch.labels)
        _refuse_length("labels", batch.labels, n)
        _refuse_length("predictions", batch.predictions, n)
        _refuse_length("record_hashes", batch.hashes, n)
        for start in range(0, n, CHUNK_ROWS):
            part = batch.part(start, start + CHUNK_ROWS)
            _refuse_outside("labels", part.labels, 0, len(self.classes) - 1)
            _refuse_outside("predictions", part.predictions, ABSTAINED, len(self.classes) - 1)
            for column, attribute in enumerate(self.attributes):
                _refuse_outside(f"codes of {attribute.name}", part.codes[:, column], 0, len(attribute.levels))
        return batch

    def _checked_scores(self, scores: ArrayLike | None, n: int) -> FloatArray | None:
        if (scores is not None) is not self.has_scores:
            raise ValueError(f"this state {'needs' if self.has_scores else 'takes no'} scores")
        if scores is None:
            return None
        values = np.asarray(scores, dtype=np.float64)
        if len(self.classes) == 2 and values.shape == (n, 2):
            values = values[:, 1]
        expected = (n,) if len(self.classes) == 2 else (n, len(self.classes))
        if n == 0:
            return np.zeros(expected)
        if values.shape != expected:
            raise ValueError(f"scores have shape {values.shape}, expected {expected}")
        if np.any((values < 0) | (values > 1)):  # NaN compares false: it is counted, not refused
            raise ValueError("scores must lie in [0, 1]; apply a sigmoid or softmax first")
        return values

    def _count(self, batch: "_Batch") -> None:
        """Count one chunk; only here are rows widened to 64 bits."""
        num_classes = len(self.classes)
        cells, is_unknown = batch.cells(self.cell_shape)
        is_labelled, labels = _whole(batch.labels, missing=0)
        _, predictions = _whole(batch.predictions, missing=ABSTAINED)
        has_score = np.ones(len(cells), dtype=bool)
        if batch.scores is not None:
            has_score = ~np.isnan(batch.scores.reshape(len(cells), -1).sum(axis=1))
        self._keep_book(batch.hashes, is_unknown=is_unknown, is_labelled=is_labelled, has_score=has_score)
        predictions = np.where(has_score & (predictions != ABSTAINED), predictions, num_classes)
        flat = (cells * num_classes + labels) * (num_classes + 1) + predictions
        _add(self.counts, flat if is_labelled.all() else flat[is_labelled])
        if batch.scores is not None:
            usable = has_score & is_labelled
            self._count_scores(cells[usable], labels[usable], batch.scores[usable])

    def _keep_book(
        self,
        hashes: NDArray[np.uint64],
        *,
        is_unknown: NDArray[np.bool_],
        is_labelled: NDArray[np.bool_],
        has_score: NDArray[np.bool_],
    ) -> None:
        book = self._arrays["book"]
        book[_ROWS] += np.uint64(len(hashes))
        book[_UNKNOWN_ROWS] += np.uint64(np.count_nonzero(is_unknown))
        book[_SUM : _SUM + 1] += np.sum(hashes, dtype=np.uint64)  # arrays wrap silently, as a checksum wants
        book[_XOR] ^= np.bitwise_xor.reduce(hashes, initial=np.uint64(0))
        book[_NAN_LABELS] += np.uint64(np.count_nonzero(~is_labelled))
        book[_NAN_SCORES] += np.uint64(np.count_nonzero(~has_score))

    def _count_scores(self, cells: IntArray, labels: IntArray, scores: FloatArray) -> None:
        confidence, hits = scores, labels
        if len(self.classes) > 2:
            confidence = scores.max(axis=1, initial=0.0)
            hits = (scores.argmax(axis=1) == labels).astype(np.int64)
        rows = cells * 2 + hits
        if self.histogram is not None:
            _add(self.histogram, rows * SCORE_BINS + _bin(confidence, SCORE_BINS))
        assert self.calibration is not None, "allocated together with has_scores"
        assert self.score_sums is not None, "allocated together with has_scores"
        flat = rows * CALIBRATION_BINS + _bin(confidence, CALIBRATION_BINS)
        _add(self.calibration, flat)
        _add(self.score_sums, flat, weights=np.rint(confidence * SCORE_SCALE))

    def _refuse_contradictions(self) -> None:
        """A state from elsewhere must at least agree with itself."""
        if any(int(array.min(initial=0)) < 0 for name, array in self._arrays.items() if name != "book"):
            raise ValueError("this evaluation state has negative counts")
        if int(self.counts.sum()) != self.n - self.n_nan_labels:
            raise ValueError("this evaluation state contradicts itself: its counts do not add up to its rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Rows in the types they came in."""

    codes: NDArray[Any]
    labels: NDArray[Any]
    predictions: NDArray[Any]
    scores: FloatArray | None
    hashes: NDArray[np.uint64]

    def part(self, start: int, stop: int) -> "_Batch":
        rows = slice(start, stop)
        return _Batch(
            codes=self.codes[rows],
            labels=self.labels[rows],
            predictions=self.predictions[rows],
            scores=None if self.scores is None else self.scores[rows],
            hashes=self.hashes[rows],
        )

    def cells(self, shape: tuple[int, ...]) -> tuple[IntArray, NDArray[np.bool_]]:
        """Each row's cell, and whether one of its levels is unknown."""
        cells: IntArray = np.zeros(len(self.labels), dtype=np.int64)
        is_unknown: NDArray[np.bool_] = np.zeros(len(self.labels), dtype=bool)
        for column, num_levels in enumerate(shape):
            codes = self.codes[:, column].astype(np.int64)
            cells = cells * num_levels + codes
            is_unknown |= codes == num_levels - 1
        return cells, is_unknown


def state_size_bytes(*, attributes: Sequence[Attribute], num_classes: int, has_scores: bool) -> int:
    """Memory of a state before any row is seen, in bytes."""
    shapes = _shapes(attributes, ("",) * num_classes, has_scores=has_scores)
    return sum(8 * math.prod(shape) for shape in shapes.values())


def _shapes(attributes: Sequence[Attribute], classes: Sequence[str], *, has_scores: bool) -> dict[str, tuple[int, ...]]:
    cells = math.prod(len(attribute.levels) + 1 for attribute in attributes)
    shapes: dict[str, tuple[int, ...]] = {"book": (6,), "counts": (cells, len(classes), len(classes) + 1)}
    if has_scores:
        shapes |= dict.fromkeys(("calibration", "score_sums"), (cells, 2, CALIBRATION_BINS))
    if has_scores and len(classes) == 2:
        shapes["histogram"] = (cells, 2, SCORE_BINS)
    return shapes


def _dtype(name: str) -> type[np.uint64] | type[np.int64]:
    return np.uint64 if name == "book" else np.int64


def _refuse_unusable(attributes: Sequence[Attribute], classes: Sequence[str], *, has_scores: bool) -> None:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"at least two different classes are needed, not {list(classes)!r}")
    names = [attribute.name for attribute in attributes]
    if len(set(names)) != len(names):
        raise ValueError(f"an attribute is named twice: {names!r}")
    for attribute in attributes:
        if len(set(attribute.levels)) != len(attribute.levels) or UNKNOWN in attribute.levels:
            raise ValueError(f"levels of {attribute.name!r} must be unique and not {UNKNOWN!r}")
    size = state_size_bytes(attributes=attributes, num_classes=len(classes), has_scores=has_scores)
    if size > MAX_STATE_BYTES:
        levels = ", ".join(f"{a.name} ({len(a.levels)} levels)" for a in attributes)
        raise ValueError(
            f"counting {levels} by {len(classes)} classes needs {size >> 20} MB, at most {MAX_STATE_BYTES >> 20} "
            "are allowed: use fewer attributes, or bins with fewer levels"
        )


def _shaped_codes(codes: ArrayLike, *, rows: int, columns: int) -> NDArray[Any]:
    values = np.asarray(codes)
    if values.size != rows * columns or (values.ndim == 2 and columns and values.shape != (rows, columns)):
        raise ValueError(f"codes have shape {values.shape}, expected ({rows}, {columns})")
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise ValueError("codes must be whole numbers; a missing level has the code after the last one")
    return values.reshape(rows, columns)


def _whole(values: NDArray[Any], *, missing: int) -> tuple[NDArray[np.bool_], IntArray]:
    """Which values are there, and all of them as integers, NaN replaced by ``missing``."""
    if not np.issubdtype(values.dtype, np.floating):
        return np.ones(len(values), dtype=bool), values.astype(np.int64)
    is_there = ~np.isnan(values)
    return is_there, np.where(is_there, values, missing).astype(np.int64)


def _refuse_length(what: str, values: NDArray[Any], n: int) -> None:
    if values.shape != (n,):
        raise ValueError(f"{what} have shape {values.shape}, expected ({n},) like the labels")


def _refuse_outside(what: str, values: NDArray[Any], low: int, high: int) -> None:
    """Refuse all but whole numbers of a range, and NaN."""
    if np.issubdtype(values.dtype, np.floating):
        values = values[~np.isnan(values)]
        if np.any(values != np.rint(values)):
            raise ValueError(f"{what} must be whole numbers from {low} to {high}")
    if values.size and (values.min() < low or values.max() > high):
        raise ValueError(f"{what} must be whole numbers from {low} to {high}")


def _bin(values: FloatArray, bins: int) -> IntArray:
    """Equal bins of [0, 1], closed on the left; the last on both sides."""
    return np.asarray(np.minimum((values * bins).astype(np.int64), bins - 1), dtype=np.int64)


def _add(array: IntArray, flat: IntArray, weights: FloatArray | None = None) -> None:
    total = np.bincount(flat, weights=weights, minlength=array.size)
    array += total.astype(np.int64).reshape(array.shape)


def _packed(name: str, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
    flat = array.ravel()
    filled = np.flatnonzero(flat)
    if 2 * len(filled) >= flat.size:
        return {name: flat}
    return {f"{name}.at": filled.astype("<i8"), f"{name}.value": flat[filled]}


def _unpacked(name: str, members: Mapping[str, NDArray[Any]], like: NDArray[Any]) -> NDArray[Any]:
    if name in members:
        return members[name].astype(like.dtype).reshape(like.shape)
    at, values = members[f"{name}.at"], members[f"{name}.value"]
    if (at.size and (at.min() < 0 or at.max() >= like.size or np.any(np.diff(at) <= 0))) or at.shape != values.shape:
        raise ValueError(f"array {name!r} of this evaluation state is damaged")
    flat = np.zeros(like.size, dtype=like.dtype)
    flat[at.astype(np.int64)] = values.astype(like.dtype)
    return flat.reshape(like.shape)


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    np.lib.format.write_array(buffer, little, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _members(data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of the archive; sizes are checked before memory is taken."""
    if len(data) > 2 * MAX_STATE_BYTES:
        raise ValueError("these bytes are larger than any evaluation state")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if len(archive.infolist()) > _MOST_MEMBERS:
            raise ValueError("these bytes are not an evaluation state: too many members")
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("these bytes are not an evaluation state: a member is compressed")
            yield info.filename.removesuffix(".npy"), _array(archive.read(info))


def _array(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of this evaluation state has an unknown version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.str not in {"|u1", "<i8", "<u8"} or len(shape) != 1:
        raise ValueError(f"an array of this evaluation state has type {dtype} and shape {shape}")
    values = np.frombuffer(content, dtype=dtype, offset=stream.tell())
    if values.shape != shape:
        raise ValueError("an array of this evaluation state is cut short")
    return values

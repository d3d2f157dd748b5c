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
| weights | [cells, K, K+1] int64 | sums of ``rint(weight * 2**32)`` beside the counts |
| squares | [cells, K, K+1] int64 | sums of ``rint(weight**2 * 2**20)``: effective numbers of rows |
| paired | [cells, K, K+1, K+1] int64 | rows by label, prediction and the champion's prediction |
| replicates | [R, cells, K, K+1] int64 | the counts (or weights times 2**20), each row times its Poisson(1) weight |
| losses | [cells, 4, 2] int64 | sums of Brier's score, of the log loss, and of their squares; see ``losses.py`` |
| clipped | [cells] int64 | rows whose log loss is that of a probability of 2.2e-16, the least there is |
| exact_scores, exact_places, exact_more | [entries] | every different score and place, and the rows beside one |

The last seven are kept only when asked for; the last line is explained in ``exact``.

For binary tasks "confidence" is the score of class 1 and "hit" is the label; for multi-class tasks they are the
highest score and whether its class is the label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairlead.evaluation.cells import (
    CHUNK_ROWS,
    Book,
    Incomplete,
    IntArray,
    cells_of,
    is_unknown_cell,
    refuse_ambiguous,
    refuse_large,
    refuse_length,
    refuse_outside,
    refuse_unknown_codes,
    shape_of,
    shaped_codes,
)
from fairlead.evaluation.encoding import Encoded, digest, encode
from fairlead.evaluation.exact import ScoreTable
from fairlead.evaluation.keyed import poisson_weights, replicate_keys
from fairlead.evaluation.losses import LOSS_SHAPE, fixed_losses, is_clipped
from fairlead.workload import Attribute

FloatArray = NDArray[np.float64]

ABSTAINED = -1
"""The prediction of a row for which the model gave none."""
SCORE_BINS = 1024
CALIBRATION_BINS = 15
SCORE_SCALE = 2.0**32
WEIGHT_SCALE = 2.0**32
SQUARE_SCALE = 2.0**20
LARGEST_WEIGHT = 1024.0
"""With larger ones sums would not stay exact; weights divided by their mean say the same."""
_FORMATS = ("fairlead-state/1", "fairlead-state/2", "fairlead-state/3", "fairlead-state/4")
_LOW_BITS = 21  # a weight of 42 bits is summed as two words
_MOST_PAIRED_CLASSES = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a state keeps beside its counts."""

    has_scores: bool = False
    has_weights: bool = False
    has_champion: bool = False
    replicates: int = 0
    """Resamplings of rows that their hashes decide; 0 keeps none. Needed for clusters only."""
    replicate_seed: int = 0
    has_losses: bool = False
    """Losses of scores, for Brier's score and the log loss; needs scores."""
    has_exact_scores: bool = False
    """Every different score, for areas under the ROC curve without an error of binning; binary tasks with scores."""

    @property
    def is_first_format(self) -> bool:
        """Whether ``fairlead-state/1`` could hold it: then it is still written so, and keeps its digest."""
        return not (
            self.has_weights or self.has_champion or self.replicates or self.has_losses or self.has_exact_scores
        )

    @property
    def format(self) -> str:
        """The oldest format that can hold it."""
        if self.has_exact_scores:
            return _FORMATS[3]
        return _FORMATS[2 if self.has_losses else 0 if self.is_first_format else 1]


class CountState:
    """Counts of evaluated rows by cell, label and prediction; satisfies ``fairlead.workload.Accumulator``.

    ``attributes`` may be empty: then there is one cell. ``classes`` names the K >= 2 classes; in binary tasks the
    second is the positive one. ``has_scores``, ``has_weights`` and ``has_champion`` say what every ``update`` brings;
    ``replicates`` (200 for a 95 % interval) asks for resamplings decided by record, or by cluster; ``has_losses``
    keeps losses of the scores, ``has_exact_scores`` every different one (see ``exact``). Raises ``ValueError`` when the
    state would exceed 64 MB, those scores not counted; ``state_size_bytes`` tells
    beforehand.
    """

    def __init__(
        self,
        *,
        attributes: Sequence[Attribute],
        classes: Sequence[str],
        has_scores: bool = False,
        has_weights: bool = False,
        has_champion: bool = False,
        replicates: int = 0,
        replicate_seed: int = 0,
        has_losses: bool = False,
        has_exact_scores: bool = False,
    ) -> None:
        self.attributes = tuple(attributes)
        self.classes = tuple(classes)
        self.parts = Parts(
            has_scores=has_scores,
            has_weights=has_weights,
            has_champion=has_champion,
            replicates=replicates,
            replicate_seed=replicate_seed,
            has_losses=has_losses,
            has_exact_scores=has_exact_scores,
        )
        _refuse_unusable(self.attributes, self.classes, self.parts)
        shapes = _shapes(self.attributes, len(self.classes), self.parts)
        self._arrays: dict[str, NDArray[Any]] = {
            name: np.zeros(shape, dtype=_dtype(name)) for name, shape in shapes.items()
        }
        self._exact = ScoreTable() if has_exact_scores else None

    @property
    def has_scores(self) -> bool:
        """Whether every update brings scores."""
        return self.parts.has_scores

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
    def weights(self) -> IntArray | None:
        """Sums of weights in fixed point (times 2**32), shape (cells, K, K+1); None without weights."""
        return self._arrays.get("weights")

    @property
    def squares(self) -> IntArray | None:
        """Sums of squared weights in fixed point (times 2**20), shape (cells, K, K+1); None without weights."""
        return self._arrays.get("squares")

    @property
    def paired(self) -> IntArray | None:
        """Rows by label, prediction and champion's prediction, shape (cells, K, K+1, K+1); None without a champion.

        Beyond ten classes only right (1) and wrong (0) are told apart: shape (cells, K, 2, 2).
        """
        return self._arrays.get("paired")

    @property
    def replicates(self) -> IntArray | None:
        """The counts (or weights times 2**20) of each resampling, shape (R, cells, K, K+1); None if none are kept."""
        return self._arrays.get("replicates")

    @property
    def losses(self) -> IntArray | None:
        """Sums of losses and of their squares, shape (cells, 4, 2), see ``losses.py``; None if they are not kept."""
        return self._arrays.get("losses")

    @property
    def clipped(self) -> IntArray | None:
        """Rows whose log loss is bounded, shape (cells,); None if losses are not kept."""
        return self._arrays.get("clipped")

    @property
    def exact_scores(self) -> ScoreTable | None:
        """Rows by every different score; None if they are not kept."""
        return self._exact

    @property
    def n_zero_weights(self) -> int:
        """Rows whose weight is 0: counted, but in no weighted value."""
        return int(self._arrays["zero_weights"][0]) if self.parts.has_weights else 0

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Levels of each attribute, the unknown one included."""
        return shape_of(self.attributes)

    @property
    def book(self) -> Book:
        """Rows seen, and what proves that they were seen once."""
        return Book(self._arrays["book"])

    @property
    def n(self) -> int:
        """Rows seen, those with a NaN label included."""
        return self.book.n

    @property
    def n_unknown(self) -> int:
        """Rows with at least one unknown level."""
        return self.book.n_unknown

    @property
    def n_nan_labels(self) -> int:
        """Rows whose label is NaN; they are in no other array."""
        return self.book.n_nan_labels

    @property
    def n_nan_scores(self) -> int:
        """Rows whose score is NaN; they count as abstained."""
        return self.book.n_nan_scores

    @property
    def record_sum(self) -> int:
        """Wrapping 64-bit sum of record hashes."""
        return self.book.record_sum

    @property
    def record_xor(self) -> int:
        """Exclusive or of record hashes."""
        return self.book.record_xor

    def update(
        self,
        codes: ArrayLike,
        labels: ArrayLike,
        predictions: ArrayLike,
        *,
        record_hashes: ArrayLike,
        scores: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        champion: ArrayLike | None = None,
        clusters: ArrayLike | None = None,
    ) -> None:
        """Count some rows, in place.

        ``codes``: level codes, shape (n, attributes); code ``len(levels)`` is unknown. ``labels``: class indices,
        shape (n,), NaN where missing. ``predictions``, and ``champion`` for those of the present champion: class
        indices, -1 for abstained. ``scores``: probability of class 1, shape (n,), or of every class, shape (n, K), in
        [0, 1]; a row with a NaN score counts as abstained. ``record_hashes``: uint64, shape (n,). ``weights``: from 0
        to 1024, shape (n,). ``clusters``: uint64 hashes of what rows of one person or household share, shape (n,);
        without them each record is resampled for itself. Raises ``ValueError`` for shapes or values outside these.
        """
        batch = self._checked(
            codes,
            labels,
            predictions,
            record_hashes,
            {"scores": scores, "weights": weights, "champion": champion, "clusters": clusters},
        )
        for start in range(0, len(batch.labels), CHUNK_ROWS):
            self._count(batch.part(start, start + CHUNK_ROWS))

    def answered(self, predictions: ArrayLike, scores: ArrayLike | None = None) -> IntArray:
        """The class that counts as the answer to each row, shape (n,): -1 for none, as where the score is NaN.

        Arguments as of ``update``; raises ``ValueError`` as it does.
        """
        _, answers = _whole(np.asarray(predictions), missing=ABSTAINED, dtype=np.int64)
        checked = self._checked_scores(scores, len(answers))
        if checked is None or not len(answers):
            return answers
        return np.where(np.isnan(checked.reshape(len(answers), -1).sum(axis=1)), ABSTAINED, answers)

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
        merged = self._empty_twin()
        for name, array in self._arrays.items():
            merged._arrays[name] = array + other._arrays[name]
        merged._arrays["book"] = self.book.merged(other.book)
        if self._exact is not None and other._exact is not None:
            merged._exact = self._exact.merge(other._exact)
        return merged

    def to_bytes(self) -> bytes:
        """Deterministic bytes without pickle; ``numpy.load`` reads them as an ``.npz``. See ``encoding``."""
        header = self._identity() | {"format": self.parts.format}
        if self._exact is not None:
            header["exact_entries"] = len(self._exact.entries)
        return encode(header, self._all_arrays())

    @classmethod
    def from_bytes(cls, data: bytes) -> "CountState":
        """Read what ``to_bytes`` wrote, of this or an earlier format.

        Raises ``ValueError`` for anything else; never unpickles.
        """
        encoded = Encoded(data)
        try:
            state = cls(**_arguments(encoded.header))
            num_entries = int(encoded.header["exact_entries"]) if state.parts.has_exact_scores else 0
        except (LookupError, TypeError) as error:
            raise ValueError(f"these bytes are not an evaluation state: {error!r}") from error
        state._arrays = encoded.restore(state._arrays)
        state._refuse_contradictions()
        if state.histogram is not None and state._exact is not None:
            rows = state.histogram.sum(axis=2).reshape(-1)
            state._exact = ScoreTable.of(encoded.restore(ScoreTable.like(num_entries)), rows_by_place=rows)
        return state

    def digest(self) -> str:
        """``sha256:`` over name, dtype, shape and little-endian bytes of each array by name, then the level names."""
        return digest(self._identity(), self._all_arrays())

    def _all_arrays(self) -> dict[str, NDArray[Any]]:
        return self._arrays | ({} if self._exact is None else self._exact.arrays())

    def check_complete(self, *, expected_n: int, expected_sum: int, expected_xor: int) -> Incomplete | None:
        """Whether the state holds exactly the rows of a split, by number and both checksums of record hashes."""
        return self.book.check_complete(expected_n=expected_n, expected_sum=expected_sum, expected_xor=expected_xor)

    def _empty_twin(self) -> "CountState":
        return CountState(
            attributes=self.attributes,
            classes=self.classes,
            has_scores=self.parts.has_scores,
            has_weights=self.parts.has_weights,
            has_champion=self.parts.has_champion,
            replicates=self.parts.replicates,
            replicate_seed=self.parts.replicate_seed,
            has_losses=self.parts.has_losses,
            has_exact_scores=self.parts.has_exact_scores,
        )

    def _copy(self) -> "CountState":
        twin = self._empty_twin()
        twin._arrays = {name: array.copy() for name, array in self._arrays.items()}
        if self._exact is not None:
            twin._exact = self._exact.merge(ScoreTable())
        return twin

    def _identity(self) -> dict[str, Any]:
        attributes = [[attribute.name, list(attribute.levels)] for attribute in self.attributes]
        first = {"attributes": attributes, "classes": list(self.classes), "has_scores": self.has_scores}
        if self.parts.is_first_format:
            return first
        second = first | {
            "has_weights": self.parts.has_weights,
            "has_champion": self.parts.has_champion,
            "replicates": self.parts.replicates,
            "replicate_seed": self.parts.replicate_seed,
        }
        more = {"has_losses": self.parts.has_losses, "has_exact_scores": self.parts.has_exact_scores}
        return second | {name: True for name, is_kept in more.items() if is_kept}

    def _checked(
        self,
        codes: ArrayLike,
        labels: ArrayLike,
        predictions: ArrayLike,
        hashes: ArrayLike,
        optional: dict[str, ArrayLike | None],
    ) -> "_Batch":
        """All rows as given, or ``ValueError`` before anything is counted."""
        n = len(np.asarray(labels))
        self._refuse_missing("weights", optional["weights"], self.parts.has_weights)
        self._refuse_missing("champion's predictions", optional["champion"], self.parts.has_champion)
        if optional["clusters"] is not None and not self.parts.replicates:
            raise ValueError("this state takes no clusters: it keeps no replicates")
        batch = _Batch(
            codes=shaped_codes(codes, rows=n, columns=len(self.attributes)),
            labels=np.asarray(labels),
            predictions=np.asarray(predictions),
            scores=self._checked_scores(optional["scores"], n),
            hashes=np.asarray(hashes, dtype=np.uint64),
            weights=_checked_weights(optional["weights"], n),
            champion=None if optional["champion"] is None else np.asarray(optional["champion"]),
            clusters=None if optional["clusters"] is None else np.asarray(optional["clusters"], dtype=np.uint64),
        )
        for what, values in (("labels", batch.labels), ("predictions", batch.predictions), ("hashes", batch.hashes)):
            refuse_length("record_hashes" if what == "hashes" else what, values, n)
        for what, kept in (("champion", batch.champion), ("clusters", batch.clusters)):
            if kept is not None:
                refuse_length(what, kept, n)
        for start in range(0, n, CHUNK_ROWS):
            self._refuse_strangers(batch.part(start, start + CHUNK_ROWS))
        return batch

    def _refuse_missing(self, what: str, given: ArrayLike | None, is_wanted: bool) -> None:
        if (given is not None) is not is_wanted:
            raise ValueError(f"this state {'needs' if is_wanted else 'takes no'} {what}")

    def _refuse_strangers(self, part: "_Batch") -> None:
        """Values that the declared classes and levels do not have."""
        most = len(self.classes) - 1
        refuse_outside("labels", part.labels, 0, most)
        refuse_outside("predictions", part.predictions, ABSTAINED, most)
        if part.champion is not None:
            refuse_outside("the champion's predictions", part.champion, ABSTAINED, most)
        refuse_unknown_codes(part.codes, self.attributes)

    def _checked_scores(self, scores: ArrayLike | None, n: int) -> FloatArray | None:
        self._refuse_missing("scores", scores, self.has_scores)
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
        """Count one chunk; positions are as narrow as the state allows."""
        narrow = _narrowest(self.counts.size)
        is_kept, labels = _whole(batch.labels, missing=0, dtype=narrow)
        predictions, has_score = self._predictions(batch, narrow)
        cells = cells_of(batch.codes, self.cell_shape, narrow)
        self._keep_book(batch.hashes, cells, is_labelled=is_kept, has_score=has_score)
        if is_kept is not None:
            cells, labels, predictions = cells[is_kept], labels[is_kept], predictions[is_kept]
            has_score = has_score[is_kept] if has_score is not None else None
            batch = batch.at(is_kept)
        stride = len(self.classes) + 1
        rows = cells * narrow(stride - 1) + labels
        flat = rows * narrow(stride) + predictions
        _add(self.counts, flat)
        if batch.weights is not None:
            self._count_weights(flat, batch.weights)
        if batch.champion is not None:
            self._count_pairs(rows, labels, predictions, batch.champion)
        if self.parts.replicates:
            self._count_replicates(flat, batch)
        if batch.scores is not None:
            usable = slice(None) if has_score is None else has_score
            self._count_scores(cells[usable], labels[usable], batch.scores[usable])

    def _predictions(self, batch: "_Batch", narrow: type[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Prediction columns, K for none; and which rows have a score, None for all."""
        _, predictions = _whole(batch.predictions, missing=ABSTAINED, dtype=narrow)
        has_score = None
        if batch.scores is not None:
            is_number = ~np.isnan(batch.scores.reshape(len(predictions), -1).sum(axis=1))
            has_score = None if is_number.all() else is_number
        if has_score is not None:
            predictions = np.where(has_score, predictions, ABSTAINED)
        if predictions.min(initial=0) < 0:
            predictions = np.where(predictions == ABSTAINED, len(self.classes), predictions).astype(narrow)
        return predictions, has_score

    def _keep_book(
        self,
        hashes: NDArray[np.uint64],
        cells: NDArray[Any],
        *,
        is_labelled: NDArray[np.bool_] | None,
        has_score: NDArray[np.bool_] | None,
    ) -> None:
        by_cell = np.bincount(cells, minlength=len(self.counts))
        self.book.enter(
            hashes,
            unknown=int(by_cell[is_unknown_cell(self.cell_shape)].sum()),
            nan_labels=0 if is_labelled is None else int(np.count_nonzero(~is_labelled)),
            nan_scores=0 if has_score is None else int(np.count_nonzero(~has_score)),
        )

    def _count_weights(self, flat: NDArray[Any], weights: FloatArray) -> None:
        _add_fixed(self._arrays["weights"], flat, np.rint(weights * WEIGHT_SCALE).astype(np.int64))
        _add_fixed(self._arrays["squares"], flat, np.rint(weights**2 * SQUARE_SCALE).astype(np.int64))
        self._arrays["zero_weights"][0] += np.count_nonzero(weights == 0)

    def _count_pairs(
        self, rows: NDArray[Any], labels: NDArray[Any], predictions: NDArray[Any], champion: NDArray[Any]
    ) -> None:
        paired = self._arrays["paired"]
        ours, theirs = predictions.astype(np.int64), _whole(champion, missing=ABSTAINED, dtype=np.int64)[1]
        theirs = np.where(theirs == ABSTAINED, len(self.classes), theirs)
        if paired.shape[-1] == 2:
            ours, theirs = (ours == labels).astype(np.int64), (theirs == labels).astype(np.int64)
        _add(paired, (rows.astype(np.int64) * paired.shape[-1] + ours) * paired.shape[-1] + theirs)

    def _count_replicates(self, flat: NDArray[Any], batch: "_Batch") -> None:
        units = batch.hashes if batch.clusters is None else batch.clusters
        own = None if batch.weights is None else np.rint(batch.weights * SQUARE_SCALE)
        keys = replicate_keys(self.parts.replicates, seed=self.parts.replicate_seed)
        for array, key in zip(self._arrays["replicates"], keys, strict=True):
            drawn = poisson_weights(units, key).astype(np.float64)
            _add(array, flat, weights=drawn if own is None else drawn * own)

    def _count_losses(self, cells: IntArray, labels: IntArray, scores: FloatArray) -> None:
        losses = self._arrays["losses"]
        for at, words in enumerate(fixed_losses(labels, scores)):
            for word, numbers in enumerate(words):
                sums = np.bincount(cells, weights=numbers, minlength=len(losses))
                losses[:, at, word] += sums.astype(np.int64)
        self._arrays["clipped"] += np.bincount(cells[is_clipped(labels, scores)], minlength=len(losses))

    def _count_scores(self, cells: NDArray[Any], labels: NDArray[Any], scores: FloatArray) -> None:
        cells, labels = cells.astype(np.int64), labels.astype(np.int64)
        if self.parts.has_losses:
            self._count_losses(cells, labels, scores)
        confidence, hits = scores, labels
        if len(self.classes) > 2:
            confidence = scores.max(axis=1, initial=0.0)
            hits = (scores.argmax(axis=1) == labels).astype(np.int64)
        rows = cells * 2 + hits
        if self.histogram is not None:
            _add(self.histogram, rows * SCORE_BINS + _bin(confidence, SCORE_BINS))
        if self._exact is not None:
            self._exact.add(confidence, rows)
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
    weights: FloatArray | None
    champion: NDArray[Any] | None
    clusters: NDArray[np.uint64] | None

    def part(self, start: int, stop: int) -> "_Batch":
        return self.at(slice(start, stop))

    def at(self, rows: slice | NDArray[np.bool_]) -> "_Batch":
        return _Batch(
            codes=self.codes[rows],
            labels=self.labels[rows],
            predictions=self.predictions[rows],
            scores=None if self.scores is None else self.scores[rows],
            hashes=self.hashes[rows],
            weights=None if self.weights is None else self.weights[rows],
            champion=None if self.champion is None else self.champion[rows],
            clusters=None if self.clusters is None else self.clusters[rows],
        )


def state_size_bytes(
    *,
    attributes: Sequence[Attribute],
    num_classes: int,
    has_scores: bool = False,
    has_weights: bool = False,
    has_champion: bool = False,
    replicates: int = 0,
    has_losses: bool = False,
) -> int:
    """Memory of a state before any row is seen, in bytes."""
    parts = Parts(
        has_scores=has_scores,
        has_weights=has_weights,
        has_champion=has_champion,
        replicates=replicates,
        has_losses=has_losses,
    )
    return _size_bytes(attributes, num_classes, parts)


def _size_bytes(attributes: Sequence[Attribute], num_classes: int, parts: Parts) -> int:
    return sum(8 * math.prod(shape) for shape in _shapes(attributes, num_classes, parts).values())


def _shapes(attributes: Sequence[Attribute], num_classes: int, parts: Parts) -> dict[str, tuple[int, ...]]:
    cells = math.prod(len(attribute.levels) + 1 for attribute in attributes)
    table = (cells, num_classes, num_classes + 1)
    shapes: dict[str, tuple[int, ...]] = {"book": (6,), "counts": table}
    if parts.has_scores:
        shapes |= dict.fromkeys(("calibration", "score_sums"), (cells, 2, CALIBRATION_BINS))
    if parts.has_scores and num_classes == 2:
        shapes["histogram"] = (cells, 2, SCORE_BINS)
    if parts.has_weights:
        shapes |= {"weights": table, "squares": table, "zero_weights": (1,)}
    if parts.has_champion:
        answers = num_classes + 1 if num_classes <= _MOST_PAIRED_CLASSES else 2
        shapes["paired"] = (cells, num_classes, answers, answers)
    if parts.has_losses:
        shapes |= {"losses": (cells, *LOSS_SHAPE), "clipped": (cells,)}
    if parts.replicates:
        shapes["replicates"] = (parts.replicates, *table)
    return shapes


def _dtype(name: str) -> type[np.uint64] | type[np.int64]:
    return np.uint64 if name == "book" else np.int64


def _arguments(header: dict[str, Any]) -> dict[str, Any]:
    """What the state was made with. The first format knows no more than scores."""
    if header["format"] not in _FORMATS:
        raise ValueError(f"the format of this evaluation state is {header['format']!r}, not one of {_FORMATS}")
    attributes = [Attribute(name=str(name), levels=tuple(map(str, levels))) for name, levels in header["attributes"]]
    first = {
        "attributes": attributes,
        "classes": [*map(str, header["classes"])],
        "has_scores": bool(header["has_scores"]),
    }
    if header["format"] == _FORMATS[0]:
        return first
    flags = {name: bool(header[name]) for name in ("has_weights", "has_champion")}
    if header["format"] == _FORMATS[2]:
        flags["has_losses"] = bool(header["has_losses"])
    if header["format"] == _FORMATS[3]:
        flags |= {"has_losses": bool(header.get("has_losses", False)), "has_exact_scores": True}
    return first | flags | {name: int(header[name]) for name in ("replicates", "replicate_seed")}


def _refuse_unusable(attributes: Sequence[Attribute], classes: Sequence[str], parts: Parts) -> None:
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise ValueError(f"at least two different classes are needed, not {list(classes)!r}")
    refuse_ambiguous(attributes)
    if parts.has_losses and not parts.has_scores:
        raise ValueError("losses are those of scores: a state that keeps them needs scores")
    if parts.has_exact_scores and not (parts.has_scores and len(classes) == 2):
        raise ValueError("every different score is kept of two classes with scores alone")
    if parts.replicates < 0 or parts.replicate_seed < 0:
        raise ValueError("replicates and their seed must not be negative")
    refuse_large(attributes, _size_bytes(attributes, len(classes), parts), what=f" by {len(classes)} classes")


def _checked_weights(weights: ArrayLike | None, n: int) -> FloatArray | None:
    if weights is None:
        return None
    values = np.asarray(weights, dtype=np.float64)
    refuse_length("weights", values, n)
    if not np.isfinite(values).all():
        raise ValueError("weights must be numbers: give rows without one a weight, or leave them out")
    if np.any(values < 0):
        raise ValueError(f"weights must not be negative, and {int((values < 0).sum())} of {n} are")
    if np.any(values > LARGEST_WEIGHT):
        raise ValueError(f"weights must be at most {LARGEST_WEIGHT:g}: divide them by their mean")
    return values


def _narrowest(size: int) -> type[Any]:
    """An integer type that holds positions below ``size``."""
    return np.int16 if size <= 2**15 else np.int32 if size <= 2**31 else np.int64


def _whole(values: NDArray[Any], *, missing: int, dtype: type[Any]) -> tuple[NDArray[np.bool_] | None, NDArray[Any]]:
    """Which values are there (None: all), and all of them as integers, NaN replaced by ``missing``."""
    if not np.issubdtype(values.dtype, np.floating):
        return None, values.astype(dtype, copy=False)
    is_there = ~np.isnan(values)
    if is_there.all():
        return None, values.astype(dtype)
    return is_there, np.where(is_there, values, missing).astype(dtype)


def _bin(values: FloatArray, bins: int) -> IntArray:
    """Equal bins of [0, 1], closed on the left; the last on both sides."""
    return np.asarray(np.minimum((values * bins).astype(np.int64), bins - 1), dtype=np.int64)


def _add(array: IntArray, flat: NDArray[Any], weights: FloatArray | None = None) -> None:
    total = np.bincount(flat, weights=weights, minlength=array.size)
    array += total.astype(np.int64, copy=False).reshape(array.shape)


def _add_fixed(array: IntArray, flat: NDArray[Any], fixed: IntArray) -> None:
    """Add whole numbers of up to 42 bits, in two words: floats are exact only below 2**53."""
    high, low = fixed >> _LOW_BITS, fixed & (2**_LOW_BITS - 1)
    _add(array, flat, weights=low.astype(np.float64))
    carried = np.zeros_like(array)
    _add(carried, flat, weights=high.astype(np.float64))
    array += carried << _LOW_BITS

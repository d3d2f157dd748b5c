"""The contract with training code: ``train(params, context)`` and what it may ask of the platform.

A workload is a module with ``train``; if its model is to be served it also has ``load``, which turns an exported
directory into a function from rows to predictions. Nothing here needs Ray, torch or MLflow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fairlead.spec import DataKind, MeasureSpec, MitigationSpec, PrivacySpec, ProbesSpec

Params = Mapping[str, Any]
Predictor = Callable[[Any], Any]
"""From a DataFrame of feature columns (or an array of shape (n, ...)) to predictions, shape (n,) or (n, classes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """A sensitive attribute and its levels. Code ``len(levels)`` stands for an unknown value."""

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureColumn:
    """One input of the model, as its signature names it."""

    name: str
    dtype: str
    """A numpy dtype name, ``float32`` unless the data say otherwise; ``str`` for a column of texts."""
    levels: tuple[str, ...] = ()
    """Texts a ``str`` column may hold: each becomes one 0/1 input of the model, in this order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """What is known of a data set without its rows."""

    uri: str
    digest: str
    """``sha256:`` over all rows, features, labels, groups and record ids."""
    num_rows: int
    num_by_split: Mapping[str, int]
    record_sum_by_split: Mapping[str, int]
    """Wrapping uint64 sum of record-id hashes a split: proves single counting."""
    record_xor_by_split: Mapping[str, int]
    features: tuple[FeatureColumn, ...]
    """For tables one entry a column; for images a single entry named ``image``."""
    feature_shape: tuple[int, ...]
    """Shape of one row's features: ``(inputs,)``, texts counted once a level, or ``(channels, height, width)``."""
    classes: tuple[str, ...]
    """Empty where a row has no class: its target is a number, or what ``Rows.targets`` holds."""
    attributes: tuple[Attribute, ...]
    target: str
    """Name of what is to be learnt: a column, or a word for it such as ``next byte``."""
    kind: DataKind = "table"
    """What a row is."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What else a workload must know of all rows, as JSON: ``sample_rate``, ``environment`` and the like."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a split, in memory. All arrays have the same first dimension n."""

    records: NDArray[np.int64]
    """Row positions in the data set, shape (n,): hand them back to ``Context.evaluate``."""
    features: NDArray[Any]
    """float32, shape (n, columns) or (n, channels, height, width); other kinds of data say their own, such as texts as
    objects, shape (n,). With ``data.streaming`` they stay on disk: rows are indexed as those of an array are, and read
    then."""
    labels: NDArray[Any]
    """Class indices, int64, shape (n,); float64 where the target is a number; all 0 where a row has neither."""
    targets: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What is to be learnt where it is more than a label, by name, first dimension n: masks, boxes, other texts."""

    def __len__(self) -> int:
        return len(self.records)


class Context(Protocol):
    """What a workload may ask of the platform while it trains. Every rank has one of its own.

    ``should_stop`` is collective: every rank calls it at the same place, and all get the same answer.
    """

    rank: int
    world_size: int
    device: str
    """``cpu`` or ``cuda:<n>``."""
    seed: int
    threshold: float
    """Score from which a binary workload predicts class 1."""

    @property
    def dataset(self) -> DatasetInfo:
        """The data set the spec names. Raises ``BadInput`` where it names none, as all does that is about its rows."""
        ...

    def all_rows(self, split: str) -> Rows:
        """Every row of a split, the same on all ranks: training draws its batches from it by ``batches``."""
        ...

    def shard(self, split: str) -> Rows:
        """This rank's rows of a split: contiguous, disjoint, together exactly the split, maybe unequal or empty."""
        ...

    @property
    def mitigation(self) -> MitigationSpec | None:
        """What the spec asks for against gaps between groups; ``fairlead.mitigation`` carries it out.

        Whoever never reads it, though the spec asks for something, ends as a user error: it would pass as done.
        """
        ...

    @property
    def privacy(self) -> PrivacySpec | None:
        """What the spec asks for in the way of differential privacy; ``fairlead.privacy`` carries it out.

        Whoever never reads it, though the spec asks for it, ends as a user error, and so does whoever trains otherwise.
        """
        ...

    def groups(self, records: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each record by ``mitigation.by``, shape (n,); all 0 where the spec asks for no mitigation.

        Numbers go over the combinations of levels in their order, the last attribute fastest; rows with a level
        unknown have the last number.
        """
        ...

    @property
    def probes(self) -> ProbesSpec | None:
        """What the spec asks to be looked at beside the test split as it is; ``fairlead.probes`` carries it out.

        What it asks for must be there when the workload returns, or the attempt ends as a user error.
        """
        ...

    @property
    def resume_from(self) -> Path | None:
        """A verified checkpoint directory of an earlier attempt or worker group; None: start from the beginning."""
        ...

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None = None) -> None:
        """Record ``metrics`` at ``step``. ``checkpoint`` is a directory to keep; its files are copied before return.

        Rank 0's metrics and checkpoint count; other ranks may call it too. Not a barrier. NaN is recorded as NaN.
        Beyond 20,000 values a second for long, or 10,000 different metrics, some are left out; an event counts them.
        """
        ...

    def shared_directory(self, step: int) -> Path:
        """An empty directory that all ranks see, for a checkpoint at ``step`` of which each of them writes a part.

        The same on all ranks. Rank 0 gives it to ``report`` once all parts are there; it is then no longer the
        workload's. What is never reported is deleted with the attempt's scratch files.
        """
        ...

    def should_stop(self) -> bool:
        """Whether the platform asks to stop after the last checkpoint. Collective."""
        ...

    def evaluate(
        self,
        split: str,
        *,
        records: NDArray[np.int64],
        predictions: NDArray[np.int64],
        scores: NDArray[np.float64] | None = None,
        condition: str | None = None,
        clean: NDArray[np.int64] | None = None,
    ) -> None:
        """Count predictions of this rank's rows of ``split``; call it as often as there are batches.

        The platform looks up the labels and groups of ``records`` itself: a workload cannot get them wrong.
        ``predictions``: class indices; numbers, float64, where the target is one.
        ``scores``: probability of class 1, shape (n,), for binary tasks; shape (n, classes) for multi-class ones.
        Every row of the split must be counted exactly once over all ranks, or the attempt ends as a user error.
        ``condition``: a probe of the spec whose predictions these are; they are counted apart, beside ``clean``, the
        predictions of the same rows as they are.
        """
        ...

    def grade(
        self, split: str, *, records: NDArray[np.int64], values: NDArray[np.float64], measure: MeasureSpec
    ) -> None:
        """Say how good the answer to each record of ``split`` is, where only the workload can tell.

        For what has neither classes nor a number to predict: the overlap of a mask, the bits that a byte of a text
        costs, the return of an episode. ``values``: shape (n,), within the range of ``measure``; NaN: there is no
        answer. Each row exactly once over all ranks, as for ``evaluate``. The report compares the means of groups.
        """
        ...

    def rank_rows(
        self, split: str, *, records: NDArray[np.int64], queries: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> None:
        """Count ranked lists of ``split``: rows of one query (such as a user) by descending score make one list.

        The relevance of a row is its label. ``queries`` and ``scores``: shape (n,). All rows of a query in one call of
        one rank; each row exactly once over all ranks.
        """
        ...

    def show(self, name: str, content: bytes | str) -> None:
        """Keep a sample for people to look at, such as ``epoch-3.png``; rank 0's count.

        It appears among the artifacts of the MLflow run, below ``samples``. ``name``: a relative path ending in .png,
        .gif, .jpg, .svg, .txt, .html, .json, .csv or .wav; the same name again replaces it. At most 10 MiB each, 200 of
        them.
        """
        ...

    def export(self, tensors: Mapping[str, Any], *, config: Mapping[str, Any]) -> None:
        """Give the trained model: named tensors and what is needed to rebuild it. Rank 0 counts.

        Written as ``weights.safetensors`` and ``model.json``; the workload's ``load`` reads them back.
        """
        ...


class Workload(Protocol):
    """A training program, found by manifest or as ``package.module:function``."""

    def __call__(self, params: Params, context: Context) -> None: ...


class Accumulator(Protocol):
    """Mergeable evaluation state: merging is exact addition, in any order, for any sharding."""

    def merge(self, other: "Accumulator") -> "Accumulator":
        """The sum of both."""
        ...

    def to_bytes(self) -> bytes:
        """A deterministic encoding without pickle."""
        ...

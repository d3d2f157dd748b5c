"""Who gets which rows: splits with exact counts, shards without padding, batches that all ranks share.

A *split* is train, validation or test. A *shard* is one rank's contiguous part of a split; shards are disjoint and
together exactly the split, so they may differ by one row or be empty. A *global batch* is what one optimizer step
sees over all ranks; it does not depend on how many ranks there are.

NumPy's legacy generator is used on purpose: its streams are frozen for ever, so that a seed names the same split in
every version.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from fairlead.spec import SplitSpec

SPLITS = ("train", "validation", "test")


def split_counts(num_rows: int, shares: SplitSpec) -> dict[str, int]:
    """Rows of each split: test and validation rounded to the nearest (halves up), train takes the rest.

    442 rows at 0.6, 0.1 and 0.3 give 265, 44 and 133.
    """
    test = min(num_rows, nearest(num_rows, shares.test))
    validation = min(num_rows - test, nearest(num_rows, shares.validation))
    return {"train": num_rows - test - validation, "validation": validation, "test": test}


def nearest(num_rows: int, share: float) -> int:
    """``share`` of ``num_rows``, halves up, where 0.35 means thirty-five hundredths rather than a float."""
    return floor(num_rows * Fraction(repr(share)) + Fraction(1, 2))


def split_rows(
    num_rows: int, shares: SplitSpec, *, blocks: NDArray[np.int64] | None = None
) -> Mapping[str, NDArray[np.int64]]:
    """Row positions of each split, ascending, drawn by ``shares.seed``; shape (rows of the split,).

    ``blocks``: the number of the piece that each row was cut from, shape (rows,). Pieces are then drawn rather than
    rows, and laid end to end: the counts are the same, and at most two pieces lie across the edge of a split, each
    cut once there, so that no row has neighbours on both sides in another split.
    """
    random = np.random.RandomState(shares.seed)
    if blocks is None:
        order = random.permutation(num_rows).astype(np.int64)
    else:
        names, first = np.unique(blocks, return_inverse=True)
        order = np.argsort(random.permutation(len(names))[first], kind="stable").astype(np.int64)
    counts = split_counts(num_rows, shares)
    edges = np.cumsum([counts["train"], counts["validation"]])
    return {name: np.sort(part) for name, part in zip(SPLITS, np.split(order, edges), strict=True)}


def split_in_time(
    starts: NDArray[np.float64], ends: NDArray[np.float64], shares: SplitSpec
) -> Mapping[str, NDArray[np.int64]]:
    """Row positions of each split, ascending, where what a row is to foretell lies from ``starts`` to ``ends``.

    Later splits lie later: the train split ends before the validation split starts, and that before the test split. The
    shares are of rows by their start. Rows that would reach from one split into the next are in none. ``shares.seed``
    draws nothing. Both arrays: shape (rows,), times in any unit.
    """
    ordered = np.sort(starts)
    counts = split_counts(len(starts), shares)
    edges = (counts["train"], counts["train"] + counts["validation"])
    later, latest = (ordered[edge] if edge < len(ordered) else np.inf for edge in edges)
    is_test = starts >= latest
    is_tuning = (starts >= later) & ~is_test
    is_train = starts < later
    return {
        "train": np.flatnonzero(is_train & (ends < later)),
        "validation": np.flatnonzero(is_tuning & (ends < latest)),
        "test": np.flatnonzero(is_test),
    }


def shard_range(num_rows: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """First and one-past-last position of a rank's part of ``num_rows``. Raises ``ValueError`` for a bad rank."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, not {rank}")
    return num_rows * rank // world_size, num_rows * (rank + 1) // world_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One rank's part of one global batch.

    Data-parallel training averages gradients over ranks, but ranks may hold unequal parts, even none. The loss
    whose averaged gradient equals that of the mean loss over the global batch is ``sum of local losses *
    loss_scale``; a rank without rows adds a sum of nothing, which is zero, and still takes part.
    """

    positions: NDArray[np.int64]
    """Positions within the split's rows, shape (local rows,)."""
    num_global: int
    """Rows of the global batch over all ranks."""
    world_size: int

    @property
    def loss_scale(self) -> float:
        """World size over global rows."""
        return self.world_size / self.num_global


def num_batches(num_rows: int, *, global_batch: int) -> int:
    """Optimizer steps of an epoch; the last one may be smaller."""
    return -(-num_rows // global_batch)


def batches(num_rows: int, *, global_batch: int, rank: int, world_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """A rank's parts of one shuffled epoch. Every rank gets the same number of steps.

    For a given seed and epoch the global batches are the same for any world size. Raises ``ValueError`` for a
    batch below one row or a bad rank.
    """
    if global_batch < 1:
        raise ValueError(f"global_batch must be at least 1, not {global_batch}")
    order = np.random.RandomState((seed, epoch)).permutation(num_rows).astype(np.int64)
    for start in range(0, num_rows, global_batch):
        rows = order[start : start + global_batch]
        first, last = shard_range(len(rows), rank=rank, world_size=world_size)
        yield Batch(positions=rows[first:last], num_global=len(rows), world_size=world_size)

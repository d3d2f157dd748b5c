from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.data import batches, num_batches, shard_range, split_counts
from fairlead.data.splits import split_rows
from fairlead.spec import SplitSpec

SIZES = st.integers(min_value=0, max_value=2000)
WORLDS = st.integers(min_value=1, max_value=17)


@pytest.mark.parametrize(
    ("num_rows", "shares", "counts"),
    [
        (442, (0.6, 0.1, 0.3), (265, 44, 133)),
        (1797, (0.6, 0.1, 0.3), (1078, 180, 539)),
        (10, (0.55, 0.1, 0.35), (5, 1, 4)),  # 3.5 rounds up, though 10 * 0.35 is 3.4999 in floats
        (10, (1.0, 0.0, 0.0), (10, 0, 0)),
        (1, (0.4, 0.1, 0.5), (0, 0, 1)),
        (0, (0.6, 0.1, 0.3), (0, 0, 0)),
    ],
)
def test_counts_of_splits_are_exact(
    num_rows: int, shares: tuple[float, float, float], counts: tuple[int, int, int]
) -> None:
    train, validation, test = shares
    found = split_counts(num_rows, SplitSpec(train=train, validation=validation, test=test))
    assert (found["train"], found["validation"], found["test"]) == counts


def test_a_seed_names_the_same_split_for_ever() -> None:
    rows = split_rows(10, SplitSpec(train=0.6, validation=0.1, test=0.3, seed=7))
    assert {name: part.tolist() for name, part in rows.items()} == {
        "train": [0, 1, 2, 5, 8, 9],
        "validation": [7],
        "test": [3, 4, 6],
    }


@given(num_rows=SIZES, seed=st.integers(0, 2**32 - 1), test=st.integers(0, 50), validation=st.integers(0, 40))
def test_splits_are_disjoint_and_complete(num_rows: int, seed: int, test: int, validation: int) -> None:
    shares = SplitSpec(
        train=round(1 - (test + validation) / 100, 2), validation=validation / 100, test=test / 100, seed=seed
    )
    parts = split_rows(num_rows, shares)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(num_rows))
    assert {name: len(part) for name, part in parts.items()} == split_counts(num_rows, shares)


@given(num_rows=SIZES, world_size=WORLDS)
def test_shards_are_contiguous_exact_and_nearly_equal(num_rows: int, world_size: int) -> None:
    ranges = [shard_range(num_rows, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == num_rows
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    sizes = [last - first for first, last in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="rank must be from 0 to 1"):
        shard_range(10, rank=rank, world_size=2)


@given(
    num_rows=st.integers(0, 300),
    global_batch=st.integers(1, 64),
    world_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 50),
)
def test_any_number_of_ranks_sees_the_same_global_batches(
    num_rows: int, global_batch: int, world_size: int, seed: int, epoch: int
) -> None:
    def of_rank(rank: int, world_size: int) -> list:
        return list(
            batches(num_rows, global_batch=global_batch, rank=rank, world_size=world_size, seed=seed, epoch=epoch)
        )

    alone = of_rank(0, 1)
    together = [of_rank(rank, world_size) for rank in range(world_size)]
    assert {len(steps) for steps in together} == {num_batches(num_rows, global_batch=global_batch)}
    for step, whole in enumerate(alone):
        parts = [steps[step] for steps in together]
        assert np.array_equal(np.concatenate([part.positions for part in parts]), whole.positions)
        assert {part.num_global for part in parts} == {len(whole.positions)}
    seen = np.concatenate([whole.positions for whole in alone]) if alone else np.empty(0)
    assert np.array_equal(np.sort(seen), np.arange(num_rows))


@given(num_rows=st.integers(1, 200), global_batch=st.integers(1, 70), world_size=st.integers(1, 9))
def test_scaled_sums_average_to_the_mean_over_the_global_batch(
    num_rows: int, global_batch: int, world_size: int
) -> None:
    losses = np.random.RandomState(num_rows).normal(size=num_rows)
    ranks = [
        batches(num_rows, global_batch=global_batch, rank=rank, world_size=world_size, seed=1, epoch=1)
        for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        averaged = np.mean([losses[part.positions].sum() * part.loss_scale for part in parts])
        rows = np.concatenate([part.positions for part in parts])
        np.testing.assert_allclose(averaged, losses[rows].mean(), atol=1e-12)


def test_the_last_batch_may_give_a_rank_no_rows() -> None:
    steps = list(batches(5, global_batch=4, rank=0, world_size=2, seed=0, epoch=0))
    assert [len(step.positions) for step in steps] == [2, 0]


def test_epochs_are_shuffled_differently() -> None:
    first, second = (
        next(batches(50, global_batch=50, rank=0, world_size=1, seed=0, epoch=epoch)).positions for epoch in (1, 2)
    )
    assert not np.array_equal(first, second)


def test_a_batch_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(batches(5, global_batch=0, rank=0, world_size=1, seed=0, epoch=0))

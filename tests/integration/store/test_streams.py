import math
from datetime import datetime, timedelta
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.errors import Conflict, WrongOffset
from fairlead.protocol import Batch, MetricPoint, NoteRecord
from fairlead.store import Store, attempts, batches, checkpoints, experiments, series
from fairlead.testing import FakeClock
from fairlead.testing.stored import an_attempt

NOW = FakeClock().now()
KEY = "exp-1-a1"


def points(first: int, count: int, value: float = 0.5) -> Batch:
    made = tuple(MetricPoint(key="loss", value=value, step=first + i, at_ms=1000 + i) for i in range(count))
    return Batch(stream="metrics", first_offset=first, points=made)


def take_in(store: Store, batch: Batch) -> None:
    with store.write() as session:
        batches.advance(session, KEY, batch)
        batches.insert(session, attempts.get(session, KEY), batch, now=NOW)


# ---- batches ------------------------------------------------------------------------------------------------------


def test_a_stream_takes_batches_that_join(store: Store) -> None:
    an_attempt(store)
    for first, count in ((0, 3), (3, 1), (4, 5)):
        take_in(store, points(first, count))
    with store.read() as session:
        assert batches.offsets(session, KEY) == {"metrics": 9}
        waiting = batches.unrecorded(session)
    assert [(row.first_offset, row.next_offset) for row in waiting] == [(0, 3), (3, 4), (4, 9)]
    assert waiting[0].payload[1] == ["loss", 0.5, 1, 1001]


@pytest.mark.parametrize(
    ("before", "batch", "expected"),
    [
        ([], points(1, 1), 0),  # a gap at the start
        ([points(0, 3)], points(0, 3), 3),  # the same once more
        ([points(0, 3)], points(2, 3), 3),  # overlapping
        ([points(0, 3)], points(4, 1), 3),  # a gap
        ([points(0, 0), points(0, 2)], points(0, 1), 2),
    ],
)
def test_a_batch_that_does_not_join_is_refused_with_the_right_offset(
    store: Store, before: list[Batch], batch: Batch, expected: int
) -> None:
    an_attempt(store)
    for earlier in before:
        take_in(store, earlier)
    with pytest.raises(WrongOffset) as refusal:
        take_in(store, batch)
    assert refusal.value.expected == expected
    with store.read() as session:
        assert batches.next_offset(session, KEY, "metrics") == expected
        assert sum(len(row.payload) for row in batches.unrecorded(session)) == expected


def test_a_batch_without_points_moves_nothing_and_waits_for_nobody(store: Store) -> None:
    an_attempt(store)
    for batch in (points(0, 0), points(0, 2), points(2, 0), points(2, 0), points(2, 1)):
        take_in(store, batch)
    with store.read() as session:
        assert [row.first_offset for row in batches.unrecorded(session)] == [0, 2]


def test_streams_count_by_themselves(store: Store) -> None:
    an_attempt(store)
    notes = Batch(stream="notes", first_offset=0, notes=(NoteRecord(kind="hint", at_ms=1),))
    with store.write() as session:
        batches.advance(session, KEY, points(0, 2))
        batches.advance(session, KEY, notes)
        assert batches.offsets(session, KEY) == {"metrics": 2, "notes": 1}
        batches.advance(session, KEY, points(2, 2))
        assert batches.offsets(session, KEY) == {"metrics": 4, "notes": 1}


def test_of_racing_batches_at_one_offset_one_is_taken(store: Store) -> None:
    an_attempt(store)
    for first in range(5):
        start, refused = Barrier(4), []

        def race(first: int = first, start: Barrier = start, refused: list[int] = refused) -> None:
            start.wait(timeout=30)
            try:
                take_in(store, points(first, 1))
            except WrongOffset as refusal:
                refused.append(refusal.expected)

        racers = [Thread(target=race) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(timeout=60)
        assert refused == [first + 1] * 3
    with store.read() as session:
        assert [row.first_offset for row in batches.unrecorded(session)] == list(range(5))


@pytest.mark.parametrize(
    ("value", "stored"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (1e-300, 1e-300)]
)
def test_numbers_that_json_does_not_know_survive_as_their_names(
    store: Store, value: float, stored: float | str
) -> None:
    an_attempt(store)
    take_in(store, points(0, 1, value))
    with store.read() as session:
        assert batches.unrecorded(session)[0].payload == [["loss", stored, 0, 1000]]


def test_recorded_batches_are_kept_until_their_time(store: Store, clock: FakeClock) -> None:
    an_attempt(store)
    take_in(store, points(0, 1))
    take_in(store, points(1, 1))
    with store.write() as session:
        ids = [row.id for row in batches.unrecorded(session)]
        batches.mark_recorded(session, ids[:1], now=clock.now())
        assert [row.id for row in batches.unrecorded(session)] == ids[1:]
        assert batches.has_unrecorded(session, "exp-1")
        assert batches.forget_recorded(session, before=clock.now()) == 0
        assert batches.forget_recorded(session, before=clock.advance(1)) == 0, "the series still need it"
        series.fold(session, "exp-1", now=clock.now())
        assert batches.forget_recorded(session, before=clock.now()) == 1
        batches.mark_recorded(session, ids[1:], now=clock.now())
        assert not batches.has_unrecorded(session, "exp-1")


# ---- checkpoints --------------------------------------------------------------------------------------------------


def commit(store: Store, step: int, *, attempt_no: int = 1, sha256: str = "a" * 64) -> bool:
    with store.write() as session:
        return checkpoints.commit(
            session,
            experiment_id="exp-1",
            attempt_no=attempt_no,
            step=step,
            path=f"default/exp-1/a{attempt_no}/ckpt-{step}",
            manifest_sha256=sha256,
            now=NOW,
        )


def test_a_checkpoint_is_committed_once_and_may_be_reported_again(store: Store) -> None:
    an_attempt(store)
    assert commit(store, 3)
    assert not commit(store, 3)
    with store.read() as session:
        assert [row.step for row in checkpoints.of_attempt(session, "exp-1", 1)] == [3]


def test_another_checkpoint_of_the_same_step_is_a_conflict(store: Store) -> None:
    an_attempt(store)
    assert commit(store, 3)
    with pytest.raises(Conflict, match="step 3"):
        commit(store, 3, sha256="b" * 64)


def test_of_racing_commits_of_one_step_one_is_new(store: Store) -> None:
    an_attempt(store)
    start, results = Barrier(4), []

    def race(number: int) -> None:
        start.wait(timeout=30)
        try:
            results.append(commit(store, 0, sha256=str(number % 2) * 64))
        except Conflict:
            results.append(None)

    racers = [Thread(target=race, args=(number,)) for number in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=60)
    assert sorted(results, key=str) == [False, None, None, True]


def test_a_new_attempt_resumes_from_the_highest_step_of_all(store: Store) -> None:
    an_attempt(store)
    for attempt_no, step in ((1, 1), (1, 2), (2, 3), (2, 2)):
        assert commit(store, step, attempt_no=attempt_no)
    with store.read() as session:
        newest = checkpoints.newest_first(session, "exp-1")
    assert [(row.step, row.attempt_no) for row in newest] == [(3, 2), (2, 2), (2, 1), (1, 1)]


@pytest.mark.parametrize(("steps", "expected"), [([], -1), ([0], 0), ([0, 4, 2], 4)])
def test_progress_is_the_highest_step_of_earlier_attempts(store: Store, steps: list[int], expected: int) -> None:
    an_attempt(store)
    for step in steps:
        commit(store, step)
    commit(store, 9, attempt_no=2)
    with store.read() as session:
        assert checkpoints.highest_step(session, "exp-1", before_attempt=2) == expected


# ---- series -------------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(0, 1500), min_size=1, max_size=4))
def test_a_series_is_every_stride_th_point_however_it_arrives(lengths: list[int]) -> None:
    row, total = series.SeriesRow(key="loss", points=[], stride=1, seen=0), sum(lengths)
    first = 0
    for length in lengths:
        series.extend(row, [[i, i * 10, i / 2] for i in range(first, first + length)])
        first += length
    assert row.seen == total
    assert row.points == [[i, i * 10, i / 2] for i in range(0, total, row.stride)]
    assert len(row.points) < series.MAX_POINTS
    assert row.stride == 1 or len(row.points) >= series.MAX_POINTS / 2 - 1


def fold(store: Store) -> None:
    with store.write() as session:
        series.fold(session, "exp-1", now=NOW)


def found(store: Store, *keys: str) -> dict[str, list[object]]:
    with store.read() as session:
        return {one.key: one.points for one in series.of_experiment(session, "exp-1", keys)}


def test_a_series_is_the_same_before_and_after_its_batches_were_folded(store: Store) -> None:
    an_attempt(store)
    with store.write() as session:
        experiments.set_columns(session, "exp-1", metrics={"loss": 0.5})
    take_in(store, points(0, 2))
    take_in(store, points(2, 1, value=math.inf))
    whole = {"loss": [[0, 1000, 0.5], [1, 1001, 0.5], [2, 1000, "Infinity"]]}
    assert found(store) == found(store, "loss") == whole
    assert found(store, "other") == {}
    fold(store)
    fold(store)
    assert found(store) == whole
    take_in(store, points(3, 1))
    assert found(store)["loss"] == [*whole["loss"], [3, 1000, 0.5]]


def test_only_metrics_whose_last_values_are_kept_get_a_series(store: Store) -> None:
    an_attempt(store)
    take_in(store, points(0, 2))
    fold(store)
    assert found(store) == {}


def test_batches_are_folded_when_they_are_many_or_old(store: Store, clock: FakeClock) -> None:
    an_attempt(store)
    take_in(store, points(0, 1))

    def due(before: datetime) -> list[str]:
        with store.read() as session:
            return series.due(session, before=before)

    assert due(NOW) == []
    assert due(NOW + timedelta(seconds=1)) == ["exp-1"]
    for first in range(1, series.FOLD_BATCHES):
        take_in(store, points(first, 1))
    assert due(NOW) == ["exp-1"]
    fold(store)
    assert due(NOW + timedelta(seconds=1)) == []

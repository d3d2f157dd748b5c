import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from fairlead.errors import IllegalMove, NotFound
from fairlead.lifecycle import MOVES, Desired, State
from fairlead.store import Store, events, experiments
from fairlead.store.experiments import MAX_WAYS
from fairlead.store.tables import ExperimentRow
from fairlead.testing import FakeClock, a_spec
from fairlead.testing.stored import an_experiment, replayed_state

RACER = Path(__file__).parent / "racer.py"
RACERS = 4
ROUNDS = 10


def moved(store: Store, row: object, to: State, **more: object) -> bool:
    with store.write() as session:
        return experiments.move_if_current(session, row, to, reason="why", actor="me", now=FakeClock().now(), **more)


def test_a_new_experiment_is_accepted_with_its_first_event(store: Store, clock: FakeClock) -> None:
    an_experiment(store, labels={"team": "risk"}, policy={"priority": 70})
    with store.read() as session:
        row = experiments.get(session, "exp-1")
        log = events.after(session, "exp-1", 0)
    assert (row.state, row.version, row.desired, row.priority) == ("accepted", 1, "run", 70)
    assert (row.cpus, row.gpus, row.workers, row.labels) == (1, 0, 1, {"team": "risk"})
    assert [(event.seq, event.from_state, event.to_state) for event in log] == [(1, None, "accepted")]
    assert row.created_at == clock.now()


def test_the_stored_spec_is_the_document_that_came_in(store: Store) -> None:
    row = an_experiment(store, register={"name": "model"}, params={"lr": 1e-3, "deep": {"er": [1, None, True, "ü"]}})
    with store.read() as session:
        assert experiments.spec_of(experiments.get(session, row.id)) == a_spec(
            register={"name": "model"}, params={"lr": 1e-3, "deep": {"er": [1, None, True, "ü"]}}
        )


def test_what_is_not_there_is_not_found(store: Store) -> None:
    with store.write() as session:
        assert experiments.find(session, "nobody") is None
        with pytest.raises(NotFound, match="nobody"):
            experiments.get(session, "nobody")
        with pytest.raises(NotFound, match="nobody"):
            experiments.note(session, "nobody", kind="hint", actor="me", now=FakeClock().now())


def test_a_move_writes_state_and_event_together(store: Store) -> None:
    row = an_experiment(store)
    assert moved(store, row, State.QUEUED, attempt_no=None, payload={"n": 1}, columns={"waiting": "no cluster"})
    with store.read() as session:
        after = experiments.get(session, row.id)
        assert (after.state, after.version, after.reason, after.waiting) == ("queued", 2, "why", "no cluster")
        assert replayed_state(session, row.id) == (State.QUEUED, 2)
        assert events.after(session, row.id, 1)[0].payload == {"n": 1}


def test_a_move_from_an_old_reading_writes_nothing(store: Store) -> None:
    row = an_experiment(store)
    assert moved(store, row, State.QUEUED)
    assert not moved(store, row, State.FAILED)
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.QUEUED, 2)
        assert experiments.get(session, row.id).state == "queued"


def test_an_illegal_move_is_refused_before_anything_is_written(store: Store) -> None:
    row = an_experiment(store)
    with pytest.raises(IllegalMove, match="accepted to running"):
        moved(store, row, State.RUNNING)
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 1)


def test_a_move_without_a_reason_is_refused(store: Store) -> None:
    row = an_experiment(store)
    for reason in ("", "  "):
        with pytest.raises(ValueError, match="no reason"), store.write() as session:
            experiments.move_if_current(session, row, State.QUEUED, reason=reason, actor="a", now=FakeClock().now())
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 1)


@given(choices=st.lists(st.integers(0, 20), max_size=12))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_on_every_walk_through_the_table_of_moves_each_state_has_its_reason(
    sqlite_store: Store, choices: list[int]
) -> None:
    key = f"walk-{secrets.token_hex(6)}"
    an_experiment(sqlite_store, key)
    for number, choice in enumerate(choices):
        with sqlite_store.write() as session:
            row = experiments.get(session, key)
            if State(row.state).is_final:
                break
            to = sorted(MOVES[State(row.state)])[choice % len(MOVES[State(row.state)])]
            assert experiments.move_if_current(
                session, row, to, reason=f"step {number}", actor="a", now=FakeClock().now()
            )
            assert (row.state, row.reason) == (to, f"step {number}")
    with sqlite_store.read() as session:
        row, log = experiments.get(session, key), events.after(session, key, 0)
        assert replayed_state(session, key) == (State(row.state), row.version)
        assert all(event.reason.strip() for event in log)
        assert [event.reason for event in log if event.to_state][-1] == row.reason


def test_two_moves_fit_into_one_transaction(store: Store, clock: FakeClock) -> None:
    an_experiment(store, state=State.PLACED)
    with store.write() as session:
        row = experiments.get(session, "exp-1")
        for to in (State.RUNNING, State.EVALUATING):
            assert experiments.move_if_current(session, row, to, reason="r", actor="a", now=clock.now())
    assert (row.state, row.version) == ("evaluating", 5)  # and the row may be used after the transaction
    with store.read() as session:
        assert replayed_state(session, "exp-1") == (State.EVALUATING, 5)


def test_a_note_does_not_spoil_a_move_that_follows_it(store: Store, clock: FakeClock) -> None:
    an_experiment(store)
    with store.write() as session:
        row = experiments.get(session, "exp-1")
        assert experiments.note(session, "exp-1", kind="hint", actor="a", now=clock.now()) == 2
        assert experiments.move_if_current(session, row, State.QUEUED, reason="r", actor="a", now=clock.now())


def test_a_note_does_not_lend_a_stale_row_a_fresh_version(store: Store, clock: FakeClock) -> None:
    stale = an_experiment(store)
    assert moved(store, stale, State.QUEUED)
    with store.write() as session:
        assert experiments.note(session, "exp-1", kind="hint", actor="a", now=clock.now()) == 3
        assert not experiments.move_if_current(session, stale, State.FAILED, reason="r", actor="a", now=clock.now())


def test_columns_beside_the_life_change_no_version(store: Store) -> None:
    an_experiment(store)
    with store.write() as session:
        experiments.set_columns(session, "exp-1", metrics={"loss": "NaN"}, last_step=3)
    with store.read() as session:
        row = experiments.get(session, "exp-1")
        assert (row.version, row.metrics, row.last_step) == (1, {"loss": "NaN"}, 3)


def fail_after_moving(session: Session, row: ExperimentRow) -> None:
    assert experiments.move_if_current(session, row, State.QUEUED, reason="r", actor="a", now=FakeClock().now())
    raise ZeroDivisionError


def test_a_failing_transaction_leaves_neither_state_nor_event(store: Store) -> None:
    row = an_experiment(store)
    with pytest.raises(ZeroDivisionError), store.write() as session:
        fail_after_moving(session, row)
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 1)


# ---- races --------------------------------------------------------------------------------------------------------


def test_of_racing_threads_one_moves_the_experiment(store: Store) -> None:
    for number in range(ROUNDS):
        row = an_experiment(store, f"exp-{number}")
        start, results = Barrier(RACERS), []

        def race(row: object = row, start: Barrier = start, results: list[bool] = results) -> None:
            start.wait(timeout=30)
            results.append(moved(store, row, State.QUEUED))

        run_all([Thread(target=race) for _ in range(RACERS)])
        assert sorted(results) == [False] * (RACERS - 1) + [True]
        with store.read() as session:
            assert replayed_state(session, row.id) == (State.QUEUED, 2)


def test_notes_from_many_threads_leave_no_gap(store: Store, clock: FakeClock) -> None:
    an_experiment(store)
    seen: list[int] = []

    def take_notes() -> None:
        for _ in range(ROUNDS):
            with store.write() as session:
                seen.append(experiments.note(session, "exp-1", kind="hint", actor="a", now=clock.now()))

    run_all([Thread(target=take_notes) for _ in range(RACERS)])
    assert sorted(seen) == list(range(2, RACERS * ROUNDS + 2))
    with store.read() as session:
        assert replayed_state(session, "exp-1") == (State.ACCEPTED, RACERS * ROUNDS + 1)


def test_of_racing_processes_one_wins_every_move_and_no_event_is_lost(store: Store, database_url: str) -> None:
    keys = [an_experiment(store, f"exp-{number}").id for number in range(ROUNDS)]
    with racers(database_url, keys) as processes:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = [json.loads(process.communicate("go\n", timeout=60)[0]) for process in processes]
    for key in keys:
        assert sum(answer["won"].count(key) for answer in answers) == 1
        with store.read() as session:
            state, version = replayed_state(session, key)
            row = experiments.get(session, key)
        assert (state, version) == (State(row.state), row.version) == (State.QUEUED, 2 + len(answers))


@contextmanager
def racers(url: str, keys: list[str]) -> Iterator[list["subprocess.Popen[str]"]]:
    with ExitStack() as stack:
        command = [sys.executable, str(RACER), url, *keys]
        yield [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]


def run_all(threads: list[Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


# ---- questions ----------------------------------------------------------------------------------------------------


def test_pages_follow_each_other_without_gap_or_repeat(store: Store, clock: FakeClock) -> None:
    keys = []
    for number in range(7):
        keys.append(an_experiment(store, f"exp-{number}", clock=clock).id)
        if number % 2:  # pairs share a time: the id decides between them
            clock.advance(1)
    found, after = [], None
    while True:
        with store.read() as session:
            rows = experiments.page(session, limit=3, after=after)
        if not rows:
            break
        found += [row.id for row in rows]
        after = rows[-1].created_at, rows[-1].id
    assert found == sorted(keys, reverse=True)


def test_a_new_experiment_does_not_shift_the_pages_behind_it(store: Store, clock: FakeClock) -> None:
    for number in range(4):
        an_experiment(store, f"exp-{number}", clock=clock)
        clock.advance(1)
    with store.read() as session:
        first = experiments.page(session, limit=2)
    an_experiment(store, "exp-9", clock=clock)
    with store.read() as session:
        second = experiments.page(session, limit=2, after=(first[-1].created_at, first[-1].id))
    assert [row.id for row in [*first, *second]] == ["exp-3", "exp-2", "exp-1", "exp-0"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["c", "b", "a"]),
        ({"states": ("queued",)}, ["b"]),
        ({"projects": ("other",)}, ["c"]),
        ({"names": ("demo", "second")}, ["c", "b", "a"]),
        ({"names": ("second",)}, ["c"]),
        ({"names": ("demo",), "states": ("queued",)}, ["b"]),
        ({"names": (*(f"n{number}" for number in range(MAX_WAYS)), "demo")}, ["b", "a"]),
        ({"states": ("accepted",), "projects": ("default",)}, ["a"]),
        ({"states": ("accepted", "queued"), "projects": ("default", "none"), "names": ("demo",)}, ["b", "a"]),
        ({"projects": ("default", *(f"p{number}" for number in range(MAX_WAYS)))}, ["b", "a"]),
        ({"names": ("de%",)}, []),  # text, never a pattern
        ({"names": ("x' or 'a'='a",)}, []),
    ],
)
def test_a_page_shows_what_its_filters_ask(
    store: Store, filters: dict[str, tuple[str, ...]], expected: list[str]
) -> None:
    an_experiment(store, "a")
    an_experiment(store, "b", state=State.QUEUED)
    an_experiment(store, "c", project="other", name="second")
    with store.read() as session:
        assert [row.id for row in experiments.page(session, limit=10, **filters)] == expected


def test_candidates_are_the_queued_that_should_run_in_the_order_they_came(store: Store, clock: FakeClock) -> None:
    for key in ("late", "early", "unwanted"):
        an_experiment(store, key, resources={"workers": 2, "cpus_per_worker": 1.5})
    for key in ("early", "late", "unwanted"):
        with store.write() as session:
            row = experiments.get(session, key)
            now = clock.advance(1)
            experiments.move_if_current(
                session, row, State.QUEUED, reason="r", actor="a", now=now, columns={"enqueued_at": now}
            )
    with store.write() as session:
        experiments.note(
            session, "unwanted", kind="hint", actor="a", now=clock.now(), columns={"desired": Desired.PAUSE}
        )
    with store.read() as session:
        waiting = experiments.candidates(session)
        assert [row.id for row in experiments.wanting(session, (Desired.PAUSE,), (State.QUEUED,))] == ["unwanted"]
        assert experiments.count_in(session, (State.QUEUED, State.RUNNING)) == 3
    assert [candidate.id for candidate in waiting] == ["early", "late"]
    (wish,) = waiting[0].wishes
    assert (wish.cpus, wish.cpus_per_worker, wish.workers) == (3.0, 1.5, 2)


def test_candidates_that_are_known_are_read_again_only_when_they_changed(store: Store, clock: FakeClock) -> None:
    for key in ("same", "moved", "gone"):
        an_experiment(store, key, state=State.QUEUED, clock=clock)
    with store.read() as session:
        known = {one.id: replace(one, waiting="as told") for one in experiments.candidates(session)}
    with store.write() as session:
        experiments.explain(session, {"same": "as somebody else has it"})
        for key in ("moved", "gone"):
            row = experiments.get(session, key)
            experiments.want_if_current(session, row, Desired.PAUSE, actor="a", now=clock.now())
        row = experiments.get(session, "moved")
        experiments.want_if_current(session, row, Desired.RUN, actor="a", now=clock.now())
    an_experiment(store, "new", state=State.QUEUED, clock=clock)
    with store.read() as session:
        found = {one.id: one for one in experiments.candidates(session, known=known)}
        assert {*found} == {"same", "moved", "new"}
        assert found["same"] is known["same"]
        assert found["moved"].version == known["moved"].version + 2
        assert found["new"] == next(one for one in experiments.candidates(session) if one.id == "new")


@pytest.mark.parametrize(("waited_s", "is_due"), [(9, False), (10, True), (11, True)])
def test_a_retry_is_due_when_its_delay_is_over(store: Store, clock: FakeClock, waited_s: float, is_due: bool) -> None:
    row = an_experiment(store, state=State.RUNNING)
    due_at = clock.now() + timedelta(seconds=10)
    assert moved(store, row, State.RETRYING, columns={"due_at": due_at})
    with store.read() as session:
        due = experiments.due_retries(session, clock.advance(waited_s))
    assert [row.id for row in due] == ["exp-1"] * is_due


def test_states_are_listed_longest_unchanged_first(store: Store, clock: FakeClock) -> None:
    for key in ("old", "new"):
        an_experiment(store, key, clock=clock)
        clock.advance(1)
    with store.write() as session:
        experiments.note(session, "old", kind="hint", actor="a", now=clock.now())
    with store.read() as session:
        assert [row.id for row in experiments.in_states(session, (State.ACCEPTED,))] == ["new", "old"]


def test_events_are_read_from_where_the_reader_stopped(store: Store) -> None:
    an_experiment(store, state=State.RUNNING)
    with store.read() as session:
        assert [event.seq for event in events.after(session, "exp-1", 2)] == [3, 4]
        assert [event.seq for event in events.after(session, "exp-1", 0, limit=2)] == [1, 2]
        assert events.after(session, "exp-1", 4) == []

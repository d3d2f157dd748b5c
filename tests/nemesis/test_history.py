"""The history checker finds every promise that is broken on purpose, and nothing where none is."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, update

from fairlead.lifecycle import Desired, Outcome, State
from fairlead.protocol import Batch, FileEntry, MetricPoint, NoteRecord
from fairlead.run.storage import commit_checkpoint, describe_file
from fairlead.store import Session, Store, attempts, batches, checkpoints, experiments, idempotency
from fairlead.store.tables import AttemptRow, BatchRow, CheckpointRow, EventRow, ExperimentRow, IdempotencyRow
from fairlead.testing import FakeClock
from fairlead.testing.history import Expected, differences, is_at_rest, points_taken, read, violations
from fairlead.testing.stored import an_attempt, an_experiment, next_attempt

Plant = Callable[[Session], Any]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def expected(sqlite_store: Store, storage: Path, clock: FakeClock) -> Expected:
    """An experiment that died once and succeeded then, another one that waits, and what is known of both."""
    an_attempt(sqlite_store, "e", clock=clock)
    _work(sqlite_store, storage, clock, attempt_no=1)
    _end(sqlite_store, clock, attempt_no=1, outcome=Outcome.INFRA_ERROR, to=State.RETRYING)
    _move(sqlite_store, clock, State.QUEUED)
    clock.advance(1)
    next_attempt(sqlite_store, "e", clock=clock)
    _work(sqlite_store, storage, clock, attempt_no=2)
    _end(sqlite_store, clock, attempt_no=2, outcome=Outcome.SUCCEEDED, to=State.EVALUATING)
    _move(sqlite_store, clock, State.SUCCEEDED)
    an_experiment(sqlite_store, "other", clock=clock)
    _keep_answer(sqlite_store, clock, key="k1", experiment_id="e")
    _keep_answer(sqlite_store, clock, key="k2", experiment_id="other")
    return Expected(acknowledged={"k1": "e", "k2": "other"}, storage=storage)


def _work(store: Store, storage: Path, clock: FakeClock, *, attempt_no: int) -> None:
    """Begin, ship points and a note, commit a checkpoint."""
    key = f"e-a{attempt_no}"
    points = tuple(MetricPoint(key="loss", value=1.0, step=10 * attempt_no + i, at_ms=i) for i in range(3))
    notes = (NoteRecord(kind="warm_start", at_ms=0),)
    with store.write() as session:
        row = attempts.get(session, key)
        own = storage / row.storage_path
        own.mkdir(parents=True)
        (own / "BEGUN").write_text(json.dumps({"node_id": "n"}))
        step = 10 * attempt_no
        manifest = commit_checkpoint(*_some_files(own), step=step, world_size=1).manifest_sha256
        attempts.write_if_open(session, key, started_at=clock.now(), node_id="n")
        for batch in (
            Batch(stream="metrics", first_offset=0, points=points),
            Batch(stream="notes", first_offset=0, notes=notes),
        ):
            batches.advance(session, key, batch)
            batches.insert(session, row, batch, now=clock.now())
        for kind, payload in (("warm_start", {"at_ms": 0}), ("checkpoint_committed", {"step": step})):
            experiments.note(
                session, "e", kind=kind, actor="agent", now=clock.now(), attempt_no=attempt_no, payload=payload
            )
        checkpoints.commit(
            session,
            experiment_id="e",
            attempt_no=attempt_no,
            step=step,
            path=f"{row.storage_path}/ckpt-{step}",
            manifest_sha256=manifest,
            now=clock.now(),
        )


def _some_files(attempt: Path) -> tuple[Path, tuple[FileEntry, ...]]:
    directory = attempt / "ckpt.tmp-1"
    directory.mkdir()
    (directory / "weights").write_bytes(b"w" * 100)
    return directory, (describe_file(directory / "weights", root=directory),)


def _end(store: Store, clock: FakeClock, *, attempt_no: int, outcome: Outcome, to: State) -> None:
    key = f"e-a{attempt_no}"
    clock.advance(1)
    _move(store, clock, State.RUNNING)
    with store.write() as session:
        attempts.end(session, key, outcome=outcome, reason="why", now=clock.now())
        attempts.settle(session, key)
    _move(store, clock, to, attempt_no=attempt_no, payload={"outcome": outcome})


def _move(store: Store, clock: FakeClock, to: State, **more: Any) -> None:
    with store.write() as session:
        row = experiments.get(session, "e")
        assert experiments.move_if_current(session, row, to, reason="test", actor="test", now=clock.now(), **more)


def _keep_answer(store: Store, clock: FakeClock, *, key: str, experiment_id: str) -> None:
    kept = idempotency.StoredAnswer(status=201, headers={}, body=json.dumps({"id": experiment_id}))
    with store.write() as session:
        idempotency.insert(
            session,
            principal="u",
            route="POST /v1/experiments",
            key=key,
            body_sha256="0",
            answer=kept,
            expires_at=clock.now() + timedelta(hours=1),
        )


def test_a_history_without_fault_has_no_violation(sqlite_store: Store, expected: Expected) -> None:
    assert violations(sqlite_store, expected) == ()
    assert not is_at_rest(read(sqlite_store)), "one of them still waits for its turn"


def _in_experiment(**values: Any) -> Plant:
    return lambda session: session.execute(update(ExperimentRow).where(ExperimentRow.id == "e").values(values))


def _in_attempt(number: int, /, **values: Any) -> Plant:
    return lambda session: session.execute(
        update(AttemptRow).where(AttemptRow.experiment_id == "e", AttemptRow.attempt_no == number).values(values)
    )


def _event_after_the_end(**values: Any) -> Plant:
    def plant(session: Session) -> None:
        row = experiments.get(session, "e")
        plain = {"kind": "state", "actor": "x", "reason": "", "payload": {}, "at": row.updated_at, **values}
        session.execute(insert(EventRow).values(experiment_id="e", seq=row.version + 1, **plain))
        session.execute(update(ExperimentRow).where(ExperimentRow.id == "e").values(version=row.version + 1))

    return plant


def _late_batch(session: Session) -> None:
    _event_after_the_end(kind="desired", payload={"desired": Desired.CANCEL})(session)
    session.execute(update(BatchRow).values(received_at=BatchRow.received_at))
    late = experiments.get(session, "e").updated_at + timedelta(seconds=121)
    session.execute(update(AttemptRow).where(AttemptRow.id == "e-a2").values(ended_at=late))
    session.execute(update(BatchRow).where(BatchRow.attempt_id == "e-a2").values(received_at=late))


PLANTS: dict[str, tuple[Plant, str]] = {
    "an answer for what is not there": (
        lambda s: s.execute(update(IdempotencyRow).where(IdempotencyRow.key == "k1").values(body='{"id": "gone"}')),
        "I2: the answer kept under k1 names gone",
    ),
    "two keys for one experiment": (
        lambda s: s.execute(update(IdempotencyRow).values(body='{"id": "e"}')),
        "I2: 2 keys name e",
    ),
    "two open attempts": (
        lambda s: s.execute(update(AttemptRow).values(outcome=None, ended_at=None)),
        "I3: attempts [1, 2] are open at once",
    ),
    "an open attempt that is not the current one": (
        _in_attempt(1, outcome=None),
        "I3: attempt 1 is open, attempt 2 is the current one",
    ),
    "an open attempt of an experiment that is over": (
        _in_attempt(2, outcome=None),
        "I3: attempt 2 is open while the experiment is succeeded",
    ),
    "a checkpoint after the end of its attempt": (
        lambda s: s.execute(
            update(CheckpointRow)
            .where(CheckpointRow.attempt_no == 1)
            .values(committed_at=experiments.get(s, "e").updated_at + timedelta(seconds=9))
        ),
        "I3: a checkpoint of step 10 was taken from attempt 1",
    ),
    "a batch of an attempt nobody leased": (_in_attempt(1, leased_at=None), "I3: a batch at 0 was taken"),
    "a number left out": (_in_attempt(2, attempt_no=3), "I4: its attempts are [1, 3]"),
    "a move after the end": (
        _event_after_the_end(from_state=State.SUCCEEDED, to_state=State.QUEUED),
        "I5: event 15 moves it from succeeded, which is final, to queued",
    ),
    "a gap in the log": (
        lambda s: s.execute(delete(EventRow).where(EventRow.experiment_id == "e", EventRow.seq == 3)),
        "I6: 13 events for version 14",
    ),
    "a state that no event tells": (_in_experiment(state=State.FAILED), "its row says failed"),
    "a move that is none": (
        lambda s: s.execute(
            update(EventRow).where(EventRow.experiment_id == "e", EventRow.seq == 2).values(to_state=State.RETRYING)
        ),
        "I6: event 2 moves it from accepted to retrying, which is no move",
    ),
    "a resume from what was never committed": (
        _event_after_the_end(kind="resumed", attempt_no=2, payload={"step": 17}),
        "I7: attempt 2 resumed from step 17, never committed",
    ),
    "steps of a cancelled experiment": (_late_batch, "I9: 1 batches came in more than 120 s after"),
    "an outcome that is not the attempt's": (
        _in_attempt(1, outcome=Outcome.PREEMPTED),
        "says that attempt 1 ended infra_error",
    ),
    "an attempt charged twice": (
        _event_after_the_end(payload={"outcome": "succeeded"}, attempt_no=2, to_state=State.SUCCEEDED),
        "I11: attempt 2 was charged 2 times",
    ),
    "an attempt never charged": (_in_attempt(1, is_settled=False), "I11: attempts [1] have ended and were never"),
    "more retries than allowed": (
        lambda s: (
            s.execute(update(EventRow).where(EventRow.to_state == State.RETRYING).values(payload={"outcome": "oom"})),
            _in_attempt(1, outcome=Outcome.OOM)(s),
            _in_experiment(spec={**experiments.get(s, "e").spec, "policy": {"retries": {"oom": 0}}})(s),
        ),
        "retries once more than the 0 of oom",
    ),
    "another runner than the one that has begun": (_in_attempt(2, node_id="m"), "I12: attempt 2 was begun by another"),
    "a gap in a stream": (
        lambda s: s.execute(update(BatchRow).where(BatchRow.attempt_id == "e-a2").values(first_offset=1)),
        "I13: attempt 2 has batches from [1] to [3]",
    ),
    "points that no offset counts": (
        lambda s: s.execute(update(BatchRow).values(payload=[])),
        "I13: attempt 1 has a batch whose points are not as many",
    ),
    "a note twice": (
        _event_after_the_end(kind="warm_start", attempt_no=1, payload={"at_ms": 0}),
        "I13: attempt 1 has 2 notes among its events",
    ),
}


@pytest.mark.parametrize("name", PLANTS)
def test_the_history_checker_finds(sqlite_store: Store, expected: Expected, name: str) -> None:
    plant, said = PLANTS[name]
    with sqlite_store.write() as session:
        plant(session)
    assert any(said in found for found in violations(sqlite_store, expected)), violations(sqlite_store, expected)


def test_the_history_checker_finds_an_acknowledged_experiment_that_is_not_there(
    sqlite_store: Store, expected: Expected
) -> None:
    (found,) = violations(sqlite_store, Expected(acknowledged={"k9": "gone"}))
    assert found == "I1: gone was acknowledged under k9 and is not there"
    (found,) = violations(sqlite_store, Expected(acknowledged={"k1": "other"}))
    assert found == "I2: k1 was acknowledged as other and is kept as e"


def test_the_history_checker_finds_a_flipped_byte_and_a_runner_that_never_began(
    sqlite_store: Store, expected: Expected, storage: Path
) -> None:
    (weights,) = storage.rglob("a1/ckpt-10/weights")
    weights.write_bytes(b"v" + b"w" * 99)
    (begun,) = storage.rglob("a2/BEGUN")
    begun.unlink()
    found = violations(sqlite_store, expected)
    assert [one.split(":")[1] for one in found] == [" I12", " I7"]
    assert "weights differs from the manifest" in found[1]


def test_points_of_mlflow_are_held_against_those_that_were_taken_in(sqlite_store: Store, expected: Expected) -> None:
    life = next(one for one in read(sqlite_store).lives if one.row.id == "e")
    taken = points_taken(life)
    assert taken.total() == 6
    others = Counter({("rai.gap", 1, 1): 1})  # the recorder's own points are none of the batches'
    assert list(differences(life, taken + others)) == []
    twice, lost = taken + Counter([("loss", 10, 0)]), taken - Counter([("loss", 10, 0)])
    assert "has in excess 1 points" in next(differences(life, twice))
    assert "lacks 1 points" in next(differences(life, lost))

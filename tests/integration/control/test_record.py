"""The recording loop on both databases, against a recorder in memory that refuses or is away as it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.control.record import RETRY_AFTER_S, Record
from fairlead.errors import BadInput, Unavailable
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import AttachRequest, Batch, MetricPoint
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, batches, clusters, experiments
from fairlead.store.tables import ExperimentRow
from fairlead.testing import FakeClock, a_spec
from fairlead.tracking.documents import RunDocument

BACKLOG = 120
"""More batches than one look of the loop takes."""


@dataclass
class FakeRecorder:
    """Keeps points by run; a run's name is the experiment's."""

    points: dict[str, list[int]] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    is_away: bool = False
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def log_files(self, run_id: str, files: dict[str, Path]) -> None:
        self._answer(run_id)
        self.files.setdefault(run_id, {}).update({name: path.read_bytes() for name, path in files.items()})

    def ensure_run(self, document: RunDocument) -> str:
        self._answer(document.experiment_id)
        return document.experiment_id

    def run_url(self, run_id: str) -> str:
        return f"http://mlflow/{run_id}"

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        self._answer(run_id)
        self.points.setdefault(run_id, []).extend(point.step for point in points)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self._answer(run_id)

    def finish(self, run_id: str, status: str, *, ended_at_ms: int | None = None) -> None:
        self._answer(run_id)
        self.finished[run_id] = status

    def _answer(self, run_id: str) -> None:
        if self.is_away:
            raise Unavailable("MLflow does not answer")
        if run_id in self.refused:
            raise BadInput("MLflow refuses it")


@dataclass
class Bench:
    """Experiments that run, and the loop that records them."""

    store: Store
    clock: FakeClock
    recorder: FakeRecorder
    record: Record

    def run(self, key: str) -> None:
        now = self.clock.now()
        with self.store.write() as session:
            experiments.insert(session, experiment_id=key, spec=a_spec(), actor="u", now=now, total_steps=None)
            request = AttachRequest(protocol=1, agent_version="0", ray_version="0", ray_session="s")
            clusters.attach(session, "local", request, now=now)
            row = experiments.get(session, key)
            who: dict[str, Any] = {"reason": "r", "actor": "t", "now": now}
            experiments.move_if_current(session, row, State.QUEUED, **who, columns={"enqueued_at": now})
            (candidate,) = experiments.candidates(session)
            experiments.move_if_current(session, row, State.PLACED, **who, columns={"current_attempt_no": 1})
            attempts.insert(session, candidate=candidate, attempt_no=1, cluster="local", now=now)

    def ship(self, key: str, *, first: int, count: int = 1) -> None:
        with self.store.write() as session:
            attempt = attempts.get(session, attempts.attempt_id(key, 1))
            for step in range(first, first + count):
                points = (MetricPoint(key="loss", value=1.0, step=step, at_ms=0),)
                batch = Batch(stream="metrics", first_offset=step, points=points)
                batches.advance(session, attempt.id, batch)
                batches.insert(session, attempt, batch, now=self.clock.now())

    def end(self, key: str, **columns: Any) -> None:
        now = self.clock.now()
        with self.store.write() as session:
            attempts.end(session, attempts.attempt_id(key, 1), outcome=Outcome.CANCELLED, reason="r", now=now)
            row = experiments.get(session, key)
            experiments.move_if_current(session, row, State.CANCELLED, reason="r", actor="t", now=now, columns=columns)

    def row(self, key: str) -> ExperimentRow:
        with self.store.read() as session:
            return experiments.get(session, key)


@pytest.fixture
def bench(store: Store, clock: FakeClock, tmp_path: Path) -> Bench:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path, mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    recorder = FakeRecorder()
    record = Record(store=store, clock=clock, settings=settings, connect=lambda _: cast(Any, recorder))
    return Bench(store, clock, recorder, record)


def test_points_reach_the_run_once_and_the_run_ends_with_its_experiment(bench: Bench) -> None:
    bench.run("e1")
    bench.ship("e1", first=0, count=3)
    bench.end("e1")
    while bench.record():
        pass
    assert bench.recorder.points == {"e1": [0, 1, 2]}
    assert bench.recorder.finished == {"e1": "KILLED"}
    assert bench.row("e1").mlflow_version == bench.row("e1").version
    assert not bench.record()


def test_an_outage_of_mlflow_keeps_everything_for_later(bench: Bench) -> None:
    bench.run("e1")
    bench.ship("e1", first=0, count=2)
    bench.recorder.is_away = True
    with pytest.raises(Unavailable):
        bench.record()
    bench.recorder.is_away = False
    while bench.record():
        pass
    assert bench.recorder.points == {"e1": [0, 1]}


def test_one_experiment_that_mlflow_refuses_does_not_keep_the_others_waiting(bench: Bench) -> None:
    bench.run("bad")
    bench.run("good")
    assert bench.record()
    bench.recorder.refused = {"bad"}
    bench.ship("bad", first=0, count=BACKLOG)
    bench.ship("good", first=0)
    bench.record()
    bench.record()
    assert bench.recorder.points == {"good": [0]}
    bench.recorder.refused = set()
    assert not bench.record()
    bench.clock.advance(RETRY_AFTER_S + 1)
    while bench.record():
        pass
    assert bench.recorder.points["bad"] == list(range(BACKLOG))


def test_who_waits_for_a_registration_learns_why_there_is_none(bench: Bench) -> None:
    bench.run("e1")
    assert bench.record()
    bench.recorder.refused = {"e1"}
    bench.end("e1", registration={"is_registered": False, "is_pending": True, "name": "m", "alias": "a", "reason": ""})
    bench.record()
    registration = bench.row("e1").registration
    assert registration is not None
    assert registration["is_pending"]
    assert "MLflow refuses it" in registration["reason"]


def test_what_a_workload_has_shown_is_among_the_artifacts_when_its_run_ends(bench: Bench) -> None:
    bench.run("e1")
    with bench.store.read() as session:
        attempt = attempts.get(session, attempts.attempt_id("e1", 1))
    directory = bench.record.settings.storage / attempt.storage_path / "samples" / "epoch-1"
    directory.mkdir(parents=True)
    (directory / "a.txt").write_text("seen")
    (directory / ".a.txt.unfinished").write_text("half")
    bench.end("e1")
    while bench.record():
        pass
    assert bench.recorder.files == {"e1": {"samples/epoch-1/a.txt": b"seen"}}

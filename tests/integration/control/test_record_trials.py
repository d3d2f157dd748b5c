"""Trials on their way into MLflow: on both databases against a recorder in memory, and past a real server's death."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from fairlead.control import record as loop
from fairlead.control.child_runs import best_points, child_run
from fairlead.control.record import RETRY_AFTER_S, Record
from fairlead.errors import BadInput, Unavailable
from fairlead.lifecycle import State
from fairlead.protocol import MetricPoint
from fairlead.search.trials import TrialState
from fairlead.settings import ControlSettings
from fairlead.store import Store, experiments, migrate, open_store, recorded_trials, trials
from fairlead.store.recorded_trials import WaitingSweep
from fairlead.store.tables import TrialRow
from fairlead.testing import FakeClock
from fairlead.testing.ended_trials import an_ended_trial, keep_ended_trials
from fairlead.testing.failpoints import Crash, armed
from fairlead.testing.mlflow import MlflowServer, serving_mlflow
from fairlead.testing.servers import Server
from fairlead.testing.stored import an_experiment
from fairlead.tracking.documents import RunDocument, TrialRun

SWEEP = WaitingSweep(experiment_id="s", run_id="r", project="default", workload="tabular_mlp", created_by="ann")


@dataclass
class FakeRecorder:
    """Keeps runs by name; a sweep's run is called like the sweep."""

    calls: list[list[str]] = field(default_factory=list)
    children: dict[str, TrialRun] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    points: dict[str, float] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    at_once: int = 1000
    is_away: bool = False

    def ensure_run(self, document: RunDocument) -> str:
        return document.experiment_id

    def run_url(self, run_id: str) -> str:
        return f"http://mlflow/{run_id}"

    def record_trials(self, parent_run_id: str, ended: Sequence[TrialRun]) -> list[str]:
        if self.is_away:
            raise Unavailable("MLflow does not answer")
        if self.refused & {one.key for one in ended}:
            raise BadInput("MLflow refuses one of them")
        ended = ended[: self.at_once]
        self.calls.append([one.key for one in ended])
        self.children |= {one.key: one for one in ended}
        return [f"run-{one.key}" for one in ended]

    def log_points(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        self.points |= {point.key: point.value for point in points}

    def log_files(self, run_id: str, files: dict[str, Path]) -> None:
        self.files |= set(files)

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.tags |= tags

    def finish(self, run_id: str, status: str, *, ended_at_ms: int | None = None) -> None:
        self.finished.append(run_id)


@dataclass
class Bench:
    """Sweeps with trials, and the loop that records them."""

    store: Store
    clock: FakeClock
    storage: Path
    recorder: FakeRecorder
    record: Record

    def sweep(self, key: str, trials: int, *, state: State = State.RUNNING, **changes: Any) -> None:
        an_experiment(self.store, key, state=state)
        keep_ended_trials(self.store, key, range(trials), **changes)

    def trial(self, key: str, no: int) -> TrialRow:
        with self.store.read() as session:
            found = trials.find(session, key, no)
        assert found is not None
        return found

    def waiting(self) -> int:
        with self.store.read() as session:
            return recorded_trials.count(session)

    def drain(self) -> None:
        while self.record():
            pass


@pytest.fixture
def bench(store: Store, clock: FakeClock, tmp_path: Path) -> Bench:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path, mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    recorder = FakeRecorder()
    record = Record(store=store, clock=clock, settings=settings, connect=lambda _: cast(Any, recorder))
    return Bench(store, clock, tmp_path, recorder, record)


def test_trials_are_recorded_while_their_sweep_runs_and_only_once_they_have_ended(bench: Bench) -> None:
    bench.sweep("s", 3)
    with bench.store.write() as session:
        session.add(an_ended_trial("s", 3, state=TrialState.RUNNING, ended_at=None))
    bench.drain()
    assert sorted(bench.recorder.children) == ["s/0", "s/1", "s/2"]
    recorded = bench.trial("s", 1)
    assert recorded.mlflow_run_id == "run-s/1"
    assert recorded.recorded_at == bench.clock.now()
    assert bench.recorder.finished == []


def test_a_sweeps_run_ends_after_all_its_trials_are_recorded(bench: Bench) -> None:
    bench.sweep("s", 130, state=State.SUCCEEDED)
    bench.record()
    assert bench.recorder.finished == []
    assert bench.waiting() == 80
    bench.drain()
    assert bench.recorder.finished == ["s"]
    assert len(bench.recorder.children) == 130


def test_a_long_sweep_does_not_keep_a_short_one_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "TRIALS_S", 0.0)
    bench.sweep("a-long", 200)
    bench.sweep("b-short", 2)
    bench.record()
    bench.record()
    assert [call[0] for call in bench.recorder.calls] == ["a-long/0", "b-short/0"]
    bench.record()
    assert bench.recorder.calls[-1][0] == "a-long/50"


def test_a_trial_that_mlflow_refuses_holds_up_no_other_and_is_tried_again_later(bench: Bench) -> None:
    bench.sweep("s", 60, state=State.SUCCEEDED)
    bench.recorder.refused = {"s/7"}
    bench.drain()
    assert bench.waiting() == 1
    assert len(bench.recorder.children) == 59
    assert bench.recorder.finished == []
    bench.recorder.refused = set()
    assert not bench.record()
    bench.clock.advance(RETRY_AFTER_S + 1)
    bench.drain()
    assert bench.waiting() == 0
    assert bench.recorder.finished == ["s"]


def test_a_trial_whose_row_makes_no_sense_holds_up_no_other(bench: Bench) -> None:
    bench.sweep("s", 3)
    keep_ended_trials(bench.store, "s", [3], values={"loss": "much"})
    bench.drain()
    assert sorted(bench.recorder.children) == ["s/0", "s/1", "s/2"]


def test_what_a_slow_server_has_not_taken_comes_with_the_next_call(bench: Bench) -> None:
    bench.recorder.at_once = 20
    bench.sweep("s", 50)
    bench.drain()
    assert [len(call) for call in bench.recorder.calls] == [20, 20, 10]


def test_calls_are_bounded_by_their_points(bench: Bench) -> None:
    bench.sweep("s", 20, points=997)
    bench.drain()
    assert [len(call) for call in bench.recorder.calls] == [5, 5, 5, 5]


def test_mlflow_away_keeps_trials_for_later(bench: Bench) -> None:
    bench.sweep("s", 2)
    bench.recorder.is_away = True
    with pytest.raises(Unavailable):
        bench.drain()
    bench.recorder.is_away = False
    bench.drain()
    assert bench.waiting() == 0


def test_a_death_before_trials_are_marked_tells_of_them_again(bench: Bench) -> None:
    bench.sweep("s", 2)
    with armed("record.children_made"), pytest.raises(Crash):
        bench.drain()
    assert bench.waiting() == 2
    bench.drain()
    assert Counter(key for call in bench.recorder.calls for key in call) == {"s/0": 2, "s/1": 2}


def test_a_sweeps_run_shows_its_files_and_its_best_trial(bench: Bench) -> None:
    bench.sweep("s", 3, state=State.SUCCEEDED)
    with bench.store.write() as session:
        experiments.set_columns(session, "s", sweep={"best": 2, "front": [], "nearest": None})
    directory = bench.storage / "default" / "s" / "report"
    (directory / "plots").mkdir(parents=True)
    for name in ("sweep.json", "sweep.html", "trials.csv", "plots/history.svg", "other.bin"):
        (directory / name).write_text("x")
    bench.drain()
    assert bench.recorder.files == {
        "sweep/sweep.json",
        "sweep/sweep.html",
        "sweep/trials.csv",
        "sweep/plots/history.svg",
    }
    assert bench.recorder.tags["fairlead.best_trial"] == "2"
    assert "fairlead.pareto_front" not in bench.recorder.tags
    assert bench.recorder.points["best/validation/accuracy"] == 0.9


# ---- what is told of a trial ----------------------------------------------------------------------------------------


def test_a_run_has_the_points_of_curves_and_the_last_value_of_each_metric() -> None:
    row = an_ended_trial(
        "s",
        4,
        curves={"loss": [[0, 10, 3.0], [5, 20, "NaN"], [9, 30, 2.0]], "other": [[0, 10, 1.0]]},
        metrics={"loss": 2.0, "other": 1.5, "accuracy": "Infinity"},
        values={"loss": 2.0},
        last_step=9,
    )
    told = child_run(SWEEP, row)
    points = [(point.key, point.step, point.at_ms) for point in told.points]
    ended_at_ms = told.ended_at_ms
    assert points == [
        ("loss", 0, 10),
        ("loss", 5, 20),
        ("loss", 9, 30),
        ("other", 0, 10),
        ("other", 9, ended_at_ms),
        ("accuracy", 9, ended_at_ms),
    ]
    assert ended_at_ms - told.started_at_ms == 500


@pytest.mark.parametrize(
    ("state", "status"),
    [("succeeded", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED")],
)
def test_a_run_says_how_its_trial_ended(state: str, status: str) -> None:
    told = child_run(SWEEP, an_ended_trial("s", 4, state=state, reason="because", origin="enqueued", parent=2))
    assert told.status == status
    expected = {
        "fairlead.state": state,
        "fairlead.reason": "because",
        "fairlead.origin": "enqueued",
        "fairlead.parent_trial": "2",
    }
    assert expected.items() <= told.tags.items()
    assert "fairlead.experiment_id" not in told.tags


def test_names_of_metrics_that_mlflow_refuses_are_made_to_fit() -> None:
    row = an_ended_trial("s", 0, metrics={"k" * 300: 1.0, "a//b": 1.0}, values={}, curves={})
    told = child_run(SWEEP, row)
    assert all(len(point.key) <= 250 and "//" not in point.key for point in (*told.points, *best_points(row)))


# ---- a real server, killed ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with serving_mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


def test_a_server_killed_between_runs_and_their_marks_leaves_one_run_for_each_trial(
    mlflow: MlflowServer, tmp_path: Path
) -> None:
    server = Server(tmp_path, mlflow_url=mlflow.url)
    store = open_store(server.database_url)
    migrate(store)
    an_experiment(store, "s", state=State.SUCCEEDED)
    keep_ended_trials(store, "s", range(120))
    (server.failpoints / "record.children_made").write_text("kill")
    try:
        server.start()
        server.until("all trials", lambda: not _count(store))
        server.until("the end of the sweep's run", lambda: _is_complete(store))
    finally:
        server.stop()
    assert (server.failpoints / "record.children_made.taken").exists()
    assert server.num_starts > 1
    with store.read() as session:
        marked = {trials.find(session, "s", no).mlflow_run_id for no in range(120)}  # type: ignore[union-attr]
    store.close()
    assert {run.info.run_id for run in _children(mlflow)} == marked
    assert len(_children(mlflow)) == 120


def _count(store: Store) -> int:
    with store.read() as session:
        return recorded_trials.count(session)


def _is_complete(store: Store) -> bool:
    with store.read() as session:
        row = experiments.get(session, "s")
        return row.mlflow_version == row.version


def _children(mlflow: MlflowServer) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow.url)
    found = [one.experiment_id for one in client.search_experiments()]
    return list(client.search_runs(found, "tags.`fairlead.trial` LIKE 's/%'", max_results=1000))

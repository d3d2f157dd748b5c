"""The report of a sweep on both databases: from the trials' rows to files, the end state, and MLflow."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from fairlead.control.evaluate import Evaluate, report_directory
from fairlead.control.record import Record
from fairlead.control.sweeps import PLOTS_DIRECTORY
from fairlead.evaluation.signing import public_key, verify
from fairlead.evaluation.sweep_report import SweepTrial, trials_csv
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import ResultDocument, SweepSummary
from fairlead.search.trials import TrialState
from fairlead.secret_key import report_seed
from fairlead.settings import ControlSettings
from fairlead.spec.search import SearchSpec
from fairlead.store import Store, attempts, experiments, reported_trials
from fairlead.store.tables import ExperimentRow, TrialRow
from fairlead.testing import FakeClock
from fairlead.testing.stored import an_experiment, next_attempt
from fairlead.testing.sweeps import ACCURACY, GAP, TWO_OBJECTIVES, a_sweep, summary_of, sweep_trials
from fairlead.tracking.documents import RunDocument

BOUND = f"{GAP}.upper95 <= 0.12"


@dataclass
class FakeRecorder:
    """Keeps the names of files by run, and tags."""

    files: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def ensure_run(self, document: RunDocument) -> str:
        return document.experiment_id

    def run_url(self, run_id: str) -> str:
        return f"http://mlflow/{run_id}"

    def log_points(self, run_id: str, points: Sequence[Any]) -> None:
        pass

    def record_trials(self, parent: str, trials: Sequence[Any]) -> list[str]:
        return [f"{parent}-{number}" for number, _ in enumerate(trials)]

    def log_files(self, run_id: str, files: Mapping[str, Path]) -> None:
        self.files[run_id] = [name for name, path in files.items() if path.read_bytes()]

    def set_tags(self, run_id: str, tags: dict[str, str]) -> None:
        self.tags |= tags

    def finish(self, run_id: str, status: str, *, ended_at_ms: int | None = None) -> None:
        pass


@dataclass
class Books:
    """Sweeps whose results are in, and the loop that makes their reports."""

    store: Store
    clock: FakeClock
    settings: ControlSettings

    def evaluate(self) -> None:
        Evaluate(store=self.store, clock=self.clock, settings=self.settings)()

    def end(self, search: SearchSpec, trials: Sequence[SweepTrial], *, summary: SweepSummary | None) -> None:
        """A sweep that waits for its report."""
        content = search.model_dump(mode="json", exclude_defaults=True)
        an_experiment(self.store, "s1", state=State.QUEUED, clock=self.clock, search=content, register={"name": "risk"})
        attempt = next_attempt(self.store, "s1", clock=self.clock)
        now = self.clock.now()
        result = ResultDocument(
            experiment_id="s1",
            attempt_no=1,
            outcome=Outcome.SUCCEEDED,
            reason="",
            started_at=now,
            ended_at=now,
            sweep=summary,
        )
        with self.store.write() as session:
            session.add_all(_row(trial) for trial in trials)
            told = result.model_dump(mode="json")
            attempts.end(session, attempt.id, outcome=Outcome.SUCCEEDED, reason="", now=now, result=told)
            experiments.set_columns(session, "s1", state=State.EVALUATING, sweep={"best": None})

    def row(self) -> ExperimentRow:
        with self.store.read() as session:
            return experiments.get(session, "s1")


def _row(trial: SweepTrial) -> TrialRow:
    return TrialRow(
        experiment_id="s1",
        no=trial.no,
        attempt_no=1,
        state=trial.state,
        origin=trial.origin,
        params=dict(trial.params),
        reason=trial.reason,
        detail="",
        values={name: value if value == value else "NaN" for name, value in trial.values.items()},
        metrics={**trial.metrics, "train/loss": 1.0},
        curves={},
        tries=1,
        started_at=trial.started_at,
        ended_at=trial.ended_at,
    )


@pytest.fixture
def books(store: Store, clock: FakeClock, tmp_path: Path) -> Books:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path / "storage", mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    return Books(store, clock, settings)


def _searched(**search: Any) -> tuple[SearchSpec, list[SweepTrial]]:
    spec = a_sweep(**search).search
    assert spec is not None
    return spec, sweep_trials(spec, 40)


def test_a_sweep_ends_with_a_signed_report_its_plots_and_its_table(books: Books) -> None:
    search, trials = _searched(objectives=TWO_OBJECTIVES, constraints=(BOUND,))
    books.end(search, trials, summary=summary_of(search, trials))
    books.evaluate()
    row = books.row()
    assert row.state == State.SUCCEEDED
    assert row.reason.startswith("40 trials: ")
    assert "are on the Pareto front" in row.reason
    assert (row.report_outcome, row.gates, row.register_name) == (None, [], None)
    assert row.registration is not None
    assert "fairlead promote s1" in row.registration["reason"]
    directory = report_directory(books.settings.storage, "default", "s1")
    content = (directory / "sweep.json").read_bytes()
    assert row.report_sha256 == f"sha256:{hashlib.sha256(content).hexdigest()}"
    report = json.loads(content)
    verify(report, public_key(report_seed(books.settings.secret_key_file.read_bytes()))["public_key"])
    assert [one["no"] for one in report["front"]] == list(summary_of(search, trials).front)
    assert all(GAP in one["bounds"] for one in report["front"])
    assert "Pareto front" in (directory / "sweep.html").read_text()
    for plot in (directory / PLOTS_DIRECTORY).iterdir():
        ElementTree.parse(plot)
    with (directory / "trials.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 40
    assert not list(directory.rglob("*.tmp-*"))


def test_where_no_trial_keeps_all_constraints_the_reason_names_the_nearest(books: Books) -> None:
    search, trials = _searched(constraints=(f"{ACCURACY} >= 0.99",))
    books.end(search, trials, summary=summary_of(search, trials))
    books.evaluate()
    assert books.row().state == State.SUCCEEDED
    assert f"none keeps all constraints; nearest is trial {summary_of(search, trials).nearest} (" in books.row().reason


def test_what_is_read_page_by_page_is_what_was_written(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    search, trials = _searched(constraints=(BOUND,))
    trials[0] = SweepTrial(no=0, state=TrialState.SUCCEEDED, params={}, values={"validation/loss": float("nan")})
    books.end(search, trials, summary=summary_of(search, trials))
    monkeypatch.setattr(reported_trials, "AT_ONCE", 7)
    with books.store.read() as session:
        found = list(reported_trials.reported_trials(session, "s1", search))
    assert [one.no for one in found] == list(range(40))
    assert "train/loss" not in found[5].metrics
    assert trials_csv(search, found[1:]) == trials_csv(search, trials[1:])


def test_a_result_that_says_nothing_of_trials_is_held(books: Books) -> None:
    search, trials = _searched()
    books.end(search, trials, summary=None)
    books.evaluate()
    assert (books.row().state, "says nothing of its trials" in books.row().reason) == (State.HELD, True)


def test_a_report_that_is_written_once_more_is_the_same_and_leaves_nothing_else(books: Books) -> None:
    search, trials = _searched()
    books.end(search, trials, summary=summary_of(search, trials))
    directory = report_directory(books.settings.storage, "default", "s1")
    (directory / PLOTS_DIRECTORY).mkdir(parents=True)
    (directory / PLOTS_DIRECTORY / "old.svg").write_text("<svg/>")
    books.evaluate()
    first = {path.name: path.read_bytes() for path in directory.rglob("*.*")}
    assert "old.svg" not in first
    with books.store.write() as session:
        experiments.set_columns(session, "s1", state=State.EVALUATING)
    books.evaluate()
    assert {path.name: path.read_bytes() for path in directory.rglob("*.*")} == first


def test_mlflow_is_given_the_files_of_the_report(books: Books) -> None:
    search, trials = _searched()
    books.end(search, trials, summary=summary_of(search, trials))
    books.evaluate()
    recorder = FakeRecorder()
    record = Record(
        store=books.store, clock=books.clock, settings=books.settings, connect=lambda _: cast(Any, recorder)
    )
    while record():
        pass
    assert {"sweep/sweep.json", "sweep/sweep.html", "sweep/trials.csv", "sweep/plots/history.svg"} <= set(
        recorder.files["s1"]
    )
    assert recorder.tags["rai.report_sha256"] == books.row().report_sha256

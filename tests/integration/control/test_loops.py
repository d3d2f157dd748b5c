"""The loops on both databases, ticked by hand under a fake clock; agents write as the api writes for them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.control.dispatch import Dispatch
from fairlead.control.evaluate import Evaluate, report_directory
from fairlead.control.reap import Reap
from fairlead.control.settle import Settle
from fairlead.data import find_manifests
from fairlead.evaluation import AnyState, CountState, MomentState
from fairlead.evaluation.measured import measurements_bytes
from fairlead.evaluation.signing import public_key, verify
from fairlead.lifecycle import Desired, Observation, Outcome, State
from fairlead.protocol import AttachRequest, EvaluationSummary, FileEntry, NodeInfo, ResultDocument
from fairlead.secret_key import report_seed
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, checkpoints, clusters, events, experiments
from fairlead.store.clusters import ClusterState
from fairlead.store.tables import AttemptRow, ClusterRow, EventRow, ExperimentRow
from fairlead.testing import FakeClock, a_spec
from fairlead.workload import Attribute

MANIFESTS = find_manifests()


@dataclass
class Plane:
    """A control plane whose time and ticks are the test's."""

    store: Store
    clock: FakeClock
    settings: ControlSettings

    def __post_init__(self) -> None:
        common: dict[str, Any] = {"store": self.store, "clock": self.clock, "settings": self.settings}
        self.dispatch = Dispatch(**common, manifests=MANIFESTS)
        self.settle = Settle(**common, uniform=lambda low, high: high)
        self.evaluate = Evaluate(**common)
        self.reap = Reap(**common)

    def submit(self, key: str = "e1", **changes: Any) -> None:
        with self.store.write() as session:
            experiments.insert(
                session, experiment_id=key, spec=a_spec(**changes), actor="user", now=self.clock.now(), total_steps=None
            )

    def attach(self, *, cpus: float = 2, session: str = "s1", gpus: float = 0) -> None:
        node = NodeInfo(
            node_id="n", address="127.0.0.1", is_alive=True, cpus=cpus, gpus=gpus, free_cpus=cpus, free_gpus=gpus
        )
        request = AttachRequest(protocol=1, agent_version="0", ray_version="0", ray_session=session, nodes=(node,))
        with self.store.write() as write:
            clusters.attach(write, "local", request, now=self.clock.now())

    def lease(self, key: str = "e1", *, attempt_no: int = 1, begin: bool = True) -> None:
        with self.store.write() as session:
            attempt_id = attempts.attempt_id(key, attempt_no)
            attempts.lease(session, attempt_id, cluster="local", token="fl_x_y", now=self.clock.now())
            if begin:
                attempts.write_if_open(session, attempt_id, started_at=self.clock.now(), ray_session="s1")

    def end(
        self, outcome: Outcome, *, key: str = "e1", attempt_no: int = 1, reason: str = "because", **more: Any
    ) -> None:
        with self.store.write() as session:
            attempt_id = attempts.attempt_id(key, attempt_no)
            attempts.end(session, attempt_id, outcome=outcome, reason=reason, now=self.clock.now(), **more)

    def desire(self, desired: Desired, key: str = "e1") -> None:
        with self.store.write() as session:
            experiments.note(
                session, key, kind="desired", actor="user", now=self.clock.now(), columns={"desired": desired}
            )

    def run_to_running(self, key: str = "e1", **changes: Any) -> None:
        self.submit(key, **changes)
        self.attach()
        self.dispatch()
        self.lease(key)
        self.settle()

    def row(self, key: str = "e1") -> ExperimentRow:
        with self.store.read() as session:
            return experiments.get(session, key)

    def attempt(self, key: str = "e1", attempt_no: int = 1) -> AttemptRow:
        with self.store.read() as session:
            return attempts.get(session, attempts.attempt_id(key, attempt_no))

    def trail(self, key: str = "e1") -> list[str]:
        with self.store.read() as session:
            return [str(event.to_state) for event in events.after(session, key, 0) if event.to_state]


@pytest.fixture
def plane(store: Store, clock: FakeClock, tmp_path: Path) -> Plane:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path / "storage", mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    return Plane(store, clock, settings)


def test_a_spec_goes_from_accepted_to_running_and_leaves_a_gapless_log(plane: Plane) -> None:
    plane.run_to_running(resources={"workers": 2})
    assert plane.row().state == State.RUNNING
    assert plane.trail() == ["accepted", "queued", "placed", "running"]
    with plane.store.read() as session:
        seqs = [event.seq for event in events.after(session, "e1", 0)]
    assert seqs == list(range(1, plane.row().version + 1))


def test_a_spec_this_release_cannot_read_stops_only_its_own_experiment(plane: Plane) -> None:
    plane.submit("old")
    with plane.store.write() as session:
        experiments.set_columns(session, "old", spec={"name": "written by another release"})
    plane.clock.advance(1)
    plane.run_to_running("new")
    assert plane.row("old").state == State.ACCEPTED
    assert plane.row("new").state == State.RUNNING


def test_without_a_cluster_it_waits_and_says_for_what(plane: Plane) -> None:
    plane.submit(resources={"workers": 64, "gpus_per_worker": 1})
    plane.dispatch()
    assert "no cluster has ever attached" in str(plane.row().waiting)
    plane.attach()
    plane.dispatch()
    assert "64 GPUs" in str(plane.row().waiting)
    assert plane.row().state == State.QUEUED


def test_a_silent_agent_gets_no_offers_and_its_attempts_become_unknown_but_stay_open(plane: Plane) -> None:
    plane.run_to_running()
    plane.submit("e2")
    plane.clock.advance(plane.settings.agent_ttl_s + 1)
    plane.dispatch()
    plane.reap()
    plane.reap()
    plane.settle()
    assert "no agent answers" in str(plane.row("e2").waiting)
    assert plane.attempt().observation == Observation.UNKNOWN
    assert plane.attempt().outcome is None
    with plane.store.read() as session:
        kinds = [event.kind for event in events.after(session, "e1", 0)]
    assert kinds.count("observation_unknown") == 1


def test_a_spec_that_became_inadmissible_fails_with_the_reason(plane: Plane) -> None:
    plane.submit(workload="gone_workload")
    plane.dispatch()
    assert plane.row().state == State.FAILED
    assert "gone_workload" in plane.row().reason


@pytest.mark.parametrize(
    ("outcome", "reason", "state"),
    [
        (Outcome.USER_ERROR, "ValueError: no", State.FAILED),
        (Outcome.TIMEOUT, "max_runtime_s", State.FAILED),
        (Outcome.OOM, "worker killed", State.RETRYING),
        (Outcome.INFRA_ERROR, "runner_died", State.RETRYING),
        (Outcome.PREEMPTED, "drain", State.QUEUED),
        (Outcome.CANCELLED, "user", State.CANCELLED),
    ],
)
def test_the_outcome_decides_what_follows(plane: Plane, outcome: Outcome, reason: str, state: State) -> None:
    plane.run_to_running()
    plane.end(outcome, reason=reason)
    plane.settle()
    assert plane.row().state == state
    assert reason in plane.row().reason or state is State.CANCELLED
    assert plane.attempt().is_settled


def test_a_retry_waits_out_its_delay_and_keeps_its_place_in_the_queue(plane: Plane) -> None:
    plane.run_to_running()
    place = plane.row().enqueued_at
    plane.end(Outcome.INFRA_ERROR, reason="node_lost")
    plane.settle()
    assert plane.row().due_at == plane.clock.now() + timedelta(seconds=20)
    plane.clock.advance(19)
    plane.attach()
    plane.dispatch()
    assert plane.row().state == State.RETRYING
    plane.clock.advance(2)
    plane.dispatch()
    assert plane.row().state == State.PLACED
    assert plane.row().current_attempt_no == 2
    assert plane.row().enqueued_at == place


def test_three_deaths_without_progress_are_held_for_a_human(plane: Plane) -> None:
    plane.run_to_running()
    for attempt_no in (1, 2, 3):
        plane.end(Outcome.INFRA_ERROR, attempt_no=attempt_no, reason="worker_died: signal 11")
        plane.settle()
        plane.clock.advance(1000)
        plane.attach()
        plane.dispatch()
        if attempt_no < 3:
            plane.lease(attempt_no=attempt_no + 1)
            plane.settle()
    assert plane.row().state == State.HELD
    assert "poison" in plane.row().reason


def test_progress_forgives_infrastructure_errors(plane: Plane) -> None:
    plane.run_to_running(policy={"retries": {"infra": 1}})
    for attempt_no in (1, 2, 3, 4):
        with plane.store.write() as session:
            checkpoints.commit(
                session,
                experiment_id="e1",
                attempt_no=attempt_no,
                step=attempt_no,
                path=f"a{attempt_no}/ckpt",
                manifest_sha256="0" * 64,
                now=plane.clock.now(),
            )
        plane.end(Outcome.LOST, attempt_no=attempt_no, reason="node_lost")
        plane.settle()
        assert plane.row().state == State.RETRYING
        plane.clock.advance(1000)
        plane.attach()
        plane.dispatch()
        plane.lease(attempt_no=attempt_no + 1)
        plane.settle()
    assert plane.row().current_attempt_no == 5


def test_an_offer_nobody_takes_is_withdrawn_without_charge(plane: Plane) -> None:
    plane.submit()
    plane.attach()
    plane.dispatch()
    plane.clock.advance(plane.settings.offer_ttl_s + 1)
    plane.settle()
    assert plane.attempt().outcome == Outcome.PREEMPTED
    assert plane.row().state == State.QUEUED


@pytest.mark.parametrize("place", ["accepted", "queued", "placed", "retrying"])
def test_a_cancel_without_a_leased_attempt_ends_at_once(plane: Plane, place: str) -> None:
    steps: dict[str, Callable[[], Any]] = {
        "accepted": plane.submit,
        "queued": lambda: (plane.submit(), plane.dispatch()),
        "placed": lambda: (plane.submit(), plane.attach(), plane.dispatch()),
        "retrying": lambda: (plane.run_to_running(), plane.end(Outcome.OOM), plane.settle()),
    }
    steps[place]()
    assert plane.row().state == place
    plane.desire(Desired.CANCEL)
    plane.settle()
    plane.settle()
    assert plane.row().state == State.CANCELLED


def test_a_leased_attempt_is_not_ended_by_a_wish_but_by_its_word_or_by_evidence(plane: Plane) -> None:
    plane.run_to_running()
    plane.desire(Desired.CANCEL)
    plane.settle()
    assert plane.row().state == State.RUNNING
    with plane.store.write() as session:
        attempts.write_if_open(session, "e1-a1", death_since=plane.clock.now(), death_reason="runner_died")
    plane.settle()
    assert plane.row().state == State.CANCELLED


def test_pause_and_resume(plane: Plane) -> None:
    plane.run_to_running()
    plane.desire(Desired.PAUSE)
    plane.end(Outcome.PREEMPTED, reason="pause_requested")
    plane.settle()
    assert plane.row().state == State.PAUSED
    plane.dispatch()
    assert plane.row().state == State.PAUSED
    plane.desire(Desired.RUN)
    plane.dispatch()
    assert plane.row().state == State.PLACED


def test_another_ray_session_is_proof_only_after_the_grace(plane: Plane) -> None:
    plane.run_to_running()
    plane.attach(session="s2")
    plane.settle()
    assert plane.attempt().outcome is None
    plane.clock.advance(plane.settings.ray_session_grace_s)
    plane.settle()
    assert plane.attempt().outcome == Outcome.INFRA_ERROR
    assert plane.row().state == State.RETRYING


def test_a_result_that_comes_before_the_word_running_makes_both_moves(plane: Plane) -> None:
    plane.submit()
    plane.attach()
    plane.dispatch()
    plane.lease(begin=False)
    plane.end(Outcome.SUCCEEDED, reason="", result=a_result().model_dump(mode="json"))
    plane.settle()
    assert plane.trail() == ["accepted", "queued", "placed", "running", "evaluating"]


def a_result(evaluation: EvaluationSummary | None = None) -> ResultDocument:
    now = FakeClock().now()
    return ResultDocument(
        experiment_id="e1",
        attempt_no=1,
        outcome=Outcome.SUCCEEDED,
        reason="",
        started_at=now,
        ended_at=now,
        evaluation=evaluation,
    )


def _numbers() -> MomentState:
    rows = np.arange(200)
    state = MomentState(attributes=[Attribute(name="sex", levels=("f", "m"))], low=0, high=10)
    state.update((rows % 2)[:, None], rows % 7, rows % 7 + rows % 3, record_hashes=rows + 1)
    return state


def _counted(plane: Plane, key: str = "e1", *, state: AnyState | None = None) -> EvaluationSummary:
    """Two hundred counted rows on the storage, as a runner leaves them."""
    state = state or _classes()
    content = state.to_bytes()
    path = plane.settings.storage / plane.attempt(key).storage_path / "evaluation.state"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    file = FileEntry(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    book = state.book
    return EvaluationSummary(
        state_file=file, expected_rows=200, expected_sum=book.record_sum, expected_xor=book.record_xor
    )


def _classes() -> CountState:
    attributes = (Attribute(name="sex", levels=("f", "m")), Attribute(name="age_band", levels=("old", "young")))
    state = CountState(attributes=attributes, classes=("no", "yes"))
    rows = np.arange(200)
    groups = np.stack([rows % 2, rows // 2 % 2], axis=1).astype(np.int16)
    hashes = (rows + 1).astype(np.uint64)
    state.update(groups, labels=rows // 4 % 2, predictions=rows // 4 % 2, record_hashes=hashes)
    return state


GATES = ({"id": "dp", "metric": "demographic_parity_difference", "by": ("sex",), "require": "<= 0.30"},)


def test_counts_become_a_report_with_decided_gates(plane: Plane) -> None:
    plane.run_to_running(gates=GATES, register={"name": "risk"})
    result = a_result(_counted(plane))
    plane.end(Outcome.SUCCEEDED, result=result.model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    row = plane.row()
    assert row.state == State.SUCCEEDED
    assert row.report_outcome == "pass"
    assert [gate["outcome"] for gate in row.gates] == ["pass"]
    assert row.registration is not None
    assert "no_model" in row.registration["reason"]
    directory = report_directory(plane.settings.storage, "default", "e1")
    content = (directory / "report.json").read_bytes()
    assert row.report_sha256 == f"sha256:{hashlib.sha256(content).hexdigest()}"
    key = public_key(report_seed(plane.settings.secret_key_file.read_bytes()))["public_key"]
    verify(json.loads(content), key)
    assert "<html" in (directory / "report.html").read_text()


def test_counted_numbers_become_a_signed_report_too(plane: Plane) -> None:
    gate = {"id": "mae", "metric": "mean_absolute_error_group_max", "by": ("sex",), "require": "<= 1.5"}
    plane.run_to_running(
        workload="evaluation",
        params={},
        data={"uri": "s3://b/p.parquet"},
        predictions={"target": "y"},
        evaluation={"task": "regression", "groupings": [["sex"]]},
        gates=[gate],
    )
    result = a_result(_counted(plane, state=_numbers()))
    plane.end(Outcome.SUCCEEDED, result=result.model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert (plane.row().state, plane.row().report_outcome) == (State.SUCCEEDED, "pass")
    directory = report_directory(plane.settings.storage, "default", "e1")
    report = json.loads((directory / "report.json").read_bytes())
    verify(report, public_key(report_seed(plane.settings.secret_key_file.read_bytes()))["public_key"])
    assert report["task"] == "regression"
    assert "Mean absolute error" in (directory / "report.html").read_text()


def test_without_its_key_an_evaluation_waits_and_says_for_what(plane: Plane) -> None:
    plane.run_to_running(gates=GATES)
    plane.end(Outcome.SUCCEEDED, result=a_result(_counted(plane)).model_dump(mode="json"))
    plane.settle()
    secret = plane.settings.secret_key_file.read_bytes()
    plane.settings.secret_key_file.unlink()
    plane.evaluate()
    row = plane.row()
    assert row.state == State.EVALUATING
    assert "the report cannot be signed" in (row.waiting or "")
    plane.settings.secret_key_file.write_bytes(secret)
    plane.evaluate()
    assert plane.row().state == State.SUCCEEDED


def test_a_report_with_mitigation_compares_with_the_experiment_that_the_spec_names(plane: Plane) -> None:
    evaluate_one(plane, "before")
    section = evaluate_one(plane, "after", compare_with="before")["mitigation"]
    assert section["before"]["experiment"] == "before"
    assert "demographic_parity_difference" in [one["metric"] for one in section["comparison"]]


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ("unknown", "nobody: there is no such experiment in this project"),
        ("other project", "before: there is no such experiment in this project"),
        ("unfinished", "before: it is running and has counted nothing yet"),
        ("deleted", "before: its counts have been deleted"),
        ("changed", "before: evaluation.state is not the file"),
    ],
)
def test_where_there_is_nothing_to_compare_with_the_report_is_made_and_says_why(
    plane: Plane, trouble: str, words: str
) -> None:
    named = "nobody" if trouble == "unknown" else "before"
    if trouble == "unfinished":
        plane.run_to_running("before")
    elif named == "before":
        evaluate_one(plane, "before", project="other" if trouble == "other project" else "default")
        path = plane.settings.storage / plane.attempt("before").storage_path / "evaluation.state"
        if trouble == "deleted":
            path.unlink()
        if trouble == "changed":
            path.write_bytes(b"x")
    report = evaluate_one(plane, "after", compare_with=named)
    assert words in report["mitigation"]["why_not_compared"]
    assert plane.row("after").state == State.SUCCEEDED


def evaluate_one(plane: Plane, key: str, *, compare_with: str | None = None, **changes: Any) -> dict[str, Any]:
    """Run one experiment to its report; with mitigation where it is to be compared."""
    if compare_with is not None:
        changes["mitigation"] = {"method": "lagrangian", "by": ["sex"], "compare_with": compare_with}
    plane.run_to_running(key, **changes)
    result = a_result(_counted(plane, key)).amended(experiment_id=key)
    plane.end(Outcome.SUCCEEDED, key=key, result=result.model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    project = changes.get("project", "default")
    report: dict[str, Any] = json.loads(
        (report_directory(plane.settings.storage, project, key) / "report.json").read_bytes()
    )
    return report


@pytest.mark.parametrize("harm", ["changed", "incomplete", "outside"])
def test_counts_that_cannot_be_trusted_hold_the_experiment(plane: Plane, harm: str) -> None:
    plane.run_to_running()
    summary = _counted(plane)
    if harm == "changed":
        path = plane.settings.storage / plane.attempt().storage_path / "evaluation.state"
        path.write_bytes(path.read_bytes() + b"x")
    elif harm == "incomplete":
        summary = summary.amended(expected_rows=201)
    else:
        summary = summary.amended(state_file=summary.state_file.amended(path="../../../../etc/passwd"))
    plane.end(Outcome.SUCCEEDED, result=a_result(summary).model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert plane.row().state == State.HELD
    assert "evaluation_error" in plane.row().reason


ENERGY = {
    "energy": {"intensity_g_per_kwh": 400},
    "gates": ({"metric": "energy_kwh", "require": "<= 2"}, {"metric": "co2e_kg", "require": "<= 0.5"}),
}


def _measured(plane: Plane, content: bytes) -> EvaluationSummary:
    summary = _counted(plane)
    (plane.settings.storage / plane.attempt().storage_path / "measurements.json").write_bytes(content)
    file = FileEntry(path="measurements.json", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return summary.amended(measurements_file=file)


def test_what_workers_measured_beside_the_counts_decides_its_gates(plane: Plane) -> None:
    plane.run_to_running(**ENERGY)
    part = {"kwh": 1.5, "is_measured": True, "how": "RAPL"}
    node = {"node": "n1", "attempt": 1, "group": 1, "ranks": 1, "duration_s": 60, "parts": {"cpu": part}}
    summary = _measured(plane, measurements_bytes({"energy": [node]}))
    plane.end(Outcome.SUCCEEDED, result=a_result(summary).model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert [(gate["outcome"], gate["value"]) for gate in plane.row().gates] == [("pass", 1.5), ("fail", 0.6)]


def test_an_experiment_of_which_nothing_was_measured_succeeds_and_its_gates_are_undecided(plane: Plane) -> None:
    plane.run_to_running(**ENERGY)
    plane.end(Outcome.SUCCEEDED, result=a_result(_counted(plane)).model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert plane.row().state == State.SUCCEEDED
    assert {gate["why"] for gate in plane.row().gates} == {"not measured: the workers gave nothing"}


@pytest.mark.parametrize("content", [b"{}", b"x", b"\xff"])
def test_measurements_that_are_none_hold_the_experiment(plane: Plane, content: bytes) -> None:
    plane.run_to_running(**ENERGY)
    plane.end(Outcome.SUCCEEDED, result=a_result(_measured(plane, content)).model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert plane.row().state == State.HELD


def test_storage_that_is_away_makes_the_evaluation_wait(plane: Plane) -> None:
    plane.run_to_running()
    summary = _counted(plane)
    path = plane.settings.storage / plane.attempt().storage_path / "evaluation.state"
    away = path.rename(path.with_suffix(".away"))
    plane.end(Outcome.SUCCEEDED, result=a_result(summary).model_dump(mode="json"))
    plane.settle()
    plane.evaluate()
    assert plane.row().state == State.EVALUATING
    assert "the storage cannot be used: No such file" in (plane.row().waiting or "")
    away.rename(path)
    plane.evaluate()
    assert (plane.row().state, plane.row().waiting) == (State.SUCCEEDED, None)


# ---- what humans decide ---------------------------------------------------------------------------------------------


def hold(plane: Plane, *, first: int = 1) -> None:
    """Three deaths in a row, beginning with attempt ``first``, which is offered already."""
    for attempt_no in range(first, first + 3):
        plane.lease(attempt_no=attempt_no)
        plane.settle()
        plane.end(Outcome.INFRA_ERROR, reason="worker_died", attempt_no=attempt_no)
        plane.settle()
        if attempt_no < first + 2:
            plane.clock.advance(1000)
            plane.attach()
            plane.dispatch()
    assert plane.row().state == State.HELD


def release(plane: Plane) -> None:
    now = plane.clock.now()
    with plane.store.write() as session:
        row = experiments.get(session, "e1")
        assert experiments.release_if_current(session, row, actor="ann", now=now, released_at=now)


def test_a_released_experiment_begins_again_with_fresh_budgets_and_its_old_place(plane: Plane) -> None:
    plane.submit()
    plane.attach()
    plane.dispatch()
    place = plane.row().enqueued_at
    hold(plane)
    plane.dispatch()
    assert plane.row().state == State.HELD, "nobody has released it"
    release(plane)
    plane.clock.advance(1)
    plane.attach()
    plane.dispatch()
    assert (plane.row().state, plane.row().enqueued_at) == (State.PLACED, place)
    assert "poison" in next(e.reason for e in events_of(plane) if e.from_state == State.HELD)
    hold(plane, first=4)
    plane.dispatch()
    assert plane.row().state == State.HELD, "one release lets it go on once"
    release(plane)
    plane.dispatch()
    assert plane.row().state in (State.QUEUED, State.PLACED)


def test_a_released_evaluation_is_made_again(plane: Plane) -> None:
    plane.run_to_running(evaluation={"groupings": [["sex"]]})
    summary = _counted(plane)
    plane.end(Outcome.SUCCEEDED, result=a_result(summary).model_dump(mode="json"))
    counts = next((plane.settings.storage / plane.attempt().storage_path).glob("*.state"))
    kept = counts.read_bytes()
    counts.write_bytes(b"harmed")
    plane.settle()
    plane.evaluate()
    assert (plane.row().state, plane.row().reason.split(":")[0]) == (State.HELD, "evaluation_error")
    counts.write_bytes(kept)
    release(plane)
    plane.dispatch()
    assert plane.row().state == State.EVALUATING
    plane.evaluate()
    assert plane.row().state == State.SUCCEEDED


def events_of(plane: Plane, key: str = "e1") -> list[EventRow]:
    with plane.store.read() as session:
        return events.after(session, key, 0)


@pytest.mark.parametrize("desired", Desired)
def test_an_attempt_declared_lost_is_ended_whatever_is_seen_of_it(plane: Plane, desired: Desired) -> None:
    plane.run_to_running()
    plane.desire(desired)
    with plane.store.write() as session:
        attempts.write_if_open(session, "e1-a1", observation=Observation.PRESENT)
        assert attempts.declare_lost(session, "e1-a1", by="ann", why="the machine was sold")
    plane.settle()
    assert (plane.attempt().outcome, plane.attempt().reason) == (
        Outcome.LOST,
        "declared_lost: by ann: the machine was sold",
    )
    following = {Desired.RUN: State.RETRYING, Desired.PAUSE: State.PAUSED, Desired.CANCEL: State.CANCELLED}
    assert plane.row().state == following[desired]


# ---- run time -------------------------------------------------------------------------------------------------------


def test_without_run_time_no_attempt_is_tried_again(plane: Plane) -> None:
    plane.run_to_running(policy={"max_runtime_s": 100})
    plane.clock.advance(100)
    with plane.store.write() as session:
        attempts.write_if_open(session, "e1-a1", observed_at=plane.clock.now())
    plane.end(Outcome.INFRA_ERROR, reason="worker_died")
    plane.settle()
    assert (plane.row().state, plane.row().reason.split(":")[0]) == (State.FAILED, "timeout")


def test_an_attempt_without_run_time_is_over_before_anyone_is_offered_it(plane: Plane) -> None:
    plane.run_to_running(policy={"max_runtime_s": 100})
    plane.clock.advance(101)
    plane.desire(Desired.PAUSE)
    plane.end(Outcome.PREEMPTED, reason="pause_requested", result=a_result().model_dump(mode="json"))
    plane.settle()
    assert plane.row().state == State.PAUSED
    plane.desire(Desired.RUN)
    plane.attach()
    plane.dispatch()
    assert (plane.attempt(attempt_no=2).outcome, plane.attempt(attempt_no=2).leased_at) == (Outcome.TIMEOUT, None)
    plane.settle()
    assert (plane.row().state, plane.row().reason.split(":")[0]) == (State.FAILED, "timeout")


# ---- offers and clusters --------------------------------------------------------------------------------------------


def let_an_offer_expire(plane: Plane, *, is_answering: bool) -> None:
    plane.dispatch()
    assert plane.row().state == State.PLACED
    plane.clock.advance(plane.settings.offer_ttl_s + 1)
    if is_answering:
        plane.attach()
    plane.settle()
    plane.attach()


@pytest.mark.parametrize(("is_answering", "state"), [(True, State.HELD), (False, State.QUEUED)])
def test_offers_that_an_answering_agent_does_not_take_do_not_go_round_for_ever(
    plane: Plane, is_answering: bool, state: State
) -> None:
    plane.submit()
    plane.attach()
    for _ in range(3):
        let_an_offer_expire(plane, is_answering=is_answering)
    assert plane.row().state == state
    assert plane.row().reason.startswith("cannot_be_offered") is is_answering


def test_a_spec_that_became_unreadable_is_held_instead_of_offered_for_ever(plane: Plane) -> None:
    plane.submit()
    plane.attach()
    plane.dispatch()
    with plane.store.write() as session:
        experiments.set_columns(session, "e1", spec={"name": "written by another release"})
        attempts.write_if_open(session, "e1-a1", observed_detail="this release cannot read the spec")
    for _ in range(3):
        let_an_offer_expire(plane, is_answering=True)
    assert plane.row().state == State.HELD
    assert "cannot_be_offered" in plane.row().reason
    assert "cannot read the spec" in plane.attempt().reason


def lose(plane: Plane, key: str) -> None:
    plane.run_to_running(key)
    plane.end(Outcome.INFRA_ERROR, key=key, reason="storage: the disk is full")
    plane.settle()


def cluster(plane: Plane) -> ClusterRow:
    with plane.store.read() as session:
        return clusters.get(session, "local")


def test_a_cluster_on_which_three_experiments_in_a_row_are_lost_waits_for_a_human(plane: Plane) -> None:
    for key in ("e1", "e2"):
        lose(plane, key)
    assert cluster(plane).state == "active"
    lose(plane, "e3")
    assert cluster(plane).state == "suspect"
    assert "cluster_suspected" in [event.kind for event in events_of(plane, "e3")]
    plane.submit("e4")
    plane.attach()
    plane.dispatch()
    waiting = str(plane.row("e4").waiting)
    assert waiting.startswith("cluster_closed: local is suspect")
    assert "activate" in waiting
    told = ("e1", "e2", "e3", "the disk is full")
    assert not any(text in waiting for text in told), "they may be of a project that e4's people do not see"
    with plane.store.read() as session:
        why = clusters.why_closed(session, clusters.get(session, "local"), tells_losses=True)
    assert all(text in str(why) for text in told)
    with plane.store.write() as session:
        clusters.change_state(session, "local", ClusterState.ACTIVE, sources=(ClusterState.SUSPECT,))
    plane.dispatch()
    assert plane.row("e4").state == State.PLACED


def test_what_ends_otherwise_in_between_clears_a_cluster(plane: Plane) -> None:
    for key in ("e1", "e2"):
        lose(plane, key)
    plane.run_to_running("good")
    plane.end(Outcome.USER_ERROR, key="good", reason="ValueError")
    plane.settle()
    plane.clock.advance(1)
    lose(plane, "e3")
    assert cluster(plane).state == "active"

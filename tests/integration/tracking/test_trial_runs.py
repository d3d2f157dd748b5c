"""Runs of trials on a real MLflow server: as it takes them in one call, and as any other makes them one by one."""

import math
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from mlflow import MlflowClient

from fairlead.errors import BadInput, NotFound, Unavailable
from fairlead.protocol import MetricPoint
from fairlead.testing.mlflow import MlflowServer
from fairlead.tracking import trials
from fairlead.tracking.documents import RUNS_PATH, RunDocument, TrialRun
from fairlead.tracking.recorder import Recorder

Documents = Callable[..., RunDocument]
ROWS = {
    "runs": "name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, deleted_time,"
    " source_version, lifecycle_stage, experiment_id, replace(artifact_uri, run_uuid, '')",
    "tags": "key, value",
    "params": "key, value",
    "metrics": "key, value, timestamp, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan",
}


@pytest.fixture
def recorder(mlflow_server: MlflowServer) -> Recorder:
    return Recorder(mlflow_server.url)


@pytest.fixture
def client(mlflow_server: MlflowServer) -> MlflowClient:
    return MlflowClient(mlflow_server.url, mlflow_server.url)


@pytest.fixture
def of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has no route for whole runs."""
    monkeypatch.setattr(trials, "RUNS_PATH", "/api/2.0/fairlead/unknown")


@pytest.fixture(params=["at once", "one by one"])
def either_way(request: pytest.FixtureRequest) -> None:
    if request.param == "one by one":
        request.getfixturevalue("of_another_release")


def a_trial_run(key: str, no: int = 0, **changes: Any) -> TrialRun:
    points = [MetricPoint(key="loss", value=1 / (1 + step), step=step, at_ms=2_000 + step) for step in range(3)]
    plain: dict[str, Any] = {
        "experiment_id": key,
        "no": no,
        "status": "FINISHED",
        "started_at_ms": 1_000 + no,
        "ended_at_ms": 3_000 + no,
        "user": "ann",
        "params": {"lr": 0.1, "optimizer": {"name": "adam"}},
        "points": (*points, MetricPoint(key="accuracy", value=0.5, step=2, at_ms=3_000)),
        "tags": {"fairlead.state": "succeeded"},
    }
    return TrialRun(**{**plain, **changes})


def runs_of(client: MlflowClient, key: str) -> list[Any]:
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`fairlead.trial` LIKE '{key}/%'", max_results=1000)
    return sorted(found, key=lambda run: int(run.data.tags["fairlead.trial"].partition("/")[2]))


def rows_of(server: MlflowServer, run_id: str) -> dict[str, list[Any]]:
    connection = sqlite3.connect(server.directory / "mlflow.db")
    try:
        asked = {table: f"SELECT {columns} FROM {table} WHERE run_uuid = ?" for table, columns in ROWS.items()}
        return {table: sorted(connection.execute(query, (run_id,)), key=str) for table, query in asked.items()}
    finally:
        connection.close()


@pytest.mark.usefixtures("either_way")
def test_a_trial_is_a_run_below_its_sweeps_run(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    key = document.experiment_id
    ended = [a_trial_run(key, 0), a_trial_run(key, 1, status="KILLED", tags={"fairlead.reason": "no better"})]
    made = recorder.record_trials(parent, ended)
    runs = runs_of(client, key)
    assert [run.info.run_id for run in runs] == made
    first, second = runs
    assert first.info.experiment_id == client.get_run(parent).info.experiment_id
    assert first.data.tags["mlflow.parentRunId"] == parent
    assert first.data.params == {"lr": "0.1", "optimizer.name": "adam"}
    assert first.data.metrics == {"loss": 1 / 3, "accuracy": 0.5}
    assert (first.info.run_name, first.info.status) == ("trial-0", "FINISHED")
    assert (first.info.start_time, first.info.end_time) == (1_000, 3_000)
    assert (second.info.status, second.data.tags["fairlead.reason"]) == ("KILLED", "no better")
    history = client.get_metric_history(made[0], "loss")
    assert sorted((one.step, one.timestamp, one.value) for one in history) == [
        (0, 2_000, 1.0),
        (1, 2_001, 1 / 2),
        (2, 2_002, 1 / 3),
    ]
    assert recorder.ensure_run(document) == parent, "a child is never taken for the sweep's own run"


@pytest.mark.usefixtures("either_way")
def test_trials_told_of_again_have_one_run_each(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    ended = [a_trial_run(document.experiment_id, no) for no in range(6)]
    made = recorder.record_trials(parent, ended[:4])
    assert recorder.record_trials(parent, ended[2:]) == [*made[2:], *recorder.record_trials(parent, ended[4:])]
    assert len(runs_of(client, document.experiment_id)) == 6


@pytest.mark.usefixtures("either_way")
def test_values_that_are_no_numbers_arrive(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    document = a_document()
    values = {"nan": math.nan, "high": math.inf, "low": -math.inf}
    points = tuple(MetricPoint(key=key, value=value, step=0, at_ms=0) for key, value in values.items())
    ended = a_trial_run(document.experiment_id, points=(*points, *points))
    (made,) = recorder.record_trials(recorder.ensure_run(document), [ended])
    metrics = client.get_run(made).data.metrics
    assert math.isnan(metrics["nan"])
    assert metrics["high"] > 1e308
    assert metrics["low"] < -1e308


def test_both_ways_leave_the_same_rows(
    recorder: Recorder, mlflow_server: MlflowServer, a_document: Documents, request: pytest.FixtureRequest
) -> None:
    """What is written past MLflow's interface is what its interface writes, whatever release it is of."""
    document = a_document()
    parent = recorder.ensure_run(document)
    points = [MetricPoint(key=key, value=value, step=step, at_ms=5) for key, value, step in MIXED]
    ended = a_trial_run(document.experiment_id, points=tuple(points))
    (at_once,) = recorder.record_trials(parent, [ended])
    MlflowClient(mlflow_server.url).delete_run(at_once)
    MlflowClient(mlflow_server.url).restore_run(at_once)
    request.getfixturevalue("of_another_release")
    MlflowClient(mlflow_server.url).set_tag(at_once, "fairlead.trial", "hidden/0")
    (one_by_one,) = recorder.record_trials(parent, [ended])
    MlflowClient(mlflow_server.url).set_tag(at_once, "fairlead.trial", ended.key)
    assert at_once != one_by_one
    assert rows_of(mlflow_server, at_once) == rows_of(mlflow_server, one_by_one)


MIXED = [("a", 2.0, 1), ("a", 1.0, 3), ("a", 5.0, 3), ("b", math.nan, 0), ("b", math.inf, 0), ("a", 2.0, 1)]


@pytest.mark.usefixtures("of_another_release")
def test_a_run_that_was_left_half_made_is_completed(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    experiment = client.get_run(parent).info.experiment_id
    ended = a_trial_run(document.experiment_id)
    tags = {"mlflow.parentRunId": parent, "fairlead.trial": ended.key}
    left = [client.create_run(experiment, start_time=ended.started_at_ms, tags=tags).info.run_id for _ in range(2)]
    (made,) = recorder.record_trials(parent, [ended])
    assert made in left
    (run,) = runs_of(client, document.experiment_id)
    assert (run.info.run_id, run.info.status, run.data.metrics["accuracy"]) == (made, "FINISHED", 0.5)


@pytest.mark.usefixtures("of_another_release")
def test_a_slow_server_is_left_after_a_while(
    recorder: Recorder, a_document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "PATIENCE_S", 0.0)
    document = a_document()
    parent = recorder.ensure_run(document)
    assert len(recorder.record_trials(parent, [a_trial_run(document.experiment_id, no) for no in range(3)])) == 1


def test_of_trials_that_are_refused_none_is_written(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    bad = a_trial_run(document.experiment_id, 1, points=(MetricPoint(key="a//b", value=1, step=0, at_ms=0),))
    with pytest.raises(BadInput, match="a//b"):
        recorder.record_trials(parent, [a_trial_run(document.experiment_id, 0), bad])
    assert runs_of(client, document.experiment_id) == []


@pytest.mark.usefixtures("either_way")
def test_an_mlflow_experiment_that_somebody_has_deleted_is_missing(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    client.delete_experiment(client.get_run(parent).info.experiment_id)
    with pytest.raises(NotFound):
        recorder.record_trials(parent, [a_trial_run(document.experiment_id)])


def test_a_server_that_is_gone_is_away(mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents) -> None:
    document = a_document()
    parent = recorder.ensure_run(document)
    mlflow_server.kill()
    try:
        with pytest.raises(Unavailable):
            recorder.record_trials(parent, [a_trial_run(document.experiment_id)])
    finally:
        mlflow_server.start()


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({"Host": "evil.example"}, b"{}", 403),
        ({"Origin": "http://evil.example"}, b"{}", 403),
        ({}, b"{}", 400),
        ({}, b"nothing", 400),
        ({"Content-Length": str(2**40)}, b"{}", 413),
    ],
)
def test_whole_runs_are_taken_from_no_stranger(
    mlflow_server: MlflowServer, headers: dict[str, str], body: bytes, expected: int
) -> None:
    request = urllib.request.Request(f"{mlflow_server.url}{RUNS_PATH}", data=body, headers=headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    assert refused.value.code == expected

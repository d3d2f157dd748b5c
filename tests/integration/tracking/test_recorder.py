import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Param

from fairlead.errors import BadInput, NotFound, Unavailable
from fairlead.protocol import MetricPoint
from fairlead.testing import a_spec
from fairlead.testing.mlflow import MlflowServer
from fairlead.tracking.documents import EXPERIMENT_ID_TAG, RunDocument
from fairlead.tracking.reach import reaching
from fairlead.tracking.recorder import Recorder

Documents = Callable[..., RunDocument]
DATASET = {"uri": "builtin://diabetes", "digest": "sha256:" + "0f" * 32, "num_rows": 442, "target": "risk"}


@pytest.fixture
def recorder(mlflow_server: MlflowServer) -> Recorder:
    return Recorder(mlflow_server.url)


@pytest.fixture
def client(mlflow_server: MlflowServer) -> MlflowClient:
    return MlflowClient(mlflow_server.url, mlflow_server.url)


def series(length: int, *, key: str = "train/loss", start: int = 0) -> list[MetricPoint]:
    return [MetricPoint(key=key, value=1 / (step + 1), step=step, at_ms=1000 + step) for step in range(start, length)]


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, int, float]]:
    return sorted((point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, key))


def as_rows(points: Sequence[MetricPoint]) -> list[tuple[int, int, float]]:
    return [(point.step, point.at_ms, point.value) for point in points]


def log_one_by_one(recorder: Recorder, run_id: str, points: Sequence[MetricPoint]) -> None:
    for point in points:
        recorder.log_points(run_id, [point])


def test_a_run_shows_parameters_tags_and_the_spec(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    spec = a_spec(
        name="shown",
        params={"lr": 0.1, "hidden": [64, 64], "optimizer": {"name": "adam"}},
        labels={"team": "a"},
        mitigation={"method": "lagrangian", "by": ["sex"]},
    )
    run = client.get_run(recorder.ensure_run(a_document(spec=spec, attempts=2, code_sha256="c0de")))
    expected = {
        "lr": "0.1",
        "hidden": "[64, 64]",
        "optimizer.name": "adam",
        "spec.seed": "0",
        "spec.mitigation.method": "lagrangian",
        "spec.resources.workers": "1",
    }
    assert expected.items() <= run.data.params.items()
    tags = {"label.team": "a", "fairlead.attempts": "2", "fairlead.code_sha256": "c0de", "fairlead.project": "default"}
    assert tags.items() <= run.data.tags.items()
    assert run.info.start_time == 1_700_000_000_000
    assert client.get_experiment(run.info.experiment_id).name == "default/shown"
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["spec.yaml"]


def test_a_run_is_made_once_and_completed_later(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    first = recorder.ensure_run(a_document())
    again = recorder.ensure_run(a_document(dataset=DATASET, attempts=1, environment={"torch": "2.13.0"}))
    repeated = recorder.ensure_run(a_document(dataset=DATASET, attempts=1, environment={"torch": "2.13.0"}))
    assert first == again == repeated
    run = client.get_run(first)
    assert run.data.params["data.digest"] == DATASET["digest"]
    assert run.data.tags["fairlead.data_digest"] == DATASET["digest"]
    assert run.data.tags["environment.torch"] == "2.13.0"
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("diabetes", ("0f" * 32)[:36])
    assert json.loads(given.dataset.profile)["num_rows"] == 442


def test_a_run_made_twice_by_a_lost_answer_becomes_one(
    recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    run_id = recorder.ensure_run(a_document())
    experiment = client.get_run(run_id).info.experiment_id
    tags = {EXPERIMENT_ID_TAG: a_document().experiment_id}
    double = client.create_run(experiment, start_time=1_700_000_000_001, tags=tags).info.run_id
    assert recorder.ensure_run(a_document()) == run_id
    assert client.get_run(double).info.lifecycle_stage == "deleted"


def test_experiments_created_at_once_are_one(
    mlflow_server: MlflowServer, client: MlflowClient, a_document: Documents
) -> None:
    name = f"default/{a_document().spec.name}"
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(Recorder(mlflow_server.url)._ensure_experiment(name)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert set(found) == {client.get_experiment_by_name(name).experiment_id}


def test_a_deleted_run_is_named_and_comes_back(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    run_id = recorder.ensure_run(a_document())
    client.delete_run(run_id)
    with pytest.raises(NotFound):
        recorder.log_points(run_id, series(1))
    with pytest.raises(NotFound):
        recorder.log_points("0" * 32, series(1))
    assert recorder.ensure_run(a_document()) == run_id
    recorder.log_points(run_id, series(1))


def test_points_sent_again_are_absorbed(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    run_id = recorder.ensure_run(a_document())
    points = series(2500)
    recorder.log_points(run_id, points)
    recorder.log_points(run_id, points[500:] + series(2600, start=2500))
    assert history(client, run_id, "train/loss") == as_rows(series(2600))


def test_nan_and_infinities_are_recorded(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    run_id = recorder.ensure_run(a_document())
    values = [math.nan, math.inf, -math.inf, 0.0]
    points = [MetricPoint(key="loss", value=value, step=step, at_ms=step) for step, value in enumerate(values)]
    for _ in range(2):
        recorder.log_points(run_id, points)
    nan, infinite, negative, zero = [value for _, _, value in history(client, run_id, "loss")]
    assert (math.isnan(nan), infinite > 1e308, negative < -1e308, zero) == (True, True, True, 0.0)


@pytest.mark.parametrize(
    "key", ["validation/accuracy", "acc@1", "a//b", "../up", "größe", "x" * 250, "rai/dp/sex.upper95"]
)
def test_any_key_can_be_recorded(recorder: Recorder, client: MlflowClient, a_document: Documents, key: str) -> None:
    run_id = recorder.ensure_run(a_document())
    recorder.log_points(run_id, series(1, key=key))
    (written,) = client.get_run(run_id).data.metrics
    assert (written == key) is (key in ("validation/accuracy", "x" * 250, "rai/dp/sex.upper95"))


def test_long_and_many_parameters_fit(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    params = {f"p{number}": "ä" * 7000 for number in range(40)} | {f"q{number}": number for number in range(150)}
    run = client.get_run(recorder.ensure_run(a_document(params=params)))
    assert len(run.data.params["p0"]) == 6000
    assert run.data.params["p0"].endswith("(cut by Fairlead; whole in spec.yaml)")
    assert run.data.params["q149"] == "149"


def test_files_and_texts_are_replaced(
    recorder: Recorder, client: MlflowClient, a_document: Documents, tmp_path: Path
) -> None:
    run_id = recorder.ensure_run(a_document())
    (tmp_path / "report.json").write_text("{}")
    recorder.log_files(
        run_id, {"responsible_ai/report.json": tmp_path / "report.json", "responsible_ai/plots/a.svg": b"<svg/>"}
    )
    recorder.log_text(run_id, "<html>old", "responsible_ai/report.html")
    recorder.log_text(run_id, "<html>new", "responsible_ai/report.html")
    there = [file.path for file in client.list_artifacts(run_id, "responsible_ai")]
    assert there == ["responsible_ai/plots", "responsible_ai/report.html", "responsible_ai/report.json"]
    page = client.download_artifacts(run_id, "responsible_ai/report.html", str(tmp_path))
    assert Path(page).read_text() == "<html>new"
    with pytest.raises(ValueError, match="relative path"):
        recorder.log_text(run_id, "", "../outside")


def test_a_run_ends_twice_and_can_be_reopened(recorder: Recorder, client: MlflowClient, a_document: Documents) -> None:
    run_id = recorder.ensure_run(a_document())
    for _ in range(2):
        recorder.finish(run_id, "FAILED", ended_at_ms=1_700_000_000_500)
    assert (client.get_run(run_id).info.status, client.get_run(run_id).info.end_time) == ("FAILED", 1_700_000_000_500)
    recorder.reopen(run_id)
    assert client.get_run(run_id).info.status == "RUNNING"
    recorder.finish(run_id, "FINISHED", ended_at_ms=1_700_000_000_900)
    assert (client.get_run(run_id).info.status, client.get_run(run_id).info.end_time) == ("FINISHED", 1_700_000_000_900)


def test_links_name_the_public_address(mlflow_server: MlflowServer, a_document: Documents) -> None:
    recorder = Recorder(mlflow_server.url, public_url="https://mlflow.example/")
    run_id = recorder.ensure_run(a_document())
    assert recorder.run_url(run_id).startswith("https://mlflow.example/#/experiments/")
    assert recorder.run_url(run_id).endswith(f"/runs/{run_id}?workflowType=machine_learning")
    assert recorder.model_url("a b", "3").startswith("https://mlflow.example/#/models/a%20b/versions/3?")


def test_a_killed_server_loses_and_doubles_nothing(
    mlflow_server: MlflowServer, recorder: Recorder, client: MlflowClient, a_document: Documents
) -> None:
    run_id = recorder.ensure_run(a_document())
    points = series(5000)
    killer = threading.Thread(target=mlflow_server.kill)
    recorder.log_points(run_id, points[:1000])
    killer.start()
    with pytest.raises(Unavailable, match="does not answer"):
        log_one_by_one(recorder, run_id, points[1000:])
    killer.join()
    for call in (lambda: recorder.ensure_run(a_document()), lambda: recorder.log_text(run_id, "", "a.txt")):
        with pytest.raises(Unavailable):
            call()
    mlflow_server.start()
    assert recorder.ensure_run(a_document()) == run_id
    recorder.log_points(run_id, points)
    assert history(client, run_id, "train/loss") == as_rows(points)


def test_a_server_that_never_answers_is_away(
    mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = recorder.ensure_run(a_document())
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with mlflow_server.frozen(), pytest.raises(Unavailable):
        recorder.log_points(run_id, series(1))
    recorder.log_points(run_id, series(1))


def test_a_wrong_request_is_not_mistaken_for_an_outage(recorder: Recorder, a_document: Documents) -> None:
    run_id = recorder.ensure_run(a_document())
    with pytest.raises(BadInput, match=r"refuses it.*spec\.seed"), reaching(recorder.url):
        recorder._log_in_parts(run_id, "params", [Param("spec.seed", "99")])

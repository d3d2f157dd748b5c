import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from fairlead.errors import BadInput, Unavailable
from fairlead.protocol import ModelDocument
from fairlead.testing.mlflow import ExportedModel, MlflowServer, file_entries
from fairlead.tracking.documents import EXPERIMENT_ID_TAG, RegisteredVersion, RunDocument
from fairlead.tracking.recorder import Recorder

Documents = Callable[..., RunDocument]
Exports = Callable[..., ExportedModel]


@dataclass(frozen=True)
class Trained:
    """A model that a built-in workload has exported."""

    directory: Path
    document: ModelDocument
    code: None = None


PREDICT = """
import json, sys
import mlflow, numpy, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = json.loads(sys.argv[2])
rows = pandas.DataFrame(rows, index=[7, 9]) if isinstance(rows, dict) else numpy.asarray(rows, dtype="float32")
print(json.dumps(model.predict(rows).reset_index().to_dict("list")))
"""

REGISTER = """
import json, sys
from pathlib import Path
from fairlead.protocol import ModelDocument
from fairlead.tracking.recorder import Recorder
url, run_id, model_dir, code, document = sys.argv[1:]
Recorder(url).register_model(run_id, experiment_id="apart", model_dir=Path(model_dir), code_bundle=Path(code),
                             document=ModelDocument.model_validate_json(document), name="apart", alias="candidate")
unwanted = ("torch", "ray", "workload_", "fairlead_workloads")
print(json.dumps([name for name in sys.modules if name.startswith(unwanted) and "." not in name]))
"""


@pytest.fixture
def recorder(mlflow_server: MlflowServer) -> Recorder:
    return Recorder(mlflow_server.url)


@pytest.fixture
def client(mlflow_server: MlflowServer) -> MlflowClient:
    return MlflowClient(mlflow_server.url, mlflow_server.url)


def python(program: str, *arguments: str, url: str) -> Any:
    """What ``program`` prints, run as a user of the server would."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": url, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def registered(
    recorder: Recorder, export: ExportedModel | Trained, run: RunDocument, **changes: Any
) -> RegisteredVersion:
    plain: dict[str, Any] = {
        "experiment_id": run.experiment_id,
        "model_dir": export.directory,
        "document": export.document,
        "name": f"model-{run.experiment_id[:8]}",
        "alias": "candidate",
        "code_bundle": export.code,
        "tags": {"rai.outcome": "pass", "rai.report_sha256": "ab" * 32},
    }
    return recorder.register_model(recorder.ensure_run(run), **{**plain, **changes})


def test_a_registered_model_predicts_by_its_alias(
    mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents, an_export: Exports
) -> None:
    export = an_export()
    version = registered(recorder, export, a_document())
    assert not export.trace.exists()
    rows = json.dumps({"age": [1.0, -1.0], "weight": [0.5, 0.2]})
    answer = python(PREDICT, f"models:/{version.name}@candidate", rows, url=mlflow_server.url)
    assert export.trace.exists()
    assert (answer["index"], answer["prediction"]) == ([7, 9], ["high", "low"])
    assert answer["probability_high"] == pytest.approx([0.904651, 0.231475], abs=1e-6)


def test_an_image_model_takes_a_tensor(
    mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents, an_export: Exports
) -> None:
    version = registered(recorder, an_export(feature_shape=(1, 2, 2)), a_document())
    rows = json.dumps([[[[1, 0], [0, 1]]], [[[-1, 0], [0, 0]]], [[[0, 0], [0, 0]]]])
    answer = python(PREDICT, version.uri, rows, url=mlflow_server.url)
    assert answer["prediction"] == ["high", "low", "low"], "a chance of 0.5 is below the threshold of 0.6"


def test_registering_imports_neither_the_workload_nor_torch(
    mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents, an_export: Exports
) -> None:
    export, run_id = an_export(), recorder.ensure_run(a_document())
    arguments = (mlflow_server.url, run_id, str(export.directory), str(export.code), export.document.model_dump_json())
    assert python(REGISTER, *arguments, url=mlflow_server.url) == []
    assert not export.trace.exists()


@pytest.mark.parametrize(
    ("workload", "rows"),
    [
        ("tabular_mlp", {"age": [24.0, 79.0], "bmi": [19.0, 38.0], "bp": [70.0, 120.0]}),
        pytest.param("image_cnn", [[[[0.0] * 8] * 8], [[[16.0] * 8] * 8]], marks=pytest.mark.nightly),  # half a minute
    ],
)
def test_a_built_in_workload_predicts_without_a_bundle(
    mlflow_server: MlflowServer, recorder: Recorder, a_document: Documents, tmp_path: Path, workload: str, rows: Any
) -> None:
    module = f"fairlead_workloads.{workload}"
    command = [sys.executable, "-W", "ignore", "-m", module, "--epochs=1", f"--save={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    export = trained(tmp_path / "model", module)
    version = registered(recorder, export, a_document(), code_bundle=None)
    if isinstance(rows, dict):
        rows = {name: rows.get(name, [0.0, 0.0]) for name, _ in export.document.features}
    answer = python(PREDICT, version.uri, json.dumps(rows), url=mlflow_server.url)
    assert set(answer["prediction"]) <= set(export.document.classes)
    chances = [answer[f"probability_{label}"] for label in export.document.classes]
    assert [sum(row) for row in zip(*chances, strict=True)] == pytest.approx([1, 1], abs=1e-5)


def trained(directory: Path, module: str) -> Trained:
    """What the runner says of an exported model."""
    written = json.loads((directory / "model.json").read_text())
    document = ModelDocument(
        workload=f"{module}:train",
        params=written["params"],
        config=written["config"],
        features=tuple((column["name"], column["dtype"]) for column in written["features"]),
        feature_shape=tuple(written["feature_shape"]),
        classes=tuple(written["classes"]),
        task="binary" if len(written["classes"]) == 2 else "multiclass",
        dataset_digest=written["dataset"]["digest"],
        files=file_entries(directory),
    )
    return Trained(directory, document)


def test_a_version_says_where_it_comes_from(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    version = registered(recorder, an_export(), a_document())
    stored = client.get_model_version(version.name, version.version)
    assert stored.run_id == recorder.ensure_run(a_document())
    expected = {"rai.outcome": "pass", "rai.report_sha256": "ab" * 32, EXPERIMENT_ID_TAG: a_document().experiment_id}
    assert expected.items() <= stored.tags.items()
    run = client.get_run(stored.run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [version.model_id]
    signature = client.get_logged_model(version.model_id).tags
    assert signature[EXPERIMENT_ID_TAG] == a_document().experiment_id


def test_the_requirements_are_written_out(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports, tmp_path: Path
) -> None:
    version = registered(recorder, an_export(), a_document())
    there = {file.path for file in client.list_logged_model_artifacts(version.model_id)}
    assert there == {"MLmodel", "code", "conda.yaml", "data", "python_env.yaml", "requirements.txt"}
    from mlflow.artifacts import download_artifacts

    uri = f"{client.get_logged_model(version.model_id).artifact_location}/requirements.txt"
    lines = Path(download_artifacts(uri, dst_path=str(tmp_path), tracking_uri=recorder.url)).read_text().split()
    assert {"torch==2.13.0", "safetensors", "numpy", "pandas"} <= set(lines)
    assert any(line.startswith("fairlead[workloads]==") for line in lines)


def test_a_version_can_be_told_more_later_and_one_that_is_gone_nothing(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    version = registered(recorder, an_export(), a_document())
    recorder.tag_version(version.name, version.version, {"rai.overridden": "dp by ada"})
    assert client.get_model_version(version.name, version.version).tags["rai.overridden"] == "dp by ada"
    client.delete_model_version(version.name, version.version)
    recorder.tag_version(version.name, version.version, {"rai.overridden": "dp by ada"})


def test_registering_again_finds_the_version(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    export = an_export()
    first = registered(recorder, export, a_document())
    assert registered(recorder, export, a_document()) == first
    double = {EXPERIMENT_ID_TAG: a_document().experiment_id}
    run_id = recorder.ensure_run(a_document())
    client.create_model_version(first.name, f"models:/{first.model_id}", run_id, double, model_id=first.model_id)
    assert registered(recorder, export, a_document()) == first
    assert [found.version for found in client.search_model_versions(f"name = '{first.name}'")] == ["1"]


@pytest.mark.parametrize("is_in_the_run", [True, False])
def test_a_version_that_somebody_has_made_before_is_not_taken_for_ours(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports, is_in_the_run: bool
) -> None:
    document, export = a_document(), an_export()
    name, run_id = f"model-{document.experiment_id[:8]}", recorder.ensure_run(document)
    group, mark = client.get_run(run_id).info.experiment_id, {EXPERIMENT_ID_TAG: document.experiment_id}
    strange_run = run_id if is_in_the_run else client.create_run(group).info.run_id
    strange = client.create_logged_model(group, name, strange_run)
    client.finalize_logged_model(strange.model_id, "READY")
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{strange.model_id}", strange_run, mark, model_id=strange.model_id)
    for _ in range(2):
        version = registered(recorder, export, document)
        assert version.version == "2"
        assert version.model_id != strange.model_id
    there = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
    assert [one.source for one in there] == [f"models:/{strange.model_id}", f"models:/{version.model_id}"]


def test_an_alias_moves_to_the_newer_version_and_stays_there(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    export, name = an_export(), f"shared-{a_document().experiment_id[:8]}"
    older = a_document()
    newer = a_document(experiment_id=older.experiment_id[::-1])
    registered(recorder, export, older, name=name)
    assert registered(recorder, export, newer, name=name).version == "2"
    assert client.get_model_version_by_alias(name, "candidate").version == "2"
    registered(recorder, export, older, name=name)
    assert client.get_model_version_by_alias(name, "candidate").version == "2"
    registered(recorder, export, older, name=name, alias="champion")
    assert client.get_model_version_by_alias(name, "champion").version == "1"


def test_a_registration_that_is_repeated_late_takes_no_alias_from_a_newer_version(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    export, older = an_export(), a_document()
    name, newer = f"model-{older.experiment_id[:8]}", a_document(experiment_id=older.experiment_id[::-1])
    registered(recorder, export, older, name=name, alias=None)  # and the recorder was killed before the alias
    registered(recorder, export, newer, name=name)
    for _ in range(2):
        registered(recorder, export, older, name=name)
        assert client.get_model_version_by_alias(name, "candidate").version == "2"


def test_a_model_half_registered_in_an_outage_is_completed(
    mlflow_server: MlflowServer, recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    export, document = an_export(), a_document()
    run_id = recorder.ensure_run(document)
    group, name = client.get_run(run_id).info.experiment_id, f"model-{document.experiment_id[:8]}"
    mark = {EXPERIMENT_ID_TAG: document.experiment_id}
    begun = client.create_logged_model(group, name, run_id, mark)  # and the recorder was killed here
    mlflow_server.kill()
    with pytest.raises(Unavailable):
        recorder.register_model(
            run_id, experiment_id="x", model_dir=export.directory, document=export.document, name=name
        )
    mlflow_server.start()
    version = registered(recorder, export, document)
    assert version.model_id == begun.model_id
    assert str(client.get_logged_model(begun.model_id).status) == "READY"


def test_a_registration_that_ended_before_its_version_was_made_is_completed(
    recorder: Recorder, client: MlflowClient, a_document: Documents, an_export: Exports
) -> None:
    export = an_export()
    first = registered(recorder, export, a_document())
    client.delete_model_version(first.name, first.version)  # as if the recorder had been killed before it
    again = registered(recorder, export, a_document())
    assert (again.version, again.model_id) == ("2", first.model_id)


def changed(export: ExportedModel) -> ModelDocument:
    (export.directory / "weight.json").write_text("2.5")
    return export.document


def outside(export: ExportedModel) -> ModelDocument:
    (export.directory.parent / "secret").write_text("s")
    entry = export.document.files[0].amended(path="../secret")
    return export.document.amended(files=(*export.document.files, entry))


def linked(export: ExportedModel) -> ModelDocument:
    (export.directory / "weight.json").unlink()
    (export.directory / "weight.json").symlink_to("/etc/hostname")
    return export.document


def unlisted(export: ExportedModel) -> ModelDocument:
    return export.document.amended(files=())


@pytest.mark.parametrize("spoil", [changed, outside, linked, unlisted])
def test_files_other_than_the_exported_ones_are_refused(
    recorder: Recorder, a_document: Documents, an_export: Exports, spoil: Callable[[ExportedModel], ModelDocument]
) -> None:
    export = an_export()
    with pytest.raises(BadInput, match="exported model"):
        registered(recorder, export, a_document(), document=spoil(export))

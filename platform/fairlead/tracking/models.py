"""A model version in MLflow's registry, made from exported files alone.

The MLflow model is a pyfunc of ``fairlead.serving``: ``data`` holds the export as it is, ``code`` the uploaded bundle,
the requirements are written out. Saving it copies files and writes YAML: nothing is imported, loaded or run, so
it needs neither torch nor trust in the workload. (MLflow's models-from-code runs the model's file while saving.)
"""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from fairlead import __version__, bundle
from fairlead.errors import BadInput
from fairlead.protocol import FileEntry, ModelDocument
from fairlead.serving import DOCUMENT as EXPORT_DOCUMENT
from fairlead.serving import PREDICTION, probability_column
from fairlead.tracking.documents import EXPERIMENT_ID_TAG

LOADER = "fairlead.serving"
REQUIREMENTS = ("torch==2.13.0", "safetensors", "numpy", "pandas", f"fairlead[workloads]=={__version__}")
MAX_VERSIONS_SEEN = 50

_TYPES = {"f": DataType.double, "u": DataType.long, "i": DataType.long, "b": DataType.boolean}


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundVersion:
    """A version of a registered model, new or found again, and the tags it carries."""

    version: str
    model_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An exported model that is to become a version of registered model ``name``."""

    name: str
    experiment_id: str
    run_id: str
    model_dir: Path
    document: ModelDocument
    code_bundle: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_tags(self) -> dict[str, str]:
        """The tags, and the one by which it is found again."""
        return {**self.tags, EXPERIMENT_ID_TAG: self.experiment_id}


def ensure_version(client: MlflowClient, candidate: Candidate) -> FoundVersion:
    """Find this experiment's version of the registered model, or upload the model and make it."""
    _ensure_registered_model(client, candidate.name)
    model_id = _ensure_logged_model(client, candidate)
    found = _find_version(client, candidate, model_id)
    if found is None:
        client.create_model_version(
            candidate.name,
            f"models:/{model_id}",
            candidate.run_id,
            candidate.all_tags,
            model_id=model_id,
            await_creation_for=0,
        )
        found = _find_version(client, candidate, model_id)
        assert found is not None, "just created"
    return found


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find_version(client: MlflowClient, candidate: Candidate, model_id: str) -> FoundVersion | None:
    """The first version with the experiment's tag; later ones, made by a repeated request, are deleted.

    Anybody may set the tag: what is of another run, or of another model than the uploaded one, is a stranger's.
    """
    name = candidate.name
    tagged = f"name = '{name}' and tags.`{EXPERIMENT_ID_TAG}` = '{candidate.experiment_id}'"
    ours = f"{tagged} and run_id = '{candidate.run_id}' and source_path = 'models:/{model_id}'"
    versions = client.search_model_versions(ours, max_results=MAX_VERSIONS_SEEN, order_by=["version_number ASC"])
    if not versions:
        return None
    first, *others = versions
    for version in others:
        client.delete_model_version(name, version.version)
    return FoundVersion(version=str(first.version), model_id=model_id, tags=dict(first.tags))


def _ensure_logged_model(client: MlflowClient, candidate: Candidate) -> str:
    """Upload the model once: a logged model that is not yet ready is filled again; one without our tag is not ours."""
    run_id, name = candidate.run_id, candidate.name
    run = client.get_run(run_id)
    group = run.info.experiment_id
    tagged = f"tags.`{EXPERIMENT_ID_TAG}` = '{candidate.experiment_id}'"
    mine = f"source_run_id = '{run_id}' AND name = '{name}' AND {tagged}"
    found = sorted(client.search_logged_models([group], mine), key=lambda model: model.creation_timestamp)
    model = found[0] if found else client.create_logged_model(group, name, run_id, candidate.all_tags)
    if model.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
            target = Path(scratch, "model")
            save(target, candidate, model=model)
            client.log_model_artifacts(model.model_id, str(target))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    told = run.outputs.model_outputs if run.outputs else ()
    if model.model_id not in {output.model_id for output in told}:  # MLflow refuses to be told twice
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def save(target: Path, candidate: Candidate, *, model: Any) -> None:
    """Write ``target``, the directory of logged model ``model``. Raises ``BadInput`` as ``copy_export`` does."""
    document = candidate.document
    with tempfile.TemporaryDirectory(prefix="fairlead-") as scratch:
        export = Path(scratch, "export")
        copy_export(candidate.model_dir, export, document.files)
        mlflow.pyfunc.save_model(
            path=str(target),
            loader_module=LOADER,
            data_path=str(export),
            code_paths=_unpacked(candidate.code_bundle, Path(scratch, "code")),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                model_id=model.model_id,
                run_id=candidate.run_id,
            ),
            signature=signature_of(document),
            pip_requirements=list(REQUIREMENTS),
            metadata=_metadata(document),
        )


def copy_export(source: Path, target: Path, files: tuple[FileEntry, ...]) -> None:
    """Copy exactly the files that the document names, checking size and digest.

    The directory was written by a cluster: a link in it could name a secret of this machine.
    """
    if EXPORT_DOCUMENT not in {entry.path for entry in files}:
        raise BadInput(f"the exported model does not list {EXPORT_DOCUMENT} among its files, so nothing could load it")
    for entry in files:
        relative = PurePosixPath(entry.path)
        origin = source / relative
        if relative.is_absolute() or ".." in relative.parts or not origin.resolve().is_relative_to(source.resolve()):
            raise BadInput(f"the exported model names {entry.path!r}, which is outside its directory")
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(origin, target / relative)
        if _digest(target / relative) != entry.sha256:
            raise BadInput(f"{entry.path} of the exported model is missing or has changed; export it again")


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unpacked(code_bundle: Path | None, into: Path) -> list[str] | None:
    """The top-level entries of the user's code: MLflow puts each of them beside the others on the import path."""
    if code_bundle is None:
        return None
    if code_bundle.is_dir():
        into = code_bundle
    else:
        bundle.unpack(code_bundle, into)
    return sorted(str(entry) for entry in into.iterdir())


def _metadata(document: ModelDocument) -> dict[str, Any]:
    return {
        "fairlead.workload": document.workload,
        "fairlead.dataset_digest": document.dataset_digest,
        "fairlead.code_sha256": document.code_sha256,
        "fairlead.classes": list(document.classes),
    }


def signature_of(document: ModelDocument) -> ModelSignature:
    """Columns for tables and texts; for all else one tensor, such as (rows, channels, height, width) for images.

    Floats are declared ``double``: MLflow widens a narrower column and refuses to narrow a wider one, and pandas
    reads numbers as float64. It also refuses 64-bit integers there: callers turn those into floats first.
    Probability columns are optional: a workload may predict classes only. A regression predicts a number; what models
    of other tasks answer is not declared.
    """
    return ModelSignature(inputs=_inputs_of(document), outputs=_outputs_of(document))


def _outputs_of(document: ModelDocument) -> Schema | None:
    if document.classes:
        chances = [ColSpec(DataType.double, probability_column(label), required=False) for label in document.classes]
        return Schema([ColSpec(DataType.string, PREDICTION), *chances])
    return Schema([ColSpec(DataType.double, PREDICTION)]) if document.task == "regression" else None


def _inputs_of(document: ModelDocument) -> Schema:
    shape, (_, dtype) = document.feature_shape, document.features[0]
    is_one_array = len(document.features) == 1 and dtype != "str" and (len(shape) > 1 or shape > (1,))
    if is_one_array:
        return Schema([TensorSpec(np.dtype(dtype), (-1, *shape))])
    return Schema([ColSpec(_column_type(dtype), name) for name, dtype in document.features])


def _column_type(dtype: str) -> DataType:
    return DataType.string if dtype in ("str", "object") else _TYPES.get(np.dtype(dtype).kind, DataType.string)

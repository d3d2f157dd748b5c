"""A trained model as files: ``weights.safetensors`` and ``model.json``, readable without running anyone's code.

``model.json`` holds ``format``, ``workload`` (name and module), ``params``, ``config`` (what the workload needs to
rebuild the model), ``features`` (name, dtype and levels of each raw column), ``feature_shape``, ``classes``,
``target``, ``threshold``, ``seed``, ``dataset`` (uri and digest) and ``code_hash``.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.errors import BadInput, NotFound
from fairlead.workload import DatasetInfo, Params

FORMAT = "fairlead-model/1"
WEIGHTS = "weights.safetensors"
DOCUMENT = "model.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Which code, with which parameters, made a model."""

    workload: str
    """Name of a built-in workload, or ``package.module:function``."""
    module: str
    """``package.module`` that has ``load``."""
    params: Params
    code_hash: str | None = None
    """``sha256:`` of the workload's source or of the uploaded bundle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """What ``read_model`` finds in a directory."""

    tensors: Mapping[str, NDArray[Any]]
    document: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """What the workload gave to rebuild the model."""
        config: Mapping[str, Any] = self.document["config"]
        return config


def write_model(
    directory: Path,
    tensors: Mapping[str, Any],
    *,
    config: Mapping[str, Any],
    origin: Origin,
    dataset: DatasetInfo,
    seed: int,
    threshold: float,
) -> None:
    """Write both files to ``directory``, replacing what was there only when both are complete.

    ``tensors`` may be torch tensors on any device or arrays. Raises ``BadInput`` for a config that JSON cannot hold.
    """
    from safetensors.numpy import save_file

    document = {
        "format": FORMAT,
        "workload": origin.workload,
        "module": origin.module,
        "params": dict(origin.params),
        "code_hash": origin.code_hash,
        "config": dict(config),
        "features": [asdict(column) for column in dataset.features],
        "feature_shape": list(dataset.feature_shape),
        "classes": list(dataset.classes),
        "target": dataset.target,
        "threshold": threshold,
        "seed": seed,
        "dataset": {"uri": dataset.uri, "digest": dataset.digest},
    }
    try:
        text = json.dumps(document, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the config given to export is not JSON: {error}") from error
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({name: _as_array(tensor) for name, tensor in tensors.items()}, unfinished / WEIGHTS)
    (unfinished / DOCUMENT).write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(unfinished, directory)


def _as_array(tensor: Any) -> NDArray[Any]:
    """torch is not imported for this: a tensor knows how to become an array."""
    value = tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor
    return np.ascontiguousarray(value)


def read_model(directory: Path) -> ExportedModel:
    """Read what ``write_model`` wrote. Raises ``NotFound``, or ``BadInput`` for another format."""
    from safetensors.numpy import load_file

    if not (directory / DOCUMENT).is_file() or not (directory / WEIGHTS).is_file():
        raise NotFound(f"{directory} holds no exported model: {DOCUMENT} and {WEIGHTS} are expected there")
    document = json.loads((directory / DOCUMENT).read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise BadInput(f"{directory / DOCUMENT} has format {document.get('format')!r}, not {FORMAT!r}")
    return ExportedModel(tensors=load_file(directory / WEIGHTS), document=document)


def hash_of_file(path: Path) -> str:
    """``sha256:`` of a file's bytes: the code hash of a workload that is one page."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.protocol import FileEntry, ModelDocument
from fairlead.spec import spec_hash
from fairlead.testing import a_spec
from fairlead.testing.mlflow import MlflowServer, serving_mlflow
from fairlead.tracking.documents import RunDocument
from fairlead.tracking.server import client_environment

# MLflow's client reads some of these while it is imported, which the test modules do next.
os.environ.update(client_environment())

WORKLOAD = '''
"""A workload whose import leaves a trace."""
import json
from pathlib import Path

import numpy as np

Path("{trace}").write_text("imported")


def train(params, context):
    """Not called here."""


def load(directory):
    weight = json.loads((Path(directory) / "weight.json").read_text())
    def predict(rows):
        score = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1).sum(axis=1) * weight
        chance = 1 / (1 + np.exp(-score))
        return np.column_stack([1 - chance, chance])
    return predict
'''


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """The session's MLflow. A test that stops it must start it again."""
    with serving_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture
def a_document() -> Callable[..., RunDocument]:
    """Makes documents of one experiment that no other test knows."""
    identity = uuid.uuid4().hex

    def make(**changes: Any) -> RunDocument:
        spec = changes.pop("spec", None) or a_spec(name=f"run-{identity[:8]}")
        plain: dict[str, Any] = {
            "experiment_id": identity,
            "spec_hash": spec_hash(spec),
            "created_at_ms": 1_700_000_000_000,
        }
        return RunDocument(spec=spec, **{**plain, **changes})

    return make


class Export:
    """An exported model in ``directory``, the bundle of code that can load it, and the trace of its import."""

    def __init__(self, root: Path, *, feature_shape: tuple[int, ...] = (2,)) -> None:
        self.trace, self.code, self.directory = root / "trace", root / "code", root / "model"
        module = f"workload_{uuid.uuid4().hex[:8]}"
        (self.code / module).mkdir(parents=True)
        (self.code / module / "__init__.py").touch()
        (self.code / module / "page.py").write_text(WORKLOAD.replace("{trace}", str(self.trace)))
        self.module = f"{module}.page"
        self.directory.mkdir()
        self._write(feature_shape)

    def _write(self, feature_shape: tuple[int, ...]) -> None:
        features = (("age", "float32"), ("weight", "float32")) if len(feature_shape) == 1 else (("image", "float32"),)
        plain: dict[str, Any] = {
            "workload": f"{self.module}:train",
            "params": {},
            "config": {},
            "features": features,
            "feature_shape": feature_shape,
            "classes": ("low", "high"),
            "task": "binary",
            "dataset_digest": "sha256:" + "a" * 64,
        }
        (self.directory / "weight.json").write_text("1.5")
        (self.directory / "model.json").write_text(json.dumps({**plain, "module": self.module, "threshold": 0.6}))
        self.document = ModelDocument(**plain, files=tuple(_entry(path) for path in sorted(self.directory.iterdir())))


def _entry(path: Path) -> FileEntry:
    content = path.read_bytes()
    return FileEntry(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def an_export(tmp_path: Path) -> Callable[..., Export]:
    """Makes exported models with code of their own."""
    return lambda **shape: Export(tmp_path / uuid.uuid4().hex[:8], **shape)

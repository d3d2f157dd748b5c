import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.spec import spec_hash
from fairlead.testing import a_spec
from fairlead.testing.mlflow import ExportedModel, MlflowServer, serving_mlflow
from fairlead.tracking.documents import RunDocument
from fairlead.tracking.server import client_environment

# MLflow's client reads some of these while it is imported, which the test modules do next.
os.environ.update(client_environment())


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


@pytest.fixture
def an_export(tmp_path: Path) -> Callable[..., ExportedModel]:
    """Makes exported models with code of their own."""
    return lambda **shape: ExportedModel(tmp_path / uuid.uuid4().hex[:8], **shape)

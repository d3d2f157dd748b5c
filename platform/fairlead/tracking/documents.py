"""What the recorder is told about an experiment, and what it answers. Needs no MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fairlead.spec import ExperimentSpec

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

EXPERIMENT_ID_TAG = "fairlead.experiment_id"
"""On runs, logged models and model versions: by it they are found again instead of being made twice."""
REPORT_TAG = "rai.report_sha256"
OUTCOME_TAG = "rai.outcome"
"""On runs and model versions: which report stands behind them, and its outcome."""
FLAG_TAG = "fairlead.flag"
"""On a model version that is not what Fairlead registered: what is wrong. Absent: nothing that we know of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDocument:
    """What is known of an experiment; hand it in again when more is, and its run is completed."""

    experiment_id: str
    spec: ExperimentSpec
    spec_hash: str
    created_at_ms: int
    """Milliseconds since 1970, UTC: the run's start in MLflow."""
    user: str = ""
    params: Mapping[str, Any] | None = None
    """Parameters over the manifest's defaults; absent: those of the spec."""
    code_sha256: str | None = None
    git_commit: str | None = None
    attempts: int = 0
    dataset: Mapping[str, Any] | None = None
    """``ResultDocument.dataset``: uri, digest, num_rows, num_by_split, target, classes, attributes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Versions and devices of the last attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredVersion:
    """A model version in MLflow's registry."""

    name: str
    version: str
    alias: str | None
    model_id: str
    """MLflow's name of the logged model behind the version."""
    url: str
    """Its page in MLflow's web UI."""

    @property
    def uri(self) -> str:
        """What ``mlflow.pyfunc.load_model`` takes; unlike the alias it never moves."""
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionSeen:
    """A model version as MLflow has it, whoever made it."""

    name: str
    version: str
    source: str
    """What it is made of: ``models:/m-...``, or whatever somebody wrote."""
    run_id: str | None
    tags: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Name and number."""
        return self.name, self.version

"""What the recorder is told about an experiment, and what it answers. Needs no MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from fairlead.protocol import MetricPoint
from fairlead.spec import Document, ExperimentSpec

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

EXPERIMENT_ID_TAG = "fairlead.experiment_id"
"""On runs, logged models and model versions: by it they are found again instead of being made twice."""
REPORT_TAG = "rai.report_sha256"
OUTCOME_TAG = "rai.outcome"
"""On runs and model versions: which report stands behind them, and its outcome."""
FLAG_TAG = "fairlead.flag"
"""On a model version that is not what Fairlead registered: what is wrong. Absent: nothing that we know of."""
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own: below which run its web UI shows this one."""
TRIAL_TAG = "fairlead.trial"
"""On the run of a trial, instead of ``EXPERIMENT_ID_TAG``: the sweep and the trial's number, as ``3f9c0a1b2c4d/17``."""
RUNS_PATH = "/api/2.0/fairlead/runs"
"""Where a server of ours takes whole runs; below ``/api`` MLflow refuses what a page of another origin sends."""
MOST_RUNS = 100
"""In one call."""


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


class WholeRun(Document):
    """A run that has ended, with everything that MLflow is to know of it."""

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: str
    user: str
    status: RunStatus
    started_at_ms: int
    ended_at_ms: int
    tags: dict[str, str]
    params: dict[str, str]
    points: tuple[MetricPoint, ...]


class WholeRuns(Document):
    """What ``RUNS_PATH`` takes: runs of one MLflow experiment."""

    mlflow_experiment_id: str
    runs: Annotated[tuple[WholeRun, ...], Field(max_length=MOST_RUNS)]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRun:
    """What MLflow is told of a trial that has ended."""

    experiment_id: str
    """The sweep's."""
    no: int
    status: RunStatus
    started_at_ms: int
    ended_at_ms: int
    user: str
    params: Mapping[str, Any]
    """Its point."""
    points: tuple[MetricPoint, ...]
    """Under names that MLflow accepts (``keys.clean_key``)."""
    tags: Mapping[str, str]

    @property
    def key(self) -> str:
        """By which its run is known: the value of ``TRIAL_TAG``."""
        return f"{self.experiment_id}/{self.no}"

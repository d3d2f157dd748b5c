"""What agents, runners and the control plane say to each other, and the files that an attempt leaves.

Every document is closed and frozen like a spec. Names of actors and paths follow from the experiment's id and the
attempt's number, so that every step can be repeated.

A server may be of a newer release than the agents and clients that ask it. What it answers may therefore say more than
they know: ``from_answer`` leaves that out. What agents say is closed: a field more there is another ``PROTOCOL``, which
``attach`` refuses by name.
"""

import math
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, ValidationError

from fairlead.errors import BadInput
from fairlead.lifecycle import Observation, Outcome
from fairlead.search.trials import TrialState
from fairlead.spec import Document, ExperimentSpec, explain
from fairlead.spec.manifest import Task

PROTOCOL = 2
MAX_BATCH_POINTS = 1000
MAX_DELETIONS = 100
"""Checkpoints that one answer names for deletion."""
MAX_RESULT_BYTES = 3 * 2**20
"""Of ``result.json``: the server takes a claim a little larger than that."""
RESULT_FILE = "result.json"
BEGUN_FILE = "BEGUN"
MANIFEST_FILE = "MANIFEST.json"
STATE_FILE = "evaluation.state"
MEASUREMENTS_FILE = "measurements.json"
ANSWERS_FILES = "answers-{generation}-{rank}.npy"
"""Of each rank of a worker group."""
MODEL_DIRECTORY = "model"
SAMPLES_DIRECTORY = "samples"
"""What a workload shows; everything below it goes among the artifacts of the MLflow run."""
TRIALS_DIRECTORY = "trials"
"""Below an attempt's path: what each trial of a sweep writes, in a directory that its number names."""
TRIALS_FILE = "trials.jsonl"
"""Trials that there were when the attempt began, as ``TrialDocument`` each; its agent writes it before the launch."""
MAX_TRIAL_RECORDS = 200
"""In one batch."""
MAX_TRIALS_A_PAGE = 1000
MAX_CURVES, MAX_CURVE_POINTS = 10, 100
"""Metrics of a trial whose course is kept, and points of each; then every second one goes."""
LOG_DIRECTORY = "logs"
EVALUATED_SPLIT = "test"
"""What a trained model is judged on."""
PREDICTIONS_SPLIT = "predictions"
"""What the rows of an evaluation count as: all of them are its split."""
M = TypeVar("M", bound=BaseModel)


def from_answer(model: type[M], content: str | bytes, *, is_closed: bool = False) -> M:
    """Read what a server has answered; keys that this release does not know are left out, at any depth.

    Raises ``BadInput`` where it cannot be understood without them, or at once if ``is_closed``.
    """
    try:
        return model.model_validate_json(content, extra="forbid" if is_closed else "ignore")
    except ValidationError as error:
        problems = explain(error, model)
        told = "; ".join(f"{one.pointer or 'all of it'}: {one.message}" for one in problems)
        message = f"this release cannot read the server's answer ({told}); install the release of the server here"
        raise BadInput(message, problems=problems) from error


def runner_name(experiment_id: str, attempt_no: int) -> str:
    """The name of an attempt's runner actor and of its Ray Train run; never reused."""
    return f"fl-{experiment_id}-a{attempt_no}"


def attempt_path(project: str, experiment_id: str, attempt_no: int) -> PurePosixPath:
    """Where an attempt writes, below the root of the shared storage."""
    return PurePosixPath(project) / experiment_id / f"a{attempt_no}"


def checkpoint_path(attempt: PurePosixPath, step: int) -> PurePosixPath:
    """Where a complete checkpoint lies, below its attempt's path."""
    return attempt / f"ckpt-{step}"


def _number_out(value: float) -> float | str:
    return (
        value if math.isfinite(value) else ("NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity"))
    )


Number = Annotated[
    float, Field(allow_inf_nan=True), BeforeValidator(float), PlainSerializer(_number_out, when_used="json")
]
"""A float whose NaN and infinities survive JSON, as the strings ``NaN``, ``Infinity`` and ``-Infinity``."""


class StopMode(StrEnum):
    """Why an attempt is asked to end."""

    CANCEL = "cancel"
    PAUSE = "pause"
    PREEMPT = "preempt"
    TIMEOUT = "timeout"
    BUDGET = "budget"


STOP_GRACE_S: dict[StopMode, float] = {
    StopMode.CANCEL: 10.0,
    StopMode.PAUSE: 30.0,
    StopMode.PREEMPT: 30.0,
    StopMode.BUDGET: 30.0,
}
"""What a workload gets to return by itself, and to write a checkpoint."""


# ---- files below the attempt's path -------------------------------------------------------------------------------


class FileEntry(Document):
    """One file of a checkpoint or of a result: its path below the directory, size and digest."""

    path: str
    size: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CheckpointManifest(Document):
    """``ckpt-<step>/MANIFEST.json``: its existence means that the checkpoint is complete."""

    step: int = Field(ge=0)
    world_size: int = Field(ge=1)
    files: tuple[FileEntry, ...]
    score: Number | None = None
    """The metric by which the best are kept, as it was last reported."""


class ModelDocument(Document):
    """``model/model.json``: how to rebuild and feed the exported weights."""

    workload: str
    """``package.module:function``."""
    params: dict[str, Any]
    config: dict[str, Any]
    """What the workload's ``load`` asks for: sizes, feature scaling."""
    features: tuple[tuple[str, str], ...]
    """Name and numpy dtype of each input column."""
    feature_shape: tuple[int, ...]
    classes: tuple[str, ...]
    task: Task
    dataset_digest: str
    code_sha256: str | None = None
    files: tuple[FileEntry, ...] = ()


class EvaluationSummary(Document):
    """What the control plane needs beside the counted state to write the report."""

    split: str = EVALUATED_SPLIT
    state_file: FileEntry
    # Left out where there is none: a server of an older release, whose specs cannot ask for any, reads on.
    measurements_file: FileEntry | None = Field(default=None, exclude_if=lambda value: value is None)
    """What was measured beside the counts."""
    expected_rows: int
    expected_sum: int
    expected_xor: int
    # Left out where there are none: only a server that knows probes hands out specs that ask for them.
    conditions: dict[str, FileEntry] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Counts of the same rows under each condition that a probe made."""
    # Left out where there are none: only a server that knows them asks for them (``LaunchDocument.keeps_answers``).
    answers: tuple[FileEntry, ...] = Field(default=(), exclude_if=lambda value: not value)
    """The model's answer to each row, one file a rank; see ``evaluation.answers``."""


class SweepSummary(Document):
    """What became of a sweep, as its runner saw it."""

    counts: dict[TrialState, int]
    """Trials by state, those of earlier attempts included."""
    best: int | None = None
    """Of one objective: the best trial that keeps all constraints."""
    front: tuple[int, ...] = ()
    """Of several: those that none beats, that keep all constraints."""
    nearest: int | None = None
    """Where none keeps all constraints: the one that is least far beyond them."""
    ended_because: str
    """``trials``: as many as asked for; ``grid``, ``plateau``, ``hours``, ``budget``, ``finished`` by a user."""
    importance: dict[str, Number] = Field(default_factory=dict)
    """By parameter: its share of the first objective's spread; empty where there were too few trials to tell."""


class ResultDocument(Document):
    """``result.json``: the durable word on how an attempt ended. Written once, before anyone is told."""

    experiment_id: str
    attempt_no: int
    outcome: Outcome
    reason: str
    detail: str = ""
    """For people: the workload's last words, a bounded traceback."""
    died_on: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=10_000)] = ()
    """Ids of the nodes on which ranks died, where they were killed or crashed."""
    last_step: int | None = None
    metrics: dict[str, Number] = Field(default_factory=dict)
    """Last value of each metric."""
    evaluation: EvaluationSummary | None = None
    model: ModelDocument | None = None
    dataset: dict[str, Any] | None = None
    """uri, digest, num_rows, num_by_split, target, classes, attributes; remarks, of an evaluation."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Python, torch, Ray, platform, device names."""
    sweep: SweepSummary | None = Field(default=None, exclude_if=lambda value: value is None)
    started_at: datetime
    ended_at: datetime


# ---- agent to control plane ---------------------------------------------------------------------------------------


class NodeInfo(Document):
    """One node of a cluster, as Ray sees it."""

    node_id: str
    address: str
    is_alive: bool
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float


class AttachRequest(Document):
    """An agent's first words."""

    protocol: int
    agent_version: str
    ray_version: str
    ray_session: str
    nodes: tuple[NodeInfo, ...] = ()


class OpenAttempt(Document):
    """An attempt of this cluster that has no outcome yet."""

    attempt_id: str
    experiment_id: str
    attempt_no: int
    runner_name: str
    attempt_token: str | None = None
    """Fresh where the attempt was leased before: the old one stops working."""
    is_leased: bool
    storage_path: str
    batch_offsets: dict[str, int] = Field(default_factory=dict)
    """Next expected offset of each stream."""


class AttachAnswer(Document):
    """The epoch that fences every later call of this agent."""

    cluster: str
    agent_epoch: int
    attempts: tuple[OpenAttempt, ...]


class AttemptObservation(Document):
    """What the agent sees of one attempt."""

    attempt_id: str
    observation: Observation
    detail: str = ""
    last_step: int | None = None
    progress_age_s: float | None = Field(default=None, ge=0)
    """Seconds since the last new step, on the runner's monotonic clock."""
    amendment_no: int = 0
    """Of a sweep: the last amendment that its runner has heard of."""
    slots: int = 0
    """Of a sweep: trials at a time, as its runner was last told; 0 where that is not known."""
    has_evidence_of_death: bool = False
    """Absent with every part asked, twice (see ARCHITECTURE.md, proof of death)."""
    death_reason: str = ""


class CheckpointRef(Document):
    """A committed checkpoint that an attempt may resume from."""

    step: int
    path: str
    """Below the root of the shared storage."""
    manifest_sha256: str


class Deletion(Document):
    """A checkpoint that no attempt may resume from any more."""

    path: str
    """Below the root of the shared storage."""
    keepers: tuple[CheckpointRef, ...]
    """Newer or better ones: it goes only if one of them verifies."""


class Collected(Document):
    """What became of a deletion."""

    path: str
    is_deleted: bool
    """Otherwise it is the only one that verifies, and was kept."""
    damaged: tuple[str, ...] = ()
    """Paths of those that were to be kept instead of it."""


class SyncRequest(Document):
    """The agent's regular report; the answer may be held back for ``wait_s`` until there is something to do."""

    agent_epoch: int
    ray_session: str
    nodes: tuple[NodeInfo, ...] = ()
    observations: tuple[AttemptObservation, ...] = ()
    stray_runners: tuple[str, ...] = ()
    """Runner actors that belong to no attempt this agent was given."""
    collected: tuple[Collected, ...] = Field(default=(), max_length=MAX_DELETIONS)
    wait_s: float = Field(default=0, ge=0, le=30)


class Offer(Document):
    """An attempt that this cluster may lease."""

    attempt_id: str
    runner_name: str


class StopCommand(Document):
    """An attempt that must end. Repeated until it has."""

    attempt_id: str
    mode: StopMode
    grace_s: float
    detail: str = ""


class Amendment(Document):
    """A change to a sweep that runs. ``no`` counts from 1 within the sweep; each is carried out once, in order."""

    no: int = Field(ge=1)
    kind: Literal["add_trials", "concurrency", "priority", "enqueue", "stop_trial", "finish"]
    trials: int | None = None
    """Of ``add_trials``: so many more."""
    concurrency: int | None = None
    priority: int | None = None
    params: dict[str, Any] | None = None
    """Of ``enqueue``: the point of a trial that is begun next; it counts among the trials asked for."""
    trial: int | None = None
    """Of ``stop_trial``."""
    by: str = ""


class SweepOrders(Document):
    """What the runner of a sweep must know of. Repeated until its agent has observed it."""

    attempt_id: str
    slots: int
    """Trials at a time for which the attempt holds resources."""
    amendments: tuple[Amendment, ...] = ()
    """All of them, in order."""


class SyncAnswer(Document):
    """What the agent is to do."""

    offers: tuple[Offer, ...] = ()
    stops: tuple[StopCommand, ...] = ()
    ended: tuple[str, ...] = ()
    """Attempt ids, among those observed, that have an outcome: forget them, remove leftovers."""
    strays_to_stop: tuple[str, ...] = ()
    sweeps: tuple[SweepOrders, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    """Checkpoints whose files are to be deleted. Repeated until they are."""


class LeaseRequest(Document):
    """Take an offered attempt."""

    agent_epoch: int


class TrialDocument(Document):
    """A trial as the store has it."""

    no: int = Field(ge=0)
    state: TrialState
    params: dict[str, Any]
    """Its point: values by parameter that is looked for."""
    origin: Literal["proposed", "enqueued", "inherited"] = "proposed"
    parent: int | None = None
    """The trial from whose checkpoint it began."""
    values: dict[str, Number] = Field(default_factory=dict)
    """Of the metrics that objectives and constraints look at, as far as reported."""
    curve: tuple[tuple[int, Number], ...] = ()
    """Steps and values of the first objective, as reported."""
    last_step: int | None = None
    tries: int = 1
    reason: str = ""


class SweepLaunch(Document):
    """What the runner of a sweep needs beside the spec."""

    slots: int = Field(ge=1)
    """Trials at a time."""
    amendments: tuple[Amendment, ...] = ()
    num_trials: int = Field(default=0, ge=0)
    """Lines of ``TRIALS_FILE``."""
    spent_s: float = Field(default=0, ge=0)
    """Run time of earlier attempts."""


class LaunchDocument(Document):
    """Everything a runner needs; handed over once per lease."""

    attempt_id: str
    experiment_id: str
    attempt_no: int
    lease_epoch: int
    runner_name: str
    attempt_token: str
    spec: ExperimentSpec
    spec_hash: str
    workload_module: str
    """``package.module:function``."""
    task: Task | None = None
    """From the manifest; absent for user code, where the data decide."""
    params: dict[str, Any]
    """The spec's parameters over the manifest's defaults."""
    code_sha256: str | None = None
    storage_path: str
    """The attempt's path below the root of the shared storage."""
    resume: tuple[CheckpointRef, ...] = ()
    """Committed checkpoints, newest first."""
    runtime_left_s: float
    keeps_answers: bool = False
    """Whether ranks are to keep the answer to each row of the test split, for comparing models that come later."""
    excluded_nodes: tuple[str, ...] = ()
    """Nodes that are to get no workers."""
    sweep: SweepLaunch | None = None


class StartedReport(Document):
    """A runner has begun its work."""

    node_id: str
    pid: int
    ray_session: str


class MetricPoint(Document):
    """One value of one metric. ``at_ms``: milliseconds since 1970, UTC."""

    key: Annotated[str, Field(min_length=1, max_length=250)]
    value: Number
    step: int
    at_ms: int


class NoteRecord(Document):
    """Something that happened inside an attempt and belongs into the experiment's events."""

    kind: Annotated[str, Field(pattern=r"^[a-z_]{1,60}$")]
    detail: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)
    at_ms: int


class TrialRecord(Document):
    """What has become of a trial since the last record of it."""

    no: int = Field(ge=0)
    state: TrialState
    params: dict[str, Any] | None = None
    """Its point, in the first record of each try."""
    origin: Literal["proposed", "enqueued"] = "proposed"
    parent: int | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""
    detail: Annotated[str, Field(max_length=16_000)] = ""
    """For people: a bounded traceback."""
    points: tuple[MetricPoint, ...] = Field(default=(), max_length=MAX_BATCH_POINTS)
    """Reported since, thinned."""
    values: dict[str, Number] = Field(default_factory=dict, max_length=50)
    """Of the metrics that objectives and constraints look at, as they count now."""
    metrics: dict[str, Number] = Field(default_factory=dict, max_length=200)
    """Last values of all metrics, once it has ended."""
    last_step: int | None = None
    checkpoint: CheckpointRef | None = None
    """The newest one that is kept, once it has ended."""
    has_lost_checkpoint: bool = False
    """Of one that has ended: others are better by now, and its checkpoint is not kept any more."""
    at_ms: int


class Batch(Document):
    """Consecutive records of one stream, from ``first_offset``. Refused unless it starts where the last ended."""

    stream: Literal["metrics", "notes", "trials"]
    first_offset: int = Field(ge=0)
    points: tuple[MetricPoint, ...] = Field(default=(), max_length=MAX_BATCH_POINTS)
    notes: tuple[NoteRecord, ...] = Field(default=(), max_length=MAX_BATCH_POINTS)
    trials: tuple[TrialRecord, ...] = Field(default=(), max_length=MAX_TRIAL_RECORDS)
    refused: str | None = None
    """Why the server refused the records from ``first_offset`` on: with it there are none, and none will follow."""

    @property
    def next_offset(self) -> int:
        """Where the following batch must start."""
        return self.first_offset + len(self.points) + len(self.notes) + len(self.trials)


class TrialsAnswer(Document):
    """A page of the trials of an attempt's sweep, by number."""

    trials: tuple[TrialDocument, ...]
    next_no: int | None = None
    """Where the next page begins; None: there is none."""


class BatchAnswer(Document):
    """The stream's next expected offset."""

    next_offset: int


class CheckpointCommit(Document):
    """A complete checkpoint, to be made visible."""

    step: int = Field(ge=0)
    path: str
    manifest_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    score: Number | None = None
    """The metric by which the best are kept."""


class ResultClaim(Document):
    """The content of ``result.json`` and its digest."""

    result: ResultDocument
    result_sha256: str

"""What workers and their runner say to each other, by Ray actor call. Plain frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.protocol import FileEntry
from fairlead.run.kills import KillCount
from fairlead.run.virtual.building import Ready, Refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """A worker's first words."""

    rank: int
    world_size: int
    group_id: str
    """Its placement group: a new one tells of a new worker group."""
    actor_id: str
    node_id: str
    pid: int
    is_warm: bool = False
    """Whether its process was forked with everything imported."""
    why_cold: str = ""
    kills: KillCount = field(default_factory=KillCount)
    """How often the kernel has killed for memory around it, so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Welcome:
    """The answer: which worker group this is, counted from 1, and where to go on from."""

    generation: int
    is_current: bool
    resume_from: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Orders:
    """What a worker learns when it shows that it lives."""

    is_current: bool
    """Whether the worker's group is still the newest; others must end."""
    should_stop: bool
    should_dump_stacks: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparing:
    """What a rank says, again and again, before its first words: it is not in its environment, and has it built."""

    rank: int
    world_size: int
    group_id: str
    node_id: str
    answer: Ready | Refused | None = None
    """What has come of it; None while it goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationOrders:
    """The answer: whether to give up, and whether the group may begin again since every rank has its environment."""

    should_stop: bool
    is_everyone_ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Metrics of one step, from rank 0."""

    generation: int
    step: int
    metrics: Mapping[str, float]
    at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenCheckpoint:
    """Files copied and hashed, waiting for their manifest and final name."""

    generation: int
    step: int
    world_size: int
    directory: Path
    files: tuple[FileEntry, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What the workload raised on one rank, as text: classes of user code are not sent anywhere."""

    generation: int
    rank: int
    type_name: str
    message: str
    traceback: str
    is_collective: bool
    """It looks like a collective whose other side went away, which a death of another rank explains."""
    is_memory: bool
    is_storage: bool = False
    """The storage of the data failed, which says nothing about the workload."""
    reason: str | None = None
    """A code that replaces the exception's name, for errors the platform found itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One rank's share of the result."""

    generation: int
    rank: int
    states: Mapping[str, bytes]
    """Evaluation counts by split, as ``CountState.to_bytes``."""
    dataset: Mapping[str, Any]
    """The fields of ``DatasetInfo``, from rank 0, as far as an evaluation has them; empty from the others."""
    has_exported: bool
    environment: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """What it measured beside the counts, as JSON by section of the report; rank 0's counts."""
    answers: FileEntry | None = None
    """Its answers to the rows of the test split, where they are kept."""
    num_reports: int = 0
    was_told_to_stop: bool = False
    """Whether ``should_stop`` has said so before it returned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerStatus:
    """What the agent learns from a runner. ``progress_age_s``: seconds since the last new step."""

    has_begun: bool
    is_finished: bool
    last_step: int | None
    progress_age_s: float | None
    node_id: str
    pid: int
    worker_pids: Mapping[int, int]
    """Process id by rank."""
    ray_session: str
    highest_agent_epoch: int
    is_kept_alive: bool = False
    """It has failed, and its processes stay for a look."""
    amendment_no: int = 0
    """Of a sweep: the last amendment that was taken in."""
    slots: int = 0
    """Of a sweep: trials at a time, as it was last told."""

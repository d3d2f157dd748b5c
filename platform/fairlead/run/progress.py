"""What a runner knows of its worker groups while they work. Thread-safe; knows neither Ray nor files."""

import itertools
import threading
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.clock import Clock
from fairlead.protocol import StopMode
from fairlead.run.idleness import Load
from fairlead.run.messages import Finished, Hello, Report
from fairlead.run.meter import MAX_KEYS, Meter
from fairlead.run.verdict import Verdict

SYSTEM_PREFIX = "system/"
MAX_STORAGE_FAILURES = 3
LOAD_COUNTS_S = 30.0
"""A rank that has said nothing for longer may be busy in C code, or stopped: nothing is known of its load."""


@dataclass(slots=True)
class Group:
    """One worker group. ``generation`` counts from 1."""

    generation: int
    group_id: str
    world_size: int
    redo_until: Mapping[str, int]
    """Steps by metric that an earlier group has reported: at or below it a point is being repeated."""
    hellos: dict[int, Hello] = field(default_factory=dict)
    finished: dict[int, Finished] = field(default_factory=dict)
    loads: dict[int, tuple[float, Load]] = field(default_factory=dict)
    """What each rank last said of its load, and when."""
    last_step: int | None = None
    last_values: dict[str, float] = field(default_factory=dict)
    """As the group itself has reported them, repeated steps included."""
    has_noted_start: bool = False
    has_resume: bool = False
    resume_from: Path | None = None
    """What the group goes on from; chosen once, when ``has_resume`` becomes true."""

    @property
    def is_complete(self) -> bool:
        """Whether every rank has come up."""
        return len(self.hellos) == self.world_size

    @property
    def has_finished(self) -> bool:
        """Whether every rank has returned from the workload."""
        return len(self.finished) == self.world_size


class Progress:
    """Steps, groups, stop requests, and why the group is being ended."""

    def __init__(self, clock: Clock, *, meter: Meter | None = None) -> None:
        self.meter = meter or Meter(clock)
        self._clock = clock
        self._lock = threading.RLock()
        self._groups: list[Group] = []
        self._seen: dict[str, int] = {}
        self._last_progress_s = clock.monotonic_s()
        self.last_step: int | None = None
        self.last_values: dict[str, float] = {}
        self.num_repeated = 0
        self.num_beyond_keys = 0
        """Points of metrics that were left out because there were too many metrics already."""
        self.cause: Verdict | None = None
        self.stop: StopMode | None = None
        self._stop_deadline_s: float | None = None
        self._storage_failures = 0

    # ---- groups ----

    @property
    def group(self) -> Group | None:
        """The newest group."""
        return self._groups[-1] if self._groups else None

    def is_current(self, generation: int) -> bool:
        """Whether words of this group still count."""
        with self._lock:
            return bool(self._groups) and self._groups[-1].generation == generation

    def greet(self, hello: Hello) -> tuple[Group, bool]:
        """The group of a worker, and whether it is new."""
        with self._lock:
            known = next((group for group in self._groups if group.group_id == hello.group_id), None)
            group = known or self._open(hello)
            group.hellos[hello.rank] = hello
            if group is self.group:
                self._last_progress_s = self._clock.monotonic_s()
            return group, known is None

    def _open(self, hello: Hello) -> Group:
        group = Group(
            generation=len(self._groups) + 1,
            group_id=hello.group_id,
            world_size=hello.world_size,
            redo_until=dict(self._seen),
        )
        self._groups.append(group)
        return group

    def worker_pids(self) -> dict[int, int]:
        """Process ids of the newest group by rank."""
        with self._lock:
            return {rank: hello.pid for rank, hello in self.group.hellos.items()} if self.group else {}

    def nodes_of(self, actor_ids: Container[str]) -> tuple[str, ...]:
        """Nodes of these workers, as far as they have come up."""
        with self._lock:
            hellos = [hello for group in self._groups for hello in group.hellos.values()]
        return tuple(sorted({hello.node_id for hello in hellos if hello.actor_id in actor_ids}))

    def finish(self, finished: Finished) -> None:
        """One rank has returned."""
        with self._lock:
            if self.group is not None and self.is_current(finished.generation):
                self.group.finished[finished.rank] = finished

    def note_load(self, rank: int, generation: int, load: Load) -> None:
        """What a rank of the newest group says of its load."""
        with self._lock:
            if self.group is not None and self.is_current(generation):
                self.group.loads[rank] = self._clock.monotonic_s(), load

    def loads(self) -> dict[int, Load] | None:
        """Of the ranks that have not finished; None where the group is not complete, or one has said nothing lately."""
        with self._lock:
            if self.group is None or not self.group.is_complete:
                return None
            oldest_s = self._clock.monotonic_s() - LOAD_COUNTS_S
            fresh = {rank: load for rank, (at_s, load) in self.group.loads.items() if at_s >= oldest_s}
            working = self.group.hellos.keys() - self.group.finished.keys()
            return {rank: fresh[rank] for rank in working} if working <= fresh.keys() else None

    # ---- steps ----

    def take(self, report: Report) -> dict[str, float]:
        """The values of a report that are to be kept: none of an old group, none that a restarted group merely repeats,
        none of metrics beyond the first ``MAX_KEYS``, and none of a report that the meter drops. Its last values are
        remembered all the same.
        """
        with self._lock:
            group = self.group
            if group is None or group.generation != report.generation:
                return {}
            known = self._known(report.metrics)
            group.last_values.update(known)
            fresh = {key: value for key, value in known.items() if report.step > group.redo_until.get(key, -1)}
            self.num_repeated += len(known) - len(fresh)
            for key, value in fresh.items():
                if report.step >= self._seen.get(key, -1):
                    self._seen[key], self.last_values[key] = report.step, value
            if group.last_step is None or report.step > group.last_step:
                group.last_step = report.step
                self._last_progress_s = self._clock.monotonic_s()
            self.last_step = max(report.step, self.last_step if self.last_step is not None else report.step)
            return fresh if self.meter.admits(len(fresh)) else {}

    def _known(self, metrics: Mapping[str, float]) -> Mapping[str, float]:
        room = MAX_KEYS - len(self._seen)
        if len(metrics) <= room or metrics.keys() <= self._seen.keys():
            return metrics
        new = dict.fromkeys(itertools.islice((key for key in metrics if key not in self._seen), room))
        known = {key: value for key, value in metrics.items() if key in self._seen or key in new}
        self.num_beyond_keys += len(metrics) - len(known)
        return known

    def age_s(self) -> float | None:
        """Seconds since the last new step, or since the newest group's ranks came up; None before."""
        with self._lock:
            group = self.group
            if group is None:
                return None
            return self._clock.monotonic_s() - self._last_progress_s

    def touch(self) -> None:
        """Count something else as progress, such as a rank that has just finished."""
        with self._lock:
            self._last_progress_s = self._clock.monotonic_s()

    # ---- the end ----

    def end(self, cause: Verdict) -> bool:
        """Give the reason why the group must end; only the first one counts."""
        with self._lock:
            if self.cause is None:
                self.cause = cause
                return True
            return False

    def request_stop(self, mode: StopMode, *, grace_s: float) -> bool:
        """Ask the workload to return within ``grace_s``. A later request may only shorten the grace, or cancel."""
        with self._lock:
            deadline = self._clock.monotonic_s() + grace_s
            is_new = self.stop is None or (mode is StopMode.CANCEL and self.stop is not StopMode.CANCEL)
            if is_new:
                self.stop = mode
            self._stop_deadline_s = min(deadline, self._stop_deadline_s or deadline)
            return is_new

    @property
    def is_past_grace(self) -> bool:
        """Whether a requested stop has taken longer than its grace."""
        with self._lock:
            return self._stop_deadline_s is not None and self._clock.monotonic_s() >= self._stop_deadline_s

    def count_storage(self, *, failed: bool) -> bool:
        """Count failed writes in a row; True if there were too many."""
        with self._lock:
            self._storage_failures = self._storage_failures + 1 if failed else 0
            return self._storage_failures >= MAX_STORAGE_FAILURES

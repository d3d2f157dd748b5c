"""What a trial under way has said so far: which ranks are done, the first cause of a failure, points to be told."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.protocol import MAX_BATCH_POINTS, MAX_CURVES, CheckpointRef, MetricPoint
from fairlead.run.messages import Failure
from fairlead.run.sweep.conductor import Begin
from fairlead.run.sweep.slots import Word, is_end
from fairlead.run.verdict import MAX_DETAIL, from_failure

EXPLAINED_WITHIN_S = 3.0
"""How long a broken collective may wait for the rank whose end explains it."""
MAX_POINTS = MAX_BATCH_POINTS // 2
"""Of one record; then every second one of those that wait goes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """Why a trial has failed."""

    reason: str
    detail: str = ""
    is_death: bool = False
    """Its process was killed: it may be begun again."""
    is_effect: bool = False
    """Another rank's end may explain it."""


@dataclass(kw_only=True)
class Course:
    """One try of one trial."""

    begin: Begin
    key: str
    directory: Path
    world_size: int
    looked_at: tuple[str, ...]
    """Metrics of objectives and constraints: their points are kept first."""
    heard_s: float
    """When it last reported, or began."""
    recorded_s: float = 0.0
    done: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    trouble: Trouble | None = None
    trouble_s: float = 0.0
    points: list[MetricPoint] = field(default_factory=list)
    _curves: set[str] = field(default_factory=set)

    @property
    def is_done(self) -> bool:
        """Whether all ranks have returned."""
        return len(self.done) == self.world_size

    def hear(self, word: Word, *, now_s: float) -> None:
        """Take in what is about its end; reports are the sweep's."""
        message = word.message
        if message["kind"] == "done":
            self.done[word.rank] = message
        elif message["kind"] == "failed":
            self._blame(_from_failure(message["failure"]), now_s)
        elif is_end(message) and word.rank not in self.done:
            self._blame(_from_end(word.rank, message["code"]), now_s)

    def _blame(self, trouble: Trouble, now_s: float) -> None:
        if self.trouble is None:
            self.trouble, self.trouble_s = trouble, now_s
        elif self.trouble.is_effect and not trouble.is_effect:
            self.trouble = trouble

    def is_broken(self, now_s: float) -> bool:
        """Whether it has failed, and the reason is as good as it gets."""
        if self.trouble is None:
            return False
        is_explained = not self.trouble.is_effect or self.world_size == 1
        return is_explained or now_s - self.trouble_s > EXPLAINED_WITHIN_S

    def keep(self, metrics: Mapping[str, float], *, step: int, at_ms: int) -> None:
        """Keep points of the metrics that are looked at, and of a few others."""
        for key, value in metrics.items():
            is_known = key in self._curves or key in self.looked_at
            if is_known or len(self._curves) + len(self.looked_at) < MAX_CURVES:
                self._curves.add(key)
                self.points.append(MetricPoint(key=key, value=value, step=step, at_ms=at_ms))
        if len(self.points) > MAX_POINTS:
            self.points = _thinned(self.points)

    def take_points(self) -> tuple[MetricPoint, ...]:
        """Those that wait, once."""
        found, self.points = tuple(self.points), []
        return found

    @property
    def values(self) -> Mapping[str, float]:
        """What rank 0 has measured at its end."""
        values: Mapping[str, float] = self.done[0]["values"]
        return values

    @property
    def has_evaluated(self) -> bool:
        """Whether the workload has counted its predictions."""
        return bool(self.done[0]["has_evaluated"])

    @property
    def checkpoint(self) -> CheckpointRef | None:
        """The one that is kept."""
        kept = self.done[0]["checkpoint"] if 0 in self.done else None
        return CheckpointRef.model_validate(kept) if kept else None


def _thinned(points: list[MetricPoint]) -> list[MetricPoint]:
    """Every second point of each metric; the newest of each stays."""
    by_key: dict[str, list[MetricPoint]] = {}
    for point in points:
        by_key.setdefault(point.key, []).append(point)
    kept = {id(point) for those in by_key.values() for point in those[::-2]}
    return [point for point in points if id(point) in kept]


def _from_failure(told: Mapping[str, Any]) -> Trouble:
    failure = Failure(**told)
    verdict = from_failure(failure)
    return Trouble(reason=verdict.reason, detail=verdict.detail, is_effect=failure.is_collective)


def _from_end(rank: int, code: int | None) -> Trouble:
    where = f"rank {rank} " if rank else "its process "
    if code is None:
        return Trouble(reason=f"{where}could not be ended")
    if code >= 0:
        return Trouble(reason=f"exit_code_{code}: {where}ended before the workload had returned"[:MAX_DETAIL])
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    hint = ", which a lack of memory may have done" if -code == signal.SIGKILL else ""
    return Trouble(reason=f"{where}was killed by {name}{hint}", is_death=True)

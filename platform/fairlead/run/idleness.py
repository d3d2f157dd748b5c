"""Whether workers hold resources and do nothing. Pure: looks in, a span or a verdict's figures out.

A look is what every rank last said of itself. Looks are added up into a span; it begins anew whenever a rank has used
more than its allowance, and whenever there is nothing to go by. Only processors are counted, no GPUs: a rank that
trains on one drives it from a processor, which launches its kernels and, by CUDA's default, spins while it waits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

IDLE_SHARE = 0.05
"""Of one CPU: who uses less is idle. A rank that sleeps uses 1.2 % all the same (measured on a busy machine): its
heartbeat and Ray's own threads go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a rank says of itself. ``cpu_s``: processor seconds of its process and all its children so far."""

    cpu_s: float
    is_excused: bool = False
    """It gets ready, writes a checkpoint, evaluates, exports or hands over what it has: that may wait for a disk."""
    num_excuses: int = 0
    """How often it has been excused so far: one between two looks shows in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Time in which no rank has used up its allowance."""

    at_s: float
    """Of the look that it ends with, on any monotonic clock."""
    loads: Mapping[int, Load]
    counted_s: float = 0.0
    """Its length without what was excused."""
    used_s: Mapping[int, float] = field(default_factory=dict)
    """Processor seconds of each rank in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """All ranks did next to nothing."""

    used_s: float
    """Processor seconds of all of them together."""
    counted_s: float


def look(before: Span | None, loads: Mapping[int, Load] | None, *, now_s: float, limit_s: float) -> Span | Idle | None:
    """The span that ends now, or that the ranks are idle: each used less than ``IDLE_SHARE`` of a CPU for ``limit_s``.

    ``loads``: of the ranks that have not finished; None where there is nothing to go by, which ends every span.
    """
    if not loads:
        return None
    if before is None or not loads.keys() <= before.loads.keys():
        return Span(at_s=now_s, loads=loads)
    if any(_has_excuse(before.loads[rank], load) for rank, load in loads.items()):
        used_s = {rank: before.used_s.get(rank, 0.0) for rank in loads}
        return Span(at_s=now_s, loads=loads, counted_s=before.counted_s, used_s=used_s)
    used_s = {
        rank: before.used_s.get(rank, 0.0) + max(0.0, load.cpu_s - before.loads[rank].cpu_s)
        for rank, load in loads.items()
    }
    if max(used_s.values()) >= IDLE_SHARE * limit_s:
        return Span(at_s=now_s, loads=loads)
    counted_s = before.counted_s + now_s - before.at_s
    if counted_s >= limit_s:
        return Idle(used_s=sum(used_s.values()), counted_s=counted_s)
    return Span(at_s=now_s, loads=loads, counted_s=counted_s, used_s=used_s)


def _has_excuse(before: Load, now: Load) -> bool:
    return before.is_excused or now.is_excused or before.num_excuses != now.num_excuses

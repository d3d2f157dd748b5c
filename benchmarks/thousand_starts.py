"""Many experiments in a row on one warm stack: is anything left of them, and does the warm server grow?

Counted before (when ``FIRST`` of them have run) and after: processes of the stack, open descriptors of those that
last (sockets are descriptors), files of shared memory. ``STARTS``: how many lie between.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chart import Line, curves
from benchmarks.harness import Measurement, size, spread
from benchmarks.places import RUN_S, await_true, fairlead_stack, scratch, start_of, submit, warm_directory, warm_up
from fairlead import Client
from fairlead.client import Stack
from fairlead.embedded.processes import family
from fairlead.run.warm import Status, status

NAME = "thousand_starts"
STARTS = 1000
FIRST = 20
"""Starts before the first count: pools and caches fill themselves once."""
QUIET_S = 90.0
"""How long workers may take to leave."""
LOOKS = 10
LINGER_S = 75.0
"""Ray's head holds the connections of ended workers for up to twice its ``RAY_subscriber_timeout_ms`` (30 s)."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, kw_only=True, slots=True)
class ThousandStarts:
    """``leaked``: processes, descriptors and shared-memory files more than before; ``memory_growth``: of the warm
    server's processes, as a share."""

    starts: int
    leaked: int
    memory_growth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Holdings:
    """What a stack holds."""

    processes: int
    descriptors: Mapping[int, int] = field(default_factory=dict)
    """By process."""
    shared_memory: int = 0


def measure() -> Measurement:
    """Start, count, start many, count."""
    starts = size("STARTS", STARTS)
    with scratch() as directory, fairlead_stack(directory / "home") as (stack, client):
        warm_up(client, directory / "home")
        warm = warm_directory(directory / "home")
        _start(client, directory, FIRST)
        before, memory_before = _settled(stack.description, warm), _memory(warm)
        forked_before = _forked(warm)
        began_s = time.monotonic()
        seconds, kinds = _start(client, directory, starts)
        took_s = time.monotonic() - began_s
        after, memory_after = _settled(stack.description, warm), _memory(warm)
        leaked = leaks(before, after)
        details = {
            "leaked": leaked,
            "warm_server_mb": {"before": memory_before, "after": memory_after},
            "forks": _forked(warm) - forked_before,
            "kinds": kinds,
            "seconds": round(took_s, 1),
            "seconds_to_first_step": spread(seconds),
            "all_to_first_step_s": [round(each, 2) for each in seconds],
            "slowest_to_first_step_s": [round(each, 2) for each in sorted(seconds)[-5:]],
        }
    growth = memory_after["servers"] / memory_before["servers"] - 1
    result = ThousandStarts(starts=len(seconds), leaked=sum(leaked.values()), memory_growth=growth)
    return Measurement(result=result, sizes={"starts": starts, "first": FIRST}, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result: does the last start take longer than the first?"""
    seconds = document["details"]["all_to_first_step_s"]
    lines = [
        Line(label=label, points=[*enumerate(seconds, start=1)][first::2])
        for first, label in enumerate(("1 worker", "2 workers"))
    ]
    picture = curves("Seconds to the first step, start after start", lines, x="start", y="seconds", is_log=False)
    (directory / f"{NAME}.svg").write_text(picture)


def leaks(before: Holdings, after: Holdings) -> dict[str, int]:
    """What there is more of. Descriptors are compared in processes that were there both times."""
    lasting = before.descriptors.keys() & after.descriptors.keys()
    descriptors = sum(max(0, after.descriptors[pid] - before.descriptors[pid]) for pid in lasting)
    return {
        "processes": max(0, after.processes - before.processes),
        "descriptors": descriptors,
        "shared_memory": max(0, after.shared_memory - before.shared_memory),
    }


def _start(client: Client, directory: Path, count: int) -> tuple[list[float], dict[str, int]]:
    seconds: list[float] = []
    kinds: dict[str, int] = {}
    for number in range(count):
        stamp = directory / f"start-{time.monotonic_ns()}"
        began = time.time()
        experiment = submit(client, "start", {"stamp": str(stamp), "steps": 1}, workers=1 + number % 2)
        experiment.result(timeout=RUN_S)
        seconds.append(float(stamp.read_text()) - began)
        kind = start_of(experiment)
        kinds[kind] = kinds.get(kind, 0) + 1
    return seconds, kinds


def _settled(stack: Stack, warm: Path) -> Holdings:
    """The least of several looks, once no worker lives: connections come and go."""
    await_true("the last worker's end", lambda: _children(warm) == 0, timeout_s=QUIET_S, every_s=0.5)
    time.sleep(LINGER_S)
    looks = []
    for _ in range(LOOKS):
        looks.append(_look(stack))
        time.sleep(1)
    lasting = set.intersection(*(set(each.descriptors) for each in looks))
    return Holdings(
        processes=min(each.processes for each in looks),
        descriptors={pid: min(each.descriptors[pid] for each in looks) for pid in lasting},
        shared_memory=min(each.shared_memory for each in looks),
    )


def _look(stack: Stack) -> Holdings:
    members = [each.pid for each in family(stack.processes, stack.marker)]
    return Holdings(
        processes=len(members),
        descriptors={pid: count for pid in members if (count := _num_descriptors(pid)) is not None},
        shared_memory=len(list(SHARED_MEMORY.iterdir())),
    )


def _num_descriptors(pid: int) -> int | None:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def _status(warm: Path) -> Status:
    found = status(warm)
    assert found is not None, "the stack is up"
    return found


def _children(warm: Path) -> int:
    return sum(each.children for each in _status(warm).jobs)


def _forked(warm: Path) -> int:
    return sum(each.forked for each in _status(warm).jobs)


def _memory(warm: Path) -> dict[str, Any]:
    """Private memory of the root and of the newest server, in MB: what they share was there before the first fork."""
    found = _status(warm)
    current = [each for each in found.jobs if each.is_ready and not each.is_retired]
    return {
        "servers": round(sum(_resident_mb(pid) for pid in (found.pid, *(each.pid for each in current))), 2),
        "num_servers": 1 + len(current),
        "retired": sum(each.is_retired for each in found.jobs),
    }


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

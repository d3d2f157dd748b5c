"""Many experiments in a row on one warm stack: is anything left of them, and does the warm server grow?

Counted before (when ``FIRST`` of them have run) and after: processes of the stack, open descriptors of those that
last (sockets are descriptors), files of shared memory that no stranger uses. ``STARTS``: how many lie between.
"""

import contextlib
import os
import re
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chart import Line, curves
from benchmarks.harness import Measurement, size, spread
from benchmarks.memory import short_name
from benchmarks.places import RUN_S, await_true, fairlead_stack, scratch, start_of, submit, warm_directory, warm_up
from fairlead import Client
from fairlead.client import Stack
from fairlead.embedded.processes import family
from fairlead.run.warm import Status, status

NAME = "thousand_starts"
STARTS = 1000
FIRST = 20
"""Starts before the first count: pools and caches fill themselves once."""
AT_ONCE = 30
"""Requests that fill the pool of connections."""
QUIET_S = 90.0
"""How long workers may take to leave."""
LOOKS = 10
LINGER_S = 75.0
"""Ray's head holds the connections of ended workers for up to twice its ``RAY_subscriber_timeout_ms`` (30 s)."""
SLOW_S = 10.0
"""Of starts that took longer the events are kept: nothing else is left of them to look at."""
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
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Descriptors by process and by what they lead to, at the last look."""


def measure() -> Measurement:
    """Start, count, start many, count."""
    starts = size("STARTS", STARTS)
    with scratch() as directory, fairlead_stack(directory / "home") as (stack, client):
        warm_up(client, directory / "home")
        warm = warm_directory(directory / "home")
        _start(client, directory, FIRST)
        _fill_pools(client)
        before, memory_before = _settled(stack.description, warm), _memory(warm)
        forked_before = _forked(warm)
        began_s = time.monotonic()
        slow: list[dict[str, Any]] = []
        seconds, kinds = _start(client, directory, starts, slow)
        took_s = time.monotonic() - began_s
        after, memory_after = _settled(stack.description, warm), _memory(warm)
        leaked = leaks(before, after)
        details = {
            "leaked": leaked,
            "more_descriptors": {name: more for name in after.kinds if (more := _more(before, after, name)) > 0},
            "warm_server_mb": {"before": memory_before, "after": memory_after},
            "forks": _forked(warm) - forked_before,
            "kinds": kinds,
            "seconds": round(took_s, 1),
            "seconds_to_first_step": spread(seconds),
            "all_to_first_step_s": [round(each, 2) for each in seconds],
            "slow": slow,
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


def _more(before: Holdings, after: Holdings, kind: str) -> int:
    return after.kinds[kind] - before.kinds.get(kind, 0)


def _start(
    client: Client, directory: Path, count: int, slow: list[dict[str, Any]] | None = None
) -> tuple[list[float], dict[str, int]]:
    """Seconds of each start, and how many were of which kind. ``slow`` is given the events of those that took long."""
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
        if slow is not None and seconds[-1] > SLOW_S:
            told = [
                f"{one.at.isoformat()} {one.to_state or one.kind}: {one.reason}"
                for one in experiment.events(follow=False)
            ]
            slow.append({"start": number, "seconds": round(seconds[-1], 2), "events": told})
            print(f"start {number} took {seconds[-1]:.1f} s", *told, sep="\n  ", file=sys.stderr, flush=True)
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
        kinds=looks[-1].kinds,
    )


def _look(stack: Stack) -> Holdings:
    members = family(stack.processes, stack.marker)
    files = {each.pid: found for each in members if (found := _open_files(each.pid)) is not None}
    names = {each.pid: _name(each) for each in members}
    return Holdings(
        processes=len(members),
        descriptors={pid: len(found) for pid, found in files.items()},
        shared_memory=_num_shared({each.pid for each in members}),
        kinds=Counter(f"{names.get(pid, pid)}: {_kind(file)}" for pid, found in files.items() for file in found),
    )


def _name(process: psutil.Process) -> str:
    try:
        return f"{short_name(process.cmdline(), process.name())} {process.pid}"
    except psutil.Error:
        return str(process.pid)


def _open_files(pid: int) -> list[str] | None:
    """What the descriptors of a process lead to; None once it is gone."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def _kind(file: str) -> str:
    """``socket``, ``pipe``, ``anon_inode`` or a path, without the number that each has of its own."""
    return re.sub(r":\[\d+\]", "", file) if file[:1] != "/" else file


def _num_shared(members: set[int]) -> int:
    """Files of our user's in shared memory that no stranger uses. Directories there are other programs' scratch."""
    strangers = [pid for pid in psutil.pids() if pid not in members]
    theirs = {path for pid in strangers for path in _shared_files_of(pid)}
    return sum(_is_ours(file) and str(file) not in theirs for file in SHARED_MEMORY.iterdir())


def _is_ours(file: Path) -> bool:
    try:
        found = file.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()


def _fill_pools(client: Client) -> None:
    """Make the API open as many connections to its database as it ever keeps: later ones are no leak."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        deque(pool.map(lambda _: [*client.list(limit=1)], range(10 * AT_ONCE)), maxlen=0)


def _shared_files_of(pid: int) -> set[str]:
    try:
        mapped = Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return set()
    found = {line.split(maxsplit=5)[5] for line in mapped.splitlines() if f"{SHARED_MEMORY}/" in line}
    return found | {file for file in _open_files(pid) or () if file.startswith(f"{SHARED_MEMORY}/")}


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

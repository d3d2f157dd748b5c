"""Memory of a stack that does nothing, all processes together, beside a plain Ray head and a plain MLflow server.

Ours is ``fairlead up`` as a user starts it, its own process and the warm server included, after one experiment, so that
it has all it keeps. ``SETTLE``: seconds between that and the measurement; in the second half of them the processor time
of each process is taken as well. A table of all processes is printed.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Measurement, size
from benchmarks.memory import Footprint, footprints, process_table, total_mb
from benchmarks.places import (
    START_S,
    Started,
    await_true,
    mlflow_server,
    ray_head,
    scratch,
    started,
    warm_up,
)
from fairlead import Client
from fairlead.client.stack import read_stack
from fairlead.embedded.processes import family

NAME = "idle_memory"
SETTLE_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleMemory:
    """Proportional set sizes in MB (2**20 bytes)."""

    pss_mb: float
    ray_plus_mlflow_pss_mb: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """Processes that did nothing. ``busy_percent``: of one core, by process number."""

    processes: list[Footprint]
    busy_percent: dict[int, float]

    def rows(self) -> list[dict[str, Any]]:
        """As they are kept."""
        return [
            asdict(each) | {"group": each.group, "busy_percent": self.busy_percent.get(each.pid)}
            for each in self.processes
        ]


def measure() -> Measurement:
    """One after the other, so that neither shares pages with the other."""
    settle_s = size("SETTLE", SETTLE_S)
    with scratch() as directory:
        ours = _ours(directory, settle_s)
        with ray_head(directory) as ray, mlflow_server(directory) as mlflow:
            theirs = _idle(lambda: _members(ray.process) + _members(mlflow.process), settle_s)
    result = IdleMemory(pss_mb=total_mb(ours.processes), ray_plus_mlflow_pss_mb=total_mb(theirs.processes))
    for title, found in (("fairlead up", ours), ("ray start and mlflow server", theirs)):
        print(f"{title}, idle:\n{process_table(found.processes, found.busy_percent)}\n", flush=True)
    details = {"fairlead": ours.rows(), "ray_plus_mlflow": theirs.rows()}
    return Measurement(result=result, sizes={"settle_s": settle_s}, details=details)


def _ours(directory: Path, settle_s: int) -> Idle:
    home = directory / "home"
    process = started([sys.executable, "-m", "fairlead.cli", "up", "--home", str(home)], directory, "fairlead")
    try:
        await_true("the stack", lambda: bool((stack := read_stack(home)) and stack.is_ready), timeout_s=START_S)
        with Client(home=home) as client:
            warm_up(client, home)
        return _idle(lambda: _stack(process, home), settle_s)
    finally:
        process.end()


def _stack(process: Started, home: Path) -> list[psutil.Process]:
    stack = read_stack(home)
    assert stack is not None, "it has just been ready"
    return list({each.pid: each for each in [*_members(process), *family(stack.processes, stack.marker)]}.values())


def _idle(members: Callable[[], list[psutil.Process]], settle_s: float) -> Idle:
    """What is there after ``settle_s``, and how busy it was in their second half."""
    time.sleep(settle_s / 2)
    before, began_s = {each.pid: each.cpu_s for each in footprints(members())}, time.monotonic()
    time.sleep(settle_s / 2)
    found, lasted_s = footprints(members()), time.monotonic() - began_s
    busy = {
        each.pid: round(100 * (each.cpu_s - before[each.pid]) / lasted_s, 1) for each in found if each.pid in before
    }
    return Idle(processes=found, busy_percent=busy)


def _members(process: Started) -> list[psutil.Process]:
    return family([process.leader], process.marker)

"""Memory of a stack that does nothing, all processes together, beside a plain Ray head and a plain MLflow server.

Ours is ``fairlead up`` as a user starts it, its own process and the warm server included, after one experiment, so that
it has all it keeps. ``SETTLE``: seconds between that and the measurement; in the second half of them the processor time
of each process is taken as well. A table of all processes is printed. The stack without warm servers is measured too.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size
from benchmarks.memory import Footprint, footprints, process_table, total_mb
from benchmarks.places import (
    RUN_S,
    START_S,
    Started,
    await_true,
    mlflow_server,
    ray_head,
    scratch,
    started,
    submit,
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
        ours, cold = _ours(directory, settle_s, is_warm=True), _ours(directory, settle_s, is_warm=False)
        with ray_head(directory) as ray, mlflow_server(directory) as mlflow:
            theirs = _idle(lambda: _members(ray.process) + _members(mlflow.process), settle_s)
    result = IdleMemory(pss_mb=total_mb(ours.processes), ray_plus_mlflow_pss_mb=total_mb(theirs.processes))
    found = {"fairlead up": ours, "fairlead up, warm start off": cold, "ray start and mlflow server": theirs}
    for title, each in found.items():
        print(f"{title}, idle:\n{process_table(each.processes, each.busy_percent)}\n", flush=True)
    details = {"fairlead": ours.rows(), "fairlead_cold": cold.rows(), "ray_plus_mlflow": theirs.rows()}
    return Measurement(result=result, sizes={"settle_s": settle_s}, details=details)


def table(document: Mapping[str, Any]) -> str:
    """The section of the README: every process of ours, with and without warm servers."""
    warm, cold = (_by_name(document["details"][way]) for way in ("fairlead", "fairlead_cold"))
    lines = ["", "| process | MB | warm start off |", "| --- | --- | --- |"]
    for name in sorted({*warm, *cold}, key=lambda name: -warm.get(name, 0)):
        lines.append(f"| `{name}` | {_shown(warm.get(name))} | {_shown(cold.get(name))} |")
    lines.append(f"| together | {_shown(sum(warm.values()))} | {_shown(sum(cold.values()))} |")
    return "\n".join([*lines, ""]) + "\n"


def _shown(megabytes: float | None) -> str:
    return "" if megabytes is None else f"{megabytes:.0f}"


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    result, details = document["result"], document["details"]
    cold_mb = sum(row["pss_mb"] for row in details["fairlead_cold"])
    sizes = {
        "fairlead up": (result["pss_mb"], True),
        "fairlead up, warm start off": (cold_mb, True),
        "ray start and mlflow server": (result["ray_plus_mlflow_pss_mb"], False),
    }
    rows = [Bar(label=label, value=mb, low=mb, high=mb, is_ours=ours) for label, (mb, ours) in sizes.items()]
    (directory / f"{NAME}.svg").write_text(bars("Memory of what does nothing, in MB (proportional set size)", rows))


def _by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        found[row["name"]] = found.get(row["name"], 0.0) + row["pss_mb"]
    return found


def _ours(directory: Path, settle_s: int, *, is_warm: bool) -> Idle:
    home = directory / f"home-{'warm' if is_warm else 'cold'}"
    command = ["env", f"FAIRLEAD_WARM_START={int(is_warm)}", sys.executable, "-m", "fairlead.cli", "up"]
    process = started([*command, "--home", str(home)], directory, "fairlead")
    try:
        await_true("the stack", lambda: bool((stack := read_stack(home)) and stack.is_ready), timeout_s=START_S)
        with Client(home=home) as client:
            if is_warm:
                warm_up(client, home)
            else:
                submit(client, "first", {"stamp": str(home / "first")}).result(timeout=RUN_S)
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

"""Memory of a stack that does nothing, all processes together, beside a plain Ray head and a plain MLflow server.

Ours is ``fairlead up`` as a user starts it, its own process and the warm server included, after one experiment, so that
it has all it keeps. ``SETTLE``: seconds between that and the measurement.
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Measurement, size
from benchmarks.memory import Footprint, footprints, total_mb
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


def measure() -> Measurement:
    """One after the other, so that neither shares pages with the other."""
    settle_s = size("SETTLE", SETTLE_S)
    with scratch() as directory:
        ours = _ours(directory, settle_s)
        with ray_head(directory) as ray, mlflow_server(directory) as mlflow:
            time.sleep(settle_s)
            theirs = footprints(_members(ray.process) + _members(mlflow.process))
    result = IdleMemory(pss_mb=total_mb(ours), ray_plus_mlflow_pss_mb=total_mb(theirs))
    details = {"fairlead": _table(ours), "ray_plus_mlflow": _table(theirs)}
    return Measurement(result=result, sizes={"settle_s": settle_s}, details=details)


def _ours(directory: Path, settle_s: int) -> list[Footprint]:
    home = directory / "home"
    process = started([sys.executable, "-m", "fairlead.cli", "up", "--home", str(home)], directory, "fairlead")
    try:
        await_true("the stack", lambda: bool((stack := read_stack(home)) and stack.is_ready), timeout_s=START_S)
        with Client(home=home) as client:
            warm_up(client, home)
        time.sleep(settle_s)
        stack = read_stack(home)
        assert stack is not None, "it has just been ready"
        whole = {each.pid: each for each in [*_members(process), *family(stack.processes, stack.marker)]}
        return footprints(whole.values())
    finally:
        process.end()


def _members(process: Started) -> list[psutil.Process]:
    return family([process.leader], process.marker)


def _table(found: list[Footprint]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]

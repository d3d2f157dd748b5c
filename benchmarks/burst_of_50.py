"""Many experiments submitted at once, against a shell loop over the same program and the sum of their own times.

``N``: how many. Each does a fixed amount of work on one core, about ``WORK`` seconds when alone.
"""

import statistics
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size, spread
from benchmarks.places import RUN_S, alone, fairlead_stack, scratch, step_file, submit, warm_up
from fairlead import Client

NAME = "burst_of_50"
NUM = 50
WORK_S = 5
TRIAL_STEPS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class BurstOf50:
    """Seconds. ``sum_of_own_s``: of the training loops alone, as they ran on the platform, added up."""

    makespan_s: float
    """From the first submit to the last result."""
    shell_loop_s: float
    """The same program as often, one after the other, without any platform."""
    sum_of_own_s: float


def measure() -> Measurement:
    """The loops first, then the burst."""
    count, work_s = size("N", NUM), size("WORK", WORK_S)
    with scratch() as directory:
        work = _work(directory, work_s)
        shell_s = _shell_loop(directory, work, count, at_once=1)
        pairs_s = _shell_loop(directory, work, count, at_once=2)
        with fairlead_stack(directory / "home") as (_, client):
            warm_up(client, directory / "home")
            makespan_s, stamps = _run(client, directory, work, "burst", count)
        own = [sum(step_file(each)) for each in stamps]
    result = BurstOf50(makespan_s=makespan_s, shell_loop_s=shell_s, sum_of_own_s=sum(own))
    details = {
        "shell_loop_two_at_once_s": round(pairs_s, 2),
        "half_of_sum_of_own_s": round(sum(own) / 2, 2),
        "own_s": spread(own),
        "steps_each": work["steps"],
    }
    return Measurement(result=result, sizes={"n": count, "work_s": work_s}, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    result, details = document["result"], document["details"]
    seconds = {
        f"Fairlead, {document['sizes']['n']} at once": (result["makespan_s"], True),
        "shell loop, one at a time": (result["shell_loop_s"], False),
        "shell loop, two at a time": (details["shell_loop_two_at_once_s"], False),
        "sum of the loops' own times": (result["sum_of_own_s"], False),
        "half of it: two cores, no overhead": (details["half_of_sum_of_own_s"], False),
    }
    rows = [Bar(label=name, value=s, low=s, high=s, is_ours=ours) for name, (s, ours) in seconds.items()]
    (directory / f"{NAME}.svg").write_text(bars("Seconds until the last of many experiments has its result", rows))


def _work(directory: Path, work_s: float) -> dict[str, Any]:
    """Params of a program that computes for about ``work_s`` on one core of this machine."""
    work = {"width": 256, "batch": 256, "metrics": 1, "steps": TRIAL_STEPS}
    stamp = directory / "trial"
    alone({**work, "stamp": str(stamp)})
    step_s = statistics.median(step_file(stamp))
    return {**work, "steps": max(1, round(work_s / step_s))}


def _shell_loop(directory: Path, work: Mapping[str, Any], count: int, *, at_once: int) -> float:
    began_s = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        stamps = [directory / f"shell-{at_once}-{number}" for number in range(count)]
        list(pool.map(lambda stamp: alone({**work, "stamp": str(stamp)}), stamps))
    return time.monotonic() - began_s


def _run(client: Client, directory: Path, work: Mapping[str, Any], name: str, count: int) -> tuple[float, list[Path]]:
    """Submit ``count`` experiments at once and wait for all: seconds, and where each wrote its steps."""
    stamps = [directory / f"{name}-{number}" for number in range(count)]
    began_s = time.monotonic()
    experiments = [submit(client, name, {**work, "stamp": str(stamp)}) for stamp in stamps]
    for number, experiment in enumerate(experiments):
        experiment.result(timeout=RUN_S + 60.0 * count)
        print(f"{name}: {number + 1} of {count} after {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return time.monotonic() - began_s, stamps

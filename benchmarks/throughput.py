"""Training speed on the platform, with values every step and checkpoints every epoch, as a share of torchrun's.

torchrun saves the same checkpoints and reports nothing; it runs while no stack is up, before and after. ``STEPS``: of
each run; ``RUNS``: of each way, for 1 and 2 workers.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Measurement, size, spread
from benchmarks.places import RUN_S, alone, fairlead_stack, scratch, submit, warm_up

NAME = "throughput"
STEPS = 400
RUNS = 4
EPOCH_STEPS = 50
UNSTEADY_STEPS = 10
WORKERS = (1, 2)
WORK = {"width": 1024, "batch": 256, "metrics": 2, "checkpoint_every": EPOCH_STEPS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Steps a second on the platform, over those of torchrun, by number of workers."""

    ratio_1: float
    ratio_2: float


def measure() -> Measurement:
    """Half of torchrun's runs, all of ours, the other half."""
    steps, runs = size("STEPS", STEPS), max(2, size("RUNS", RUNS))
    with scratch() as directory:
        bare = _rates(directory, "before", steps, runs // 2, _under_torchrun)
        with fairlead_stack(directory / "home") as (_, client):
            warm_up(client, directory / "home")

            def on_platform(params: dict[str, Any], workers: int) -> None:
                submit(client, "throughput", params, workers=workers).result(timeout=RUN_S)

            ours = _rates(directory, "ours", steps, runs, on_platform)
        after = _rates(directory, "after", steps, runs - runs // 2, _under_torchrun)
    theirs = {workers: bare[workers] + after[workers] for workers in WORKERS}
    ratios = {workers: statistics.median(ours[workers]) / statistics.median(theirs[workers]) for workers in WORKERS}
    details = {
        name: {str(workers): spread(found[workers]) for workers in WORKERS}
        for name, found in (("fairlead_steps_per_s", ours), ("torchrun_steps_per_s", theirs))
    }
    result = Throughput(ratio_1=ratios[1], ratio_2=ratios[2])
    return Measurement(result=result, sizes={"steps": steps, "runs": runs, **WORK}, details=details)


def _under_torchrun(params: dict[str, Any], workers: int) -> None:
    alone(params, workers=workers)


def _rates(
    directory: Path, name: str, steps: int, runs: int, run: Callable[[dict[str, Any], int], None]
) -> dict[int, list[float]]:
    """Steps a second of every run, by number of workers; the first steps of a run do not count."""
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for number in range(runs):
        for workers in WORKERS:
            stamp = directory / f"{name}-{workers}-{number}"
            run({**WORK, "steps": steps, "stamp": str(stamp)}, workers)
            counted = json.loads(Path(f"{stamp}.steps").read_text())[UNSTEADY_STEPS:]
            rates[workers].append(len(counted) / sum(counted))
    return rates

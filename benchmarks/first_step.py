"""From "submitted" to the first line of the training loop, and to the result: Fairlead beside Ray and torchrun.

All run the same program on 1 and 2 workers. The clock starts where a user's call starts: ``Client.submit``, Ray's
``JobSubmissionClient.submit_job`` (what ``ray job submit`` calls once it has started), ``fit()``, the start of the
torchrun process. Imports of the clients are not counted for anybody. ``RUNS``: of the warm path, for each number of
workers; ``OTHERS``: of every other one, three unless it says so.
"""

import json
import statistics
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, quantile, size, spread
from benchmarks.places import (
    PROGRAMS,
    RUN_S,
    alone,
    await_true,
    conversation,
    fairlead_stack,
    ray_head,
    scratch,
    start_of,
    submit,
    warm_up,
)
from fairlead import Client
from fairlead.errors import Unavailable

NAME = "first_step"
WORKERS = (1, 2)
OTHER_RUNS = 3
TITLES = {
    "warm": "Fairlead, warm",
    "cold": "Fairlead, cold",
    "ray_jobs": "Ray job",
    "ray_train": "TorchTrainer.fit()",
    "torchrun": "torchrun",
}
OURS = ("warm", "cold")


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStep:
    """Seconds over 1 and 2 workers together. ``ratio_to_ray_jobs``: ``warm_p50_s / ray_jobs_p50_s``."""

    warm_p50_s: float
    warm_p95_s: float
    cold_p50_s: float
    ray_jobs_p50_s: float
    ray_train_p50_s: float
    torchrun_p50_s: float
    ratio_to_ray_jobs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One run: seconds to the first step and to the result."""

    workers: int
    first_s: float
    result_s: float
    start: str = ""
    """How the platform says that it started: ``warm``, ``cold: why``."""


def measure() -> Measurement:
    """Run all of them, one after the other."""
    warm_runs = size("RUNS", 20)
    runs = size("OTHERS", min(OTHER_RUNS, warm_runs))
    with scratch() as directory:
        first_s, warm = _fairlead_warm(directory / "warm", warm_runs)
        samples = {"warm": warm, "cold": _fairlead_cold(directory / "cold", runs)}
        with ray_head(directory) as head:
            samples["ray_jobs"] = [_ray_job(head.dashboard_url, n, directory) for n in WORKERS for _ in range(runs)]
            samples["ray_train"] = list(_ray_train(head.address, runs, directory))
        samples["torchrun"] = [_torchrun(n, directory) for n in WORKERS for _ in range(runs)]
    sizes = {"warm_runs": warm_runs, "other_runs": runs, "workers": list(WORKERS)}
    return conclude(samples, sizes, first_after_start_s=first_s)


def conclude(
    samples: Mapping[str, list[Sample]], sizes: Mapping[str, Any], *, first_after_start_s: float
) -> Measurement:
    """The numbers of all runs. The first warm run after the stack's start is told apart and not counted."""
    p50 = {name: statistics.median(each.first_s for each in found) for name, found in samples.items()}
    result = FirstStep(
        warm_p50_s=p50["warm"],
        warm_p95_s=quantile([each.first_s for each in samples["warm"]], 0.95),
        cold_p50_s=p50["cold"],
        ray_jobs_p50_s=p50["ray_jobs"],
        ray_train_p50_s=p50["ray_train"],
        torchrun_p50_s=p50["torchrun"],
        ratio_to_ray_jobs=p50["warm"] / p50["ray_jobs"],
    )
    details = {
        "seconds_to_first_step": {name: _by_workers(found, "first_s") for name, found in samples.items()},
        "seconds_to_result": {name: _by_workers(found, "result_s") for name, found in samples.items()},
        "first_after_start_s": round(first_after_start_s, 3),
        "starts": {name: _starts(samples[name]) for name in ("warm", "cold")},
        "runs": {
            name: [[each.workers, round(each.first_s, 3), round(each.result_s, 3)] for each in found]
            for name, found in samples.items()
        },
    }
    return Measurement(result=result, sizes=sizes, details=details)


def _by_workers(found: list[Sample], field: str) -> dict[str, dict[str, float]]:
    return {
        str(workers): spread([getattr(each, field) for each in found if each.workers == workers])
        for workers in sorted({each.workers for each in found})
    }


def _starts(found: list[Sample]) -> dict[str, int]:
    return {start: sum(each.start == start for each in found) for start in sorted({each.start for each in found})}


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    seconds = document["details"]["seconds_to_first_step"]
    rows = [
        Bar(
            label=f"{title}, {workers} worker{'s' * (workers != '1')}",
            value=found["p50"],
            low=found["min"],
            high=found["max"],
            is_ours=name in OURS,
        )
        for name, title in TITLES.items()
        for workers, found in seconds[name].items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Seconds to the first training step: median, least, most", rows))


# ---- the ways -------------------------------------------------------------------------------------------------------


def _params(stamp: Path) -> dict[str, Any]:
    return {"stamp": str(stamp), "steps": 3}


def _stamp(directory: Path) -> Path:
    return directory / f"stamp-{uuid.uuid4().hex}"


def _sample(stamp: Path, began: float, ended: float, *, workers: int, start: str = "") -> Sample:
    first = float(stamp.read_text())
    return Sample(workers=workers, first_s=first - began, result_s=ended - began, start=start)


def _fairlead_warm(home: Path, runs: int) -> tuple[float, list[Sample]]:
    with fairlead_stack(home) as (_, client):
        first_s = warm_up(client, home)
        return first_s, [_submitted(client, workers, home) for _ in range(runs) for workers in WORKERS]


def _fairlead_cold(home: Path, runs: int) -> list[Sample]:
    with fairlead_stack(home, is_warm=False) as (_, client):
        return [_submitted(client, workers, home) for _ in range(runs) for workers in WORKERS]


def _submitted(client: Client, workers: int, directory: Path) -> Sample:
    stamp = _stamp(directory)
    began = time.time()
    experiment = submit(client, "first-step", _params(stamp), workers=workers)
    experiment.result(timeout=RUN_S)
    ended = time.time()
    return _sample(stamp, began, ended, workers=workers, start=start_of(experiment))


def _ray_job(url: str, workers: int, directory: Path) -> Sample:
    from ray.job_submission import JobStatus, JobSubmissionClient  # one process here need not load Ray for the others

    stamp = _stamp(directory)
    order = {"workers": workers, "params": _params(stamp), "storage": str(directory / "ray-results")}
    client = JobSubmissionClient(url)
    began = time.time()
    job = client.submit_job(entrypoint=f"{sys.executable} {PROGRAMS / 'ray_job.py'} '{json.dumps(order)}'")
    await_true("the job's end", lambda: client.get_job_status(job).is_terminal(), timeout_s=RUN_S)
    ended = time.time()
    if client.get_job_status(job) is not JobStatus.SUCCEEDED:
        raise Unavailable(f"the Ray job failed: {client.get_job_logs(job)[-2000:]}")
    return _sample(stamp, began, ended, workers=workers)


def _ray_train(address: str, runs: int, directory: Path) -> Iterator[Sample]:
    with conversation("ray_driver.py", address) as driver:
        driver.answer()
        for workers in [workers for workers in WORKERS for _ in range(runs)]:
            stamp = _stamp(directory)
            order = {"workers": workers, "params": _params(stamp), "storage": str(directory / "ray-results")}
            times = json.loads(driver.ask(order))
            yield _sample(stamp, times["began"], times["ended"], workers=workers)


def _torchrun(workers: int, directory: Path) -> Sample:
    stamp = _stamp(directory)
    began = time.time()
    alone(_params(stamp), workers=workers)
    return _sample(stamp, began, time.time(), workers=workers)

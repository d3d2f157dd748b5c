"""Runs of trials a second that reach MLflow: a whole sweep's, on SQLite, while another experiment reports points.

A real API process with its loops and a real MLflow server of ours. All trials are there when the clock begins, so the
recorder has no rest. Beside it a plain ``mlflow server``, which takes runs one by one. ``TRIALS``; ``CALLS``: trials on
the plain server; ``POINTS``: reported by each trial.
"""

import contextlib
import os
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from benchmarks.chart import Line, curves
from benchmarks.control_plane import ControlPlane, control_plane, scratch_of
from benchmarks.harness import Measurement, quantile, size
from benchmarks.places import mlflow_server
from fairlead.control.child_runs import child_run
from fairlead.lifecycle import State
from fairlead.protocol import Batch, MetricPoint
from fairlead.spec import spec_hash
from fairlead.store import Store, attempts, batches, experiments, recorded_trials
from fairlead.store.recorded_trials import WaitingSweep
from fairlead.store.tables import BatchRow, TrialRow
from fairlead.testing import a_spec
from fairlead.testing.ended_trials import an_ended_trial, keep_ended_trials
from fairlead.testing.mlflow import MlflowServer, serving_mlflow
from fairlead.testing.stored import an_attempt, an_experiment
from fairlead.tracking.documents import RunDocument
from fairlead.tracking.server import client_environment

NAME = "record_trials"
TRIALS, CALLS, POINTS = 10_000, 200, 10
SWEEP, OTHER = "sweep", "other"
STORED_TOGETHER = 500
LOOK_S = 0.5
MOST_S = 1_800.0
MB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordTrials:
    """Runs a second, from the first trial to the last; what they cost; what others feel of it."""

    recorder_runs_per_s: float
    cpu_ms_per_run: float
    """Processor time of API, loops and MLflow."""
    last_over_first: float
    """Rate of the last tenth over that of the second: below 1 where it becomes slower with the number of runs."""
    peak_mb: float
    """Of the larger of the two processes."""
    points_delay_s: float
    """The longest that another experiment's points have waited."""
    one_by_one_runs_per_s: float
    """On a plain server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What one sweep took."""

    runs_per_s: float
    last_over_first: float
    cpu_ms_per_run: Mapping[str, float]
    peak_mb: Mapping[str, float]
    curve: Sequence[tuple[float, int]]
    point_delays_s: Sequence[float] = field(default_factory=tuple)
    is_complete: bool
    """MLflow has as many runs below the sweep's as there are trials."""


def measure() -> Measurement:
    """Both servers."""
    trials, calls, points = size("TRIALS", TRIALS), size("CALLS", CALLS), size("POINTS", POINTS)
    with scratch_of(NAME) as directory:
        found = recorded(directory, trials=trials, points=points)
        with mlflow_server(directory) as plain:
            one_by_one = _one_by_one(plain.url, calls, points)
    if not found.is_complete:
        raise RuntimeError("MLflow does not have one run for each trial")
    result = RecordTrials(
        recorder_runs_per_s=round(found.runs_per_s, 1),
        cpu_ms_per_run=round(sum(found.cpu_ms_per_run.values()), 3),
        last_over_first=round(found.last_over_first, 3),
        peak_mb=round(max(found.peak_mb.values()), 1),
        points_delay_s=round(quantile(found.point_delays_s or [0.0], 1.0), 3),
        one_by_one_runs_per_s=round(one_by_one, 1),
    )
    details = {"cpu_ms_per_run": found.cpu_ms_per_run, "peak_mb": found.peak_mb, "curve": found.curve}
    sizes = {"trials": trials, "calls": calls, "points": points}
    return Measurement(result=result, sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """How a kept result's runs arrived."""
    arrivals = [Line(label="runs in MLflow", points=document["details"]["curve"])]
    picture = curves("Arrival of a sweep's runs in MLflow", arrivals, x="seconds", y="runs", is_log=False)
    (directory / f"{NAME}.svg").write_text(picture)


# ---- a whole sweep --------------------------------------------------------------------------------------------------


def recorded(directory: Path, *, trials: int, points: int) -> Recorded:
    """Record a sweep of so many trials on a stack without Ray, and another experiment's points beside it."""
    with (
        serving_mlflow(directory / "mlflow") as mlflow,
        control_plane(directory, "sqlite", mlflow_url=mlflow.url) as plane,
    ):
        an_attempt(plane.store, OTHER)
        an_experiment(plane.store, SWEEP, state=State.SUCCEEDED)
        _until(lambda: _has_run(plane.store, SWEEP) and _has_run(plane.store, OTHER))
        processes = _processes(plane, mlflow)
        before = {name: _cpu_s(process) for name, process in processes.items()}
        for first in range(0, trials, STORED_TOGETHER):
            keep_ended_trials(plane.store, SWEEP, range(first, min(trials, first + STORED_TOGETHER)), points=points)
        curve, peak_mb = _followed(plane.store, processes, trials)
        cpu_ms = {name: 1000 * (_cpu_s(process) - before[name]) / trials for name, process in processes.items()}
        runs_per_s, last_over_first = _rates(plane.store)
        return Recorded(
            runs_per_s=runs_per_s,
            last_over_first=last_over_first,
            cpu_ms_per_run=cpu_ms,
            peak_mb=peak_mb,
            curve=curve,
            point_delays_s=_delays(plane.store),
            is_complete=_children(mlflow.directory) == trials,
        )


def _followed(
    store: Store, processes: Mapping[str, psutil.Process], trials: int
) -> tuple[list[tuple[float, int]], dict[str, float]]:
    """Runs by time, and the most memory each process had."""
    began_s, curve, peak_mb = time.monotonic(), [(0.0, 0)], dict.fromkeys(processes, 0.0)
    for step in range(int(MOST_S / LOOK_S)):
        _report(store, step)
        time.sleep(LOOK_S)
        with store.read() as session:
            waiting = recorded_trials.count(session)
        curve.append((round(time.monotonic() - began_s, 2), trials - waiting))
        for name, process in processes.items():
            peak_mb[name] = max(peak_mb[name], process.memory_info().rss / MB)
        if not waiting:
            return curve, peak_mb
    raise RuntimeError(f"not all trials were recorded within {MOST_S:.0f} s")


def _report(store: Store, step: int) -> None:
    """A point of the other experiment."""
    at_ms = int(time.time() * 1000)
    batch = Batch(
        stream="metrics", first_offset=step, points=(MetricPoint(key="loss", value=1.0, step=step, at_ms=at_ms),)
    )
    with store.write() as session:
        attempt = attempts.get(session, attempts.attempt_id(OTHER, 1))
        batches.advance(session, attempt.id, batch)
        batches.insert(session, attempt, batch, now=datetime.fromtimestamp(at_ms / 1000).astimezone())


def _delays(store: Store) -> list[float]:
    with store.read() as session:
        rows = session.execute(select(BatchRow.received_at, BatchRow.recorded_at)).all()
    return [(recorded_at - received_at).total_seconds() for received_at, recorded_at in rows if recorded_at]


def _rates(store: Store) -> tuple[float, float]:
    """Runs a second, from the first mark to the last, and the rate of the last tenth over that of the second.

    What has the first mark was written before the clock began.
    """
    with store.read() as session:
        marks = sorted(at.timestamp() for at in session.scalars(select(TrialRow.recorded_at)) if at)
    later, tenth = len(marks) - bisect_right(marks, marks[0]), len(marks) // 10
    early_s, late_s = marks[2 * tenth] - marks[tenth], marks[-1] - marks[-1 - tenth]
    return later / max(1e-9, marks[-1] - marks[0]), early_s / late_s if late_s > 0 else 1.0


def _children(directory: Path) -> int:
    """Runs with a parent in MLflow's own file."""
    with contextlib.closing(sqlite3.connect(f"file:{directory / 'mlflow.db'}?mode=ro", uri=True)) as connection:
        query = "SELECT COUNT(*) FROM tags WHERE key = 'mlflow.parentRunId'"
        return int(connection.execute(query).fetchone()[0])


def _processes(plane: ControlPlane, mlflow: MlflowServer) -> dict[str, psutil.Process]:
    (part,) = plane.parts
    assert part.process is not None, "started"
    return {"API and loops": psutil.Process(part.process.pid), "MLflow": psutil.Process(mlflow.pid)}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _has_run(store: Store, key: str) -> bool:
    with store.read() as session:
        return experiments.get(session, key).mlflow_run_id is not None


def _until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end_s:
            raise RuntimeError("the recorder makes no runs")
        time.sleep(0.1)


# ---- one by one -----------------------------------------------------------------------------------------------------


def _one_by_one(url: str, trials: int, points: int) -> float:
    """Runs a second on a server that is not ours."""
    os.environ.update(client_environment())
    from fairlead.tracking.recorder import Recorder

    spec, recorder = a_spec(), Recorder(url)
    document = RunDocument(experiment_id=SWEEP, spec=spec, spec_hash=spec_hash(spec), created_at_ms=0)
    run_id = recorder.ensure_run(document)
    sweep = WaitingSweep(experiment_id=SWEEP, run_id=run_id, project="default", workload="w", created_by="bench")
    ended = [child_run(sweep, an_ended_trial(SWEEP, no, points=points)) for no in range(trials)]
    began_s = time.monotonic()
    while ended:
        ended = ended[len(recorder.record_trials(run_id, ended[:50])) :]
    return trials / (time.monotonic() - began_s)

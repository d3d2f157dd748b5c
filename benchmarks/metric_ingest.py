"""Metric points a second from a workload all the way into MLflow, MLflow's own client beside it, and what it costs.

Three parts: a workload that reports as fast as it can, with the points counted in MLflow's database while they arrive;
the same training loop with and without reports, its steps timed one by one; MLflow's client against a plain server.
``POINTS``: of the first part; ``SPAN``: seconds of each other; ``METRICS``: values a step.
"""

import contextlib
import json
import sqlite3
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, Line, bars, curves
from benchmarks.harness import Measurement, quantile, size
from benchmarks.places import (
    RUN_S,
    await_true,
    conversation,
    fairlead_stack,
    mlflow_server,
    scratch,
    step_file,
    submit,
    warm_up,
)
from fairlead import Client
from fairlead.embedded.home import Home

NAME = "metric_ingest"
POINTS = 150_000
SPAN_S = 20
METRICS = 100
PAIRS = 3
"""Loops with and without reports, in turn."""
STEP_S = 0.05
"""What a step of the timed loop is made to take: with 100 values a step that is 2,000 points a second."""
UNSTEADY_STEPS = 5
"""Left out at the begin of each timed loop."""
_COUNT = "SELECT COUNT(*) FROM metrics WHERE key LIKE 'train/value%'"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricIngest:
    """Rates, and how much longer the longest step with reports was than the median step without, as a share."""

    points_per_s: float
    """From the first report to the last point in MLflow."""
    mlflow_client_points_per_s: float
    """MLflow's client writing one step's values a call."""
    worst_step_delay: float


def measure() -> Measurement:
    """The three parts."""
    points, seconds, metrics = size("POINTS", POINTS), size("SPAN", SPAN_S), size("METRICS", METRICS)
    with scratch() as directory:
        home = Home(path=directory / "home")
        with fairlead_stack(home.path) as (_, client):
            warm_up(client, home.path)
            taken = saturate(client, home.mlflow_database, directory, points=points, metrics=metrics)
            delays = _delays(client, directory, seconds=seconds, metrics=metrics)
        with (
            mlflow_server(directory) as server,
            conversation("mlflow_client.py", server.url, str(seconds), str(metrics)) as program,
        ):
            theirs = json.loads(program.answer())
    result = MetricIngest(
        points_per_s=taken["points_per_s"],
        mlflow_client_points_per_s=theirs["log_batch_a_step_points_per_s"],
        worst_step_delay=delays["worst"],
    )
    details = {"end_to_end": taken, "step_delay": delays, "mlflow_client": theirs}
    sizes = {"points": points, "seconds": seconds, "metrics": metrics, "pairs": PAIRS}
    return Measurement(result=result, sizes=sizes, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result: rates, and what a step feels."""
    details, metrics = document["details"], document["sizes"]["metrics"]
    rates = {
        "Fairlead, first report to last point": (details["end_to_end"]["points_per_s"], True),
        "Fairlead, tenth to nine tenths": (details["end_to_end"]["steady_points_per_s"], True),
        "MLflow, a call a point": (details["mlflow_client"]["log_metric_points_per_s"], False),
        f"MLflow, {metrics} points a call": (details["mlflow_client"]["log_batch_a_step_points_per_s"], False),
        "MLflow, 1,000 points a call": (details["mlflow_client"]["log_batch_full_points_per_s"], False),
    }
    rows = [Bar(label=name, value=rate, low=rate, high=rate, is_ours=ours) for name, (rate, ours) in rates.items()]
    (directory / f"{NAME}.svg").write_text(bars("Points a second that arrive in MLflow", rows))
    arrivals = [Line(label="points in MLflow", points=details["end_to_end"]["curve"])]
    picture = curves("Arrival of what one loop reports", arrivals, x="seconds", y="points", is_log=False)
    (directory / f"{NAME}_arrival.svg").write_text(picture)


# ---- as fast as it can ----------------------------------------------------------------------------------------------


def saturate(client: Client, database: Path, directory: Path, *, points: int, metrics: int) -> dict[str, Any]:
    """Report ``points`` values, ``metrics`` a step, as fast as a loop can, and follow them into MLflow's database."""
    stamp = directory / f"saturate-{metrics}"
    steps = max(1, points // metrics)
    params = {"stamp": str(stamp), "steps": steps, "metrics": metrics, "width": 8, "batch": 8}
    before = _count(database)
    experiment = submit(client, "ingest", params)
    await_true("the first step", stamp.exists, timeout_s=RUN_S, every_s=0.02)
    began = float(stamp.read_text())
    curve: list[tuple[float, int]] = []
    while not curve or curve[-1][1] < steps * metrics:
        if time.time() - began > RUN_S:
            break
        time.sleep(0.25)
        curve.append((round(time.time() - began, 2), _count(database) - before))
    experiment.result(timeout=RUN_S)
    produced_s = sum(step_file(stamp))
    return {
        "points": curve[-1][1],
        "of": steps * metrics,
        "seconds": curve[-1][0],
        "points_per_s": round(curve[-1][1] / curve[-1][0], 1),
        "steady_points_per_s": steady_rate(curve),
        "produced_points_per_s": round(steps * metrics / produced_s, 1),
        "curve": curve,
    }


def steady_rate(curve: Sequence[tuple[float, int]]) -> float:
    """Points a second between a tenth and nine tenths of all points; 0 where that is one moment."""
    last = curve[-1][1]
    middle = [(at_s, count) for at_s, count in curve if 0.1 * last <= count <= 0.9 * last]
    if len(middle) < 2 or middle[-1][0] <= middle[0][0]:
        return 0.0
    return round((middle[-1][1] - middle[0][1]) / (middle[-1][0] - middle[0][0]), 1)


def _count(database: Path) -> int:
    """Points in MLflow's store; it is asked directly, since its REST interface would cost what is measured."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        return int(connection.execute(_COUNT).fetchone()[0])


# ---- what a step feels ----------------------------------------------------------------------------------------------


def _delays(client: Client, directory: Path, *, seconds: int, metrics: int) -> dict[str, Any]:
    work = _work_of(STEP_S, client, directory)
    silent: list[float] = []
    reporting: list[float] = []
    for turn in range(PAIRS):
        for found, count in ((silent, 0), (reporting, metrics)):
            stamp = directory / f"delay-{turn}-{count}"
            found += _step_times(client, stamp, {**work, "metrics": count, "seconds": seconds, "steps": 10**6})
    return compare(silent, reporting)


def _work_of(step_s: float, client: Client, directory: Path) -> dict[str, Any]:
    """Sizes of a step that takes about ``step_s`` where it will run."""
    trial = {"width": 512, "batch": 256, "metrics": 0}
    took = _step_times(client, directory / "trial", {**trial, "steps": 60})
    return {**trial, "batch": max(1, round(trial["batch"] * step_s / statistics.median(took)))}


def _step_times(client: Client, stamp: Path, params: Mapping[str, Any]) -> list[float]:
    submit(client, "steps", {**params, "stamp": str(stamp)}).result(timeout=RUN_S)
    return step_file(stamp)[UNSTEADY_STEPS:]


def compare(silent: Sequence[float], reporting: Sequence[float]) -> dict[str, Any]:
    """Delays as shares of the median step without reports; ``noise``: the same for that loop itself."""
    base = statistics.median(silent)

    def delays(steps: Sequence[float]) -> dict[str, float]:
        found = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: round(quantile(steps, share) / base - 1, 4) for name, share in found.items()}

    return {
        "worst": round(max(reporting) / base - 1, 4),
        "median_step_s": round(base, 5),
        "with_reports": delays(reporting),
        "noise": delays(silent),
        "mean_with_reports": round(statistics.fmean(reporting) / statistics.fmean(silent) - 1, 4),
        "steps": {"silent": len(silent), "reporting": len(reporting)},
    }

"""Many short trials through the whole stack: what is added to their own time, whether it grows, and what it takes.

Trials of ``WORK_MS`` milliseconds that only sleep, at random points, ``SLOTS`` at a time, in processes that are used
again; API, store and MLflow take in all of them. ``bookkeeping_share``: the sweep's time over trials x their time /
slots, less 1; from the first trial's beginning to the last one's end. ``TRIALS``.
"""

import sqlite3
import statistics
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks import record_trials
from benchmarks.chart import Line, curves
from benchmarks.harness import Measurement, size
from benchmarks.places import PROGRAMS, await_true, fairlead_stack, scratch, warm_up
from benchmarks.sweep_overhead import sweep
from fairlead.embedded import EmbeddedStack

NAME = "sweep_10k"
TRIALS, WORK_MS, SLOTS = 10_000, 500, 2
PARTS = 10
MB = 2**20
RECORDED_S = 1_800.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep10k:
    """``recorder_runs_per_s``: of as many trials that all wait; see ``record_trials``."""

    bookkeeping_share: float
    peak_mb: float
    """Of the largest of API, MLflow, agent and runner: resident."""
    recorder_runs_per_s: float


@dataclass(kw_only=True)
class Memory:
    """The largest that each process was, looked at every second."""

    stack: EmbeddedStack
    peak_mb: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator["Memory"]:
        """Look while the block runs."""
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            for name, pid in self._processes().items():
                try:
                    now = psutil.Process(pid).memory_info().rss / MB
                except psutil.NoSuchProcess:
                    continue
                self.peak_mb[name] = max(now, self.peak_mb.get(name, 0.0))

    def _processes(self) -> dict[str, int]:
        found = {name: self.stack.pid_of(name) for name in ("api", "mlflow", "agent")}
        runner = runner_pid()
        return found if runner is None else {**found, "runner": runner}


def runner_pid() -> int | None:
    """The process of a runner on this machine."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::Runner"):
            return int(process.info["pid"])
    return None


def measure() -> Measurement:
    """The sweep, and then the recorder by itself."""
    trials, work_ms, slots = size("TRIALS", TRIALS), size("WORK_MS", WORK_MS), size("SLOTS", SLOTS)
    with scratch() as directory, fairlead_stack(directory / "home") as (stack, client):
        warm_up(client, directory / "home")
        spec = sweep("many", {"sleep_s": work_ms / 1000}, trials=trials, slots=slots, reuse=True)
        with Memory(stack=stack).watched() as memory:
            experiment = client.submit(spec, code=PROGRAMS)
            experiment.result(timeout=60 + 5 * trials * work_ms / 1000 / slots)
            ended = [
                (one.started_at.timestamp(), one.ended_at.timestamp())
                for one in experiment.trials()
                if one.state == "succeeded" and one.started_at and one.ended_at
            ]
            database = next((directory / "home").rglob("mlflow.db"))
            await_true("all runs in MLflow", lambda: child_runs(database) == trials, timeout_s=RECORDED_S, every_s=1.0)
    recorder = record_trials.measure().result
    assert len(ended) == trials, "every trial must count"
    return conclude(sorted(ended), work_ms, slots, memory.peak_mb, recorder.recorder_runs_per_s)


def child_runs(database: Path) -> int:
    """Runs of trials that MLflow has, each with its end."""
    query = (
        "SELECT count(*) FROM tags JOIN runs ON runs.run_uuid = tags.run_uuid "
        "WHERE tags.key = 'mlflow.parentRunId' AND runs.end_time IS NOT NULL AND runs.lifecycle_stage = 'active'"
    )
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return int(connection.execute(query).fetchone()[0])


def conclude(
    ended: list[tuple[float, float]], work_ms: int, slots: int, peak_mb: Mapping[str, float], recorder: float
) -> Measurement:
    """From when each trial began and ended, in the order of their beginning."""
    trials, work_s = len(ended), work_ms / 1000
    ideal_s = trials * work_s / slots
    took_s = max(end for _, end in ended) - ended[0][0]
    result = Sweep10k(
        bookkeeping_share=took_s / ideal_s - 1, peak_mb=max(peak_mb.values()), recorder_runs_per_s=recorder
    )
    own_ms = [1000 * (end - began) for began, end in ended]
    details = {
        "wall_s": round(took_s, 2),
        "ideal_s": round(ideal_s, 2),
        "ms_beside_work_by_tenth": by_tenth(ended, work_s, slots),
        "ms_of_a_trial_in_its_slot": round(statistics.median(own_ms), 2),
        "peak_mb": {name: round(value, 1) for name, value in peak_mb.items()},
    }
    print(f"{trials} trials took {took_s:.1f} s, ideally {ideal_s:.1f} s", file=sys.stderr)
    return Measurement(result=result, sizes={"trials": trials, "work_ms": work_ms, "slots": slots}, details=details)


def by_tenth(ended: list[tuple[float, float]], work_s: float, slots: int) -> list[float]:
    """Milliseconds that a slot spends on a trial beside its work, for each tenth of the trials."""
    began = [one for one, _ in ended] + [max(end for _, end in ended)]
    places = [round(part * len(ended) / PARTS) for part in range(PARTS + 1)]
    spans = [(began[last] - began[first], last - first) for first, last in pairwise(places)]
    return [round(1000 * (span * slots / count - work_s), 2) for span, count in spans if count]


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    tenths = document["details"]["ms_beside_work_by_tenth"]
    points = [(100.0 * (place + 1) / len(tenths), max(0.0, value)) for place, value in enumerate(tenths)]
    title = f"What each of {document['sizes']['trials']:,} trials costs beside its work, as the sweep goes on"
    line = Line(label="random search, processes reused", points=points)
    picture = curves(title, [line], x="% of the trials", y="milliseconds", is_log=False)
    (directory / f"{NAME}.svg").write_text(picture)

"""How costs grow: calls and placement with the queue, starts and memory with workers, reports with metrics.

Each is a curve over its size and the exponent of a power law fitted through it, on one stack with two CPUs. ``QUEUED``,
``WORKERS``, ``METRICS``: the sizes, with commas between; ``RUNS``: starts for each number of workers; ``POINTS``: for
each number of metrics.
"""

import contextlib
import sqlite3
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chart import Line, curves
from benchmarks.fit import PowerLaw, power_law
from benchmarks.harness import Measurement, size, sizes
from benchmarks.memory import footprints, total_mb
from benchmarks.metric_ingest import saturate
from benchmarks.places import RUN_S, await_true, fairlead_stack, scratch, start_of, step_file, submit, warm_up
from fairlead import Client, Experiment
from fairlead.client import Stack
from fairlead.clock import SystemClock
from fairlead.control.dispatch import Dispatch
from fairlead.data import find_manifests
from fairlead.embedded.home import Home
from fairlead.embedded.processes import family
from fairlead.lifecycle import State
from fairlead.settings import ControlSettings
from fairlead.store import open_store

NAME = "growth"
QUEUED = (1, 10, 100, 1000)
WORKERS = (1, 2, 4, 8)
METRICS = (1, 10, 100, 1000)
POINTS = 20_000
RUNS = 3
CPUS = 2
CPUS_PER_WORKER = 0.2
"""So that eight workers are placed at once; they share two cores whatever Ray counts."""
TRIALS = 7
"""Calls of each kind that are timed."""
PAGE = 50
"""Experiments that the client asks for at once."""
PACED = {"steps": 100, "rest": 0.02, "width": 8, "batch": 8}
"""A loop that reports at leisure: what a report costs it, without a queue in front of the runner."""
LEAST_STEPS = 40
HELD = {"steps": 120, "rest": 0.05}
"""A loop that lasts some seconds, so that its workers can be looked at."""
SETTLE_S = 2.0
QUEUE_S = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """Exponents: 0 does not grow, 1 grows with the size. What the size is, the name says."""

    list_page_by_queued: float
    list_all_by_queued: float
    show_by_queued: float
    submit_by_queued: float
    tick_by_queued: float
    first_step_by_workers: float
    worker_pss_by_workers: float
    report_by_metrics: float
    points_per_s_by_metrics: float


TITLES: Mapping[str, str] = {
    "list_page_s": f"list {PAGE}",
    "list_all_s": "list all",
    "show_s": "show one",
    "submit_s": "submit one",
    "tick_s": "tick of dispatch",
    "first_step_s": "submit to first step, s",
    "pss_mb": "a worker, PSS, MB",
    "shared_mb": "a worker, shared, MB",
    "all_workers_pss_mb": "all workers, PSS, MB",
    "report_s": "a report, s",
    "saturated_step_s": "a step that only reports, s",
    "points_per_s": "points a second",
}
SIZES: Mapping[str, str] = {
    "queued": "experiments that wait",
    "workers": "workers",
    "metrics": "metrics a step",
}
FITTED: Mapping[str, tuple[str, str]] = {
    "list_page_by_queued": ("queued", "list_page_s"),
    "list_all_by_queued": ("queued", "list_all_s"),
    "show_by_queued": ("queued", "show_s"),
    "submit_by_queued": ("queued", "submit_s"),
    "tick_by_queued": ("queued", "tick_s"),
    "first_step_by_workers": ("workers", "first_step_s"),
    "worker_pss_by_workers": ("workers", "pss_mb"),
    "report_by_metrics": ("metrics", "report_s"),
    "points_per_s_by_metrics": ("metrics", "points_per_s"),
}
"""By the result's fields: which curve, and what of it."""

Point = dict[str, Any]


def measure() -> Measurement:
    """Metrics, workers, and the queue last, since it is left behind."""
    queued, workers, metrics = sizes("QUEUED", QUEUED), sizes("WORKERS", WORKERS), sizes("METRICS", METRICS)
    runs, points = size("RUNS", RUNS), size("POINTS", POINTS)
    for name, asked in (("QUEUED", queued), ("WORKERS", workers), ("METRICS", metrics)):
        if len(asked) < 2:
            raise ValueError(f"{name} needs two sizes to show any growth")
    with scratch() as directory:
        home = Home(path=directory / "home")
        with fairlead_stack(home.path, cpus=CPUS) as (stack, client):
            warm_up(client, home.path)
            found = {
                "metrics": [_with_metrics(client, home, directory, count, points) for count in metrics],
                "workers": [
                    _with_workers(client, stack.description, directory, count) for count in workers for _ in range(runs)
                ],
                "queued": _with_queue(client, home, directory, queued),
            }
    return conclude(
        found, {"queued": queued, "workers": workers, "metrics": metrics, "runs": runs, "points": points, "cpus": CPUS}
    )


def conclude(found: Mapping[str, Sequence[Point]], given: Mapping[str, Any]) -> Measurement:
    """The exponents, and the curves that they are of."""
    laws = {name: _law(found[of], of, what) for name, (of, what) in FITTED.items()}
    result = Growth(**{each.name: laws[each.name].exponent for each in fields(Growth)})
    details = {
        "curves": {of: list(points) for of, points in found.items()},
        "power_laws": {name: _rounded(law) for name, law in laws.items()},
    }
    return Measurement(result=result, sizes=given, details=details)


def _law(points: Sequence[Point], of: str, what: str) -> PowerLaw:
    return power_law([(point[of], point[what]) for point in points])


def _rounded(law: PowerLaw) -> dict[str, float | None]:
    return {name: value if value is None else float(f"{value:.4g}") for name, value in asdict(law).items()}


def medians(points: Sequence[Point], of: str, what: str) -> list[tuple[float, float]]:
    """One value for each size, in order."""
    found = sorted({point[of] for point in points})
    return [(each, statistics.median(point[what] for point in points if point[of] == each)) for each in found]


# ---- what is shown --------------------------------------------------------------------------------------------------


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """A picture for each size."""
    pictures = (
        ("queued", "seconds", ("list_page_s", "list_all_s", "show_s", "submit_s", "tick_s")),
        ("workers", "seconds or MB", ("first_step_s", "pss_mb", "shared_mb", "all_workers_pss_mb")),
        ("metrics", "seconds, or points a second", ("report_s", "saturated_step_s", "points_per_s")),
    )
    for of, y, names in pictures:
        points = document["details"]["curves"][of]
        lines = [Line(label=TITLES[name], points=medians(points, of, name)) for name in names]
        title = f"Growth with {SIZES[of]}"
        (directory / f"{NAME}_{of}.svg").write_text(curves(title, lines, x=SIZES[of], y=y))


def table(document: Mapping[str, Any]) -> str:
    """The section of the README: a table for each size, its last lines the exponents."""
    lines: list[str] = []
    for of, title in SIZES.items():
        points = document["details"]["curves"][of]
        names = [name for name in TITLES if name in points[0]]
        lines += ["", f"| {title} | {' | '.join(TITLES[name] for name in names)} |", "| --- " * (len(names) + 1) + "|"]
        columns = [dict(medians(points, of, name)) for name in names]
        for each in sorted(columns[0]):
            lines.append(f"| {each:,.0f} | {' | '.join(f'{column[each]:.3g}' for column in columns)} |")
        laws = {what: law for name, law in _laws(document) if (what := _fitted_as(name, of)) is not None}
        lines.append(f"| *exponent* | {' | '.join(_exponent(laws.get(name)) for name in names)} |")
    return "\n".join([*lines, ""]) + "\n"


def _laws(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float | None]]]:
    return [*document["details"]["power_laws"].items()]


def _fitted_as(name: str, of: str) -> str | None:
    return FITTED[name][1] if FITTED[name][0] == of else None


def _exponent(law: Mapping[str, float | None] | None) -> str:
    if law is None:
        return ""
    error = law["standard_error"]
    return f"{law['exponent']:.2f}" + ("" if error is None else f" ± {error:.2f}") + f"; last {law['last']:.2f}"


# ---- metrics a step -------------------------------------------------------------------------------------------------


def _with_metrics(client: Client, home: Home, directory: Path, count: int, points: int) -> Point:
    stamp = directory / f"paced-{count}"
    submit(client, "paced", {**PACED, "metrics": count, "stamp": str(stamp)}).result(timeout=RUN_S)
    taken = saturate(client, home.mlflow_database, directory, points=max(points, LEAST_STEPS * count), metrics=count)
    return {
        "metrics": count,
        "report_s": statistics.median(step_file(stamp, "reports")),
        "saturated_step_s": count / taken["produced_points_per_s"],
        "points_per_s": taken["points_per_s"],
    }


# ---- workers --------------------------------------------------------------------------------------------------------


def _with_workers(client: Client, stack: Stack, directory: Path, count: int) -> Point:
    stamp = directory / f"workers-{count}-{time.monotonic_ns()}"
    ranks = [Path(f"{stamp}.rank-{rank}") for rank in range(count)]
    began = time.time()
    params = {**HELD, "stamp": str(stamp)}
    experiment = submit(client, "workers", params, workers=count, cpus_per_worker=CPUS_PER_WORKER)
    await_true("the first step of every rank", lambda: all(each.exists() for each in ranks), timeout_s=RUN_S)
    time.sleep(SETTLE_S)
    workers = footprints(psutil.Process(int(each.read_text())) for each in ranks)
    whole = footprints(family(stack.processes, stack.marker))
    experiment.result(timeout=RUN_S)
    return {
        "workers": count,
        "first_step_s": round(float(stamp.read_text()) - began, 3),
        "pss_mb": round(statistics.fmean(each.pss_mb for each in workers), 1),
        "shared_mb": round(statistics.fmean(each.shared_mb for each in workers), 1),
        "all_workers_pss_mb": total_mb(workers),
        "whole_stack_pss_mb": total_mb(whole),
        "start": start_of(experiment),
    }


# ---- the queue ------------------------------------------------------------------------------------------------------


def _with_queue(client: Client, home: Home, directory: Path, counts: Sequence[int]) -> list[Point]:
    """One experiment holds a CPU, the others want both: they wait, and nothing else happens."""
    stamp = directory / "holder"
    holder = submit(client, "holder", {"steps": 10**6, "rest": 0.5, "stamp": str(stamp)})
    await_true("the first step of the one that holds a CPU", stamp.exists, timeout_s=RUN_S)
    waiting: list[Experiment] = []
    points: list[Point] = []
    for count in counts:
        waiting += [_submit_waiting(client) for _ in range(count - len(waiting))]
        _await_place(waiting[-1])
        points.append({"queued": count, **_calls(client, home, directory / f"queue-{count}.db", waiting)})
    began_s = time.monotonic()
    for each in waiting:
        each.cancel()
    await_true("the end of all", lambda: _is_empty(client), timeout_s=QUEUE_S)
    points[-1]["cancel_all_s"] = round(time.monotonic() - began_s, 3)
    holder.cancel()
    return points


def _submit_waiting(client: Client) -> Experiment:
    spec = {
        "name": "waiting",
        "workload": "tabular_mlp",
        "data": {"uri": "builtin://diabetes"},
        "resources": {"workers": CPUS},
    }
    return client.submit(spec)


def _await_place(experiment: Experiment) -> None:
    """Wait until a tick has looked at it and said what it waits for."""
    await_true("its place", lambda: experiment.refresh().view.waiting is not None, timeout_s=QUEUE_S)


def _is_empty(client: Client) -> bool:
    return next(client.list(state=State.QUEUED, limit=1), None) is None


def _calls(client: Client, home: Home, copy: Path, waiting: Sequence[Experiment]) -> Point:
    """Seconds of each call, medians. The submits come last: each makes the queue longer until it is taken back."""
    found = {
        "list_page_s": timed(lambda: [*islice(client.list(limit=PAGE), PAGE)]),
        "list_all_s": timed(lambda: [*client.list(state=State.QUEUED, limit=PAGE)]),
        "show_s": timed(lambda: client.get(waiting[len(waiting) // 2].id)),
        "tick_s": tick_s(home, copy),
    }
    extra: list[Experiment] = []
    found["submit_s"] = timed(lambda: extra.append(_submit_waiting(client)))
    for each in extra:
        each.cancel()
    await_true("their end", lambda: all(each.done() for each in extra), timeout_s=QUEUE_S)
    return found


def timed(call: Callable[[], object], *, trials: int = TRIALS) -> float:
    """Seconds of a call: the median of some, after one that is not counted."""
    seconds = []
    for _ in range(trials + 1):
        began_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began_s)
    return statistics.median(seconds[1:])


def tick_s(home: Home, copy: Path) -> float:
    """Seconds of a tick that finds nothing to place, on a copy of the database: its own server holds the original."""
    with (
        contextlib.closing(sqlite3.connect(home.database, timeout=10)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    settings = ControlSettings(
        database_url=f"sqlite:///{copy}",
        storage=home.storage,
        mlflow_url="http://127.0.0.1:9",  # nobody: a tick of dispatch asks nobody
        secret_key_file=home.secret_key_file,
        agent_ttl_s=QUEUE_S,
    )
    with contextlib.closing(open_store(settings.database_url)) as store:
        tick = Dispatch(store=store, clock=SystemClock(), settings=settings, manifests=find_manifests())
        return timed(tick)

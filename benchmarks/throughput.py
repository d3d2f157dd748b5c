"""Training speed on the platform, with values every step and checkpoints every epoch, as a share of torchrun's.

torchrun saves the same checkpoints and reports nothing. Two questions: against torchrun on a machine without any stack,
which runs before, between and after; and, in turn with ours, against torchrun beside the same idle stack, as a cluster
sees it whose control plane is elsewhere. ``STEPS``: of each run; ``RUNS``: of each of the three, for 1 and 2 workers.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chart import Bar, bars
from benchmarks.harness import Measurement, size, spread
from benchmarks.places import RUN_S, alone, fairlead_stack, scratch, step_file, submit, warm_up
from fairlead import Client

NAME = "throughput"
STEPS = 1000
RUNS = 5
STACKS = 2
"""How often a stack is started: torchrun's runs without one lie on all sides of it."""
EPOCH_STEPS = 250
UNSTEADY_STEPS = 10
WORKERS = (1, 2)
WORK = {"width": 1024, "batch": 256, "metrics": 2, "checkpoint_every": EPOCH_STEPS}

Run = Callable[[dict[str, Any], int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """Steps a second on the platform over those of torchrun, by number of workers."""

    ratio_1: float
    """Medians; torchrun has the machine for itself."""
    ratio_2: float
    beside_1: float
    """The median of pairs that ran one after the other, both beside an idle stack."""
    beside_2: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Steps a second of every run. ``beside`` and ``ours`` with the same place in the list are a pair."""

    bare: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)


def measure() -> Measurement:
    """Without a stack, with one, without, with one, without."""
    steps, runs = size("STEPS", STEPS), size("RUNS", RUNS)
    stacks = min(STACKS, runs)
    bare_runs, pairs = shares(max(2, runs), stacks + 1), shares(runs, stacks)
    found = {workers: Rates() for workers in WORKERS}
    with scratch() as directory:
        timed = Timed(directory, steps)
        for number in range(stacks):
            _run_bare(found, bare_runs[number], timed)
            home = directory / f"home-{number}"
            with fairlead_stack(home) as (_, client):
                warm_up(client, home)
                _run_pairs(found, pairs[number], timed, _on_platform(client))
        _run_bare(found, bare_runs[stacks], timed)
    return conclude(found, {"steps": steps, "runs": runs, "stacks": stacks, **WORK})


def shares(count: int, slots: int) -> list[int]:
    """``count`` runs spread over ``slots`` as evenly as whole numbers allow."""
    return [count * (slot + 1) // slots - count * slot // slots for slot in range(slots)]


def conclude(found: Mapping[int, Rates], sizes: Mapping[str, Any]) -> Measurement:
    """The ratios, with their spread."""
    ratios = {workers: against(rates.ours, rates.bare) for workers, rates in found.items()}
    beside = {workers: pairwise(rates.ours, rates.beside) for workers, rates in found.items()}
    result = Throughput(
        ratio_1=statistics.median(ratios[1]),
        ratio_2=statistics.median(ratios[2]),
        beside_1=statistics.median(beside[1]),
        beside_2=statistics.median(beside[2]),
    )
    details = {
        "ratio": _by_workers(ratios),
        "beside": _by_workers(beside),
        "fairlead_steps_per_s": _by_workers({workers: each.ours for workers, each in found.items()}),
        "torchrun_steps_per_s": _by_workers({workers: each.bare for workers, each in found.items()}),
        "torchrun_beside_steps_per_s": _by_workers({workers: each.beside for workers, each in found.items()}),
        "runs": {
            str(workers): {
                "fairlead": _rounded(each.ours),
                "torchrun": _rounded(each.bare),
                "torchrun_beside": _rounded(each.beside),
            }
            for workers, each in found.items()
        },
    }
    return Measurement(result=result, sizes=sizes, details=details)


def against(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Each of ours over the median of theirs."""
    return [each / statistics.median(theirs) for each in ours]


def pairwise(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Each of ours over the one of theirs that ran next to it: what slows both for a while cancels out."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def _by_workers(found: Mapping[int, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {str(workers): spread(values) for workers, values in found.items()}


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(each, 3) for each in values]


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    titles = {"ratio": "torchrun alone", "beside": "torchrun beside"}
    rows = [
        Bar(
            label=f"{workers} worker{'s' * (workers != '1')}, {titles[name]}",
            value=found["p50"],
            low=found["min"],
            high=found["max"],
        )
        for name in titles
        for workers, found in document["details"][name].items()
    ]
    (directory / f"{NAME}.svg").write_text(bars("Steps a second over those of torchrun: median, least, most", rows))


# ---- runs -----------------------------------------------------------------------------------------------------------


class Timed:
    """Runs a way of training and reads how fast it was."""

    def __init__(self, directory: Path, steps: int) -> None:
        self._directory = directory
        self._steps = steps
        self._count = 0

    def rate(self, run: Run, workers: int) -> float:
        """Steps a second; the first steps do not count."""
        self._count += 1
        stamp = self._directory / f"run-{self._count}"
        run({**WORK, "steps": self._steps, "stamp": str(stamp)}, workers)
        counted = step_file(stamp)[UNSTEADY_STEPS:]
        return len(counted) / sum(counted)


def _under_torchrun(params: dict[str, Any], workers: int) -> None:
    alone(params, workers=workers)


def _on_platform(client: Client) -> Run:
    def run(params: dict[str, Any], workers: int) -> None:
        submit(client, "throughput", params, workers=workers).result(timeout=RUN_S)

    return run


def _run_bare(found: Mapping[int, Rates], count: int, timed: Timed) -> None:
    for _ in range(count):
        for workers, rates in found.items():
            rates.bare.append(timed.rate(_under_torchrun, workers))


def _run_pairs(found: Mapping[int, Rates], count: int, timed: Timed, on_platform: Run) -> None:
    """Each pair the other way round than the one before: a machine that slowly changes favours neither."""
    for number in range(count):
        for workers, rates in found.items():
            turns = [(rates.beside, _under_torchrun), (rates.ours, on_platform)]
            for values, run in turns if number % 2 == 0 else reversed(turns):
                values.append(timed.rate(run, workers))

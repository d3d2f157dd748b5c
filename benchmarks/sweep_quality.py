"""What sweeps find: each algorithm against Optuna used plainly, early stopping against full training, TPE's history.

An algorithm is driven as a sweep drives it: one trial at a time, four at a time that end in any order, and with the
runner killed in the middle and everything rebuilt from the trials. Optuna's own ``study.optimize`` with the same
sampler, seed and number of trials has the same objective; four at a time it is asked and told by hand. Regret is how
far the best is above the least there is, of two objectives how much hypervolume is missing. ``SEEDS``: pairs of each;
``TRIALS``: of a sweep; ``LONG``: trials for TPE's history; ``LONG_SEEDS``: of these; ``PROCESSES``.
"""

import logging
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from benchmarks.harness import Measurement, size, spread
from benchmarks.search_tasks import (
    EPOCHS,
    FUNCTIONS,
    ZDT1,
    Costs,
    Curves,
    Task,
    learning_curves,
    support_vectors,
)
from fairlead.search import space
from fairlead.search.proposals import Proposals
from fairlead.search.stopping import Stop, stopping
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import DimensionSpec, SearchSpec

_T = TypeVar("_T")
NAME = "sweep_quality"
ALGORITHMS = ("random", "tpe", "gp", "cma_es", "qmc", "nsga2")
WAYS = ("one", "four", "killed")
"""One trial at a time, four at a time, and one at a time but killed in the middle."""
CAPS = (100, 300, 1_000)
ALL = 100_000
GP_TRIALS = 16
NSGA2_TRIALS = 200
POPULATION = 20
REFERENCE = (1.1, 10.0)
"""The worst corner of ZDT1 that counts; with it the front of ZDT1 dominates 9 2/3 + 1."""
WHOLE = 9 + 2 / 3 + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepQuality:
    """By algorithm: the median over pairs of our regret over Optuna's, of the three ways the largest."""

    random: float
    tpe: float
    gp: float
    cma_es: float
    qmc: float
    nsga2: float
    asha_gap: float
    """By how much the best accuracy is below that of full training, as a share of it, the median over seeds."""
    asha_epochs: float
    """Epochs that were run, as a share of those of full training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One sweep of ours and one of Optuna's."""

    algorithm: str
    task: str
    way: str
    seed: int
    ours: float
    theirs: float
    resolution: float

    @property
    def ratio(self) -> float:
        """Of the regrets; below one ours is better."""
        return (self.ours + self.resolution) / (self.theirs + self.resolution)


def measure() -> Measurement:
    """Train the tables, run all pairs, stop early, and vary TPE's history."""
    given = {
        "seeds": size("SEEDS", 20),
        "trials": size("TRIALS", 40),
        "long": size("LONG", 2_000),
        "long_seeds": size("LONG_SEEDS", 3),
        "processes": size("PROCESSES", 2),
    }
    began = time.perf_counter()
    with _pool(given["processes"]) as pool:
        curves = learning_curves(pool, rates=10, penalties=3, widths=(8, 32, 64))
        tables = [
            curves.table,
            support_vectors(pool, "breast cancer", side=16),
            support_vectors(pool, "digits", side=12),
        ]
        _say(f"{curves.errors[..., 0].size} networks and {sum(t.errors.size for t in tables[1:])} SVMs", began)
        tasks = [*FUNCTIONS, *(table.task for table in tables)]
        pairs = list(pool.map(_pair, _asked(tasks, given["seeds"], given["trials"]), chunksize=4))
        _say(f"{len(pairs)} pairs of sweeps", began)
        stopped = [early_stopping(curves, seed, at_a_time) for at_a_time in (1, 4) for seed in range(given["seeds"])]
        histories = list(pool.map(partial(_history, given["long"]), _histories(given["long_seeds"])))
        _say(f"{len(histories)} sweeps of {given['long']} trials", began)
    return conclude(pairs, stopped, histories, {cap: _cost_at(10_000, cap) for cap in (*CAPS, ALL)}, given)


def _pool(processes: int) -> Executor:
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork"), initializer=_quiet)


def _quiet() -> None:
    """Of each process: one thread, and no word."""
    import optuna
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(logging.ERROR)


def _say(what: str, began: float) -> None:
    print(f"{what}: {time.perf_counter() - began:.0f} s since the beginning", flush=True)


# ---- pairs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """One pair to run."""

    algorithm: str
    task: Task
    way: str
    seed: int
    trials: int


def _asked(tasks: Sequence[Task], seeds: int, trials: int) -> Iterator[_Asked]:
    for algorithm in ALGORITHMS:
        for task in tasks_of(algorithm, tasks):
            count = {"gp": min(GP_TRIALS, trials), "nsga2": NSGA2_TRIALS}.get(algorithm, trials)
            for way in WAYS:
                for seed in range(seeds):
                    yield _Asked(algorithm=algorithm, task=task, way=way, seed=seed, trials=count)


def tasks_of(algorithm: str, tasks: Sequence[Task]) -> list[Task]:
    """Those that it is measured on: a proposal of a Gaussian process costs a fifth of a second."""
    if algorithm == "nsga2":
        return [ZDT1]
    return [task for task in tasks if task.name == "Branin"] if algorithm == "gp" else list(tasks)


def _pair(asked: _Asked) -> Pair:
    task = asked.task
    ours = regret(task, sweep(asked.algorithm, task, asked.way, seed=asked.seed, trials=asked.trials))
    theirs = regret(task, plainly(asked.algorithm, task, asked.way, seed=asked.seed, trials=asked.trials))
    return Pair(
        algorithm=asked.algorithm,
        task=task.name,
        way=asked.way,
        seed=asked.seed,
        ours=ours,
        theirs=theirs,
        resolution=task.resolution,
    )


def search_of(algorithm: str, task: Task, *, history: int | None = None) -> SearchSpec:
    """A spec as a user would write it."""
    chosen: dict[str, Any] = {"name": algorithm}
    if history is not None:
        chosen["history"] = history
    if algorithm == "nsga2":
        chosen["population"] = POPULATION
    objectives = [{"minimize": f"cost/{number}"} for number in range(2 if algorithm == "nsga2" else 1)]
    return from_mapping(SearchSpec, {"space": dict(task.space), "objectives": objectives, "algorithm": chosen})


def sweep(algorithm: str, task: Task, way: str, *, seed: int, trials: int) -> list[Costs]:
    """Costs in the order in which trials ended."""
    search = search_of(algorithm, task)
    if way != "killed":
        return [trial.values for trial in _driven(search, task, 4 if way == "four" else 1, seed, range(trials), [])]
    first = list(_driven(search, task, 1, seed, range(trials // 2), []))
    rest = _driven(search, task, 1, seed, range(trials // 2, trials), first)
    return [trial.values for trial in (*first, *rest)]


def _driven(
    search: SearchSpec, task: Task, at_a_time: int, seed: int, numbers: Iterable[int], before: Sequence[Trial]
) -> Iterator[Trial]:
    proposals, running = Proposals(search, seed=seed, trials=before), dict[int, Mapping[str, Any]]()

    def begin(no: int) -> None:
        point = proposals.propose(no)
        assert point is not None, "only a grid comes to an end"
        running[no] = point

    def finish(no: int) -> Trial:
        point = running.pop(no)
        trial = Trial(no=no, point=point, state=TrialState.SUCCEEDED, values=task.cost(point))
        proposals.tell(trial)
        return trial

    yield from in_any_order(numbers, at_a_time, seed, begin, finish)


def in_any_order(
    numbers: Iterable[int], at_a_time: int, seed: int, begin: Callable[[int], None], finish: Callable[[int], _T]
) -> Iterator[_T]:
    """Keep so many running; which of them ends next is drawn."""
    random, running = np.random.default_rng(seed), list[int]()
    for no in numbers:
        if len(running) == at_a_time:
            yield finish(running.pop(int(random.integers(at_a_time))))
        begin(no)
        running.append(no)
    for no in running:
        yield finish(no)


def plainly(algorithm: str, task: Task, way: str, *, seed: int, trials: int) -> list[Costs]:
    """The same by Optuna alone."""
    import optuna

    search = search_of(algorithm, task)
    samplers = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
        "cma_es": optuna.samplers.CmaEsSampler,
        "qmc": partial(optuna.samplers.QMCSampler, scramble=True),
        "nsga2": partial(optuna.samplers.NSGAIISampler, population_size=POPULATION),
    }
    study = optuna.create_study(
        directions=["minimize"] * len(search.objectives), sampler=samplers[algorithm](seed=seed)
    )

    def point_of(trial: optuna.Trial) -> dict[str, Any]:
        return space.draw(search, partial(_suggest, trial))

    if way != "four":
        study.optimize(lambda trial: task.cost(point_of(trial)), n_trials=trials)
    else:
        running = dict[int, tuple[Any, Costs]]()

        def begin(no: int) -> None:
            trial = study.ask()
            running[no] = trial, task.cost(point_of(trial))

        def finish(no: int) -> None:
            study.tell(*running.pop(no))

        list(in_any_order(range(trials), 4, seed, begin, finish))
    return [tuple(trial.values) for trial in study.trials]


def _suggest(trial: Any, name: str, dimension: DimensionSpec) -> Any:
    if dimension.choice is not None:
        return trial.suggest_categorical(name, dimension.choice)
    low, high = dimension.bounds
    suggest = trial.suggest_int if dimension.is_whole else trial.suggest_float
    return suggest(
        name, int(low) if dimension.is_whole else low, int(high) if dimension.is_whole else high, log=dimension.is_log
    )


def regret(task: Task, costs: Sequence[Costs]) -> float:
    """How far the best lies above the least there is; of two objectives the hypervolume that is missing."""
    if len(costs[0]) == 1:
        return min(cost for (cost,) in costs) - task.least
    corner, volume = REFERENCE[1], 0.0
    for x, y in sorted(costs):
        if x < REFERENCE[0] and y < corner:
            volume, corner = volume + (REFERENCE[0] - x) * (corner - y), y
    return WHOLE - volume


# ---- early stopping -------------------------------------------------------------------------------------------------


def early_stopping(curves: Curves, seed: int, at_a_time: int) -> dict[str, float]:
    """ASHA over all networks in an order of its own: epochs run, and the accuracy that was found, as shares."""
    errors = curves.errors.reshape(-1, EPOCHS)
    errors = errors[np.random.default_rng(seed).permutation(len(errors))]
    asha = {"asha": {"max_resource": EPOCHS, "grace": 2}}
    search = from_mapping(
        SearchSpec,
        {"space": {"x": {"uniform": [0, 1]}}, "objectives": [{"minimize": "error"}], "early_stopping": asha},
    )
    rule, ran, ended = stopping(search, seed=seed), 0, list[float]()
    waiting, running = list(range(len(errors))), dict[int, int]()
    while waiting or running:
        while waiting and len(running) < at_a_time:
            running[waiting.pop(0)] = 0
        for no in list(running):
            running[no] += 1
            ran += 1
            verdict = rule.judge(no, running[no], float(errors[no, running[no] - 1]))
            if running[no] == EPOCHS:
                ended.append(float(errors[no, -1]))
            if running[no] == EPOCHS or isinstance(verdict, Stop):
                del running[no]
    best = 1 - float(errors[:, -1].min())
    return {"at_a_time": at_a_time, "epochs": ran / errors.size, "gap": (best - (1 - min(ended))) / best}


# ---- the history of TPE ---------------------------------------------------------------------------------------------


def _histories(seeds: int) -> list[tuple[Task, int, int]]:
    tasks = [task for task in FUNCTIONS if task.name == "Ackley-5"]
    return [(task, cap, seed) for cap in reversed(CAPS) for task in tasks for seed in range(seeds)]


def _history(trials: int, asked: tuple[Task, int, int]) -> dict[str, Any]:
    task, cap, seed = asked
    began = time.process_time()
    costs = [trial.values for trial in _driven(search_of("tpe", task, history=cap), task, 1, seed, range(trials), [])]
    spent = time.process_time() - began
    return {
        "task": task.name,
        "cap": cap,
        "seed": seed,
        "proposal_ms": 1000 * spent / trials,
        "regret": regret(task, costs),
        "regret_half": regret(task, costs[: trials // 2]),
    }


def _cost_at(trials: int, cap: int) -> float:
    """Milliseconds of processor time for a proposal when there are so many trials."""
    task = FUNCTIONS[2]
    random = np.random.default_rng(0)
    points = [
        {f"x{axis}": float(value) for axis, value in enumerate(row)} for row in random.uniform(-32, 32, (trials, 5))
    ]
    before = [
        Trial(no=no, point=point, state=TrialState.SUCCEEDED, values=task.cost(point))
        for no, point in enumerate(points)
    ]
    proposals, many = Proposals(search_of("tpe", task, history=cap), seed=0, trials=before), 20
    began = time.process_time()
    for no in range(trials, trials + many):
        proposals.propose(no)
    return 1000 * (time.process_time() - began) / many


# ---- what it comes to -----------------------------------------------------------------------------------------------


def conclude(
    pairs: Sequence[Pair],
    stopped: Sequence[Mapping[str, float]],
    histories: Sequence[Mapping[str, Any]],
    cost_at_10k: Mapping[int, float],
    given: Mapping[str, Any],
) -> Measurement:
    """The numbers that are promised, and all others."""
    compared = [_compared(pairs, algorithm, way) for algorithm in ALGORITHMS for way in WAYS]
    worst = {name: max(c["ratio"] for c in compared if c["algorithm"] == name) for name in ALGORITHMS}
    gaps, epochs = [one["gap"] for one in stopped], [one["epochs"] for one in stopped]
    result = SweepQuality(**worst, asha_gap=float(np.median(gaps)), asha_epochs=float(np.median(epochs)))
    details = {
        "compared": compared,
        "by_task": _by_task(pairs),
        "pairs": [asdict(pair) for pair in pairs],
        "asha": {
            str(many): {
                "gap": spread([one["gap"] for one in stopped if one["at_a_time"] == many]),
                "epochs": spread([one["epochs"] for one in stopped if one["at_a_time"] == many]),
            }
            for many in sorted({int(one["at_a_time"]) for one in stopped})
        },
        "histories": list(histories),
        "proposal_ms_at_10000": {str(cap): round(cost, 2) for cap, cost in cost_at_10k.items()},
    }
    for one in compared:
        print(
            f"{one['algorithm']:8s}{one['way']:8s}ratio {one['ratio']:.3f}, better {one['better']}, "
            f"worse {one['worse']} of {one['pairs']}, p {one['p_worse']:.2f} that it is worse"
        )
    print(f"ASHA: {result.asha_epochs:.2f} of the epochs, accuracy {result.asha_gap:.2%} below the best")
    return Measurement(result=result, sizes=given, details=details)


def _compared(pairs: Sequence[Pair], algorithm: str, way: str) -> dict[str, Any]:
    """One-sided Wilcoxon test of the ratios' logarithms: small where ours is worse by more than chance."""
    from scipy.stats import wilcoxon

    ratios = np.array([pair.ratio for pair in pairs if (pair.algorithm, pair.way) == (algorithm, way)])
    logs = np.log(ratios)
    return {
        "algorithm": algorithm,
        "way": way,
        "ratio": float(np.median(ratios)),
        "better": int((logs < -1e-9).sum()),
        "worse": int((logs > 1e-9).sum()),
        "pairs": len(ratios),
        "p_worse": float(wilcoxon(logs, alternative="greater").pvalue) if np.abs(logs).max() > 1e-9 else 1.0,
    }


def _by_task(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    keys = dict.fromkeys((pair.algorithm, pair.task, pair.way) for pair in pairs)
    found = []
    for algorithm, task, way in keys:
        ours = [pair for pair in pairs if (pair.algorithm, pair.task, pair.way) == (algorithm, task, way)]
        found.append(
            {
                "algorithm": algorithm,
                "task": task,
                "way": way,
                "ours": float(np.median([pair.ours for pair in ours])),
                "theirs": float(np.median([pair.theirs for pair in ours])),
                "ratio": float(np.median([pair.ratio for pair in ours])),
            }
        )
    return found


def table(document: Mapping[str, Any]) -> str:
    """Each algorithm in each way, and TPE's history."""
    details = document["details"]
    lines = ["", "| algorithm | one at a time | four at a time | killed in the middle |", "| --- | --- | --- | --- |"]
    for algorithm in ALGORITHMS:
        found = {each["way"]: each for each in details["compared"] if each["algorithm"] == algorithm}
        lines.append(f"| {algorithm} | " + " | ".join(_cell(found[way]) for way in WAYS) + " |")
    lines += ["", *_history_lines(document), ""]
    return "\n".join(lines) + "\n"


def _cell(one: Mapping[str, Any]) -> str:
    return f"{one['ratio']:.3f}; {one['better']} better, {one['worse']} worse of {one['pairs']}; p {one['p_worse']:.2f}"


def _history_lines(document: Mapping[str, Any]) -> Iterator[str]:
    details, trials = document["details"], document["sizes"]["long"]
    tasks = list(dict.fromkeys(each["task"] for each in details["histories"]))
    half = "".join(f" regret {task}, {trials // 2:,} / {trials:,} trials |" for task in tasks)
    yield f"| TPE's history | ms a proposal, mean of {trials:,} | ms a proposal at 10,000 |{half}"
    yield "| --- " * (3 + len(tasks)) + "|"
    for cap in CAPS:
        rows = [each for each in details["histories"] if each["cap"] == cap]
        cost = float(np.mean([each["proposal_ms"] for each in rows]))
        cells = ""
        for task in tasks:
            ours = [each for each in rows if each["task"] == task]
            ends = [float(np.median([each[key] for each in ours])) for key in ("regret_half", "regret")]
            cells += f" {ends[0]:.3g} / {ends[1]:.3g} |"
        yield f"| {cap:,} | {cost:.1f} | {details['proposal_ms_at_10000'][str(cap)]:.0f} |{cells}"
    yield f"| all | | {details['proposal_ms_at_10000'][str(ALL)]:.0f} |" + " |" * len(tasks)

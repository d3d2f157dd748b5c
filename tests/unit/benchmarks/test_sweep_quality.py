import math

import numpy as np
import pytest
from benchmarks import search_tasks, sweep_quality
from benchmarks.search_tasks import EPOCHS, FUNCTIONS, ZDT1, Curves, Table
from benchmarks.sweep_quality import (
    ALL,
    CAPS,
    WAYS,
    Pair,
    conclude,
    early_stopping,
    in_any_order,
    plainly,
    regret,
    sweep,
    table,
)

BEST = {
    "Branin": {"x": math.pi, "y": 2.275},
    "Hartmann-6": dict(
        zip([f"x{axis}" for axis in range(6)], (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573), strict=True)
    ),
    "Ackley-5": {f"x{axis}": 0.0 for axis in range(5)},
    "Rosenbrock-4": {f"x{axis}": 1.0 for axis in range(4)},
    "conditional": {"rate": 0.01, "kind": "deep", "depth": 5, "drop": 0.3},
}


@pytest.mark.parametrize("task", FUNCTIONS, ids=lambda task: task.name)
def test_the_least_of_each_function_is_where_it_is_published(task: search_tasks.Task) -> None:
    assert regret(task, [task.cost(BEST[task.name])]) == pytest.approx(0, abs=1e-5)
    assert regret(task, [task.cost(BEST[task.name])]) > -1e-9


def test_the_whole_front_leaves_no_hypervolume_out() -> None:
    front = [ZDT1.cost({f"x{axis}": 0.0 for axis in range(8)} | {"x0": float(x)}) for x in np.linspace(0, 1, 2001)]
    assert regret(ZDT1, front) == pytest.approx(0, abs=2e-3)
    assert regret(ZDT1, [*front, (2.0, 0.0), (0.5, 9.0)]) == regret(ZDT1, front)
    assert regret(ZDT1, [(2.0, 0.0)]) == sweep_quality.WHOLE


def test_four_run_at_a_time_and_end_in_any_order() -> None:
    running: set[int] = set()
    most = []

    def finish(no: int) -> int:
        most.append(len(running))
        running.remove(no)
        return no

    ended = list(in_any_order(range(20), 4, 0, running.add, finish))
    assert sorted(ended) == list(range(20))
    assert ended != list(range(20))
    assert max(most) == 4
    assert list(in_any_order(range(5), 1, 0, running.add, finish)) == list(range(5))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("algorithm", ["random", "cma_es"])
def test_what_draws_the_same_numbers_finds_the_same(algorithm: str, way: str) -> None:
    ours = sweep(algorithm, FUNCTIONS[0], way, seed=3, trials=12)
    assert sorted(ours) == sorted(plainly(algorithm, FUNCTIONS[0], way, seed=3, trials=12))


def test_a_table_is_looked_up() -> None:
    task = Table(name="t", rows=100, errors=np.array([[0.3, 0.2], [0.1, 0.4]])).task
    assert (task.least, task.resolution) == (0.1, 0.01)
    assert task.cost({"x0": 1, "x1": 1}) == (0.4,)


def test_early_stopping_saves_epochs_and_keeps_what_is_best_from_the_beginning() -> None:
    levels = np.random.default_rng(0).random(60)
    errors = np.repeat(levels[:, None], EPOCHS, axis=1).reshape(10, 3, 2, EPOCHS)
    for at_a_time in (1, 4):
        found = early_stopping(Curves(errors=errors, rows=100), 0, at_a_time)
        assert found["gap"] == 0
        assert found["epochs"] < 1 / 2


def test_of_three_ways_the_worst_is_promised_and_the_readme_has_them_all() -> None:
    def pair(algorithm: str, way: str, ours: float, seed: int) -> Pair:
        return Pair(algorithm=algorithm, task="t", way=way, seed=seed, ours=ours, theirs=1.0, resolution=0.0)

    pairs = [
        pair(algorithm, way, 2.0 if (algorithm, way) == ("tpe", "killed") else 1.0, seed)
        for algorithm in sweep_quality.ALGORITHMS
        for way in WAYS
        for seed in range(8)
    ]
    stopped = [{"at_a_time": 1, "epochs": 0.2, "gap": 0.001}]
    history = {"task": "t", "seed": 0, "proposal_ms": 5.0, "regret": 0.25, "regret_half": 0.5}
    measurement = conclude(
        pairs, stopped, [history | {"cap": cap} for cap in CAPS], dict.fromkeys((*CAPS, ALL), 7.0), {"long": 2000}
    )
    assert measurement.result.tpe == 2
    assert measurement.result.random == 1
    killed = next(c for c in measurement.details["compared"] if (c["algorithm"], c["way"]) == ("tpe", "killed"))
    assert (killed["worse"], killed["better"]) == (8, 0)
    assert killed["p_worse"] < 0.01
    written = table({"details": measurement.details, "sizes": measurement.sizes})
    assert "2.000; 0 better, 8 worse of 8; p 0.00" in written
    assert "| 1,000 | 5.0 | 7 | 0.5 / 0.25 |" in written
    assert "| all | | 7 | |" in written

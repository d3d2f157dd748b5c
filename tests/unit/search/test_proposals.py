"""What is proposed: from the seed, from the rows after a stop, and as good as Optuna by itself."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
import optuna
import pytest

from fairlead.errors import BadSpec
from fairlead.search.proposals import Proposals, says_something
from fairlead.search.space import problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import ALGORITHMS, SearchSpec

PLANE = {"x": {"uniform": [-5, 5]}, "y": {"uniform": [-5, 5]}}
MIXED = {
    "x": {"uniform": [-5, 5]},
    "rate": {"log_uniform": [1e-4, 1]},
    "layers": {"int": [1, 9], "step": 2},
    "width": {"log_int": [1, 64]},
    "drop": {"uniform": [0, 0.35], "step": 0.1},
    "hidden": {"choice": [[16], [32, 32], None, True, "a"]},
    "momentum": {"uniform": [0, 1], "when": {"optimizer": ["sgd"]}},
    "optimizer": {"choice": ["sgd", "adam"]},
}


def a_search(algorithm: Any = "tpe", space: dict[str, Any] | None = None, **changes: Any) -> SearchSpec:
    given = {"space": space or PLANE, "objectives": [{"minimize": "loss"}], "algorithm": algorithm, **changes}
    return from_mapping(SearchSpec, given)


def bowl(point: Any) -> float:
    return float((point["x"] - 1) ** 2 + (point.get("y", 0) + 2) ** 2)


def ended(no: int, point: Any, *values: float, **changes: Any) -> Trial:
    return Trial(no=no, point=point, values=values, **{"state": TrialState.SUCCEEDED, **changes})


def run(proposals: Proposals, numbers: range) -> list[Trial]:
    trials = []
    for no in numbers:
        point = proposals.propose(no)
        assert point is not None
        trials.append(ended(no, point, bowl(point)))
        proposals.tell(trials[-1])
    return trials


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "grid"])
def test_every_proposal_lies_in_the_space_whatever_it_is_made_of(algorithm: str) -> None:
    search = a_search({"name": "gp", "startup_trials": 3} if algorithm == "gp" else algorithm, MIXED)
    proposals = Proposals(search, seed=5)
    for no in range(5 if algorithm == "gp" else 24):  # whose proposals take half a second here
        point = proposals.propose(no)
        assert point is not None
        assert problems_with_point(search, point) == ()
        proposals.tell(ended(no, point, point["x"] ** 2 + point["layers"]))


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "grid"])
def test_a_seed_says_everything(algorithm: str) -> None:
    first, second = (run(Proposals(a_search(algorithm), seed=7), range(12)) for _ in range(2))
    assert first == second
    assert run(Proposals(a_search(algorithm), seed=8), range(3)) != first[:3]


@pytest.mark.parametrize("space", [PLANE, MIXED], ids=["plane", "mixed"])
@pytest.mark.parametrize(
    "algorithm",
    [
        "random",
        "cma_es",
        "qmc",
        {"name": "nsga2", "population": 6},
        {"name": "optuna:optuna.samplers:TPESampler", "options": {"seed": 4}},
    ],
    ids=["random", "cma_es", "qmc", "nsga2", "one's own"],
)
def test_what_is_led_through_its_trials_goes_on_as_if_nothing_had_happened(algorithm: Any, space: Any) -> None:
    search = a_search(algorithm, space)
    unbroken = run(Proposals(search, seed=3), range(32))
    for cut in (1, 4, 6, 20):
        assert run(Proposals(search, seed=3, trials=unbroken[:cut]), range(cut, 32)) == unbroken[cut:]


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_what_goes_by_finished_trials_alone_does_not_begin_again(algorithm: str) -> None:
    search = a_search(algorithm)
    before = run(Proposals(search, seed=3), range(11))
    after = run(Proposals(search, seed=3, trials=before), range(11, 14 if algorithm == "gp" else 22))
    assert not {tuple(t.point.values()) for t in before} & {tuple(t.point.values()) for t in after}


def test_trials_that_ran_when_it_stopped_are_told_like_others() -> None:
    search = a_search()
    before = run(Proposals(search, seed=3), range(4))
    running = Trial(no=4, point={"x": 0.5, "y": 0.5})
    proposals = Proposals(search, seed=3, trials=[*before, running])
    assert proposals.propose(5) is not None
    proposals.tell(ended(4, running.point, 1.0))
    with pytest.raises(KeyError):
        proposals.tell(ended(4, running.point, 1.0))


def test_a_grid_is_tried_once_also_after_a_stop_and_by_hand() -> None:
    search = a_search("grid", {"x": {"int": [0, 2]}, "y": {"choice": ["a", "b"]}})
    first = Proposals(search, seed=0)
    done = [ended(no, first.propose(no), 0.0) for no in range(2)]
    by_hand = ended(2, {"x": 2.0, "y": "b"}, 0.0)
    second = Proposals(search, seed=0, trials=[*done, by_hand])
    rest = [second.propose(no) for no in range(3, 7)]
    points = [*(dict(trial.point) for trial in (*done, by_hand)), *(dict(p) for p in rest if p is not None)]
    assert rest[-1] is None
    assert len(points) == 6
    assert len({tuple(point.items()) for point in points}) == 6


def test_what_failed_or_is_no_number_tells_the_algorithm_nothing() -> None:
    proposals = Proposals(a_search(), seed=1)
    for no, state, values in [
        (0, TrialState.FAILED, ()),
        (1, TrialState.SUCCEEDED, (float("nan"),)),
        (2, TrialState.PRUNED, ()),
        (3, TrialState.PRUNED, (2.0,)),
    ]:
        point = proposals.propose(no)
        assert point is not None
        proposals.tell(ended(no, point, *values, state=state))
    assert proposals.propose(4) is not None


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name != "grid"])
@pytest.mark.parametrize("odd", [math.inf, -math.inf, math.nan])
def test_infinities_and_constraints_that_nothing_keeps_stop_no_algorithm(algorithm: str, odd: float) -> None:
    search = a_search(
        {"name": algorithm, "startup_trials": 2} if algorithm in ("tpe", "gp") else algorithm, constraints=["c <= 1"]
    )
    proposals = Proposals(search, seed=1)
    for no in range(6):
        point = proposals.propose(no)
        assert point is not None
        assert problems_with_point(search, point) == ()
        proposals.tell(ended(no, point, odd if no % 2 else 1.0, excesses={"c <= 1": math.inf}))


def test_a_cost_of_minus_infinity_is_an_accident_and_draws_nobody_near() -> None:
    search = a_search()
    accident = ended(0, {"x": 4.0, "y": 4.0}, -math.inf)
    assert not says_something(search, accident)
    assert says_something(search, ended(0, accident.point, math.inf))
    assert says_something(a_search(objectives=[{"maximize": "a"}]), accident)


def test_a_sweep_of_failures_only_goes_on_proposing() -> None:
    search = a_search({"name": "tpe", "history": 20})
    proposals = Proposals(search, seed=1)
    points = [proposals.propose(0)]
    for no in range(100):
        proposals.tell(ended(no, points[-1], state=TrialState.FAILED))
        points.append(proposals.propose(no + 1))
    assert len({tuple(point.values()) for point in points if point is not None}) == 101


def test_of_several_objectives_one_that_was_stopped_by_hand_tells_nothing() -> None:
    search = a_search(objectives=[{"minimize": "a"}, {"minimize": "b"}])
    proposals = Proposals(search, seed=1)
    point = proposals.propose(0)
    assert point is not None
    stopped = ended(0, point, 1.0, 2.0, state=TrialState.PRUNED)
    proposals.tell(stopped)
    assert Proposals(search, seed=1, trials=[stopped]).propose(1) is not None


def test_what_is_no_point_of_this_space_and_what_began_elsewhere_is_left_out() -> None:
    """An earlier sweep may have looked elsewhere; a continuation owes its value to another's weights."""
    for algorithm in ("tpe", "cma_es"):
        others = [
            ended(0, {"x": 9.0, "y": 0.0}, 1.0),
            ended(1, {"x": 0.0}, 1.0),
            ended(2, {"x": 0.0, "y": 0.0, "z": 0.0}, 1.0),
            ended(3, {"x": 0.0, "y": 0.0}, 1.0, parent=2),
        ]
        proposals = Proposals(a_search(algorithm), seed=1, trials=others)
        assert proposals._study.get_trials(deepcopy=False) == []
        proposals.tell(ended(4, {"x": 0.0, "y": 0.0}, 1.0, parent=2))  # was never asked for


def test_the_history_of_several_objectives_keeps_the_front() -> None:
    search = a_search({"name": "tpe", "history": 40}, objectives=[{"minimize": "a"}, {"minimize": "b"}])
    random = np.random.default_rng(0)
    trials = [
        ended(no, {"x": 0.0, "y": 0.0}, 1 + a, 2 - a + worse)
        for no, (a, worse) in enumerate(zip(random.random(200), np.repeat([0, 5], [10, 190]), strict=True))
    ]
    kept = Proposals(search, seed=0, trials=trials)._study.get_trials(deepcopy=False)
    assert len(kept) == 40
    assert {trial.values for trial in trials[:10]} <= {tuple(trial.values) for trial in kept}


def test_of_those_that_were_stopped_the_algorithm_knows_how_far_they_had_come() -> None:
    stopped = ended(0, {"x": 0.0, "y": 0.0}, 0.5, state=TrialState.PRUNED, step=9)
    proposals = Proposals(a_search(), seed=0, trials=[stopped])
    proposals.enter(1, stopped.point)
    proposals.tell(dataclasses.replace(stopped, no=1))
    assert [dict(trial.intermediate_values) for trial in proposals._study.trials] == [{9: 0.5}] * 2


def test_constraints_draw_the_proposals_to_where_they_are_kept() -> None:
    search = a_search(constraints=["x >= 3"])
    proposals = Proposals(search, seed=1)
    for no in range(60):
        point = proposals.propose(no)
        assert point is not None
        proposals.tell(ended(no, point, bowl(point), excesses={"x >= 3": 3 - point["x"]}))
    late = [Trial(no=no, point=p) for no in range(60, 80) if (p := proposals.propose(no)) is not None]
    assert np.median([trial.point["x"] for trial in late]) > 2.5  # without them it would be near 1


@pytest.mark.parametrize("algorithm", ["random", "tpe", "cma_es", "gp"])
def test_it_proposes_exactly_what_the_library_would(algorithm: str) -> None:
    """So it finds as much in as many trials: there is nothing in between that could cost anything."""
    search, count = a_search(algorithm), 13 if algorithm == "gp" else 30
    ours = run(Proposals(search, seed=11), range(count))
    samplers: dict[str, Any] = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "cma_es": optuna.samplers.CmaEsSampler,
        "gp": optuna.samplers.GPSampler,
    }
    study = optuna.create_study(sampler=samplers[algorithm](seed=11))
    study.optimize(
        lambda trial: bowl({"x": trial.suggest_float("x", -5, 5), "y": trial.suggest_float("y", -5, 5)}), n_trials=count
    )
    assert [trial.params for trial in study.trials] == [dict(trial.point) for trial in ours]


def test_trials_that_run_at_a_time_keep_apart() -> None:
    def apart(algorithm: Any, seed: int) -> float:
        search = a_search(algorithm)
        before = run(Proposals(a_search("random"), seed=seed), range(40))
        proposals = Proposals(search, seed=seed, trials=before)
        points = np.array([list((proposals.propose(no) or {}).values()) for no in range(40, 56)])
        distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
        return float(np.median(distances[np.triu_indices(16, 1)]))

    def careless(seed: int) -> dict[str, Any]:
        return {"name": "optuna:optuna.samplers:TPESampler", "options": {"constant_liar": False, "seed": seed}}

    seeds = range(4)
    assert np.mean([apart("tpe", seed) for seed in seeds]) > 1.1 * np.mean([apart(careless(s), s) for s in seeds])


def test_a_long_history_costs_no_more_than_the_cap() -> None:
    search = a_search({"name": "tpe", "history": 40})
    proposals = Proposals(search, seed=2)
    trials = run(proposals, range(200))
    assert len(proposals._study.get_trials(deepcopy=False)) < 2 * 40 + 1
    best = min(trials[:150], key=lambda trial: trial.values[0])
    assert best.point in [
        {"x": t.params["x"], "y": t.params["y"]} for t in proposals._study.get_trials(deepcopy=False)
    ], "the best is not forgotten"
    assert min(trial.values[0] for trial in trials) < 0.05


def test_a_thousand_finished_trials_are_taken_in_quickly() -> None:
    random = np.random.default_rng(0)
    trials = [
        ended(no, {"x": float(x), "y": float(y)}, bowl({"x": x, "y": y}))
        for no, (x, y) in enumerate(random.uniform(-5, 5, size=(1000, 2)))
    ]
    began = time.process_time()
    assert Proposals(a_search(), seed=0, trials=trials).propose(1000) is not None
    assert time.process_time() - began < 2


class Fixed(optuna.samplers.RandomSampler):
    """A sampler of a user's."""


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("optuna:nowhere.at_all:Sampler", {}, "No module named 'nowhere'"),
        ("optuna:collections:OrderedDict", {}, "is no optuna.samplers.BaseSampler"),
        ("optuna:optuna.samplers:TPESampler", {"sed": 1}, "unexpected keyword argument 'sed'"),
    ],
)
def test_a_sampler_of_ones_own_that_cannot_be_made_is_named(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        Proposals(a_search({"name": name, "options": options}), seed=0)


def test_a_sampler_of_ones_own_proposes() -> None:
    search = a_search({"name": "optuna:optuna.samplers:TPESampler", "options": {"seed": 4}})
    assert run(Proposals(search, seed=0), range(3)) == run(Proposals(search, seed=0), range(3))

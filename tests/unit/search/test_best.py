"""The best trial, the Pareto front, the nearest miss, and when it no longer gets better."""

import math
from typing import Any

import numpy as np
import pytest

from fairlead.search.best import best, excesses_of, front, is_on_plateau, nearest_miss, values_of
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import SearchSpec

TWO = [{"minimize": "loss"}, {"maximize": "accuracy"}]


def a_search(**changes: Any) -> SearchSpec:
    given = {"space": {"lr": {"uniform": [0, 1]}}, "objectives": [{"minimize": "loss"}], **changes}
    return from_mapping(SearchSpec, given)


def a_trial(no: int, *values: float, state: TrialState = TrialState.SUCCEEDED, excess: float = 0.0) -> Trial:
    return Trial(no=no, point={"lr": 0.5}, state=state, values=values, excesses={"c": excess})


def test_what_was_stopped_failed_or_breaks_a_constraint_is_never_the_best() -> None:
    trials = [
        a_trial(0, 0.1, state=TrialState.PRUNED),
        a_trial(1, 0.2, state=TrialState.FAILED),
        a_trial(2, 0.3, excess=0.01),
        a_trial(3, math.nan),
        a_trial(4, 0.5),
        a_trial(5, 0.4),
        a_trial(6, 0.4),
        a_trial(7, state=TrialState.RUNNING),
    ]
    found = best(a_search(), trials)
    assert found is not None
    assert found.no == 5
    assert best(a_search(), trials[:4]) is None
    largest = best(a_search(objectives=[{"maximize": "loss"}]), trials)
    assert largest is not None
    assert largest.no == 4


def test_an_infinite_value_is_never_the_best() -> None:
    trials = [a_trial(0, -math.inf), a_trial(1, math.inf), a_trial(2, 0.5)]
    found = best(a_search(), trials)
    assert found is not None
    assert found.no == 2
    assert best(a_search(), trials[:2]) is None
    assert nearest_miss(a_search(), trials[:2]) is None
    assert front(a_search(objectives=TWO), [a_trial(0, -math.inf, 0.5), a_trial(1, 1.0, 0.5)])[0].no == 1


def test_the_front_is_what_nothing_beats() -> None:
    trials = [a_trial(0, 1, 0.9), a_trial(1, 0.5, 0.8), a_trial(2, 0.6, 0.8), a_trial(3, 0.1, 0.1), a_trial(4, 1, 0.9)]
    assert [trial.no for trial in front(a_search(objectives=TWO), trials)] == [0, 1, 3, 4]
    assert front(a_search(objectives=TWO), []) == ()


def test_the_front_agrees_with_its_definition() -> None:
    random = np.random.default_rng(3)
    trials = [a_trial(no, *map(float, random.integers(0, 6, size=2))) for no in range(60)]

    def is_beaten(one: Trial) -> bool:
        return any(
            other.values[0] <= one.values[0] and other.values[1] >= one.values[1] and other.values != one.values
            for other in trials
        )

    expected = [trial.no for trial in trials if not is_beaten(trial)]
    assert [trial.no for trial in front(a_search(objectives=TWO), trials)] == expected


def test_where_none_keeps_the_constraints_the_one_least_beyond_them_is_named() -> None:
    trials = [a_trial(0, 0.1, excess=0.5), a_trial(1, 0.9, excess=0.2), a_trial(2, 0.5, excess=0.2)]
    found = nearest_miss(a_search(), trials)
    assert found is not None
    assert found.no == 2
    assert nearest_miss(a_search(), []) is None


@pytest.mark.parametrize(
    ("metrics", "excesses"),
    [
        ({"gap": 0.3, "accuracy": 0.7}, {"gap <= 0.3": 0.0, "accuracy >= 0.75": pytest.approx(0.05)}),
        ({"gap": 0.1}, {"gap <= 0.3": pytest.approx(-0.2), "accuracy >= 0.75": math.inf}),
        ({"gap": math.nan, "accuracy": math.inf}, {"gap <= 0.3": math.inf, "accuracy >= 0.75": math.inf}),
    ],
)
def test_how_far_a_value_is_beyond_its_limit(metrics: dict[str, float], excesses: dict[str, Any]) -> None:
    search = a_search(constraints=["gap <= 0.3", "accuracy >= 0.75"])
    found = excesses_of(search, metrics)
    # The limit is three tenths, and the nearest float to it is a little less.
    assert {name: pytest.approx(value, abs=1e-15) if value < 1 else value for name, value in found.items()} == excesses
    assert found["gap <= 0.3"] <= 0 or metrics["gap"] != 0.3


def test_objectives_that_were_never_reported_have_no_values() -> None:
    assert values_of(a_search(), {"loss": 1.0, "x": 2.0}) == (1.0,)
    assert values_of(a_search(objectives=TWO), {"loss": 1.0}) is None


@pytest.mark.parametrize(
    ("losses", "is_flat"),
    [
        ([5, 4, 3, 3, 3], True),
        ([5, 4, 3, 3, 2.5], False),
        ([5, 4, 3, 2.95, 2.95], True),  # better, but by less than asked
        ([3, 3], False),  # nothing before to be compared with
        ([3, 3, 3], True),
    ],
)
def test_a_plateau_is_a_row_of_trials_without_a_better_one(losses: list[float], is_flat: bool) -> None:
    search = a_search(plateau={"trials": 2, "min_improvement": 0.1})
    trials = [a_trial(no, loss) for no, loss in enumerate(losses)]
    assert is_on_plateau(search, trials) is is_flat
    assert not is_on_plateau(a_search(), trials)

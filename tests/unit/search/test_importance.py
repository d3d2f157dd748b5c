"""Which parameters made the difference."""

import dataclasses
import math
import time
from typing import Any

import numpy as np
import pytest

from fairlead.search.chance import at_random
from fairlead.search.importance import importance_of
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import from_mapping
from fairlead.spec.search import SearchSpec

SPACE = {
    "rate": {"log_uniform": [1e-4, 1]},
    "width": {"int": [1, 64]},
    "noise": {"uniform": [0, 1]},
    "kind": {"choice": ["a", ["b"]]},
    "only_b": {"uniform": [0, 1], "when": {"kind": [["b"]]}},
    "alone": {"choice": ["one"]},
}


def a_search(**changes: Any) -> SearchSpec:
    return from_mapping(SearchSpec, {"space": SPACE, "objectives": [{"minimize": "loss"}], **changes})


def trials_of(search: SearchSpec, count: int, **changes: Any) -> list[Trial]:
    random = np.random.default_rng(0)
    points = [at_random(search, random) for _ in range(count)]
    return [
        Trial(**{"no": no, "point": point, "state": TrialState.SUCCEEDED, "values": (loss(point), 0.0), **changes})
        for no, point in enumerate(points)
    ]


def loss(point: Any) -> float:
    return float((math.log10(point["rate"]) + 2) ** 2 + 0.01 * point["width"] / 64)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_the_objective_goes_by_has_nearly_all_of_the_share(direction: str) -> None:
    search = a_search(objectives=[{direction: "loss"}, {"minimize": "other"}])
    sign = 1 if direction == "minimize" else -1
    trials = [dataclasses.replace(one, values=(sign * one.values[0], 0.0)) for one in trials_of(search, 400)]
    found = importance_of(search, trials)
    assert set(found) == set(SPACE)
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.8
    assert found["alone"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"state": TrialState.PRUNED},
        {"state": TrialState.FAILED, "values": ()},
        {"values": (math.nan, 0.0)},
        {"values": (math.inf, 0.0)},
        {"values": (1.0, 0.0)},  # all alike
        {"parent": 3},
        {"point": {"rate": 7.0}},
    ],
)
def test_where_nothing_can_be_told_nothing_is(changes: dict[str, Any]) -> None:
    assert importance_of(a_search(), trials_of(a_search(), 40, **changes)) == {}
    assert importance_of(a_search(), trials_of(a_search(), 9)) == {}


def test_ten_thousand_trials_take_no_time_and_say_the_same_each_time() -> None:
    trials = trials_of(a_search(), 10_000)
    began = time.process_time()
    found = importance_of(a_search(), trials)
    assert time.process_time() - began < 5
    assert importance_of(a_search(), trials) == found
    assert found["rate"] > 0.8

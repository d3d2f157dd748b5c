"""What a sweep may ask for, and how it is told what it may not."""

from typing import Any

import pytest

from fairlead.errors import BadSpec
from fairlead.spec import from_mapping
from fairlead.spec.search import DimensionSpec, SearchSpec

LOSS = [{"minimize": "validation/loss"}]


def a_search(**changes: Any) -> SearchSpec:
    if isinstance(changes.get("algorithm"), str) and ":" in changes["algorithm"]:
        changes["algorithm"] = {"name": changes["algorithm"]}
    return from_mapping(SearchSpec, {"space": {"lr": {"log_uniform": [1e-4, 1e-1]}}, "objectives": LOSS, **changes})


@pytest.mark.parametrize(
    ("dimension", "words"),
    [
        ({}, "give exactly one of uniform, log_uniform, int, log_int, choice"),
        ({"uniform": [0, 1], "choice": [1]}, "not uniform and choice"),
        ({"uniform": [1, 0]}, "begins at 1 and ends at 0"),
        ({"log_uniform": [0, 1]}, "must begin above 0"),
        ({"log_int": [1, 8], "step": 2}, "log_int has no step"),
        ({"uniform": [0, 1], "step": 2}, "leaves one value only"),
        ({"int": [0, 8], "step": 0.5}, "the step of whole numbers is a whole number"),
        ({"int": [0, 8.5]}, "Input should be a valid integer"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": ["a", "a"]}, "lists a value twice"),
        ({"choice": [1, True]}, "lists a value twice"),
        ({"choice": ["a", "b"], "step": 1}, "a choice has no step"),
        ({"unifrom": [0, 1]}, "did you mean 'uniform'?"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(dimension: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words.replace("?", r"\?")):
        a_search(space={"x": dimension})


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        ({"int": [1, 9], "step": 4}, (1, 5, 9)),
        ({"uniform": [0, 0.3], "step": 0.1}, (0.0, 0.1, 0.2, 0.3)),  # not 0.30000000000000004
        ({"uniform": [0, 0.25], "step": 0.1}, (0.0, 0.1, 0.2)),
        ({"choice": [[16], [32, 32]]}, ([16], [32, 32])),
        ({"uniform": [0, 1]}, None),
    ],
)
def test_values_that_can_be_listed_are_exact(dimension: dict[str, Any], values: tuple[Any, ...] | None) -> None:
    assert from_mapping(DimensionSpec, dimension).values == values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": []}, "at least 1 item"),
        ({"objectives": [{}]}, "either maximize or minimize"),
        ({"objectives": [{"minimize": "a"}, {"maximize": "a"}]}, "two objectives name one metric"),
        ({"constraints": ["a < 3"]}, "a constraint is a metric, <= or >="),
        ({"constraints": ["a <= 3", "a <= 4"]}, "two constraints bound one metric on the same side"),
        ({"constraints": ["a >= 3", "a <= 2"]}, "no value of a is at least 3 and at most 2"),
        ({"algorithm": "cma_es", "objectives": [{"minimize": "a"}, {"minimize": "b"}]}, "cma_es knows one objective"),
        ({"algorithm": "grid"}, "give space.lr a step"),
        ({"algorithm": "tpee"}, "'tpee'"),
        ({"algorithm": {"name": "tpe", "options": {"a": 1}}}, "tpe has none"),
        ({"early_stopping": {}}, "give exactly one of asha, hyperband, median"),
        (
            {
                "early_stopping": {"median": {}},
                "objectives": [{"minimize": "a"}, {"minimize": "b"}],
            },
            "early_stopping compares one value",
        ),
        ({"plateau": {"trials": 5}, "objectives": [{"minimize": "a"}, {"minimize": "b"}]}, "looks at one best value"),
        ({"space": {}}, "at least 1 item"),
        ({"early_stopping": {"pbt": {"interval": 5}}, "trials": 3}, "0.25 of a population of 3 is less than one trial"),
        (
            {"early_stopping": {"pbt": {"interval": 5, "population": 9}}, "trials": 8},
            "a population of 9 is never reached",
        ),
        (
            {"early_stopping": {"pbt": {"interval": 5}}, "algorithm": "grid", "space": {"a": {"choice": [1, 2]}}},
            "changes points, and a grid has its own",
        ),
        (
            {"early_stopping": {"pbt": {"interval": 5}}, "objectives": [{"minimize": "a"}, {"minimize": "b"}]},
            "one value",
        ),
        ({"algorithm": "ray:nonsense"}, "ray:nonsense"),
        (
            {"algorithm": "ray:a.b:C", "objectives": [{"minimize": "a"}, {"minimize": "b"}]},
            "Ray Tune's knows one objective",
        ),
        (
            {
                "algorithm": "ray:a.b:C",
                "space": {"a": {"uniform": [0, 1], "when": {"b": ["x"]}}, "b": {"choice": ["x", "y"]}},
            },
            "knows no conditions: leave space.a.when out",
        ),
        ({"space": {"a": {"uniform": [0, 1], "when": {"b": [1]}}}}, "no choice of this space"),
        (
            {"space": {"a": {"uniform": [0, 1], "when": {"b": ["z"]}}, "b": {"choice": ["x", "y"]}}},
            "space.a.when: b is never 'z'",
        ),
        (
            {"space": {"a": {"choice": [1, 2], "when": {"b": [1]}}, "b": {"choice": [1, 2], "when": {"a": [1]}}}},
            "leads in a circle",
        ),
    ],
)
def test_a_search_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        a_search(**changes)


def test_a_population_is_what_trains_at_a_time() -> None:
    pbt = {"pbt": {"interval": 5}}
    assert a_search(early_stopping=pbt, trials=40, concurrency=8).population == 8
    assert a_search(early_stopping=pbt, trials=6, concurrency=8).population == 6
    assert a_search(early_stopping=pbt, trials=40).population == 40
    assert (
        a_search(early_stopping={"pbt": {"interval": 5, "population": 10}}, trials=40, concurrency=8).population == 10
    )


def test_parameters_come_after_those_they_depend_on() -> None:
    space = {
        "momentum": {"uniform": [0, 1], "when": {"optimizer": ["sgd"]}},
        "lr": {"log_uniform": [1e-4, 1]},
        "optimizer": {"choice": ["sgd", "adam"]},
    }
    assert a_search(space=space).order() == ("lr", "optimizer", "momentum")


def test_a_search_is_written_as_it_was_read() -> None:
    given = {"space": {"depth": {"int": [1, 4]}, "rate": {"log_int": [1, 64]}}, "objectives": LOSS}
    search = from_mapping(SearchSpec, given)
    written = search.model_dump(mode="json", by_alias=True)
    assert written["space"]["depth"]["int"] == [1, 4]
    assert from_mapping(SearchSpec, written) == search

"""Which points a space has, and which of them the workload can be given."""

import math
from typing import Any

import numpy as np
import pytest

from fairlead.search.chance import value_at_random
from fairlead.search.space import draw, grid, nearest, problems_with_point, problems_with_space, size
from fairlead.spec import Manifest, from_mapping
from fairlead.spec.search import SearchSpec

SPACE = {
    "momentum": {"choice": [0.0, 0.9], "when": {"optimizer": ["sgd"]}},
    "optimizer": {"choice": ["sgd", "adam"]},
    "layers": {"int": [1, 2]},
}


def a_search(space: dict[str, Any] | None = None, **changes: Any) -> SearchSpec:
    return from_mapping(SearchSpec, {"space": space or SPACE, "objectives": [{"minimize": "loss"}], **changes})


def a_manifest() -> Manifest:
    return from_mapping(
        Manifest,
        {
            "name": "small",
            "title": "Small",
            "module": "small:train",
            "parameters": {
                "lr": {"type": "float", "default": 0.1, "minimum": 1e-6, "maximum": 1},
                "layers": {"type": "int", "default": 1, "minimum": 1, "maximum": 8},
                "hidden": {"type": "ints", "default": [16], "minimum": 1},
                "optimizer": {"type": "str", "default": "adam", "choices": ["sgd", "adam"]},
                "momentum": {"type": "float", "default": 0.0, "minimum": 0, "maximum": 1},
            },
        },
    )


def test_a_grid_has_every_point_once_and_leaves_out_what_is_not_looked_for() -> None:
    points = list(grid(a_search()))
    assert points == [
        {"optimizer": "sgd", "layers": 1, "momentum": 0.0},
        {"optimizer": "sgd", "layers": 1, "momentum": 0.9},
        {"optimizer": "sgd", "layers": 2, "momentum": 0.0},
        {"optimizer": "sgd", "layers": 2, "momentum": 0.9},
        {"optimizer": "adam", "layers": 1},
        {"optimizer": "adam", "layers": 2},
    ]
    assert size(a_search(), most=100) == 6
    assert size(a_search(), most=4) == 4
    assert size(a_search({"lr": {"uniform": [0, 1]}}), most=100) is None


def test_a_draw_asks_for_nothing_that_is_not_looked_for() -> None:
    asked = []

    def suggest(name: str, dimension: Any) -> Any:
        asked.append(name)
        return {"optimizer": "adam", "layers": 2}[name]

    assert draw(a_search(), suggest) == {"optimizer": "adam", "layers": 2}
    assert "momentum" not in asked


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"optimizer": "adam", "layers": 1, "momentum": 0.9}, "/momentum has no place at this point"),
        ({"optimizer": "sgd", "layers": 1}, "/momentum is missing"),
        ({"optimizer": "sgd", "layers": 3, "momentum": 0.0}, "/layers must lie between 1 and 2"),
        ({"optimizer": "sgd", "layers": 1.5, "momentum": 0.0}, "/layers must be a whole number"),
        ({"optimizer": "sgd", "layers": True, "momentum": 0.0}, "/layers must be a whole number"),
        ({"optimizer": "rms", "layers": 1}, "/optimizer must be one of 'sgd', 'adam'"),
        ({"optimizer": "adam", "layers": 1, "depth": 1}, "/depth is not looked for"),
    ],
)
def test_a_point_made_by_hand_must_lie_in_the_space(point: dict[str, Any], words: str) -> None:
    found = [f"{problem.pointer} {problem.message}" for problem in problems_with_point(a_search(), point)]
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("dimension", "value", "words"),
    [
        ({"uniform": [0, 0.35], "step": 0.1}, 0.1 + 0.2, None),
        ({"uniform": [0, 0.35], "step": 0.1}, 0.35, "whole steps of 0.1"),
        ({"int": [1, 9], "step": 4}, 5, None),
        ({"int": [1, 9], "step": 4}, 4, "whole steps of 4"),
        ({"int": [1, 9]}, math.inf, "must be a whole number"),
        ({"uniform": [1, 9]}, math.nan, "must be a number"),
    ],
)
def test_a_value_between_the_steps_or_beyond_all_numbers_is_none(
    dimension: dict[str, Any], value: float, words: str | None
) -> None:
    """Optuna would put another one in its place."""
    found = problems_with_point(a_search({"x": dimension}), {"x": value})
    assert words in found[0].message if words else found == ()


@pytest.mark.parametrize(
    "dimension",
    [
        {"uniform": [-1, 3]},
        {"log_uniform": [1e-4, 1]},
        {"int": [2, 10**12]},
        {"int": [1, 9], "step": 4},
        {"uniform": [0, 0.35], "step": 0.1},
        {"log_int": [1, 3]},
        {"choice": ["a", "b", [1]]},
    ],
)
def test_what_is_drawn_at_random_lies_in_the_space_and_reaches_all_of_it(dimension: dict[str, Any]) -> None:
    search, random = a_search({"x": dimension}), np.random.default_rng(0)
    drawn = [value_at_random(search.space["x"], random) for _ in range(400)]
    assert all(problems_with_point(search, {"x": value}) == () for value in drawn)
    few = None if dimension.get("int") == [2, 10**12] else search.space["x"].values
    assert len({str(value) for value in drawn}) == (len(few) if few else 400)


@pytest.mark.parametrize(
    ("dimension", "value", "nearest_one"),
    [
        ({"uniform": [0, 0.35], "step": 0.1}, 0.29, 0.3),
        ({"uniform": [0, 0.35], "step": 0.1}, 9.0, 0.3),
        ({"int": [1, 9], "step": 4}, 6.9, 5),
        ({"log_int": [1, 64]}, 0.2, 1),
        ({"uniform": [0, 1]}, 1.2, 1.0),
    ],
)
def test_a_value_is_brought_into_the_space(dimension: dict[str, Any], value: float, nearest_one: float) -> None:
    found = nearest(a_search({"x": dimension}).space["x"], value)
    assert (found, type(found)) == (nearest_one, type(nearest_one))


def test_points_of_the_grid_lie_in_the_space() -> None:
    assert all(problems_with_point(a_search(), point) == () for point in grid(a_search()))


@pytest.mark.parametrize(
    ("space", "params", "words"),
    [
        ({"rate": {"uniform": [0, 1]}}, {}, "unknown parameter"),
        ({"lr": {"uniform": [0, 2]}}, {}, "must be at least 1e-06"),
        ({"lr": {"uniform": [0.5, 2]}}, {}, "must be at most 1, not 2"),
        ({"layers": {"uniform": [1, 2]}}, {}, "takes whole numbers only"),
        ({"layers": {"choice": [1, 9]}}, {}, "must be at most 8, not 9"),
        ({"hidden": {"choice": [[16], [0]]}}, {}, "must be at least 1, not 0"),
        ({"hidden": {"int": [1, 2]}}, {}, "must be a list of whole numbers, not 1"),
        ({"optimizer": {"choice": ["sgd", "rms"]}}, {}, "must be one of sgd, adam"),
        ({"lr": {"uniform": [0.1, 0.2]}}, {"lr": 0.1}, "either fixed or looked for"),
    ],
)
def test_a_space_that_the_workload_cannot_be_given_is_refused(
    space: dict[str, Any], params: dict[str, Any], words: str
) -> None:
    found = problems_with_space(a_search(space), params, a_manifest())
    assert len(found) == 1
    assert words in found[0].message
    assert found[0].pointer == f"/search/space/{next(iter(space))}"


def test_whole_numbers_suit_a_parameter_that_takes_any() -> None:
    assert problems_with_space(a_search({"momentum": {"int": [0, 1]}}), {}, a_manifest()) == ()

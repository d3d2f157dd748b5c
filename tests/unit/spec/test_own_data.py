"""Specs of workloads that read data of their own: what may be asked of them, and what is kept."""

import json
from typing import Any

import pytest

from fairlead.errors import BadSpec
from fairlead.spec import ExperimentSpec, from_json, from_mapping, json_schema, spec_hash

OWN = {"name": "a", "workload": "mine:train", "code": "."}


def test_a_spec_without_data_is_stored_and_read_without() -> None:
    spec = from_mapping(ExperimentSpec, OWN)
    text = spec.model_dump_json(by_alias=True)
    again = from_json(ExperimentSpec, text)
    assert "data" not in json.loads(text)
    assert (again, spec_hash(again), again.data.is_there) == (spec, spec_hash(spec), False)
    assert again.amended(seed=3).data == spec.data
    assert spec.chosen(0).sensitive == ()


def test_a_spec_with_data_keeps_them() -> None:
    spec = from_mapping(ExperimentSpec, {**OWN, "data": {"uri": "builtin://diabetes"}})
    assert from_json(ExperimentSpec, spec.model_dump_json(by_alias=True)).data == spec.data
    assert spec.data.is_there


def test_the_schema_asks_for_no_data() -> None:
    schema = json_schema()
    assert "data" not in schema["required"]
    assert "default" not in schema["properties"]["data"]


@pytest.mark.parametrize("data", [{}, {"uri": ""}, {"target": "y"}, None])
def test_half_a_data_set_is_none(data: Any) -> None:
    with pytest.raises(BadSpec, match="/data"):
        from_mapping(ExperimentSpec, {**OWN, "data": data})


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"gates": [{"metric": "accuracy_score", "require": ">= 0.5"}]}, "gates"),
        ({"gates": [{"metric": "accuracy_score", "by": ["sex"], "require": ">= 0.5"}]}, "gates"),
        ({"evaluation": {"groupings": [["sex"]]}}, "evaluation"),
        ({"mitigation": {"method": "reweighing", "by": ["sex"]}}, "mitigation"),
        ({"privacy": {"target_epsilon": 3}}, "privacy"),
        ({"probes": {"temperature": {}}}, "probes"),
        ({"energy": {}}, "energy"),
        ({"register": {"name": "m"}}, "register"),
        (
            {"search": {"space": {"lr": {"uniform": [0, 1]}}, "objectives": [{"minimize": "loss"}], "trials": 2}},
            "search",
        ),
        ({"workload": "evaluation", "code": None, "predictions": {}}, "data.uri"),
    ],
)
def test_what_is_about_rows_needs_data(asked: dict[str, Any], name: str) -> None:
    with pytest.raises(BadSpec, match=r"data\.uri") as caught:
        from_mapping(ExperimentSpec, {**OWN, **asked})
    assert name in str(caught.value)

"""Requests for evaluations: what they become, and what they cannot be."""

import json
from typing import Any

import pytest

from fairlead.errors import BadSpec
from fairlead.spec import (
    ExperimentSpec,
    PredictionsSpec,
    evaluation_request,
    from_json,
    from_mapping,
    read_predictions_spec,
    request_for,
    spec_hash,
)

REQUEST: dict[str, Any] = {
    "name": "credit",
    "project": "bank",
    "uri": "s3://b/p.parquet",
    "columns": {"target": "y", "bins": {"band": {"column": "age", "edges": [40]}}},
    "evaluation": {"groupings": [["sex"], ["sex", "band"]]},
    "gates": [{"metric": "accuracy_score", "require": ">= 0.5"}],
    "resources": {"workers": 3},
    "labels": {"team": "risk"},
}


def test_a_request_becomes_an_experiment_that_measures_the_same() -> None:
    spec = evaluation_request(REQUEST).experiment
    assert (spec.workload, spec.project, spec.data.uri, spec.is_evaluation) == (
        "evaluation",
        "bank",
        "s3://b/p.parquet",
        True,
    )
    assert (spec.resources.workers, spec.labels, spec.sensitive) == (3, {"team": "risk"}, ("sex", "band"))
    here = {key: value for key, value in REQUEST.items() if key in PredictionsSpec.model_fields}
    assert spec.of_predictions == from_mapping(PredictionsSpec, here)


def test_what_was_not_said_stays_unsaid_when_it_is_stored_and_read_again() -> None:
    """A column called so by default need not be there; one that is named must."""
    spec = evaluation_request(REQUEST).experiment
    stored = from_json(ExperimentSpec, json.dumps(spec.model_dump(mode="json", by_alias=True)))
    assert (stored, spec_hash(stored)) == (spec, spec_hash(spec))
    columns = stored.of_predictions.columns
    assert [columns.is_named(role) for role in ("target", "prediction", "score")] == [True, False, False]
    named = {**REQUEST, "columns": {**REQUEST["columns"], "prediction": "prediction"}}
    assert spec_hash(evaluation_request(named).experiment) != spec_hash(spec)


def test_a_spec_that_trains_says_nothing_of_predictions() -> None:
    """Or its hash, and what older agents make of it, would change."""
    spec = from_mapping(ExperimentSpec, {"name": "a", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}})
    assert "predictions" not in spec.model_dump(mode="json", by_alias=True)
    with pytest.raises(ValueError, match="tabular_mlp trains"):
        _ = spec.of_predictions


@pytest.mark.parametrize(
    ("changes", "pointer", "message"),
    [
        ({"params": {"epochs": 1}}, "/params", "params has no place in an evaluation"),
        ({"register": {"name": "m"}}, "/register", "register has no place in an evaluation"),
        ({"mitigation": {}}, "/mitigation", "mitigation has no place in an evaluation"),
        ({"data": {"uri": "x"}}, "/data", "data has no place in an evaluation"),
        ({"colums": {}}, "/colums", "unknown key 'colums'"),
        ({"uri": "builtin://diabetes"}, "/uri", "built-in data are to train on"),
        ({"uri": ""}, "/uri", "at least 1"),
        ({"gates": [{"metric": "accuracy_score", "require": "good"}]}, "/gates/0", "require must be"),
        ({"evaluation": {"groupings": [["sex"]]}}, "", "columns.bins names ['band']|"),
    ],
)
def test_a_request_without_sense_is_refused_at_its_field(changes: dict[str, Any], pointer: str, message: str) -> None:
    content = {**REQUEST, **changes}
    if message.endswith("|"):
        content["columns"] = {**REQUEST["columns"], "sensitive": ["sex"]}
    with pytest.raises(BadSpec) as refused:
        evaluation_request(content)
    (problem,) = refused.value.problems
    assert (problem.pointer, message.rstrip("|") in problem.message) == (pointer, True), problem


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"workload": "evaluation", "data": {"uri": "p.csv"}}, "workload: evaluation needs predictions"),
        ({"workload": "tabular_mlp", "data": {"uri": "p.csv"}, "predictions": {}}, "tabular_mlp trains"),
        (
            {
                "workload": "evaluation",
                "data": {"uri": "p.csv"},
                "predictions": {"sensitive": ["sex"]},
                "evaluation": {"groupings": [["age"]]},
            },
            r"columns.sensitive does not list",
        ),
    ],
)
def test_a_spec_is_of_one_kind(content: dict[str, Any], named: str) -> None:
    with pytest.raises(BadSpec, match=named):
        from_mapping(ExperimentSpec, {"name": "a", **content})


def test_one_document_serves_here_and_on_a_cluster() -> None:
    text = json.dumps(REQUEST)
    assert read_predictions_spec(text) == evaluation_request(REQUEST).of_predictions
    elsewhere = request_for(text, "/data/p.csv", columns={"score": "p"}, project="other", workers=5)
    assert (elsewhere.uri, elsewhere.project, elsewhere.resources.workers) == ("/data/p.csv", "other", 5)
    assert (elsewhere.columns.score, elsewhere.columns.target) == ("p", "y")
    assert not elsewhere.columns.is_named("prediction")
    assert elsewhere.labels == {"team": "risk"}


def test_of_a_spec_that_trains_its_resources_stay_behind() -> None:
    text = (
        "{name: risk, project: bank, workload: tabular_mlp, resources: {workers: 8, gpus_per_worker: 1},"
        " data: {uri: d.csv, target: y, sensitive: [sex]}, evaluation: {groupings: [[sex]]}}"
    )
    request = request_for(text, "p.csv", columns={})
    assert (request.project, request.resources.workers, request.resources.gpus) == ("bank", 1, 0)
    assert request.of_predictions == read_predictions_spec(text)


def test_of_an_evaluations_own_spec_everything_is_taken() -> None:
    spec = evaluation_request(REQUEST).experiment
    text = json.dumps(spec.model_dump(mode="json", by_alias=True))
    assert request_for(text, REQUEST["uri"], columns={}).experiment == spec
    assert read_predictions_spec(text) == spec.of_predictions


def test_gates_under_a_condition_are_refused_wherever_predictions_are_made_already() -> None:
    gate = {"metric": "accuracy_score", "condition": "pgd_linf_0.1", "require": ">= 0.5"}
    with pytest.raises(BadSpec, match="predictions that are made already have none"):
        evaluation_request({"name": "a", "uri": "/p.parquet", "gates": [gate]})
    training = f"""
name: a
workload: tabular_mlp
data: {{uri: 'builtin://diabetes', sensitive: [sex]}}
probes: {{robustness: [{{method: pgd, eps: 0.1}}]}}
gates: [{json.dumps(gate)}]
"""
    with pytest.raises(BadSpec, match="predictions that are made already have none"):
        request_for(training, "/p.parquet", columns={})
    with pytest.raises(BadSpec, match="built-in data are to train on"):
        request_for("name: a\nworkload: tabular_mlp\ndata: {uri: x}\n", "builtin://x", columns={})

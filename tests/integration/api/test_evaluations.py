"""Evaluations over the API: the same doors, keys, books and problems as any other experiment."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from fairlead.store.tables import AuditRow, EventRow

REQUEST: dict[str, Any] = {
    "name": "credit",
    "uri": "s3://b/p.parquet",
    "columns": {"target": "y", "record_id": "id"},
    "evaluation": {"groupings": [["sex"]]},
    "gates": [{"metric": "demographic_parity_difference", "by": ["sex"], "require": "<= 0.1"}],
    "resources": {"workers": 2},
}


def post(bench: Any, request: dict[str, Any] = REQUEST, key: str = "k1") -> Any:
    return bench.user.post("/v1/evaluations", json=request, headers={"Idempotency-Key": key})


def test_an_evaluation_is_an_experiment_that_everything_else_knows(bench: Any) -> None:
    answer = post(bench)
    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
    made = answer.json()
    assert answer.headers["location"] == f"/v1/experiments/{made['id']}"
    shown = bench.user.get(answer.headers["location"]).json()
    assert (shown["state"], shown["workload"], shown["name"]) == ("accepted", "evaluation", "credit")
    assert (shown["spec"]["data"]["uri"], shown["total_steps"]) == ("s3://b/p.parquet", None)
    assert shown["spec"]["predictions"] == {"target": "y", "record_id": "id"}
    assert [one["id"] for one in bench.user.get("/v1/experiments").json()["items"]] == [made["id"]]
    assert bench.user.get(f"/v1/experiments/{made['id']}/why").status_code == 200
    assert bench.user.post(f"/v1/experiments/{made['id']}/cancel").status_code == 202
    assert bench.hints


def test_a_key_makes_one_and_no_other(bench: Any, spec: dict[str, Any]) -> None:
    first, second = post(bench), post(bench)
    assert (second.status_code, second.content) == (201, first.content)
    other = post(bench, {**REQUEST, "name": "other"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert bench.submit(spec, key="k1")["workload"] == "tabular_mlp"  # a key counts for one route
    assert bench.user.post("/v1/evaluations", json=REQUEST).status_code == 400
    assert len(bench.user.get("/v1/experiments").json()["items"]) == 2


def test_the_audit_knows_who_asked_for_it(bench: Any) -> None:
    made = post(bench).json()
    with bench.store.read() as session:
        (row,) = session.scalars(select(AuditRow))
        events = list(session.scalars(select(EventRow)))
    assert (row.action, row.target) == ("createEvaluation", f"experiment/{made['id']}")
    assert [event.seq for event in events] == [1]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"params": {"epochs": 1}}, "/params"),
        ({"register": {"name": "m"}}, "/register"),
        ({"mitigation": {"method": "reweighing", "by": ["sex"]}}, "/mitigation"),
        ({"policy": {"checkpoints": {"keep_last": 5}}}, "/policy/checkpoints"),
        ({"resources": {"gpus_per_worker": 1}}, "/resources/gpus_per_worker"),
        ({"uri": "builtin://diabetes"}, "/uri"),
        ({"columns": {"targt": "y"}}, "/columns/targt"),
        ({"gates": [{"metric": "acuracy_score", "require": ">= 0.5"}]}, "/gates/0"),
        ({"gates": [{"metric": "mean_absolute_error", "require": "<= 5"}]}, "/gates/0"),
        (
            {"evaluation": {"task": "regression"}, "gates": [{"metric": "accuracy_score", "require": ">= 0.5"}]},
            "/gates/0",
        ),
        ({"evaluation": {"task": "regression"}, "gates": [{"metric": "r2_score", "require": ">= 0.5"}]}, "/gates/0"),
        ({"evaluation": {"task": "ranking"}, "gates": []}, ""),
        ({"evaluation": {"task": "sorting"}, "gates": []}, "/evaluation/task"),
        (
            {"gates": [{"metric": "demographic_parity_difference", "by": ["sex"], "within": ["d"], "require": "<= 0"}]},
            "",
        ),
    ],
)
def test_what_has_no_place_is_refused_at_its_field(bench: Any, changes: dict[str, Any], pointer: str) -> None:
    answer = post(bench, {**REQUEST, **changes})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "bad_spec")
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert bench.user.get("/v1/experiments").json()["items"] == []


def test_a_regression_and_a_ranking_are_taken_with_gates_of_their_own(bench: Any) -> None:
    regression = {
        "columns": {"target": "y", "prediction": "p"},
        "evaluation": {"task": "regression", "groupings": [["sex"]]},
        "gates": [{"metric": "mean_squared_error_group_max", "by": ["sex"], "require": "<= 5"}],
    }
    ranking = {
        "columns": {"target": "rel", "query": "q", "score": "s"},
        "gates": [{"metric": "exposure_ratio", "by": ["sex"], "require": ">= 0.8"}],
    }
    for number, changes in enumerate((regression, ranking)):
        answer = post(bench, {**REQUEST, **changes}, key=f"k{number}")
        assert answer.status_code == 201, answer.text
        shown = bench.user.get(answer.headers["location"]).json()
        assert shown["spec"]["predictions"] == changes["columns"]


def test_a_spec_of_the_kind_may_be_submitted_as_any_other(bench: Any) -> None:
    content = post(bench).json()["spec"]
    again = bench.submit(content)
    assert again["spec_hash"] == bench.user.get(f"/v1/experiments/{again['id']}").json()["spec_hash"]
    answer = bench.user.post("/v1/plan", content=json.dumps(content), headers={"Content-Type": "application/json"})
    assert answer.json()["is_valid"]
    mixed = bench.user.post("/v1/experiments", json={**content, "params": {"a": 1}}, headers={"Idempotency-Key": "x"})
    assert [error["pointer"] for error in mixed.json()["errors"]] == ["/params"]


def test_an_agent_is_given_what_ranks_need(bench: Any) -> None:
    made = post(bench).json()
    epoch = bench.attach()
    attempt = bench.place(made["id"])
    answer = bench.agent.post(f"/internal/v1/attempts/{attempt}/lease", json={"agent_epoch": epoch})
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["spec"]["predictions"] == {"target": "y", "record_id": "id"}
    assert (document["workload_module"], document["params"]) == ("fairlead.run.counting:count_predictions", {})

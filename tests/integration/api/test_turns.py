"""What the API says about the queue, quotas and why an experiment waits; dispatch is ticked by hand."""

from typing import Any

import pytest

from fairlead.control.dispatch import Dispatch
from fairlead.data import find_manifests
from fairlead.protocol import PROTOCOL
from fairlead.store import attempts
from fairlead.testing.stored import a_node


@pytest.fixture
def busy(bench: Any) -> Any:
    """Two CPUs, both held by a first experiment; dispatch as ``bench.dispatch``."""
    bench.app.state.api.board.usable_s = 0
    attach(bench, cpus=2)
    bench.dispatch = Dispatch(store=bench.store, clock=bench.clock, settings=bench.settings, manifests=find_manifests())
    return bench


def attach(bench: Any, *, cpus: float) -> None:
    body = {
        "protocol": PROTOCOL,
        "agent_version": "1",
        "ray_version": "2",
        "ray_session": "ray-1",
        "nodes": [a_node(cpus=cpus).model_dump(mode="json")],
    }
    assert bench.agent.post("/internal/v1/agent/attach", json=body).status_code == 200


def a(spec: dict[str, Any], *, workers: int = 1, **changes: Any) -> dict[str, Any]:
    return {**spec, "resources": {"workers": workers}, **changes}


def fill(bench: Any, spec: dict[str, Any]) -> tuple[str, str, str]:
    """One that runs, one that waits for all of the cluster, and one behind it."""
    first = bench.submit(a(spec, workers=1, policy={"max_runtime_s": 600}))["id"]
    bench.dispatch()
    with bench.store.write() as session:
        columns = {"started_at": bench.clock.now(), "leased_at": bench.clock.now()}
        attempts.write_if_open(session, attempts.attempt_id(first, 1), **columns)
    head = bench.submit(a(spec, workers=2))["id"]
    bench.dispatch()
    bench.clock.advance(1)
    behind = bench.submit(a(spec))["id"]
    bench.dispatch()
    return first, head, behind


def get(bench: Any, path: str) -> dict[str, Any]:
    answer = bench.user.get(path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_queue_has_places_reasons_and_estimates(busy: Any, spec: dict[str, Any]) -> None:
    _, head, behind = fill(busy, spec)
    view = get(busy, "/v1/queue")
    assert [(one["position"], one["id"]) for one in view["items"]] == [(1, head), (2, behind)]
    assert view["items"][0]["waiting"].startswith("resources_in_use: needs 2 CPUs for 2 workers; local has 1 CPUs")
    assert view["items"][1]["waiting"].startswith("behind_others: others ahead of it wait for room")
    assert view["items"][0]["estimated_start_at"] > view["as_of"]
    assert "max_runtime_s" in view["items"][0]["basis"]
    assert get(busy, "/v1/projects/default/queue")["items"] == view["items"]
    first = get(busy, "/v1/queue?limit=1")
    assert [one["id"] for one in get(busy, first["next"])["items"]] == [behind]
    assert busy.user.get("/v1/projects/nobody/queue").status_code == 404


def test_who_asks_gets_the_look_before_while_a_new_one_is_made(busy: Any, spec: dict[str, Any]) -> None:
    board = busy.app.state.api.board
    board.fresh_s, board.usable_s = 0, 3600
    assert get(busy, "/v1/queue")["total"] == 0
    waits = busy.submit(a(spec, workers=9))["id"]
    busy.dispatch()
    assert get(busy, "/v1/queue")["total"] == 0
    board.fresh_s = 3600
    with board._looking:  # held until the new look is made
        pass
    assert [one["id"] for one in get(busy, "/v1/queue")["items"]] == [waits]


def test_why_says_what_is_missing_and_changes_when_the_cause_does(busy: Any, spec: dict[str, Any]) -> None:
    first, head, behind = fill(busy, spec)
    view = get(busy, f"/v1/experiments/{behind}/why")
    assert (view["code"], view["position"], view["total"], view["ahead"]) == ("behind_others", 2, 2, [head])
    assert get(busy, f"/v1/experiments/{first}/why")["position"] is None
    busy.user.patch("/v1/projects/default/quota", json={"experiments": 1})
    busy.dispatch()
    view = get(busy, f"/v1/experiments/{behind}/why")
    assert view["code"] == "quota_in_use"
    assert (view["quota"]["experiments"], view["quota"]["experiments_held"]) == (1, 1)
    assert busy.user.get("/v1/experiments/nothing/why").status_code == 404


def test_why_and_plan_tell_of_excluded_nodes_until_they_are_readmitted(busy: Any, spec: dict[str, Any]) -> None:
    here = "/v1/clusters/local/nodes/node-1"
    assert busy.user.post(f"{here}/exclude", json={"reason": "it burns"}).status_code == 200
    waits = busy.submit(a(spec))["id"]
    busy.dispatch()
    view = get(busy, f"/v1/experiments/{waits}/why")
    assert (view["code"], view["estimated_start_at"]) == ("nodes_excluded", None)
    assert "it would fit on local if the excluded nodes were taken in again" in view["reason"]
    assert view["basis"].startswith("not while nodes are excluded")
    plan = dict(busy.user.post("/v1/plan", json=a(spec, workers=9)).json())
    assert (plan["fits"], plan["code"]) == (False, "no_cluster_fits")
    assert busy.user.post(f"{here}/readmit").status_code == 200
    busy.dispatch()
    assert get(busy, f"/v1/experiments/{waits}/why")["code"] == "placed"


def test_a_plan_says_where_who_is_ahead_and_when(busy: Any, spec: dict[str, Any]) -> None:
    _, head, behind = fill(busy, spec)
    view = dict(busy.user.post("/v1/plan", json=a(spec)).json())
    assert (view["fits"], view["cluster"], view["nodes"]) == (True, "local", {"node-1": 1})
    assert (view["position"], view["ahead"], view["ahead_ids"]) == (3, 2, [head, behind])
    large = dict(busy.user.post("/v1/plan", json=a(spec, workers=9)).json())
    assert (large["fits"], large["code"], large["basis"]) == (False, "no_cluster_fits", "never, as things are")
    assert large["estimated_start_at"] is None
    busy.user.patch("/v1/projects/default/quota", json={"cpus": 1.5})
    beyond = dict(busy.user.post("/v1/plan", json=a(spec, workers=2)).json())
    assert beyond["code"] == "exceeds_quota"
    assert "the project may hold 1.5" in beyond["why"]


def test_a_quota_is_set_in_part_and_lifted_with_null(busy: Any, spec: dict[str, Any]) -> None:
    fill(busy, spec)
    path = "/v1/projects/default/quota"
    assert busy.user.patch(path, json={"gpus": 4, "weight": 2}).json()["gpus"] == 4
    view = busy.user.patch(path, json={"cpus": 8}).json()
    assert (view["cpus"], view["gpus"], view["weight"], view["cpus_held"]) == (8, 4, 2, 1)
    assert busy.user.patch(path, json={"gpus": None}).json()["gpus"] is None
    assert get(busy, path)["gpus"] is None
    assert busy.user.patch("/v1/projects/nobody/quota", json={"gpus": 1}).status_code == 404
    for bad in ({"gpus": -1}, {"gpu": 1}, {"weight": 0}, {"weight": None}, {"cpus": "many"}):
        answer = busy.user.patch(path, json=bad)
        assert answer.status_code == 422, bad
        assert answer.headers["content-type"].startswith("application/problem+json")


def test_a_label_lets_a_cluster_take_what_asks_for_it(busy: Any, spec: dict[str, Any]) -> None:
    asks = busy.submit({**spec, "resources": {"labels": {"gpu": "h100"}}})["id"]
    busy.dispatch()
    assert get(busy, f"/v1/experiments/{asks}/why")["code"] == "no_cluster_fits"
    path = "/v1/clusters/local"
    assert busy.user.patch(path, json={"labels": {"gpu": "h100", "zone": "a"}}).json()["labels"]["gpu"] == "h100"
    assert busy.user.patch(path, json={"labels": {"zone": None}}).json()["labels"] == {"gpu": "h100"}
    busy.dispatch()
    assert get(busy, f"/v1/experiments/{asks}")["state"] == "placed"
    assert get(busy, path)["labels"] == {"gpu": "h100"}
    assert busy.user.patch("/v1/clusters/nowhere", json={"labels": {}}).status_code == 404
    for bad in ({}, {"labels": {"GPU": "h100"}}, {"labels": {"gpu": ""}}, {"labels": {"gpu": 1}}, {"label": {}}):
        assert busy.user.patch(path, json=bad).status_code == 422, bad


def test_a_preempted_attempt_is_told_to_stop_and_the_user_goes_first(busy: Any, spec: dict[str, Any]) -> None:
    low = busy.submit(a(spec, workers=2, policy={"priority": 1, "preemptible": True}))["id"]
    busy.dispatch()
    epoch = busy.attach()
    attempt_id = attempts.attempt_id(low, 1)
    busy.lease(attempt_id, epoch)
    attach(busy, cpus=2)
    busy.submit(a(spec, policy={"priority": 90}))
    busy.dispatch()
    stop = busy.sync(epoch + 1)["stops"][0]
    assert (stop["attempt_id"], stop["mode"], stop["grace_s"]) == (attempt_id, "preempt", 30)
    assert stop["detail"].startswith("room for priority 90")
    busy.user.post(f"/v1/experiments/{low}/cancel")
    assert busy.sync(epoch + 1)["stops"][0]["mode"] == "cancel"

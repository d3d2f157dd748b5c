"""What operators decide through the API: releases, losses that nobody can see, and clusters."""

from datetime import timedelta
from typing import Any

import pytest

from fairlead.lifecycle import Observation, State
from fairlead.store import attempts, clusters

LOSS = {"reason": "the machine was sold"}


def post(bench: Any, path: str, document: dict[str, Any] | None = None, **headers: str) -> Any:
    return bench.user.post(path, json=document, headers=headers)


def kinds(bench: Any, experiment_id: str) -> list[str]:
    events = bench.user.get(f"/v1/experiments/{experiment_id}/events").json()["items"]
    return [event["kind"] for event in events]


def held(bench: Any, spec: dict[str, Any]) -> str:
    experiment_id = str(bench.submit(spec)["id"])
    bench.move(experiment_id, State.QUEUED, State.PLACED, State.HELD)
    return f"/v1/experiments/{experiment_id}"


def test_a_release_is_written_once_and_answers_alike_ever_after(bench: Any, spec: dict[str, Any]) -> None:
    here = held(bench, spec)
    before = len(bench.hints)
    first, second = post(bench, f"{here}/release"), post(bench, f"{here}/release")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert (first.json()["state"], first.json()["released_at"] is not None) == ("held", True)
    assert len(bench.hints) > before
    assert kinds(bench, first.json()["id"]).count("released") == 1
    bench.move(first.json()["id"], State.QUEUED)
    assert post(bench, f"{here}/release").status_code == 202, "the control loops were quicker than the second call"
    bench.move(first.json()["id"], State.PLACED, State.HELD)
    assert post(bench, f"{here}/release").status_code == 202
    assert kinds(bench, first.json()["id"]).count("released") == 2, "it was held again, and is released again"


def test_a_release_acts_only_on_the_version_that_was_seen(small_bench: Any, spec: dict[str, Any]) -> None:
    here = held(small_bench, spec)
    assert post(small_bench, f"{here}/release", **{"If-Match": '"1"'}).status_code == 412
    etag = small_bench.user.get(here).headers["etag"]
    assert post(small_bench, f"{here}/release", **{"If-Match": etag}).status_code == 202


@pytest.mark.parametrize("states", [(), (State.QUEUED,), (State.FAILED,)])
def test_what_is_not_held_cannot_be_released(small_bench: Any, spec: dict[str, Any], states: tuple[State, ...]) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    small_bench.move(experiment_id, *states)
    answer = post(small_bench, f"/v1/experiments/{experiment_id}/release")
    assert answer.status_code == 409
    assert "nothing to release" in answer.json()["detail"]


def test_what_is_held_with_its_attempt_open_is_not_released(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    small_bench.move(experiment_id, State.HELD)
    answer = post(small_bench, f"/v1/experiments/{experiment_id}/release")
    assert answer.status_code == 409
    assert "declare it lost" in answer.json()["detail"]


# ---- attempts that nobody can see -----------------------------------------------------------------------------------


def see(bench: Any, attempt_id: str, observation: Observation) -> None:
    with bench.store.write() as session:
        attempts.write_if_open(session, attempt_id, observation=observation)


def test_an_attempt_that_nobody_sees_can_be_declared_lost_once(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, _ = bench.running(spec)
    see(bench, attempt_id, Observation.UNKNOWN)
    here = f"/v1/experiments/{experiment_id}/attempts/1/declare-lost"
    answers = [post(bench, here, LOSS) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["declared_lost_by"] for answer in answers] == ["user", "user"]
    assert answers[0].json()["detail"] == LOSS["reason"]
    events = bench.user.get(f"/v1/experiments/{experiment_id}/events").json()["items"]
    told = [event for event in events if event["kind"] == "declared_lost"]
    assert [(event["actor"], event["attempt_no"]) for event in told] == [("user", 1)]
    assert LOSS["reason"] in told[0]["reason"]


def test_what_its_agent_sees_at_work_is_declared_lost_only_by_force(small_bench: Any, spec: dict[str, Any]) -> None:
    bench = small_bench
    experiment_id, attempt_id, _ = bench.running(spec)
    see(bench, attempt_id, Observation.PRESENT)
    here = f"/v1/experiments/{experiment_id}/attempts/1/declare-lost"
    refused = post(bench, here, LOSS)
    assert (refused.status_code, "force" in refused.json()["detail"]) == (409, True)
    assert post(bench, here, {**LOSS, "force": True}).status_code == 202


def test_what_a_silent_agent_saw_last_is_no_objection(small_bench: Any, spec: dict[str, Any]) -> None:
    bench = small_bench
    experiment_id, attempt_id, _ = bench.running(spec)
    see(bench, attempt_id, Observation.PRESENT)
    bench.clock.advance(bench.settings.agent_ttl_s + 1)
    assert post(bench, f"/v1/experiments/{experiment_id}/attempts/1/declare-lost", LOSS).status_code == 202


@pytest.mark.parametrize(
    ("number", "document", "status"),
    [
        ("1", {}, 422),
        ("1", {"reason": "  "}, 422),
        ("1", {"reason": "x", "forse": True}, 422),
        ("2", LOSS, 404),
        ("0", LOSS, 422),
        ("x", LOSS, 422),
    ],
)
def test_a_declaration_names_its_reason_and_an_attempt(
    small_bench: Any, spec: dict[str, Any], number: str, document: dict[str, Any], status: int
) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    here = f"/v1/experiments/{experiment_id}/attempts/{number}/declare-lost"
    assert post(small_bench, here, document).status_code == status


def test_an_attempt_that_has_ended_is_not_lost(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    small_bench.attach()
    attempt_id = small_bench.place(experiment_id)
    with small_bench.store.write() as session:
        attempts.withdraw(session, attempt_id, outcome="preempted", reason="r", now=small_bench.clock.now())
    assert post(small_bench, f"/v1/experiments/{experiment_id}/attempts/1/declare-lost", LOSS).status_code == 409


# ---- clusters -------------------------------------------------------------------------------------------------------


def state(bench: Any) -> str:
    return str(bench.user.get("/v1/clusters/local").json()["state"])


def test_a_cluster_is_shown_with_what_it_has_and_what_is_in_use(bench: Any, spec: dict[str, Any]) -> None:
    assert bench.user.get("/v1/clusters").json()["items"] == []
    assert bench.user.get("/v1/clusters/local").status_code == 404
    bench.running(spec)
    node = {"address": "127.0.0.1", "gpus": 0, "free_cpus": 2, "free_gpus": 0, "cpus": 4}
    nodes = [{**node, "node_id": "n1", "is_alive": True}, {**node, "node_id": "n2", "is_alive": False}]
    bench.sync(1, nodes=nodes)
    (shown,) = bench.user.get("/v1/clusters").json()["items"]
    assert shown == bench.user.get("/v1/clusters/local").json()
    assert (shown["state"], shown["why"], shown["is_agent_fresh"]) == ("active", None, True)
    assert (shown["nodes"], shown["cpus"], shown["cpus_in_use"], shown["open_attempts"]) == (1, 4, 1, 1)
    bench.clock.advance(bench.settings.agent_ttl_s + 1)
    assert not bench.user.get("/v1/clusters/local").json()["is_agent_fresh"]


def test_a_cluster_is_drained_and_opened_again(bench: Any) -> None:
    bench.attach()
    for verb, expected in (
        ("drain", "draining"),
        ("drain", "draining"),
        ("activate", "active"),
        ("activate", "active"),
    ):
        answer = post(bench, f"/v1/clusters/local/{verb}")
        assert (answer.status_code, answer.json()["state"]) == (200, expected)
    assert post(bench, "/v1/clusters/nowhere/drain").status_code == 404


def test_an_agent_that_comes_back_does_not_open_its_cluster(small_bench: Any) -> None:
    small_bench.attach()
    post(small_bench, "/v1/clusters/local/drain")
    small_bench.attach()
    assert state(small_bench) == "draining"


def test_a_cluster_at_work_is_retired_only_by_force_and_its_attempts_are_declared_lost(
    bench: Any, spec: dict[str, Any]
) -> None:
    experiment_id, attempt_id, _ = bench.running(spec)
    assert post(bench, "/v1/clusters/local/retire", LOSS).status_code == 409
    assert state(bench) == "active"
    for _ in range(2):
        answer = post(bench, "/v1/clusters/local/retire", {**LOSS, "force": True})
        assert (answer.status_code, answer.json()["state"]) == (200, "retired")
    assert kinds(bench, experiment_id).count("declared_lost") == 1
    with bench.store.read() as session:
        assert attempts.get(session, attempt_id).declared_lost_by == "user"
    assert post(bench, "/v1/clusters/local/drain").status_code == 409


def test_a_silent_or_idle_cluster_is_retired_without_force(small_bench: Any, spec: dict[str, Any]) -> None:
    small_bench.running(spec)
    with small_bench.store.write() as session:
        clusters.get(session, "local").last_sync_at = small_bench.clock.now() - timedelta(hours=1)
    assert post(small_bench, "/v1/clusters/local/retire", LOSS).status_code == 200


def test_a_refused_lease_leaves_its_reason_with_the_attempt(bench: Any, spec: dict[str, Any]) -> None:
    from fairlead.store import experiments

    experiment_id = bench.submit(spec)["id"]
    epoch = bench.attach()
    attempt_id = bench.place(experiment_id)
    with bench.store.write() as session:
        experiments.set_columns(session, experiment_id, spec={"name": "written by another release"})
    answer = bench.agent.post(f"/internal/v1/attempts/{attempt_id}/lease", json={"agent_epoch": epoch})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    with bench.store.read() as session:
        row = attempts.get(session, attempt_id)
    assert (row.leased_at, "cannot read the spec" in row.observed_detail) == (None, True)

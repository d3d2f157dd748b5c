import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from fairlead.lifecycle import Outcome, State
from fairlead.protocol import PROTOCOL
from fairlead.store import attempts, checkpoints, clusters, experiments
from fairlead_api.access import new_attempt_token

SHA = "a" * 64
AT = datetime(2026, 1, 1, tzinfo=UTC).isoformat()


def points(*values: Any, first_offset: int = 0, key: str = "train/loss") -> dict[str, Any]:
    found = [{"key": key, "value": v, "step": i + first_offset, "at_ms": 1000 + i} for i, v in enumerate(values)]
    return {"stream": "metrics", "first_offset": first_offset, "points": found}


def result(experiment_id: str, attempt_no: int = 1, **changes: Any) -> dict[str, Any]:
    document = {
        "experiment_id": experiment_id,
        "attempt_no": attempt_no,
        "outcome": "succeeded",
        "reason": "finished",
        "metrics": {"test/auc": "NaN"},
        "started_at": AT,
        "ended_at": AT,
    }
    return {"result": {**document, **changes}, "result_sha256": SHA}


def test_an_offer_is_leased_with_everything_a_runner_needs(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = bench.submit({**spec, "params": {"epochs": 7}})["id"]
    epoch = bench.attach()
    attempt_id = bench.place(experiment_id)
    assert [offer["attempt_id"] for offer in bench.sync(epoch)["offers"]] == [attempt_id]
    document = bench.lease(attempt_id, epoch)
    assert (document["lease_epoch"], document["runner_name"]) == (1, f"fl-{experiment_id}-a1")
    assert document["params"]["epochs"] == 7
    assert document["workload_module"] == "fairlead_workloads.tabular_mlp:train"
    assert (document["resume"], document["runtime_left_s"]) == ([], 86_400)
    assert document["storage_path"] == f"default/{experiment_id}/a1"
    assert bench.sync(epoch, observations=[{"attempt_id": attempt_id, "observation": "absent"}])["offers"] == []


def test_a_lease_whose_answer_was_lost_is_offered_again(bench: Any, spec: dict[str, Any]) -> None:
    epoch = bench.attach()
    attempt_id = bench.place(bench.submit(spec)["id"])
    first = bench.lease(attempt_id, epoch)
    assert bench.sync(epoch)["offers"] == []  # it may still be on its way
    bench.clock.advance(11)
    assert [offer["attempt_id"] for offer in bench.sync(epoch)["offers"]] == [attempt_id]
    second = bench.lease(attempt_id, epoch)
    assert second["lease_epoch"] == 2
    old = {"Authorization": f"Bearer {first['attempt_token']}"}
    answer = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=points(1.0), headers=old)
    assert answer.status_code == 401


@pytest.mark.parametrize("call", ["sync", "lease"])
def test_an_older_agent_is_told_to_exit(bench: Any, spec: dict[str, Any], call: str) -> None:
    old = bench.attach()
    attempt_id = bench.place(bench.submit(spec)["id"])
    assert bench.attach() == old + 1
    address = "agent/sync" if call == "sync" else f"attempts/{attempt_id}/lease"
    body = {"agent_epoch": old} | ({"ray_session": "ray-1"} if call == "sync" else {})
    answer = bench.agent.post(f"/internal/v1/{address}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_agent")


def test_attaching_gives_open_attempts_fresh_tokens_and_offsets(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, old = bench.running(spec)
    address = f"/internal/v1/attempts/{attempt_id}/batches"
    assert bench.nobody.post(address, json=points(1.0, 2.0), headers=old).json() == {"next_offset": 2}
    body = {"protocol": PROTOCOL, "agent_version": "1", "ray_version": "2", "ray_session": "ray-1"}
    (found,) = bench.agent.post("/internal/v1/agent/attach", json=body).json()["attempts"]
    assert (found["experiment_id"], found["is_leased"], found["batch_offsets"]) == (
        experiment_id,
        True,
        {"metrics": 2},
    )
    fresh = {"Authorization": f"Bearer {found['attempt_token']}"}
    more = points(3.0, first_offset=2)
    assert [bench.nobody.post(address, json=more, headers=h).status_code for h in (old, fresh)] == [401, 200]


@pytest.mark.parametrize("more", [{}, {"of_a_newer_release": 1}])
def test_another_protocol_is_refused_by_name(small_bench: Any, more: dict[str, Any]) -> None:
    body = {"protocol": 99, "agent_version": "1", "ray_version": "2", "ray_session": "s", **more}
    answer = small_bench.agent.post("/internal/v1/agent/attach", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/protocol")


def test_a_sync_waits_until_there_is_something_to_do(small_bench: Any) -> None:
    epoch = small_bench.attach()
    empty = {"offers": [], "stops": [], "ended": [], "strays_to_stop": [], "sweeps": [], "deletions": []}
    assert small_bench.sync(epoch, wait_s=0.3) == empty


def test_room_that_has_become_free_wakes_the_loops_at_once(small_bench: Any) -> None:
    epoch = small_bench.attach()
    node = {"node_id": "n", "address": "h", "is_alive": True, "cpus": 4, "gpus": 0, "free_gpus": 0}
    rung = []
    for free in (0, 0, 4, 4, 2, 0, 1):  # what is taken wakes nobody
        before = len(small_bench.hints)
        small_bench.sync(epoch, nodes=[{**node, "free_cpus": free}])
        rung.append(len(small_bench.hints) > before)
    assert rung == [True, False, True, False, False, False, True]


@pytest.mark.parametrize(("verb", "mode"), [("cancel", "cancel"), ("pause", "pause")])
def test_what_the_user_wants_reaches_the_agent_until_the_attempt_ends(
    bench: Any, spec: dict[str, Any], verb: str, mode: str
) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    bench.user.post(f"/v1/experiments/{experiment_id}/{verb}")
    seen = [{"attempt_id": attempt_id, "observation": "present"}]
    for _ in range(2):
        (stop,) = bench.sync(1, observations=seen, wait_s=0.5)["stops"]
        assert (stop["attempt_id"], stop["mode"]) == (attempt_id, mode)
    claim = result(experiment_id, outcome="cancelled", reason="cancelled by the user")
    address = f"/internal/v1/attempts/{attempt_id}/result"
    assert bench.nobody.post(address, json=claim, headers=headers).status_code == 204
    todo = bench.sync(1, observations=seen, wait_s=5)
    assert (todo["stops"], todo["ended"]) == ([], [attempt_id])


def test_an_offer_that_the_user_no_longer_wants_is_not_made(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = bench.submit(spec)["id"]
    epoch = bench.attach()
    attempt_id = bench.place(experiment_id)
    bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
    assert bench.sync(epoch)["offers"] == []
    answer = bench.agent.post(f"/internal/v1/attempts/{attempt_id}/lease", json={"agent_epoch": epoch})
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_attempt")


def test_a_lease_whose_answer_was_lost_is_offered_again_though_nobody_wants_it(
    bench: Any, spec: dict[str, Any]
) -> None:
    experiment_id = bench.submit(spec)["id"]
    epoch = bench.attach()
    attempt_id = bench.place(experiment_id)
    bench.lease(attempt_id, epoch)
    bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
    bench.clock.advance(11)
    todo = bench.sync(epoch)
    assert [offer["attempt_id"] for offer in todo["offers"]] == [attempt_id]
    assert [stop["attempt_id"] for stop in todo["stops"]] == [attempt_id]
    headers = {"Authorization": f"Bearer {bench.lease(attempt_id, epoch)['attempt_token']}"}
    claim = result(experiment_id, outcome="cancelled", reason="cancelled")
    answer = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/result", json=claim, headers=headers)
    assert answer.status_code == 204


def test_observations_are_kept_and_evidence_is_forgotten_when_it_is_seen_again(
    bench: Any, spec: dict[str, Any]
) -> None:
    _, attempt_id, _ = bench.running(spec)

    def observe(**seen: Any) -> Any:
        bench.sync(1, observations=[{"attempt_id": attempt_id, **seen}])
        with bench.store.read() as session:
            return attempts.get(session, attempt_id)

    row = observe(observation="present", last_step=4, detail="training")
    assert (row.observation, row.last_step, row.observed_detail, row.death_since) == ("present", 4, "training", None)
    gone = {"observation": "absent", "has_evidence_of_death": True, "death_reason": "worker_died"}
    first = observe(**gone).death_since
    bench.clock.advance(10)
    row = observe(**gone)
    assert (row.death_since, row.death_reason, row.last_step) == (first, "worker_died", 4)
    assert observe(observation="unknown").death_since == first
    assert observe(observation="present").death_since is None


def test_an_agent_cannot_speak_of_another_clusters_attempt(bench: Any, spec: dict[str, Any]) -> None:
    _, attempt_id, _ = bench.running(spec)
    with bench.store.write() as session:
        attempts.write_if_open(session, attempt_id, observation="unknown")
        clusters.ensure(session, "elsewhere")
        attempts.write_if_open(session, attempt_id, cluster="elsewhere")
    bench.sync(1, observations=[{"attempt_id": attempt_id, "observation": "present"}])
    with bench.store.read() as session:
        assert attempts.get(session, attempt_id).observation == "unknown"


def test_runners_that_nobody_knows_are_to_be_stopped(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(spec)
    strays = [f"fl-{experiment_id}-a1", "fl-unknown-a1"]
    assert bench.sync(1, stray_runners=strays)["strays_to_stop"] == ["fl-unknown-a1"]


def test_what_was_told_before_is_repeated_without_hurry(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, _ = small_bench.running(spec)
    small_bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
    seen = [{"attempt_id": attempt_id, "observation": "present"}]
    small_bench.sync(1, observations=seen)
    began_s = time.monotonic()
    assert small_bench.sync(1, observations=seen, wait_s=0.5)["stops"]
    assert time.monotonic() - began_s >= 0.5


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batches_are_taken_once_and_in_order(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    address = f"/internal/v1/attempts/{attempt_id}/batches"

    def ship(body: dict[str, Any]) -> tuple[int, Any]:
        answer = bench.nobody.post(address, json=body, headers=headers)
        return answer.status_code, answer.json().get("expected")

    assert ship(points(0.5, 0.4)) == (200, None)
    assert ship(points(0.5, 0.4)) == (409, 2)  # the answer was lost
    assert ship(points(0.1, first_offset=3)) == (409, 2)  # a gap
    assert ship(points(0.3, first_offset=2)) == (200, None)
    view = bench.user.get(f"/v1/experiments/{experiment_id}").json()
    assert (view["metrics"], view["last_step"]) == ({"train/loss": 0.3}, 2)
    series = bench.user.get(f"/v1/experiments/{experiment_id}/metrics?key=train/loss").json()["series"]
    assert [point["value"] for point in series["train/loss"]] == [0.5, 0.4, 0.3]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_leaves_as_null_with_its_name(bench: Any, spec: dict[str, Any], value: str) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    address = f"/internal/v1/attempts/{attempt_id}/batches"
    assert bench.nobody.post(address, json=points(0.5, value), headers=headers).status_code == 200
    for path in ("", "/metrics?key=train/loss", "/attempts", "/events"):
        assert bench.user.get(f"/v1/experiments/{experiment_id}{path}").status_code == 200
    view = bench.user.get(f"/v1/experiments/{experiment_id}").json()
    assert (view["metrics"], view["non_finite"]) == ({"train/loss": None}, {"train/loss": value})
    found = bench.user.get(f"/v1/experiments/{experiment_id}/metrics?key=train/loss").json()
    assert [(p["value"], p["flag"]) for p in found["series"]["train/loss"]] == [(0.5, None), (None, value)]
    assert bench.user.get("/v1/experiments").json()["items"][0]["metrics"] == {"train/loss": None}


def test_system_metrics_do_not_move_the_step(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    body = points(*range(9), key="system/cpu")
    bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=body, headers=headers)
    view = bench.user.get(f"/v1/experiments/{experiment_id}").json()
    assert (view["last_step"], view["metrics"]) == (None, {"system/cpu": 8})


def test_notes_become_events_whatever_they_hold(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    note = {"kind": "workload_said", "detail": "nul \0 half \ud800", "payload": {"x\0": 1e999}, "at_ms": 5}
    body = {"stream": "notes", "first_offset": 0, "notes": [note]}
    raw = json.dumps(body).replace("Infinity", "1e999")
    answer = bench.nobody.post(
        f"/internal/v1/attempts/{attempt_id}/batches",
        content=raw,
        headers={**headers, "Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    event = bench.user.get(f"/v1/experiments/{experiment_id}/events").json()["items"][-1]
    assert (event["kind"], event["reason"]) == ("workload_said", "nul \ufffd half \ufffd")
    assert event["payload"] == {"x\ufffd": "Infinity", "at_ms": 5}
    assert event["actor"] == "agent:local"


# ---- checkpoints and results ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_committed_once_with_one_event(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    address = f"/internal/v1/attempts/{attempt_id}/checkpoints"
    body = {"step": 3, "path": f"default/{experiment_id}/a1/ckpt-3", "manifest_sha256": SHA}

    def commit(**changes: Any) -> int:
        return int(bench.nobody.post(address, json={**body, **changes}, headers=headers).status_code)

    before = len(bench.hints)
    assert [commit(), commit(), commit(manifest_sha256="b" * 64)] == [204, 204, 409]
    assert len(bench.hints) == before, "a checkpoint wakes readers, and no loop"
    assert [commit(path=path) for path in (f"default/{experiment_id}/a2/ckpt-3", "../x", "/etc", "")] == [422] * 4
    (checkpoint,) = bench.user.get(f"/v1/experiments/{experiment_id}/checkpoints").json()["items"]
    assert checkpoint == {"step": 3, "path": body["path"], "manifest_sha256": SHA}
    kinds = [event["kind"] for event in bench.user.get(f"/v1/experiments/{experiment_id}/events").json()["items"]]
    assert kinds.count("checkpoint_committed") == 1


def test_a_result_is_written_once_and_its_repetition_is_fine(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    address = f"/internal/v1/attempts/{attempt_id}/result"

    def claim(body: dict[str, Any]) -> int:
        return int(bench.nobody.post(address, json=body, headers=headers).status_code)

    assert claim(result("another")) == 422
    assert [claim(result(experiment_id)), claim(result(experiment_id))] == [204, 204]
    assert claim({**result(experiment_id), "result_sha256": "b" * 64}) == 409
    (attempt,) = bench.user.get(f"/v1/experiments/{experiment_id}/attempts").json()["items"]
    assert (attempt["outcome"], attempt["reason"]) == ("succeeded", "finished")
    late = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=points(1.0), headers=headers)
    assert (late.status_code, late.json()["code"]) == (409, "stale_attempt")


def test_a_superseded_attempt_can_commit_nothing(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    with bench.store.write() as session:
        experiments.set_columns(session, experiment_id, current_attempt_no=2)
    checkpoint = {"step": 3, "path": f"default/{experiment_id}/a1/ckpt-3", "manifest_sha256": SHA}
    calls = {
        "started": {"node_id": "n", "pid": 1, "ray_session": "s"},
        "batches": points(1.0),
        "checkpoints": checkpoint,
        "result": result(experiment_id),
    }
    for name, body in calls.items():
        answer = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/{name}", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "stale_attempt"), name


def test_a_token_of_one_attempt_does_not_open_another(bench: Any, spec: dict[str, Any]) -> None:
    _, _, headers = bench.running(spec)
    other = bench.place(bench.submit(spec)["id"])
    bench.lease(other, 1)
    answer = bench.nobody.post(f"/internal/v1/attempts/{other}/batches", json=points(1.0), headers=headers)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "make", [lambda a: new_attempt_token(a), lambda a: f"fa_{a}_", lambda a: "fl_x_y", lambda a: a]
)
def test_forged_tokens_open_nothing(bench: Any, spec: dict[str, Any], make: Any) -> None:
    _, attempt_id, _ = bench.running(spec)
    headers = {"Authorization": f"Bearer {make(attempt_id)}"}
    answer = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=points(1.0), headers=headers)
    assert answer.status_code == 401
    assert bench.nobody.get(f"/internal/v1/code-bundles/{SHA}", headers=headers).status_code == 401


def test_the_next_attempt_resumes_from_the_newest_checkpoint_with_the_time_that_is_left(
    bench: Any, spec: dict[str, Any]
) -> None:
    experiment_id, attempt_id, headers = bench.running({**spec, "policy": {"max_runtime_s": 100}})
    for step in (1, 2):
        body = {"step": step, "path": f"default/{experiment_id}/a1/ckpt-{step}", "manifest_sha256": SHA}
        bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/checkpoints", json=body, headers=headers)
    bench.clock.advance(30)
    bench.nobody.post(
        f"/internal/v1/attempts/{attempt_id}/result",
        json=result(experiment_id, outcome="infra_error", reason="worker_died"),
        headers=headers,
    )
    bench.move(experiment_id, State.RUNNING, State.RETRYING, State.QUEUED)
    document = bench.lease(bench.place(experiment_id, attempt_no=2), 1)
    assert [one["step"] for one in document["resume"]] == [2, 1]
    assert document["runtime_left_s"] == 70


def test_the_hours_until_a_death_is_proven_cost_no_run_time(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, _ = bench.running({**spec, "policy": {"max_runtime_s": 100}})
    bench.clock.advance(30)
    bench.sync(1, observations=[{"attempt_id": attempt_id, "observation": "present"}])
    bench.clock.advance(10 * 3600)
    bench.sync(1, observations=[{"attempt_id": attempt_id, "observation": "unknown"}])
    with bench.store.write() as session:
        attempts.end(session, attempt_id, outcome=Outcome.INFRA_ERROR, reason="node_lost", now=bench.clock.now())
    bench.move(experiment_id, State.RUNNING, State.RETRYING, State.QUEUED)
    assert bench.lease(bench.place(experiment_id, attempt_no=2), 1)["runtime_left_s"] == 70


def test_numbers_that_no_column_holds_do_not_stop_an_agent(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    body = {"stream": "metrics", "first_offset": 0, "points": [{"key": "x", "value": 1, "step": 2**80, "at_ms": 2**70}]}
    address = f"/internal/v1/attempts/{attempt_id}"
    assert bench.nobody.post(f"{address}/batches", json=body, headers=headers).status_code == 200
    assert bench.user.get(f"/v1/experiments/{experiment_id}/metrics?key=x").status_code == 200
    checkpoint = {"step": 2**80, "path": f"default/{experiment_id}/a1/ckpt", "manifest_sha256": SHA}
    assert bench.nobody.post(f"{address}/checkpoints", json=checkpoint, headers=headers).status_code == 422
    seen = [{"attempt_id": attempt_id, "observation": "present", "last_step": 2**80}]
    body = {"agent_epoch": 1, "ray_session": "ray-1", "observations": seen}
    assert bench.agent.post("/internal/v1/agent/sync", json=body).status_code == 200


def test_superfluous_checkpoints_are_told_until_the_agent_has_deleted_or_spared_them(
    bench: Any, spec: dict[str, Any]
) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    path = f"default/{experiment_id}/a1/ckpt-"
    for step in (1, 2, 3):
        body = {"step": step, "path": f"{path}{step}", "manifest_sha256": SHA, "score": step / 2}
        answer = bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/checkpoints", json=body, headers=headers)
        assert answer.status_code == 204
    with bench.store.write() as session:
        rows = checkpoints.newest_first(session, experiment_id)
        assert [row.score for row in rows] == [1.5, 1.0, 0.5]
        checkpoints.mark_deleting(session, [row.id for row in rows if row.step < 3])
    seen = [{"attempt_id": attempt_id, "observation": "present"}]
    told = bench.sync(1, observations=seen)["deletions"]
    assert [one["path"] for one in told] == [f"{path}1", f"{path}2"]
    assert [keeper["path"] for keeper in told[0]["keepers"]] == [f"{path}3"]
    collected = [
        {"path": f"{path}1", "is_deleted": True},
        {"path": f"{path}2", "is_deleted": False, "damaged": [f"{path}3"]},
    ]
    assert bench.sync(1, observations=seen, collected=collected)["deletions"] == []
    left = bench.user.get(f"/v1/experiments/{experiment_id}/checkpoints").json()["items"]
    assert [one["step"] for one in left] == [2]
    kinds = [event["kind"] for event in bench.user.get(f"/v1/experiments/{experiment_id}/events").json()["items"]]
    assert kinds.count("checkpoint_rejected") == 1


def test_a_checkpoint_that_a_resume_found_damaged_is_offered_no_more(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(spec)
    path = f"default/{experiment_id}/a1/ckpt-3"
    body = {"step": 3, "path": path, "manifest_sha256": SHA}
    bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/checkpoints", json=body, headers=headers)
    note = {"kind": "checkpoint_rejected", "detail": "damaged", "payload": {"path": path}, "at_ms": 1}
    batch = {"stream": "notes", "first_offset": 0, "notes": [note]}
    assert bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=batch, headers=headers).is_success
    assert bench.user.get(f"/v1/experiments/{experiment_id}/checkpoints").json()["items"] == []

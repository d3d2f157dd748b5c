"""What agents and runners of sweeps say to the control plane, and hear from it."""

from dataclasses import replace
from typing import Any

import pytest

from fairlead.protocol import MAX_TRIAL_RECORDS
from fairlead.store import amendments, attempts, events, experiments, trials
from fairlead.testing.scheduling import a_wish

SEARCH = {
    "space": {"lr": {"log_uniform": [0.001, 1.0]}},
    "objectives": [{"minimize": "validation/loss"}],
    "trials": 10,
    "concurrency": 4,
}


@pytest.fixture
def sweep(spec: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "search": SEARCH}


def begun(no: int, **more: Any) -> dict[str, Any]:
    return {"no": no, "state": "running", "params": {"lr": 0.1}, "at_ms": 1000, **more}


def ended(no: int, loss: Any = 0.5, **more: Any) -> dict[str, Any]:
    return {"no": no, "state": "succeeded", "values": {"validation/loss": loss}, "at_ms": 2000, **more}


def batch(*records: dict[str, Any], first_offset: int = 0) -> dict[str, Any]:
    return {"stream": "trials", "first_offset": first_offset, "trials": list(records)}


def ship(bench: Any, attempt_id: str, headers: dict[str, str], body: dict[str, Any]) -> Any:
    return bench.nobody.post(f"/internal/v1/attempts/{attempt_id}/batches", json=body, headers=headers)


def test_trials_that_are_shipped_are_read_by_the_next_runner_page_by_page(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(sweep)
    told = [begun(no, points=[{"key": "validation/loss", "value": "NaN", "step": 1, "at_ms": 1}]) for no in range(5)]
    assert ship(bench, attempt_id, headers, batch(*told)).json() == {"next_offset": 5}
    assert ship(bench, attempt_id, headers, batch(*told)).json()["code"] == "offset"
    assert ship(bench, attempt_id, headers, batch(ended(1), first_offset=5)).status_code == 200
    address = f"/internal/v1/attempts/{attempt_id}/trials"
    first = bench.nobody.get(address, params={"limit": 3}, headers=headers).json()
    rest = bench.nobody.get(address, params={"limit": 3, "first_no": first["next_no"]}, headers=headers).json()
    assert [one["no"] for one in first["trials"] + rest["trials"]] == [0, 1, 2, 3, 4]
    assert rest["next_no"] is None
    assert (first["trials"][1]["state"], first["trials"][0]["curve"]) == ("succeeded", [[1, "NaN"]])
    with bench.store.read() as session:
        row = experiments.get(session, experiment_id)
        assert (row.last_step, attempts.get(session, attempt_id).last_step) == (1, 1)
        assert row.sweep["best"] == 1
    assert bench.nobody.get(address, headers={"Authorization": "Bearer fl_at_x_y"}).status_code == 401


def test_trials_of_what_is_no_sweep_are_refused(bench: Any, spec: dict[str, Any]) -> None:
    _, attempt_id, headers = bench.running(spec)
    answer = ship(bench, attempt_id, headers, batch(begun(0)))
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/trials")


@pytest.mark.parametrize(
    "record",
    [
        begun(2**31),
        begun(0, parent=2**40),
        begun(0, checkpoint={"step": 1, "path": "default/other/a1/ckpt-1", "manifest_sha256": "a" * 64}),
    ],
)
def test_trials_that_cannot_be_this_attempts_are_refused(
    bench: Any, sweep: dict[str, Any], record: dict[str, Any]
) -> None:
    _, attempt_id, headers = bench.running(sweep)
    answer = ship(bench, attempt_id, headers, batch(record))
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_input")


def test_a_batch_of_more_records_than_agreed_is_refused(small_bench: Any, sweep: dict[str, Any]) -> None:
    _, attempt_id, headers = small_bench.running(sweep)
    records = [begun(no) for no in range(MAX_TRIAL_RECORDS + 1)]
    assert ship(small_bench, attempt_id, headers, batch(*records)).status_code == 422


def test_the_runner_of_a_sweep_learns_what_was_before_it(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(sweep)
    ship(bench, attempt_id, headers, batch(begun(0), begun(1), ended(1)))
    with bench.store.write() as session:
        amendments.insert(
            session,
            experiment_id,
            kind="add_trials",
            payload={"trials": 3},
            actor="ada",
            now=bench.clock.now(),
            reason="three more",
        )
    document = bench.lease(attempt_id, 1)["sweep"]
    assert (document["slots"], document["num_trials"], document["spent_s"]) == (4, 2, 0)
    assert [(one["no"], one["trials"]) for one in document["amendments"]] == [(1, 3)]


def test_what_is_no_sweep_is_launched_without_one(small_bench: Any, spec: dict[str, Any]) -> None:
    epoch = small_bench.attach()
    assert small_bench.lease(small_bench.place(small_bench.submit(spec)["id"]), epoch)["sweep"] is None


def test_amendments_are_told_until_the_runner_has_heard_of_the_last(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, _ = bench.running(sweep)
    seen = {"attempt_id": attempt_id, "observation": "present"}
    assert bench.sync(1, observations=[seen])["sweeps"] == []
    for kind in ("concurrency", "finish"):
        with bench.store.write() as session:
            payload = {"concurrency": 2} if kind == "concurrency" else {}
            now = bench.clock.now()
            amendments.insert(
                session, experiment_id, kind=kind, payload=payload, actor="ada", now=now, reason="as asked"
            )
    for heard in (0, 1):
        (orders,) = bench.sync(1, observations=[{**seen, "amendment_no": heard}])["sweeps"]
        assert (orders["attempt_id"], orders["slots"]) == (attempt_id, 4)
        assert [one["kind"] for one in orders["amendments"]] == ["concurrency", "finish"]
    assert bench.sync(1, observations=[{**seen, "amendment_no": 2}])["sweeps"] == []


def test_other_slots_are_told_until_the_runner_has_heard_of_them(bench: Any, sweep: dict[str, Any]) -> None:
    _, attempt_id, _ = bench.running(sweep)
    seen = {"attempt_id": attempt_id, "observation": "present", "slots": 4}
    assert bench.sync(1, observations=[seen])["sweeps"] == []
    with bench.store.write() as session:
        wish = replace(a_wish(2), trials=2)
        assert attempts.resize(session, attempt_id, before=4, wish=wish, plan={"n1": 2}, now=bench.clock.now())
        assert not attempts.resize(session, attempt_id, before=4, wish=wish, plan={"n1": 2}, now=bench.clock.now())
    for _ in range(2):
        (orders,) = bench.sync(1, observations=[seen])["sweeps"]
        assert (orders["attempt_id"], orders["slots"], orders["amendments"]) == (attempt_id, 2, [])
    for told in (2, 0):
        assert bench.sync(1, observations=[{**seen, "slots": told}])["sweeps"] == []


def test_what_goes_on_from_a_trial_is_given_its_checkpoint(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(sweep)
    kept = {"step": 2, "path": f"default/{experiment_id}/a1/trials/0/ckpt-2", "manifest_sha256": "b" * 64}
    ship(bench, attempt_id, headers, batch(begun(0), ended(0, checkpoint=kept), begun(1), ended(1)))
    spec = {key: value for key, value in sweep.items() if key != "search"}
    promoted = bench.submit({**spec, "start_from": {"experiment": experiment_id, "trial": 0}})["id"]
    assert bench.lease(bench.place(promoted), 1)["resume"] == [kept]
    elsewhere = bench.submit({**spec, "start_from": {"experiment": experiment_id, "trial": 0}})["id"]
    with bench.store.write() as session:
        row = trials.find(session, experiment_id, 0)
        assert row is not None
        row.checkpoint = None
    attempt_of_elsewhere = bench.place(elsewhere)
    for _ in range(2):
        assert bench.lease(attempt_of_elsewhere, 1)["resume"] == []
    with bench.store.read() as session:
        (told,) = events.of_kind(session, elsewhere, "start_is_gone")
    assert told.reason == f"trial 0 of {experiment_id} has no checkpoint any more: it is trained from the beginning"


def test_a_trial_that_has_ended_may_lose_its_checkpoint_and_nothing_else(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(sweep)
    kept = {"step": 2, "path": f"default/{experiment_id}/a1/trials/0/ckpt-2", "manifest_sha256": "b" * 64}
    ship(bench, attempt_id, headers, batch(begun(0), ended(0, checkpoint=kept)))
    lost = {"no": 0, "state": "succeeded", "has_lost_checkpoint": True, "at_ms": 3}
    ship(bench, attempt_id, headers, batch(lost, first_offset=2))
    with bench.store.read() as session:
        row = trials.find(session, experiment_id, 0)
    assert row is not None
    assert (row.checkpoint, row.state, row.tries) == (None, "succeeded", 1)
    assert row.values


# ---- planning -------------------------------------------------------------------------------------------------------


def a_big_node(cpus: float) -> dict[str, Any]:
    return {
        "node_id": "n",
        "address": "a",
        "is_alive": True,
        "cpus": cpus,
        "gpus": 0,
        "free_cpus": cpus,
        "free_gpus": 0,
    }


def test_a_plan_says_how_many_trials_at_a_time_there_would_be(bench: Any, sweep: dict[str, Any]) -> None:
    bench.sync(bench.attach(), nodes=[a_big_node(3)])
    plan = bench.user.post("/v1/plan", json=sweep).json()
    assert (plan["fits"], plan["slots"], plan["cpus"], plan["alternative"]) == (True, 3, 3, 0)
    assert plan["why"] == "it would run on cluster local, 3 trials at a time"
    large = {**sweep, "resources": {"workers": 4}}
    plan = bench.user.post("/v1/plan", json=large).json()
    assert (plan["fits"], plan["slots"], plan["code"]) == (False, None, "no_cluster_fits")
    assert "needs 4 CPUs for 1 trial of 4 workers; local has 3 CPUs" in plan["why"]
    other = {**large, "resources": {"workers": 4, "any_of": [{"workers": 2}]}}
    plan = bench.user.post("/v1/plan", json=other).json()
    assert (plan["slots"], plan["alternative"], plan["nodes"]) == (1, 1, {"n": 2})


def test_a_sweep_for_what_nobody_reports_is_refused_before_anything_runs(bench: Any, sweep: dict[str, Any]) -> None:
    aimed = {**sweep, "search": {**SEARCH, "objectives": [{"minimize": "validation/los"}]}}
    plan = bench.user.post("/v1/plan", json=aimed).json()
    assert (plan["is_valid"], plan["problems"][0]["pointer"]) == (False, "/search/objectives/0")
    answer = bench.user.post("/v1/experiments", json=aimed, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/search/objectives/0")


def test_a_trial_to_go_on_from_must_be_there_and_have_a_checkpoint(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, attempt_id, headers = bench.running(sweep)
    kept = {"step": 2, "path": f"default/{experiment_id}/a1/trials/0/ckpt-2", "manifest_sha256": "b" * 64}
    ship(bench, attempt_id, headers, batch(begun(0), ended(0, checkpoint=kept), begun(1), ended(1), begun(2)))
    params = {**sweep["params"], "lr": 0.1}
    promotion = {**{name: value for name, value in sweep.items() if name != "search"}, "params": params}
    for trial, words in ((0, None), (1, "kept no checkpoint"), (2, "has not ended"), (3, "there is no trial 3")):
        start = {"experiment": experiment_id, "trial": trial}
        plan = bench.user.post("/v1/plan", json={**promotion, "start_from": start}).json()
        assert plan["is_valid"] is (words is None), plan["why"]
        assert words is None or words in plan["why"]

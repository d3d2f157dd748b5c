from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fairlead.lifecycle import State


def key(value: str = "k1") -> dict[str, str]:
    return {"Idempotency-Key": value}


def test_a_submitted_spec_is_there_with_its_first_event(bench: Any, spec: dict[str, Any]) -> None:
    answer = bench.user.post("/v1/experiments", json=spec, headers=key())
    assert answer.status_code == 201
    assert answer.headers["etag"] == '"1"'
    shown = bench.user.get(answer.headers["location"]).json()
    assert (shown["state"], shown["desired"], shown["total_steps"]) == ("accepted", "run", 2)
    assert shown["spec"]["data"]["uri"] == "builtin://diabetes"
    events = bench.user.get(f"/v1/experiments/{shown['id']}/events").json()["items"]
    assert [(event["seq"], event["to_state"]) for event in events] == [(1, "accepted")]
    assert bench.hints


def test_a_key_without_which_nothing_is_created(bench: Any, spec: dict[str, Any]) -> None:
    answer = bench.user.post("/v1/experiments", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert bench.user.get("/v1/experiments").json()["items"] == []


@pytest.mark.parametrize("again", ["k1", '"k1"'])
def test_the_same_key_and_body_give_the_first_answer(bench: Any, spec: dict[str, Any], again: str) -> None:
    first = bench.user.post("/v1/experiments", json=spec, headers=key("k1"))
    bench.user.post(f"{first.headers['location']}/cancel")
    second = bench.user.post("/v1/experiments", json=spec, headers=key(again))
    assert (second.status_code, second.content) == (201, first.content)
    assert second.headers["location"] == first.headers["location"]
    assert len(bench.user.get("/v1/experiments").json()["items"]) == 1


def test_a_key_with_another_body_is_refused(bench: Any, spec: dict[str, Any]) -> None:
    bench.submit(spec, key="k1")
    answer = bench.user.post("/v1/experiments", json={**spec, "seed": 1}, headers=key("k1"))
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_fifty_parallel_submits_of_one_key_make_one_experiment(bench: Any, spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda _: bench.user.post("/v1/experiments", json=spec, headers=key()), range(50), timeout=120)
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(bench.user.get("/v1/experiments").json()["items"]) == 1


def test_an_inadmissible_spec_names_the_field_and_stores_nothing(bench: Any, spec: dict[str, Any]) -> None:
    answer = bench.user.post("/v1/experiments", json={**spec, "workload": "nonesuch"}, headers=key())
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["errors"][0]["pointer"]) == (422, "bad_spec", "/workload")
    assert bench.user.get("/v1/experiments").json()["items"] == []
    assert bench.user.post("/v1/experiments", json=spec, headers=key()).status_code == 201  # the key was not used up


def test_a_before_must_be_an_experiment_of_the_project(bench: Any, spec: dict[str, Any]) -> None:
    elsewhere = bench.submit({**spec, "project": "other"})["id"]
    here = bench.submit(spec)["id"]
    mitigated = {**spec, "mitigation": {"method": "reweighing", "by": ["sex"]}}
    for named, status in ((here, 201), (elsewhere, 422), ("nobody", 422)):
        content = {**mitigated, "mitigation": {**mitigated["mitigation"], "compare_with": named}}
        answer = bench.user.post("/v1/experiments", json=content, headers={"Idempotency-Key": f"before-{named}"})
        assert answer.status_code == status, answer.text
        if status == 422:
            (problem,) = answer.json()["errors"]
            assert problem["pointer"] == "/mitigation/compare_with"
            assert problem["message"] == f"there is no experiment {named!r} in project 'default'"
        else:
            assert answer.json()["spec"]["mitigation"]["compare_with"] == here


def test_too_many_that_wait_answer_429_with_a_time(small_bench: Any, spec: dict[str, Any]) -> None:
    for _ in range(3):
        small_bench.submit(spec)
    answer = small_bench.user.post("/v1/experiments", json=spec, headers=key("k9"))
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
    assert answer.headers["retry-after"] == "10"


def test_put_creates_then_finds_then_refuses_another_spec(bench: Any, spec: dict[str, Any]) -> None:
    statuses = [
        bench.user.put("/v1/experiments/my-run-1", json=body).status_code
        for body in (spec, spec, {**spec, "seed": 1}, {**spec, "seed": 0})
    ]
    assert statuses == [201, 200, 409, 200]


@pytest.mark.parametrize("given", ["-x", "a_b", "A", "x" * 41, "%2e%2e", "a%00b", "a%0A"])
def test_ids_that_could_mean_something_else_are_refused(small_bench: Any, spec: dict[str, Any], given: str) -> None:
    assert small_bench.user.put(f"/v1/experiments/{given}", json=spec).status_code in (404, 422)


def test_twenty_parallel_puts_make_one_experiment(bench: Any, spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: bench.user.put("/v1/experiments/x1", json=spec), range(20), timeout=120))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]


def test_plan_says_what_would_happen_and_stores_nothing(bench: Any, spec: dict[str, Any]) -> None:
    plan = bench.user.post("/v1/plan", json=spec).json()
    assert (plan["is_valid"], plan["fits"], plan["ahead"]) == (True, False, 0)
    assert "no_cluster" in plan["why"]
    assert plan["spec"]["policy"]["priority"] == 50
    bad = bench.user.post("/v1/plan", json={**spec, "sed": 1}).json()
    assert (bad["is_valid"], bad["problems"][0]["pointer"]) == (False, "/sed")
    assert "seed" in bad["problems"][0]["suggestion"]
    assert bench.user.get("/v1/experiments").json()["items"] == []


def test_plan_names_the_cluster_and_who_is_ahead(bench: Any, spec: dict[str, Any]) -> None:
    node = {"node_id": "n", "address": "a", "is_alive": True, "cpus": 4, "gpus": 0, "free_cpus": 4, "free_gpus": 0}
    bench.sync(bench.attach(), nodes=[node])
    bench.move(bench.submit(spec)["id"])
    plan = bench.user.post("/v1/plan", json=spec).json()
    assert (plan["fits"], plan["why"]) == (True, "it would run on cluster local")


def test_pages_hold_everything_once_and_newest_first(bench: Any, spec: dict[str, Any]) -> None:
    made = []
    for index in range(7):
        made.append(bench.submit(spec)["id"])
        bench.clock.advance(index % 2)  # some share their time
    seen: list[str] = []
    address: str | None = "/v1/experiments?limit=3&state=eq:accepted"
    while address:
        page = bench.user.get(address).json()
        seen += [item["id"] for item in page["items"]]
        address = page["next"]
    assert sorted(seen) == sorted(made)
    assert seen[0] in made[-2:]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("state=eq:accepted", 2),
        ("state=eq:running", 0),
        ("state=in:running,accepted", 2),
        ("state=in:running,accepted&state=eq:running", 0),
        ("state=eq:queued&state=eq:accepted", 0),
        ("name=eq:other", 1),
        ("name=eq:%25", 0),
        ("project=eq:default", 2),
    ],
)
def test_filters_must_all_hold(small_bench: Any, spec: dict[str, Any], query: str, count: int) -> None:
    small_bench.submit(spec)
    small_bench.submit({**spec, "name": "other"})
    assert len(small_bench.user.get(f"/v1/experiments?{query}").json()["items"]) == count


@pytest.mark.parametrize(
    "query", ["state=running", "state=eq:nonesuch", "color=eq:red", "limit=0", "limit=501", "cursor=AAAA", "cursor=%00"]
)
def test_filters_and_cursors_that_make_no_sense_are_refused(small_bench: Any, query: str) -> None:
    answer = small_bench.user.get(f"/v1/experiments?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/query/{query.partition('=')[0]}"


@pytest.mark.parametrize(("verb", "desired"), [("cancel", "cancel"), ("pause", "pause")])
def test_an_action_is_one_event_however_often_it_is_asked(
    bench: Any, spec: dict[str, Any], verb: str, desired: str
) -> None:
    here = f"/v1/experiments/{bench.submit(spec)['id']}"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: bench.user.post(f"{here}/{verb}"), range(8)))
    assert {(answer.status_code, answer.json()["desired"]) for answer in answers} == {(202, desired)}
    events = bench.user.get(f"{here}/events").json()["items"]
    assert [event["kind"] for event in events] == ["accepted", "desired"]


def test_resume_takes_a_pause_back_but_not_a_cancel(bench: Any, spec: dict[str, Any]) -> None:
    here = f"/v1/experiments/{bench.submit(spec)['id']}"
    asked = ["pause", "resume", "resume", "cancel", "resume", "pause"]
    assert [bench.user.post(f"{here}/{verb}").status_code for verb in asked] == [202, 202, 202, 202, 409, 409]


@pytest.mark.parametrize(
    ("states", "verb", "status"),
    [
        ((State.FAILED,), "cancel", 409),
        ((State.FAILED,), "resume", 409),
        ((State.QUEUED, State.PLACED, State.RUNNING, State.EVALUATING), "cancel", 409),
        ((State.QUEUED, State.PLACED, State.HELD), "resume", 409),
        ((State.QUEUED, State.PLACED, State.HELD), "cancel", 202),
        ((State.QUEUED,), "cancel", 202),
    ],
)
def test_an_action_that_comes_too_late_is_refused_with_the_state(
    small_bench: Any, spec: dict[str, Any], states: tuple[State, ...], verb: str, status: int
) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    small_bench.move(experiment_id, *states)
    assert small_bench.user.post(f"/v1/experiments/{experiment_id}/{verb}").status_code == status


def test_if_match_acts_only_on_the_version_that_was_seen(bench: Any, spec: dict[str, Any]) -> None:
    here = f"/v1/experiments/{bench.submit(spec)['id']}"
    stale = bench.user.post(f"{here}/cancel", headers={"If-Match": '"7"'})
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    assert bench.user.post(f"{here}/cancel", headers={"If-Match": '"1"'}).status_code == 202

"""What users see of sweeps, and what they may change of them."""

import secrets
from typing import Any

import pytest
from sqlalchemy import select

from fairlead.lifecycle import State
from fairlead.protocol import TrialRecord
from fairlead.spec.search import MOST_TRIALS
from fairlead.store import events, experiments, trials
from fairlead.store.tables import AuditRow

LOSS, GAP = "validation/loss", "rai/demographic_parity_difference/sex"
SEARCH: dict[str, Any] = {
    "space": {"lr": {"log_uniform": [0.001, 1.0]}},
    "objectives": [{"minimize": LOSS}],
    "constraints": [f"{GAP} <= 0.2"],
    "trials": 10,
}
KEPT = {"step": 2, "path": "default/x/a1/trials/0/ckpt-2", "manifest_sha256": "b" * 64}


@pytest.fixture
def sweep(spec: dict[str, Any]) -> dict[str, Any]:
    gates = [{"metric": "accuracy_score", "require": ">= 0.6"}]
    return {**spec, "search": SEARCH, "gates": gates, "evaluation": {"groupings": [["sex"]]}}


def begun(no: int, **more: Any) -> TrialRecord:
    return TrialRecord(**{"no": no, "state": "running", "params": {"lr": 0.1}, "at_ms": 1000 + no, **more})


def ended(no: int, loss: float, gap: float = 0.1, **more: Any) -> TrialRecord:
    values = {LOSS: loss, GAP: gap}
    return TrialRecord(**{"no": no, "state": "succeeded", "values": values, "at_ms": 2000 + no, **more})


def tell(bench: Any, experiment_id: str, *records: TrialRecord) -> None:
    with bench.store.write() as session:
        row = experiments.get(session, experiment_id)
        search = experiments.spec_of(row).search
        trials.take(session, row, search, attempt_no=1, records=records, now=bench.clock.now())


def end(bench: Any, experiment_id: str) -> None:
    bench.move(experiment_id, State.RUNNING, State.EVALUATING, State.SUCCEEDED)


def post(bench: Any, experiment_id: str, rest: str, body: dict[str, Any], key: str | None = None) -> Any:
    headers = {"Idempotency-Key": key or secrets.token_hex(8)}
    return bench.user.post(f"/v1/experiments/{experiment_id}/{rest}", json=body, headers=headers)


def get(bench: Any, experiment_id: str, rest: str = "") -> Any:
    return bench.user.get(f"/v1/experiments/{experiment_id}{rest}")


# ---- looking at them ------------------------------------------------------------------------------------------------


def test_an_experiment_shows_how_its_sweep_stands(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    fresh = get(bench, experiment_id).json()
    assert fresh["sweep"]["trials"] == 10
    assert fresh["sweep"]["counts"] == {"running": 0, "succeeded": 0, "pruned": 0, "failed": 0}
    assert fresh["total_steps"] == 10
    tell(bench, experiment_id, begun(0), begun(1), begun(2), ended(0, 0.1, gap=0.5), ended(1, 0.5))
    shown = get(bench, experiment_id).json()
    seen = {name: shown["sweep"][name] for name in ("ended", "best", "value", "front", "nearest")}
    assert seen == {"ended": 2, "best": 1, "value": 0.5, "front": [], "nearest": None}
    assert shown["last_step"] == 2
    assert shown["links"]["trials"].endswith("/trials")


def test_what_is_no_sweep_shows_none(small_bench: Any, spec: dict[str, Any]) -> None:
    shown = small_bench.submit(spec)
    assert (shown["sweep"], shown["derived_from"]) == (None, None)
    assert get(small_bench, shown["id"], "/trials").json() == {"items": [], "next": None}


@pytest.mark.parametrize("sort", ["no", "-no", "value", "-ended_at", "started_at", "state"])
def test_pages_of_trials_follow_each_other(bench: Any, sweep: dict[str, Any], sort: str) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, *(begun(no) for no in range(7)), *(ended(no, no % 3) for no in range(5)))
    whole = get(bench, experiment_id, f"/trials?sort={sort}").json()["items"]
    found, following = [], f"/v1/experiments/{experiment_id}/trials?sort={sort}&limit=3"
    while following:
        page = bench.user.get(following).json()
        found += page["items"]
        following = page["next"]
    assert found == whole
    assert sorted(one["no"] for one in found) == list(range(7))


def test_trials_are_filtered_by_their_state(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0), begun(1), ended(1, float("nan")))
    (one,) = get(bench, experiment_id, "/trials?state=succeeded").json()["items"]
    assert (one["no"], one["values"][LOSS], one["non_finite"]) == (1, None, {LOSS: "NaN"})
    assert get(bench, experiment_id, "/trials?state=odd").status_code == 422
    assert get(bench, experiment_id, "/trials?sort=odd").status_code == 422


def test_a_cursor_is_good_for_its_own_list_only(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0), begun(1))
    following = get(bench, experiment_id, "/trials?limit=1").json()["next"]
    cursor = following.partition("cursor=")[2]
    for query in (f"sort=value&cursor={cursor}", "cursor=made-up"):
        answer = get(bench, experiment_id, f"/trials?{query}")
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/query/cursor")


def test_one_trial_is_shown_with_its_courses(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    points = [{"key": LOSS, "value": value, "step": step, "at_ms": 5} for step, value in ((1, 0.9), (2, "Infinity"))]
    record = TrialRecord(no=0, state="failed", reason="user_error", detail="Traceback", points=points, at_ms=9)
    tell(bench, experiment_id, begun(0), record)
    shown = get(bench, experiment_id, "/trials/0").json()
    assert (shown["state"], shown["reason"], shown["detail"]) == ("failed", "user_error", "Traceback")
    assert [(one["value"], one["flag"]) for one in shown["curves"][LOSS]] == [(0.9, None), (None, "Infinity")]
    assert get(bench, experiment_id, "/trials/1").status_code == 404


def test_what_a_trial_has_printed_is_read_where_it_ran_last(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(3))
    directory = bench.settings.storage / "default" / experiment_id / "a1" / "trials" / "3" / "logs"
    directory.mkdir(parents=True)
    (directory / "rank-0.000.log").write_text("hello\nof trial 3\n")
    assert get(bench, experiment_id, "/logs?trial=3").text == "hello\nof trial 3\n"
    assert get(bench, experiment_id, "/logs?trial=3&attempt=1&tail=1").text == "of trial 3\n"
    assert get(bench, experiment_id, "/logs?trial=4").status_code == 404
    assert get(bench, experiment_id, "/logs?trial=3&attempt=2").status_code == 404


# ---- changing those that run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "payload"),
    [
        ({"add_trials": 5}, {"trials": 5}),
        ({"concurrency": 2}, {"concurrency": 2}),
        ({"priority": 90}, {"priority": 90}),
        ({"enqueue": {"lr": 0.5}}, {"params": {"lr": 0.5}}),
        ({"stop_trial": 0}, {"trial": 0}),
        ({"finish": True}, {}),
    ],
)
def test_an_amendment_is_written_once_with_its_event_and_its_line_in_the_audit(
    bench: Any, sweep: dict[str, Any], change: dict[str, Any], payload: dict[str, Any]
) -> None:
    experiment_id, attempt_id, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0))
    first, again = (post(bench, experiment_id, "amendments", change, key="k") for _ in range(2))
    assert (first.status_code, first.json()) == (201, again.json())
    (kind,) = change
    assert (first.json()["no"], first.json()["kind"], first.json()["payload"]) == (1, kind, payload)
    assert [one["no"] for one in get(bench, experiment_id, "/amendments").json()["items"]] == [1]
    with bench.store.read() as session:
        (event,) = events.of_kind(session, experiment_id, "amended")
        (line,) = session.scalars(select(AuditRow).where(AuditRow.action == "amendSweep"))
    assert event.payload == {"no": 1, "amendment": kind, **payload}
    assert (line.target, line.project) == (f"amendment/{experiment_id}/1", "default")
    seen = {"attempt_id": attempt_id, "observation": "present"}
    assert [one["attempt_id"] for one in bench.sync(1, observations=[seen])["sweeps"]] == [attempt_id]


def test_more_trials_and_another_priority_show_at_once(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id = bench.submit(sweep)["id"]
    post(bench, experiment_id, "amendments", {"add_trials": 5})
    post(bench, experiment_id, "amendments", {"add_trials": 2})
    post(bench, experiment_id, "amendments", {"priority": 7})
    shown = get(bench, experiment_id).json()
    assert (shown["sweep"]["trials"], shown["total_steps"], shown["priority"]) == (17, 17, 7)
    assert shown["spec"]["search"]["trials"] == 10


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({}, 422, ""),
        ({"add_trials": 1, "concurrency": 1}, 422, ""),
        ({"add_trials": 0}, 422, "/add_trials"),
        ({"add_trials": MOST_TRIALS}, 422, "/add_trials"),
        ({"concurrency": 5000}, 422, "/concurrency"),
        ({"priority": 101}, 422, "/priority"),
        ({"enqueue": {"lr": 5}}, 422, "/enqueue/lr"),
        ({"enqueue": {}}, 422, "/enqueue/lr"),
        ({"enqueue": {"lr": 0.1, "depth": 3}}, 422, "/enqueue/depth"),
        ({"stop_trial": 5}, 422, "/stop_trial"),
        ({"stop_trial": 1}, 409, None),
        ({"finish": False}, 422, "/finish"),
    ],
)
def test_an_amendment_that_cannot_be_carried_out_is_refused(
    bench: Any, sweep: dict[str, Any], change: dict[str, Any], status: int, pointer: str | None
) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(1), ended(1, 0.5))
    answer = post(bench, experiment_id, "amendments", change)
    assert answer.status_code == status, answer.text
    if pointer is not None:
        assert answer.json()["errors"][0]["pointer"] == pointer
    assert get(bench, experiment_id, "/amendments").json()["items"] == []


def test_a_sweep_is_asked_to_finish_once(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id = bench.submit(sweep)["id"]
    for _ in range(2):
        assert bench.user.post(f"/v1/experiments/{experiment_id}/finish").status_code == 202
    assert [one["kind"] for one in get(bench, experiment_id, "/amendments").json()["items"]] == ["finish"]


def test_what_has_ended_or_is_no_sweep_cannot_be_amended(bench: Any, sweep: dict[str, Any]) -> None:
    bench.attach()
    over = bench.submit(sweep)["id"]
    bench.place(over)
    end(bench, over)
    plain = bench.submit({key: value for key, value in sweep.items() if key != "search"})["id"]
    for experiment_id in (over, plain):
        assert post(bench, experiment_id, "amendments", {"add_trials": 1}).status_code == 409
        assert bench.user.post(f"/v1/experiments/{experiment_id}/finish").status_code == 409


# ---- what comes of them ---------------------------------------------------------------------------------------------


def test_the_best_trial_becomes_an_experiment_with_the_gates_of_the_sweep(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0, params={"lr": 0.3}), ended(0, 0.4, checkpoint=KEPT), begun(1), ended(1, 0.9))
    first, again = (post(bench, experiment_id, "promote", {}, key="k") for _ in range(2))
    assert (first.status_code, first.json()["id"]) == (201, again.json()["id"])
    made = first.json()
    assert (made["derived_from"], made["sweep"], made["name"]) == (experiment_id, None, "demo")
    assert made["spec"]["params"] == {"epochs": 2, "lr": 0.3}
    assert made["spec"]["start_from"] == {"experiment": experiment_id, "trial": 0}
    assert "search" not in made["spec"]
    assert len(made["spec"]["gates"]) == 1
    assert first.headers["Location"] == f"/v1/experiments/{made['id']}"


def test_a_trial_may_be_trained_once_more_instead_of_taken(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0), ended(0, 0.4, checkpoint=KEPT), begun(1), ended(1, 0.9))
    for asked in ({"trial": 0, "take": False, "name": "winner"}, {"trial": 1}):
        made = post(bench, experiment_id, "promote", asked).json()
        assert "start_from" not in made["spec"]
        assert (made["derived_from"], made["name"]) == (experiment_id, asked.get("name", "demo"))
    assert post(bench, experiment_id, "promote", {"trial": 1, "take": True}).status_code == 409


def test_where_no_trial_keeps_the_constraints_the_nearest_must_be_named(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    assert "has finished" in post(bench, experiment_id, "promote", {}).json()["detail"]
    tell(bench, experiment_id, begun(0), ended(0, 0.1, gap=0.9), begun(1), ended(1, 0.9, gap=0.3))
    refused = post(bench, experiment_id, "promote", {})
    assert refused.status_code == 409
    assert "trial 1 comes nearest" in refused.json()["detail"]
    assert post(bench, experiment_id, "promote", {"trial": 1}).status_code == 201


def test_of_several_objectives_one_of_the_front_must_be_named(bench: Any, sweep: dict[str, Any]) -> None:
    search = {**SEARCH, "objectives": [{"minimize": LOSS}, {"minimize": GAP}], "constraints": []}
    experiment_id, _, _ = bench.running({**sweep, "search": search})
    tell(bench, experiment_id, *(begun(no) for no in range(3)))
    tell(bench, experiment_id, ended(0, 0.1, gap=0.9), ended(1, 0.9, gap=0.3), ended(2, 0.95, gap=0.95))
    refused = post(bench, experiment_id, "promote", {})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/trial")
    assert "name one of 0, 1" in refused.json()["detail"]
    assert post(bench, experiment_id, "promote", {"trial": 1}).status_code == 201


def test_only_a_finished_trial_of_a_sweep_is_promoted(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0), begun(1), TrialRecord(no=1, state="failed", at_ms=5))
    answers = [post(bench, experiment_id, "promote", {"trial": no}).status_code for no in (0, 1, 2)]
    assert answers == [409, 409, 422]
    plain = bench.submit({key: value for key, value in sweep.items() if key != "search"})["id"]
    assert post(bench, plain, "promote", {}).status_code == 409


def test_an_ended_sweep_goes_on_with_what_it_has_found(bench: Any, sweep: dict[str, Any]) -> None:
    bench.attach()
    experiment_id = bench.submit(sweep)["id"]
    bench.place(experiment_id)
    tell(bench, experiment_id, *(begun(no) for no in range(4)))
    tell(bench, experiment_id, ended(1, 0.5, checkpoint=KEPT), TrialRecord(no=2, state="failed", at_ms=5))
    tell(bench, experiment_id, ended(3, 0.7, state="pruned"))
    assert post(bench, experiment_id, "extend", {"trials": 5}).status_code == 409  # it still runs
    end(bench, experiment_id)
    made = post(bench, experiment_id, "extend", {"trials": 5}).json()
    assert (made["derived_from"], made["spec"]["search"]["inherit"]) == (experiment_id, experiment_id)
    assert {name: made["sweep"][name] for name in ("trials", "ended", "best")} == {"trials": 5, "ended": 0, "best": 0}
    items = get(bench, made["id"], "/trials").json()["items"]
    told = [(one["no"], one["state"], one["origin"], one["attempt_no"], one["has_checkpoint"]) for one in items]
    assert told == [(0, "succeeded", "inherited", 0, True), (1, "pruned", "inherited", 0, False)]
    assert get(bench, made["id"], "/logs?trial=0").status_code == 404
    tell(bench, made["id"], begun(2), ended(2, 0.6))
    stands = get(bench, made["id"]).json()["sweep"]
    assert (stands["ended"], stands["best"], stands["counts"]["succeeded"]) == (1, 0, 2)


def test_only_trials_that_lie_in_the_new_space_are_inherited(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0, params={"lr": 0.9}), ended(0, 0.5), begun(1), ended(1, 0.7))
    narrow = {**SEARCH, "space": {"lr": {"uniform": [0.05, 0.2]}}, "inherit": experiment_id}
    made = bench.submit({**sweep, "search": narrow})
    (one,) = get(bench, made["id"], "/trials").json()["items"]
    assert (one["params"], made["derived_from"]) == ({"lr": 0.1}, experiment_id)
    for changed in ({"space": {"lr": {"uniform": [0.3, 0.5]}}}, {"objectives": [{"minimize": "train/loss"}]}):
        refused = bench.user.post(
            "/v1/experiments",
            json={**sweep, "search": {**narrow, **changed}},
            headers={"Idempotency-Key": secrets.token_hex(4)},
        )
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/search/inherit")


@pytest.mark.parametrize("named", ["unknown", "plain", "foreign"])
def test_a_spec_that_goes_on_from_what_is_not_there_is_refused_as_it_is_planned(
    bench: Any, sweep: dict[str, Any], named: str
) -> None:
    plain = {key: value for key, value in sweep.items() if key != "search"}
    others = {"plain": plain, "foreign": {**sweep, "project": "other"}}
    source = bench.submit(others[named])["id"] if named in others else "nonesuch"
    starts = {**plain, "start_from": {"experiment": source, "trial": 0}}
    inherits = {**sweep, "search": {**SEARCH, "inherit": source}}
    for asked, pointer in ((starts, "/start_from"), (inherits, "/search/inherit")):
        assert bench.user.post("/v1/plan", json=asked).json()["problems"][0]["pointer"] == pointer
        answer = bench.user.post("/v1/experiments", json=asked, headers={"Idempotency-Key": secrets.token_hex(4)})
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_nothing_goes_on_from_a_trial_without_a_checkpoint(bench: Any, sweep: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(sweep)
    tell(bench, experiment_id, begun(0), ended(0, 0.5), begun(1))
    plain = {key: value for key, value in sweep.items() if key != "search"}
    for no in (0, 1, 2):
        asked = {**plain, "start_from": {"experiment": experiment_id, "trial": no}}
        assert bench.user.post("/v1/plan", json=asked).json()["problems"][0]["pointer"] == "/start_from"

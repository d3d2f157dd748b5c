import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import DBAPIError

from fairlead.errors import BadInput
from fairlead.lifecycle import Outcome
from fairlead.protocol import PROTOCOL
from fairlead.rights import Role
from fairlead.store import Store, experiments, tokens
from fairlead.store.clusters import ClusterState
from fairlead.store.tables import AttemptRow, AuditRow, ClusterRow, TokenRow
from fairlead.testing import FakeClock
from fairlead.testing.people import a_member, a_token, id_of
from fairlead_api.accounts import accept_tokens

KEY = {"Idempotency-Key": "k"}


def ask(bench: Any, caller: dict[str, str], method: str, path: str, **more: Any) -> Any:
    return bench.nobody.request(method, path, headers={**caller, **more.pop("headers", {})}, **more)


def member(bench: Any, name: str, **roles: Role) -> dict[str, str]:
    a_member(bench.store, name, roles, now=bench.clock.now())
    return a_token(bench.store, name, now=bench.clock.now())


def audits(bench: Any, **query: str) -> list[dict[str, Any]]:
    return list(bench.user.get("/v1/audit", params=query).json()["items"])


# ---- projects and members -------------------------------------------------------------------------------------------


def test_a_project_is_made_once_and_its_members_by_its_admin(bench: Any) -> None:
    assert [bench.user.put("/v1/projects/vision").status_code for _ in range(2)] == [201, 200]
    assert bench.user.put("/v1/projects/vision/members/ada", json={"role": "admin"}).status_code == 201
    ada = a_token(bench.store, "ada", now=bench.clock.now())
    for role, status in (("viewer", 201), ("editor", 200), ("editor", 200)):
        made = ask(bench, ada, "PUT", "/v1/projects/vision/members/ed", json={"role": role})
        assert (made.status_code, made.json()["role"], made.json()["created_by"]) == (status, role, "ada")
    listed = ask(bench, ada, "GET", "/v1/projects/vision/members").json()["items"]
    assert [(one["member"], one["role"]) for one in listed] == [("ada", "admin"), ("ed", "editor")]
    assert [one["name"] for one in ask(bench, ada, "GET", "/v1/projects").json()["items"]] == ["vision"]
    assert ask(bench, ada, "PUT", "/v1/projects/other").status_code == 404
    assert ask(bench, ada, "DELETE", "/v1/projects/vision/members/ed").status_code == 204
    assert ask(bench, ada, "DELETE", "/v1/projects/vision/members/ed").status_code == 404


def test_a_role_counts_from_the_next_request_on(bench: Any, spec: dict[str, Any]) -> None:
    vera = member(bench, "vera", red=Role.VIEWER)
    body = {**spec, "project": "red"}
    assert ask(bench, vera, "POST", "/v1/experiments", json=body, headers=KEY).status_code == 404
    a_member(bench.store, "vera", {"red": Role.EDITOR}, now=bench.clock.now())
    made = ask(bench, vera, "POST", "/v1/experiments", json=body, headers=KEY)
    assert made.status_code == 201
    bench.user.delete("/v1/projects/red/members/vera")
    assert ask(bench, vera, "GET", made.headers["location"]).status_code == 404
    again = ask(bench, vera, "POST", "/v1/experiments", json=body, headers=KEY)
    assert (again.status_code, made.json()["id"] in again.text) == (404, False)


@pytest.mark.parametrize("act", ["DELETE", "PUT"])
def test_the_last_admin_of_everything_stays(bench: Any, act: str) -> None:
    change = {
        "method": act,
        "url": "/v1/projects/*/members/user",
        **({"json": {"role": "viewer"}} if act == "PUT" else {}),
    }
    refused = bench.user.request(**change)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert bench.user.put("/v1/projects/*/members/heir", json={"role": "admin"}).status_code == 201
    assert bench.user.request(**change).status_code in (200, 204)


@pytest.mark.parametrize("name", ["A", "a b", "..", "a/b", "%00", "é", "x" * 64, "-a", "**", "a%2fb", "%2e%2e"])
def test_names_of_projects_and_members_are_plain(small_bench: Any, name: str) -> None:
    assert small_bench.user.put(f"/v1/projects/{name}").status_code in (404, 422)
    member = small_bench.user.put(f"/v1/projects/default/members/{name}!", json={"role": "viewer"})
    assert member.status_code in (404, 422)
    listed = small_bench.user.get("/v1/projects").json()["items"]
    assert {one["name"] for one in listed} <= {"default"}


def test_an_unknown_project_is_refused_to_all_but_an_admin_of_everything(bench: Any, spec: dict[str, Any]) -> None:
    ed = member(bench, "ed", red=Role.EDITOR)
    body = {**spec, "project": "nwe"}
    refused = ask(bench, ed, "POST", "/v1/experiments", json=body, headers=KEY)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert "no project 'nwe' that you may submit to; submit to one of: red" in refused.json()["detail"]
    planned = ask(bench, ed, "POST", "/v1/plan", json=body).json()
    assert (planned["is_valid"], planned["problems"][0]["pointer"]) == (False, "/project")
    everywhere = member(bench, "eve", **{"*": Role.EDITOR})
    refused = ask(bench, everywhere, "POST", "/v1/experiments", json=body, headers=KEY)
    assert (refused.status_code, "an admin of all projects" in refused.json()["detail"]) == (404, True)
    assert bench.user.get("/v1/projects/nwe").status_code == 404
    assert bench.user.post("/v1/experiments", json=body, headers=KEY).status_code == 201
    assert bench.user.get("/v1/projects/nwe").status_code == 200


def test_an_id_that_another_project_has_taken_is_refused(bench: Any, spec: dict[str, Any]) -> None:
    ed = member(bench, "ed", red=Role.EDITOR)
    a_member(bench.store, "x", {"blue": Role.VIEWER}, now=bench.clock.now())
    assert bench.user.put("/v1/experiments/mine", json={**spec, "project": "blue"}).status_code == 201
    assert ask(bench, ed, "PUT", "/v1/experiments/mine", json={**spec, "project": "red"}).status_code == 404
    with bench.store.read() as session:
        assert experiments.project_of(session, "mine") == "blue"


# ---- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_used_and_revoked(bench: Any) -> None:
    request = {"label": "ci", "project": "default", "role": "editor", "lifetime_days": 2}
    made = bench.user.post("/v1/tokens", json=request, headers=KEY)
    view = made.json()
    assert (made.status_code, made.headers["location"]) == (201, f"/v1/tokens/{view['id']}")
    assert view["token"].startswith(f"fl_{view['id']}_")
    headers = {"Authorization": f"Bearer {view['token']}"}
    who = ask(bench, headers, "GET", "/v1/whoami").json()
    assert (who["name"], who["everywhere"], who["projects"]) == ("user", None, {"default": "editor"})
    shown = bench.user.get(made.headers["location"])
    secret = view["token"].split("_", 2)[2]
    assert "token" not in shown.json()
    for text in (shown.text, bench.user.get("/v1/tokens").text, json.dumps(audits(bench))):
        assert secret not in text
    with bench.store.read() as session:
        rows = json.dumps([dict(row) for row in session.execute(select(TokenRow.__table__)).mappings()], default=str)
    assert secret not in rows
    assert [bench.user.delete(made.headers["location"]).status_code for _ in range(2)] == [204, 204]
    assert ask(bench, headers, "GET", "/v1/whoami").status_code == 401


def test_a_repeated_request_makes_no_second_token_and_keeps_no_secret(bench: Any) -> None:
    first = bench.user.post("/v1/tokens", json={}, headers=KEY).json()
    again = bench.user.post("/v1/tokens", json={}, headers=KEY)
    assert (again.status_code, first["id"] in again.json()["detail"]) == (409, True)
    assert bench.user.post("/v1/tokens", json={"label": "x"}, headers=KEY).status_code == 422
    with bench.store.read() as session:
        assert len(list(session.scalars(select(TokenRow).where(TokenRow.created_by == "user")))) == 1


def test_a_token_ends_at_its_time(bench: Any) -> None:
    token = bench.user.post("/v1/tokens", json={"lifetime_days": 1}, headers=KEY).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    bench.clock.advance(86_399)
    assert ask(bench, headers, "GET", "/v1/whoami").status_code == 200
    longer = ask(bench, headers, "POST", "/v1/tokens", json={"lifetime_days": 1}, headers=KEY)
    assert (longer.status_code, longer.json()["errors"][0]["pointer"]) == (422, "/lifetime_days")
    heir = ask(bench, headers, "POST", "/v1/tokens", json={}, headers=KEY).json()
    bench.clock.advance(2)
    for late in (headers, {"Authorization": f"Bearer {heir['token']}"}):
        assert ask(bench, late, "GET", "/v1/whoami").status_code == 401


@pytest.mark.parametrize(
    ("project", "role", "asked", "status"),
    [
        (None, Role.ADMIN, {}, 201),
        (None, Role.ADMIN, {"project": "red"}, 201),
        (None, Role.ADMIN, {"name": "ed", "project": "red"}, 201),
        (None, Role.ADMIN, {"name": "ed"}, 404),
        (None, Role.ADMIN, {"name": "user", "project": "blue"}, 404),
        (None, Role.ADMIN, {"kind": "agent", "cluster": "local"}, 404),
        (None, Role.VIEWER, {"role": "editor"}, 404),
        (None, Role.VIEWER, {}, 201),
        (None, Role.EDITOR, {"name": "ed", "project": "red"}, 404),
        ("red", Role.ADMIN, {}, 201),
        ("red", Role.ADMIN, {"project": "blue"}, 404),
        ("red", Role.VIEWER, {"role": "admin"}, 404),
    ],
)
def test_a_token_makes_none_that_reaches_further(
    small_bench: Any, project: str | None, role: Role, asked: dict[str, Any], status: int
) -> None:
    now = small_bench.clock.now()
    a_member(small_bench.store, "ada", {"red": Role.ADMIN, "blue": Role.VIEWER}, now=now)
    a_member(small_bench.store, "ed", {"red": Role.EDITOR}, now=now)
    headers = a_token(small_bench.store, "ada", now=now, project=project, role=role)
    made = ask(small_bench, headers, "POST", "/v1/tokens", json=asked, headers=KEY)
    assert made.status_code == status, made.text
    if status == 201:
        mine = ask(small_bench, headers, "GET", "/v1/whoami").json()
        its = ask(small_bench, {"Authorization": f"Bearer {made.json()['token']}"}, "GET", "/v1/whoami").json()
        assert its["everywhere"] is None
        assert set(its["projects"]) <= set(mine["projects"])


def test_a_narrow_token_neither_sees_nor_revokes_its_members_wider_ones(small_bench: Any) -> None:
    now = small_bench.clock.now()
    a_member(small_bench.store, "ada", {"red": Role.ADMIN}, now=now)
    wide = a_token(small_bench.store, "ada", now=now)
    narrow = a_token(small_bench.store, "ada", now=now, project="red", role=Role.VIEWER)
    assert ask(small_bench, narrow, "GET", f"/v1/tokens/{id_of(wide)}").status_code == 404
    assert ask(small_bench, narrow, "DELETE", f"/v1/tokens/{id_of(wide)}").status_code == 404
    assert ask(small_bench, narrow, "GET", "/v1/tokens").json()["items"] == []
    assert ask(small_bench, narrow, "DELETE", f"/v1/tokens/{id_of(narrow)}").status_code == 204
    assert ask(small_bench, wide, "GET", "/v1/whoami").status_code == 200


def test_an_agents_token_is_good_for_its_cluster(bench: Any) -> None:
    asked = {"kind": "agent", "cluster": "gpu", "name": "agent-of-gpu"}
    token = bench.user.post("/v1/tokens", json=asked, headers=KEY).json()["token"]
    body = {"protocol": PROTOCOL, "agent_version": "1", "ray_version": "2", "ray_session": "s"}
    headers = {"Authorization": f"Bearer {token}"}
    answer = ask(bench, headers, "POST", "/internal/v1/agent/attach", json=body)
    assert (answer.status_code, answer.json()["cluster"]) == (200, "gpu")
    assert ask(bench, headers, "GET", "/v1/whoami").status_code == 401


def test_tokens_are_paged(small_bench: Any) -> None:
    for number in range(5):
        small_bench.clock.advance(1)
        small_bench.user.post("/v1/tokens", json={"label": str(number)}, headers={"Idempotency-Key": str(number)})
    page = small_bench.user.get("/v1/tokens?limit=4").json()
    rest = small_bench.user.get(page["next"]).json()
    labels = [one["label"] for one in [*page["items"], *rest["items"]]]
    assert labels[:5] == ["4", "3", "2", "1", "0"]
    assert rest["next"] is None


def test_a_token_that_stands_where_its_hash_belongs_is_not_repeated(
    sqlite_store: Store, clock: FakeClock, tmp_path: Path
) -> None:
    _, token = tokens.new_token()
    entry = {"id": "me", "sha256": token, "kind": "user", "name": "me"}
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
    with pytest.raises(BadInput, match=r"tokens\.0\.sha256") as refusal:
        accept_tokens(sqlite_store, tmp_path / "tokens.json", clock=clock)
    assert token.split("_", 2)[2] not in str(refusal.value)
    assert refusal.value.__cause__ is None


def last_use(bench: Any, headers: dict[str, str]) -> Any:
    with bench.store.read() as session:
        return tokens.get(session, id_of(headers)).last_used_at


def test_the_last_use_is_written_at_most_once_a_minute_and_after_the_answer(bench: Any) -> None:
    vera = member(bench, "vera", red=Role.VIEWER)
    assert last_use(bench, vera) is None
    first = bench.clock.now()
    for _ in range(3):
        ask(bench, vera, "GET", "/v1/whoami")
        assert last_use(bench, vera) == first
        bench.clock.advance(25)
    ask(bench, vera, "GET", "/v1/whoami")
    assert last_use(bench, vera) == first + timedelta(seconds=75)


def test_many_wrong_tokens_from_one_address_are_answered_with_a_time(small_bench: Any) -> None:
    small_bench.app.state.api.guesses.limit = 3
    at_work = member(small_bench, "vera", red=Role.VIEWER)
    newcomer = a_token(small_bench.store, "vera", now=small_bench.clock.now())
    assert ask(small_bench, at_work, "GET", "/v1/whoami").status_code == 200
    wrong = {"Authorization": "Bearer fl_0123456789_guess"}
    assert [ask(small_bench, wrong, "GET", "/v1/whoami").status_code for _ in range(5)] == [401, 401, 401, 429, 429]
    small_bench.clock.advance(20)
    refused = ask(small_bench, newcomer, "GET", "/v1/whoami")
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "too_many", "40")
    assert ask(small_bench, at_work, "GET", "/v1/whoami").status_code == 200  # its neighbour does not stop it
    small_bench.clock.advance(41)
    assert ask(small_bench, newcomer, "GET", "/v1/whoami").status_code == 200


# ---- code bundles ---------------------------------------------------------------------------------------------------


def test_code_belongs_to_the_project_that_uploaded_it(bench: Any, spec: dict[str, Any]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("mine.py", "def train(params, context): ...\n")
    red, blue = member(bench, "ed", red=Role.EDITOR), member(bench, "bob", blue=Role.ADMIN)
    upload = {"content": packed.getvalue(), "headers": {"Content-Type": "application/zip"}}
    made = ask(bench, red, "POST", "/v1/code-bundles?project=red", **upload)
    assert made.status_code == 201
    sha256 = made.json()["sha256"]
    assert ask(bench, red, "GET", f"/v1/code-bundles/{sha256}?project=red").content == packed.getvalue()
    for project in ("red", "blue"):
        assert ask(bench, blue, "GET", f"/v1/code-bundles/{sha256}?project={project}").status_code == 404
    body = {**spec, "workload": "mine:train", "code": f"sha256:{sha256}", "params": {}}
    stolen = ask(bench, blue, "POST", "/v1/experiments", json={**body, "project": "blue"}, headers=KEY)
    assert (stolen.status_code, stolen.json()["code"]) == (422, "bad_spec")
    own = ask(bench, red, "POST", "/v1/experiments", json={**body, "project": "red"}, headers=KEY)
    assert own.status_code == 201, own.text
    upload = {"content": packed.getvalue(), "headers": {"Content-Type": "application/zip"}}
    again = ask(bench, blue, "POST", "/v1/code-bundles?project=blue", **upload)
    assert (again.status_code, again.json()["is_new"]) == (201, True)  # nor does it tell that somebody has it


# ---- webhooks -------------------------------------------------------------------------------------------------------


def test_a_webhook_belongs_to_its_project_and_one_without_to_admins_of_everything(small_bench: Any) -> None:
    ada, vera = member(small_bench, "ada", red=Role.ADMIN), member(small_bench, "vera", red=Role.VIEWER)
    everybody = {"url": "https://hooks.example.com/all"}
    assert ask(small_bench, ada, "POST", "/v1/webhooks", json=everybody, headers=KEY).status_code == 404
    for_all = small_bench.user.post("/v1/webhooks", json=everybody, headers=KEY).headers["location"]
    mine = {"url": "https://hooks.example.com/red", "project": "red"}
    assert ask(small_bench, vera, "POST", "/v1/webhooks", json=mine, headers=KEY).status_code == 404
    made = ask(small_bench, ada, "POST", "/v1/webhooks", json=mine, headers=KEY)
    assert made.status_code == 201
    for who, url in ((ada, mine["url"]), (vera, "https://hooks.example.com/…")):
        listed = ask(small_bench, who, "GET", "/v1/webhooks").json()["items"]
        assert [one["url"] for one in listed] == [url]
        assert ask(small_bench, who, "GET", made.headers["location"]).json()["url"] == url
        assert ask(small_bench, who, "GET", for_all).status_code == 404
    assert ask(small_bench, vera, "DELETE", made.headers["location"], headers={"If-Match": "*"}).status_code == 404
    assert ask(small_bench, ada, "DELETE", made.headers["location"], headers={"If-Match": "*"}).status_code == 204
    assert len(small_bench.user.get("/v1/webhooks").json()["items"]) == 1


def test_only_who_may_see_all_projects_is_told_what_was_lost_on_a_suspect_cluster(
    small_bench: Any, spec: dict[str, Any]
) -> None:
    vera = member(small_bench, "vera", red=Role.VIEWER)
    small_bench.attach()
    lost = [small_bench.submit(spec)["id"] for _ in range(3)]
    for one in lost:
        small_bench.place(one)
    with small_bench.store.write() as session:
        now = small_bench.clock.now()
        ended = {"outcome": Outcome.LOST, "reason": "the secret of blue", "leased_at": now, "ended_at": now}
        session.execute(update(AttemptRow).values(**ended))
        session.execute(update(ClusterRow).values(state=ClusterState.SUSPECT))
    told = {
        who: [ask(small_bench, headers, "GET", path).text for path in ("/v1/clusters", "/v1/clusters/local")]
        for who, headers in (("vera", vera), ("user", dict(small_bench.user.headers)))
    }
    assert all("too many attempts were lost there" in text for text in told["vera"])
    assert not any(text in shown for shown in told["vera"] for text in (*lost, "the secret of blue"))
    assert all(text in shown for shown in told["user"] for text in (*lost, "the secret of blue"))


# ---- the audit ------------------------------------------------------------------------------------------------------


def test_every_write_leaves_a_row_and_what_changes_nothing_leaves_none(bench: Any, spec: dict[str, Any]) -> None:
    ed = member(bench, "ed", red=Role.EDITOR)
    headers = {**KEY, "X-Request-ID": "request-1"}
    made = [
        ask(bench, ed, "POST", "/v1/experiments", json={**spec, "project": "red"}, headers=headers) for _ in range(2)
    ]
    experiment_id = made[0].json()["id"]
    for _ in range(2):
        assert ask(bench, ed, "POST", f"/v1/experiments/{experiment_id}/cancel").status_code == 202
    found = audits(bench, project="eq:red")
    assert [(row["action"], row["target"]) for row in found] == [
        ("cancelExperiment", f"experiment/{experiment_id}"),
        ("createExperiment", f"experiment/{experiment_id}"),
    ]
    cancelled, created = found
    assert created["before_sha256"] is None
    assert created["after_sha256"] == cancelled["before_sha256"] != cancelled["after_sha256"]
    assert (created["actor"], created["token_id"], created["address"]) == ("ed", id_of(ed), "testclient")
    assert created["request_id"] == "request-1"


def test_a_write_that_fails_leaves_no_row(bench: Any, spec: dict[str, Any]) -> None:
    assert bench.user.post("/v1/experiments", json={**spec, "workload": "nonesuch"}, headers=KEY).status_code == 422
    assert bench.user.post("/v1/clusters/nonesuch/drain").status_code == 404
    assert audits(bench) == []


def test_an_audits_row_neither_changes_nor_goes(bench: Any) -> None:
    bench.user.put("/v1/projects/red")
    for statement in (update(AuditRow).values(actor="somebody else"), delete(AuditRow)):
        with pytest.raises(DBAPIError, match="the audit only grows"), bench.store.engine.begin() as connection:
            connection.execute(statement)
    assert [row["actor"] for row in audits(bench)] == ["user"]


def test_each_kind_of_write_is_told(bench: Any, spec: dict[str, Any]) -> None:
    bench.attach()
    user = bench.user
    user.put("/v1/projects/red")
    user.put("/v1/projects/red/members/ed", json={"role": "editor"})
    user.put("/v1/projects/red/members/ed", json={"role": "viewer"})
    user.delete("/v1/projects/red/members/ed")
    token_id = user.post("/v1/tokens", json={}, headers=KEY).json()["id"]
    user.delete(f"/v1/tokens/{token_id}")
    user.put("/v1/experiments/one", json=spec)
    user.post("/v1/experiments/one/pause")
    user.post("/v1/links", json={"path": "/v1/experiments/one/report"})
    user.post("/v1/clusters/local/drain")
    user.patch("/v1/clusters/local", json={"labels": {"gpu": "h100"}})
    user.patch("/v1/projects/red/quota", json={"gpus": 8})
    hook = user.post("/v1/webhooks", json={"url": "https://hooks.example.com/x"}, headers=KEY).json()["id"]
    user.post(f"/v1/webhooks/{hook}/rotate", json={}, headers=KEY)
    for _ in range(2):
        user.post(f"/v1/webhooks/{hook}/test", headers=KEY)
    user.post(f"/v1/webhooks/{hook}/replay", json={"failed": True})  # there is none
    user.post(f"/v1/webhooks/{hook}/replay", json={"since": "2020-01-01T00:00:00Z"})
    user.patch(f"/v1/webhooks/{hook}", json={"is_enabled": False}, headers={"If-Match": "*"})
    user.delete(f"/v1/webhooks/{hook}", headers={"If-Match": "*"})
    told = [(row["action"], row["target"]) for row in reversed(audits(bench))]
    assert told == [
        ("putProject", "project/red"),
        ("putMember", "membership/red/ed"),
        ("putMember", "membership/red/ed"),
        ("removeMember", "membership/red/ed"),
        ("createToken", f"token/{token_id}"),
        ("revokeToken", f"token/{token_id}"),
        ("putExperiment", "experiment/one"),
        ("pauseExperiment", "experiment/one"),
        ("createLink", "link//v1/experiments/one/report"),
        ("drainCluster", "cluster/local"),
        ("labelCluster", "cluster/local"),
        ("setQuota", "project/red"),
        ("createWebhook", f"webhook/{hook}"),
        ("rotateWebhookSecret", f"webhook/{hook}"),
        ("testWebhook", f"messages/{hook}"),
        ("replayWebhook", f"messages/{hook}"),
        ("changeWebhook", f"webhook/{hook}"),
        ("removeWebhook", f"webhook/{hook}"),
    ]


def test_a_declaration_of_loss_is_told_however_its_number_is_spelt(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = bench.running(spec)
    body = {"reason": "sold", "force": True}
    answer = bench.user.post(f"/v1/experiments/{experiment_id}/attempts/01/declare-lost", json=body)
    assert answer.status_code == 202
    (row,) = audits(bench, action="eq:declareAttemptLost")
    assert (row["target"], row["project"]) == (f"attempt/{experiment_id}/01", "default")


def test_the_audit_is_paged_filtered_and_exported_to_admins(bench: Any) -> None:
    ada = member(bench, "ada", red=Role.ADMIN)
    ask(bench, ada, "PUT", "/v1/projects/red/members/x", json={"role": "viewer"})
    for number in range(5):
        bench.user.put(f"/v1/projects/p{number}")
    page = bench.user.get("/v1/audit?limit=4").json()
    rest = bench.user.get(page["next"]).json()
    assert [row["target"] for row in [*page["items"], *rest["items"]]] == [
        *(f"project/p{number}" for number in reversed(range(5))),
        "membership/red/x",
    ]
    assert [row["actor"] for row in ask(bench, ada, "GET", "/v1/audit").json()["items"]] == ["ada"]
    assert audits(bench, actor="eq:ada")[0]["target"] == "membership/red/x"
    lines = bench.user.get("/v1/audit", headers={"Accept": "application/jsonl"})
    assert lines.headers["content-type"].startswith("application/jsonl")
    told = [json.loads(line)["target"] for line in lines.text.splitlines()]
    assert (told[0], len(told)) == ("membership/red/x", 6)
    for bad in ("cursor=zz", "before=1", "limit=0"):
        assert bench.user.get(f"/v1/audit?{bad}").status_code == 422

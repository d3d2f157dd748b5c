"""Walks every route there is, found in the application itself, with every kind of token, and compares each answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import func, select

from fairlead.rights import Role
from fairlead.store import bundles, experiments
from fairlead.store.tables import AuditRow, EventRow
from fairlead.testing.people import a_member, a_token, id_of
from fairlead.testing.stored import a_node
from fairlead_api.access import REFUSAL, kind_for
from fairlead_api.openapi import EXAMPLE_EVALUATION, EXAMPLE_SPEC
from fairlead_api.rules import RULES, Reach, Rule, rule_for

SHA = "a" * 64
IDS = ("experiment_id", "token_id", "webhook_id")
HOOK = "https://hooks.example.com/fairlead"
USERS = ("foreign", "bound", "viewer", "editor", "admin", "everything")
ROLE_IN_RED = {"viewer": Role.VIEWER, "editor": Role.EDITOR, "admin": Role.ADMIN}
SHOWS_WHAT_IT_MAY = {"planExperiment", "listAudit"}
"""Routes about any project that answer everybody they let in, with only what is theirs."""
OWN_WORD = {
    # The right caller is told what stands in the way.
    "overrideGate": 409,  # its gates are not decided
    "putExperiment": 409,  # the experiment of the town has another spec
    "releaseExperiment": 409,
    "pauseExperiment": 409,
    "resumeExperiment": 409,
    "readReport": 404,
    "getCodeBundle": 404,  # it is noted for the project, its bytes are not on this storage
    "hasCodeBundle": 404,
    "uploadCodeBundle": 422,  # not a zip
    "replayWebhook": 404,  # none of its messages is kept
    "getTrial": 404,  # the experiment of the town is no sweep
    **dict.fromkeys(("amendSweep", "finishSweep", "promoteTrial", "extendSweep"), 409),
}


@dataclass(frozen=True)
class Route:
    method: str
    pattern: str
    operation: str
    rule: Rule

    @property
    def name(self) -> str:
        return f"{self.method} {self.pattern}"


@dataclass
class Town:
    """A project ``red`` with everything in it, its people, and one who belongs elsewhere."""

    bench: Any
    headers: dict[str, dict[str, str]]
    parts: dict[str, str]

    def ask(self, who: str, route: Route, *, unknown: bool = False) -> Any:
        parts = {
            **self.parts,
            **(dict.fromkeys(("experiment_id", "token_id", "webhook_id"), "nonesuch") if unknown else {}),
        }
        path = re.sub(r"\{(\w+)\}", lambda found: self._part(route.pattern, found[1], parts), route.pattern)
        body, kind, query = self._body(route.operation, unknown)
        headers = {"Content-Type": kind, "Idempotency-Key": f"{who}-{route.name}", **self.headers[who]}
        if "{webhook_id}" in route.pattern:
            headers["If-Match"] = "*"
        return self.bench.nobody.request(route.method, path + query, content=body, headers=headers)

    def _part(self, pattern: str, name: str, parts: dict[str, str]) -> str:
        if name != "name":
            return parts[name]
        return next((value for place, value in _NAMES.items() if place in pattern), "x1")

    def _body(self, operation: str, unknown: bool) -> tuple[Any, str, str]:
        import json

        project = "nonesuch" if unknown else "red"
        experiment = "nonesuch" if unknown else self.parts["experiment_id"]
        documents: dict[str, Any] = {
            "createExperiment": {**EXAMPLE_SPEC, "project": project},
            "createEvaluation": {**EXAMPLE_EVALUATION, "project": project},
            "putExperiment": {**EXAMPLE_SPEC, "project": project},
            "planExperiment": {**EXAMPLE_SPEC, "project": project},
            "createLink": {"path": f"/v1/experiments/{experiment}/report"},
            "createToken": {"name": "zoe", "project": project, "role": "viewer"},
            "putMember": {"role": "viewer"},
            "setQuota": {"workers": 3},
            "declareAttemptLost": {"reason": "sold", "force": True},
            "retireCluster": {"reason": "sold", "force": True},
            "overrideGate": {"reason": "the board wants to see it fail"},
            "labelCluster": {"labels": {"gpu": "h100"}},
            "excludeNode": {"reason": "it burns"},
            "createWebhook": {"url": HOOK, "project": project},
            "changeWebhook": {"description": "another"},
            "amendSweep": {"add_trials": 1},
            "extendSweep": {"trials": 1},
            "replayWebhook": {"messages": ["evt_nonesuch_1"]},
        }
        if operation == "uploadCodeBundle":
            return b"PK", "application/zip", f"?project={project}"
        query = f"?project={project}" if operation in ("getCodeBundle", "hasCodeBundle") else ""
        return json.dumps(documents.get(operation, {})).encode(), "application/json", query

    def written(self) -> tuple[int, int]:
        with self.bench.store.read() as session:
            return tuple(session.scalar(select(func.count()).select_from(row)) for row in (AuditRow, EventRow))


_NAMES = {"/projects/": "red", "/clusters/": "local", "/workloads/": "tabular_mlp"}


def routes(app: Any) -> Iterator[Route]:
    """Every route; last the one after which the webhook of the town is gone."""
    return iter(sorted(_routes(app), key=lambda route: route.operation == "removeWebhook"))


def _routes(app: Any) -> Iterator[Route]:
    for route in iter_route_contexts(app.routes):
        assert route.methods, f"{route.path} is mounted beside the router's root"
        operation = getattr(route, "operation_id", None) or getattr(route.route, "operation_id", "") or ""
        for method in sorted(route.methods):
            yield Route(method, route.path, operation, rule_for(method, route.path))


@pytest.fixture
def town(small_bench: Any, spec: dict[str, Any]) -> Town:
    bench, now = small_bench, small_bench.clock.now()
    a_member(bench.store, "vera", {"red": Role.VIEWER}, now=now)
    a_member(bench.store, "ed", {"red": Role.EDITOR}, now=now)
    a_member(bench.store, "ada", {"red": Role.ADMIN}, now=now)
    a_member(bench.store, "bob", {"blue": Role.ADMIN}, now=now)
    a_member(bench.store, "both", {"red": Role.ADMIN, "blue": Role.ADMIN}, now=now)
    experiment_id, attempt_id, attempt_headers = bench.running({**spec, "project": "red"})
    bench.sync(1, observations=[], nodes=[a_node().model_dump(mode="json")])
    asked = {"url": HOOK, "project": "red"}
    webhook = bench.user.post("/v1/webhooks", json=asked, headers={"Idempotency-Key": "town"}).json()["id"]
    with bench.store.write() as session:
        bundles.ensure(session, sha256=SHA, size=1, project="red", actor="ed", now=now)
    spare = a_token(bench.store, "vera", now=now, project="red", role=Role.VIEWER)
    hour = timedelta(hours=1)
    return Town(
        bench=bench,
        headers={
            "nobody": {},
            "expired": a_token(bench.store, "user", now=now, expires_at=now - hour),
            "revoked": a_token(bench.store, "user", now=now, revoked_at=now - hour),
            "agent": dict(bench.agent.headers),
            "attempt": attempt_headers,
            "foreign": a_token(bench.store, "bob", now=now),
            "bound": a_token(bench.store, "both", now=now, project="blue"),
            "viewer": a_token(bench.store, "vera", now=now),
            "editor": a_token(bench.store, "ed", now=now),
            "admin": a_token(bench.store, "ada", now=now),
            "everything": dict(bench.user.headers),
        },
        parts={
            "experiment_id": experiment_id,
            "attempt_id": attempt_id,
            "attempt_no": "1",
            "trial_no": "0",
            "sha256": SHA,
            "member": "zoe",
            "token_id": id_of(spare),
            "webhook_id": webhook,
            "node_id": "node-1",
            "gate_id": "dp",
            "asset": "nonesuch",
            "token": "nonesuch",
        },
    )


def is_let(who: str, route: Route) -> bool:
    """The policy, told apart from the code that enforces it: what ``who`` may do in the town."""
    rule = route.rule
    if who == "everything" or (rule.reach is Reach.ANYWHERE and route.operation not in ("getToken", "revokeToken")):
        return True
    if route.operation in ("getToken", "revokeToken"):
        return who in ("viewer", "admin")  # whose it is, and the admin of the project that it is bound to
    if rule.reach is Reach.EVERYWHERE:
        return False
    if who not in ROLE_IN_RED:
        return route.operation in SHOWS_WHAT_IT_MAY
    if route.operation == "createToken":
        return who == "admin"  # it is for somebody else
    return ROLE_IN_RED[who].covers(rule.role)


def test_every_route_for_users_has_a_rule(small_bench: Any) -> None:
    ours = {route.name for route in routes(small_bench.app) if kind_for(route.pattern) == "user"}
    assert ours - set(RULES) == set(), "give these a line in fairlead_api/rules.py: who may call them?"
    assert set(RULES) - ours == set(), "these are gone: take them out of fairlead_api/rules.py"


def test_whoever_only_views_changes_nothing(small_bench: Any) -> None:
    writing = {
        route.name
        for route in routes(small_bench.app)
        if kind_for(route.pattern) == "user" and route.rule.role is Role.VIEWER and route.method not in ("GET", "HEAD")
    }
    assert writing == {"POST /v1/plan", "POST /v1/links", "POST /v1/tokens", "DELETE /v1/tokens/{token_id}"}


def test_every_writing_route_tells_the_audit(small_bench: Any) -> None:
    for route in routes(small_bench.app):
        if kind_for(route.pattern) == "user" and route.method not in ("GET", "HEAD"):
            is_told = bool(route.rule.writes) or route.rule.notes
            assert is_told is (route.operation != "planExperiment"), f"{route.name}: say in rules.py what it writes"


@pytest.mark.parametrize("who", ["nobody", "expired", "revoked", "agent", "attempt"])
def test_without_a_users_valid_token_every_route_is_closed(town: Town, who: str) -> None:
    before = town.written()
    for route in routes(town.bench.app):
        kind = kind_for(route.pattern)
        answer = town.ask(who, route)
        if kind is None:
            assert answer.status_code in (200, 404), route.name
        elif kind == who:
            assert answer.status_code != 401, route.name
        else:
            assert (answer.status_code, answer.json()["code"] if route.method != "HEAD" else "unauthorized") == (
                401,
                "unauthorized",
            ), f"{who} gets {answer.status_code} of {route.name}"
    if who not in ("agent", "attempt"):
        assert town.written() == before


@pytest.mark.parametrize("who", USERS)
def test_every_route_answers_a_user_by_their_role_and_no_further(town: Town, who: str) -> None:
    document = town.bench.nobody.get("/openapi.json").json()
    walked = [route for route in routes(town.bench.app) if kind_for(route.pattern) == "user"]
    assert len(walked) > 40
    for route in walked:
        before = town.written()
        answer = town.ask(who, route)
        said = f"{who} gets {answer.status_code} of {route.name}: {answer.text[:300]}"
        if is_let(who, route):
            declared = {int(code) for code in document["paths"][route.pattern][route.method.lower()]["responses"]}
            good = {code for code in declared if code < 300}
            assert answer.status_code in good | {OWN_WORD.get(route.operation)}, said
            if answer.status_code == 404 and route.method != "HEAD":
                assert answer.json()["detail"] != REFUSAL, said
        else:
            assert answer.status_code == 404, said
            assert town.written() == before, f"{who} has written by {route.name}"
            if route.method != "HEAD":
                assert without_names(answer) == without_names(town.ask(who, route, unknown=True)), said
    for route in walked:  # and still nothing of another project is seen
        if who in ("foreign", "bound") and route.method == "GET" and is_let(who, route):
            shown = town.ask(who, route).text
            assert not [town.parts[key] for key in ("experiment_id", "webhook_id") if town.parts[key] in shown], (
                route.name
            )


def without_names(answer: Any) -> dict[str, Any]:
    """A refusal without what the caller said itself."""
    problem = {key: value for key, value in answer.json().items() if key not in ("request_id", "instance")}
    problem["detail"] = re.sub(r"'(red|nonesuch)'", "'...'", problem["detail"])
    return problem


def test_agents_and_runners_reach_their_own_routes_only(town: Town) -> None:
    for route in routes(town.bench.app):
        kind = kind_for(route.pattern)
        if kind in ("agent", "attempt"):
            for who in (*USERS, "nobody", "agent" if kind == "attempt" else "attempt"):
                assert town.ask(who, route).status_code == 401, f"{who} may {route.name}"


def test_a_list_shows_what_the_caller_may_see(town: Town, spec: dict[str, Any]) -> None:
    blue = town.bench.submit({**spec, "project": "blue"})["id"]
    seen = {}
    for who in USERS:
        items = town.bench.nobody.get("/v1/experiments", headers=town.headers[who]).json()["items"]
        seen[who] = {item["id"] for item in items}
    red = town.parts["experiment_id"]
    assert seen == {
        **{key: {blue} for key in ("foreign", "bound")},
        **{key: {red} for key in ("viewer", "editor", "admin")},
        "everything": {red, blue},
    }
    asked = town.bench.nobody.get("/v1/experiments?project=eq:blue", headers=town.headers["viewer"])
    assert asked.json()["items"] == []
    with town.bench.store.read() as session:
        assert experiments.project_of(session, red) == "red"

"""Nodes through the API: who sees them, who excludes them and takes them in again, and what that does to who waits."""

from typing import Any

import pytest

from fairlead.protocol import LaunchDocument, NodeInfo
from fairlead.rights import Role
from fairlead.store import audit, exclusions
from fairlead.testing.people import a_member, a_token
from fairlead.testing.stored import a_node

HERE = "/v1/clusters/local/nodes"
WHY = {"reason": "its second GPU falls off the bus"}


def node(node_id: str, *, cpus: float = 2, is_alive: bool = True) -> dict[str, Any]:
    return NodeInfo(**{**a_node(node_id, cpus=cpus).model_dump(), "is_alive": is_alive}).model_dump(mode="json")


@pytest.fixture
def pair(small_bench: Any) -> Any:
    small_bench.sync(small_bench.attach(), nodes=[node("n1"), node("n2"), node("n0", is_alive=False)])
    return small_bench


def change(bench: Any, node_id: str, verb: str, document: dict[str, Any] | None = None) -> Any:
    return bench.user.post(f"{HERE}/{node_id}/{verb}", json=document)


def test_nodes_are_listed_excluded_and_readmitted(bench: Any) -> None:
    assert bench.user.get(HERE).status_code == 404
    bench.sync(bench.attach(), nodes=[node("n2"), node("n1"), node("n0", is_alive=False)])
    shown = bench.user.get(HERE).json()["items"]
    assert [(one["node_id"], one["is_alive"], one["is_excluded"]) for one in shown] == [
        ("n0", False, False),
        ("n1", True, False),
        ("n2", True, False),
    ]
    before = len(bench.hints)
    view = change(bench, "n1", "exclude", WHY).json()
    assert (view["is_excluded"], view["why"], view["excluded_by"]) == (True, WHY["reason"], "user")
    assert view["excluded_at"] == bench.clock.now().isoformat().replace("+00:00", "Z")
    assert change(bench, "n1", "exclude", {"reason": "another"}).json() == view, "a second call changes nothing"
    cluster = bench.user.get("/v1/clusters/local").json()
    assert (cluster["nodes"], cluster["nodes_excluded"]) == (2, 1)
    for _ in range(2):
        back = change(bench, "n1", "readmit").json()
        assert (back["is_excluded"], back["why"], back["excluded_by"], back["excluded_at"]) == (False, "", None, None)
    assert len(bench.hints) > before
    again = change(bench, "n1", "exclude", {"reason": "once more"}).json()
    assert (again["is_excluded"], again["why"]) == (True, "once more")


def test_each_change_leaves_a_row_in_the_audit_and_a_repeated_one_none(pair: Any) -> None:
    for verb, document in (("exclude", WHY), ("exclude", WHY), ("readmit", None), ("readmit", None)):
        assert change(pair, "n1", verb, document).status_code == 200
    with pair.store.read() as session:
        rows = audit.page(session, limit=10)
    assert [(row.actor, row.action, row.target) for row in rows] == [
        ("user", "readmitNode", "node/local/n1"),
        ("user", "excludeNode", "node/local/n1"),
    ]
    assert rows[1].before_sha256 is None
    assert rows[0].before_sha256 == rows[1].after_sha256 != rows[0].after_sha256


@pytest.mark.parametrize(
    ("node_id", "verb", "document", "status"),
    [
        ("n1", "exclude", {}, 422),
        ("n1", "exclude", {"reason": "  "}, 422),
        ("n1", "exclude", {"reason": "x" * 501}, 422),
        ("n1", "exclude", {**WHY, "force": True}, 422),
        ("n9", "exclude", WHY, 404),
        ("n9", "readmit", None, 404),
        ("n" * 101, "readmit", None, 422),
    ],
)
def test_a_node_must_be_known_and_an_exclusion_say_why(
    pair: Any, node_id: str, verb: str, document: dict[str, Any] | None, status: int
) -> None:
    assert change(pair, node_id, verb, document).status_code == status
    with pair.store.read() as session:
        assert exclusions.on(session, "local") == []


def test_only_admins_of_everything_exclude_and_addresses_are_for_those_who_see_all(pair: Any) -> None:
    change(pair, "n1", "exclude", WHY)
    a_member(pair.store, "ada", {"default": Role.ADMIN}, now=pair.clock.now())
    headers = a_token(pair.store, "ada", now=pair.clock.now())
    shown = pair.nobody.get(HERE, headers=headers).json()["items"]
    assert [(one["node_id"], one["why"], one["address"]) for one in shown if one["is_excluded"]] == [
        ("n1", WHY["reason"], "")
    ]
    assert pair.user.get(HERE).json()["items"][1]["address"] == "127.0.0.1"
    for verb, document in (("exclude", WHY), ("readmit", None)):
        answer = pair.nobody.post(f"{HERE}/n1/{verb}", json=document, headers=headers)
        assert answer.status_code == 404
    assert pair.user.get(HERE).json()["items"][1]["is_excluded"]


def test_a_launch_avoids_excluded_nodes_that_live(pair: Any, spec: dict[str, Any]) -> None:
    for one in ("n0", "n2"):
        change(pair, one, "exclude", WHY)
    experiment_id = pair.submit(spec)["id"]
    epoch = pair.attach()
    pair.sync(epoch, nodes=[node("n1"), node("n2"), node("n0", is_alive=False)])
    attempt_id = pair.place(experiment_id)
    answer = pair.agent.post(f"/internal/v1/attempts/{attempt_id}/lease", json={"agent_epoch": epoch})
    assert LaunchDocument.model_validate(answer.json()).excluded_nodes == ("n2",)

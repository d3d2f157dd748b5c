"""Webhooks through the API, the SDK and the command line; what is sent is taken by a real receiver."""

import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fairlead.cli import app as cli
from fairlead.client import Client
from fairlead.control.deliver import Deliver
from fairlead.errors import BadInput, NotFound
from fairlead.store.tables import IdempotencyRow, Table
from fairlead.testing.webhooks import Receiver, receiving

KEY = {"Idempotency-Key": "k"}
ANY = {"If-Match": "*"}
URL = "https://hooks.example.com/x"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as running:
        yield running


def deliver(bench: Any, receiver: Receiver) -> None:
    changes = {"webhook_networks": (ip_network("127.0.0.0/8"),), "webhook_ca_file": receiver.ca_file}
    settings = bench.settings.model_copy(update=changes)
    loop = Deliver(store=bench.store, clock=bench.clock, settings=settings)
    while loop():
        pass


def opened(bench: Any) -> None:
    """Let the API accept addresses on loopback."""
    object.__setattr__(bench.settings, "webhook_networks", (ip_network("127.0.0.0/8"),))


def test_a_webhook_is_made_once_a_key_and_its_secret_is_stored_nowhere(bench: Any) -> None:
    body = {"url": URL, "kinds": ["failed"], "description": "mine"}
    made = bench.user.post("/v1/webhooks", json=body, headers=KEY)
    assert made.status_code == 201, made.text
    view = made.json()
    secret = view.pop("secret")
    assert made.headers["location"] == f"/v1/webhooks/{view['id']}"
    assert (secret[:6], view["state"], view["kinds"], view["version"]) == ("whsec_", "active", ["failed"], 1)
    again = bench.user.post("/v1/webhooks", json=body, headers=KEY)
    assert (again.status_code, again.content) == (201, made.content)
    assert bench.user.post("/v1/webhooks", json={"url": URL}, headers=KEY).status_code == 422
    assert bench.user.post("/v1/webhooks", json=body).status_code == 400
    assert bench.user.get("/v1/webhooks").json()["items"] == [view]
    shown = bench.user.get(f"/v1/webhooks/{view['id']}")
    assert (shown.json(), shown.headers["etag"]) == (view, '"1"')
    with bench.store.read() as session:
        for table in Table.metadata.sorted_tables:
            assert not [row for row in session.execute(table.select()) if secret[6:] in str(row)], table


@pytest.mark.parametrize(
    "body",
    [
        {"url": "http://example.com/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://[::ffff:169.254.169.254]/latest"},
        {"url": "https://me:secret@example.com/"},
        {"url": URL, "kinds": ["a b"]},
        {"url": URL, "kinds": ["x"] * 51},
        {"url": URL, "secret": "whsec_mine"},
        {},
    ],
)
def test_an_endpoint_that_cannot_be_is_refused_and_nothing_is_stored(small_bench: Any, body: dict[str, Any]) -> None:
    refused = small_bench.user.post("/v1/webhooks", json=body, headers=KEY)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert refused.json()["errors"]
    assert small_bench.user.get("/v1/webhooks").json()["items"] == []
    with small_bench.store.read() as session:
        assert session.query(IdempotencyRow).count() == 0


def test_changes_name_the_version_that_they_are_about(bench: Any) -> None:
    address = bench.user.post("/v1/webhooks", json={"url": URL}, headers=KEY).headers["location"]
    assert bench.user.patch(address, json={"is_enabled": False}).status_code == 428
    assert bench.user.patch(address, json={"is_enabled": False}, headers={"If-Match": '"7"'}).status_code == 412
    changed = bench.user.patch(address, json={"is_enabled": False}, headers={"If-Match": '"1"'})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (changed.json()["state"], changed.json()["reason"]) == ("disabled", "user disabled it")
    assert bench.user.post(f"{address}/test", headers=KEY).status_code == 409
    assert bench.user.patch(address, json={"url": "http://10.0.0.1/"}, headers=ANY).status_code == 422
    changed = bench.user.patch(address, json={"is_enabled": True, "kinds": ["x"]}, headers=ANY)
    assert (changed.json()["state"], changed.json()["kinds"], changed.json()["url"]) == ("active", ["x"], URL)
    assert bench.user.delete(address).status_code == 428
    assert bench.user.delete(address, headers={"If-Match": '"3"'}).status_code == 204
    assert bench.user.get(address).status_code == 404


def test_there_is_an_end_to_how_many(small_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead_api.routes.webhooks.MAX_ENDPOINTS", 1)
    codes = [
        small_bench.user.post("/v1/webhooks", json={"url": URL}, headers={"Idempotency-Key": str(key)}).status_code
        for key in range(2)
    ]
    assert codes == [201, 429]


def test_a_rotation_gives_one_new_secret_a_key(bench: Any, receiver: Receiver) -> None:
    opened(bench)
    made = bench.user.post("/v1/webhooks", json={"url": receiver.url()}, headers=KEY).json()
    address = f"/v1/webhooks/{made['id']}"
    answers = [
        bench.user.post(f"{address}/rotate", json={}, headers={"Idempotency-Key": key}) for key in ("a", "a", "b")
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    first, again, second = (answer.json() for answer in answers)
    assert first == again
    assert len({made["secret"], first["secret"], second["secret"]}) == 3
    bench.user.post(f"{address}/test", headers=KEY)
    deliver(bench, receiver)
    (message,) = receiver.received
    signed = [message.is_signed_with(one["secret"]) for one in (made, first, second)]
    assert signed == [False, True, True]


def test_a_test_message_is_sent_once_a_key_and_its_delivery_is_shown(bench: Any, receiver: Receiver) -> None:
    opened(bench)
    address = bench.user.post("/v1/webhooks", json={"url": receiver.url()}, headers=KEY).headers["location"]
    sent = [bench.user.post(f"{address}/test", headers=KEY) for _ in range(2)]
    assert [(one.status_code, one.json()["state"]) for one in sent] == [(202, "pending")] * 2
    receiver.answers = [500]
    deliver(bench, receiver)
    (shown,) = bench.user.get(f"{address}/deliveries").json()["items"]
    assert [(one["status"], one["error"]) for one in shown["tries"]] == [(500, "it answered 500")]
    bench.clock.advance(5)
    deliver(bench, receiver)
    (shown,) = bench.user.get(f"{address}/deliveries?state=eq:delivered").json()["items"]
    assert [one["status"] for one in shown["tries"]] == [500, 204]
    assert receiver.ids == [sent[0].json()["message_id"]] * 2


def test_deliveries_are_paged_and_sent_once_more(bench: Any, receiver: Receiver, spec: dict[str, Any]) -> None:
    opened(bench)
    address = bench.user.post("/v1/webhooks", json={"url": receiver.url()}, headers=KEY).headers["location"]
    experiment_id = bench.submit(spec)["id"]
    bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
    deliver(bench, receiver)
    ids: list[str] = []
    following: str | None = f"{address}/deliveries?limit=1"
    while following:
        page = bench.user.get(following).json()
        ids += [one["message_id"] for one in page["items"]]
        following = page["next"]
    assert ids == [f"evt_{experiment_id}_2", f"evt_{experiment_id}_1"]
    assert bench.user.get(f"{address}/deliveries?cursor=x").status_code == 422
    assert bench.user.get(f"{address}/deliveries?state=eq:x").status_code == 422
    bench.clock.advance(1)
    for body, count in (
        ({"messages": ids[:1]}, 1),
        ({"failed": True}, 0),
        ({"since": "2020-01-01T00:00:00Z"}, 2),
    ):
        answer = bench.user.post(f"{address}/replay", json=body)
        assert (answer.status_code, answer.json()["messages"]) == (202, count)
    deliver(bench, receiver)
    assert sorted(receiver.ids) == sorted(ids * 2)
    assert bench.user.post(f"{address}/replay", json={"messages": ["evt_no_1"]}).status_code == 404
    for body in ({}, {"failed": True, "messages": ids}, {"until": "2020-01-01T00:00:00Z"}):
        assert bench.user.post(f"{address}/replay", json=body).status_code == 422
    assert bench.user.post(f"{address}/replay", json={"since": "2020-01-01T00:00:00"}).status_code == 422


# ---- SDK and command line -------------------------------------------------------------------------------------------


def test_the_sdk_speaks_of_webhooks(small_bench: Any, receiver: Receiver, serve: Any) -> None:
    opened(small_bench)
    token = small_bench.user.headers["authorization"].removeprefix("Bearer ")
    with Client(serve(small_bench.app), token) as client:
        made = client.webhooks.add(receiver.url(), kinds=["failed"], project="default")
        assert client.webhooks.get(made.id).kinds == ("failed",)
        assert client.webhooks.rotate(made.id).secret != made.secret
        assert client.webhooks.test(made.id).state == "pending"
        deliver(small_bench, receiver)
        assert [one.state for one in client.webhooks.deliveries(made.id)] == ["delivered"]
        (message,) = receiver.received
        assert client.webhooks.replay(made.id, messages=[message.id]).messages == 1
        assert client.webhooks.change(made.id, is_enabled=False).state == "disabled"
        client.webhooks.remove(made.id)
        assert client.webhooks.list() == ()
        with pytest.raises(NotFound):
            client.webhooks.get(made.id)
        with pytest.raises(BadInput, match="not a public address"):
            client.webhooks.add("https://10.0.0.1/")


def test_the_command_line_speaks_of_webhooks(
    small_bench: Any, receiver: Receiver, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(small_bench)
    monkeypatch.setattr("fairlead_api.edge._log", lambda *_: None)  # server and commands share one standard output here
    monkeypatch.setenv("FAIRLEAD_URL", serve(small_bench.app))
    monkeypatch.setenv("FAIRLEAD_TOKEN", small_bench.user.headers["authorization"].removeprefix("Bearer "))
    monkeypatch.delenv("FAIRLEAD_HOME", raising=False)

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(cli, ["webhooks", *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    assert run() == ""
    identity, secret = run("add", receiver.url(), "--kind", "failed", "--kind", "held").split()
    assert secret.startswith("whsec_")
    (view,) = json.loads(run("--json"))
    assert (view["id"], view["kinds"], "secret" in view) == (identity, ["failed", "held"], False)
    assert all(text in run() for text in (identity, "active", "failed, held"))
    assert json.loads(run("rotate", identity, "--json"))["secret"] != secret
    message_id = run("test", identity).split()[0]
    deliver(small_bench, receiver)
    assert all(text in run("deliveries", identity) for text in (message_id, "delivered", "204 in"))
    assert json.loads(run("replay", identity, "--message", message_id, "--json")) == {"messages": 1}
    assert run("replay", identity, "--failed") == f"{identity}: 0 messages will be sent once more\n"
    assert run("replay", identity, "--hours", "1") == f"{identity}: 0 messages will be sent once more\n"
    assert run("disable", identity) == f"{identity}: now disabled\n"
    assert run("enable", identity) == f"{identity}: now active\n"
    assert run("remove", identity) == f"{identity}: removed\n"
    run("remove", identity, code=1)
    for wrong in (["http://example.com/"], [URL, "--project", "A b"], [URL, "--kind", "a b"]):
        run("add", *wrong, code=2)

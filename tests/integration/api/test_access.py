import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from fairlead.store import tokens
from fairlead.store.tables import TokenRow
from fairlead_api.access import OPEN, kind_for

SHA = "a" * 64


def _routes(app: Any) -> Iterator[tuple[str, str, str | None]]:
    """Method, address and the kind of token, of every route that there is."""
    for route in iter_route_contexts(app.routes):
        assert route.methods, f"{route.path} is mounted beside the router's root"
        for method in route.methods:
            path = re.sub(r"\{sha256\}", SHA, route.path)
            yield method, re.sub(r"\{[a-z_]+\}", "x1", path), kind_for(route.path)


def _status(client: Any, method: str, path: str, headers: dict[str, str] | None = None) -> int:
    body = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    return int(client.request(method, path, content=b"{}", headers={**body, **(headers or {})}).status_code)


def test_every_route_asks_for_its_kind_of_token(small_bench: Any) -> None:
    bench = small_bench
    walked = list(_routes(bench.app))
    assert len(walked) > 35
    for method, path, kind in walked:
        if kind is None:
            assert _status(bench.nobody, method, path) in (200, 404), path
            continue
        clients = {"user": bench.user, "agent": bench.agent, "nobody": bench.nobody}
        for name, client in clients.items():
            if name != kind:
                assert _status(client, method, path) == 401, f"{name} may {method} {path}"
        for value in ("Bearer", "Bearer  ", "Basic x", "Bearer fl_x_y", "bearer fa_x1_y", "Bearer \u00ff"):
            header = {"Authorization": value.encode("latin-1")}
            assert _status(bench.nobody, method, path, header) == 401, f"{value!r} may {method} {path}"


def test_what_is_open_gives_nothing_away(small_bench: Any) -> None:
    assert {
        "/healthz",
        "/readyz",
        "/startupz",
        "/docs",
        "/docs/problems",
        "/docs/{asset}",
        "/openapi.json",
        "/links/{token}",
    } == OPEN


@pytest.mark.parametrize("path", ["/v1/new", "/internal/v1/other", "/metrics", "/", "/docs/"])
def test_a_route_that_nobody_thought_of_asks_for_a_token(path: str) -> None:
    assert kind_for(path) == "user"


def test_an_expired_token_is_refused(small_bench: Any) -> None:
    now = small_bench.clock.now()
    token_id, token = tokens.new_token()
    with small_bench.store.write() as session:
        tokens.ensure(
            session,
            token_id=token_id,
            sha256=tokens.hash_token(token),
            kind="user",
            name="short",
            cluster=None,
            now=now,
        )
        row = session.get(TokenRow, token_id)
        assert row is not None
        row.expires_at = now + timedelta(hours=1)
    headers = {"Authorization": f"Bearer {token}"}
    assert small_bench.nobody.get("/v1/whoami", headers=headers).json()["name"] == "short"
    small_bench.clock.advance(3600)
    assert small_bench.nobody.get("/v1/whoami", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:8170", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("localhost@evil.example", 421),
        ("evil@localhost", 421),
        ("", 421),
        ("[", 421),
        ("localhost:x", 421),
    ],
)
def test_only_hosts_on_the_list_are_served(small_bench: Any, host: str, status: int) -> None:
    answer = small_bench.nobody.get("/healthz", headers={"Host": host})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["code"] == "unknown_host"


@pytest.mark.parametrize(
    ("origin", "status"), [("http://localhost:1", 200), ("https://evil.example", 403), ("null", 403)]
)
def test_pages_of_other_sites_are_refused(small_bench: Any, origin: str, status: int) -> None:
    answer = small_bench.user.get("/v1/whoami", headers={"Origin": origin})
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_carries_the_security_headers(small_bench: Any) -> None:
    for path in ("/healthz", "/v1/whoami", "/nonesuch", "/docs"):
        headers = small_bench.user.get(path, headers={"X-Request-ID": "my-id"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"] == "my-id"
        assert "default-src 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("given", ["a b", "x" * 65, "a\tb"])
def test_request_ids_that_could_spoil_a_log_are_replaced(small_bench: Any, given: str) -> None:
    assert re.match(
        r"^[0-9a-f]{16}$", small_bench.nobody.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"]
    )

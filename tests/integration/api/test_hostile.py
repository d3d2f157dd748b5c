"""What a hostile caller may send: it is refused as a problem, nothing is stored, nothing is carried out."""

import asyncio
import json
import logging
import socket
import sys
import threading
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from fairlead.journal import log_to
from fairlead.store.tables import (
    AuditRow,
    BundleRow,
    ClusterRow,
    ExperimentRow,
    MembershipRow,
    ProjectRow,
    TokenRow,
    WebhookEndpointRow,
)
from fairlead_api import bodies
from fairlead_api.access import OPEN, kind_for
from fairlead_api.streams import Stream, Streams

KEY = {"Idempotency-Key": "k"}
_SEEDS = (
    *(
        "../../etc/passwd",
        "..",
        ".",
        "/",
        "//",
        "/etc/passwd",
        "~root",
        "C:\\windows",
        "..\\..\\x",
        "file:///etc/passwd",
    ),
    *(
        "a\0b",
        "\0",
        "%00",
        "%2e%2e%2f",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "a\nb",
        "a\r\nSet-Cookie: x=1",
        "a\tb",
        "\x1b[31m",
    ),
    *("$(id)", "`id`", "; rm -rf /", "| cat /etc/passwd", "&& id", "${IFS}", "{{7*7}}", "${7*7}", "<script>", "'--"),
    *("' OR 1=1 --", '"; DROP TABLE experiment; --', "%", "_", "*", "?", "[a-z]*", "(a+)+$", "\\", "\\\\"),
    *("\u202egnp.exe", "\u200b", "\ufeff", "é", "ﬁ", "ａ", "İ", "ß", "\U0001f4a3", "e\u0301"),
    *("con", "nul.txt", "-rf", "--help", " leading", "trailing ", "", " ", "a" * 10_000, "A", "a b"),
)
_AROUND = [*(f"x{seed}" for seed in _SEEDS), *(f"{seed}x" for seed in _SEEDS), *map(chr, range(1, 48))]
NAMES = list(dict.fromkeys([*_SEEDS, *_AROUND]))
HEADERS = ("Authorization", "Idempotency-Key", "If-Match", "Last-Event-ID", "Accept", "Origin", "X-Request-ID")
VALUES = (b"\xff\xfe", b"x" * 8000, b"'; --", b'""""', b"\\x00", b"*", b"-1", b"9" * 20, "é".encode())
PLAIN = "abcdefghijklmnopqrstuvwxyz0123456789_-"


def stored(bench: Any) -> list[int]:
    rows = (ExperimentRow, ProjectRow, MembershipRow, TokenRow, BundleRow, ClusterRow, WebhookEndpointRow, AuditRow)
    with bench.store.read() as session:
        return [session.scalar(select(func.count()).select_from(row)) or 0 for row in rows]


def test_two_hundred_hostile_names_are_refused_wherever_a_name_is_given(small_bench: Any, spec: dict[str, Any]) -> None:
    hostile = [name for name in NAMES if not name or name[0] in "_-" or set(name) - set(PLAIN) or len(name) > 63]
    assert len(hostile) >= 200
    before = stored(small_bench)
    for number, name in enumerate(hostile):
        part = quote(name, safe="")
        documents = (
            ("/v1/experiments", {**spec, "name": name}),
            ("/v1/experiments", {**spec, "project": name}),
            ("/v1/experiments", {**spec, "workload": name}),
            ("/v1/experiments", {**spec, "code": f"sha256:{name}"}),
            ("/v1/tokens", {"project": name}),
            ("/v1/tokens", {"kind": "agent", "cluster": name}),
            ("/v1/webhooks", {"url": "https://hooks.example.com/x", "project": name}),
        )
        path, body = documents[number % len(documents)]
        try:
            content = json.dumps(body)
        except UnicodeEncodeError:
            continue
        answer = small_bench.user.post(path, content=content, headers={**KEY, "Content-Type": "application/json"})
        assert answer.status_code == 422, f"{path} takes {name!r}"
        for method, address in (
            ("PUT", f"/v1/projects/{part}"),
            ("PUT", f"/v1/experiments/{part}"),
            ("DELETE", f"/v1/tokens/{part}"),
        ):
            answer = small_bench.user.request(method, address, json=spec)
            assert answer.status_code in (404, 405, 422), f"{method} {address}: {answer.status_code}"
            assert answer.headers["content-type"] == "application/problem+json"
    assert stored(small_bench) == before
    assert not [path for path in small_bench.settings.storage.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name", ["Authorization", "Idempotency-Key", "If-Match", "Last-Event-ID", "Accept", "Origin", "X-Request-ID"]
)
def test_hostile_headers_are_refused_or_harmless(small_bench: Any, spec: dict[str, Any], name: str) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    for value in (
        b"\xff\xfe",
        b"x" * 8000,
        b"'; --",
        b'""""',
        b"\\x00",
        b"*",
        b"-1",
        b"99999999999999999999",
        "é".encode(),
    ):
        for method, path in (
            ("POST", f"/v1/experiments/{experiment_id}/pause"),
            ("GET", f"/v1/experiments/{experiment_id}/events"),
            ("POST", "/v1/experiments"),
        ):
            answer = small_bench.user.request(method, path, headers={name: value}, json=spec)
            assert answer.status_code < 500, (name, value, path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80) | st.sampled_from([seed for seed in _SEEDS if "\0" not in seed]))
def test_a_filter_matches_exactly_and_never_as_a_pattern(small_bench: Any, spec: dict[str, Any], text: str) -> None:
    if not small_bench.hints:
        small_bench.submit(spec)
    for field in ("name", "project"):
        answer = small_bench.user.get("/v1/experiments", params={field: f"eq:{text}"})
        assert answer.status_code in (200, 422)
        if answer.status_code == 200:
            assert all(item[field] == text for item in answer.json()["items"])


def test_a_hostile_address_is_one_line_of_json_in_the_log(small_bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    handlers, level = logging.root.handlers[:], logging.root.level
    hooks = sys.excepthook, threading.excepthook
    try:
        log_to(sys.stderr, form="json")
        small_bench.user.get('/v1/experiments/a%0a{"event":"forged"}%0d%1b[31m', headers={"User-Agent": "x\x1b[31m"})
    finally:
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook = hooks
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    (told,) = [line for line in lines if line["event"] == "request"]
    assert told["path"].startswith('/v1/experiments/a\n{"event":"forged"}')
    assert "\x1b" not in text


def test_a_body_that_trickles_is_cut_off(
    small_bench: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    monkeypatch.setattr(bodies, "DOCUMENT_TIMEOUT_S", 0.2)
    address = httpx.URL(serve(small_bench.app))
    token = small_bench.user.headers["authorization"]
    with socket.create_connection((address.host, address.port), timeout=10) as peer:
        peer.sendall(
            f"POST /v1/experiments HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {token}\r\nIdempotency-Key: k\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode()
        )
        answer = b""
        while b"too_slow" not in answer and (piece := peer.recv(65536)):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert small_bench.user.get("/v1/experiments").json()["items"] == []


def test_a_reader_that_takes_nothing_is_dropped_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairlead_api.streams.SEND_TIMEOUT_S", 0.05)
    streams = Streams()

    async def source() -> Any:
        yield b"data: x\n\n"

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # the reader's buffers are full, for ever

    async def receive() -> Any:
        return await asyncio.Event().wait()

    async def run() -> None:
        stream = Stream(source(), streams=streams, caller="t")
        assert streams.count == 1
        await stream({"type": "http", "path": "/v1/x", "asgi": {"spec_version": "2.3"}}, receive, send)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert streams.count == 0


def test_what_is_open_is_as_short_as_it_was(small_bench: Any) -> None:
    document = small_bench.nobody.get("/openapi.json").json()
    open_paths = {path for path in document["paths"] if kind_for(path) is None}
    assert open_paths <= OPEN
    assert open_paths == {"/healthz", "/readyz", "/startupz", "/links/{token}"}

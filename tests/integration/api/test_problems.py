import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fairlead.errors import Unavailable
from fairlead.store import Store
from fairlead_api.problems import PROBLEM_TYPE

KEY = {"Idempotency-Key": "k"}
JSON = {"Content-Type": "application/json", **KEY}
NUM_THREADS = 40  # anyio's


def is_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM_TYPE), answer.text
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert problem["type"].endswith(f"/docs/problems#{code}")
    assert problem["detail"]
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nonesuch", 404, "not_found"),
        ("GET", "/v1/experiments/", 404, "not_found"),
        ("GET", "/v1/experiments/nonesuch", 404, "not_found"),
        ("GET", "/v1/experiments/nonesuch/events", 404, "not_found"),
        ("GET", "/v1/experiments/nonesuch/logs", 404, "not_found"),
        ("GET", "/v1/experiments/nonesuch/report", 404, "not_found"),
        ("POST", "/v1/experiments/nonesuch/cancel", 404, "not_found"),
        ("GET", "/v1/workloads/nonesuch", 404, "not_found"),
        ("GET", f"/v1/code-bundles/{'a' * 64}", 404, "not_found"),
        ("GET", "/v1/code-bundles/zz", 422, "bad_input"),
        ("GET", "/links/nonesuch", 404, "not_found"),
        ("GET", "/docs/nonesuch.js", 404, "not_found"),
        ("DELETE", "/v1/experiments", 405, "method_not_allowed"),
        ("GET", "/v1/experiments?limit=many", 422, "bad_input"),
        ("GET", "/v1/experiments/x/logs?rank=-1", 422, "bad_input"),
    ],
)
def test_every_refusal_is_a_problem(small_bench: Any, method: str, path: str, status: int, code: str) -> None:
    is_problem(small_bench.user.request(method, path), status, code)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"\xff", ""),
        (b'{"name": NaN}', ""),
        (b'{"seed": 1e999}', "/seed"),
        (b'{"name": "a\\u0000"}', "/name"),
        (b'{"name": "\\ud800"}', "/name"),
        (b"[" * 5000, ""),
        (b'{"name": "a", "sed": 1}', "/sed"),
        (b'{"params": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}", ""),
        (json.dumps({"params": {f"p{i}": i for i in range(11_000)}}).encode(), ""),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("path", ["/v1/experiments", "/v1/links"])
def test_a_document_that_cannot_be_used_names_the_field(small_bench: Any, body: bytes, pointer: str, path: str) -> None:
    problem = is_problem(small_bench.user.post(path, content=body, headers=JSON), 422, "bad_spec")
    if pointer and path == "/v1/experiments":
        assert pointer in [error["pointer"] for error in problem["errors"]]


def test_a_misspelt_key_gets_a_suggestion(small_bench: Any, spec: dict[str, Any]) -> None:
    body = {**spec, "resources": {"wokers": 2}}
    (error,) = is_problem(small_bench.user.post("/v1/experiments", json=body, headers=KEY), 422, "bad_spec")["errors"]
    assert (error["pointer"], error["suggestion"]) == ("/resources/wokers", "did you mean 'workers'?")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_only_json_is_read(small_bench: Any, kind: str | None) -> None:
    headers = {**KEY, **({"Content-Type": kind} if kind else {})}
    is_problem(small_bench.user.post("/v1/experiments", content=b"{}", headers=headers), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("path", "size", "kind"),
    [
        ("/v1/experiments", 256 * 1024 + 1, "application/json"),
        ("/v1/plan", 256 * 1024 + 1, "application/json"),
        ("/v1/code-bundles", 50 * 2**20 + 1, "application/zip"),
        ("/v1/experiments/x/cancel", 50 * 2**20 + 1, "application/json"),
    ],
)
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_that_is_too_large_is_refused(
    small_bench: Any, path: str, size: int, kind: str, is_announced: bool
) -> None:
    if path.endswith("cancel") and not is_announced:
        pytest.skip("a body that nobody reads is never taken in")
    content: Any = b"x" * size if is_announced else (b"x" * 2**16 for _ in range(size // 2**16 + 1))
    answer = small_bench.user.post(path, content=content, headers={"Content-Type": kind, **KEY})
    is_problem(answer, 413, "too_large")


def test_our_own_mistakes_are_told_without_a_trace(small_bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Store, "read", broken)
    answer = small_bench.user.get("/v1/whoami")
    problem = is_problem(answer, 500, "internal_error")
    assert "secret" not in answer.text
    assert problem["request_id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"), MemoryError()]
)
def test_a_machine_that_has_nothing_left_is_503_and_no_mistake_of_ours(
    small_bench: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(_: Any) -> Any:
        raise error

    monkeypatch.setattr(Store, "read", exhausted)
    answer = small_bench.user.get("/v1/whoami")
    is_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "2"


def test_the_process_is_seen_to_live_while_all_its_threads_wait_for_the_database(
    small_bench: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, has_waited = threading.Semaphore(0), threading.Event()

    def wait(_: Any) -> Any:
        waiting.release()
        has_waited.wait(20)
        raise Unavailable("it is locked")

    monkeypatch.setattr(Store, "read", wait)
    token, many = {"Authorization": small_bench.user.headers["Authorization"]}, httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=serve(small_bench.app), headers=token, timeout=30, limits=many) as client,
        ThreadPoolExecutor(NUM_THREADS + 20) as pool,
    ):
        asked = [pool.submit(client.get, "/v1/whoami") for _ in range(NUM_THREADS + 20)]
        try:
            for _ in range(NUM_THREADS):
                assert waiting.acquire(timeout=20)
            assert client.get("/healthz", timeout=5).status_code == 200
        finally:
            has_waited.set()
        assert {one.result().status_code for one in asked} == {503}


def test_a_database_that_does_not_answer_is_503_with_a_time(small_bench: Any) -> None:
    small_bench.store.close()
    database = next(small_bench.settings.storage.parent.glob("fairlead.db"))
    database.unlink()
    database.mkdir()
    for client, path in ((small_bench.user, "/v1/whoami"), (small_bench.nobody, "/readyz")):
        answer = client.get(path)
        is_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "2"
    assert small_bench.nobody.get("/healthz").status_code == 200


def test_a_405_says_what_is_allowed(small_bench: Any) -> None:
    assert "GET" in small_bench.user.delete("/v1/whoami").headers["allow"]


def test_every_code_is_explained_where_type_points(small_bench: Any) -> None:
    page = small_bench.nobody.get("/docs/problems").text
    for code in ("bad_spec", "offset", "stale_agent", "idempotency_key_reused", "too_large", "unknown_host"):
        assert f'id="{code}"' in page


@pytest.mark.parametrize(
    "path",
    [
        "/v1/experiments/a%00b",
        "/v1/experiments/a%00b/events",
        "/v1/experiments?name=eq:%00",
        "/v1/experiments/x/metrics?key=%00",
        "/v1/experiments/%ff%fe",
        "/v1/experiments/..%2f..%2fetc",
        "/v1/experiments/x/events?after=99999999999999999999",
        f"/v1/experiments/{'x' * 500}",
    ],
)
def test_hostile_addresses_are_refused_on_every_database(bench: Any, path: str) -> None:
    answer = bench.user.get(path)
    assert answer.status_code in (404, 422) or answer.json() == {"items": [], "next": None}


@pytest.mark.parametrize("epochs", [2**31, 2**70, 10**300])
def test_numbers_that_no_column_holds_are_refused(bench: Any, spec: dict[str, Any], epochs: int) -> None:
    body = {**spec, "workload": "mine:train", "params": {"epochs": epochs}}
    answer = bench.user.post("/v1/experiments", json=body, headers=KEY)
    assert answer.status_code in (201, 422)
    assert bench.user.get("/v1/experiments").status_code == 200

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from fairlead.client import Client
from fairlead.lifecycle import State
from fairlead.store import experiments
from fairlead_api import create_app, streams
from fairlead_api.routes import progress

SSE = {"Accept": "text/event-stream"}
ENDED = (State.QUEUED, State.PLACED, State.FAILED)


def connect(bench: Any, address: str, path: str, **headers: str) -> Any:
    sent = {**SSE, "Authorization": bench.user.headers["authorization"], **headers}
    return httpx.stream("GET", address + path, headers=sent, timeout=20)


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    found: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            found[name] = found[name] + "\n" + value.strip() if name in found else value.strip()
        elif found:
            yield found
            found = {}


def test_a_stream_gives_every_event_once_and_ends_with_the_experiment(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    small_bench.move(experiment_id, *ENDED)
    with connect(small_bench, serve(small_bench.app), f"/v1/experiments/{experiment_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = list(messages(answer.iter_lines()))
    assert found[0]["retry"] == "1000"
    assert [one["id"] for one in found[1:-1]] == ["1", "2", "3", "4"]
    assert found[-1]["event"] == "end"


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    experiment_id = small_bench.submit(spec)["id"]
    small_bench.move(experiment_id, *ENDED)
    path = f"/v1/experiments/{experiment_id}/events"
    with connect(small_bench, serve(small_bench.app), path, **{"Last-Event-ID": "3"}) as answer:
        assert [one["id"] for one in messages(answer.iter_lines()) if "id" in one] == ["4"]


def test_a_new_event_arrives_soon(bench: Any, spec: dict[str, Any], serve: Any) -> None:
    experiment_id = bench.submit(spec)["id"]
    with connect(bench, serve(bench.app), f"/v1/experiments/{experiment_id}/events") as answer:
        found = messages(answer.iter_lines())
        while next(found).get("id") != "1":
            pass
        began_s = time.monotonic()
        bench.user.post(f"/v1/experiments/{experiment_id}/cancel")
        assert next(found)["id"] == "2"
        assert time.monotonic() - began_s < 5  # 0.3 s on a machine that does nothing else


def test_a_silent_stream_pings_and_holds_no_connection(
    small_bench: Any, spec: dict[str, Any], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PING_S", 0.2)
    experiment_id = small_bench.submit(spec)["id"]
    address = serve(small_bench.app)
    path = f"/v1/experiments/{experiment_id}/events"
    with connect(small_bench, address, path) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(lines) for _ in range(3)] == [": open", ": ping", ": ping"]


def test_a_stream_ends_after_a_while_and_the_reader_comes_back_with_its_token(
    small_bench: Any, spec: dict[str, Any], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LASTS_S", 0.0)
    path = f"/v1/experiments/{small_bench.submit(spec)['id']}/events"
    address = serve(small_bench.app)
    with connect(small_bench, address, path) as answer:
        assert [one.get("event") or one.get("id") for one in messages(answer.iter_lines())][1:] == ["1"]
    own = small_bench.user.get("/v1/whoami").json()["token_id"]
    assert small_bench.user.delete(f"/v1/tokens/{own}").status_code == 204
    with connect(small_bench, address, path, **{"Last-Event-ID": "1"}) as answer:
        assert answer.status_code == 401


def test_too_many_streams_are_refused_and_closed_ones_do_not_count(
    small_bench: Any, spec: dict[str, Any], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_PER_CALLER", 1)
    path = f"/v1/experiments/{small_bench.submit(spec)['id']}/events"
    address = serve(small_bench.app)
    with connect(small_bench, address, path) as first:
        assert first.status_code == 200
        with connect(small_bench, address, path) as second:
            assert (second.status_code, second.headers["retry-after"]) == (429, "10")
    deadline = time.monotonic() + 20
    while small_bench.app.state.streams._open and time.monotonic() < deadline:
        time.sleep(0.02)
    with connect(small_bench, address, path) as third:
        assert third.status_code == 200


@pytest.mark.parametrize("given", ["x", "-1", "9" * 20])
def test_a_last_event_id_that_makes_no_sense_is_refused(small_bench: Any, spec: dict[str, Any], given: str) -> None:
    path = f"/v1/experiments/{small_bench.submit(spec)['id']}"
    headers = {**SSE, "Last-Event-ID": given}
    assert [small_bench.user.get(f"{path}/{p}", headers=headers).status_code for p in ("events", "logs")] == [422, 422]


def test_pages_of_events_hold_what_the_stream_gives(bench: Any, spec: dict[str, Any]) -> None:
    experiment_id = bench.submit(spec)["id"]
    bench.move(experiment_id, *ENDED)
    seqs: list[int] = []
    address: str | None = f"/v1/experiments/{experiment_id}/events?limit=3"
    while address:
        page = bench.user.get(address).json()
        seqs += [event["seq"] for event in page["items"]]
        address = page["next"]
    assert seqs == [1, 2, 3, 4]


# ---- logs -----------------------------------------------------------------------------------------------------------


def write_log(bench: Any, experiment_id: str, text: str, *, attempt: int = 1, rank: int = 0, segment: int = 0) -> None:
    directory = bench.settings.storage / "default" / experiment_id / f"a{attempt}" / "logs"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"rank-{rank}.{segment:03d}.log").open("a") as file:
        file.write(text)


def test_logs_are_read_by_tail_and_by_offset_across_segments(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    path = f"/v1/experiments/{experiment_id}/logs"
    assert small_bench.user.get(path).text == ""
    write_log(small_bench, experiment_id, "one\ntwo\nth")
    write_log(small_bench, experiment_id, "ree\nfour\n", segment=7)
    write_log(small_bench, experiment_id, "other\n", rank=1)
    answer = small_bench.user.get(path)
    assert answer.text == "one\ntwo\nthree\nfour\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert small_bench.user.get(path, params={"tail": 2}).text == "three\nfour\n"
    assert small_bench.user.get(path, params={"tail": 0}).text == ""
    assert small_bench.user.get(path, params={"rank": 1}).text == "other\n"
    following = small_bench.user.get(path, params={"offset": 0}).headers["fairlead-next-offset"]
    write_log(small_bench, experiment_id, "five\n", segment=7)
    assert small_bench.user.get(path, params={"offset": following}).text == "five\n"
    assert small_bench.user.get(path, params={"attempt": 2}).status_code == 404


def test_a_log_is_given_in_pieces_of_a_megabyte(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    write_log(small_bench, experiment_id, "x" * 99 + "\n")
    write_log(small_bench, experiment_id, ("y" * 99 + "\n") * 30_000, segment=1)
    path, offset, size = f"/v1/experiments/{experiment_id}/logs", "0", 0
    while block := small_bench.user.get(path, params={"offset": offset}):
        if not block.content:
            break
        assert len(block.content) <= 2**20
        size, offset = size + len(block.content), block.headers["fairlead-next-offset"]
    assert size == 3_000_100
    assert len(small_bench.user.get(path, params={"tail": 10_000}).content) <= 2**20


def test_log_names_cannot_reach_elsewhere(small_bench: Any, spec: dict[str, Any]) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    for given in ("rank=../../x", "rank=5000", "attempt=0", "offset=-1", "tail=10001", f"offset={2**63}"):
        assert small_bench.user.get(f"/v1/experiments/{experiment_id}/logs?{given}").status_code == 422


def test_a_log_stream_gives_whole_lines_and_goes_on_with_the_next_attempt(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    experiment_id, attempt_id, headers = small_bench.running(spec)
    write_log(small_bench, experiment_id, "one\nhal")
    with connect(small_bench, serve(small_bench.app), f"/v1/experiments/{experiment_id}/logs") as answer:
        found = messages(answer.iter_lines())
        assert next(found)["retry"] == "1000"
        assert next(found)["data"] == "one"
        write_log(small_bench, experiment_id, "f\n")
        assert next(found)["data"] == "half"
        result = {"experiment_id": experiment_id, "attempt_no": 1, "outcome": "infra_error", "reason": "worker_died"}
        times = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:00Z"}
        claim = {"result": {**result, **times}, "result_sha256": "a" * 64}
        address = f"/internal/v1/attempts/{attempt_id}/result"
        assert small_bench.nobody.post(address, json=claim, headers=headers).status_code == 204
        small_bench.move(experiment_id, State.RUNNING, State.RETRYING, State.QUEUED)
        small_bench.place(experiment_id, attempt_no=2)
        write_log(small_bench, experiment_id, "again", attempt=2)
        small_bench.move(experiment_id, State.FAILED)
        last = next(found)
        assert (last["data"], last["id"]) == ("again", "2.5")
        assert next(found)["event"] == "end"


def test_a_log_stream_goes_on_behind_the_last_message_that_was_seen(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    experiment_id, _, _ = small_bench.running(spec)
    address, path = serve(small_bench.app), f"/v1/experiments/{experiment_id}/logs"
    lines = [f"line {number}" for number in range(6)]
    write_log(small_bench, experiment_id, "".join(f"{line}\n" for line in lines[:2]))
    got: list[str] = []
    with connect(small_bench, address, path) as answer:
        seen = next(one for one in messages(answer.iter_lines()) if "id" in one)
    got += seen["data"].splitlines()
    write_log(small_bench, experiment_id, f"{lines[2]}\n{lines[3]}\n")
    write_log(small_bench, experiment_id, f"{lines[4]}\n{lines[5]}\n", segment=3)
    small_bench.move(experiment_id, State.RUNNING, State.FAILED)
    with connect(small_bench, address, path, **{"Last-Event-ID": seen["id"]}) as answer:
        for one in messages(answer.iter_lines()):
            got += one["data"].splitlines() if "id" in one else []
    assert got == lines


def test_the_sdk_follows_events_and_logs_of_the_real_api(small_bench: Any, spec: dict[str, Any], serve: Any) -> None:
    address = serve(small_bench.app)
    token = small_bench.user.headers["authorization"].removeprefix("Bearer ")
    with Client(address, token) as client:
        small_bench.attach()
        experiment = client.submit(spec)
        small_bench.place(experiment.id)
        write_log(small_bench, experiment.id, "hello\nworld\n")
        small_bench.move(experiment.id, State.FAILED)
        assert [event.seq for event in experiment.events()] == [1, 2, 3, 4]
        assert [event.seq for event in experiment.events(follow=False, after=2)] == [3, 4]
        assert list(experiment.logs()) == list(experiment.logs(follow=True)) == ["hello", "world"]
        assert [one.id for one in client.list(state="failed")] == [experiment.id]
        assert client.plan(spec).is_valid
        assert {one.name for one in client.workloads()} >= {"tabular_mlp", "image_cnn"}
        assert client.whoami().kind == "user"
        with small_bench.store.read() as session:
            assert experiments.get(session, experiment.id).created_by == "user"


# ---- clients that leave ---------------------------------------------------------------------------------------------


@contextmanager
def half_sent(bench: Any, address: str, spec: dict[str, Any], *, share: float = 1) -> Iterator[None]:
    """A submit of which some of the body was sent; its client hangs up at the end."""
    body = json.dumps(spec).encode()
    head = (
        "POST /v1/experiments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        f"Authorization: {bench.user.headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body[: int(len(body) * share)])
        yield


class Slow(dict[str, Any]):
    """Manifests that take their time to be looked up."""

    def __init__(self, found: Any) -> None:
        super().__init__(found)
        self.asked, self.go = threading.Event(), threading.Event()

    def __contains__(self, name: object) -> bool:
        self.asked.set()
        assert self.go.wait(20)
        return super().__contains__(name)


def test_a_submit_counts_though_its_client_left_before_the_answer(
    small_bench: Any, spec: dict[str, Any], serve: Any
) -> None:
    manifests = Slow(small_bench.app.state.api.manifests)
    app = create_app(small_bench.settings, small_bench.store, clock=small_bench.clock, manifests=manifests)
    with half_sent(small_bench, serve(app), spec):
        assert manifests.asked.wait(20)
    manifests.go.set()
    deadline = time.monotonic() + 20
    while not (items := small_bench.user.get("/v1/experiments").json()["items"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(items) == 1
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    again = small_bench.user.post("/v1/experiments", content=json.dumps(spec), headers=headers)
    assert again.json()["id"] == items[0]["id"]


def test_half_a_body_creates_nothing_and_is_no_mistake_of_ours(
    small_bench: Any, spec: dict[str, Any], serve: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with half_sent(small_bench, serve(small_bench.app), spec, share=0.5):
        time.sleep(0.1)  # either way nothing is created; usually the server has begun to read
    said, deadline = "", time.monotonic() + 20
    while "the client left" not in said and time.monotonic() < deadline:
        time.sleep(0.02)
        said += capsys.readouterr().out
    assert "uncaught" not in said
    assert small_bench.user.get("/v1/experiments").json()["items"] == []

"""Event streams of a real server that is killed and started again while many read: each reads every event once."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead.client import Client
from fairlead.errors import Unavailable
from fairlead.lifecycle import State
from fairlead.store import Store, experiments, open_store
from fairlead.testing.clock import FakeClock
from fairlead.testing.servers import Server
from fairlead_api import streams

LIMIT_S = 300.0
ROUNDS = 2
PER_ROUND = 25


@dataclass
class Reader:
    """Follows the events of an experiment by hand: comes back with the last id whenever it was cut, until the end."""

    server: Server
    experiment_id: str
    pause_s: float = 0.0
    """It thinks so long about every event."""
    seen: list[int] = field(default_factory=list)
    cuts: int = 0
    has_ended: bool = False

    def __call__(self) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while not self.has_ended and time.monotonic() < deadline_s:
            with suppress(httpx.HTTPError):
                self._read()
            self.cuts += not self.has_ended
            time.sleep(0.05)

    def _read(self) -> None:
        headers = {"Accept": "text/event-stream", "Authorization": f"Bearer {self.server.user}"}
        if self.seen:
            headers["Last-Event-ID"] = str(self.seen[-1])
        address = f"{self.server.url}/v1/experiments/{self.experiment_id}/events"
        with httpx.stream("GET", address, headers=headers, timeout=20) as answer:
            for name, value in _fields(answer.iter_lines()):
                if name == "id":
                    self.seen.append(int(value))
                    time.sleep(self.pause_s)
                self.has_ended |= (name, value) == ("event", "end")


def _fields(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Of complete messages only: what was cut in the middle was not read."""
    found: list[tuple[str, str]] = []
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            found.append((name, value.strip()))
        else:
            yield from found
            found = []


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, database_url=database_url)
    made.start()
    yield made
    made.stop()


def _note(store: Store, experiment_id: str, text: str) -> None:
    with store.write() as session:
        now = FakeClock().now()
        experiments.note(session, experiment_id, kind="noted", actor="test", now=now, reason=text, payload={})


@pytest.mark.by_day("postgresql")  # whose rings come from another process
def test_every_reader_gets_every_event_once_whatever_becomes_of_the_server(server: Server) -> None:
    experiment_id = str(server.submit("followed").json()["id"])
    readers = [Reader(server, experiment_id, pause_s=0.01 * number) for number in range(4)]
    by_sdk: list[int] = []
    follow_by_sdk = partial(_follow_by_sdk, server, experiment_id, by_sdk)
    runs: list[Callable[[], None]] = [*readers, follow_by_sdk]
    threads = [threading.Thread(target=run) for run in runs]
    for thread in threads:
        thread.start()
    store = open_store(server.database_url)
    try:
        for number in range(ROUNDS * PER_ROUND):
            _note(store, experiment_id, f"note {number}")
            if number % PER_ROUND == PER_ROUND - 1:  # in the middle of a burst: no reader has all of it
                _end(server, is_killed=number // PER_ROUND % 2 == 0)
                server.start()
    finally:
        store.close()
    server.until("the cancel", lambda: server.http("POST", f"/v1/experiments/{experiment_id}/cancel"))
    for thread in threads:
        thread.join(LIMIT_S)
    last = server.http("GET", f"/v1/experiments/{experiment_id}")
    assert last["state"] == State.CANCELLED
    expected = list(range(1, int(last["version"]) + 1))
    assert len(expected) > ROUNDS * PER_ROUND
    assert [reader.seen for reader in readers] == [expected] * len(readers)
    assert by_sdk == expected
    assert min(reader.cuts for reader in readers) >= 1, "nobody was cut: nothing is shown"


def _follow_by_sdk(server: Server, experiment_id: str, seen: list[int]) -> None:
    """A client gives up after some 20 s without a server, which a busy machine may need; its user goes on then."""
    with Client(server.url, server.user) as client:
        experiment = client.get(experiment_id)
        for _ in range(5):
            try:
                for event in experiment.events(after=seen[-1] if seen else 0):
                    seen.append(event.seq)
                return
            except Unavailable:
                continue


def _end(server: Server, *, is_killed: bool) -> None:
    assert server.process is not None
    if is_killed:
        server.stop()
    else:
        server.process.terminate()
        assert server.process.wait(30) == 0


# ---- slow readers ---------------------------------------------------------------------------------------------------


def test_a_reader_that_stops_reading_holds_up_nobody_and_goes_on_later(
    small_bench: Any, spec: dict[str, Any], serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SEND_TIMEOUT_S", 0.5)
    experiment_id = small_bench.submit(spec)["id"]
    address = serve(small_bench.app)
    host, _, port = address.removeprefix("http://").partition(":")
    path = f"/v1/experiments/{experiment_id}/events"
    authorization = small_bench.user.headers["authorization"]
    asked = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nAuthorization: {authorization}\r\n"
    for _ in range(100):  # 20 MB: more than the buffers of a connection hold
        _note(small_bench.store, experiment_id, "x" * 200_000)
    small_bench.move(experiment_id, State.CANCELLED)
    with socket.socket() as asleep:
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.connect((host, int(port)))
        asleep.sendall(f"{asked}\r\n".encode())
        headers = {"Accept": "text/event-stream", "Authorization": authorization}
        with httpx.stream("GET", address + path, headers=headers, timeout=20) as answer:
            seen = [int(value) for name, value in _fields(answer.iter_lines()) if name == "id"]
        assert seen == list(range(1, 103))
        deadline_s = time.monotonic() + 20
        while small_bench.app.state.streams.count and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert small_bench.app.state.streams.count == 0, "its place was not given back"
        got = b"".join(iter(lambda: asleep.recv(2**20), b"")).decode()
    whole = got[: got.rindex("\n\n\r\n")]  # the end of a message and of its chunk
    last = max(int(line.removeprefix("id: ")) for line in whole.splitlines() if line.startswith("id: "))
    assert last < 102
    headers["Last-Event-ID"] = str(last)
    with httpx.stream("GET", address + path, headers=headers, timeout=20) as answer:
        rest = [int(value) for name, value in _fields(answer.iter_lines()) if name == "id"]
    assert rest == list(range(last + 1, 103))

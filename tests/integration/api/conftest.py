import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from fairlead.data import find_manifests
from fairlead.lifecycle import State
from fairlead.protocol import PROTOCOL
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, experiments, tokens
from fairlead.store.bell import Bell
from fairlead.testing import FakeClock
from fairlead_api import create_app

CLUSTER = "local"


@dataclass
class Bench:
    """An API over a store of its own, with a client for each kind of token."""

    app: Any
    store: Store
    clock: FakeClock
    settings: ControlSettings
    user: TestClient
    agent: TestClient
    nobody: TestClient
    hints: list[int] = field(default_factory=list)

    def submit(self, spec: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        answer = self.user.post("/v1/experiments", json=spec, headers={"Idempotency-Key": key or secrets.token_hex(8)})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def attach(self, session: str = "ray-1") -> int:
        body = {"protocol": PROTOCOL, "agent_version": "1", "ray_version": "2", "ray_session": session}
        answer = self.agent.post("/internal/v1/agent/attach", json=body)
        assert answer.status_code == 200, answer.text
        return int(answer.json()["agent_epoch"])

    def sync(self, epoch: int, **more: Any) -> dict[str, Any]:
        answer = self.agent.post("/internal/v1/agent/sync", json={"agent_epoch": epoch, "ray_session": "ray-1", **more})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def place(self, experiment_id: str, attempt_no: int = 1) -> str:
        """What dispatch does."""
        now = self.clock.now()
        with self.store.write() as session:
            row = experiments.get(session, experiment_id)
            if row.state == State.ACCEPTED:
                columns = {"enqueued_at": now}
                experiments.move_if_current(
                    session, row, State.QUEUED, reason="admitted", actor="dispatch", now=now, columns=columns
                )
        with self.store.write() as session:
            candidate = next(one for one in experiments.candidates(session) if one.id == experiment_id)
            columns = {"current_attempt_no": attempt_no}
            assert experiments.move_if_current(
                session, candidate, State.PLACED, reason="offered", actor="dispatch", now=now, columns=columns
            )
            row = attempts.insert(session, candidate=candidate, attempt_no=attempt_no, cluster=CLUSTER, now=now)
            return row.id

    def move(self, experiment_id: str, *states: State) -> None:
        for state in states:
            with self.store.write() as session:
                row = experiments.get(session, experiment_id)
                assert experiments.move_if_current(
                    session, row, state, reason="test", actor="settle", now=self.clock.now()
                )

    def lease(self, attempt_id: str, epoch: int) -> dict[str, Any]:
        answer = self.agent.post(f"/internal/v1/attempts/{attempt_id}/lease", json={"agent_epoch": epoch})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def running(self, spec: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
        """A leased and started attempt: experiment id, attempt id, headers with its token."""
        experiment_id = self.submit(spec)["id"]
        epoch = self.attach()
        attempt_id = self.place(experiment_id)
        headers = {"Authorization": f"Bearer {self.lease(attempt_id, epoch)['attempt_token']}"}
        body = {"node_id": "n1", "pid": 1, "ray_session": "ray-1"}
        answer = self.nobody.post(f"/internal/v1/attempts/{attempt_id}/started", json=body, headers=headers)
        assert answer.status_code == 204, answer.text
        return experiment_id, attempt_id, headers


def make_settings(directory: Path, database_url: str, **changes: Any) -> ControlSettings:
    (directory / "secret").write_bytes(b"k" * 32)
    return ControlSettings(
        database_url=database_url,
        storage=directory / "storage",
        mlflow_url="http://127.0.0.1:8171",
        secret_key_file=directory / "secret",
        allowed_hosts=("127.0.0.1", "localhost", "testserver"),
        **{"max_bad_tokens": 100_000, **changes},
    )


def _bench(store: Store, directory: Path, clock: FakeClock, **changes: Any) -> Iterator[Bench]:
    settings = make_settings(directory, "sqlite://", **changes)
    hints: list[int] = []
    bell = Bell()
    bell.subscribe(lambda: hints.append(1))
    app = create_app(settings, store, clock=clock, manifests=find_manifests(), bell=bell)
    made = {}
    with store.write() as session:
        for kind, cluster in (("user", None), ("agent", CLUSTER)):
            token_id, token = tokens.new_token()
            sha256 = tokens.hash_token(token)
            tokens.ensure(
                session, token_id=token_id, sha256=sha256, kind=kind, name=kind, cluster=cluster, now=clock.now()
            )
            made[kind] = {"Authorization": f"Bearer {token}"}
    with TestClient(app, headers=made["user"]) as user:
        agent, nobody = TestClient(app, headers=made["agent"]), TestClient(app)
        yield Bench(app, store, clock, settings, user, agent, nobody, hints)


@pytest.fixture
def bench(store: Store, tmp_path: Path, clock: FakeClock) -> Iterator[Bench]:
    """On SQLite and on PostgreSQL."""
    yield from _bench(store, tmp_path, clock)


@pytest.fixture
def small_bench(sqlite_store: Store, tmp_path: Path, clock: FakeClock) -> Iterator[Bench]:
    """On SQLite alone, for what has nothing to do with the database."""
    yield from _bench(sqlite_store, tmp_path, clock, max_queued=3)


@pytest.fixture
def spec() -> dict[str, Any]:
    return {
        "name": "demo",
        "workload": "tabular_mlp",
        "params": {"epochs": 2},
        "data": {"uri": "builtin://diabetes", "target": "progression_above_median", "sensitive": ["sex"]},
    }


@pytest.fixture
def serve() -> Iterator[Any]:
    """Serve a bench's application on a real socket, in a thread; answers with the address."""
    running: list[tuple[Any, uvicorn.Server, threading.Thread]] = []

    def start(app: Any) -> str:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", timeout_graceful_shutdown=5))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            copy = listener.dup()
            thread = threading.Thread(target=server.run, kwargs={"sockets": [copy]})
            thread.start()
            running.append((app, server, thread))
            return f"http://127.0.0.1:{copy.getsockname()[1]}"

    yield start
    for app, server, thread in running:
        app.state.api.stopping.set()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

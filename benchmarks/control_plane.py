"""A control plane without Ray for the benchmarks of its faults: real processes that may be killed and come back.

On PostgreSQL two API processes and two control processes; on SQLite the one server there may be, with its loops.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks.places import START_S, answers, await_true, free_ports
from fairlead.store import Store, migrate, open_store, tokens
from fairlead.testing.postgres import PostgresServer, serving_postgres

DATABASES = ("sqlite", "postgresql")
SPEC = {"workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}}


@dataclass(kw_only=True, slots=True)
class Part:
    """One process of the control plane."""

    name: str
    module: str
    environment: dict[str, str]
    log: Path
    url: str | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Begin, or begin again."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", self.module]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def kill(self) -> None:
        """``kill -9``, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(kw_only=True, slots=True)
class ControlPlane:
    """All processes, and the database behind them."""

    database_url: str
    store: Store
    token: str
    parts: list[Part] = field(default_factory=list)
    postgres: PostgresServer | None = None

    @property
    def apis(self) -> list[Part]:
        """Those that answer."""
        return [part for part in self.parts if part.url is not None]

    @property
    def headers(self) -> dict[str, str]:
        """Of a user."""
        return {"Authorization": f"Bearer {self.token}"}

    def await_ready(self) -> None:
        """Return when every API process answers that it is ready."""
        for part in self.apis:
            await_true(f"{part.name}: {part.url}", partial(answers, f"{part.url}/readyz"), timeout_s=START_S)

    def submit(self, part: Part, name: str, *, timeout_s: float = 10) -> httpx.Response:
        """One submit under a key that follows from its name. Raises ``httpx.TransportError``."""
        headers = {**self.headers, "Idempotency-Key": name}
        body = {**SPEC, "name": name}
        return httpx.post(f"{part.url}/v1/experiments", json=body, headers=headers, timeout=timeout_s, trust_env=False)


@contextlib.contextmanager
def control_plane(directory: Path, database: str, *, has_loops: bool = True, **settings: str) -> Iterator[ControlPlane]:
    """A control plane that is ready; ``settings`` are ``FAIRLEAD_*`` variables without their prefix, in lower case.

    Without loops there is one API process, and states change by the hand of the caller only.
    """
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(serving_postgres()) if database == "postgresql" else None
        url = postgres.url(postgres.create_database()) if postgres else f"sqlite:///{directory}/fairlead.db"
        store = open_store(url)
        stack.callback(store.close)
        migrate(store)
        token_id, token = tokens.new_token()
        made = ControlPlane(database_url=url, store=store, token=token, postgres=postgres)
        common = _environment(directory, url, token_id, token) | {
            f"FAIRLEAD_{name.upper()}": value for name, value in settings.items()
        }
        made.parts = _parts(directory, common, is_sole=postgres is None, has_loops=has_loops)
        for part in made.parts:
            stack.callback(part.kill)
            part.start()
        made.await_ready()
        yield made


def _environment(directory: Path, url: str, token_id: str, token: str) -> dict[str, str]:
    (directory / "secret").write_bytes(secrets.token_bytes(32))
    entry = {"id": token_id, "sha256": tokens.hash_token(token), "kind": "user", "name": "bench"}
    (directory / "tokens.json").write_text(json.dumps({"tokens": [entry]}))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    return kept | {
        "FAIRLEAD_DATABASE_URL": url,
        "FAIRLEAD_STORAGE": str(directory / "storage"),
        "FAIRLEAD_MLFLOW_URL": "http://127.0.0.1:9",
        "FAIRLEAD_SECRET_KEY_FILE": str(directory / "secret"),
        "FAIRLEAD_TOKENS_FILE": str(directory / "tokens.json"),
        "FAIRLEAD_MAX_QUEUED": "1000000",
    }


def _parts(directory: Path, common: dict[str, str], *, is_sole: bool, has_loops: bool) -> list[Part]:
    def part(name: str, module: str, port: int | None, **more: Any) -> Part:
        environment = common | ({"FAIRLEAD_PORT": str(port)} if port else {}) | more
        url = f"http://127.0.0.1:{port}" if port else None
        return Part(name=name, module=module, environment=environment, log=directory / f"{name}.log", url=url)

    ports = free_ports(2)
    if not has_loops:
        return [part("api", "fairlead_api", ports[0])]
    if is_sole:
        return [part("server", "fairlead_api", ports[0], FAIRLEAD_WITH_CONTROL="1")]
    apis = [part(f"api-{number}", "fairlead_api", port) for number, port in enumerate(ports, start=1)]
    return [*apis, *(part(f"control-{number}", "fairlead.control", None) for number in (1, 2))]


@contextlib.contextmanager
def scratch_of(name: str) -> Iterator[Path]:
    """A directory for one run."""
    with tempfile.TemporaryDirectory(prefix=f"fl-{name}-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)

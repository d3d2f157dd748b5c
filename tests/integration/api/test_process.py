import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead.store import tokens
from fairlead.testing.mlflow import free_port

START_TIMEOUT_S = 120


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "secret").write_bytes(b"k" * 32)
    own = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    return own | {
        "FAIRLEAD_DATABASE_URL": f"sqlite:///{tmp_path / 'fairlead.db'}",
        "FAIRLEAD_STORAGE": str(tmp_path / "storage"),
        "FAIRLEAD_MLFLOW_URL": "http://127.0.0.1:9",
        "FAIRLEAD_SECRET_KEY_FILE": str(tmp_path / "secret"),
        "FAIRLEAD_PORT": str(free_port()),
        "FAIRLEAD_WITH_CONTROL": "1",
    }


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    begun: list[subprocess.Popen[str]] = []

    def start(environment: dict[str, str]) -> subprocess.Popen[str]:
        with (tmp_path / "server.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fairlead_api"], env=environment, stderr=log, cwd=tmp_path, text=True
            )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()


def is_up(environment: dict[str, str], process: subprocess.Popen[str], path: Path) -> str:
    address = f"http://127.0.0.1:{environment['FAIRLEAD_PORT']}"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return address
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError((path / "server.log").read_text())


def first_token(path: Path) -> dict[str, str]:
    lines = (path / "server.log").read_text().splitlines()
    (token,) = [line for line in lines if line.startswith("fl_")]
    return {"Authorization": f"Bearer {token}"}


def test_it_keeps_what_it_acknowledged_when_it_is_killed_and_ends_in_order_when_asked(
    environment: dict[str, str], start: Any, tmp_path: Path, spec: dict[str, Any]
) -> None:
    process = start(environment)
    address = is_up(environment, process, tmp_path)
    headers = first_token(tmp_path) | {"Idempotency-Key": "k"}
    made = httpx.post(f"{address}/v1/experiments", json=spec, headers=headers, timeout=30)
    assert made.status_code == 201
    process.kill()
    process.wait()

    process = start(environment)
    is_up(environment, process, tmp_path)
    again = httpx.post(f"{address}/v1/experiments", json=spec, headers=headers, timeout=30)
    assert again.content == made.content
    assert len((tmp_path / "server.log").read_text().split("fl_")) == 2  # no second first token
    path = f"{address}/v1/experiments/{made.json()['id']}/events"
    with httpx.stream("GET", path, headers={**headers, "Accept": "text/event-stream"}, timeout=30) as stream:
        lines = stream.iter_lines()
        assert next(lines) == ": open"
        process.send_signal(signal.SIGTERM)
        assert not any(line == "event: end" for line in lines)  # cut, not ended: a client comes back
    assert process.wait(30) == 0
    events = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines() if line[0] == "{"]
    assert events[-1]["event"] == "stopped"


def test_a_second_server_on_one_sqlite_file_is_refused(environment: dict[str, str], start: Any, tmp_path: Path) -> None:
    first = start(environment)
    is_up(environment, first, tmp_path)
    second = start({**environment, "FAIRLEAD_PORT": str(free_port())})
    assert second.wait(START_TIMEOUT_S) == 2
    assert f"another server (process {first.pid})" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"FAIRLEAD_SECRET_KEY_FILE": "/nonesuch"}, "/nonesuch cannot be read"),
        ({"FAIRLEAD_TOKENS_FILE": "/nonesuch"}, "/nonesuch cannot be used"),
        ({"FAIRLEAD_STORAGE": None}, "FAIRLEAD_STORAGE"),
    ],
)
def test_it_refuses_to_start_and_says_why(
    environment: dict[str, str], start: Any, tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    process = start({k: v for k, v in (environment | changes).items() if v is not None})
    assert process.wait(START_TIMEOUT_S) == 2
    log = (tmp_path / "server.log").read_text()
    assert said in log
    assert "Traceback" not in log


def test_tokens_of_the_file_are_accepted_from_the_first_start(
    environment: dict[str, str], start: Any, tmp_path: Path
) -> None:
    token_id, token = tokens.new_token()
    agent_id, agent = tokens.new_token()
    entries = [
        {"id": token_id, "sha256": tokens.hash_token(token), "kind": "user", "name": "me"},
        {"id": agent_id, "sha256": tokens.hash_token(agent), "kind": "agent", "name": "a", "cluster": "local"},
    ]
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": entries}))
    process = start({**environment, "FAIRLEAD_TOKENS_FILE": str(tmp_path / "tokens.json")})
    address = is_up(environment, process, tmp_path)
    headers = {"Authorization": f"Bearer {token}"}
    found = httpx.get(f"{address}/v1/whoami", headers=headers).json()
    assert (found["kind"], found["name"], found["everywhere"]) == ("user", "me", "admin")
    assert "shown once" not in (tmp_path / "server.log").read_text()

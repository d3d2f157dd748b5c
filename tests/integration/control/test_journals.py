"""The logs of an api and of a control process while experiments run: one JSON object a line, with ids to search by."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fairlead.control.meters import serving
from fairlead.errors import BadInput
from fairlead.store import attempts
from fairlead.testing.mlflow import free_port
from fairlead.testing.ray import wait_for
from fairlead.testing.servers import Script, Server

Line = Mapping[str, Any]
MOVED = "experiment event"


def lines_of(path: Path) -> list[Line]:
    """Every line of a log; fails at the first that is no object."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in found)
    return found


def assert_told(lines: list[Line], ids: Mapping[str, str]) -> None:
    """What happened to each experiment, with its attempt from the first one on; and by which request or loop."""
    moved = [line for line in lines if line["event"] == MOVED]
    assert {line["experiment_id"] for line in moved} == set(ids.values())
    first = attempts.attempt_id(ids["one"], 1)
    placed = [line for line in moved if line.get("attempt_id") == first and line.get("after") == "placed"]
    assert [line["loop"] for line in placed] == ["dispatch"]
    assert {line["after"] for line in moved if line["experiment_id"] == ids["one"] and "after" in line} >= {
        "placed",
        "running",
        "evaluating",
        "succeeded",
    }
    assert not [line for line in moved if "loop" not in line and "request_id" not in line]


def test_an_api_with_loops_writes_json_with_requests_and_attempts(tmp_path: Path) -> None:
    server = Server(tmp_path, environment={"FAIRLEAD_LOG_FORMAT": "json"})
    try:
        server.start()
        ids = Script(server).play()
    finally:
        server.stop()
    lines = lines_of(tmp_path / "server.log")
    assert_told(lines, ids)
    requests = [line for line in lines if line["event"] == "request"]
    assert all(line["request_id"] for line in requests)
    key = attempts.attempt_id(ids["one"], 1)
    assert {line.get("attempt_id") for line in requests if f"/attempts/{key}/" in line["path"]} == {key}
    submitted = next(line for line in lines if line["event"] == MOVED and line["experiment_id"] == ids["one"])
    posts = [line for line in requests if (line["method"], line["path"]) == ("POST", "/v1/experiments")]
    assert submitted["request_id"] in {line["request_id"] for line in posts}


@contextmanager
def control_process(server: Server, log: Path, **settings: str) -> Iterator[None]:
    own = {name: text for name, text in os.environ.items() if not name.startswith("FAIRLEAD_")}
    needed = {
        "FAIRLEAD_DATABASE_URL": server.database_url,
        "FAIRLEAD_STORAGE": str(server.storage),
        "FAIRLEAD_MLFLOW_URL": server.mlflow_url,
        "FAIRLEAD_SECRET_KEY_FILE": str(server.directory / "secret"),
        "FAIRLEAD_IDLE_S": "0.2",
    }
    with log.open("wb") as file:
        command = [sys.executable, "-m", "fairlead.control"]
        process = subprocess.Popen(command, env=own | needed | settings, stdout=file, stderr=file)
    try:
        yield
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_control_process_writes_json_and_shows_what_its_loops_count(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path, database_url=database_url, environment={"FAIRLEAD_WITH_CONTROL": "0"})
    log, port = tmp_path / "control.log", free_port()
    asked = {"FAIRLEAD_LOG_FORMAT": "json", "FAIRLEAD_METRICS_PORT": str(port)}
    try:
        server.start()
        with control_process(server, log, **asked):
            ids = Script(server).play()
            text = wait_for(lambda: _meters(port), within_s=20, what="meters")
    finally:
        server.stop()
    assert 'fairlead_round_seconds_count{loop="dispatch"}' in text
    assert "fairlead_leads 1.0" in text
    assert 'fairlead_round_failures_total{cause="crashed",loop="settle"} 0.0' in text
    lines = lines_of(log)
    assert "leading" in {line["event"] for line in lines}
    loops = [line for line in lines if line["event"] == MOVED]
    assert_told([*loops, *lines_of(tmp_path / "server.log")], ids)
    assert loops


def _meters(port: int) -> str:
    answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    return answer.text if "fairlead_round_seconds_count" in answer.text else ""


@pytest.mark.parametrize("program", ["fairlead_api", "fairlead.control"])
def test_what_keeps_a_process_from_starting_is_json_too(program: str) -> None:
    own = {name: text for name, text in os.environ.items() if not name.startswith("FAIRLEAD_")}
    settings = {"FAIRLEAD_LOG_FORMAT": "json", "FAIRLEAD_DATABASE_URL": "sqlite:////nonesuch/x.db"}
    ran = subprocess.run(
        [sys.executable, "-m", program], env=own | settings, capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 2
    (line,) = [json.loads(each) for each in (ran.stdout + ran.stderr).splitlines()]
    assert (line["event"], line["level"]) == ("settings are missing or wrong", "error")
    assert "FAIRLEAD_STORAGE" in line["settings"]


def test_a_port_for_meters_that_is_taken_is_a_bad_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=str(port)), serving("127.0.0.1", port):
            pytest.fail("nothing can be served there")

"""A stack starts whole, heals its parts, and ends without a trace, however it is ended."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fairlead import Client
from fairlead.client.stack import read_stack
from fairlead.embedded import EmbeddedStack
from fairlead.embedded.home import held
from fairlead.embedded.processes import MARKER, family
from fairlead.embedded.stack import end_stale
from fairlead.errors import Conflict, Unavailable


def marked(marker: str) -> list[psutil.Process]:
    """Processes of a stack, by the marker in their environment."""

    def has_marker(process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            return False

    return [process for process in psutil.process_iter() if has_marker(process)]


def wait_until(condition: Callable[[], bool], *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


LONG = {
    "name": "x",
    "workload": "tabular_mlp",
    "data": {"uri": "builtin://diabetes"},
    "resources": {"workers": 2},
    "params": {"epochs": 10_000},
}


def test_a_killed_api_comes_back_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "home", cpus=2) as stack:
        marker, ray_directory = stack.description.marker, stack.description.ray_directory
        with stack.client() as client:
            experiment = client.submit(LONG)
            os.kill(stack.pid_of("api"), signal.SIGKILL)
            assert client.get(experiment.id).view.name == "x"  # the client tries until it is back
            assert wait_until(lambda: client.get(experiment.id).view.last_step, timeout_s=120), "two ranks train"
        with pytest.raises(Conflict, match="a stack already runs"):
            EmbeddedStack(tmp_path / "home").start()
        assert stat.S_IMODE(ray_directory.stat().st_mode) == 0o700
        everyone = family(stack.description.processes, marker)
        assert sum(_name_of(process).startswith("ray::RayTrainWorker") for process in everyone) == 2
        assert not _open_to_others(everyone)
    assert wait_until(lambda: not marked(marker), timeout_s=10)
    assert not ray_directory.exists()
    assert not (tmp_path / "home" / "stack.json").exists()


def _name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:  # Ray ends workers that nobody uses
        return ""


def _open_to_others(processes: list[psutil.Process]) -> list[str]:
    """Listening sockets that are not on loopback."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("tcp"):
                is_loopback = connection.laddr and connection.laddr.ip in ("127.0.0.1", "::ffff:127.0.0.1")
                if connection.status == psutil.CONN_LISTEN and not is_loopback:
                    found.append(f"{process.name()} {connection.laddr}")
    return found


def test_two_stacks_run_side_by_side_and_a_killed_one_is_cleaned_up(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fairlead.cli", "up", "--cpus", "1", "--json", "--home"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    first = subprocess.Popen([*command, str(tmp_path / "one")], env=environment, stdout=subprocess.PIPE)
    with first, EmbeddedStack(tmp_path / "two", cpus=1) as second:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == b"{"  # it prints its addresses when it is ready
        one = read_stack(tmp_path / "one")
        assert one is not None
        assert not {one.api_url, one.mlflow_url, one.ray_address} & {
            second.api_url,
            second.mlflow_url,
            second.description.ray_address,
        }
        with Client(home=tmp_path / "one") as client:
            assert client.whoami().name == "local"
        first.kill()
        first.wait(30)
        assert wait_until(lambda: not marked(one.marker), timeout_s=60), "a killed supervisor leaves its children"
        assert second.failure is None
        with held(tmp_path / "one"):
            end_stale(tmp_path / "one")
        assert not one.ray_directory.exists()
        with second.client() as client:
            who = client.whoami()
            assert (who.name, who.everywhere) == ("local", "admin"), "one's own machine needs no set-up"


def test_ctrl_c_ends_everything_with_code_0(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fairlead.cli", "up", "--cpus", "1", "--json", "--home", str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        stack = read_stack(tmp_path / "home")
        assert stack is not None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert not marked(stack.marker)


def test_an_asked_port_that_is_taken_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} is in use"):
            EmbeddedStack(tmp_path / "home", port=port).start()

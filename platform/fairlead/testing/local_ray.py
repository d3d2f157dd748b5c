"""A Ray head of our own on this machine, for tests.

Explicit free ports and an address of its own: two stacks on one machine never meet. Its processes are ended by their
ids; Ray's own stop command would end every Ray process of the machine. Starts no Ray in this process.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from fairlead.errors import Unavailable
from fairlead.run.warm import WarmServer
from fairlead.run.warm.launcher import DIRECTORY

MAX_TEMP_DIRECTORY = 60
"""Characters: Ray puts Unix sockets below it, and their paths may have 107 bytes."""
_HOOK = {"RAY_START_HOOK": "fairlead.embedded.ray_hook.as_embedded", "RAY_prestart_worker_first_driver": "0"}
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 5.0
_OBJECT_STORE_BYTES = 200 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRay:
    """A running head. ``environment`` is what a driver of it needs besides its own variables."""

    address: str
    dashboard_url: str
    directory: Path
    environment: dict[str, str]
    process: psutil.Process

    @property
    def warm_directory(self) -> Path:
        """Of the warm server of its workers."""
        return self.directory / "warm"

    def stop(self) -> None:
        """End its processes and remove its directory. May be called again."""
        family = _family(self.process)
        for head in family[:1]:  # it ends the others
            _signal(head, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)
        WarmServer(self.warm_directory).stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def start_local_ray(
    *,
    num_cpus: int,
    num_gpus: int = 0,
    environment: dict[str, str] | None = None,
    is_warm: bool = True,
    prefix: Sequence[str] = (),
    directory: Path | None = None,
) -> LocalRay:
    """Start a head on loopback with token authentication. Raises ``Unavailable`` if it does not come up.

    ``is_warm``: its workers come from a warm server, started beside it, which is seconds for each of them.
    ``prefix``: what its command line begins with, such as that of a control group. ``directory``: where all of it
    lies, with a short path, Ray's own files in ``ray``; ``stop`` removes it.
    """
    directory = directory or short_directory()
    token_file = directory / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(secrets.token_hex(32))
    access = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if is_warm:
        access[DIRECTORY] = str(directory / "warm")
    ports = free_ports(7)
    command = _command(directory, ports=ports, num_cpus=num_cpus, num_gpus=num_gpus)
    variables = {**os.environ, **access, **_HOOK, "PYTHONUNBUFFERED": "1", **(environment or {})}
    if is_warm:
        WarmServer(directory / "warm").ensure()
    with open(directory / "head.log", "wb") as log:
        head = subprocess.Popen(
            [*prefix, *command], env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    ray = LocalRay(
        address=f"127.0.0.1:{ports[0]}",
        dashboard_url=f"http://127.0.0.1:{ports[1]}",
        directory=directory,
        environment=access,
        process=psutil.Process(head.pid),
    )
    _wait_until_up(head, ray, ports)
    return ray


def _command(directory: Path, *, ports: list[int], num_cpus: int, num_gpus: int) -> list[str]:
    gcs, dashboard, agent_http, agent_grpc, runtime_env, metrics, client = ports
    ray = Path(sys.executable).with_name("ray")
    return [
        str(ray),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        f"--port={gcs}",
        "--include-dashboard=true",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent_http}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        f"--runtime-env-agent-port={runtime_env}",
        f"--metrics-export-port={metrics}",
        f"--ray-client-server-port={client}",
        f"--num-cpus={num_cpus}",
        f"--num-gpus={num_gpus}",
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        f"--temp-dir={directory / 'ray'}",
        "--disable-usage-stats",
        "--include-log-monitor=false",
    ]


def short_directory() -> Path:
    """A new directory whose path is short enough for the sockets that Ray has below it."""
    directory = Path(tempfile.mkdtemp(prefix="fl-ray-"))
    if len(str(directory)) > MAX_TEMP_DIRECTORY:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="fl-ray-", dir="/tmp"))
    return directory


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_up(head: "subprocess.Popen[bytes]", ray: LocalRay, ports: list[int]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    log = ray.directory / "head.log"
    while b"Ray runtime started" not in log.read_bytes() or not _accepts(ports[0]):
        if head.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:]
            ray.stop()
            raise Unavailable(f"the local Ray did not start; its last words: {tail}")
        time.sleep(0.1)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _family(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)

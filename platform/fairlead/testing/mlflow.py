"""A real MLflow server on a free loopback port, which a test may kill and start again."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairlead.tracking.server import server_command, server_environment

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05


class MlflowServer:
    """One MLflow server: its files in ``directory``, its address the same after every restart. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers. Raises ``RuntimeError`` with the end of its log if it does not."""
        assert self._process is None, "already started"
        self.directory.mkdir(parents=True, exist_ok=True)
        store, artifacts = self.directory / "mlflow.db", self.directory / "artifacts"
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                server_command(host=HOST, port=self.port),
                env=server_environment(os.environ, store=store, artifacts=artifacts, host=HOST, port=self.port),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_healthy(self._process)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and make sure that it has."""
        self._end(signal.SIGTERM)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it accept connections and never answer."""
        assert self._process is not None, "not started"
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        """The last lines of its log."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for step in (sign, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, step)
            try:
                process.wait(STOP_TIMEOUT_S)
                return
            except subprocess.TimeoutExpired:
                continue
        raise RuntimeError(f"MLflow's process {process.pid} does not end")

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(f"{self.url}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise RuntimeError(f"MLflow did not start on port {self.port}:\n{self.log_tail()}")
            time.sleep(POLL_S)


@contextmanager
def serving_mlflow(directory: Path) -> Iterator[MlflowServer]:
    """A started server that is gone afterwards. Use it in a session-scoped fixture: a start takes seconds."""
    server = MlflowServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET of ``url`` is answered with 200 within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False

"""Starting, holding and asking a warm server, and Ray's runtime environment that leads workers to it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from fairlead.errors import Unavailable
from fairlead.run.warm.launcher import (
    COLD,
    CONFIRM_S,
    DIRECTORY,
    NOT_FOR_SERVERS,
    ROOT,
    SELF_START,
    VERSION,
    end_stalled,
    stalled_root,
)
from fairlead.run.warm.lines import has_hung_up
from fairlead.run.warm.places import Places, command_line

ANSWER_S = 2.0
START_S = 60.0
RETRY_S = 5.0
_POLL_S = 0.05


class JobStatus(BaseModel):
    """A server of the second level: one Ray job's."""

    model_config = ConfigDict(frozen=True)

    job: str
    pid: int
    is_ready: bool
    is_retired: bool
    """It forks no more and lasts until its last worker has ended."""
    problem: str | None
    children: int
    forked: int
    resident_bytes: int


class Status(BaseModel):
    """A warm server."""

    model_config = ConfigDict(frozen=True)

    pid: int
    problem: str | None
    """Why it forks nothing, if so: another Ray, a second thread, CUDA initialised."""
    last_refusal: str
    holders: int
    jobs: tuple[JobStatus, ...]


class WarmServer:
    """The warm server of this node, started where it is missing and held while this object is open.

    The server is nobody's child. It outlasts its holders by some seconds, and its last worker in any case.
    ``ensure`` costs some system calls while the server is there: call it every second or so.
    """

    def __init__(
        self,
        directory: Path,
        *,
        idle_s: float | None = None,
        max_forks: int | None = None,
        max_growth_bytes: int | None = None,
    ) -> None:
        self.places = Places(directory=directory)
        self._options = {"--idle-s": idle_s, "--max-forks": max_forks, "--max-growth-bytes": max_growth_bytes}
        # As it is now: Ray sets variables of its own when this process connects to it later.
        self._environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVERS}
        self._held: socket.socket | None = None
        self._asked_s: float | None = None
        self._stalled_s: float | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, timeout_s: float = START_S) -> Self:
        """Start it and wait until it serves. Raises ``Unavailable`` with the reason if it does not."""
        deadline = time.monotonic() + timeout_s
        while not self.ensure():
            if time.monotonic() > deadline:
                raise Unavailable(f"the warm server does not come up; see {self.places.log}")
            time.sleep(_POLL_S)
        return self

    def ensure(self) -> bool:
        """Whether the server is there and held; starts one if not and does not wait for it. Ends one that hangs."""
        self._end_stalled()
        if self._held is not None and not has_hung_up(self._held):
            return True
        self.release()
        self._held = _hold(self.places)
        if self._held is None and (self._asked_s is None or time.monotonic() - self._asked_s > RETRY_S):
            self._asked_s = time.monotonic()
            self._launch()
        return self._held is not None

    def release(self) -> None:
        """Let it go; it ends by itself when nobody needs it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def stop(self, *, timeout_s: float = ANSWER_S) -> None:
        """Ask it to fork no more and to end, and end it if it hangs; workers that run are spared."""
        held, self._held = self._held, None
        if not ask(self.places, "stop"):
            end_stalled(str(self.places.directory))
        if held is not None:
            held.settimeout(timeout_s)
            with contextlib.suppress(TimeoutError):
                held.recv(1)  # the end of the connection is the end of the server
            held.close()

    def status(self) -> Status | None:
        """How it stands; None if there is none."""
        return status(self.places.directory)

    def _end_stalled(self) -> None:
        if stalled_root(str(self.places.directory)) is None:
            self._stalled_s = None
        elif self._stalled_s is None:
            self._stalled_s = time.monotonic()
        elif time.monotonic() - self._stalled_s > CONFIRM_S and end_stalled(str(self.places.directory)):
            self._stalled_s = self._asked_s = None

    def _launch(self) -> None:
        """Start one. Raises ``Unavailable`` where the directory cannot be used; other trouble ends in another try."""
        self.places.prepare()
        options = [f"{name}={value}" for name, value in self._options.items() if value is not None]
        command = [sys.executable, "-m", ROOT, str(self.places.directory), "--detach", *options]
        with contextlib.suppress(subprocess.TimeoutExpired), open(self.places.log, "ab") as log:
            subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=START_S,
                check=False,
            )


def runtime_env(variables: Mapping[str, str], *, directory: Path) -> dict[str, Any]:
    """Ray's runtime environment for a process, and all it starts on Ray, that is to be forked warm on its node.

    ``directory`` is the warm server's, the same path on every node. A node without a server starts the first process
    cold and a server for those that follow.
    """
    return {
        "env_vars": {**variables, DIRECTORY: str(directory), SELF_START: "1"},
        "py_executable": command_line(),
    }


def cold_env(variables: Mapping[str, str], *, why: str) -> dict[str, Any]:
    """Ray's runtime environment for a process, and all it starts on Ray, that is to start cold and to say why."""
    return {"env_vars": {**variables, COLD: f":{why}"}}


def status(directory: Path) -> Status | None:
    """How the warm server of a directory stands; None if there is none."""
    answer = ask(Places(directory=directory), "status")
    return Status.model_validate_json(answer) if answer.startswith("{") else None


def ask(places: Places, verb: str) -> str:
    """A server's answer to one word; nothing if there is no server."""
    try:
        with _connected(places) as connection:
            connection.sendall(b"%s %s 0\n" % (VERSION, verb.encode()))
            return connection.makefile().readline().rstrip("\n")
    except OSError:
        return ""


def _hold(places: Places) -> socket.socket | None:
    try:
        connection = _connected(places)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # it ended while we spoke: not held, and asked again in the next round
        connection.sendall(b"%s hold 0\n" % VERSION)
        if connection.recv(16) == b"held\n":
            return connection
    connection.close()
    return None


def _connected(places: Places) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(str(places.socket))
    except OSError:
        connection.close()
        raise
    return connection

"""Ports of loopback for one stack: explicit, free, and never those of a second stack on the same machine.

A port is held by a lock file for as long as the stack lives, so two stacks that start at once cannot choose the same
one in the seconds before it is bound.
"""

import fcntl
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from fairlead.errors import Unavailable

HOST = "127.0.0.1"
API_PORT = 8170
MLFLOW_PORT = 8171
FIRST_BLOCK = 20_000
BLOCK_SIZE = 500
NUM_BLOCKS = 25
"""Up to 32,500: below the range from which Linux takes ports for outgoing connections."""
_FIRST_WORKER = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StackPorts:
    """Where each part listens. ``workers``: first and last, for Ray's workers."""

    api: int
    mlflow: int
    ray: int
    ray_node: int
    ray_objects: int
    ray_dashboard: int
    ray_agent_http: int
    ray_agent_grpc: int
    ray_environment: int
    ray_metrics: int
    ray_dashboard_metrics: int
    workers: tuple[int, int]


class PortLease:
    """Holds ports by lock files in a directory of this user, until ``release``."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or Path(tempfile.gettempdir()) / f"fairlead-ports-{os.getuid()}"
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._held: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let all of them go."""
        while self._held:
            self._held.pop().close()

    def take(self, *, api: int | None = None, mlflow: int | None = None) -> StackPorts:
        """Ports for a whole stack. Raises ``Unavailable`` where an asked one is in use, or no block is free."""
        base = self._block()
        return StackPorts(
            api=self._single(api, API_PORT, base),
            mlflow=self._single(mlflow, MLFLOW_PORT, base + 1),
            ray=base + 2,
            ray_node=base + 3,
            ray_objects=base + 4,
            ray_dashboard=base + 5,
            ray_agent_http=base + 6,
            ray_agent_grpc=base + 7,
            ray_environment=base + 8,
            ray_metrics=base + 9,
            ray_dashboard_metrics=base + 10,
            workers=(base + _FIRST_WORKER, base + BLOCK_SIZE - 1),
        )

    def _single(self, asked: int | None, preferred: int, otherwise: int) -> int:
        if asked is not None:
            if not (is_free(asked) and self._lock(asked)):
                raise Unavailable(f"port {asked} is in use; choose another, or leave the choice to fairlead")
            return asked
        if is_free(preferred) and self._lock(preferred):
            return preferred
        return otherwise  # inside the block, which is already ours

    def _block(self) -> int:
        for number in range(NUM_BLOCKS):
            base = FIRST_BLOCK + number * BLOCK_SIZE
            if self._lock(base) and all(is_free(port) for port in range(base, base + BLOCK_SIZE)):
                return base
        raise Unavailable(
            f"no {BLOCK_SIZE} free ports in a row from {FIRST_BLOCK} to {FIRST_BLOCK + NUM_BLOCKS * BLOCK_SIZE}"
        )

    def _lock(self, port: int) -> bool:
        file = (self._directory / str(port)).open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._held.append(file)
        return True


def is_free(port: int) -> bool:
    """Whether the port of loopback can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0

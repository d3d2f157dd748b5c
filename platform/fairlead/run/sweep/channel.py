"""What a trial's process and its seat say to each other: JSON objects, a line each, over a socket pair.

The process gets its end as standard input, which is all that a forked and an executed one have in common.
"""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Mapping
from typing import Any

Message = dict[str, Any]


class Channel:
    """One end. Sending is safe from several threads; reading is for one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._read = connection.makefile("rb")

    @classmethod
    def from_standard_input(cls) -> "Channel":
        """The process's end; standard input is empty afterwards, also for what the workload starts."""
        own = os.dup(0)
        os.set_inheritable(own, False)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        return cls(socket.socket(fileno=own))

    def send(self, message: Mapping[str, Any]) -> None:
        """Raises ``OSError`` once the other end is gone."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._connection.sendall(line)

    def next(self) -> Message | None:
        """The next message; None when the other end is gone, or has sent what is none."""
        try:
            line = self._read.readline()
            message = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Let go. The other end hears of it, and so does a thread that reads here."""
        with contextlib.suppress(OSError):  # the other end was quicker
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

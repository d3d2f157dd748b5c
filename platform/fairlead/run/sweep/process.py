"""A rank's process as its seat sees it: started warm where that is possible, its output kept in capped files."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Protocol

from fairlead.protocol import LOG_DIRECTORY
from fairlead.run.log_pump import Segments
from fairlead.run.logs import NEWEST_SEGMENTS, SEGMENT_BYTES
from fairlead.run.sweep.channel import Channel
from fairlead.run.virtual.launcher import WHY_COLD, variables
from fairlead.run.virtual.places import Place
from fairlead.run.warm.fork import Forked, fork_warm
from fairlead.run.warm.launcher import Cold
from fairlead.run.warm.request import TRIAL_PROGRAM

_CHUNK = 256 * 1024


class Running(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def close(self) -> None:
        """Let go of it once it has ended."""
        ...


class Executed:
    """A process with an interpreter of its own."""

    def __init__(self, standard: tuple[int, int, int], environment: Place | None) -> None:
        stdin, stdout, stderr = standard
        python, env = sys.executable, None
        if environment is not None:
            python = str(environment.python)
            env = os.environ | variables(str(environment.prefix), os.environ.get("PATH", os.defpath))
        # Its own session, so that whatever ends the seat's does not end it half; it ends when its channel does.
        self._process = subprocess.Popen(
            [python, TRIAL_PROGRAM], env=env, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def kill(self) -> None:
        """End it and what it has started in its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)

    def close(self) -> None:
        """Nothing is held."""


class TrialProcess:
    """One process, its channel and its output. ``why_cold`` is empty for one that was forked warm.

    ``environment``: where it runs, if not in what the node has.
    """

    def __init__(self, environment: Place | None = None) -> None:
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        self._output = reader
        self._prefix: Path | None = None
        self._lock = threading.Lock()
        self._segments: Segments | None = None
        self._is_over = False
        self.key = ""
        """Of the task under way."""
        try:
            self.running, self.why_cold = _started((theirs.fileno(), writer, writer), environment)
        finally:
            theirs.close()
            os.close(writer)
        self.channel = Channel(ours)
        threading.Thread(target=self._pump, name="fairlead-output", daemon=True).start()

    def write_to(self, directory: Path, *, rank: int) -> None:
        """From now on its output goes to this trial's files, which come to be with its first word."""
        with self._lock:
            self._close_segments()
            self._prefix = directory / LOG_DIRECTORY / f"rank-{rank}"

    def end(self, *, within_s: float) -> int | None:
        """Let it end by itself, and make it end after ``within_s``; its exit status. Once, by one thread."""
        code = self.running.wait(within_s)
        if code is None:
            self.kill()
            code = self.running.wait(10.0)
        with self._lock:
            self._is_over = True
            self.channel.close()
            self.running.close()
        return code

    def kill(self) -> None:
        """End it now, if it still runs; ``end`` hears of it."""
        with self._lock:
            if not self._is_over:
                self.running.kill()

    def _pump(self) -> None:
        with contextlib.suppress(OSError):
            while block := os.read(self._output, _CHUNK):
                self._write(block)
        os.close(self._output)
        with self._lock:
            self._close_segments()

    def _close_segments(self) -> None:
        if self._segments is not None:
            self._segments.close()
            self._segments = None

    def _write(self, block: bytes) -> None:
        with self._lock:
            if self._prefix is None:
                return
            if self._segments is None:
                with contextlib.suppress(OSError):  # a storage that is away loses output, and no trial
                    self._prefix.parent.mkdir(parents=True, exist_ok=True)
                    self._segments = Segments(str(self._prefix), SEGMENT_BYTES, NEWEST_SEGMENTS)
            if self._segments is not None:
                self._segments.write(block)


def _started(standard: tuple[int, int, int], environment: Place | None) -> tuple[Running, str]:
    if environment is not None:  # what the warm server has imported is the node's
        return Executed(standard, environment), WHY_COLD
    try:
        forked: Forked = fork_warm(TRIAL_PROGRAM, standard)
    except Cold as error:
        return Executed(standard, None), str(error)
    return forked, ""

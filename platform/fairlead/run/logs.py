"""Standard output and error of a worker, at the level of file descriptors, in capped segment files.

``logs/rank-<r>.<nnn>.log`` below the attempt's path: the first segment and the newest three are kept, so a workload
that prints without end fills 16 MiB and no more. Every worker group starts a new segment.
"""

import array
import contextlib
import fcntl
import os
import subprocess
import sys
import termios
import time
from pathlib import Path

from fairlead.protocol import LOG_DIRECTORY
from fairlead.run import log_pump

SEGMENT_BYTES = 4 * 1024 * 1024
NEWEST_SEGMENTS = 3
_PIPE_BYTES = 1024 * 1024


def redirect_output(attempt: Path, *, rank: int) -> None:
    """Send descriptors 1 and 2 of this process, and of all it will start, to the rank's segments."""
    directory = attempt / LOG_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):  # an unprivileged process may not get a larger pipe; a small one works
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    _start_pump(reader, directory / f"rank-{rank}")
    os.close(reader)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def _start_pump(reader: int, prefix: Path) -> None:
    command = [sys.executable, "-I", "-S", log_pump.__file__, str(prefix), str(SEGMENT_BYTES), str(NEWEST_SEGMENTS)]
    with open(os.devnull, "wb") as nowhere:
        subprocess.run(command, stdin=reader, stdout=nowhere, stderr=nowhere, env={}, close_fds=True, check=True)


def drain_output(*, timeout_s: float) -> None:
    """Wait until what was printed has been taken from the pipe, at most ``timeout_s``."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    deadline = time.monotonic() + timeout_s
    while _unread_bytes(1) and time.monotonic() < deadline:
        time.sleep(0.01)


def _unread_bytes(descriptor: int) -> int:
    size = array.array("i", [0])
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, termios.FIONREAD, size)
    return size[0]

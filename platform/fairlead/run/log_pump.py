"""Copies standard input to capped segment files; run as a program of its own, beside a worker.

Its own process, because a thread would need the interpreter lock that a printing extension may hold, and because it
still writes down the last words of a worker that was killed. Uses nothing but Python's own modules, to start quickly.

Arguments: path prefix, segment bytes, number of newest segments kept besides the first.
"""

import contextlib
import os
import signal
import sys

_CHUNK = 1024 * 1024


class Segments:
    """``<prefix>.<nnn>.log``: the first one and the newest few are kept, those between are deleted."""

    def __init__(self, prefix: str, segment_bytes: int, newest: int) -> None:
        self._prefix = prefix
        self._segment_bytes = segment_bytes
        self._newest = newest
        self._number = self._first_free()
        self._first = self._number
        self._descriptor = self._open()
        self._size = 0

    def write(self, block: bytes) -> None:
        """Append, starting new segments where one is full. A full disk loses text, never the worker's time."""
        view = memoryview(block)
        while view:
            part = view[: self._segment_bytes - self._size]
            self._write_part(part)
            self._size += len(part)
            view = view[len(part) :]
            if self._size >= self._segment_bytes:
                self._rotate()

    def close(self) -> None:
        """Take no more."""
        os.close(self._descriptor)

    def _write_part(self, part: memoryview) -> None:
        with contextlib.suppress(OSError):
            while part:
                part = part[os.write(self._descriptor, part) :]

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._number += 1
        surplus = self._number - self._newest
        if surplus > self._first:
            with contextlib.suppress(OSError):
                os.unlink(self._path(surplus))
        self._descriptor = self._open()
        self._size = 0

    def _first_free(self) -> int:
        """One more than the highest number there is: numbers between may have been deleted."""
        directory, name = os.path.split(self._prefix)
        middles = (each[len(name) + 1 : -len(".log")] for each in os.listdir(directory) if each.startswith(f"{name}."))
        return max((int(middle) for middle in middles if middle.isdigit()), default=-1) + 1

    def _open(self) -> int:
        try:
            return os.open(self._path(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError:
            return os.open(os.devnull, os.O_WRONLY)

    def _path(self, number: int) -> str:
        return f"{self._prefix}.{number:03d}.log"


def main() -> None:
    """Pump until every holder of the other end is gone."""
    prefix, segment_bytes, newest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    segments = Segments(prefix, segment_bytes, newest)
    while block := os.read(0, _CHUNK):
        segments.write(block)


if __name__ == "__main__":
    # Leave the worker's family: whoever ends it would end us before its last words are written.
    if os.fork() == 0:
        os.setsid()
        main()
    os._exit(0)

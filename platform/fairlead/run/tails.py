"""What the ranks of an attempt printed last, read with bounds: a workload may print without end."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from fairlead.protocol import LOG_DIRECTORY

TAIL_BYTES = 64 * 1024
MAX_RANKS = 1024
"""Of more ranks than that, some are not read: the others say the same."""


def last_lines(attempt: Path) -> Iterator[str]:
    """The lines in the last 64 KiB that each rank printed in this attempt."""
    paths = sorted((attempt / LOG_DIRECTORY).glob("rank-*.*.log"), key=_place)
    for _, segments in itertools.islice(itertools.groupby(paths, key=lambda path: _place(path)[0]), MAX_RANKS):
        yield from _tail(list(segments)).decode(errors="replace").splitlines()


def _place(path: Path) -> tuple[str, int]:
    rank, _, number = path.name.removesuffix(".log").partition(".")
    return rank, int(number) if number.isdecimal() else -1


def _tail(segments: list[Path]) -> bytes:
    """From the end of the newest segment, and of those before while there is room."""
    found = b""
    for path in reversed(segments):
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - (TAIL_BYTES - len(found))))
                found = file.read(TAIL_BYTES - len(found)) + found
        except OSError:
            continue  # rotated away meanwhile; what is left still says something
        if len(found) >= TAIL_BYTES:
            break
    return found

"""What every thread of a worker is doing, for people who look at a stalled attempt: ``logs/rank-<r>.stacks.log``.

A worker writes it from a thread of its own when it is asked to. One whose interpreter is blocked, by an extension that
keeps the interpreter's lock, cannot: it is sent a signal, whose handler is C code and needs no lock.
"""

import contextlib
import faulthandler
import signal
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

from fairlead.protocol import LOG_DIRECTORY
from fairlead.run.census import marked_processes

STACKS_SIGNAL = signal.SIGRTMIN + 5
_kept_open: list[TextIO] = []
"""The handler writes to a descriptor, which must stay open."""


def stacks_path(attempt: Path, rank: int) -> Path:
    """Where the stacks of a rank are."""
    return attempt / LOG_DIRECTORY / f"rank-{rank}.stacks.log"


def listen_for_stacks(attempt: Path, rank: int) -> None:
    """Let ``STACKS_SIGNAL`` write down the stacks of this process, whatever its interpreter is doing."""
    path = stacks_path(attempt, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # open as long as the process lives
    _kept_open.append(file)
    faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True)


def dump_stacks(attempt: Path, rank: int) -> None:
    """Write down the stacks of this process."""
    with open(stacks_path(attempt, rank), "a", encoding="utf-8") as file:
        file.write(f"rank {rank} at {datetime.now(UTC).isoformat(timespec='seconds')}\n")
        file.flush()
        faulthandler.dump_traceback(file=file, all_threads=True)


def stack_sizes(attempt: Path, ranks: Iterable[int]) -> dict[int, int]:
    """How much has been written down for each rank."""
    return {rank: _size(stacks_path(attempt, rank)) for rank in ranks}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def ask_for_stacks(runner_name: str, pids: Iterable[int]) -> tuple[int, ...]:
    """Signal processes of this machine; only those of the attempt, since a number may have got a new owner."""
    asked = tuple(set(pids) & set(marked_processes(runner_name)))
    for pid in asked:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).send_signal(STACKS_SIGNAL)
    return asked


def forget_empty_stacks(attempt: Path) -> None:
    """Remove the files of ranks that were never asked."""
    for path in (attempt / LOG_DIRECTORY).glob("rank-*.stacks.log"):
        if _size(path) == 0:
            path.unlink(missing_ok=True)

"""Ending processes by number, and only those that are ours.

A process is known by its number and the moment it began. Everything that a program starts stays findable in three
ways: as its descendant, in its session, and by a marker in its environment. Nothing is ended by name.
"""

import os
import signal
import time
from collections.abc import Iterable

import psutil

from fairlead.client import StackProcess

MARKER = "FAIRLEAD_STACK"
"""Environment variable that every process of a stack inherits; its value names the stack."""
_POLL_S = 0.05
_CLOCK_SLACK_S = 1.0
"""psutil derives start times from the boot time, which follows the wall clock."""


def describe(name: str, pid: int) -> StackProcess:
    """The process ``pid`` as it is now."""
    try:
        return StackProcess(name=name, pid=pid, created=psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return StackProcess(name=name, pid=pid, created=time.time())


def is_alive(process: StackProcess) -> bool:
    """Whether that very process still runs."""
    try:
        found = psutil.Process(process.pid)
        is_same = abs(found.create_time() - process.created) < _CLOCK_SLACK_S
        return is_same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(leaders: Iterable[StackProcess], marker: str | None = None) -> list[psutil.Process]:
    """The leaders that still run, their descendants, members of their sessions, and all with the marker."""
    found: dict[int, psutil.Process] = {}
    sessions = set()
    for leader in leaders:
        if is_alive(leader):
            top = psutil.Process(leader.pid)
            found |= {process.pid: process for process in [top, *_descendants(top)]}
            sessions.add(leader.pid)
        elif not psutil.pid_exists(leader.pid):
            sessions.add(leader.pid)  # while a session has members its number is not given away
    for process in psutil.process_iter():
        if process.pid != os.getpid() and (_session(process.pid) in sessions or _has_marker(process, marker)):
            found[process.pid] = process
    return list(found.values())


def end(leaders: Iterable[StackProcess], *, marker: str | None = None, grace_s: float) -> None:
    """Ask the leaders to end, wait, then end what is left of their families. Returns when none is left."""
    leaders = tuple(leaders)
    known = {process.pid: process for process in family(leaders, marker)}
    for leader in leaders:
        if leader.pid in known:
            _send(known[leader.pid], signal.SIGTERM)
    _wait(list(known.values()), grace_s)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        known |= {process.pid: process for process in family(leaders, marker)}
        left = [process for process in known.values() if _runs(process)]
        if not left:
            return
        for process in left:
            _send(process, signal.SIGKILL)
        _wait(left, 1.0)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _has_marker(process: psutil.Process, marker: str | None) -> bool:
    if marker is None:
        return False
    try:
        return process.environ().get(MARKER) == marker
    except (psutil.Error, OSError):
        return False


def _send(process: psutil.Process, sign: signal.Signals) -> None:
    try:
        process.send_signal(sign)  # psutil compares the start time first
    except psutil.NoSuchProcess:
        return


def _wait(processes: list[psutil.Process], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

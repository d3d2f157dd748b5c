"""How this process came to be: forked warm, or executed cold and why. It says so in the attempt's events."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from fairlead.run.warm.launcher import COLD

_forked_pid: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Birth:
    """Whether a process was forked from a warm server; if not, why."""

    is_warm: bool
    why: str


def note_fork() -> None:
    """Called once, in a forked worker before its program begins."""
    global _forked_pid
    _forked_pid = os.getpid()


def was_forked() -> bool:
    """Whether this very process was forked from a warm server; a child of it is not."""
    return _forked_pid == os.getpid()


def birth() -> Birth:
    """How this process was started, for an event."""
    if was_forked():
        return Birth(is_warm=True, why="")
    pid, _, why = os.environ.get(COLD, "").partition(":")
    if why and pid in ("", str(os.getpid())):
        return Birth(is_warm=False, why=why)
    return Birth(is_warm=False, why="it was started without the warm launcher")


def describe(births: Mapping[str, Birth]) -> str:
    """For people: that all of these processes started warm, or which of them did not, and why."""
    cold = {name: found for name, found in births.items() if not found.is_warm}
    if not cold:
        return "warm"
    why = "; ".join(dict.fromkeys(found.why for found in cold.values()))
    return f"cold: {why}" if len(cold) == len(births) else f"{', '.join(cold)} cold: {why}"

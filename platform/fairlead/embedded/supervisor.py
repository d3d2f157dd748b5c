"""Keeps programs running: starts each when what it needs is ready, starts it again when it has died.

One thread does all the starting, because a child is tied to the thread that made it: the kernel asks the child to
end when that thread does.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

import httpx
import structlog

from fairlead.client import StackProcess
from fairlead.embedded.ports import listens
from fairlead.embedded.processes import describe, end
from fairlead.embedded.programs import Program

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
STEADY_AFTER_S = 60.0
"""A program that ran for this long is started again at once."""
MAX_EARLY_DEATHS = 3
"""Deaths before it was ready for the first time; then the stack has failed."""
POLL_S = 0.1
LEFTOVER_GRACE_S = 2.0
"""What a dead program started gets to end by itself before it is started again."""
KEPT_LOG_BYTES = 20 * 2**20
_TETHER = Path(__file__).with_name("tether.py")
logger = structlog.get_logger(__name__)


class Condition(StrEnum):
    """How a program stands."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"


@dataclass
class Child:
    """A program and the process that runs it now."""

    program: Program
    condition: Condition = Condition.WAITING
    process: subprocess.Popen[bytes] | None = None
    identity: StackProcess | None = None
    started_s: float = 0
    again_at_s: float = 0
    pause_s: float = FIRST_PAUSE_S
    num_early_deaths: int = 0
    was_ready: bool = False
    num_starts: int = 0


class Supervisor:
    """Runs programs until ``stop``. ``on_change`` is called from its thread after every start and change."""

    def __init__(self, programs: tuple[Program, ...], *, python: str, parent_pid: int, on_change: Callable[[], None]):
        self._children = {program.name: Child(program=program) for program in programs}
        self._python, self._parent_pid, self._on_change = python, parent_pid, on_change
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._failure: str | None = None
        self._is_unsaid = False
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._http = httpx.Client(timeout=2, trust_env=False)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Start nothing any more. The processes go on until they are ended, and until the thread is ``joined``."""
        self._stopping.set()

    def join(self) -> None:
        """Wait for the thread; the kernel then asks whatever child is left to end."""
        self._thread.join()
        self._http.close()

    @property
    def failure(self) -> str | None:
        """Why the stack cannot run; None: it can."""
        return self._failure

    @property
    def conditions(self) -> dict[str, Condition]:
        """How each program stands."""
        return {name: child.condition for name, child in self._children.items()}

    @property
    def identities(self) -> tuple[StackProcess, ...]:
        """The process of each program that runs."""
        return tuple(child.identity for child in self._children.values() if child.identity is not None)

    def pid_of(self, name: str) -> int:
        """The process that runs a program now."""
        identity = self._children[name].identity
        if identity is None:
            raise KeyError(f"{name} has not been started")
        return identity.pid

    def wait(self, condition: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait for a condition on the children; False when time is up or the stack has failed."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._failure is not None, timeout=timeout_s)
        return condition()

    def _run(self) -> None:
        while not self._stopping.is_set():
            for child in self._children.values():
                self._tend_through_outages(child)
            if self._is_unsaid:
                self._note_change()
            self._stopping.wait(POLL_S)
        self._await_ends()

    def _tend_through_outages(self, child: Child) -> None:
        """A full disk, say, is no reason to leave: the kernel would end all children with this thread."""
        try:
            self._tend(child)
        except OSError as error:
            with suppress(OSError):  # where the log goes may be full as well
                logger.warning("a program could not be looked after", program=child.program.name, error=str(error))

    def _tend(self, child: Child) -> None:
        before = child.condition
        if child.process is None:
            if self._may_start(child):
                self._spawn(child)
        elif (status := child.process.poll()) is not None:
            self._note_death(child, status)
        elif child.condition is not Condition.READY and self._is_ready(child.program):
            child.condition, child.was_ready = Condition.READY, True
        if child.condition is not before:
            self._tell()

    def _may_start(self, child: Child) -> bool:
        needed = (self._children[name].condition is Condition.READY for name in child.program.needs)
        return not self._stopping.is_set() and time.monotonic() >= child.again_at_s and all(needed)

    def _spawn(self, child: Child) -> None:
        program = child.program
        command = [self._python, "-I", "-S", str(_TETHER), str(self._parent_pid), *program.command]
        with _log(program.log) as log:
            child.process = subprocess.Popen(
                command,
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=program.log.parent,
            )
        with suppress(ProcessLookupError):  # its end is noticed in the next round
            os.setpriority(os.PRIO_PROCESS, child.process.pid, program.niceness)
        child.identity = describe(program.name, child.process.pid)
        child.started_s = time.monotonic()
        child.num_starts += 1
        child.condition = Condition.RESTARTING if child.was_ready else Condition.STARTING
        self._note_change()

    def _note_death(self, child: Child, status: int) -> None:
        lasted_s = time.monotonic() - child.started_s
        logger.warning("a program ended and is started again", program=child.program.name, status=status)
        if child.identity is not None:
            end([child.identity], grace_s=LEFTOVER_GRACE_S)
        child.process, child.identity = None, None
        child.condition = Condition.RESTARTING
        child.pause_s = FIRST_PAUSE_S if lasted_s > STEADY_AFTER_S else min(LONGEST_PAUSE_S, child.pause_s * 2)
        child.again_at_s = time.monotonic() + child.pause_s
        child.num_early_deaths += not child.was_ready
        if child.num_early_deaths >= MAX_EARLY_DEATHS:
            self._failure = f"{child.program.name} ends at once (status {status})"

    def _is_ready(self, program: Program) -> bool:
        if program.ready_url is not None:
            return self._answers(program.ready_url)
        return all(listens(port) for port in program.ready_ports)

    def _answers(self, url: str) -> bool:
        try:
            return self._http.get(url).status_code == 200
        except httpx.TransportError:
            return False

    def _note_change(self) -> None:
        """If there is no room for notes now, they are written as soon as there is."""
        self._is_unsaid = True
        with suppress(OSError):
            self._on_change()
            self._is_unsaid = False

    def _tell(self) -> None:
        self._note_change()
        with self._changed:
            self._changed.notify_all()

    def _await_ends(self) -> None:
        """Stay alive, and collect children, while the stack ends them: its order must not be the kernel's."""
        for child in self._children.values():
            if child.process is not None:
                child.process.wait()


def _log(path: Path) -> IO[bytes]:
    """The program's log, opened at its end; one that has grown large is put aside once."""
    if path.exists() and path.stat().st_size > KEPT_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")

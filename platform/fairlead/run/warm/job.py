"""The second level: a server for one Ray job, with Ray imported, that forks workers.

It answers to the root over a socket pair and to nobody else. When the root is gone, or asks it to retire, it forks no
more and lasts until its last worker has ended, since only it can tell launchers how their workers ended.
"""

import functools
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

from fairlead.run.warm import distinct
from fairlead.run.warm.child import Inheritance, become, worker_environment
from fairlead.run.warm.lines import drained, has_hung_up, tell
from fairlead.run.warm.preload import FOR_ONE_JOB, SINGLE_THREADED, import_all, problem, resident_bytes

RETIRE = b"retire"
START = b"start"
REPORT_S = 1.0
"""A server says at least this often that it is there; the root ends one that says nothing."""
START_DESCRIPTORS = 5
"""The connection to the launcher, the plan, and the three standard files."""
_KEPT = (0, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What a server of the second level has from the root."""

    control: socket.socket
    environment: Mapping[str, str]
    """The variables under which Ray is imported."""
    set_by_imports: Mapping[str, str]
    base_path: tuple[str, ...]


def serve(ground: Ground) -> NoReturn:
    """Import, say "ready", fork on demand; the process ends with it."""
    os.environ.clear()
    os.environ.update({**ground.environment, **SINGLE_THREADED})
    with distinct.ids_from_the_system():
        set_by_imports = {**ground.set_by_imports, **import_all(FOR_ONE_JOB)}
    server = JobServer(ground, set_by_imports)
    server.run()
    os._exit(0)


class JobServer:
    """Forks workers until the root lets it go, and sees them all to their end."""

    def __init__(self, ground: Ground, set_by_imports: Mapping[str, str]) -> None:
        self._ground = ground
        self._set_by_imports = set_by_imports
        self._children: dict[int, socket.socket] = {}
        self._num_forked = 0
        self._is_retired = False
        self._problem = problem() or distinct.problem()
        self._limit_threads = thread_limiter()
        self._wake, self._wakeup = socket.socketpair()
        for end in (self._wake, self._wakeup):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno())

    def run(self) -> None:
        """Serve; returns when it is retired and its last worker has ended."""
        self._report()
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._ground.control, select.POLLIN)
        while not self._is_retired or self._children:
            ready = {descriptor for descriptor, _ in poll.poll(REPORT_S * 1000)}
            if self._wake.fileno() in ready:
                self._reap()
            if self._ground.control.fileno() in ready and not self._obey():
                self._is_retired = True
                poll.unregister(self._ground.control)
            self._report()

    def _report(self) -> None:
        news = {
            "problem": self._problem,
            "children": len(self._children),
            "forked": self._num_forked,
            "resident_bytes": resident_bytes(os.getpid()),
        }
        try:
            self._ground.control.send(json.dumps(news).encode(), socket.MSG_DONTWAIT)
        except OSError:  # the root is gone, or so busy that the next report does as well
            return

    def _obey(self) -> bool:
        """Take one message of the root; False if it was the last."""
        message, descriptors, _, _ = socket.recv_fds(
            self._ground.control, 64, START_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if message != START or len(descriptors) != START_DESCRIPTORS:
            return False
        connection = socket.socket(fileno=descriptors[0])
        self._start(connection, descriptors[1:])
        return True

    def _start(self, connection: socket.socket, descriptors: list[int]) -> None:
        self._problem = self._problem or problem()  # a library may have started a thread since
        if self._problem is not None or has_hung_up(connection):
            tell(connection, f"no {self._problem}")
            connection.close()
        elif (pid := os.fork()) == 0:
            become(lambda: self._inheritance(descriptors), connection, self._unwanted())
        else:
            self._children[pid] = connection
            self._num_forked += 1
        for descriptor in descriptors:
            os.close(descriptor)

    def _inheritance(self, descriptors: list[int]) -> Inheritance:
        with open(descriptors[0], "rb") as file:
            file.seek(0)
            plan: dict[str, Any] = json.load(file)
        return Inheritance(
            code=compiled(plan["program"]),
            program=plan["program"],
            argv=plan["argv"],
            cwd=plan["cwd"],
            environment=worker_environment(plan["environment"], self._set_by_imports),
            descriptors=(descriptors[1], descriptors[2], descriptors[3]),
            base_path=self._ground.base_path,
            limit_threads=self._limit_threads,
        )

    def _unwanted(self) -> list[int]:
        """What a worker must not hold: other launchers would not notice the end of their own."""
        ours = (self._wake, self._wakeup, self._ground.control, *self._children.values())
        return [each.fileno() for each in ours]

    def _reap(self) -> None:
        while drained(self._wake):
            pass
        while (ended := _next_ended()) is not None:
            # What the worker has left in its process group ends with it, as Ray does; the number is still its own.
            os.killpg(ended, signal.SIGKILL)
            _, status = os.waitpid(ended, 0)
            connection = self._children.pop(ended, None)
            if connection is not None:
                tell(connection, f"exit {os.waitstatus_to_exitcode(status)}")
                connection.close()


@functools.cache
def compiled(program: str) -> CodeType:
    """A program's code, kept: the cache is filled before the first fork."""
    return compile(Path(program).read_bytes(), program, "exec", dont_inherit=True)


def thread_limiter() -> Any:
    """A function that sets the threads of torch and BLAS, and Ray's own setting made to count.

    Ray sets ``OMP_NUM_THREADS`` when a worker is given its task; a new process imports torch after that.
    """
    torch: Any = importlib.import_module("torch")
    ray_utils: Any = importlib.import_module("ray._private.utils")
    controller = importlib.import_module("threadpoolctl").ThreadpoolController()
    set_if_unset = ray_utils.set_omp_num_threads_if_unset

    def limit(threads: int) -> None:
        torch.set_num_threads(threads)
        if threads > 1:
            controller.limit(limits=threads, user_api="blas")

    def set_and_heed() -> bool:
        has_set: bool = set_if_unset()
        if has_set:
            limit(int(os.environ["OMP_NUM_THREADS"]))
        return has_set

    ray_utils.set_omp_num_threads_if_unset = set_and_heed
    compiled(str(Path(sys.modules["ray"].__file__ or "").parent / "_private" / "workers" / "default_worker.py"))
    return limit


def _next_ended() -> int | None:
    """A child that has ended and still has its number; None if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found is not None else None

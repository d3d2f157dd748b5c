"""The root's servers of the second level: opened when first asked for, replaced when worn, dropped when unused."""

import contextlib
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import psutil

from fairlead.run.warm import job
from fairlead.run.warm.lines import tell
from fairlead.run.warm.preload import problem
from fairlead.run.warm.request import Start

EARLY_DEATH_PAUSE_S = 30.0
"""A server that died before it was ready is not tried again for this long."""
UNUSED_S = 600.0
"""A server that has forked nothing for this long is kept for its holder only."""
QUIET_S = 3.0
"""A server that has not reported for this long gets no more launchers: they would wait for it."""
HUNG_S = 10.0
"""One that has not reported for this long is killed; its workers go on."""
IMPORT_S = 150.0
"""One that has not become ready within this time hangs as well; a busy machine may be slow."""
PREPARE_S = 30.0
"""One that has been importing for this long gets no more launchers: something is wrong, and they would wait."""
LASTED_S = 30.0
"""One that lived this long before it died is replaced at once; another when it is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When servers are replaced or end."""

    idle_s: float = 20.0
    """How long the root outlasts whoever needs it: a holder, a worker, a raylet that has asked lately."""
    max_forks: int = 1000
    """A server of the second level is replaced after this many."""
    max_growth_bytes: int = 128 * 2**20
    """Or when it has grown by this much since it was ready."""


@dataclass(kw_only=True, slots=True)
class Job:
    """One server of the second level, as the root sees it."""

    key: str
    pid: int
    control: socket.socket
    environment: Mapping[str, str]
    used_s: float
    born_s: float
    heard_s: float
    is_ready: bool = False
    is_spoilt: bool = False
    """It has been fit to fork, and is so no longer."""
    problem: str | None = None
    num_children: int = 0
    num_forked: int = 0
    first_bytes: int = 0
    resident_bytes: int = 0

    def is_worn(self, limits: Limits) -> bool:
        """Whether it should be replaced."""
        has_grown = self.resident_bytes - self.first_bytes > limits.max_growth_bytes
        return self.is_ready and (self.is_spoilt or self.num_forked >= limits.max_forks or has_grown)

    def objection(self, now_s: float) -> str | None:
        """Why it should be given no launcher."""
        if self.problem is not None:
            return self.problem
        if self.is_ready and now_s - self.heard_s > QUIET_S:
            return "the warm server of this job does not answer"
        if not self.is_ready and now_s - self.born_s > PREPARE_S:
            return "the warm server of this job does not become ready"
        return None

    def hangs(self, now_s: float) -> bool:
        """Whether it has stopped doing anything."""
        return now_s - self.heard_s > (HUNG_S if self.is_ready else IMPORT_S)

    def hear(self) -> bool:
        """Read a report; False if it has nothing more to say."""
        try:
            message = self.control.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not message:
            return False
        news = json.loads(message)
        self.heard_s = time.monotonic()
        if not self.is_ready:
            self.first_bytes = news["resident_bytes"]
        elif news["problem"] is not None and self.problem is None:
            self.is_spoilt = True
        self.is_ready, self.problem = True, news["problem"]
        self.num_children, self.num_forked = news["children"], news["forked"]
        self.resident_bytes = news["resident_bytes"]
        return True

    def has_lost_raylet(self) -> bool:
        """Whether the raylet whose workers it forks is gone."""
        pid = self.environment.get("RAY_RAYLET_PID", "")
        return pid.isdigit() and not psutil.pid_exists(int(pid))


@dataclass(kw_only=True)
class Jobs:
    """All of them. ``to_close``: what the root holds and a forked server must not."""

    limits: Limits
    set_by_imports: Mapping[str, str]
    base_path: tuple[str, ...]
    lock: int
    to_close: list[socket.socket]
    _current: dict[str, Job] = field(default_factory=dict)
    _successors: dict[str, Job] = field(default_factory=dict)
    _retired: list[Job] = field(default_factory=list)
    _missed: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Jobs whose server has died though it was of use, with the variables for another."""
    _not_before_s: dict[str, float] = field(default_factory=dict)
    _tended_s: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Iterator[Job]:
        return iter([*self._current.values(), *self._successors.values(), *self._retired])

    @property
    def num_children(self) -> int:
        """Workers that live."""
        return sum(each.num_children for each in self)

    @property
    def are_needed(self) -> bool:
        """Whether a worker lives, or a raylet that still runs has asked for one lately."""
        now_s = time.monotonic()
        recent = (each for each in self._current.values() if now_s - each.used_s < UNUSED_S)
        return self.num_children > 0 or any(not each.has_lost_raylet() for each in recent)

    def is_retired(self, found: Job) -> bool:
        """Whether it forks no more."""
        return found in self._retired

    def pass_on(self, connection: socket.socket, start: Start, descriptors: list[int]) -> str | None:
        """Give a launcher to the server of its job, which may still be importing; why not, if so."""
        now_s = time.monotonic()
        found = self._current.get(start.job)
        if found is None:
            if self._is_in_pause(start.job):
                return "the warm server of this job has just died"
            of_request = [connection.fileno(), *descriptors]
            found = self._current[start.job] = self._fork(start.job, start.environment, unwanted=of_request)
        if (objection := found.objection(now_s)) is not None:
            return objection
        found.used_s = now_s
        try:
            self._send(found, connection, start, descriptors)
        except OSError as error:
            return f"the warm server of this job cannot be reached: {error}"
        return None

    def _send(self, found: Job, connection: socket.socket, start: Start, descriptors: list[int]) -> None:
        with os.fdopen(os.memfd_create("plan"), "wb") as plan:
            plan.write(start.to_json().encode())
            plan.flush()
            tell(connection, "seen" if found.is_ready else "wait")
            passed = [connection.fileno(), plan.fileno(), *descriptors]
            socket.send_fds(found.control, [job.START], passed, socket.MSG_DONTWAIT)

    def attend(self, descriptor: int) -> None:
        """Read the report of the server with this control socket."""
        for each in self:
            if each.control.fileno() == descriptor and not each.hear():
                self._drop(each)
                return

    def tend(self) -> None:
        """End what hangs, replace what is worn or has died, drop what nobody uses."""
        self._end_hung()
        missed, self._missed = self._missed, {}
        for key, environment in missed.items():
            if key not in self._current and self._may_fork(key):
                self._current[key] = self._fork(key, environment)
        for key, found in list(self._current.items()):
            successor = self._successors.get(key)
            if successor is not None and successor.is_ready:
                self._current[key] = self._successors.pop(key)
                self._retire(found)
            elif successor is None and found.is_worn(self.limits) and self._may_fork(key):
                self._successors[key] = self._fork(key, found.environment)
            elif found.num_children == 0 and self._is_unused(found):
                del self._current[key]
                self._retire(found)

    def _may_fork(self, key: str) -> bool:
        return not self._is_in_pause(key) and problem() is None

    def _is_in_pause(self, key: str) -> bool:
        return self._not_before_s.get(key, 0) > time.monotonic()

    def _end_hung(self) -> None:
        """Kill servers that no longer report. The end of their control socket then tells the rest of us."""
        now_s = time.monotonic()
        away_s, self._tended_s = now_s - self._tended_s, now_s
        for each in self:
            if away_s > QUIET_S:  # it was us, or the whole machine, that stood still
                each.heard_s = min(now_s, each.heard_s + away_s)
            elif each.hangs(now_s):
                print(f"the server {each.pid} of {each.key} has said nothing for long and is killed", flush=True)
                each.heard_s = now_s
                _kill(each.pid)

    def _is_unused(self, found: Job) -> bool:
        if found.has_lost_raylet():
            return True
        newest_s = max((each.used_s for each in self._current.values()), default=found.used_s)
        return found.used_s < newest_s and time.monotonic() - found.used_s > UNUSED_S

    def _retire(self, found: Job) -> None:
        self._retired.append(found)
        try:
            found.control.send(job.RETIRE, socket.MSG_DONTWAIT)
        except OSError:  # it is gone already
            self._drop(found)

    def _drop(self, found: Job) -> None:
        """Forget a server that has ended, and collect it."""
        found.control.close()
        collect_ended()
        now_s = time.monotonic()
        is_wanted = now_s - found.born_s > LASTED_S and not self._is_unused(found)
        if found in self._retired:
            self._retired.remove(found)
            return
        if not found.is_ready:
            self._not_before_s[found.key] = now_s + EARLY_DEATH_PAUSE_S
        if self._successors.get(found.key) is found:
            del self._successors[found.key]
            return
        del self._current[found.key]
        if (successor := self._successors.pop(found.key, None)) is not None:
            self._current[found.key] = successor
        elif found.is_ready and is_wanted:
            self._missed[found.key] = found.environment

    def _fork(self, key: str, environment: Mapping[str, str], *, unwanted: list[int] | None = None) -> Job:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if (pid := os.fork()) == 0:
            self._become_server(theirs, environment, [ours.fileno(), *(unwanted or ())])
        theirs.close()
        now_s = time.monotonic()
        return Job(key=key, pid=pid, control=ours, environment=environment, used_s=now_s, born_s=now_s, heard_s=now_s)

    def _become_server(self, control: socket.socket, environment: Mapping[str, str], unwanted: list[int]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self.lock)  # else the next root could not take it while this server lasts
            held = (each.fileno() for each in (*self.to_close, *(known.control for known in self)))
            for descriptor in (*unwanted, *held):
                os.close(descriptor)
            job.serve(
                job.Ground(
                    control=control,
                    environment=environment,
                    set_by_imports=self.set_by_imports,
                    base_path=self.base_path,
                )
            )
        except BaseException:
            traceback.print_exc()
            os._exit(1)


def _kill(pid: int) -> None:
    """Kill a server of the second level that has not been collected: its number is still its own."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.kill(pid, signal.SIGKILL)


def collect_ended() -> None:
    """Take the exit statuses of servers of the second level that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return

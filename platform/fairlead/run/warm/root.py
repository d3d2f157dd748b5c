"""The first level: ``python -m fairlead.run.warm.root DIRECTORY``, one for each node and stack.

It keeps torch and its like imported, without Ray, and forks a server of the second level for each Ray job. Launchers
come to its socket; it decides, and passes their connections on. It lasts while somebody holds it, a worker lives or a
raylet has asked lately, and some seconds longer.
"""

import argparse
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fairlead.run.warm.child import peer
from fairlead.run.warm.jobs import Jobs, Limits, collect_ended
from fairlead.run.warm.launcher import IMPORTING, NOT_FOR_SERVERS, SERVING
from fairlead.run.warm.lines import drained, tell
from fairlead.run.warm.marker import SERVER
from fairlead.run.warm.places import Places, command_line
from fairlead.run.warm.preload import FOR_ANY_JOB, SINGLE_THREADED, TESTED_RAY, import_all, problem
from fairlead.run.warm.request import Refused, Surroundings, parse_body, parse_head, plan

READ_S = 0.5
"""A launcher sends at once; no client may hold up the others for longer."""
LOOK_S = 1.0
"""At least this often the root does its rounds, and touches its lock to show it."""
MAX_LOG_BYTES = 2**22


@dataclass(kw_only=True)
class Root:
    """Answers clients until nobody needs it."""

    listener: socket.socket
    around: Surroundings
    jobs: Jobs
    problem: str | None
    lock: int
    holders: list[socket.socket] = field(default_factory=list)
    last_refusal: str = ""
    last_busy_s: float = field(default_factory=time.monotonic)
    last_beat_s: float = 0.0
    is_stopping: bool = False

    def run(self) -> None:
        """Serve; returns when it is stopped or has been idle for long."""
        wake, wakeup = socket.socketpair()
        for end in (wake, wakeup):
            end.setblocking(False)
        self.jobs.to_close += [self.listener, wake, wakeup]
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_stopping", True))
        signal.set_wakeup_fd(wakeup.fileno())
        while not self.is_stopping and not self._is_idle():
            for descriptor in self._wait(wake):
                self._attend(descriptor, wake)
            self.jobs.tend()
            self._beat()

    def _beat(self) -> None:
        """Show that we live: whoever finds the lock untouched for long replaces us."""
        if time.monotonic() - self.last_beat_s >= LOOK_S:
            self.last_beat_s = time.monotonic()
            os.utime(self.lock)

    def _wait(self, wake: socket.socket) -> list[int]:
        poll = select.poll()
        for each in (self.listener, wake, *self.holders, *(known.control for known in self.jobs)):
            poll.register(each, select.POLLIN)
        return [descriptor for descriptor, _ in poll.poll(LOOK_S * 1000)]

    def _attend(self, descriptor: int, wake: socket.socket) -> None:
        if descriptor == self.listener.fileno():
            connection, _ = self.listener.accept()
            self._receive(connection)
        elif descriptor == wake.fileno():
            while drained(wake):
                pass
            collect_ended()
        else:
            self._release(descriptor)
            self.jobs.attend(descriptor)

    def _release(self, descriptor: int) -> None:
        for holder in [each for each in self.holders if each.fileno() == descriptor]:
            self.holders.remove(holder)
            self.jobs.to_close.remove(holder)
            holder.close()

    def _is_idle(self) -> bool:
        if self.holders or self.jobs.are_needed:
            self.last_busy_s = time.monotonic()
        return time.monotonic() - self.last_busy_s > self.jobs.limits.idle_s

    def _receive(self, connection: socket.socket) -> None:
        """Read one message and answer it. Whatever is wrong with it is told to the client, and harms nobody else."""
        descriptors: list[int] = []
        try:
            connection.settimeout(READ_S)
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3, socket.MSG_CMSG_CLOEXEC)
            line, _, body = data.partition(b"\n")
            head = parse_head(line)
            if isinstance(head, Refused):
                self._refuse(connection, head.why)
            elif head[0] == "start":
                self._start(connection, _rest(connection, body, head[1]), descriptors)
            else:
                self._command(connection, head[0])
        except OSError as error:
            self._refuse(connection, f"the request did not arrive: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            if connection not in self.holders:
                connection.close()

    def _refuse(self, connection: socket.socket, why: str) -> None:
        self.last_refusal = why
        tell(connection, f"no {why}")

    def _command(self, connection: socket.socket, verb: str) -> None:
        if verb == "status":
            tell(connection, json.dumps(self.describe()))
        elif verb == "hold":
            self.holders.append(connection)
            self.jobs.to_close.append(connection)
            tell(connection, "held")
        elif verb == "stop":
            self.is_stopping = True
            tell(connection, "stopping")
        else:
            self._refuse(connection, f"the warm server knows no {verb}")

    def _start(self, connection: socket.socket, body: bytes, descriptors: list[int]) -> None:
        request = parse_body(body)
        decision = request if isinstance(request, Refused) else plan(request, self.around)
        if isinstance(decision, Refused):
            why: str | None = decision.why
        else:
            why = self._trouble() or _objection(connection, descriptors)
            why = why or self.jobs.pass_on(connection, decision, descriptors)
        if why is not None:
            self._refuse(connection, why)

    def _trouble(self) -> str | None:
        """Why nothing may be forked here. Where that was not so from the start, another root may be without it."""
        if self.problem is None and (found := problem()) is not None:
            self.problem = found
            self.is_stopping = True
            print(f"this server ends: {found}", flush=True)
        return self.problem

    def describe(self) -> dict[str, object]:
        """What ``status`` shows."""
        return {
            "pid": os.getpid(),
            "problem": self.problem,
            "last_refusal": self.last_refusal,
            "holders": len(self.holders),
            "jobs": [
                {
                    "job": each.key,
                    "pid": each.pid,
                    "is_ready": each.is_ready,
                    "is_retired": self.jobs.is_retired(each),
                    "problem": each.problem,
                    "children": each.num_children,
                    "forked": each.num_forked,
                    "resident_bytes": each.resident_bytes,
                }
                for each in self.jobs
            ],
        }


def _rest(connection: socket.socket, body: bytes, size: int) -> bytes:
    while len(body) < size:
        more = connection.recv(1 << 20)
        if not more:
            raise OSError("the launcher has hung up")
        body += more
    return body


def _objection(connection: socket.socket, descriptors: list[int]) -> str | None:
    if len(descriptors) != 3:
        return "the request came without its three files"
    if _cgroup(peer(connection)) != _cgroup(os.getpid()):
        return "the worker belongs to another control group than the warm server"
    return None


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def main(arguments: list[str]) -> int:
    """Take the directory, import, serve. A second root for the same directory ends at once: 0."""
    parser = argparse.ArgumentParser(prog="python -m fairlead.run.warm.root")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--detach", action="store_true")
    parser.add_argument("--idle-s", type=float, default=Limits().idle_s)
    parser.add_argument("--max-forks", type=int, default=Limits().max_forks)
    parser.add_argument("--max-growth-bytes", type=int, default=Limits().max_growth_bytes)
    given = parser.parse_args(arguments)
    if given.detach and not _is_detached():
        return 0
    if SERVER not in os.environ:
        _start_again([each for each in arguments if each != "--detach"])
    places = Places(directory=given.directory)
    places.prepare()
    lock = os.open(places.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    limits = Limits(idle_s=given.idle_s, max_forks=given.max_forks, max_growth_bytes=given.max_growth_bytes)
    _serve(places, lock, limits)
    return 0


def _serve(places: Places, lock: int, limits: Limits) -> None:
    _use_log(places.log)
    _sign(lock, IMPORTING)
    os.chdir(places.directory)
    base_path = _forget_directory()
    trouble = _untested_ray()
    set_by_imports = {} if trouble else import_all(FOR_ANY_JOB)
    trouble = trouble or problem()
    print(f"serving from {places.directory}; {trouble or 'no problem'}", flush=True)
    places.socket.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(places.socket))
        listener.listen(128)
        _sign(lock, SERVING)
        jobs = Jobs(limits=limits, set_by_imports=set_by_imports, base_path=base_path, lock=lock, to_close=[])
        try:
            Root(listener=listener, around=_surroundings(places), jobs=jobs, problem=trouble, lock=lock).run()
        finally:
            places.socket.unlink(missing_ok=True)


def _sign(lock: int, phase: str) -> None:
    """Say in the lock who holds it and what he is doing, for those who wonder whether he hangs."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {phase}".encode(), 0)


def _is_detached() -> bool:
    """Leave the caller's session by the usual two forks; True in the process that goes on."""
    if (pid := os.fork()) != 0:
        os.waitpid(pid, 0)
        return False
    os.setsid()
    if os.fork() != 0:
        os._exit(0)
    return True


def _start_again(arguments: list[str]) -> None:
    """Execute this program once more, so that the kernel shows the server's environment as that of all it forks."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVERS}
    environment = {**kept, **SINGLE_THREADED, SERVER: "1"}
    os.execve(sys.executable, [sys.executable, "-m", "fairlead.run.warm.root", *arguments], environment)


def _use_log(log: Path) -> None:
    """Never keep a pipe that somebody reads to its end: this process may outlast the reader."""
    mode = os.O_TRUNC if log.exists() and log.stat().st_size > MAX_LOG_BYTES else os.O_APPEND
    written = os.open(log, os.O_WRONLY | os.O_CREAT | mode, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, number in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, number)
    os.close(written)
    os.close(nothing)


def _forget_directory() -> tuple[str, ...]:
    """Take the working directory, which ``-m`` puts first, off the search path; returns it without ``PYTHONPATH``."""
    added = {entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    sys.path.pop(0)
    return tuple(entry for entry in sys.path if entry not in added)


def _untested_ray() -> str | None:
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return "Ray is not installed beside the warm server"
    if not version.startswith(TESTED_RAY):
        return f"warm start has been tested with Ray {TESTED_RAY}x, and this is {version}"
    return None


def _surroundings(places: Places) -> Surroundings:
    found = importlib.util.find_spec("ray")
    origin = found.origin if found is not None else None
    own = {name: value for name, value in os.environ.items() if name != SERVER}
    return Surroundings(
        directory=str(places.directory),
        executable=sys.executable,
        ray_directory=Path(origin).parent if origin else Path(),
        launchers=(command_line(), str(places.launcher)),
        environment=own,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

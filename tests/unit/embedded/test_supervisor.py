"""Programs are started when what they need is ready, started again when they die, and given up when they cannot."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fairlead.embedded.ports import HOST, PortLease
from fairlead.embedded.processes import end
from fairlead.embedded.programs import Program
from fairlead.embedded.supervisor import Condition, Supervisor

SERVE = """
import http.server, sys
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
Run = Callable[..., AbstractContextManager[Supervisor]]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with PortLease(tmp_path / "ports") as lease:
        yield lease.take().api


@pytest.fixture
def run() -> Run:
    @contextmanager
    def running(*programs: Program, on_change: Callable[[], None] = lambda: None) -> Iterator[Supervisor]:
        supervisor = Supervisor(programs, python=sys.executable, parent_pid=os.getpid(), on_change=on_change)
        supervisor.start()
        try:
            yield supervisor
        finally:
            supervisor.stop()
            end(supervisor.identities, grace_s=5)
            supervisor.join()

    return running


def a_program(directory: Path, name: str, code: str, *arguments: str, **more: object) -> Program:
    command = (sys.executable, "-c", code, *arguments)
    return Program(name=name, command=command, environment=dict(os.environ), log=directory / f"{name}.log", **more)  # type: ignore[arg-type]


def are_ready(supervisor: Supervisor) -> bool:
    return all(condition is Condition.READY for condition in supervisor.conditions.values())


def test_a_program_waits_for_what_it_needs(tmp_path: Path, port: int, run: Run) -> None:
    server = a_program(tmp_path, "server", SERVE, str(port), ready_url=f"http://{HOST}:{port}/")
    user = a_program(tmp_path, "user", "import time; time.sleep(300)", needs=("server",))
    with run(user, server) as supervisor:
        assert supervisor.wait(lambda: supervisor.conditions["server"] is Condition.STARTING, timeout_s=20)
        assert supervisor.conditions["user"] is Condition.WAITING
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)


def test_a_disk_without_room_for_notes_keeps_no_program_from_being_started(tmp_path: Path, port: int, run: Run) -> None:
    is_full, noted = threading.Event(), threading.Event()
    is_full.set()

    def note() -> None:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        noted.set()

    server = a_program(tmp_path, "server", SERVE, str(port), ready_ports=(port,))
    with run(server, on_change=note) as supervisor:
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)
        before = supervisor.pid_of("server")
        os.kill(before, signal.SIGKILL)
        assert supervisor.wait(lambda: not are_ready(supervisor), timeout_s=20)
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)
        assert supervisor.pid_of("server") != before
        is_full.clear()
        assert noted.wait(20), "what changed meanwhile"


def test_a_program_that_is_killed_comes_back(tmp_path: Path, port: int, run: Run) -> None:
    server = a_program(tmp_path, "server", SERVE, str(port), ready_ports=(port,))
    with run(server) as supervisor:
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)
        before = supervisor.pid_of("server")
        os.kill(before, signal.SIGKILL)
        assert supervisor.wait(lambda: not are_ready(supervisor), timeout_s=20)
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)
        assert supervisor.pid_of("server") != before


def test_a_program_stands_back_as_far_as_it_should(tmp_path: Path, port: int, run: Run) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    books = a_program(tmp_path, "books", SERVE, str(port), ready_ports=(port,), niceness=own + 5)
    with run(books) as supervisor:
        assert supervisor.wait(lambda: are_ready(supervisor), timeout_s=20)
        assert os.getpriority(os.PRIO_PROCESS, supervisor.pid_of("books")) == own + 5


def test_a_program_that_ends_at_once_is_given_up(tmp_path: Path, port: int, run: Run) -> None:
    broken = a_program(tmp_path, "broken", "print('no such setting'); raise SystemExit(2)", ready_ports=(port,))
    with run(broken) as supervisor:
        assert not supervisor.wait(lambda: are_ready(supervisor), timeout_s=30)
        assert supervisor.failure == "broken ends at once (status 2)"
    assert (tmp_path / "broken.log").read_text() == "no such setting\n" * 3

"""Fixtures that many tests share, and guards that watch over all of them.

Guards: no socket leaves this machine; a test that leaks an environment variable or a lower priority fails; in
``tests/unit`` so does one that leaks a thread or a child process. Elsewhere Ray and servers live longer than a test:
there the whole session must end without children. ``_LASTING`` names the exceptions.
"""

import ipaddress
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings

from fairlead.store import Store, migrate, open_store
from fairlead.testing import FakeClock
from fairlead.testing.postgres import PostgresServer, serving_postgres

# The same examples on every run, and no time limit of their own: other work on the machine is no bug of ours.
settings.register_profile("fairlead", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fairlead")

# A shell without a terminal starts its background jobs deaf to Ctrl-C, and their children inherit that; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

_UNIT = Path(__file__).parent / "unit"
_GRACE_S = 2.0
_LASTING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python keeps these for itself
_LASTING_A_SESSION = ("postgres",)  # the fixture of that name ends it
_CHANGED_BY_PYTEST = ("PYTEST_CURRENT_TEST", "PYTEST_VERSION")
_SET_BY_IMPORTS = (  # once a process
    "KMP_DUPLICATE_LIB_OK",
    "KMP_INIT_AT_FORK",
    "PYGAME_HIDE_SUPPORT_PROMPT",
    "TORCHINDUCTOR_CACHE_DIR",
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# ---- databases ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The session's PostgreSQL. A test that stops it must start it again."""
    with serving_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """A migrated database, to be copied: faster than migrating once a test."""
    name = postgres.create_database()
    store = open_store(postgres.url(name))
    migrate(store)
    store.close()
    return name


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    store = open_store(f"sqlite:///{path}")
    migrate(store)
    store.close()
    return path


def pytest_itemcollected(item: pytest.Item) -> None:
    """``by_day("sqlite")``: what is long runs on one database by day, and on both at night."""
    mark = item.get_closest_marker("by_day")
    params = getattr(getattr(item, "callspec", None), "params", {})
    database = params.get("database_url") or params.get("empty_url")
    if mark and database and mark.args[0] != database:
        item.add_marker("nightly")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database without tables: one test run on SQLite, one on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'fairlead.db'}"
        return
    yield from _fresh(request.getfixturevalue("postgres"), "template1")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a migrated database of this test alone, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield _sqlite_copy(request.getfixturevalue("sqlite_template"), tmp_path)
        return
    yield from _fresh(request.getfixturevalue("postgres"), request.getfixturevalue("postgres_template"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A migrated store of this test alone; every test that asks for it runs on SQLite and on PostgreSQL."""
    opened = open_store(database_url)
    yield opened
    opened.close()


@pytest.fixture
def sqlite_store(sqlite_template: Path, tmp_path: Path) -> Iterator[Store]:
    """The same on SQLite alone, for tests whose subject is not the database."""
    opened = open_store(_sqlite_copy(sqlite_template, tmp_path))
    yield opened
    opened.close()


def _sqlite_copy(template: Path, directory: Path) -> str:
    path = directory / "fairlead.db"
    shutil.copy(template, path)
    return f"sqlite:///{path}"


def _fresh(server: PostgresServer, template: str) -> Iterator[str]:
    name = server.create_database(template=template)
    yield server.url(name)
    server.drop_database(name)


# ---- guards -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def _closed_network() -> Iterator[None]:
    """Connections that leave the machine fail at once, with the address in the message."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
    yield
    patch.undo()


def _guarded(connect: Any) -> Any:
    def guarded(self: socket.socket, address: Any) -> Any:
        # A datagram socket sends nothing by connecting: programs learn their own address that way.
        if self.type != socket.SOCK_DGRAM and not _is_this_machine(self.family, address):
            raise PermissionError(f"tests may not leave this machine, and this one tried to reach {address}")
        return connect(self, address)

    return guarded


def _is_this_machine(family: int, address: Any) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0]).partition("%")[0]
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", "localhost.localdomain")
    return parsed.is_loopback or parsed.is_unspecified or host in _own_addresses()


def _own_addresses() -> set[str]:
    return {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Set up before the test's own fixtures, so it looks when they have cleaned up."""
    is_strict = request.path.is_relative_to(_UNIT)
    environment, niceness = _environment(), os.getpriority(os.PRIO_PROCESS, 0)
    threads, children = set(threading.enumerate()), _children()
    yield
    assert _environment() == environment, "this test changed the environment; use monkeypatch.setenv"
    assert os.getpriority(os.PRIO_PROCESS, 0) == niceness, "this test made all that follow wait for other programs"
    if is_strict:
        _await_end_of_threads(threads)
        left = [child for child in _children() if child not in children and child.name() not in _LASTING_A_SESSION]
        assert not left, f"this test leaves child processes behind: {left}"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _CHANGED_BY_PYTEST + _SET_BY_IMPORTS}


def _await_end_of_threads(before: set[threading.Thread]) -> None:
    deadline = time.monotonic() + _GRACE_S
    for thread in threading.enumerate():
        if thread not in before and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"this test leaves a running thread behind: {thread.name}"


def _children() -> list[psutil.Process]:
    pids = {int(pid) for listing in Path("/proc/self/task").glob("*/children") for pid in _read(listing).split()}
    return [process for pid in sorted(pids) if (process := _process(pid)) is not None]


def _process(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        is_lasting = any(name in " ".join(process.cmdline()) for name in _LASTING)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    return None if is_lasting else process


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the thread has ended meanwhile
        return ""


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that leaves processes behind, whichever test began them."""
    if left := _children():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nthis session leaves child processes behind: {left}")

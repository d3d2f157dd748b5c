"""A throw-away PostgreSQL: its own directory, its own account, a Unix socket that nobody else may open.

It is fast rather than durable (no fsync), yet keeps every promise that a killed *process* can break: commits are
synchronous, so whatever was acknowledged is there after ``kill`` and ``start``.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
USER = "fairlead"
_SHARED_MEMORY = "/dev/shm"
_ENOUGH_BYTES = 1024**3
_ORDINARY_ACCOUNTS = ("postgres", "nobody")
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "autovacuum": "off",
    "jit": "off",
    "timezone": "Asia/Kathmandu",  # not UTC, so that a forgotten zone is seen
}


class PostgresServer:
    """One server, which a test may stop, kill and start again at the same address. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self) -> None:
        """Make the cluster's files."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (account := _account()) is not None:
            shutil.chown(self.directory, account, pwd.getpwnam(account).pw_gid)
        options = ["-D", str(self.directory / "data"), "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        made = subprocess.run([binary("initdb"), *options], capture_output=True, text=True, **_as_account())
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")

    def start(self) -> None:
        """Start it and return when it answers. Raises ``RuntimeError`` with its log if it does not."""
        assert self._process is None, "already started"
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        command = [binary("postgres"), "-D", str(self.directory / "data"), "-k", str(self.directory), *settings]
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_tied_to_us(), *command], stdout=log, stderr=log, start_new_session=True, **_as_account()
            )
        self._wait_until_answering(self._process)

    def keep_running(self) -> None:
        """Start it again if it has ended, as its supervisor would. Raises ``RuntimeError`` if it cannot start."""
        if self._process is not None and self._process.poll() is not None:
            self._end(signal.SIGQUIT)
        if self._process is None:
            self.start()

    def begin_new_log(self) -> None:
        """Have it begin another file of its write-ahead log. Where there is no room for one, it ends itself."""
        with suppress(psycopg.OperationalError):
            self._run(sql.SQL("select pg_switch_wal()").format())

    def stop(self) -> None:
        """End it in order; sessions are cut."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it at once, as a crash would; the next start recovers."""
        self._end(signal.SIGQUIT)

    def url(self, database: str) -> str:
        """The address of a database, as ``open_store`` reads it."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.directory}"

    def create_database(self, *, template: str = "template1") -> str:
        """A new database; returns its name."""
        name = f"test_{uuid4().hex[:12]}"
        self._run(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database and cut its sessions."""
        self._run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    def _connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(host=str(self.directory), user=USER, dbname="postgres", autocommit=True)

    def _wait_until_answering(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                self._end(signal.SIGQUIT)
                raise RuntimeError(f"PostgreSQL did not start:\n{self._log_tail()}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(sign)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT_S)

    def _log_tail(self) -> str:
        path = self.directory / "server.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""


@contextmanager
def serving_postgres() -> Iterator[PostgresServer]:
    """A started server in a directory of its own, gone afterwards. For a session-scoped fixture: starts take seconds.

    Raises ``RuntimeError`` with the package to install where PostgreSQL is missing.
    """
    # A socket's path has at most 107 bytes: a test's own directory may be too deep.
    directory = Path(tempfile.mkdtemp(prefix="fairlead-pg-", dir=_memory()))
    server = PostgresServer(directory)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def _memory() -> str | None:
    """Main memory as a directory, where there is enough: a new database takes a tenth of the time there."""
    if not os.access(_SHARED_MEMORY, os.W_OK) or shutil.disk_usage(_SHARED_MEMORY).free < _ENOUGH_BYTES:
        return None
    return _SHARED_MEMORY


def binary(name: str) -> str:
    """The path of one of PostgreSQL's programs: the newest under Debian's directory, else the one in PATH."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = max(versions, key=lambda path: float(path.parent.parent.name), default=None)
    found = str(newest) if newest else shutil.which(name)
    if found is None:
        raise RuntimeError(
            f"PostgreSQL's {name} is missing: apt-get install postgresql (these tests need no cluster of it)"
        )
    return found


def _account() -> str | None:
    """PostgreSQL refuses to run as root; an ordinary account of the machine will do."""
    if os.geteuid() != 0:
        return None
    for name in _ORDINARY_ACCOUNTS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError(f"PostgreSQL does not run as root, and no account of {_ORDINARY_ACCOUNTS} exists to run it")


def _as_account() -> dict[str, Any]:
    if (account := _account()) is None:
        return {"cwd": "/"}
    return {"user": account, "group": pwd.getpwnam(account).pw_gid, "extra_groups": [], "cwd": "/"}


def _tied_to_us() -> list[str]:
    """Let the kernel end the server if the tests are killed before they can."""
    return [setpriv, "--pdeathsig", "INT"] if (setpriv := shutil.which("setpriv")) else []

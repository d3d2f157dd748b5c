"""Opens the database: SQLite for one server, PostgreSQL for many. Short transactions, committed at the edge, once."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from fairlead.clock import Clock, SystemClock
from fairlead.errors import BadInput, Conflict, Unavailable
from fairlead.store.fair_lock import FairLock
from fairlead.store.told import written_in

UNWRITABLE_S = 10.0
"""How long a database that could not keep a write counts as one that takes none."""
_POOL_WAIT_S = 2.0
_dumps = partial(json.dumps, allow_nan=False)  # NaN is not JSON; PostgreSQL refuses it, SQLite would not
_UNWRITABLE_SQLITE = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY")
_UNWRITABLE_POSTGRESQL = ("53100", "58030", "25006")
"""SQLSTATEs: the disk is full, it fails, the server only reads."""
_SQLITE_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON")


Fence = Callable[[Session], None]
"""Asked at the beginning of every writing transaction, inside it; raises unless its caller may write."""
Witness = Callable[[Session], AbstractContextManager[None]]
"""Stands round every writing transaction, inside it, and may add to it what it has seen."""


Tell = Callable[[Mapping[str, Any]], None]
"""Told of each event of an experiment that has been committed: what ``written_in`` the session says of it."""


class Refusals:
    """What a database last said instead of keeping a write, such as that its disk is full. It can still be read then.

    A write that succeeds afterwards proves little: a small one often still fits. So a refusal counts for some seconds,
    and counts anew with the next one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: tuple[float, str] | None = None

    def note(self, error: DBAPIError) -> None:
        """Remember ``error`` if it says that nothing can be written."""
        if _is_unwritable(error):
            self._last = self._clock.monotonic_s(), _first_line(error)

    @property
    def problem(self) -> str | None:
        """The refusal that counts now, if any."""
        if self._last is None or self._clock.monotonic_s() - self._last[0] > UNWRITABLE_S:
            return None
        return self._last[1]


class Store:
    """A database with sessions for reading and for writing."""

    def __init__(
        self,
        reader: Engine,
        writer: Engine,
        *,
        fence: Fence | None = None,
        witness: Witness | None = None,
        refusals: Refusals | None = None,
        tell: Tell | None = None,
        lock: FairLock | None = None,
    ) -> None:
        self.engine = writer
        self._lock = lock
        self.refusals = refusals or Refusals(SystemClock())
        self._reader = reader
        self._fence = fence
        self._witness = witness
        self._tell = tell
        self._read = sessionmaker(reader, expire_on_commit=False)
        self._write = sessionmaker(writer, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether exactly one server may use it."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that only reads. Raises ``Unavailable`` when the database does not answer."""
        with answering(), self._read.begin() as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Commit on success, roll back on any exception.

        Raises ``Unavailable`` when the database does not answer, ``Conflict`` when another transaction was first to
        insert the same row.
        """
        with answering(), self._locked(), self._noting_refusals(), self._write.begin() as session:
            if self._fence is not None:
                self._fence(session)
            with self._witness(session) if self._witness is not None else nullcontext():
                yield session
        if self._tell is not None:
            for one in written_in(session):
                self._tell(one)

    def _locked(self) -> AbstractContextManager[None]:
        return nullcontext() if self._lock is None else self._lock.hold()

    @contextmanager
    def _noting_refusals(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            self.refusals.note(error)
            raise

    def fenced(self, fence: Fence) -> "Store":
        """The same database over the same connections, for a writer that must prove each time that it still may."""
        return self._with(fence=fence)

    def witnessed(self, witness: Witness) -> "Store":
        """The same database over the same connections, with somebody who sees every write."""
        return self._with(witness=witness)

    def _with(self, *, fence: Fence | None = None, witness: Witness | None = None) -> "Store":
        return Store(
            self._reader,
            self.engine,
            fence=fence,
            witness=witness,
            refusals=self.refusals,
            tell=self._tell,
            lock=self._lock,
        )

    def close(self) -> None:
        """Give all connections back."""
        self._reader.dispose()
        self.engine.dispose()


@contextmanager
def answering() -> Iterator[None]:
    """Turn the driver's ways of saying "not now" into ``Unavailable``, and a lost race for a key into ``Conflict``."""
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        what = "takes no writes" if _is_unwritable(error) else "does not answer"
        raise Unavailable(f"the database {what}: {_first_line(error)}") from error
    except (DataError, OverflowError) as error:
        raise BadInput(f"a value does not fit into the database: {_first_line(error)}") from error
    except IntegrityError as error:
        raise Conflict("someone else wrote the same at this moment; look at it, then ask again") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable(f"the database closed the connection: {_first_line(error)}") from error
        if _is_unwritable(error):
            raise Unavailable(f"the database takes no writes: {_first_line(error)}") from error
        raise


def _is_unwritable(error: Exception) -> bool:
    driver_error = getattr(error, "orig", None)
    said = getattr(driver_error, "sqlite_errorname", None) or ""
    return said.startswith(_UNWRITABLE_SQLITE) or getattr(driver_error, "sqlstate", None) in _UNWRITABLE_POSTGRESQL


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(getattr(error, "orig", error)))[:200]


def open_store(url: str, *, tell: Tell | None = None) -> Store:
    """Open ``sqlite:///...`` or ``postgresql+psycopg://...``; tables are ``migrate``'s business."""
    if make_url(url).get_backend_name() == "sqlite":
        return _open_sqlite(url, tell)
    return _open_postgresql(url, tell=tell)


def _open_sqlite(url: str, tell: Tell | None) -> Store:
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # One writer at a time is SQLite's rule: waiting for our lock is fair, waiting in its busy loop is not.
    writer = create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=10,
        connect_args={"check_same_thread": False},
        json_serializer=_dumps,
    )
    reader = create_engine(url, pool_size=8, max_overflow=8, pool_timeout=_POOL_WAIT_S, json_serializer=_dumps)
    for engine, begin in ((writer, "BEGIN IMMEDIATE"), (reader, "BEGIN")):
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", lambda connection, begin=begin: connection.exec_driver_sql(begin))
    return Store(reader, writer, tell=tell, lock=FairLock(timeout_s=10))


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    for pragma in _SQLITE_PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _open_postgresql(
    url: str | URL, *, connections: int = 10, statement_s: float = 30, connect_s: int = 5, tell: Tell | None = None
) -> Store:
    """A process that stops in the middle of a transaction loses it, and its locks, after ten seconds."""
    options = (
        f"-c statement_timeout={statement_s * 1000:.0f} -c lock_timeout=2000 "
        "-c idle_in_transaction_session_timeout=10000"
    )
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=connections,
        pool_timeout=_POOL_WAIT_S,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        json_serializer=_dumps,
        connect_args={"options": options, "connect_timeout": connect_s, "tcp_user_timeout": connect_s * 1000},
    )
    return Store(engine, engine, tell=tell)


def beside(store: Store) -> Store:
    """The same database over a connection of its own that gives up after two seconds: whoever renews a lease must not
    stand in a queue behind others' work. Close it. SQLite has one writer, whose queue is fair: there it is ``store``.
    """
    if store.is_sqlite:
        return store
    return _open_postgresql(store.engine.url, connections=1, statement_s=2, connect_s=2)


def check_writable(store: Store) -> None:
    """Raise ``Unavailable`` while the database keeps no writes, as far as this process has lately heard."""
    if (problem := store.refusals.problem) is not None:
        raise Unavailable(f"the database takes no writes: {problem}")


def ping(store: Store) -> None:
    """Raise ``Unavailable`` unless the database answers."""
    with store.read() as session:
        session.execute(text("select 1"))

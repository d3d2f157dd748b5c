"""Wakes whoever waits for something to happen: in this process and, on PostgreSQL, in all that share the database.

A ring is a hint and may get lost: whoever waits for one also looks by itself from time to time. So ``NOTIFY`` goes out
on a connection of its own, never inside a transaction that matters, since its commit takes a lock of the whole server.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psycopg
import structlog
from sqlalchemy.engine import URL

from fairlead.store.engine import Store

CHANNEL = "fairlead"
SOFTLY = " softly"
"""How the payload of a soft ring ends; a release that does not know it takes it for a ring."""
GAP_S = 0.05
"""Rings within this time go out together."""
RECONNECT_S = 2.0
_LISTEN_S = 1.0
logger = structlog.get_logger(__name__)
Listener = Callable[[], object]


class Bell:
    """Rings reach every listener of this process at once, and those of other processes by ``store``, if it can.

    What only readers care for, such as an event of an experiment that trains, rings softly: who works sleeps on.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._listeners: set[Listener] = set()
        self._readers: set[Listener] = set()
        self._lock = threading.Lock()
        self._is_due = threading.Event()
        self._is_soft = True
        self._is_closed = threading.Event()
        self._threads: tuple[threading.Thread, ...] = ()
        if store is not None and not store.is_sqlite:
            self._connect = _connector(store.engine.url)
            self._threads = tuple(
                threading.Thread(target=self._persist, args=(work,), name=f"bell-{name}", daemon=True)
                for name, work in (("send", self._send), ("hear", self._hear))
            )
            for thread in self._threads:
                thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._is_closed.set()
        self._is_due.set()
        for thread in self._threads:
            thread.join(_LISTEN_S * 3)

    def listener(self) -> threading.Event:
        """An event that every ring sets; whoever waits for it clears it."""
        event = threading.Event()
        self.subscribe(event.set)
        return event

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` at every ring, from any thread; returns what ends that. It must be quick."""
        return self._enter(self._listeners, listener)

    def subscribe_reader(self, listener: Listener) -> Callable[[], None]:
        """As ``subscribe``, and at every soft ring too."""
        return self._enter(self._readers, listener)

    def _enter(self, group: set[Listener], listener: Listener) -> Callable[[], None]:
        with self._lock:
            group.add(listener)

        def leave() -> None:
            with self._lock:
                group.discard(listener)

        return leave

    def ring(self) -> None:
        """There may be something to do, for anybody."""
        self._ring(is_soft=False)

    def ring_softly(self) -> None:
        """There is something new to read, and nothing to do."""
        self._ring(is_soft=True)

    def _ring(self, *, is_soft: bool) -> None:
        self._ring_here(is_soft=is_soft)
        with self._lock:
            self._is_soft = self._is_soft and is_soft
        self._is_due.set()

    def _ring_here(self, *, is_soft: bool) -> None:
        with self._lock:
            heard = (*self._readers, *(() if is_soft else self._listeners))
        for listener in heard:
            listener()

    # ---- PostgreSQL ----

    def _persist(self, work: Callable[["psycopg.Connection[tuple[object, ...]]"], None]) -> None:
        """Work on a connection until the bell is closed; a lost one is made again."""
        while not self._is_closed.is_set():
            try:
                with self._connect() as connection:
                    work(connection)
            except psycopg.Error as error:
                logger.info("rings reach this process only, for now", reason=str(error).strip()[:200])
                self._is_closed.wait(RECONNECT_S)

    def _send(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        while not self._is_closed.is_set():
            self._is_due.wait()
            self._is_due.clear()
            with self._lock:
                is_soft, self._is_soft = self._is_soft, True
            connection.execute(f"NOTIFY {CHANNEL}, '{id(self)}{SOFTLY if is_soft else ''}'")
            self._is_closed.wait(GAP_S)

    def _hear(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        while not self._is_closed.is_set():
            for notice in connection.notifies(timeout=_LISTEN_S):
                if notice.payload.removesuffix(SOFTLY) != str(id(self)):
                    self._ring_here(is_soft=notice.payload.endswith(SOFTLY))


def _connector(url: URL) -> Callable[[], "psycopg.Connection[tuple[object, ...]]"]:
    text = url.set(drivername="postgresql").render_as_string(hide_password=False)
    return lambda: psycopg.connect(text, autocommit=True, connect_timeout=5)

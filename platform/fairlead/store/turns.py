"""One writer at a time, in the order they came.

A pool of one connection is no queue: whoever asks at the moment it comes back gets it, and who was woken for it waits
again, behind all others. With sixteen clients some waited three times as long as most.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from fairlead.errors import Unavailable


class Turns:
    """A lock that goes to whoever has waited longest."""

    def __init__(self, *, patience_s: float) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._is_taken = False

    @property
    def num_waiting(self) -> int:
        """Who waits now."""
        return len(self._waiting)

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a turn and have it. Raises ``Unavailable`` after ``patience_s`` seconds."""
        self._wait()
        try:
            yield
        finally:
            self._pass_on()

    def _wait(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            call = threading.Lock()
            call.acquire()
            self._waiting.append(call)
        if call.acquire(timeout=self._patience_s):
            return
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                raise Unavailable(f"the database is busy: others have been writing for {self._patience_s:g} seconds")
        # Called in the very moment of giving up: the turn is ours.

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False

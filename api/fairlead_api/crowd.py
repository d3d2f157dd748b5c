"""How many experiments wait, without counting them anew for each that comes."""

import threading
from collections.abc import Callable

from fairlead.clock import Clock

COUNTED_EVERY_S = 1.0
"""How old a count may be while there is room."""


class Crowd:
    """What waits, as this process knows it: counted once a second, and what it has let in since. Safe among threads.

    Where a count says that there is no room it is made again, so nobody is refused for what has left since. What other
    processes let in within the second is not seen: with several of them a few more than the limit may get in.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known = 0
        self._counted_at_s: float | None = None

    def lets_in(self, limit: int, count: Callable[[], int]) -> bool:
        """Whether one more may wait; if so it counts from now on. ``count`` asks the database."""
        if self._is_old(limit):
            found = count()
            with self._lock:
                self._known, self._counted_at_s = found, self._clock.monotonic_s()
        with self._lock:
            if self._known >= limit:
                return False
            self._known += 1
            return True

    def _is_old(self, limit: int) -> bool:
        with self._lock:
            at_s = self._counted_at_s
            return at_s is None or self._known >= limit or self._clock.monotonic_s() - at_s >= COUNTED_EVERY_S

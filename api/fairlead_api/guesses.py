"""Counts wrong tokens by address. Guessing 256 bits is hopeless anyway; this keeps it from being a load, and says so.

Kept in memory, for one process: our own few lines, because a library's clock can be neither given nor wound in a test.
"""

import threading
from collections import OrderedDict
from datetime import datetime, timedelta

from fairlead.errors import TooMany

WINDOW = timedelta(minutes=1)
GOOD_FOR = timedelta(minutes=5)
MAX_KEPT = 10_000
"""Addresses, and tokens that were right; the oldest are forgotten first."""


class Guesses:
    """Wrong tokens of the last minute, and the digests of tokens that were right a moment ago. Safe among threads.

    Behind a proxy all callers have one address: who is at work with a good token goes on while a neighbour guesses.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self._right: OrderedDict[str, datetime] = OrderedDict()

    def check(self, address: str, digest: str, now: datetime) -> None:
        """Raise ``TooMany`` for an address that has guessed too often, unless the token was right a moment ago."""
        with self._lock:
            since, count = self._wrong.get(address, (now, 0))
            is_over = now - since >= WINDOW or count < self.limit
            was_right = now - self._right.get(digest, now - GOOD_FOR) < GOOD_FOR
        if not is_over and not was_right:
            left_s = max(1, round((since + WINDOW - now).total_seconds()))
            raise TooMany("too many wrong tokens came from this address; check yours", retry_after_s=left_s)

    def note_wrong(self, address: str, now: datetime) -> None:
        """One more; the minute begins with the first."""
        with self._lock:
            since, count = self._wrong.get(address, (now, 0))
            if now - since >= WINDOW:
                since, count = now, 0
            self._wrong[address] = since, count + 1
            _trim(self._wrong)

    def note_right(self, digest: str, now: datetime) -> None:
        """It counts as good for a while."""
        with self._lock:
            self._right[digest] = now
            self._right.move_to_end(digest)
            _trim(self._right)


def _trim(kept: "OrderedDict[str, datetime] | OrderedDict[str, tuple[datetime, int]]") -> None:
    while len(kept) > MAX_KEPT:
        kept.popitem(last=False)

"""The only source of time: aware, UTC, and replaceable in tests."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells time. ``monotonic_s`` never goes back; ``now`` may jump."""

    def now(self) -> datetime:
        """The wall clock, aware and in UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment of this process."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The wall clock, aware and in UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment of this machine's run."""
        return time.monotonic()

"""A clock that moves only when a test says so."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Stands still until ``advance``; ``jump`` moves the wall clock alone, as an administrator or a leap would."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._monotonic_s = 0.0

    def now(self) -> datetime:
        """The wall clock, aware and in UTC."""
        return self._now

    def monotonic_s(self) -> float:
        """Seconds that ``advance`` has added up."""
        return self._monotonic_s

    def advance(self, seconds: float) -> datetime:
        """Let time pass; returns the new wall clock. Raises ``ValueError`` for a step back."""
        if seconds < 0:
            raise ValueError("time does not run backwards; use jump for the wall clock")
        self._monotonic_s += seconds
        return self.jump(seconds)

    def jump(self, seconds: float) -> datetime:
        """Set the wall clock forward or back while no time passes; returns it."""
        self._now += timedelta(seconds=seconds)
        return self._now

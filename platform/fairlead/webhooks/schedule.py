"""When a message that was not taken is sent again, and when an endpoint is given up."""

from dataclasses import dataclass
from datetime import datetime, timedelta

MINUTE_S, HOUR_S = 60, 3600
RETRY_AFTER_S = (5, 5 * MINUTE_S, 30 * MINUTE_S, 2 * HOUR_S, 5 * HOUR_S, 10 * HOUR_S, 10 * HOUR_S)
"""Between one try and the next: eight tries in 27.6 hours."""
DISABLE_AFTER = timedelta(days=5)
GONE = 410
"""By which a receiver says that it wants no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """Once more."""

    due_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenUp:
    """This message is not sent again unless somebody asks for it; the endpoint gets the next ones."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hopeless:
    """The endpoint is disabled. Its messages wait until somebody enables it."""

    reason: str


def after_failure(
    *, num_tries: int, failing_since: datetime, status: int | None, now: datetime
) -> Retry | GivenUp | Hopeless:
    """What follows from the failed try number ``num_tries``; nothing was taken there since ``failing_since``."""
    if status == GONE:
        return Hopeless(reason="it answers 410 Gone: it wants no more messages")
    if now - failing_since >= DISABLE_AFTER:
        return Hopeless(reason=f"it has taken nothing for {DISABLE_AFTER.days} days")
    if num_tries > len(RETRY_AFTER_S):
        return GivenUp(reason=f"not taken in {num_tries} tries")
    return Retry(due_at=now + timedelta(seconds=RETRY_AFTER_S[num_tries - 1]))

"""Everything Fairlead raises on purpose.

FairleadError
├── BadInput              what was given cannot be used; carries one problem per offending field
│   ├── BadSpec           the spec document
│   ├── BadData           a data set, a column, a row
│   └── BadBundle         uploaded code
├── NotFound              nothing has that name
├── Unauthorized          no token, or one that is unknown, expired or revoked
├── Conflict              the request contradicts what is stored
│   ├── IllegalMove       an experiment cannot go from this state to that one
│   ├── StaleAgent        a newer agent has attached to this cluster
│   ├── StaleAttempt      another attempt, lease or outcome has superseded this one
│   ├── WrongOffset       a batch does not start where the last one ended
│   ├── StaleVersion      the row has changed since it was read
│   └── KeyReused         an idempotency key came back with another body
├── TooMany               a cap is reached; ask again later
└── Unavailable           a part that is needed does not answer; ask again later
    ├── StaleLeader       another process leads the control loops: nothing may be written
    └── StorageAway       the storage of a data set fails: the same may be read later
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    pointer: str
    """JSON pointer of the field, e.g. ``/data/sensitive/0``; empty for the whole document."""
    message: str
    suggestion: str | None = None


class FairleadError(Exception):
    """The root: catch it to catch all that Fairlead raises on purpose."""

    code: str = "error"


class BadInput(FairleadError):
    """What was given cannot be used; ``problems`` says where and why."""

    code = "bad_input"

    def __init__(self, message: str, *, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class BadSpec(BadInput):
    """The spec document cannot be accepted."""

    code = "bad_spec"


class BadData(BadInput):
    """A data set cannot be read, or lacks what the spec asks of it."""

    code = "bad_data"


class BadBundle(BadInput):
    """A code bundle is refused as a whole."""

    code = "bad_bundle"


class NotFound(FairleadError):
    """Nothing has that name, or the caller may not know of it."""

    code = "not_found"


class Unauthorized(FairleadError):
    """No token, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class Conflict(FairleadError):
    """The request contradicts what is stored."""

    code = "conflict"


class IllegalMove(Conflict):
    """An experiment cannot go from this state to that one."""

    code = "illegal_move"


class StaleAgent(Conflict):
    """A newer agent has attached to this cluster: the older one must exit."""

    code = "stale_agent"


class StaleAttempt(Conflict):
    """Another attempt, lease or outcome has superseded this one: drop what was to be written."""

    code = "stale_attempt"


class WrongOffset(Conflict):
    """A batch does not start where the last one ended; ``expected`` is where it must start."""

    code = "offset"

    def __init__(self, message: str, *, expected: int) -> None:
        super().__init__(message)
        self.expected = expected


class StaleVersion(Conflict):
    """The row has changed since it was read."""

    code = "stale_version"


class KeyReused(Conflict):
    """An idempotency key came back with another body."""

    code = "idempotency_key_reused"


class TooMany(FairleadError):
    """A cap is reached; ask again later, after ``retry_after_s`` where that is known."""

    code = "too_many"

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(FairleadError):
    """A part that is needed does not answer; ask again later."""

    code = "unavailable"


class StaleLeader(Unavailable):
    """Another process leads the control loops: this one writes nothing until it leads again.

    It is ``Unavailable``, so that whatever waits out an outage ends its tick here too, and blames no experiment.
    """

    code = "stale_leader"


class StorageAway(Unavailable):
    """The storage that holds a data set fails or does not answer, which says nothing about the data."""

    code = "data_storage"

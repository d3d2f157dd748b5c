"""One row after the other: a row that breaks is logged and left for the next tick, and stops none of the others."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import structlog

from fairlead.control.leader import Tally
from fairlead.errors import Unavailable
from fairlead.store import attempts
from fairlead.store.tables import AttemptRow, ExperimentRow

rows_not_served = Tally()
"""Rows of this process's loops that broke and were left for the next tick."""
logger = structlog.get_logger(__name__)


class HasId(Protocol):
    """A row, or what stands for one."""

    @property
    def id(self) -> str:
        """Its key, for the log."""
        ...


R = TypeVar("R", bound=HasId)


def for_each(rows: Iterable[R], act: Callable[[R], bool]) -> bool:
    """Call ``act`` for every row; whether any changed something. Raises ``Unavailable``: then none can be served."""
    changed = False
    for row in rows:
        try:
            with structlog.contextvars.bound_contextvars(**ids_of(row)):
                changed |= act(row)
        except Unavailable:
            raise
        except Exception:  # a spec that this release cannot read, say: its experiment waits, the others go on
            rows_not_served.add_one()
            logger.exception("a row could not be served", **ids_of(row))
    return changed


def in_batches(rows: Iterable[R], act: Callable[[Sequence[R]], bool], *, size: int) -> bool:
    """As ``for_each`` with up to ``size`` rows a call, so that they share a transaction.

    A batch that breaks has changed nothing, and its rows are served one by one.
    """
    changed, left = False, list(rows)
    while left:
        batch, left = left[:size], left[size:]
        try:
            changed |= act(batch)
        except Unavailable:
            raise
        except Exception as error:  # one row of it breaks; which one is found, and logged, below
            logger.info("a batch could not be served; its rows are served alone", rows=len(batch), reason=str(error))
            changed |= for_each(batch, lambda row: act((row,)))
    return changed


def ids_of(row: HasId) -> dict[str, str]:
    """What a line of the log says of a row: experiment and attempt."""
    match row:
        case AttemptRow():
            return {"experiment_id": row.experiment_id, "attempt_id": row.id}
        case ExperimentRow() if row.current_attempt_no:
            return {"experiment_id": row.id, "attempt_id": attempts.attempt_id(row.id, row.current_attempt_no)}
    return {"experiment_id": row.id}

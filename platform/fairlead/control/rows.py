"""One row after the other: a row that breaks is logged and left for the next tick, and stops none of the others."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import structlog

from fairlead.errors import Unavailable

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
            changed |= act(row)
        except Unavailable:
            raise
        except Exception:  # a spec that this release cannot read, say: its experiment waits, the others go on
            logger.exception("a row could not be served", id=row.id)
    return changed

"""Events of experiments as lines of the log, once they are committed: what moved where, why, and by whom."""

from collections.abc import Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, event
from sqlalchemy.orm import Mapper, Session, object_session

from fairlead.store.attempts import attempt_id
from fairlead.store.tables import EventRow

_WRITTEN = "fairlead.events"
logger = structlog.get_logger(__name__)


@event.listens_for(EventRow, "after_insert")
def _note(_: Mapper[EventRow], __: Connection, row: EventRow) -> None:
    session = object_session(row)
    if session is not None:
        session.info.setdefault(_WRITTEN, []).append(_said_of(row))


def _said_of(row: EventRow) -> dict[str, Any]:
    said = {
        "experiment_id": row.experiment_id,
        "attempt_id": None if row.attempt_no is None else attempt_id(row.experiment_id, row.attempt_no),
        "seq": row.seq,
        "kind": row.kind,
        "before": row.from_state,
        "after": row.to_state,
        "actor": row.actor,
        "reason": row.reason or None,
    }
    return {name: value for name, value in said.items() if value is not None}


def written_in(session: Session) -> list[dict[str, Any]]:
    """The events that a session has written, in order; each is said once."""
    found: list[dict[str, Any]] = session.info.pop(_WRITTEN, [])
    return found


def log_event(said: Mapping[str, Any]) -> None:
    """A line of the log."""
    logger.info("experiment event", **said)

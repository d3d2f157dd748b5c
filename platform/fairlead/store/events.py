"""Questions about the event log."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.store.tables import EventRow


def after(session: Session, experiment_id: str, seq: int, *, limit: int = 500) -> list[EventRow]:
    """Events of an experiment with a ``seq`` above the given one, in order."""
    query = select(EventRow).where(EventRow.experiment_id == experiment_id, EventRow.seq > seq)
    return list(session.scalars(query.order_by(EventRow.seq).limit(limit)))


def of_kind(session: Session, experiment_id: str, kind: str) -> list[EventRow]:
    """Events of one kind, in order."""
    query = select(EventRow).where(EventRow.experiment_id == experiment_id, EventRow.kind == kind)
    return list(session.scalars(query.order_by(EventRow.seq)))

"""Changes to sweeps that run: numbered, never changed, each with its event."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fairlead.protocol import Amendment
from fairlead.store import experiments
from fairlead.store.tables import AmendmentRow

AMENDED_KIND = "amended"


def insert(
    session: Session,
    experiment_id: str,
    *,
    kind: str,
    payload: dict[str, Any],
    actor: str,
    now: datetime,
    reason: str,
    columns: dict[str, Any] | None = None,
) -> AmendmentRow:
    """Write an amendment and its event, under the next number; ``columns``: what changes of the experiment itself.

    Raises ``NotFound`` without the experiment.
    """
    experiments.lock(session, experiment_id)
    last = select(func.max(AmendmentRow.no)).where(AmendmentRow.experiment_id == experiment_id)
    row = AmendmentRow(
        experiment_id=experiment_id,
        no=(session.scalar(last) or 0) + 1,
        kind=kind,
        payload=payload,
        actor=actor,
        created_at=now,
    )
    session.add(row)
    said = {"no": row.no, "amendment": kind, **payload}
    experiments.note(
        session,
        experiment_id,
        kind=AMENDED_KIND,
        actor=actor,
        now=now,
        reason=reason,
        payload=said,
        columns=columns,
    )
    return row


def rows(session: Session, experiment_id: str) -> list[AmendmentRow]:
    """All of them, in order."""
    query = select(AmendmentRow).where(AmendmentRow.experiment_id == experiment_id)
    return list(session.scalars(query.order_by(AmendmentRow.no)))


def of(session: Session, experiment_id: str) -> tuple[Amendment, ...]:
    """All of them in order, as a runner is told of them."""
    found = rows(session, experiment_id)
    return tuple(Amendment(no=one.no, kind=one.kind, by=one.actor, **one.payload) for one in found)


def last_no(session: Session, experiment_id: str) -> int:
    """The number of the last one; 0 where there is none."""
    last = select(func.max(AmendmentRow.no)).where(AmendmentRow.experiment_id == experiment_id)
    return session.scalar(last) or 0

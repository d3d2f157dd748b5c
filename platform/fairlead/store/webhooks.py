"""Questions about the endpoints of webhooks."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fairlead.errors import NotFound
from fairlead.store.tables import WebhookEndpointRow


class EndpointState(StrEnum):
    """Whether an endpoint gets messages."""

    ACTIVE = "active"
    DISABLED = "disabled"


def insert(
    session: Session,
    *,
    endpoint_id: str,
    url: str,
    project: str | None,
    kinds: Sequence[str],
    description: str,
    actor: str,
    now: datetime,
) -> WebhookEndpointRow:
    """Store a new, active endpoint. It hears of events from now on."""
    row = WebhookEndpointRow(
        id=endpoint_id,
        project=project,
        kinds=list(kinds),
        url=url,
        description=description,
        state=EndpointState.ACTIVE,
        reason="",
        version=1,
        secret_no=1,
        created_by=actor,
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, endpoint_id: str) -> WebhookEndpointRow:
    """The endpoint. Raises ``NotFound``."""
    row = session.get(WebhookEndpointRow, endpoint_id)
    if row is None:
        raise NotFound(f"there is no webhook {endpoint_id!r}")
    return row


def project_of(session: Session, endpoint_id: str) -> str | None:
    """Its project; None where it hears of all, and where there is no such endpoint."""
    return session.scalar(select(WebhookEndpointRow.project).where(WebhookEndpointRow.id == endpoint_id))


def every(session: Session) -> list[WebhookEndpointRow]:
    """All endpoints, oldest first: there are never many."""
    return list(session.scalars(select(WebhookEndpointRow).order_by(WebhookEndpointRow.created_at)))


def count(session: Session) -> int:
    """How many there are."""
    return session.scalar(select(func.count()).select_from(WebhookEndpointRow)) or 0


def change_if_current(session: Session, row: WebhookEndpointRow, *, now: datetime, **columns: Any) -> bool:
    """Write columns under the next version, unless someone changed the row meanwhile (then False)."""
    changed = session.execute(
        update(WebhookEndpointRow)
        .where(WebhookEndpointRow.id == row.id, WebhookEndpointRow.version == row.version)
        .values({**columns, "version": row.version + 1, "updated_at": now})
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        return False
    session.refresh(row)
    return True


def remove(session: Session, row: WebhookEndpointRow) -> None:
    """Forget an endpoint with all that was to be sent to it."""
    session.execute(delete(WebhookEndpointRow).where(WebhookEndpointRow.id == row.id))


def note_success(session: Session, endpoint_id: str) -> None:
    """It takes messages."""
    session.execute(
        update(WebhookEndpointRow)
        .where(WebhookEndpointRow.id == endpoint_id, WebhookEndpointRow.failing_since.is_not(None))
        .values(failing_since=None)
        .execution_options(synchronize_session=False)
    )


def note_failure(session: Session, endpoint_id: str, *, now: datetime) -> datetime:
    """It took nothing; returns since when. An endpoint that is gone counts from now."""
    since = session.scalar(
        update(WebhookEndpointRow)
        .where(WebhookEndpointRow.id == endpoint_id)
        .values(failing_since=func.coalesce(WebhookEndpointRow.failing_since, now))
        .returning(WebhookEndpointRow.failing_since)
        .execution_options(synchronize_session=False)
    )
    return since or now


def disable(session: Session, endpoint_id: str, *, reason: str, now: datetime) -> bool:
    """Send it nothing more until a human enables it; False if it is disabled already, or gone."""
    changed = session.execute(
        update(WebhookEndpointRow)
        .where(WebhookEndpointRow.id == endpoint_id, WebhookEndpointRow.state == EndpointState.ACTIVE)
        .values(state=EndpointState.DISABLED, reason=reason, version=WebhookEndpointRow.version + 1, updated_at=now)
        .execution_options(synchronize_session=False)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it

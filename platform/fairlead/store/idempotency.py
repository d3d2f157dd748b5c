"""Stored answers to POSTs, so that a client that timed out gets the first answer instead of a second experiment."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from fairlead.errors import Conflict, KeyReused
from fairlead.store.tables import IdempotencyRow


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAnswer:
    """What was answered the first time."""

    status: int
    headers: dict[str, str]
    body: str


def find(session: Session, *, principal: str, route: str, key: str, body_sha256: str) -> StoredAnswer | None:
    """The first answer under this key. Raises ``KeyReused`` if the body was another one."""
    row = session.get(IdempotencyRow, (principal, route, key))
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise KeyReused("this Idempotency-Key was used before with another body; use a new key for a new request")
    return StoredAnswer(status=row.status, headers=dict(row.headers), body=row.body)


def insert(
    session: Session,
    *,
    principal: str,
    route: str,
    key: str,
    body_sha256: str,
    answer: StoredAnswer,
    expires_at: datetime,
) -> None:
    """Keep an answer, in the transaction that made it true.

    Raises ``Conflict`` if another request under this key was answered meanwhile: roll back, then ``find`` its answer.
    """
    session.add(
        IdempotencyRow(
            principal=principal,
            route=route,
            key=key,
            body_sha256=body_sha256,
            status=answer.status,
            headers=answer.headers,
            body=answer.body,
            expires_at=expires_at,
        )
    )
    try:
        session.flush()
    except IntegrityError as error:
        raise Conflict("another request with this Idempotency-Key was answered meanwhile; send it again") from error


def forget_expired(session: Session, now: datetime) -> None:
    """Delete answers whose day has passed."""
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.expires_at <= now))

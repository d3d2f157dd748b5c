"""Bearer tokens ``fl_<id>_<secret>``: only hashes are stored, compared in constant time."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from fairlead.errors import NotFound, Unauthorized
from fairlead.rights import EVERYWHERE, Rights, Role, rights_of
from fairlead.store import members
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import MembershipRow, TokenRow

USER, AGENT = "user", "agent"
USE_NOTED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls: a user, or the agent of one cluster."""

    token_id: str
    kind: str
    name: str
    cluster: str | None = None
    rights: Rights = field(default_factory=Rights)
    """What the token may do: its member's roles, as far as it is good for them."""
    project: str | None = None
    """The only project that the token is good for."""
    role: Role = Role.ADMIN
    """The highest role that the token is good for."""
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


def new_token(token_id: str | None = None) -> tuple[str, str]:
    """A fresh id and the full token; 256 bits of secret."""
    token_id = token_id or secrets.token_hex(5)
    return token_id, f"fl_{token_id}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def ensure(
    session: Session, *, token_id: str, sha256: str, kind: str, name: str, cluster: str | None, now: datetime
) -> bool:
    """Store the hash of a token that the server is set up with, unless its id is known; returns whether it was not.

    The member of such a user token is an admin of everything: somebody must be the first.
    """
    is_new = insert_if_absent(
        session, TokenRow, id=token_id, kind=kind, name=name, sha256=sha256, cluster=cluster, created_at=now
    )
    if is_new and kind == USER:
        members.ensure(session, project=EVERYWHERE, member=name, role=Role.ADMIN, by="set-up", now=now)
    return is_new


def insert(session: Session, **columns: Any) -> TokenRow:
    """Store a token that a user asked for; ``columns`` are those of its row."""
    row = TokenRow(**columns)
    session.add(row)
    session.flush()
    return row


def authenticate(session: Session, token: str, *, now: datetime) -> Principal:
    """Who holds ``token``. Raises ``Unauthorized``; the message does not say what exactly was wrong."""
    parts = token.split("_", 2)
    found = _with_roles(session, parts[1]) if len(parts) == 3 and parts[0] == "fl" else None
    given = hash_token(token)
    matches = hmac.compare_digest(found[0].sha256 if found else "0" * 64, given)
    if found is None or not matches or is_over(found[0], now):
        raise Unauthorized("the token is unknown, expired or revoked")
    row, roles = found
    role = Role(row.role)
    return Principal(
        token_id=row.id,
        kind=row.kind,
        name=row.name,
        cluster=row.cluster,
        rights=rights_of(roles, project=row.project, ceiling=role) if row.kind == USER else Rights(),
        project=row.project,
        role=role,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


def _with_roles(session: Session, token_id: str) -> tuple[TokenRow, dict[str, Role]] | None:
    """The token and its member's roles by project, in one question."""
    query = select(TokenRow, MembershipRow.project, MembershipRow.role)
    query = query.outerjoin(MembershipRow, MembershipRow.member == TokenRow.name).where(TokenRow.id == token_id)
    found = session.execute(query).all()
    if not found:
        return None
    return found[0][0], {project: Role(role) for _, project, role in found if project is not None}


def is_over(row: TokenRow, now: datetime) -> bool:
    """Whether it was revoked or has expired."""
    return row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now)


def exists(session: Session) -> bool:
    """Whether there is any token at all."""
    return session.scalar(select(TokenRow.id).limit(1)) is not None


def find(session: Session, token_id: str) -> TokenRow | None:
    """The token, or None."""
    return session.get(TokenRow, token_id)


def get(session: Session, token_id: str) -> TokenRow:
    """The token. Raises ``NotFound``."""
    row = find(session, token_id)
    if row is None:
        raise NotFound(f"there is no token {token_id!r}")
    return row


def page(
    session: Session,
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
    member: str | None = None,
    projects: tuple[str, ...] | None = None,
) -> list[TokenRow]:
    """Newest first, starting below ``after`` (created_at, id).

    ``projects``: only those bound to one of these, and those of ``member``; None: all.
    """
    query = select(TokenRow)
    if projects is not None:
        is_own = (TokenRow.name == member) & (TokenRow.kind == USER)
        query = query.where(or_(TokenRow.project.in_(projects), is_own))
    if after is not None:
        created, last_id = after
        is_same = (TokenRow.created_at == created) & (TokenRow.id < last_id)
        query = query.where(or_(TokenRow.created_at < created, is_same))
    return list(session.scalars(query.order_by(TokenRow.created_at.desc(), TokenRow.id.desc()).limit(limit)))


def revoke(session: Session, token_id: str, *, now: datetime) -> None:
    """It works no more. A second time changes nothing."""
    row = get(session, token_id)
    if row.revoked_at is None:
        row.revoked_at = now
        session.flush()


def note_use(session: Session, token_id: str, *, now: datetime) -> None:
    """Remember that it was used, unless that was written within the last minute."""
    is_due = or_(TokenRow.last_used_at.is_(None), TokenRow.last_used_at <= now - USE_NOTED_EVERY)
    session.execute(
        update(TokenRow)
        .where(TokenRow.id == token_id, is_due)
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )

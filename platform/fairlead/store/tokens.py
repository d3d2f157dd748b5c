"""Bearer tokens ``fl_<id>_<secret>``: only hashes are stored, compared in constant time."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from fairlead.errors import Unauthorized
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import TokenRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls: a user, or the agent of one cluster."""

    token_id: str
    kind: str
    name: str
    cluster: str | None = None


def new_token(token_id: str | None = None) -> tuple[str, str]:
    """A fresh id and the full token; 256 bits of secret."""
    token_id = token_id or secrets.token_hex(5)
    return token_id, f"fl_{token_id}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def ensure(
    session: Session, *, token_id: str, sha256: str, kind: str, name: str, cluster: str | None, now: datetime
) -> None:
    """Store a token's hash unless its id is known."""
    insert_if_absent(
        session, TokenRow, id=token_id, kind=kind, name=name, sha256=sha256, cluster=cluster, created_at=now
    )


def authenticate(session: Session, token: str, *, now: datetime) -> Principal:
    """Who holds ``token``. Raises ``Unauthorized``; the message does not say what exactly was wrong."""
    parts = token.split("_", 2)
    row = session.get(TokenRow, parts[1]) if len(parts) == 3 and parts[0] == "fl" else None
    given = hash_token(token)
    matches = hmac.compare_digest(row.sha256 if row else "0" * 64, given)
    if row is None or not matches or row.revoked_at is not None or (row.expires_at and row.expires_at <= now):
        raise Unauthorized("the token is unknown, expired or revoked")
    return Principal(token_id=row.id, kind=row.kind, name=row.name, cluster=row.cluster)


def exists(session: Session) -> bool:
    """Whether there is any token at all."""
    return session.scalar(select(TokenRow.id).limit(1)) is not None

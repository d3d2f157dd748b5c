"""Who runs the control loops: one row, taken over by a higher epoch when it was not renewed in time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import LeaseRow


def take(session: Session, *, name: str, holder: str, ttl_s: float, is_sole: bool, now: datetime) -> int | None:
    """Take or renew the lease; returns its epoch, or None while another holder's is fresh.

    ``is_sole``: a file lock proves that no other holder lives, so the lease is taken over at once. Expiry is judged by
    the database's clock where there is one for all, by ``now`` elsewhere.
    """
    now = _database_now(session) or now
    expires = now + timedelta(seconds=ttl_s)
    if insert_if_absent(session, LeaseRow, name=name, holder=holder, epoch=1, expires_at=expires, renewals=0):
        return 1
    row = session.get(LeaseRow, name, with_for_update=True, populate_existing=True)
    assert row is not None, "leases are never deleted"
    if row.holder != holder and not is_sole and row.expires_at > now:
        return None
    columns: dict[str, Any] = {"expires_at": expires, "renewals": row.renewals + 1}
    if row.holder != holder:
        columns |= {"holder": holder, "epoch": row.epoch + 1}
    changed = session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == row.holder, LeaseRow.epoch == row.epoch)
        .values(columns)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        return None
    return int(columns.get("epoch", row.epoch))


def release(session: Session, *, name: str, holder: str) -> None:
    """Let the next holder take over at once."""
    session.execute(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == holder)
        .values(expires_at=datetime(1970, 1, 1, tzinfo=UTC))
    )


def get(session: Session, name: str) -> LeaseRow | None:
    """The lease, or None before anyone took it."""
    return session.get(LeaseRow, name)


def _database_now(session: Session) -> datetime | None:
    if session.get_bind().dialect.name != "postgresql":
        return None
    return session.scalar(select(func.clock_timestamp()))

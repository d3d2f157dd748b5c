"""Who runs the control loops: one row, taken over under a higher epoch once its holder is given up.

The row is the fence as well. Every writing transaction of a loop begins with ``require``, which locks the row against a
takeover until that transaction ends; a renewal passes that lock. So a takeover waits for what the old holder has begun,
and whatever the old holder begins afterwards finds another epoch.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fairlead.errors import StaleLeader
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import LeaseRow

_RELEASED = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """A lease as it was seen: as long as its holder lives, ``renewals`` grows."""

    holder: str
    epoch: int
    renewals: int


def take(
    session: Session,
    *,
    name: str,
    holder: str,
    ttl_s: float,
    now: datetime,
    is_sole: bool = False,
    given_up: Sighting | None = None,
) -> int | None:
    """Take or renew the lease; returns its epoch, or None while another holder may live.

    ``is_sole``: a file lock proves that no other holder lives, so the lease is taken over at once. On PostgreSQL the
    database's clock judges. Elsewhere no clock is trusted, since it may jump: the lease passes on when it is still as
    ``given_up``, which the caller has seen unchanged for longer than a holder may be silent.
    """
    database_now = _database_now(session)
    expires = (database_now or now) + timedelta(seconds=ttl_s)
    if (epoch := _renew(session, name, holder, expires)) is not None:
        return epoch
    if insert_if_absent(session, LeaseRow, name=name, holder=holder, epoch=1, expires_at=expires, renewals=0):
        return 1
    row = _read(session, name)
    if not (is_sole or _is_over(row, database_now, given_up)):
        return None
    row = _read(session, name, is_locking=True)  # waits for what the old holder has begun to write
    if not (is_sole or _is_over(row, database_now, given_up)):
        return None
    row.holder, row.epoch, row.expires_at, row.renewals = holder, row.epoch + 1, expires, row.renewals + 1
    session.flush()
    return row.epoch


def _renew(session: Session, name: str, holder: str, expires: datetime) -> int | None:
    return session.scalar(
        update(LeaseRow)
        .where(LeaseRow.name == name, LeaseRow.holder == holder)
        .values(expires_at=expires, renewals=LeaseRow.renewals + 1)
        .returning(LeaseRow.epoch)
        .execution_options(synchronize_session=False)
    )


def _read(session: Session, name: str, *, is_locking: bool = False) -> LeaseRow:
    row = session.get(LeaseRow, name, with_for_update=is_locking or None, populate_existing=True)
    assert row is not None, "leases are never deleted"
    return row


def _is_over(row: LeaseRow, database_now: datetime | None, given_up: Sighting | None) -> bool:
    if row.expires_at == _RELEASED:
        return True
    if database_now is not None:
        return row.expires_at <= database_now
    return given_up is not None and given_up == _sighting(row)


def require(session: Session, *, name: str, holder: str, epoch: int) -> None:
    """Raise ``StaleLeader`` unless the lease is this holder's under this epoch; it stays so until the transaction ends.

    KEY SHARE is the lock that a takeover's FOR UPDATE waits for and that a renewal's UPDATE does not.
    """
    query = select(LeaseRow.epoch).where(LeaseRow.name == name, LeaseRow.holder == holder, LeaseRow.epoch == epoch)
    if session.scalar(query.with_for_update(read=True, key_share=True)) is None:
        raise StaleLeader(f"the lease {name!r} is no longer held by {holder} under epoch {epoch}")


def release(session: Session, *, name: str, holder: str) -> None:
    """Let the next holder take over at once."""
    session.execute(
        update(LeaseRow).where(LeaseRow.name == name, LeaseRow.holder == holder).values(expires_at=_RELEASED)
    )


def sight(session: Session, name: str) -> Sighting | None:
    """The lease as it is now, or None before anyone took it."""
    row = session.get(LeaseRow, name, populate_existing=True)
    return _sighting(row) if row is not None else None


def get(session: Session, name: str) -> LeaseRow | None:
    """The lease's row, or None before anyone took it."""
    return session.get(LeaseRow, name)


def _sighting(row: LeaseRow) -> Sighting:
    return Sighting(holder=row.holder, epoch=row.epoch, renewals=row.renewals)


def left_s(session: Session, name: str, *, now: datetime) -> float:
    """For how many seconds the lease is held unless it is renewed; 0 where nobody holds it."""
    expires_at = session.scalar(select(LeaseRow.expires_at).where(LeaseRow.name == name))
    if expires_at is None:
        return 0.0
    return max(0.0, (expires_at - (_database_now(session) or now)).total_seconds())


def _database_now(session: Session) -> datetime | None:
    if session.get_bind().dialect.name != "postgresql":
        return None
    return session.scalar(select(func.clock_timestamp()))

"""Questions about what differs in MLflow's registry: written by one loop, read by everybody."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import RegistryCheckRow, RegistryFlagRow

_ONE = 1
Key = tuple[str, str, str, str]
"""Name, version, alias, code."""


def key_of(row: RegistryFlagRow) -> Key:
    """What a flag is about."""
    return row.name, row.version, row.alias, row.code


def every(session: Session, *, projects: Sequence[str] | None = None) -> list[RegistryFlagRow]:
    """Flags, by name and version. ``projects``: only those of models of these; None: all, unknown models included."""
    query = select(RegistryFlagRow)
    if projects is not None:
        query = query.where(RegistryFlagRow.project.in_(projects))
    order = (RegistryFlagRow.name, func.length(RegistryFlagRow.version), RegistryFlagRow.version, RegistryFlagRow.code)
    return list(session.scalars(query.order_by(*order)))


def of_versions(session: Session, keys: Sequence[tuple[str, str]]) -> list[RegistryFlagRow]:
    """Flags of some versions, by name and number."""
    if not keys:
        return []
    wanted = tuple_(RegistryFlagRow.name, RegistryFlagRow.version).in_(keys)
    return list(session.scalars(select(RegistryFlagRow).where(wanted).order_by(RegistryFlagRow.code)))


def replace(session: Session, rows: Iterable[RegistryFlagRow], *, gone: Iterable[RegistryFlagRow]) -> None:
    """Write down flags that are new, or say something new, and forget those that are mended."""
    for row in gone:
        session.delete(row)
    for row in rows:
        session.merge(row)
    session.flush()


def note_checked(session: Session, *, versions: int, now: datetime) -> None:
    """Everything was compared, at this moment."""
    if not insert_if_absent(session, RegistryCheckRow, id=_ONE, checked_at=now, versions=versions):
        row = session.get_one(RegistryCheckRow, _ONE)
        row.checked_at, row.versions = now, versions


def checked(session: Session) -> RegistryCheckRow | None:
    """The last whole comparison; None before the first."""
    return session.get(RegistryCheckRow, _ONE)


def count_by_code(session: Session) -> dict[str, int]:
    """How many flags there are of each code, where there are some."""
    query = select(RegistryFlagRow.code, func.count()).group_by(RegistryFlagRow.code)
    return dict(session.execute(query).all())

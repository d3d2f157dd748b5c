"""Two moves that several tables need: insert unless present, and tell a loaded row what was written past it."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Table as CoreTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.orm.util import identity_key

from fairlead.store.tables import Table

R = TypeVar("R", bound=Table)
_INSERTS: dict[str, Callable[[CoreTable], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def insert_if_absent(session: Session, row_type: type[Table], **values: Any) -> bool:
    """Insert one row unless one of its unique keys is taken; returns whether it did.

    Two transactions may try at once: the later one waits for the earlier and then finds its row.
    """
    table = row_type.__table__
    assert isinstance(table, CoreTable), "rows are mapped to tables"
    insert = _INSERTS[session.get_bind().dialect.name]
    made = insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key)
    return session.execute(made).first() is not None


def loaded(session: Session, row_type: type[R], key: str) -> R | None:
    """The row, if this session has read it; no question to the database."""
    found = session.identity_map.get(identity_key(row_type, key))
    return found if isinstance(found, row_type) else None


def reread_if_loaded(session: Session, row_type: type[Table], key: str) -> None:
    """Let the row of this session, if there is one, know what an UPDATE has written past it."""
    if (row := loaded(session, row_type, key)) is not None:
        session.refresh(row)

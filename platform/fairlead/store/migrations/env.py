"""Alembic's entry: migrates the engine it is handed, in one transaction; several at once take turns."""

from alembic import context
from sqlalchemy import Connection, text

from fairlead.store.tables import Table

_TURN = 0x6661697  # any number, as long as every release uses the same


def wait_for_turn(connection: Connection) -> None:
    """Hold PostgreSQL's lock of that number until the end; SQLite lets one writer in anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("set local lock_timeout = '60s'"))
        connection.execute(text("set local statement_timeout = 0"))
        connection.execute(text("select pg_advisory_xact_lock(:turn)"), {"turn": _TURN})


engine = context.config.attributes["engine"]
with engine.begin() as connection:
    wait_for_turn(connection)
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        version_table=context.config.attributes["version_table"],
        render_as_batch=True,
        compare_type=True,
    )
    context.run_migrations()

"""Alembic's entry: migrates the engine it is handed."""

from alembic import context

from fairlead.store.tables import Table

engine = context.config.attributes["engine"]
with engine.begin() as connection:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        version_table=context.config.attributes["version_table"],
        render_as_batch=True,
        compare_type=True,
    )
    context.run_migrations()

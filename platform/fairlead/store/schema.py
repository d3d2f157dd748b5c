"""Brings a database to the schema of this release; the migrations ship in the wheel."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fairlead.errors import Unavailable
from fairlead.store.engine import Store, answering

_VERSION_TABLE = "fairlead_schema"


def _config(store: Store) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = store.engine
    config.attributes["version_table"] = _VERSION_TABLE
    return config


def migrate(store: Store, revision: str = "head") -> None:
    """Upgrade to ``revision``; does nothing when it is there already. Several at once take turns.

    Raises ``Unavailable`` when the database does not answer, or has the schema of a newer release.
    """
    _refuse_newer(store)
    with answering():
        command.upgrade(_config(store), revision)


def downgrade(store: Store, revision: str) -> None:
    """Go back to ``revision``, for tests and for a release that must be taken back."""
    with answering():
        command.downgrade(_config(store), revision)


def schema_revision(store: Store) -> str | None:
    """The revision that the database has; None before the first. Raises ``Unavailable`` when it does not answer."""
    with answering(), store.engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE}).get_current_revision()


def check_revision(store: Store) -> None:
    """Raise ``Unavailable`` unless the database has the schema of this release."""
    _refuse_newer(store)
    head = ScriptDirectory.from_config(_config(store)).get_current_head()
    if (found := schema_revision(store)) != head:
        cure = "run `python -m fairlead.store migrate` first"
        raise Unavailable(f"the database has schema {found}, this release needs {head}: {cure}")


def _refuse_newer(store: Store) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config(store)).walk_revisions()}
    if (found := schema_revision(store)) is not None and found not in known:
        raise Unavailable(
            f"the database has schema {found} of a newer release: install that release here, or a later one"
        )

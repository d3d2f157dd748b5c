"""``python -m fairlead.store migrate`` brings the database of ``FAIRLEAD_DATABASE_URL`` to this release's schema.

``check`` only looks.
"""

import argparse
import sys

from fairlead.errors import Unavailable
from fairlead.settings import DatabaseSettings
from fairlead.store.engine import Store, open_store
from fairlead.store.schema import check_revision, migrate, schema_revision

_ACTIONS = {"migrate": migrate, "check": check_revision}


def main() -> None:
    """Exit with 0 when the database has this release's schema, with 1 and a sentence when it has not."""
    parser = argparse.ArgumentParser(prog="fairlead.store", description="Look after the database's schema.")
    parser.add_argument("action", choices=sorted(_ACTIONS), help="upgrade to this release, or only look")
    action = parser.parse_args().action
    store = open_store(DatabaseSettings().database_url)
    try:
        print(_run(store, action))
    except Unavailable as error:
        sys.exit(str(error))
    finally:
        store.close()


def _run(store: Store, action: str) -> str:
    _ACTIONS[action](store)
    return f"the database has schema {schema_revision(store)}"


if __name__ == "__main__":
    main()

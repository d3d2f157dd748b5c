"""``python -m fairlead.control``: the control loops as a process of their own, beside any number of api processes."""

import logging
import signal
import sys
from threading import Event

import structlog

from fairlead.control.loops import start
from fairlead.control.meters import serving
from fairlead.errors import FairleadError
from fairlead.journal import as_text, journal_on
from fairlead.settings import ControlSettings
from fairlead.store import check_revision, open_store
from fairlead.store.bell import Bell

USAGE = """usage: python -m fairlead.control

Runs the control loops (dispatch, settle, evaluate, record, deliver, reap) until SIGTERM. Settings come from the
environment: FAIRLEAD_DATABASE_URL, FAIRLEAD_STORAGE, FAIRLEAD_MLFLOW_URL, FAIRLEAD_SECRET_KEY_FILE
and those of ARCHITECTURE.md.
Any number may run on PostgreSQL: one leads, the others wait. On SQLite the api process runs the loops itself."""


def main() -> int:
    """Run until asked to stop."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return 0
    structlog.configure(
        processors=as_text(sys.stdout),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=journal_on(sys.stdout),
    )
    settings = ControlSettings()
    store = open_store(settings.database_url)
    if store.is_sqlite:
        print("SQLite allows one server: run the loops in the api process (FAIRLEAD_WITH_CONTROL=1)", file=sys.stderr)
        return 2
    try:
        check_revision(store)
    except FairleadError as error:
        print(error, file=sys.stderr)
        return 1
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with serving(settings.metrics_host, settings.metrics_port), Bell(store) as bell:
        loops = start(store, settings, bell=bell)
        stop.wait()
        loops.stop()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

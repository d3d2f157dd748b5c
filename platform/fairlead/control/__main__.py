"""``python -m fairlead.control``: the control loops as a process of their own, beside any number of api processes."""

import signal
import sys
from contextlib import ExitStack
from threading import Event

import structlog
from pydantic import ValidationError

from fairlead.control.loops import start
from fairlead.control.meters import serving
from fairlead.errors import BadInput, FairleadError
from fairlead.journal import log_to
from fairlead.settings import ControlSettings, LogSettings, names_of
from fairlead.store import check_revision, log_event, open_store
from fairlead.store.bell import Bell

logger = structlog.get_logger(__name__)
USAGE = """usage: python -m fairlead.control

Runs the control loops (dispatch, settle, evaluate, record, verify, deliver, reap) until SIGTERM. Settings come from the
environment: FAIRLEAD_DATABASE_URL, FAIRLEAD_STORAGE, FAIRLEAD_MLFLOW_URL, FAIRLEAD_SECRET_KEY_FILE
and those of ARCHITECTURE.md.
Any number may run on PostgreSQL: one leads, the others wait. On SQLite the api process runs the loops itself."""


def main() -> int:
    """Run until asked to stop."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return 0
    with ExitStack() as stack:
        return _run(stack)


def _run(stack: ExitStack) -> int:
    try:
        said = LogSettings()
        log_to(sys.stdout, form=said.log_format or "text", level=said.log_level)
        settings = ControlSettings()
        store = open_store(settings.database_url, tell=log_event)
        stack.callback(store.close)
        if store.is_sqlite:
            raise BadInput("SQLite allows one server: run the loops in the api process (FAIRLEAD_WITH_CONTROL=1)")
        check_revision(store)
        stack.enter_context(serving(settings.metrics_host, settings.metrics_port))
    except ValidationError as error:
        logger.error("settings are missing or wrong", settings=names_of(error))
        return 2
    except FairleadError as error:
        logger.error("it cannot start as it is set up", reason=str(error))
        return 2 if isinstance(error, BadInput) else 1
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Bell(store) as bell:
        loops = start(store, settings, bell=bell)
        stop.wait()
        loops.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How an agent's process ends, and where it writes its log."""

import sys

import structlog

from fairlead.journal import as_text, journal_on

STOPPED = 0
BAD_SETTINGS = 2
SUPERSEDED = 3


def log_to_stderr() -> None:
    """One line of text an event, on standard error."""
    structlog.configure(processors=as_text(sys.stderr), logger_factory=journal_on(sys.stderr))

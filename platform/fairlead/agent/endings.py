"""How an agent's process ends, and where it writes its log."""

import sys

from fairlead.journal import log_to
from fairlead.settings import LogSettings

STOPPED = 0
BAD_SETTINGS = 2
SUPERSEDED = 3


def log_to_stderr() -> None:
    """On standard error: a line of text an event, or of JSON where that is asked for. Raises ``ValidationError``."""
    log_to(sys.stderr, form="text", level="INFO")  # so that it can be said there what is wrong with the settings
    said = LogSettings()
    log_to(sys.stderr, form=said.log_format or "text", level=said.log_level)

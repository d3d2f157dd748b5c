"""Where our processes write what they have to say. A disk without room costs lines, never the work they are about."""

from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import structlog


class Journal(structlog.WriteLogger):
    """Writes each event to a stream, its line's end included, in one piece; one that cannot be written is lost."""

    def msg(self, message: str) -> None:
        """Write, if that is possible now."""
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def journal_on(stream: TextIO) -> Callable[..., Journal]:
    """A logger factory for structlog."""
    return lambda *_: Journal(stream)

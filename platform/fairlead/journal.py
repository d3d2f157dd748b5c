"""Where our processes write what they have to say. A disk without room costs lines, never the work they are about."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

import structlog
from structlog.typing import Processor


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


def as_text(stream: TextIO) -> list[Processor]:
    """What makes an event a line of text for people, with a plain traceback below it where there is one.

    structlog's own tracebacks are prettier. They need files that are opened only then: where descriptors are short that
    fails, and ends the thread that had something to say. And they show the values of variables, tokens among them.
    """
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.set_exc_info,
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and "NO_COLOR" not in os.environ,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]

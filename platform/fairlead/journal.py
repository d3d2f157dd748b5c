"""Where our processes write what they have to say. A disk without room costs lines, never the work they are about.

As JSON a line is one object with ``event``, ``level`` and ``timestamp``, and, where they are known, ``request_id``,
``experiment_id``, ``attempt_id`` and ``loop``; whatever the libraries say, and what ends a process, is one too.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import Processor

Format = Literal["json", "text"]


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


def log_to(stream: TextIO, *, form: Format, level: str = "INFO") -> None:
    """Have all of this process written to ``stream``: a JSON object a line, or text for people."""
    structlog.configure(
        processors=as_json() if form == "json" else as_text(stream),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=journal_on(stream),
    )
    if form == "json":
        _take_in_others(stream, level)


def as_json() -> list[Processor]:
    """What makes an event one line of JSON."""
    return [*_shared(), structlog.processors.JSONRenderer()]


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def _take_in_others(stream: TextIO, level: str) -> None:
    """What libraries log, what Python warns of, and what ends a thread or the process.

    Each line in one write, its end included: two threads that print would put two objects on one.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_shared(), processor=structlog.processors.JSONRenderer())
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("alembic").setLevel("WARNING")
    logging.captureWarnings(True)
    sys.excepthook = _say_uncaught
    threading.excepthook = _say_uncaught_in_thread


def _say_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    structlog.get_logger("fairlead").critical("uncaught", exc_info=(kind, error, trace))


def _say_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_type is not SystemExit:
        name = given.thread.name if given.thread else ""
        structlog.get_logger("fairlead").critical("uncaught", thread=name, exc_info=given.exc_value)

"""Server-sent events. No database connection is held while a stream waits; slow readers and too many are dropped."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import structlog
from fastapi.sse import format_sse_event
from prometheus_client import Histogram
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from fairlead.errors import TooMany

PING_S = 15.0
RETRY_MS = 1000
STREAM_TYPE = "text/event-stream"
MAX_PER_CALLER = 50
MAX_STREAMS = 500
SEND_TIMEOUT_S = 30.0
LASTS_S = 300.0
"""Then a reader has to come back with its token, which may have been taken back."""
PING = format_sse_event(comment="ping")
OPENING = format_sse_event(comment="open", retry=RETRY_MS)
END = format_sse_event(event="end", data_str="{}")
logger = structlog.get_logger(__name__)


class Streams:
    """Counts open streams. For one event loop."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self.lag = Histogram(
            "fairlead_event_lag_seconds",
            "From an event's time until a stream that waited for it has it.",
            registry=None,
        )

    @property
    def count(self) -> int:
        """How many are open."""
        return self._open.total()

    def enter(self, caller: str) -> None:
        """Take a place. Raises ``TooMany``."""
        if self._open[caller] >= MAX_PER_CALLER or self.count >= MAX_STREAMS:
            raise TooMany("too many streams are open; close some, or read the paged form")
        self._open[caller] += 1

    def leave(self, caller: str) -> None:
        """Give the place back."""
        self._open[caller] -= 1
        self._open += Counter()  # drops what is zero


def message(data: str, *, message_id: str) -> bytes:
    """One message of a stream."""
    return format_sse_event(data_str=data, id=message_id)


class Stream(StreamingResponse):
    """An answer that lasts. Ends when its source does, or when the reader takes nothing for ``SEND_TIMEOUT_S``."""

    def __init__(self, source: AsyncIterator[bytes], *, streams: Streams, caller: str) -> None:
        streams.enter(caller)
        self._streams, self._caller = streams, caller
        super().__init__(_opened(source), media_type=STREAM_TYPE, headers={"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            logger.info("a slow reader was dropped", path=scope["path"])
        finally:
            self._streams.leave(self._caller)


async def _opened(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    end_s = time.monotonic() + LASTS_S
    yield OPENING
    async for block in source:
        yield block
        if time.monotonic() >= end_s:
            return

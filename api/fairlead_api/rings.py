"""Lets coroutines wait for the bell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fairlead.store.bell import Bell


class Rung(asyncio.Event):
    """Set by every ring; whoever waits for it clears it before looking."""

    async def wait_at_most(self, timeout_s: float) -> None:
        """Return at the next ring, or after ``timeout_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wait()


@asynccontextmanager
async def listening(bell: Bell, *, is_reader: bool = False) -> AsyncIterator[Rung]:
    """Hear the bell in this event loop, whichever thread rings it; ``is_reader``: soft rings too."""
    loop, rung = asyncio.get_running_loop(), Rung()
    subscribe = bell.subscribe_reader if is_reader else bell.subscribe
    end = subscribe(lambda: loop.call_soon_threadsafe(rung.set))
    try:
        yield rung
    finally:
        end()

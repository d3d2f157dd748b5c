"""Tells streams when an experiment has changed: one question for all of them, at every ring of the bell."""

import asyncio
from collections import defaultdict

import structlog

from fairlead.errors import Unavailable
from fairlead.store import experiments
from fairlead_api.parts import Api
from fairlead_api.rings import listening

POLL_S = 1.0
"""Between two looks without a ring."""
logger = structlog.get_logger(__name__)


class Watch:
    """Polls the versions of watched experiments while somebody waits. For one event loop."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._waiters: dict[str, set[tuple[int, asyncio.Future[None]]]] = defaultdict(set)
        self._poller: asyncio.Task[None] | None = None

    async def beyond(self, experiment_id: str, version: int, *, timeout_s: float) -> bool:
        """Wait until the experiment has a higher ``version``; False after ``timeout_s``, or when the server ends."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (version, future)
        self._waiters[experiment_id].add(entry)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(timeout_s):
                await future
            return not self._api.stopping.is_set()
        except TimeoutError:
            return False
        finally:
            self._waiters[experiment_id].discard(entry)
            if not self._waiters[experiment_id]:
                del self._waiters[experiment_id]

    async def _poll(self) -> None:
        async with listening(self._api.bell, is_reader=True) as rung:
            while self._waiters:
                rung.clear()
                await self._tell()
                await rung.wait_at_most(POLL_S)

    async def _tell(self) -> None:
        versions = await asyncio.to_thread(self._versions, list(self._waiters))
        for experiment_id, entries in self._waiters.items():
            for version, future in entries:
                is_new = versions.get(experiment_id, 0) > version
                if (is_new or self._api.stopping.is_set()) and not future.done():
                    future.set_result(None)

    def _versions(self, ids: list[str]) -> dict[str, int]:
        try:
            with self._api.store.read() as session:
                return experiments.versions(session, ids)
        except Unavailable as error:
            logger.warning("streams wait for the database", reason=str(error))
            return {}

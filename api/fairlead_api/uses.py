"""Remembers when tokens were last used: at most once a minute each, and only when the answer is on its way."""

import threading
from datetime import datetime

import structlog

from fairlead.errors import Unavailable
from fairlead.store import Store, tokens
from fairlead.store.tokens import USE_NOTED_EVERY, Principal

logger = structlog.get_logger(__name__)


class Uses:
    """What this process has written lately. Safe among threads; other processes write no more often than it does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._written: dict[str, datetime] = {}

    def is_due(self, principal: Principal, now: datetime) -> bool:
        """Whether a use should be written: true for one caller a minute, who then must ``write`` it."""
        if principal.last_used_at is not None and now - principal.last_used_at < USE_NOTED_EVERY:
            return False
        with self._lock:
            written = self._written.get(principal.token_id)
            if written is not None and now - written < USE_NOTED_EVERY:
                return False
            self._written[principal.token_id] = now
        return True

    def write(self, token_id: str, now: datetime) -> None:
        """Write it. A database that does not answer is not worth a word more: the next minute has its own."""
        try:
            with self._store.write() as session:
                tokens.note_use(session, token_id, now=now)
        except Unavailable as error:
            logger.info("a token's use was not noted", reason=str(error))

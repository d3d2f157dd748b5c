"""What every route needs, made once by ``create_app`` and found on the application's state."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from fairlead.clock import Clock
from fairlead.secret_key import keyed
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Store
from fairlead.store.bell import Bell
from fairlead_api.board import Board
from fairlead_api.crowd import Crowd
from fairlead_api.guesses import Guesses
from fairlead_api.uses import Uses


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """The parts of a running API."""

    settings: ControlSettings
    store: Store
    clock: Clock
    manifests: Mapping[str, Manifest]
    bell: Bell
    """Wakes the control loops, agents that wait for something to do, and streams."""
    secret: bytes = field(repr=False)
    board: Board
    """The queue, for all who ask about it."""
    guesses: Guesses
    uses: Uses
    crowd: Crowd
    has_started: threading.Event = field(default_factory=threading.Event)
    """Set once the database has answered with this release's schema."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the server is asked to end: streams and long polls let go."""

    def hint(self) -> None:
        """Something was submitted, was written down or has ended."""
        self.bell.ring()

    def tell(self) -> None:
        """Something was written down that streams wait for and no loop or agent need hurry for."""
        self.bell.ring_softly()

    def now(self) -> datetime:
        """The clock's time."""
        return self.clock.now()

    def age_s(self, at: datetime) -> float:
        """Seconds since a time; 0 where another machine's clock is ahead."""
        return max(0.0, (self.now() - at).total_seconds())

    @property
    def storage(self) -> Path:
        """The root of the shared storage."""
        return self.settings.storage

    def sign(self, purpose: str, text: str) -> bytes:
        """HMAC-SHA256 under a key of its own for each ``purpose``."""
        return keyed(self.secret, purpose, text)


def api_of(request: Request) -> Api:
    """The parts, for a route."""
    api: Api = request.app.state.api
    return api


async def _api(request: Request) -> Api:  # a coroutine, so that FastAPI takes no thread for it
    return api_of(request)


ApiParts = Annotated[Api, Depends(_api)]

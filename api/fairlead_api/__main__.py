"""``python -m fairlead_api``: serve the API, with the control loops in this process where asked.

Settings are ``ControlSettings`` and those of ``ServerSettings``, from environment variables. Ends in order on SIGTERM
and SIGINT: streams let go, requests under way are answered, the control lease is handed over.
"""

import asyncio
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import structlog
import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from fairlead import control
from fairlead.clock import SystemClock
from fairlead.data.manifests import find_manifests
from fairlead.errors import FairleadError
from fairlead.journal import log_to
from fairlead.settings import ControlSettings, LogSettings, names_of
from fairlead.store import Store, check_revision, log_event, migrate, open_store
from fairlead.store.bell import Bell
from fairlead_api.accounts import accept_tokens, ensure_first_token
from fairlead_api.app import create_app
from fairlead_api.parts import Api
from fairlead_api.sole import sole_server_of

GRACEFUL_S = 10
LIMIT_CONCURRENCY = 1000
DATE_S = 1.0
DATE_TICKS = 10
"""uvicorn renews the header ``Date`` at every tenth of its ticks."""
logger = structlog.get_logger(__name__)


class ServerSettings(BaseSettings):
    """What this process does beside answering."""

    model_config = SettingsConfigDict(
        env_prefix="FAIRLEAD_", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    with_control: bool = False
    """Run the control loops in threads of this process (``FAIRLEAD_WITH_CONTROL=1``); with SQLite nobody else may."""
    migrate: bool = False
    """Bring the database to this release's schema first (``FAIRLEAD_MIGRATE=1``); always done for SQLite."""


class Server(uvicorn.Server):
    """Tells streams and long polls to let go as soon as a signal comes, rather than cutting them later."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        assert isinstance(config.app, FastAPI), "made by create_app"
        self._api: Api = config.app.state.api
        self._has_heard = asyncio.Event()

    async def main_loop(self) -> None:
        """As uvicorn's own, which looks ten times a second whether a signal has come; here the signal says so."""
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += DATE_TICKS
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_heard.wait(), DATE_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the orderly end."""
        self._api.stopping.set()
        super().handle_exit(sig, frame)
        with suppress(RuntimeError):  # no event loop yet: then nobody waits
            asyncio.get_running_loop().call_soon_threadsafe(self._let_go)

    def _let_go(self) -> None:
        self._has_heard.set()
        self._api.bell.ring()


def serve(settings: ControlSettings, server_settings: ServerSettings) -> None:
    """Serve until a signal comes. Raises ``FairleadError`` where it cannot start."""
    clock = SystemClock()
    with ExitStack() as stack:
        if (path := _sqlite_path(settings.database_url)) is not None:
            stack.enter_context(sole_server_of(path))
        store = open_store(settings.database_url, tell=log_event)
        stack.callback(store.close)
        _prepare(store, settings, server_settings)
        manifests, bell = find_manifests(), stack.enter_context(Bell(store))
        if server_settings.with_control:
            loops = control.start(store, settings, clock=clock, manifests=manifests, is_sole=store.is_sqlite, bell=bell)
            stack.callback(loops.stop)
        app = create_app(settings, store, clock=clock, manifests=manifests, bell=bell)
        app.state.api.has_started.set()  # or `_prepare` would have raised
        _run(app, settings)


def _prepare(store: Store, settings: ControlSettings, server_settings: ServerSettings) -> None:
    """Schema and tokens."""
    if server_settings.migrate or store.is_sqlite:
        migrate(store)
    check_revision(store)
    if settings.tokens_file is not None:
        accept_tokens(store, settings.tokens_file, clock=SystemClock())
    ensure_first_token(store, clock=SystemClock())


def _sqlite_path(database_url: str) -> Path | None:
    parts = urlsplit(database_url)
    path = parts.path.removeprefix("/").partition("?")[0]
    return Path(path) if parts.scheme.startswith("sqlite") and path else None


def _run(app: FastAPI, settings: ControlSettings) -> None:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="h11",
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=LIMIT_CONCURRENCY,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACEFUL_S,
        h11_max_incomplete_event_size=32 * 1024,
    )
    # uvicorn raises the signal once more after its own end: ours is still to come.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    logger.info("serving", host=settings.host, port=settings.port)
    Server(config).run()
    logger.info("stopped")


def main() -> int:
    """The process's exit code: 0 after an orderly end, 2 where it cannot start as it is set up."""
    try:
        said = LogSettings()
        log_to(sys.stderr, form=said.log_format or "json", level=said.log_level)
        settings, server_settings = ControlSettings(), ServerSettings()
        serve(settings, server_settings)
    except ValidationError as error:
        logger.error("settings are missing or wrong", settings=names_of(error))
        return 2
    except FairleadError as error:
        logger.error("it cannot start as it is set up", reason=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

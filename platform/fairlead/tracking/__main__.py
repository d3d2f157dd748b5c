"""The MLflow server as one process: ``python -m fairlead.tracking --host 127.0.0.1 --port 5000``.

Its settings come from the environment that ``fairlead.tracking.server`` makes. The database is brought up to date
before the port opens, so the first answer of ``/health`` means ready. Routes that run programs on the server's host,
call addresses somebody gave, or revive stored code are answered 404: nothing here needs them, and their records are
the worst of MLflow's. One is added: whole runs (``tracking.whole_runs``).
"""

import argparse
import os
import re
import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import closing
from typing import Any

import uvicorn

from fairlead.tracking.server import ARTIFACT_ROOT, STORE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_CLOSED = re.compile(
    r"^/+((ajax-)?api/+[\d.]+/+(mlflow/+)?"
    r"(assistant|gateway|genai|jobs|mcp-servers|prompt-optimization|scorers?|webhooks)|gateway)(/|$)"
)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="fairlead.tracking", description="Serve MLflow for Fairlead.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    store = os.environ[STORE]
    write_ahead(store)
    # The import reads the environment and takes seconds: after the arguments, so that --help is quick.
    from mlflow.server import fastapi_app, handlers

    from fairlead.tracking import whole_runs

    handlers.initialize_backend_stores(store, store, os.environ[ARTIFACT_ROOT])
    whole_runs.add_route(fastapi_app.app, handlers._get_tracking_store)  # MLflow has no public one
    uvicorn.run(
        narrowed(fastapi_app.app),
        host=options.host,
        port=options.port,
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )


def write_ahead(store: str) -> None:
    """Let readers and the writer of a SQLite file work side by side; the file remembers it. Else do nothing."""
    prefix, _, path = store.partition("sqlite:///")
    if prefix or not path:
        return
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def narrowed(application: Application) -> Application:
    """``application`` without the routes that nobody here may use."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _CLOSED.match(scope["path"]):
            return await application(scope, receive, send)
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"Fairlead keeps this part of MLflow closed.\n"})

    return answer


if __name__ == "__main__":
    main()

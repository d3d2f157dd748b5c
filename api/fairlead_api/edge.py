"""The outermost layer: request ids, exact hosts and origins, security headers, one log line a request."""

import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairlead_api.problems import on_uncaught, problem_response

HARD_LIMIT_BYTES = 50 * 2**20
"""No address accepts more."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
_QUIET = frozenset({"/healthz", "/startupz", "/readyz", "/metrics", "/internal/v1/agent/sync"})
_REQUEST_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
Observe = Callable[[str, int, float, str], None]
"""Told the method, the status, the seconds and the kind of every request."""
logger = structlog.get_logger(__name__)


class Edge:
    """An ASGI layer round the whole application."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: tuple[str, ...], observe: Observe) -> None:
        self.app = app
        self.observe = observe
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        scope["fairlead.request_id"] = given if _REQUEST_ID.match(given) else secrets.token_hex(8)
        structlog.contextvars.bind_contextvars(request_id=scope["fairlead.request_id"])
        answer = _Answer(scope, send)
        began_s = time.monotonic()
        try:
            if (refusal := self._refusal(Request(scope), headers)) is not None:
                status, code, detail = refusal
                response = problem_response(Request(scope), status=status, code=code, detail=detail)
                await response(scope, receive, answer.send)
            else:
                await self.app(scope, receive, answer.send)
        except ClientDisconnect:
            logger.info("the client left", path=scope["path"])
        except Exception as error:  # here rather than further out, so that the answer gets its headers too
            response = on_uncaught(Request(scope), error)
            if answer.status:
                raise
            await response(scope, receive, answer.send)
        finally:
            took_s = time.monotonic() - began_s
            self.observe(scope["method"], answer.status, took_s, _kind(scope["path"], is_stream=answer.is_stream))
            _log(scope, answer.status, took_s)
            structlog.contextvars.clear_contextvars()

    def _refusal(self, request: Request, headers: Headers) -> tuple[int, str, str] | None:
        if not self._knows(f"//{headers.get('host', '')}"):
            return 421, "unknown_host", "this server does not go by that name; see FAIRLEAD_ALLOWED_HOSTS"
        if (origin := headers.get("origin")) is not None and not self._knows(origin):
            return 403, "foreign_origin", "requests from other sites' pages are refused"
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > HARD_LIMIT_BYTES:
            return 413, "too_large", f"the body is larger than {HARD_LIMIT_BYTES} bytes"
        return None

    def _knows(self, address: str) -> bool:
        """Whether the host of ``address`` is on the list, with any port or the very one that the list names."""
        try:
            parts = urlsplit(address)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            return False
        return parts.username is None and (host in self.allowed_hosts or f"{host}:{port}" in self.allowed_hosts)


class _Answer:
    """Adds headers to the answer and remembers its status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self.is_stream = False
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
            headers["X-Request-ID"] = self._scope["fairlead.request_id"]
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _kind(path: str, *, is_stream: bool) -> str:
    """Who waits for such an answer: streams last as long as they like, and an agent that syncs waits for work."""
    if is_stream:
        return "stream"
    if path.startswith("/internal/"):
        return "agent"
    return "user" if path.startswith("/v1/") else "other"


def _log(scope: Scope, status: int, took_s: float) -> None:
    path = scope["path"]
    if path in _QUIET and status < 400:
        return
    shown = "/links/..." if path.startswith("/links/") else path
    logger.info("request", method=scope["method"], path=shown, status=status, took_ms=round(took_s * 1000, 1))

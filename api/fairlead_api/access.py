"""Who may call what. One dependency at the root of the router, which refuses what it was not told to let pass.

``/v1`` and whatever else there will be   user tokens
``/internal/v1/agent``, ``.../lease``     agent tokens
``/internal/v1/attempts``, bundles        attempt tokens: each works for its own attempt only
``OPEN``                                  nobody is asked; they answer nothing that belongs to anyone
``/links``                                the signature in the address
"""

import secrets
from contextlib import suppress
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from fairlead.errors import StaleAttempt, Unauthorized
from fairlead.store import attempts, tokens
from fairlead.store.tokens import Principal
from fairlead_api.parts import Api, api_of

OPEN = frozenset({"/healthz", "/readyz", "/docs", "/docs/problems", "/docs/{asset}", "/openapi.json", "/links/{token}"})
USER, AGENT, ATTEMPT = "user", "agent", "attempt"
_ATTEMPT_PREFIX = "fa_"


def kind_for(path: str) -> str | None:
    """The kind of token that a route's path pattern asks for; None where none is needed."""
    if path in OPEN:
        return None
    if path.startswith("/internal/v1/agent/") or path == "/internal/v1/attempts/{attempt_id}/lease":
        return AGENT
    if path.startswith(("/internal/v1/attempts/", "/internal/v1/code-bundles/")):
        return ATTEMPT
    return USER


async def authorize(request: Request) -> None:
    """Find out who calls and whether the route is for them. Raises ``Unauthorized``.

    Where nobody is asked no thread is needed either: all may be waiting for the database while ``/healthz`` answers.
    """
    kind = kind_for(request.scope["route"].path)
    if kind is not None:
        await run_in_threadpool(_authorize, request, kind)


def _authorize(request: Request, kind: str) -> None:
    token = _bearer(request)
    api = api_of(request)
    if kind == ATTEMPT:
        _check_attempt_token(request, api, token)
        request.state.attempt_token = token
        return
    with api.store.read() as session:
        principal = tokens.authenticate(session, token, now=api.now())
    if principal.kind != kind:
        raise Unauthorized(f"this address is for {kind} tokens, not for {principal.kind} tokens")
    request.state.principal = principal


def _check_attempt_token(request: Request, api: Api, token: str) -> None:
    """The token is of the attempt in the address. Whether that may still write is asked in the write's transaction."""
    attempt_id = attempt_named_by(token)
    if request.path_params.get("attempt_id", attempt_id) != attempt_id:
        raise Unauthorized("this token is for another attempt")
    with api.store.read() as session, suppress(StaleAttempt):
        attempts.authenticate(session, attempt_id, token)


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorized("a token is needed: send 'Authorization: Bearer <token>'")
    return token.strip()


def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def _cluster(request: Request) -> str:
    """The cluster that the calling agent serves."""
    cluster = _principal(request).cluster
    if cluster is None:
        raise Unauthorized("this agent token names no cluster")
    return cluster


def _attempt_token(request: Request) -> str:
    token: str = request.state.attempt_token
    return token


def new_attempt_token(attempt_id: str) -> str:
    """A token that says which attempt it is for; 256 bits of secret."""
    return f"{_ATTEMPT_PREFIX}{attempt_id}_{secrets.token_urlsafe(32)}"


def attempt_named_by(token: str) -> str:
    """The attempt that a token claims to be for. Raises ``Unauthorized``."""
    attempt_id, _, secret = token.removeprefix(_ATTEMPT_PREFIX).partition("_")
    if not token.startswith(_ATTEMPT_PREFIX) or not attempt_id or not secret:
        raise Unauthorized("this is not an attempt's token")
    return attempt_id


Caller = Annotated[Principal, Depends(_principal)]
CallingCluster = Annotated[str, Depends(_cluster)]
AttemptToken = Annotated[str, Depends(_attempt_token)]

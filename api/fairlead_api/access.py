"""Who may call what. One dependency at the root of the router, which refuses what it was not told to let pass.

``/v1`` and whatever else there will be   user tokens, with the role that ``rules`` asks for
``/internal/v1/agent``, ``.../lease``     agent tokens
``/internal/v1/attempts``, bundles        attempt tokens: each works for its own attempt only
``OPEN``                                  nobody is asked; they answer nothing that belongs to anyone
``/links``                                the signature in the address

What a caller may not touch and what is not there are answered alike: 404, with the same words.
"""

import re
import secrets
from contextlib import suppress
from typing import Annotated

from fastapi import BackgroundTasks, Depends, Request
from starlette.concurrency import run_in_threadpool
from structlog.contextvars import bind_contextvars

from fairlead.errors import NotFound, StaleAttempt, Unauthorized
from fairlead.rights import EVERYWHERE, Role
from fairlead.store import Session, attempts, experiments, tokens, webhooks
from fairlead.store.audit import Author, Target
from fairlead.store.tokens import Principal
from fairlead_api import audits
from fairlead_api.parts import Api, api_of
from fairlead_api.rules import Reach, Rule, rule_for

_PROBES = ("/healthz", "/startupz", "/readyz")
OPEN = frozenset({*_PROBES, "/docs", "/docs/problems", "/docs/{asset}", "/openapi.json", "/links/{token}"})
USER, AGENT, ATTEMPT = tokens.USER, tokens.AGENT, "attempt"
REFUSAL = "there is nothing of that name here, or this token may not do this with it"
_ATTEMPT_PREFIX = "fa_"
_EXPERIMENT_ID = re.compile(r"[a-z0-9-]{1,64}")
_ID_IN_LOG = re.compile(r"[a-z0-9-]{1,80}")
_WEBHOOK_ID = re.compile(r"[a-z0-9_]{1,32}")
_PLAIN_KEY = re.compile(r"[^\0/\ud800-\udfff]{1,100}")


def kind_for(path: str) -> str | None:
    """The kind of token that a route's path pattern asks for; None where none is needed."""
    if path in OPEN:
        return None
    if path.startswith("/internal/v1/agent/") or path == "/internal/v1/attempts/{attempt_id}/lease":
        return AGENT
    if path.startswith(("/internal/v1/attempts/", "/internal/v1/code-bundles/")):
        return ATTEMPT
    return USER


async def authorize(request: Request, background: BackgroundTasks) -> None:
    """Find out who calls and whether the route is for them. Raises ``Unauthorized``, ``NotFound``, ``TooMany``.

    Where nobody is asked no thread is needed either: all may be waiting for the database while ``/healthz`` answers.
    """
    path = request.scope["route"].path
    kind = kind_for(path)
    _name_in_log(request)
    if kind is None:
        return
    token = _bearer(request)
    api = api_of(request)
    if kind == ATTEMPT:
        await run_in_threadpool(_check_attempt_token, request, api, token)
        request.state.attempt_token = token
        return
    rule = rule_for(request.method, path) if kind == USER else None
    principal = await run_in_threadpool(_identify, request, api, token, kind, rule)
    request.state.principal = principal
    if api.uses.is_due(principal, api.now()):
        background.add_task(api.uses.write, principal.token_id, api.now())
    if rule is not None and request.method not in ("GET", "HEAD"):
        audits.begin(_author(request, principal), _target(request, rule))


def _name_in_log(request: Request) -> None:
    """From here on the lines of this request carry the experiment or attempt that its address names."""
    parts = {name: request.path_params.get(name, "") for name in ("experiment_id", "attempt_id")}
    bind_contextvars(**{name: text for name, text in parts.items() if _ID_IN_LOG.fullmatch(text)})


def _identify(request: Request, api: Api, token: str, kind: str, rule: Rule | None) -> Principal:
    """Who calls, if the route is for them: one short transaction for both questions."""
    now, address, digest = api.now(), _address(request), tokens.hash_token(token)
    api.guesses.check(address, digest, now)
    with api.store.read() as session:
        try:
            principal = tokens.authenticate(session, token, now=now)
        except Unauthorized:
            api.guesses.note_wrong(address, now)
            raise
        api.guesses.note_right(digest, now)
        if principal.kind != kind:
            raise Unauthorized(f"this address is for {kind} tokens, not for {principal.kind} tokens")
        if rule is not None and not _is_let_in(session, principal, rule, request.path_params):
            raise NotFound(REFUSAL)
    return principal


def _is_let_in(session: Session, principal: Principal, rule: Rule, parts: dict[str, str]) -> bool:
    rights = principal.rights
    if rule.reach is Reach.ANYWHERE or rights.may_everywhere(rule.role):
        return True
    if rule.reach is Reach.SOMEWHERE:
        return rights.may_somewhere(rule.role)
    if rule.reach is Reach.PROJECT:
        return rights.may(rule.role, parts["name"]) and parts["name"] != EVERYWHERE
    project = _project_of(session, rule, parts)
    return project is not None and rights.may(rule.role, project)


def _project_of(session: Session, rule: Rule, parts: dict[str, str]) -> str | None:
    """The project of what the address names; None where it names nothing, or what belongs to no project."""
    if rule.reach is Reach.EXPERIMENT and _EXPERIMENT_ID.fullmatch(parts["experiment_id"]):
        return experiments.project_of(session, parts["experiment_id"])
    if rule.reach is Reach.WEBHOOK and _WEBHOOK_ID.fullmatch(parts["webhook_id"]):
        return webhooks.project_of(session, parts["webhook_id"])
    return None


def require(caller: Principal, role: Role, project: str | None) -> None:
    """Raise ``NotFound`` unless the caller has ``role`` in ``project``: for routes whose rule reaches ``SOMEWHERE``.

    None: in all projects.
    """
    if not caller.rights.may(role, project):
        raise NotFound(REFUSAL)


def _author(request: Request, principal: Principal) -> Author:
    return Author(
        actor=principal.name,
        token_id=principal.token_id,
        address=_address(request),
        request_id=request.scope.get("fairlead.request_id", ""),
        action=getattr(request.scope["route"], "operation_id", None) or request.scope["route"].path[:64],
    )


def _target(request: Request, rule: Rule) -> Target | None:
    """What the address names. Parts that no key can be are the route's to refuse: nothing is written then."""
    if not rule.writes:
        return None
    kind, *names = rule.writes
    key = tuple(request.path_params[name] for name in names)
    return Target(kind=kind, key=key) if all(_PLAIN_KEY.fullmatch(part) for part in key) else None


def _address(request: Request) -> str:
    """Of the connection: forwarding headers are not believed."""
    return request.client.host if request.client else ""


def _check_attempt_token(request: Request, api: Api, token: str) -> None:
    """The token is of the attempt in the address. Whether that may still write is asked in the write's transaction.

    Wrong ones are not counted against the address: it is an agent's, whose other attempts must not wait.
    """
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


# Coroutines, although nothing in them waits: for a plain function FastAPI would take a thread, in every request.


async def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


async def _cluster(request: Request) -> str:
    """The cluster that the calling agent serves."""
    cluster = (await _principal(request)).cluster
    if cluster is None:
        raise Unauthorized("this agent token names no cluster")
    return cluster


async def _attempt_token(request: Request) -> str:
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

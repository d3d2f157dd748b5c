"""Endpoints that hear of events, and what became of each message. Nothing is sent from here: ``deliver`` sends."""

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from fairlead.errors import BadInput, Conflict, NotFound, Problem, StaleVersion, TooMany
from fairlead.representation import (
    DeliveryView,
    Page,
    ReplayRequest,
    ReplayView,
    RotateRequest,
    TryView,
    WebhookChange,
    WebhookRequest,
    WebhookView,
    WebhookWithSecret,
)
from fairlead.rights import Role
from fairlead.store import Session, idempotency, outbox, webhooks
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.outbox import MessageState
from fairlead.store.tables import DeliveryRow, OutboxRow, WebhookEndpointRow
from fairlead.store.tokens import Principal
from fairlead.store.webhooks import EndpointState
from fairlead.webhooks import check_url, secret_of
from fairlead_api.access import Caller, require
from fairlead_api.audits import note_made
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.filters import read_filters
from fairlead_api.keys import ANSWERS_KEPT, RequiredKey
from fairlead_api.openapi import problems, takes
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, decode_token, encode_token
from fairlead_api.parts import Api, ApiParts
from fairlead_api.problems import PreconditionRequired
from fairlead_api.views import answer

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
MAX_ENDPOINTS = 100
"""Each event looks at all of them."""
_CURSOR = "deliveries"
_FILTERS = {"state": frozenset(MessageState)}
EndpointId = Annotated[str, Path(max_length=32)]
IfMatch = Annotated[str | None, Header(description="The version that you saw, or `*`.")]
_EXAMPLE = {"url": "https://hooks.example.com/fairlead", "project": "default", "kinds": ["succeeded", "failed"]}


# ---- made once ------------------------------------------------------------------------------------------------------


@router.post(
    "",
    operation_id="createWebhook",
    summary="Register an address that wants to hear of events",
    status_code=201,
    response_model=WebhookWithSecret,
    responses={
        201: {"headers": {"Location": {"description": "The webhook's address", "schema": {"type": "string"}}}},
        **problems(400, 404, 409, 413, 415, 422, 429),
    },
    openapi_extra=takes(WebhookRequest, _EXAMPLE),
)
def create(api: ApiParts, caller: Caller, body: SpecBody, key: RequiredKey) -> Response:
    """Its secret is shown in this answer and nowhere else. The same key and body give the first answer again."""
    given = read_document(WebhookRequest, body)
    require(caller, Role.ADMIN, given.project)
    check_url(given.url, api.settings.webhook_networks)

    def make(session: Session) -> WebhookEndpointRow:
        if webhooks.count(session) >= MAX_ENDPOINTS:
            raise TooMany(f"there are {MAX_ENDPOINTS} webhooks already; remove one first")
        row = webhooks.insert(
            session,
            endpoint_id=f"wh_{secrets.token_hex(6)}",
            url=given.url,
            project=given.project,
            kinds=given.kinds,
            description=given.description,
            actor=caller.name,
            now=api.now(),
        )
        note_made(session, "webhook", row.id, project=row.project)
        return row

    return _once(api, caller.token_id, "POST /v1/webhooks", key, body, make, status=201)


@router.post(
    "/{webhook_id}/rotate",
    operation_id="rotateWebhookSecret",
    summary="A new secret; the one before signs as well for a while",
    response_model=WebhookWithSecret,
    responses=problems(400, 404, 409, 413, 415, 422),
    openapi_extra=takes(RotateRequest, {"keep_old_s": 86_400}),
)
def rotate(api: ApiParts, caller: Caller, webhook_id: EndpointId, body: SpecBody, key: RequiredKey) -> Response:
    """Two are active at most: a second rotation ends the first one's time. Needs an ``Idempotency-Key``."""
    given = read_document(RotateRequest, body)

    def make(session: Session) -> WebhookEndpointRow:
        row = webhooks.get(session, webhook_id)
        until = api.now() + timedelta(seconds=given.keep_old_s)
        columns = {"secret_no": row.secret_no + 1, "old_secret_until": until}
        if not webhooks.change_if_current(session, row, now=api.now(), **columns):
            raise Conflict(f"webhook {webhook_id} changes at this moment; ask again")
        return row

    route = f"POST /v1/webhooks/{webhook_id}/rotate"
    return _once(api, caller.token_id, route, key, body, make, status=200)


def _once(
    api: Api,
    principal: str,
    route: str,
    key: str,
    body: bytes,
    make: Callable[[Session], WebhookEndpointRow],
    *,
    status: int,
) -> Response:
    """Act and keep the answer in one transaction, or find the first answer. No secret is kept: it is made again."""
    digest = hashlib.sha256(body).hexdigest()
    scope = {"principal": principal, "route": route, "key": key}
    with api.store.write() as session:
        stored = idempotency.find(session, **scope, body_sha256=digest)
        if stored is None:
            row = make(session)
            headers = {"Location": f"/v1/webhooks/{row.id}", "ETag": _etag(row), "Secret-No": str(row.secret_no)}
            stored = StoredAnswer(status=status, headers=headers, body=_view(row).model_dump_json())
            expires_at = api.now() + ANSWERS_KEPT
            idempotency.insert(session, **scope, body_sha256=digest, answer=stored, expires_at=expires_at)
    view = WebhookView.model_validate_json(stored.body)
    secret = secret_of(api.secret, view.id, int(stored.headers["Secret-No"]))
    headers = {name: value for name, value in stored.headers.items() if name != "Secret-No"}
    return answer(WebhookWithSecret(**view.model_dump(), secret=secret), status=stored.status, headers=headers)


# ---- looked at and changed ------------------------------------------------------------------------------------------


@router.get("", operation_id="listWebhooks", summary="Webhooks, oldest first", response_model=Page[WebhookView])
def list_webhooks(api: ApiParts, caller: Caller) -> Response:
    """Those of the caller's projects, without their secrets; those of no project to viewers of all.

    Only admins see the whole ``url``: with many receivers the path is the password.
    """
    with api.store.read() as session:
        rows = webhooks.every(session)
    items = tuple(_shown(row, caller) for row in rows if caller.rights.may(Role.VIEWER, row.project))
    return answer(Page[WebhookView](items=items))


@router.get(
    "/{webhook_id}",
    operation_id="getWebhook",
    summary="One webhook",
    response_model=WebhookView,
    responses=problems(404),
)
def show(api: ApiParts, caller: Caller, webhook_id: EndpointId) -> Response:
    """Whether it is active, and since when it fails. The ETag is its version. Only admins see the whole ``url``."""
    with api.store.read() as session:
        row = webhooks.get(session, webhook_id)
    return answer(_shown(row, caller), headers={"ETag": _etag(row)})


@router.patch(
    "/{webhook_id}",
    operation_id="changeWebhook",
    summary="Another address, other kinds, on or off",
    response_model=WebhookView,
    responses=problems(404, 409, 412, 413, 415, 422, 428),
    openapi_extra=takes(WebhookChange, {"is_enabled": True}),
)
def change(api: ApiParts, caller: Caller, webhook_id: EndpointId, body: SpecBody, if_match: IfMatch = None) -> Response:
    """Needs ``If-Match``. Messages that wait go to the new address; enabled again, it gets them at once."""
    given = read_document(WebhookChange, body)
    columns = given.model_dump(exclude_none=True, exclude={"is_enabled"})
    if given.url is not None:
        check_url(given.url, api.settings.webhook_networks)
    if "kinds" in columns:
        columns["kinds"] = list(columns["kinds"])
    if given.is_enabled is True:
        columns |= {"state": EndpointState.ACTIVE, "reason": "", "failing_since": None}
    elif given.is_enabled is False:
        columns |= {"state": EndpointState.DISABLED, "reason": f"{caller.name} disabled it"}
    with api.store.write() as session:
        row = _current(session, webhook_id, if_match)
        if columns and not webhooks.change_if_current(session, row, now=api.now(), **columns):
            raise StaleVersion(f"webhook {webhook_id} has changed at this moment; look again, then decide")
        view, headers = _view(row), {"ETag": _etag(row)}
    api.hint()
    return answer(view, headers=headers)


@router.delete(
    "/{webhook_id}",
    operation_id="removeWebhook",
    summary="Forget a webhook and all that was to be sent to it",
    status_code=204,
    response_class=Response,
    responses=problems(404, 412, 428),
)
def remove(api: ApiParts, webhook_id: EndpointId, if_match: IfMatch = None) -> Response:
    """Needs ``If-Match``. A message that is on its way at this moment may still arrive."""
    with api.store.write() as session:
        webhooks.remove(session, _current(session, webhook_id, if_match))
    return Response(status_code=204)


def _current(session: Session, webhook_id: str, if_match: str | None) -> WebhookEndpointRow:
    row = webhooks.get(session, webhook_id)
    if if_match is None:
        raise PreconditionRequired("If-Match is missing: send the ETag of what you saw, or *")
    if if_match.strip() not in ("*", _etag(row)):
        raise StaleVersion(f"webhook {webhook_id} is at version {row.version}; look again, then decide")
    return row


# ---- messages -------------------------------------------------------------------------------------------------------


@router.post(
    "/{webhook_id}/test",
    operation_id="testWebhook",
    summary="Send a message that is about nothing",
    status_code=202,
    response_model=DeliveryView,
    responses=problems(400, 404, 409),
)
def send_test(api: ApiParts, caller: Caller, webhook_id: EndpointId, key: RequiredKey) -> Response:
    """It takes the way of every message, with the same checks; see its deliveries. The same key sends one message."""
    message_id = f"test_{hashlib.sha256(f'{caller.token_id} {key}'.encode()).hexdigest()[:24]}"
    with api.store.write() as session:
        row = webhooks.get(session, webhook_id)
        if row.state != EndpointState.ACTIVE:
            raise Conflict(f"webhook {webhook_id} is disabled ({row.reason}): enable it first")
        if outbox.insert_test(session, row.id, message_id=message_id, actor=caller.name, now=api.now()):
            _note_sent(session, row, body=message_id.encode())
        view = _delivery(outbox.find(session, row.id, message_id), [])
    api.hint()
    return answer(view, status=202, headers={"Location": f"/v1/webhooks/{webhook_id}/deliveries"})


@router.get(
    "/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    summary="Messages of a webhook, newest first, with every try",
    response_model=Page[DeliveryView],
    responses=problems(404, 422),
)
def list_deliveries(
    request: Request,
    api: ApiParts,
    webhook_id: EndpointId,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
    state: Annotated[str | None, Query(examples=["eq:failed"])] = None,
) -> Response:
    """Those of the last month, and whatever is not delivered yet."""
    del state  # declared for the description; read with the others
    wanted = read_filters(request.query_params, _FILTERS)
    before = _read_cursor(api, cursor)
    with api.store.read() as session:
        webhooks.get(session, webhook_id)
        if wanted.get("state") == ():
            return answer(Page[DeliveryView](items=()))
        rows = outbox.page(session, webhook_id, limit=limit + 1, before=before, states=wanted.get("state", ()))
        tries = outbox.tries_of(session, [row.id for row in rows[:limit]])
    items, following = rows[:limit], None
    if len(rows) > limit:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        token = encode_token(api, _CURSOR, items[-1].id)
        following = address(f"/v1/webhooks/{webhook_id}/deliveries", [*kept, ("cursor", token)])
    views = tuple(_delivery(row, tries.get(row.id, [])) for row in items)
    return answer(Page[DeliveryView](items=views, next=following))


def _read_cursor(api: Api, cursor: str | None) -> int | None:
    if cursor is None:
        return None
    content = decode_token(api, _CURSOR, cursor)
    if not isinstance(content, int):
        problem = Problem(pointer="/query/cursor", message="this cursor was not made by this server")
        raise BadInput("the cursor cannot be used; begin again without one", problems=(problem,))
    return content


@router.post(
    "/{webhook_id}/replay",
    operation_id="replayWebhook",
    summary="Send messages once more",
    status_code=202,
    response_model=ReplayView,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(ReplayRequest, {"failed": True}),
)
def replay(api: ApiParts, webhook_id: EndpointId, body: SpecBody) -> Response:
    """Under their old ids: a receiver that has one already knows it. A second call changes nothing that still waits."""
    given, now = read_document(ReplayRequest, body), api.now()
    following = None
    with api.store.write() as session:
        row = webhooks.get(session, webhook_id)
        if row.state != EndpointState.ACTIVE:
            raise Conflict(f"webhook {webhook_id} is disabled ({row.reason}): enable it first")
        if given.since is not None:
            until = given.until or now + timedelta(seconds=1)
            count, following = outbox.replay_range(session, row, since=given.since, until=until, now=now)
        elif given.failed:
            count = outbox.replay_failed(session, row.id, now=now)
        else:
            count = outbox.replay_messages(session, row.id, given.messages, now=now)
            if count < len(set(given.messages)):
                raise NotFound(f"{len(set(given.messages)) - count} of these messages are not kept; nothing is sent")
        if count:
            _note_sent(session, row, body=body)
    api.hint()
    headers = {"Location": f"/v1/webhooks/{webhook_id}/deliveries"}
    return answer(ReplayView(messages=count, next_since=following), status=202, headers=headers)


def _note_sent(session: Session, row: WebhookEndpointRow, *, body: bytes) -> None:
    """Tell the audit that messages are to be sent; ``body`` says which."""
    note_made(session, "messages", row.id, project=row.project, sha256=hashlib.sha256(body).hexdigest())


# ---- views ----------------------------------------------------------------------------------------------------------


def _etag(row: WebhookEndpointRow) -> str:
    return f'"{row.version}"'


def _shown(row: WebhookEndpointRow, caller: Principal) -> WebhookView:
    """What the caller may see of it: who does not administer it is told the host, not what follows it."""
    view = _view(row)
    if caller.rights.may(Role.ADMIN, row.project):
        return view
    parts = urlsplit(row.url)
    host = parts.netloc.rpartition("@")[2]
    return view.model_copy(update={"url": f"{parts.scheme}://{host}/…"})


def _view(row: WebhookEndpointRow) -> WebhookView:
    return WebhookView(
        id=row.id,
        url=row.url,
        project=row.project,
        kinds=tuple(row.kinds),
        description=row.description,
        state=row.state,
        reason=row.reason,
        version=row.version,
        failing_since=row.failing_since,
        old_secret_until=row.old_secret_until,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _delivery(row: OutboxRow, tries: list[DeliveryRow]) -> DeliveryView:
    return DeliveryView(
        message_id=row.message_id,
        kind=row.kind,
        experiment_id=row.experiment_id,
        seq=row.seq,
        state=row.state,
        created_at=row.created_at,
        due_at=row.due_at if row.state == MessageState.PENDING else None,
        delivered_at=row.delivered_at,
        tries=tuple(TryView(at=one.at, status=one.status, error=one.error, took_ms=one.took_ms) for one in tries),
    )

"""Tokens: make one, find it again, take it back. None of it reaches further than the token that asks."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from fairlead.errors import BadInput, Conflict, NotFound, Problem
from fairlead.representation import NewTokenView, Page, TokenRequest, TokenView
from fairlead.rights import Role
from fairlead.store import idempotency, tokens
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tables import TokenRow
from fairlead.store.tokens import Principal
from fairlead_api.access import REFUSAL, Caller
from fairlead_api.audits import note_made
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.filters import read_filters
from fairlead_api.keys import ANSWERS_KEPT, RequiredKey
from fairlead_api.openapi import problems, takes
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, cursor_after, read_cursor
from fairlead_api.parts import Api, ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["people"])
TokenId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,32}$")]
_EXAMPLE = {"label": "nightly training", "project": "vision", "role": "editor", "lifetime_days": 90}


@router.post(
    "/tokens",
    operation_id="createToken",
    summary="Make a token; its secret is shown this once",
    status_code=201,
    response_model=NewTokenView,
    responses={
        201: {"headers": {"Location": {"description": "The token's address", "schema": {"type": "string"}}}},
        **problems(400, 404, 409, 413, 415, 422),
    },
    openapi_extra=takes(TokenRequest, _EXAMPLE),
)
def create(
    api: ApiParts,
    caller: Caller,
    body: SpecBody,
    key: RequiredKey,
) -> Response:
    """For oneself; for others by an admin of the project it is bound to, or of everything. Agents' by the latter.

    The secret is kept nowhere: a repeated ``Idempotency-Key`` makes no second token, and answers 409 with its id.
    """
    given = read_document(TokenRequest, body)
    _refuse_reach(caller, given)
    scope = {"principal": caller.token_id, "route": "POST /v1/tokens", "key": key}
    digest, now = hashlib.sha256(body).hexdigest(), api.now()
    with api.store.write() as session:
        if (known := idempotency.find(session, **scope, body_sha256=digest)) is not None:
            made = TokenView.model_validate_json(known.body).id
            raise Conflict(
                f"token {made} was made under this Idempotency-Key, and its secret was shown then; if it is lost, "
                "revoke that token and make another under another key"
            )
        token_id, token = tokens.new_token()
        row = tokens.insert(
            session,
            id=token_id,
            sha256=tokens.hash_token(token),
            kind=given.kind,
            name=given.name or caller.name,
            label=given.label,
            cluster=given.cluster,
            project=(given.project or caller.project) if given.kind == tokens.USER else None,
            role=given.role or caller.role,
            created_by=caller.name,
            created_at=now,
            expires_at=_end(caller, given, now),
        )
        note_made(session, "token", row.id, project=row.project)
        headers = {"Location": f"/v1/tokens/{row.id}"}
        stored = StoredAnswer(status=201, headers=headers, body=_view(row).model_dump_json())
        idempotency.insert(session, **scope, body_sha256=digest, answer=stored, expires_at=now + ANSWERS_KEPT)
        view = NewTokenView(**_view(row).model_dump(), token=token)
    return answer(view, status=201, headers=headers)


def _refuse_reach(caller: Principal, given: TokenRequest) -> None:
    """Raise ``NotFound`` for a token that is not the caller's to make."""
    rights, is_own = caller.rights, given.name in (None, caller.name)
    project = given.project or caller.project
    if given.kind == tokens.AGENT or project is None:
        may = rights.may_everywhere(Role.ADMIN) or (is_own and given.kind == tokens.USER and caller.project is None)
    else:
        may = rights.may(Role.ADMIN, project) or (is_own and rights.may(Role.VIEWER, project))
    is_narrower = caller.role.covers(given.role or caller.role) and caller.project in (None, project)
    if not may or not is_narrower:
        raise NotFound(REFUSAL)


def _end(caller: Principal, given: TokenRequest, now: datetime) -> datetime | None:
    """When it ends. Raises ``BadInput`` where it would outlive the token that asks for it."""
    if given.lifetime_days is None:
        return caller.expires_at
    end = now + timedelta(days=given.lifetime_days)
    if caller.expires_at is not None and end > caller.expires_at:
        message = f"it would outlive the token that asks for it, which ends at {caller.expires_at.isoformat()}"
        raise BadInput(message, problems=(Problem(pointer="/lifetime_days", message=message),))
    return end


@router.get(
    "/tokens",
    operation_id="listTokens",
    summary="Tokens, newest first, without their secrets",
    response_model=Page[TokenView],
    responses=problems(422),
)
def list_tokens(
    request: Request,
    api: ApiParts,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
) -> Response:
    """One's own, and those bound to a project that one is an admin of; an admin of everything sees all."""
    read_filters(request.query_params, {})
    after = read_cursor(api, cursor)
    projects = caller.rights.projects(Role.ADMIN)
    member = caller.name if caller.project is None else None
    if caller.project is not None:
        projects = (caller.project,) if caller.rights.may(Role.ADMIN, caller.project) else ()
    with api.store.read() as session:
        rows = tokens.page(session, limit=limit + 1, after=after, member=member, projects=projects)
    items, following = rows[:limit], None
    if len(rows) > limit:
        last = items[-1]
        query = [("limit", str(limit)), ("cursor", cursor_after(api, last.created_at, last.id))]
        following = address("/v1/tokens", query)
    return answer(Page[TokenView](items=tuple(_view(row) for row in items), next=following))


@router.get(
    "/tokens/{token_id}",
    operation_id="getToken",
    summary="One token, without its secret",
    response_model=TokenView,
    responses=problems(404),
)
def show(api: ApiParts, caller: Caller, token_id: TokenId) -> Response:
    """Whose it is, what it is good for, until when, and when it was last used."""
    return answer(_view(_get(api, caller, token_id)))


@router.delete(
    "/tokens/{token_id}",
    operation_id="revokeToken",
    summary="Take a token back",
    status_code=204,
    responses=problems(404),
)
def revoke(api: ApiParts, caller: Caller, token_id: TokenId) -> Response:
    """It works no more from this moment. A second time changes nothing."""
    _get(api, caller, token_id)
    with api.store.write() as session:
        tokens.revoke(session, token_id, now=api.now())
    return Response(status_code=204)


def _get(api: Api, caller: Principal, token_id: str) -> TokenRow:
    """The token, if it is the caller's to see. Raises ``NotFound`` alike for the others and for none."""
    with api.store.read() as session:
        row = tokens.find(session, token_id)
    if row is None or not _is_in_reach(caller, row):
        raise NotFound(REFUSAL)
    return row


def _is_in_reach(caller: Principal, row: TokenRow) -> bool:
    if row.id == caller.token_id or caller.rights.may_everywhere(Role.ADMIN):
        return True
    if caller.project not in (None, row.project) or not caller.role.covers(Role(row.role)):
        return False
    is_own = row.kind == tokens.USER and row.name == caller.name
    return is_own or (row.project is not None and caller.rights.may(Role.ADMIN, row.project))


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        id=row.id,
        kind=row.kind,
        name=row.name,
        label=row.label or "",
        project=row.project,
        role=Role(row.role),
        cluster=row.cluster,
        created_by=row.created_by or "",
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )

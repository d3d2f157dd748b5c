"""The audit: who wrote what, from where, by which request."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from fairlead.representation import AuditView, Page
from fairlead.rights import Role
from fairlead.store import audit
from fairlead.store.tables import AuditRow
from fairlead_api.access import Caller
from fairlead_api.filters import among, read_filters
from fairlead_api.openapi import problems
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, bad_cursor, decode_token, encode_token
from fairlead_api.parts import Api, ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["people"])
LINES_TYPE = "application/jsonl"
PIECE = 500
"""Rows of an export that are read at once; no connection is held while they are sent."""
Wanted = dict[str, tuple[str, ...]]


@router.get(
    "/audit",
    operation_id="listAudit",
    summary="Every write by a user, newest first",
    response_model=Page[AuditView],
    responses={200: {"content": {LINES_TYPE: {}}}, **problems(404, 422)},
)
async def list_audit(
    request: Request,
    api: ApiParts,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
    project: Annotated[str | None, Query(examples=["eq:vision"])] = None,
    actor: Annotated[str | None, Query(examples=["eq:local"])] = None,
    action: Annotated[str | None, Query(examples=["in:createToken,revokeToken"])] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Of the projects that the caller is an admin of. With ``Accept: application/jsonl`` all of it, oldest first."""
    del project, actor, action  # declared for the description; read all at once, since they may be repeated
    wanted = read_filters(request.query_params, {"project": None, "actor": None, "action": None})
    wanted = among(wanted, "project", caller.rights.projects(Role.ADMIN))
    if LINES_TYPE in accept:
        return StreamingResponse(_lines(api, wanted), media_type=LINES_TYPE)
    before = _position(api, cursor)
    rows = await asyncio.to_thread(_page, api, wanted, limit=limit + 1, before=before)
    items, following = rows[:limit], None
    if len(rows) > limit:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        following = address("/v1/audit", [*kept, ("cursor", encode_token(api, "audit", items[-1].id))])
    return answer(Page[AuditView](items=tuple(_view(row) for row in items), next=following))


def _position(api: Api, cursor: str | None) -> int | None:
    if cursor is None:
        return None
    content = decode_token(api, "audit", cursor)
    if not isinstance(content, int):
        raise bad_cursor()
    return content


def _page(
    api: Api, wanted: Wanted, *, limit: int, before: int | None = None, after: int | None = None
) -> list[AuditRow]:
    if any(values == () for values in wanted.values()):
        return []
    with api.store.read() as session:
        return audit.page(
            session,
            limit=limit,
            before=before,
            after=after,
            projects=wanted.get("project"),
            actors=wanted.get("actor", ()),
            actions=wanted.get("action", ()),
        )


async def _lines(api: Api, wanted: Wanted) -> AsyncIterator[bytes]:
    last = 0
    while rows := await asyncio.to_thread(_page, api, wanted, limit=PIECE, after=last):
        last = rows[-1].id
        yield b"".join(_view(row).model_dump_json().encode() + b"\n" for row in rows)


def _view(row: AuditRow) -> AuditView:
    return AuditView(
        id=row.id,
        at=row.at,
        actor=row.actor,
        token_id=row.token_id,
        address=row.address,
        request_id=row.request_id,
        action=row.action,
        target=row.target,
        project=row.project,
        before_sha256=row.before_sha256,
        after_sha256=row.after_sha256,
    )

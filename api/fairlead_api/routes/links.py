"""Signed addresses of a few minutes, so that a browser without a token can open one page."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import BadInput, NotFound, Problem
from fairlead.representation import LinkView
from fairlead.rights import Role
from fairlead.spec import Document
from fairlead.store import audit, experiments
from fairlead_api.access import REFUSAL, Caller
from fairlead_api.audits import note_made
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.pages import decode_token, encode_token
from fairlead_api.parts import Api, ApiParts
from fairlead_api.routes.progress import PAGE_OF_EVENTS, events_page, logs_answer, report_answer
from fairlead_api.views import answer

router = APIRouter(tags=["progress"])
LIFETIME = timedelta(minutes=10)
_PAGE = re.compile(r"^/v1/experiments/([a-z0-9][a-z0-9-]{0,63})/(report|logs|events)$")
_NUMBERS = {"logs": ("rank", "attempt", "tail"), "events": ("after",), "report": ()}


class LinkRequest(Document):
    """Which page: the address of a report, of logs or of events, with its query."""

    path: str


@router.post(
    "/v1/links",
    operation_id="createLink",
    summary="Sign an address that opens one page without a token",
    status_code=201,
    response_model=LinkView,
    responses=problems(404, 413, 415, 422),
    openapi_extra=takes(LinkRequest, {"path": "/v1/experiments/3f9c0a1b2c4d/report"}),
)
def create_link(api: ApiParts, caller: Caller, body: SpecBody) -> Response:
    """For reports, logs and events only; whoever has the address can read that page until it expires."""
    path = read_document(LinkRequest, body).path
    experiment_id, page, numbers = _read_path(path)
    with api.store.write() as session:
        project = experiments.project_of(session, experiment_id)
        if project is None or not caller.rights.may(Role.VIEWER, project):
            raise NotFound(REFUSAL)
        note_made(session, "link", path[:150], project=project, sha256=audit.digest({"path": path}))
    expires_at = api.now() + LIFETIME
    token = encode_token(api, "link", [int(expires_at.timestamp()), experiment_id, page, numbers])
    url = f"{api.settings.public_url.rstrip('/')}/links/{token}"
    return answer(LinkView(url=url, expires_at=expires_at), status=201)


def _read_path(path: str) -> tuple[str, str, dict[str, int]]:
    parts = urlsplit(path)
    match = _PAGE.match(parts.path)
    given = parse_qs(parts.query, keep_blank_values=True)
    allowed = _NUMBERS[match[2]] if match else ()
    fits = all(name in allowed and values[-1].isdecimal() and len(values[-1]) < 10 for name, values in given.items())
    if match is None or not fits or parts.netloc:
        message = "links are for /v1/experiments/{id}/report, /logs (rank, attempt, tail) and /events (after)"
        raise BadInput(message, problems=(Problem(pointer="/path", message=message),))
    return match[1], match[2], {name: int(values[-1]) for name, values in given.items()}


@router.get(
    "/links/{token}",
    operation_id="openLink",
    summary="The page that a link was signed for",
    response_class=Response,
    responses={200: {"content": {"text/html": {}, "text/plain": {}, "application/json": {}}}, **problems(404)},
)
def open_link(api: ApiParts, token: Annotated[str, Path(max_length=1000)]) -> Response:
    """No token is needed. 404 once it has expired, and for an address that was not signed here."""
    content = decode_token(api, "link", token)
    if not isinstance(content, list) or datetime.fromtimestamp(content[0], UTC) <= api.now():
        raise NotFound("this link has expired or was never valid; ask for a new one")
    _, experiment_id, page, numbers = content
    return _page(api, experiment_id, page, numbers)


def _page(api: Api, experiment_id: str, page: str, numbers: dict[str, int]) -> Response:
    if page == "report":
        return report_answer(api, experiment_id, as_page=True)
    if page == "events":
        return answer(events_page(api, experiment_id, numbers.get("after", 0), PAGE_OF_EVENTS))
    tail = min(numbers.get("tail", 1000), 10_000)
    return logs_answer(api, experiment_id, numbers.get("rank", 0), numbers.get("attempt"), tail, None)

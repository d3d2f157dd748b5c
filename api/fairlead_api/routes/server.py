"""The server itself: is it well, what is it, and who am I?"""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from fairlead import __version__
from fairlead.errors import Unavailable
from fairlead.evaluation.signing import public_key
from fairlead.protocol import PROTOCOL
from fairlead.representation import ReportKeyView, VersionView, WhoAmI
from fairlead.secret_key import report_seed
from fairlead.store import check_revision, check_writable, schema_revision
from fairlead_api.access import Caller
from fairlead_api.meters import CONTENT_TYPE, Meters
from fairlead_api.openapi import problems
from fairlead_api.parts import ApiParts
from fairlead_api.views import answer

router = APIRouter(tags=["server"])


@router.get("/healthz", operation_id="isAlive", summary="The process answers", response_class=PlainTextResponse)
async def healthz() -> Response:
    """Nothing is looked at, and no thread is needed for it."""
    return PlainTextResponse("ok\n")


@router.get(
    "/startupz",
    operation_id="hasStarted",
    summary="The server has once been able to work",
    response_class=PlainTextResponse,
    responses=problems(503),
)
async def startupz(api: ApiParts) -> Response:
    """503 until the database has answered once and has this release's schema; from then on nothing is looked at."""
    if not api.has_started.is_set():
        await asyncio.to_thread(check_revision, api.store)
        api.has_started.set()
    return PlainTextResponse("started\n")


@router.get(
    "/readyz",
    operation_id="isReady",
    summary="The database answers, has this release's schema and takes writes",
    response_class=PlainTextResponse,
    responses=problems(503),
)
def readyz(api: ApiParts) -> Response:
    """503 where it does not, and once the server has been asked to end."""
    if api.stopping.is_set():
        raise Unavailable("the server is about to end")
    check_revision(api.store)
    check_writable(api.store)
    return PlainTextResponse("ready\n")


@router.get(
    "/metrics",
    operation_id="readMeters",
    summary="Numbers about the server, for Prometheus",
    response_class=PlainTextResponse,
    responses=problems(503),
)
def meters(request: Request) -> Response:
    """Requests, streams, the queue, clusters, loops, and what is behind. Needs a viewer of all projects."""
    found: Meters = request.app.state.meters
    return Response(found.text(), media_type=CONTENT_TYPE)


@router.get("/v1/version", operation_id="getVersion", summary="What is running", response_model=VersionView)
def version(api: ApiParts) -> Response:
    """Release, agent protocol, database schema, where MLflow is, and the key that signs reports."""
    view = VersionView(
        version=__version__,
        protocol=PROTOCOL,
        schema_revision=schema_revision(api.store) or "",
        mlflow_url=api.settings.mlflow_public_url or api.settings.mlflow_url,
        report_key=ReportKeyView(**public_key(report_seed(api.secret))),
    )
    return answer(view)


@router.get("/v1/whoami", operation_id="whoAmI", summary="Whose token this is", response_model=WhoAmI)
def whoami(caller: Caller) -> Response:
    """Whom it speaks for, and the roles that it has now."""
    view = WhoAmI(
        kind=caller.kind,
        name=caller.name,
        token_id=caller.token_id,
        expires_at=caller.expires_at,
        everywhere=caller.rights.everywhere,
        projects=dict(caller.rights.in_projects),
    )
    return answer(view)

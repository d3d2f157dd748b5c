"""Registered models, and what in MLflow's registry differs from what was registered."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fairlead.flags import FlagCode
from fairlead.representation import ModelVersionView, Page, RegistryFlagsView, RegistryFlagView
from fairlead.rights import Role
from fairlead.store import flags, model_versions
from fairlead.store.tables import ExperimentRow, ModelVersionRow, RegistryFlagRow
from fairlead_api.access import Caller
from fairlead_api.filters import among, read_filters
from fairlead_api.openapi import problems
from fairlead_api.pages import DEFAULT_LIMIT, MAX_LIMIT, address, cursor_after, read_cursor
from fairlead_api.parts import ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1/models", tags=["models"])
FILTERS = {"project": None, "name": None}


@router.get(
    "",
    operation_id="listModels",
    summary="Registered model versions, newest first",
    response_model=Page[ModelVersionView],
    responses=problems(422),
)
def list_models(
    request: Request,
    api: ApiParts,
    caller: Caller,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=500, description="From `next` of the page before.")] = None,
    project: Annotated[str | None, Query(examples=["eq:default"])] = None,
    name: Annotated[str | None, Query(examples=["eq:diabetes-risk"])] = None,
) -> Response:
    """Each with its experiment, the outcome of its report, and what is wrong with it in MLflow.

    Filters are written ``field=eq:value`` or ``field=in:a,b``; repeated ones must all hold.
    """
    del project, name  # declared for the description; read all at once, since they may be repeated
    wanted = among(read_filters(request.query_params, FILTERS), "project", caller.rights.projects())
    after = read_cursor(api, cursor)
    if any(values == () for values in wanted.values()):
        return answer(Page[ModelVersionView](items=()))
    with api.store.read() as session:
        rows = model_versions.page(
            session,
            limit=limit + 1,
            after=after,
            projects=wanted.get("project", ()),
            names=wanted.get("name", ()),
        )
        flagged = flags.of_versions(session, [(version.name, version.version) for version, _ in rows])
    items, following = rows[:limit], None
    if len(rows) > limit:
        kept = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
        last, _ = items[-1]
        cursor = cursor_after(api, last.registered_at, last.experiment_id)
        following = address("/v1/models", [*kept, ("cursor", cursor)])
    views = tuple(_version_view(version, row, flagged) for version, row in items)
    return answer(Page[ModelVersionView](items=views, next=following))


@router.get(
    "/flags",
    operation_id="listRegistryFlags",
    summary="What in MLflow's registry is not what was registered",
    response_model=RegistryFlagsView,
)
def list_flags(api: ApiParts, caller: Caller) -> Response:
    """Of models of the caller's projects; models that nobody registered here are told to admins of everything."""
    with api.store.read() as session:
        rows = flags.every(session, projects=caller.rights.projects())
        checked = flags.checked(session)
    sees_others = caller.rights.may_everywhere(Role.ADMIN)
    views = tuple(_flag_view(row) for row in rows if row.project is not None or sees_others)
    return answer(RegistryFlagsView(checked_at=checked.checked_at if checked else None, items=views))


def _version_view(version: ModelVersionRow, row: ExperimentRow, flagged: Iterable[RegistryFlagRow]) -> ModelVersionView:
    return ModelVersionView(
        name=version.name,
        version=version.version,
        alias=version.alias,
        project=version.project,
        experiment_id=version.experiment_id,
        registered_at=version.registered_at,
        report_sha256=row.report_sha256,
        report_outcome=row.report_outcome,
        overridden=tuple(gate["id"] for gate in row.gates if gate.get("override")),
        flags=tuple(
            _flag_view(one)
            for one in flagged
            if (one.name, one.version) == (version.name, version.version) and one.project == version.project
        ),
    )


def _flag_view(row: RegistryFlagRow) -> RegistryFlagView:
    return RegistryFlagView(
        code=row.code,
        level=FlagCode(row.code).level,
        name=row.name,
        version=row.version or None,
        alias=row.alias or None,
        project=row.project,
        experiment_id=row.experiment_id,
        message=row.message,
        advice=row.advice,
        first_seen_at=row.first_seen_at,
    )

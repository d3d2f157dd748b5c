"""Projects and who has which role in them. ``*`` as a project's name stands for all of them."""

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import NotFound
from fairlead.representation import MembershipRequest, MembershipView, Page, ProjectView
from fairlead.rights import EVERYWHERE, Role
from fairlead.store import Session, members, projects
from fairlead.store.tables import MembershipRow, ProjectRow
from fairlead.store.tokens import Principal
from fairlead_api.access import REFUSAL, Caller
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["people"])
ProjectName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
ProjectOrAll = Annotated[str, Path(pattern=r"^([a-z0-9][a-z0-9_-]{0,62}|\*)$", description="`*`: all projects.")]
Member = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$")]


@router.get(
    "/projects",
    operation_id="listProjects",
    summary="Projects that the caller may see, by name",
    response_model=Page[ProjectView],
)
def list_projects(api: ApiParts, caller: Caller) -> Response:
    """With the caller's role in each."""
    with api.store.read() as session:
        rows = projects.every(session)
    views = tuple(_view(caller, row) for row in rows if caller.rights.may(Role.VIEWER, row.name))
    return answer(Page[ProjectView](items=views))


@router.get(
    "/projects/{name}",
    operation_id="getProject",
    summary="One project",
    response_model=ProjectView,
    responses=problems(404),
)
def show(api: ApiParts, caller: Caller, name: ProjectName) -> Response:
    """With the caller's role in it."""
    with api.store.read() as session:
        return answer(_view(caller, _get(session, name)))


@router.put(
    "/projects/{name}",
    operation_id="putProject",
    summary="Create a project",
    response_model=ProjectView,
    responses={201: {"model": ProjectView, "description": "It is new"}, **problems(404, 422)},
)
def put(api: ApiParts, caller: Caller, name: ProjectName) -> Response:
    """201, or 200 if it is there already. By an admin of everything."""
    with api.store.write() as session:
        is_new = projects.find(session, name) is None
        row = projects.ensure(session, name, now=api.now())
        view = _view(caller, row)
    headers = {"Location": f"/v1/projects/{name}"}
    return answer(view, status=201 if is_new else 200, headers=headers)


@router.get(
    "/projects/{name}/members",
    operation_id="listMembers",
    summary="Who has which role in a project, by name",
    response_model=Page[MembershipView],
    responses=problems(404),
)
def list_members(api: ApiParts, name: ProjectOrAll) -> Response:
    """Of ``*``: who has a role in all projects, those to come included."""
    with api.store.read() as session:
        if name != EVERYWHERE:
            _get(session, name)
        rows = members.of_project(session, name)
    return answer(Page[MembershipView](items=tuple(_member(row) for row in rows)))


@router.put(
    "/projects/{name}/members/{member}",
    operation_id="putMember",
    summary="Give somebody a role in a project",
    response_model=MembershipView,
    responses={201: {"model": MembershipView, "description": "They are new"}, **problems(404, 409, 413, 415, 422)},
    openapi_extra=takes(MembershipRequest, {"role": "editor"}),
)
def put_member(api: ApiParts, caller: Caller, name: ProjectOrAll, member: Member, body: SpecBody) -> Response:
    """It counts from the member's next request on, for all of their tokens. 409 for the last admin of everything."""
    given = read_document(MembershipRequest, body)
    with api.store.write() as session:
        if name != EVERYWHERE:
            _get(session, name)
        is_new = members.put(session, project=name, member=member, role=given.role, by=caller.name, now=api.now())
        view = _member(members.get(session, name, member))
    headers = {"Location": f"/v1/projects/{name}/members"}
    return answer(view, status=201 if is_new else 200, headers=headers)


@router.delete(
    "/projects/{name}/members/{member}",
    operation_id="removeMember",
    summary="Take somebody's role in a project away",
    status_code=204,
    responses=problems(404, 409),
)
def remove_member(api: ApiParts, name: ProjectOrAll, member: Member) -> Response:
    """It counts from the member's next request on. 409 for the last admin of everything."""
    with api.store.write() as session:
        members.remove(session, project=name, member=member)
    return Response(status_code=204)


def _get(session: Session, name: str) -> ProjectRow:
    row = projects.find(session, name)
    if row is None:
        raise NotFound(REFUSAL)
    return row


def _view(caller: Principal, row: ProjectRow) -> ProjectView:
    role = caller.rights.role_in(row.name)
    assert role is not None, "the rule of each route here asks for one"
    return ProjectView(name=row.name, created_at=row.created_at, role=role)


def _member(row: MembershipRow) -> MembershipView:
    return MembershipView(
        project=row.project,
        member=row.member,
        role=Role(row.role),
        created_by=row.created_by,
        created_at=row.created_at,
    )

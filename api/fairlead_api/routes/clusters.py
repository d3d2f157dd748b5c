"""Clusters, and what a human decides about them: empty one, open it again, give it up."""

from typing import Annotated

import structlog
from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import Conflict
from fairlead.representation import ClusterChange, ClusterView, LossDeclaration, Page
from fairlead.rights import Role
from fairlead.store import Session, attempts, clusters, exclusions
from fairlead.store.clusters import ClusterState
from fairlead.store.tables import ClusterRow
from fairlead.store.tokens import Principal
from fairlead_api.access import Caller
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import Api, ApiParts
from fairlead_api.routes.experiments import note_loss
from fairlead_api.views import answer

router = APIRouter(prefix="/v1", tags=["clusters"])
Name = Annotated[str, Path(max_length=64)]
_ANSWERS = problems(404, 409)
logger = structlog.get_logger(__name__)


@router.get("/clusters", operation_id="listClusters", summary="Clusters, by name", response_model=Page[ClusterView])
def list_clusters(api: ApiParts, caller: Caller) -> Response:
    """What each has, what is in use, and why one gets no work."""
    with api.store.read() as session:
        views = tuple(_view(api, session, row, caller) for row in clusters.every(session))
    return answer(Page[ClusterView](items=views))


@router.get(
    "/clusters/{name}",
    operation_id="getCluster",
    summary="One cluster",
    response_model=ClusterView,
    responses=problems(404),
)
def show(api: ApiParts, caller: Caller, name: Name) -> Response:
    """The same, of one."""
    with api.store.read() as session:
        return answer(_view(api, session, clusters.get(session, name), caller))


@router.patch(
    "/clusters/{name}",
    operation_id="labelCluster",
    summary="Say what a cluster is, for specs to ask for",
    response_model=ClusterView,
    responses=problems(404, 413, 415, 422),
    openapi_extra=takes(ClusterChange, {"labels": {"gpu": "h100"}}),
)
def label(api: ApiParts, caller: Caller, name: Name, body: SpecBody) -> Response:
    """Experiments whose ``resources.labels`` it carries may be placed there from now on; what runs there goes on."""
    change = read_document(ClusterChange, body)
    with api.store.write() as session:
        clusters.set_labels(session, name, change.labels)
        view = _view(api, session, clusters.get(session, name), caller)
    logger.info("a cluster is labelled", cluster=name, labels=view.labels, actor=caller.name)
    api.hint()
    return answer(view)


def _view(api: Api, session: Session, row: ClusterRow, caller: Principal) -> ClusterView:
    """What was lost on it, of any project, is told to those who may see all projects."""
    living = [node for node in row.nodes if node["is_alive"]]
    excluded = {one.node_id for one in exclusions.on(session, row.name)}
    cpus, gpus, _ = clusters.usage(session).get(row.name, (0, 0, 0))
    return ClusterView(
        name=row.name,
        state=row.state,
        why=clusters.why_closed(session, row, tells_losses=caller.rights.may_everywhere(Role.VIEWER)),
        is_agent_fresh=clusters.has_fresh_agent(row, ttl_s=api.settings.agent_ttl_s, now=api.now()),
        last_sync_at=row.last_sync_at,
        nodes=len(living),
        nodes_excluded=sum(node["node_id"] in excluded for node in living),
        cpus=sum(node["cpus"] for node in living),
        gpus=sum(node["gpus"] for node in living),
        cpus_in_use=cpus,
        gpus_in_use=gpus,
        open_attempts=len(attempts.open_on(session, row.name)),
        agent_version=row.agent_version,
        ray_version=row.ray_version,
        labels=row.labels or {},
    )


@router.post(
    "/clusters/{name}/drain",
    operation_id="drainCluster",
    summary="No new work for a cluster",
    response_model=ClusterView,
    responses=_ANSWERS,
)
def drain(api: ApiParts, caller: Caller, name: Name) -> Response:
    """What runs there goes on to its end. A second call changes nothing."""
    with api.store.write() as session:
        row = clusters.get(session, name)
        if row.state == ClusterState.RETIRED:
            raise Conflict(f"cluster {name} is retired: it gets no work anyway")
        _change(session, row, ClusterState.DRAINING, caller.name)
        view = _view(api, session, row, caller)
    return answer(view)


@router.post(
    "/clusters/{name}/activate",
    operation_id="activateCluster",
    summary="Work for a cluster again",
    response_model=ClusterView,
    responses=_ANSWERS,
)
def activate(api: ApiParts, caller: Caller, name: Name) -> Response:
    """After it was drained, suspected or retired. A second call changes nothing."""
    with api.store.write() as session:
        row = clusters.get(session, name)
        _change(session, row, ClusterState.ACTIVE, caller.name)
        view = _view(api, session, row, caller)
    api.hint()
    return answer(view)


@router.post(
    "/clusters/{name}/retire",
    operation_id="retireCluster",
    summary="Vouch for a cluster's end",
    response_model=ClusterView,
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=takes(LossDeclaration, {"reason": "the machines were given back"}),
)
def retire(api: ApiParts, caller: Caller, name: Name, body: SpecBody) -> Response:
    """Its open attempts are declared lost. Refused while its agent answers and has some, but for ``force``."""
    given = read_document(LossDeclaration, body)
    with api.store.write() as session:
        row = clusters.get(session, name)
        here = [one for one in attempts.open_on(session, name) if one.declared_lost_by is None]
        is_fresh = clusters.has_fresh_agent(row, ttl_s=api.settings.agent_ttl_s, now=api.now())
        if here and is_fresh and not given.force:
            raise Conflict(
                f"the agent of cluster {name} answers and has {len(here)} open attempts: drain it and wait for their "
                'end, or say "force": true'
            )
        _change(session, row, ClusterState.RETIRED, caller.name)
        for attempt in here:
            reason = f"cluster {name} is retired: {given.reason}"
            note_loss(session, attempt, reason, actor=caller.name, now=api.now())
        view = _view(api, session, row, caller)
    api.hint()
    return answer(view)


def _change(session: Session, row: ClusterRow, to: ClusterState, actor: str) -> None:
    before = row.state
    if clusters.change_state(session, row.name, to, sources=tuple(state for state in ClusterState if state != to)):
        logger.warning("a cluster changes hands", cluster=row.name, before=before, after=to, actor=actor)

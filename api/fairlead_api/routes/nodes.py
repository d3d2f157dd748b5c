"""Nodes of clusters: which there are, and which of them get no workers."""

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path
from starlette.responses import Response

from fairlead.errors import NotFound
from fairlead.representation import NodeExclusion, NodeView, Page
from fairlead.rights import Role
from fairlead.store import Session, clusters, exclusions
from fairlead.store.tables import ClusterRow
from fairlead.store.tokens import Principal
from fairlead_api.access import Caller
from fairlead_api.bodies import SpecBody, read_document
from fairlead_api.openapi import problems, takes
from fairlead_api.parts import ApiParts
from fairlead_api.views import answer

router = APIRouter(prefix="/v1/clusters/{name}/nodes", tags=["clusters"])
Name = Annotated[str, Path(max_length=64)]
NodeId = Annotated[str, Path(max_length=100)]
logger = structlog.get_logger(__name__)


@router.get(
    "",
    operation_id="listNodes",
    summary="Nodes of a cluster, by id",
    response_model=Page[NodeView],
    responses=problems(404),
)
def list_nodes(api: ApiParts, caller: Caller, name: Name) -> Response:
    """What each has, and why one gets no workers. Those that Ray has given up are shown until it forgets them."""
    with api.store.read() as session:
        views = _views(session, clusters.get(session, name), caller)
    return answer(Page[NodeView](items=views))


@router.post(
    "/{node_id}/exclude",
    operation_id="excludeNode",
    summary="No more workers for a node",
    response_model=NodeView,
    responses=problems(404, 413, 415, 422),
    openapi_extra=takes(NodeExclusion, {"reason": "its second GPU falls off the bus"}),
)
def exclude(api: ApiParts, caller: Caller, name: Name, node_id: NodeId, body: SpecBody) -> Response:
    """What runs there goes on. A second call changes nothing, nor does one after the platform itself excluded it."""
    given = read_document(NodeExclusion, body)
    with api.store.write() as session:
        row = clusters.get(session, name)
        _known(row, node_id)
        if exclusions.exclude(session, name, node_id, reason=given.reason, by=caller.name, now=api.now()):
            logger.warning("a node is excluded", cluster=name, node=node_id, why=given.reason, actor=caller.name)
        view = _view(session, row, node_id, caller)
    api.hint()
    return answer(view)


@router.post(
    "/{node_id}/readmit",
    operation_id="readmitNode",
    summary="Workers for a node again",
    response_model=NodeView,
    responses=problems(404),
)
def readmit(api: ApiParts, caller: Caller, name: Name, node_id: NodeId) -> Response:
    """What died there before counts no more. A second call changes nothing."""
    with api.store.write() as session:
        row = clusters.get(session, name)
        _known(row, node_id)
        if exclusions.readmit(session, name, node_id, now=api.now()):
            logger.warning("a node is readmitted", cluster=name, node=node_id, actor=caller.name)
        view = _view(session, row, node_id, caller)
    api.hint()
    return answer(view)


def _known(row: ClusterRow, node_id: str) -> dict[str, Any]:
    """Raises ``NotFound``."""
    found: dict[str, Any] | None = next((node for node in row.nodes if node["node_id"] == node_id), None)
    if found is None:
        raise NotFound(f"cluster {row.name} has no node {node_id!r}")
    return found


def _view(session: Session, row: ClusterRow, node_id: str, caller: Principal) -> NodeView:
    return next(view for view in _views(session, row, caller) if view.node_id == node_id)


def _views(session: Session, row: ClusterRow, caller: Principal) -> tuple[NodeView, ...]:
    excluded = {one.node_id: one for one in exclusions.on(session, row.name)}
    sees_all = caller.rights.may_everywhere(Role.VIEWER)
    return tuple(
        NodeView(
            cluster=row.name,
            node_id=node["node_id"],
            address=node["address"] if sees_all else "",
            is_alive=node["is_alive"],
            cpus=node["cpus"],
            gpus=node["gpus"],
            is_excluded=(why := excluded.get(node["node_id"])) is not None,
            why=why.reason if why else "",
            excluded_by=why.created_by if why else None,
            excluded_at=why.created_at if why else None,
        )
        for node in sorted(row.nodes, key=lambda node: str(node["node_id"]))
    )

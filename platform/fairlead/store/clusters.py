"""Questions about clusters and the epochs of their agents."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from fairlead.errors import NotFound, StaleAgent
from fairlead.lifecycle import EndedThere, Outcome, blame
from fairlead.protocol import AttachRequest, NodeInfo
from fairlead.store import attempts
from fairlead.store.rows import insert_if_absent, reread_if_loaded
from fairlead.store.tables import AttemptRow, ClusterRow


class ClusterState(StrEnum):
    """Whether a cluster gets offers: an active one does. What runs there goes on in every state."""

    ACTIVE = "active"
    DRAINING = "draining"
    """A human has it emptied."""
    SUSPECT = "suspect"
    """Too many attempts were lost there; it waits for a human."""
    RETIRED = "retired"
    """A human says that it is gone."""


def ensure(session: Session, name: str) -> ClusterRow:
    """The cluster, made active if it is new."""
    row = session.get(ClusterRow, name)
    if row is not None:
        return row
    blank = {"state": ClusterState.ACTIVE, "agent_epoch": 0, "agent_version": "", "ray_version": "", "nodes": []}
    insert_if_absent(session, ClusterRow, name=name, **blank)
    return get(session, name)


def get(session: Session, name: str) -> ClusterRow:
    """The cluster. Raises ``NotFound``."""
    row = session.get(ClusterRow, name)
    if row is None:
        raise NotFound(f"there is no cluster {name!r}")
    return row


def every(session: Session) -> list[ClusterRow]:
    """All clusters, by name."""
    return list(session.scalars(select(ClusterRow).order_by(ClusterRow.name)))


def attach(session: Session, name: str, request: AttachRequest, *, now: datetime) -> int:
    """Make the caller this cluster's agent; returns the new epoch, which fences all older agents out."""
    row = ensure(session, name)
    columns: dict[str, Any] = {
        "agent_epoch": ClusterRow.agent_epoch + 1,
        "agent_version": request.agent_version,
        "ray_version": request.ray_version,
        "nodes": [node.model_dump(mode="json") for node in request.nodes],
        "last_sync_at": now,
    }
    if request.ray_session and row.ray_session != request.ray_session:  # empty: the agent cannot see Ray, not a new one
        columns |= {"ray_session": request.ray_session, "ray_session_since": now}
    epoch = session.scalar(
        update(ClusterRow)
        .where(ClusterRow.name == name)
        .values(columns)
        .returning(ClusterRow.agent_epoch)
        .execution_options(synchronize_session=False)
    )
    assert epoch is not None, "ensured above"
    session.refresh(row)
    return epoch


def sync(
    session: Session, name: str, *, agent_epoch: int, ray_session: str, nodes: tuple[NodeInfo, ...], now: datetime
) -> bool:
    """Note an agent's sign of life; whether its nodes are others than before, or more is free on one of them.

    Raises ``StaleAgent`` for any but the newest.
    """
    row = get(session, name)
    before = row.nodes
    columns: dict[str, Any] = {"last_sync_at": now}
    if nodes:
        columns["nodes"] = [node.model_dump(mode="json") for node in nodes]
    if ray_session and row.ray_session != ray_session:
        columns |= {"ray_session": ray_session, "ray_session_since": now}
    changed = session.execute(
        update(ClusterRow)
        .where(ClusterRow.name == name, ClusterRow.agent_epoch == agent_epoch)
        .values(columns)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        raise StaleAgent(f"another agent has attached to cluster {name} since epoch {agent_epoch}")
    session.refresh(row)
    return _has_more_room(before, row.nodes)


def _has_more_room(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is something that who waits may hope for. Less room is what those who got it know already."""
    if before == after:
        return False
    known = {node["node_id"]: node for node in before}
    if {(node["node_id"], node["is_alive"]) for node in before} != {(n["node_id"], n["is_alive"]) for n in after}:
        return True
    return any(node[what] > known[node["node_id"]][what] for node in after for what in ("free_cpus", "free_gpus"))


def has_fresh_agent(row: ClusterRow, *, ttl_s: float, now: datetime) -> bool:
    """Whether its agent has been heard within ``ttl_s``."""
    return row.last_sync_at is not None and row.last_sync_at >= now - timedelta(seconds=ttl_s)


def change_state(session: Session, name: str, to: ClusterState, *, sources: tuple[ClusterState, ...]) -> bool:
    """Open or close a cluster that is in one of the states ``sources``; False if it is in another."""
    changed = session.execute(
        update(ClusterRow)
        .where(ClusterRow.name == name, ClusterRow.state.in_(sources))
        .values(state=to)
        .execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, ClusterRow, name)
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def set_labels(session: Session, name: str, changes: Mapping[str, str | None]) -> None:
    """Change what operators say of a cluster; None takes a label away. Raises ``NotFound``."""
    query = select(ClusterRow).where(ClusterRow.name == name).with_for_update(key_share=True)
    row = session.scalar(query.execution_options(populate_existing=True)) or get(session, name)
    row.labels = {key: value for key, value in {**(row.labels or {}), **changes}.items() if value is not None}
    session.flush()


def blamed_for(session: Session, name: str) -> str | None:
    """Why the cluster must be suspected, judged by the attempts that ended there last; or None."""
    return blame(
        EndedThere(
            experiment_id=one.experiment_id,
            ray_session=one.ray_session,
            node_id=one.node_id,
            outcome=Outcome(one.outcome or ""),
            reason=one.reason,
        )
        for one in attempts.ended_on(session, name)
    )


def why_closed(session: Session, row: ClusterRow, *, tells_losses: bool = False) -> str | None:
    """Why a cluster gets no offers; None for an active one. ``tells_losses``: names what was lost on a suspect one."""
    match row.state:
        case ClusterState.ACTIVE:
            return None
        case ClusterState.SUSPECT:
            told = blamed_for(session, row.name) if tells_losses else None
            why = told or "too many attempts were lost there"
            return f"suspect: {why}; look at it, then activate it"
        case ClusterState.DRAINING:
            return "draining: what runs there goes on, and nothing new begins until it is activated"
    return f"{row.state}: it gets no work until it is activated"


def usage(session: Session) -> dict[str, tuple[float, float, int]]:
    """CPUs, GPUs and launches under way, by cluster, of attempts without an outcome."""
    starting = case((AttemptRow.started_at.is_(None), 1), else_=0)
    query = select(AttemptRow.cluster, func.sum(AttemptRow.cpus), func.sum(AttemptRow.gpus), func.sum(starting)).where(
        AttemptRow.outcome.is_(None)
    )
    return {
        name: (cpus, gpus, int(launches))
        for name, cpus, gpus, launches in session.execute(query.group_by(AttemptRow.cluster))
    }

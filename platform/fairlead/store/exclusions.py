"""Questions about nodes that get no workers."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fairlead.lifecycle import NodeDeath, blame_nodes
from fairlead.store import attempts
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import ClusterRow, ExclusionRow


def by_cluster(session: Session) -> dict[str, frozenset[str]]:
    """Ids of excluded nodes, by cluster."""
    found: dict[str, set[str]] = {}
    query = select(ExclusionRow.cluster, ExclusionRow.node_id).where(ExclusionRow.readmitted_at.is_(None))
    for cluster, node_id in session.execute(query):
        found.setdefault(cluster, set()).add(node_id)
    return {cluster: frozenset(ids) for cluster, ids in found.items()}


def on(session: Session, cluster: str) -> list[ExclusionRow]:
    """Excluded nodes of a cluster, by id."""
    query = select(ExclusionRow).where(ExclusionRow.cluster == cluster, ExclusionRow.readmitted_at.is_(None))
    return list(session.scalars(query.order_by(ExclusionRow.node_id).execution_options(populate_existing=True)))


def exclude(session: Session, cluster: str, node_id: str, *, reason: str, by: str, now: datetime) -> bool:
    """Give a node no more workers; False if it had none already."""
    told = {"reason": reason, "created_at": now, "created_by": by}
    if insert_if_absent(session, ExclusionRow, cluster=cluster, node_id=node_id, **told):
        return True
    was_readmitted = ExclusionRow.readmitted_at.is_not(None)
    return _change(session, cluster, node_id, was_readmitted, {**told, "readmitted_at": None})


def readmit(session: Session, cluster: str, node_id: str, *, now: datetime) -> bool:
    """Take a node in again: what died there before counts no more. False if it was not excluded."""
    return _change(session, cluster, node_id, ExclusionRow.readmitted_at.is_(None), {"readmitted_at": now})


def _change(session: Session, cluster: str, node_id: str, stands: object, columns: dict[str, object]) -> bool:
    here = ExclusionRow.cluster == cluster, ExclusionRow.node_id == node_id, stands
    changed = session.execute(
        update(ExclusionRow).where(*here).values(columns).execution_options(synchronize_session=False)  # type: ignore[arg-type]
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def blamed_on(session: Session, cluster: ClusterRow, *, now: datetime) -> dict[str, tuple[NodeDeath, ...]]:
    """Living nodes of a cluster that get workers and must be excluded, judged by the deaths of a day.

    Never the last that can hold workers: with no other to compare it with, what died there says as little of the node
    as of whatever it ran, and an admin has to judge.
    """
    query = select(ExclusionRow.node_id, ExclusionRow.readmitted_at).where(ExclusionRow.cluster == cluster.name)
    words = session.execute(query).all()
    readmitted = {node: at for node, at in words if at is not None}
    living = {node["node_id"] for node in cluster.nodes if node["is_alive"] and node["cpus"] > 0}
    left = living - {node for node, at in words if at is None}
    blamed = blame_nodes(attempts.deaths_on(session, cluster.name, now=now), now=now, readmitted=readmitted)
    found = {node: deaths for node, deaths in blamed.items() if node in left}
    return dict(list(found.items())[: len(left) - 1])

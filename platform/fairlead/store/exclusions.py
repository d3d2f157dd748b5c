"""Questions about nodes that get no workers."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import ExclusionRow


def by_cluster(session: Session) -> dict[str, frozenset[str]]:
    """Ids of excluded nodes, by cluster."""
    found: dict[str, set[str]] = {}
    for cluster, node_id in session.execute(select(ExclusionRow.cluster, ExclusionRow.node_id)):
        found.setdefault(cluster, set()).add(node_id)
    return {cluster: frozenset(ids) for cluster, ids in found.items()}


def on(session: Session, cluster: str) -> list[ExclusionRow]:
    """Excluded nodes of a cluster, by id."""
    query = select(ExclusionRow).where(ExclusionRow.cluster == cluster).order_by(ExclusionRow.node_id)
    return list(session.scalars(query))


def exclude(session: Session, cluster: str, node_id: str, *, reason: str, now: datetime) -> bool:
    """Give a node no more workers; False if it had none already."""
    return insert_if_absent(session, ExclusionRow, cluster=cluster, node_id=node_id, reason=reason, created_at=now)


def readmit(session: Session, cluster: str) -> None:
    """Take all nodes of a cluster in again."""
    session.execute(delete(ExclusionRow).where(ExclusionRow.cluster == cluster))

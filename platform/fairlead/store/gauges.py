"""Numbers for those who run the server: what waits, since when, and for whom. Each is one question with an index."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fairlead.lifecycle import State
from fairlead.store.clusters import ClusterState
from fairlead.store.outbox import MessageState
from fairlead.store.tables import BatchRow, ClusterRow, ExperimentRow, ModelVersionRow, OutboxRow, WebhookEndpointRow
from fairlead.store.webhooks import EndpointState

MOST_PROJECTS = 20
MOST_CLUSTERS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Who waits to be placed: the projects with the longest queues, all others together, and the first to be queued."""

    by_project: tuple[tuple[str, int], ...]
    others: int
    oldest_at: datetime | None


def queue(session: Session) -> Queue:
    """The queue as it is now, by at most ``MOST_PROJECTS``."""
    number = func.count().label("number")
    # Who comes back to the queue keeps its first place in it, and running was no waiting.
    waits = select(ExperimentRow.enqueued_at, ExperimentRow.spent_s).where(ExperimentRow.state == State.QUEUED)
    query = (
        select(ExperimentRow.project, number).where(ExperimentRow.state == State.QUEUED).group_by(ExperimentRow.project)
    )
    rows = [(project, count) for project, count in session.execute(query)]
    rows.sort(key=lambda one: (-one[1], one[0]))
    return Queue(
        by_project=tuple(rows[:MOST_PROJECTS]),
        others=sum(count for _, count in rows[MOST_PROJECTS:]),
        oldest_at=min((at + timedelta(seconds=spent_s) for at, spent_s in session.execute(waits) if at), default=None),
    )


def clusters_in_use(session: Session) -> list[ClusterRow]:
    """Those that are not retired, by name; at most ``MOST_CLUSTERS``."""
    query = select(ClusterRow).where(ClusterRow.state != ClusterState.RETIRED)
    return list(session.scalars(query.order_by(ClusterRow.name).limit(MOST_CLUSTERS)))


def messages_given_up(session: Session) -> int:
    """Messages of webhooks whose last try has failed; they can be replayed."""
    query = select(func.count()).select_from(OutboxRow).where(OutboxRow.state == MessageState.FAILED)
    return session.scalar(query) or 0


def webhooks_disabled(session: Session) -> int:
    """Endpoints that get no messages until somebody enables them."""
    query = select(func.count()).select_from(WebhookEndpointRow)
    return session.scalar(query.where(WebhookEndpointRow.state == EndpointState.DISABLED)) or 0


def unrecorded_since(session: Session) -> datetime | None:
    """When the oldest batch of metric points came that MLflow has not got yet."""
    query = select(BatchRow.received_at).where(BatchRow.recorded_at.is_(None)).order_by(BatchRow.id).limit(1)
    return session.scalar(query)


def registered_since(session: Session) -> datetime | None:
    """When the first model version was registered."""
    query = select(ModelVersionRow.registered_at).order_by(ModelVersionRow.registered_at).limit(1)
    return session.scalar(query)

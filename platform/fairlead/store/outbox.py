"""Messages for webhooks: written with their event, claimed by the loop that sends them, kept for a month.

Whoever inserts an event inserts its messages, in the same transaction and whether or not he knows: it hangs on the
event's own insert. So there is no event without its messages and no message without its event.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, event, func, insert, or_, select, update
from sqlalchemy.orm import Mapper, Session

from fairlead.failpoints import failpoint
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import DeliveryRow, EventRow, ExperimentRow, OutboxRow, WebhookEndpointRow
from fairlead.store.webhooks import EndpointState

TEST_KIND = "test"
KEPT = timedelta(days=30)
MAX_REPLAYED = 1000
"""Messages of one call."""


class MessageState(StrEnum):
    """How far a message has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A message that the holder of ``lock_token`` sends, with what it needs to know of its endpoint."""

    id: int
    message_id: str
    endpoint_id: str
    experiment_id: str | None
    body: str
    tries: int
    url: str
    secret_no: int
    old_secret_until: datetime | None
    lock_token: str


# ---- written with the event -----------------------------------------------------------------------------------------


def message_id_of(experiment_id: str, seq: int) -> str:
    """The id of an event's message: the same for every endpoint, every try and every replay."""
    return f"evt_{experiment_id}_{seq}"


def is_wanted(kinds: Sequence[str], kind: str, to_state: str | None) -> bool:
    """Whether an endpoint that asks for ``kinds`` wants such an event: by its kind, or by the state it moves to."""
    return not kinds or kind in kinds or to_state in kinds


def body_of(row: EventRow, *, project: str, name: str) -> str:
    """What is sent for an event, the same text at every try since it is signed."""
    content = {
        "type": f"experiment.{row.kind}",
        "timestamp": row.at.isoformat(),
        "data": {
            "experiment_id": row.experiment_id,
            "project": project,
            "name": name,
            "seq": row.seq,
            "version": row.seq,
            "kind": row.kind,
            "from_state": row.from_state,
            "to_state": row.to_state,
            "attempt_no": row.attempt_no,
            "actor": row.actor,
            "reason": row.reason,
            "payload": row.payload,
        },
    }
    return json.dumps(content, allow_nan=False)


_MATCHING = (
    select(WebhookEndpointRow.id, WebhookEndpointRow.kinds, ExperimentRow.project, ExperimentRow.name)
    .join(ExperimentRow, or_(WebhookEndpointRow.project.is_(None), WebhookEndpointRow.project == ExperimentRow.project))
    .where(WebhookEndpointRow.state == EndpointState.ACTIVE, ExperimentRow.id == bindparam("experiment_id"))
)
"""Built once: it is asked for every event that is written, and building it cost more than asking it."""


@event.listens_for(EventRow, "after_insert")
def _announce(_: Mapper[EventRow], connection: Connection, row: EventRow) -> None:
    matching = connection.execute(_MATCHING, {"experiment_id": row.experiment_id})
    found = [one for one in matching if is_wanted(one.kinds, row.kind, row.to_state)]
    if found:
        failpoint("outbox.announcing")
        values = [_values(row, one.id, body_of(row, project=one.project, name=one.name)) for one in found]
        connection.execute(insert(OutboxRow), values)


def _values(row: EventRow, endpoint_id: str, body: str) -> dict[str, Any]:
    return {
        "endpoint_id": endpoint_id,
        "message_id": message_id_of(row.experiment_id, row.seq),
        "kind": row.kind,
        "experiment_id": row.experiment_id,
        "seq": row.seq,
        "body": body,
        "state": MessageState.PENDING,
        "created_at": row.at,
        "due_at": row.at,
        "tries": 0,
    }


def insert_test(session: Session, endpoint_id: str, *, message_id: str, actor: str, now: datetime) -> bool:
    """Write a message that is about nothing, unless it is there already; returns whether it was new."""
    content = {"type": "fairlead.test", "timestamp": now.isoformat(), "data": {"endpoint": endpoint_id, "actor": actor}}
    return insert_if_absent(
        session,
        OutboxRow,
        endpoint_id=endpoint_id,
        message_id=message_id,
        kind=TEST_KIND,
        body=json.dumps(content),
        state=MessageState.PENDING,
        created_at=now,
        due_at=now,
        tries=0,
    )


# ---- sent -----------------------------------------------------------------------------------------------------------


def _is_due(now: datetime) -> ColumnElement[bool]:
    is_free = or_(OutboxRow.lock_expires_at.is_(None), OutboxRow.lock_expires_at <= now)
    return and_(OutboxRow.state == MessageState.PENDING, OutboxRow.due_at <= now, is_free)


def endpoints_due(session: Session, *, now: datetime, without: Collection[str] = ()) -> list[str]:
    """Active endpoints for which something is due, but for ``without``."""
    waiting = select(OutboxRow.id).where(OutboxRow.endpoint_id == WebhookEndpointRow.id, _is_due(now)).exists()
    query = select(WebhookEndpointRow.id).where(
        WebhookEndpointRow.state == EndpointState.ACTIVE, WebhookEndpointRow.id.not_in(without), waiting
    )
    return list(session.scalars(query.order_by(WebhookEndpointRow.id)))


def claim(
    session: Session, endpoint_id: str, *, limit: int, lock_token: str, now: datetime, until: datetime
) -> list[Claimed]:
    """Lock what is due longest, so that nobody else sends it before ``until``. Rows that others lock are passed by."""
    due = select(OutboxRow.id).where(OutboxRow.endpoint_id == endpoint_id, _is_due(now))
    due = due.order_by(OutboxRow.due_at, OutboxRow.id).limit(limit).with_for_update(skip_locked=True)
    # As a common table expression it is run once; as a plain subquery it may run once a row, and lock beyond its limit.
    chosen = due.cte("due")
    locked = (
        update(OutboxRow)
        .where(OutboxRow.id.in_(select(chosen.c.id)))
        .values(lock_token=lock_token, lock_expires_at=until)
        .returning(
            OutboxRow.id,
            OutboxRow.message_id,
            OutboxRow.experiment_id,
            OutboxRow.body,
            OutboxRow.tries,
        )
        .execution_options(synchronize_session=False)
    )
    rows = sorted(session.execute(locked).all(), key=lambda row: row.id)
    endpoint = session.get_one(WebhookEndpointRow, endpoint_id)
    return [
        Claimed(
            id=row.id,
            message_id=row.message_id,
            endpoint_id=endpoint_id,
            experiment_id=row.experiment_id,
            body=row.body,
            tries=row.tries,
            url=endpoint.url,
            secret_no=endpoint.secret_no,
            old_secret_until=endpoint.old_secret_until,
            lock_token=lock_token,
        )
        for row in rows
    ]


def write_if_locked(session: Session, message: Claimed, **columns: Any) -> bool:
    """Write how it went and unlock, unless the lock has passed on or the message is gone (then False)."""
    written = session.execute(
        update(OutboxRow)
        .where(OutboxRow.id == message.id, OutboxRow.lock_token == message.lock_token)
        .values({**columns, "tries": OutboxRow.tries + 1, "lock_token": None, "lock_expires_at": None})
        .execution_options(synchronize_session=False)
    )
    return bool(written.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def insert_try(
    session: Session, outbox_id: int, *, at: datetime, status: int | None, error: str, took_s: float
) -> None:
    """Keep how one try went."""
    took_ms = round(took_s * 1000)
    session.add(DeliveryRow(outbox_id=outbox_id, at=at, status=status, error=error, took_ms=took_ms))
    session.flush()


def forget_old(session: Session, *, before: datetime, limit: int = 1000) -> int:
    """Delete messages that are over and were written before a time, with their tries. Returns how many."""
    over = (MessageState.DELIVERED, MessageState.FAILED)
    old = select(OutboxRow.id).where(OutboxRow.state.in_(over), OutboxRow.created_at < before).limit(limit)
    return session.execute(delete(OutboxRow).where(OutboxRow.id.in_(old))).rowcount  # type: ignore[attr-defined,no-any-return]


# ---- asked for once more --------------------------------------------------------------------------------------------


def _rearm(session: Session, condition: ColumnElement[bool], now: datetime) -> int:
    """Whoever is sending one of them at this moment may still write that it was taken."""
    chosen = select(OutboxRow.id).where(condition).order_by(OutboxRow.id).limit(MAX_REPLAYED)
    again = update(OutboxRow).where(OutboxRow.id.in_(chosen.scalar_subquery()))
    again = again.values(state=MessageState.PENDING, due_at=now, tries=0)
    done = session.execute(again.execution_options(synchronize_session=False))
    return int(done.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def replay_messages(session: Session, endpoint_id: str, message_ids: Sequence[str], *, now: datetime) -> int:
    """Send these once more, under their old ids; returns how many there are."""
    condition = and_(OutboxRow.endpoint_id == endpoint_id, OutboxRow.message_id.in_(message_ids))
    return _rearm(session, condition, now)


def replay_failed(session: Session, endpoint_id: str, *, now: datetime) -> int:
    """Send once more what was given up, at most ``MAX_REPLAYED``; returns how many those are."""
    return _rearm(session, and_(OutboxRow.endpoint_id == endpoint_id, OutboxRow.state == MessageState.FAILED), now)


def replay_range(
    session: Session, endpoint: WebhookEndpointRow, *, since: datetime, until: datetime, now: datetime
) -> tuple[int, datetime | None]:
    """Send every wanted event of that time once more, also those for which no message was written then.

    Returns how many, and where to go on if ``MAX_REPLAYED`` were not all.
    """
    chosen: list[str] = []
    following = None
    for row, project, name in _events_between(session, endpoint, since, until):
        if len(chosen) == MAX_REPLAYED:
            following = row.at
            break
        chosen.append(message_id_of(row.experiment_id, row.seq))
        values = _values(row, endpoint.id, body_of(row, project=project, name=name))
        insert_if_absent(session, OutboxRow, **(values | {"due_at": now}))
    return (replay_messages(session, endpoint.id, chosen, now=now) if chosen else 0), following


def _events_between(
    session: Session, endpoint: WebhookEndpointRow, since: datetime, until: datetime
) -> Iterator[tuple[EventRow, str, str]]:
    query = select(EventRow, ExperimentRow.project, ExperimentRow.name)
    query = query.join(ExperimentRow, ExperimentRow.id == EventRow.experiment_id)
    # An experiment is never older than its last event: that passes most of them by without a look at their events.
    query = query.where(ExperimentRow.updated_at >= since, EventRow.at >= since, EventRow.at < until)
    if endpoint.project is not None:
        query = query.where(ExperimentRow.project == endpoint.project)
    for row, project, name in session.execute(query.order_by(EventRow.at, EventRow.experiment_id, EventRow.seq)):
        if is_wanted(endpoint.kinds, row.kind, row.to_state):
            yield row, project, name


# ---- looked at ------------------------------------------------------------------------------------------------------


def find(session: Session, endpoint_id: str, message_id: str) -> OutboxRow:
    """One message that is there."""
    query = select(OutboxRow).where(OutboxRow.endpoint_id == endpoint_id, OutboxRow.message_id == message_id)
    return session.scalars(query).one()


def page(
    session: Session, endpoint_id: str, *, limit: int, before: int | None = None, states: Sequence[str] = ()
) -> list[OutboxRow]:
    """Messages of an endpoint, newest first."""
    query = select(OutboxRow).where(OutboxRow.endpoint_id == endpoint_id)
    if before is not None:
        query = query.where(OutboxRow.id < before)
    if states:
        query = query.where(OutboxRow.state.in_(states))
    return list(session.scalars(query.order_by(OutboxRow.id.desc()).limit(limit)))


def tries_of(session: Session, outbox_ids: Sequence[int]) -> dict[int, list[DeliveryRow]]:
    """The tries of some messages, oldest first."""
    found: dict[int, list[DeliveryRow]] = {}
    query = select(DeliveryRow).where(DeliveryRow.outbox_id.in_(outbox_ids)).order_by(DeliveryRow.id)
    for row in session.scalars(query):
        found.setdefault(row.outbox_id, []).append(row)
    return found


def pending(session: Session) -> tuple[int, datetime | None]:
    """How many messages of active endpoints are not delivered, and when the oldest of them was written."""
    query = select(func.count(), func.min(OutboxRow.created_at)).where(
        OutboxRow.state == MessageState.PENDING,
        OutboxRow.endpoint_id == WebhookEndpointRow.id,
        WebhookEndpointRow.state == EndpointState.ACTIVE,
    )
    number, oldest = session.execute(query).one()
    return number, oldest

"""Streams of metric points: taken in exactly once and in order, kept until the recorder has written them."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from fairlead.errors import WrongOffset
from fairlead.protocol import Batch
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import AttemptRow, BatchRow, StreamRow


def next_offset(session: Session, attempt_id: str, stream: str) -> int:
    """Where the next batch of the stream must start."""
    query = select(StreamRow.next_offset).where(StreamRow.attempt_id == attempt_id, StreamRow.stream == stream)
    return session.scalar(query) or 0


def offsets(session: Session, attempt_id: str) -> dict[str, int]:
    """The next expected offset of each stream that has begun."""
    query = select(StreamRow.stream, StreamRow.next_offset).where(StreamRow.attempt_id == attempt_id)
    return dict(session.execute(query).all())


def advance(session: Session, attempt_id: str, batch: Batch) -> None:
    """Accept the batch's offsets. Raises ``WrongOffset`` with the expected one: no gap, no double."""
    if batch.first_offset == 0 and insert_if_absent(
        session, StreamRow, attempt_id=attempt_id, stream=batch.stream, next_offset=batch.next_offset
    ):
        return
    changed = session.execute(
        update(StreamRow)
        .where(
            StreamRow.attempt_id == attempt_id,
            StreamRow.stream == batch.stream,
            StreamRow.next_offset == batch.first_offset,
        )
        .values(next_offset=batch.next_offset)
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        expected = next_offset(session, attempt_id, batch.stream)
        raise WrongOffset(f"stream {batch.stream} continues at {expected}", expected=expected)


def insert(session: Session, attempt: AttemptRow, batch: Batch, *, now: datetime) -> None:
    """Keep the points of an accepted batch for the recorder; one without points leaves nothing to record."""
    if not batch.points:
        return
    session.add(
        BatchRow(
            attempt_id=attempt.id,
            experiment_id=attempt.experiment_id,
            stream=batch.stream,
            first_offset=batch.first_offset,
            next_offset=batch.next_offset,
            payload=[[p.key, p.model_dump(mode="json")["value"], p.step, p.at_ms] for p in batch.points],
            received_at=now,
        )
    )
    session.flush()


def unrecorded(session: Session, *, without: Collection[str] = (), limit: int = 100) -> list[BatchRow]:
    """Batches that the recorder has not written yet, oldest first, but for experiments that must wait."""
    query = select(BatchRow).where(BatchRow.recorded_at.is_(None), BatchRow.experiment_id.not_in(without))
    return list(session.scalars(query.order_by(BatchRow.id).limit(limit)))


def has_unrecorded(session: Session, experiment_id: str) -> bool:
    """Whether points of this experiment still wait for the recorder."""
    query = select(BatchRow.id).where(BatchRow.experiment_id == experiment_id, BatchRow.recorded_at.is_(None))
    return session.scalar(query.limit(1)) is not None


def mark_recorded(session: Session, ids: list[int], *, now: datetime) -> None:
    """The recorder has written these."""
    session.execute(update(BatchRow).where(BatchRow.id.in_(ids)).values(recorded_at=now))


def forget_recorded(session: Session, *, before: datetime, limit: int = 1000) -> int:
    """Delete batches recorded before a time; MLflow and ``series`` have their points. Returns how many."""
    old = select(BatchRow.id).where(BatchRow.recorded_at < before, BatchRow.folded_at.is_not(None)).limit(limit)
    return session.execute(delete(BatchRow).where(BatchRow.id.in_(old))).rowcount  # type: ignore[attr-defined,no-any-return]

"""Questions about checkpoints: committed, rejected, deleting, deleted."""

import math
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.orm import Session

from fairlead.errors import Conflict
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import AttemptRow, CheckpointRow

COMMITTED, REJECTED, DELETING, DELETED = "committed", "rejected", "deleting", "deleted"
_OF_ATTEMPT = and_(
    AttemptRow.experiment_id == CheckpointRow.experiment_id, AttemptRow.attempt_no == CheckpointRow.attempt_no
)


def commit(
    session: Session,
    *,
    experiment_id: str,
    attempt_no: int,
    step: int,
    path: str,
    manifest_sha256: str,
    now: datetime,
    score: float | None = None,
) -> bool:
    """Make a checkpoint visible. False if the very same one was committed before; ``Conflict`` if another one was."""
    is_new = insert_if_absent(
        session,
        CheckpointRow,
        experiment_id=experiment_id,
        attempt_no=attempt_no,
        step=step,
        path=path,
        manifest_sha256=manifest_sha256,
        committed_at=now,
        score=score if score is None or math.isfinite(score) else None,
    )
    if not is_new and _committed_sha256(session, experiment_id, attempt_no, step) != manifest_sha256:
        raise Conflict(f"another checkpoint of step {step} was committed before")
    return is_new


def _committed_sha256(session: Session, experiment_id: str, attempt_no: int, step: int) -> str | None:
    query = select(CheckpointRow.manifest_sha256).where(
        CheckpointRow.experiment_id == experiment_id,
        CheckpointRow.attempt_no == attempt_no,
        CheckpointRow.step == step,
    )
    return session.scalar(query)


def newest_first(session: Session, experiment_id: str) -> list[CheckpointRow]:
    """Committed checkpoints of all attempts, newest first: what a new attempt may resume from."""
    query = select(CheckpointRow).where(CheckpointRow.experiment_id == experiment_id, CheckpointRow.state == COMMITTED)
    return list(session.scalars(query.order_by(CheckpointRow.step.desc(), CheckpointRow.attempt_no.desc())))


def committed_after(session: Session, row_id: int, *, limit: int = 1000) -> list[CheckpointRow]:
    """Rows that were added after ``row_id``, in order: where something new may have made older ones superfluous."""
    query = select(CheckpointRow).where(CheckpointRow.id > row_id).order_by(CheckpointRow.id).limit(limit)
    return list(session.scalars(query))


def mark_deleting(session: Session, ids: Sequence[int]) -> int:
    """From now on no attempt resumes from them; returns how many were marked."""
    return _change_state(session, CheckpointRow.id.in_(ids), (COMMITTED,), DELETING)


def to_delete(session: Session, cluster: str, *, limit: int) -> list[CheckpointRow]:
    """Checkpoints whose files an agent of ``cluster``, on which they were written, has to delete."""
    query = select(CheckpointRow).join(AttemptRow, _OF_ATTEMPT).where(AttemptRow.cluster == cluster)
    query = query.where(CheckpointRow.state == DELETING).order_by(CheckpointRow.id).limit(limit)
    return list(session.scalars(query))


def collected(session: Session, cluster: str, path: str, *, is_deleted: bool) -> CheckpointRow | None:
    """Note what an agent made of a deletion; the row, or None if it had not been asked for."""
    query = select(CheckpointRow).join(AttemptRow, _OF_ATTEMPT).where(AttemptRow.cluster == cluster)
    row = session.scalar(query.where(CheckpointRow.path == path, CheckpointRow.state == DELETING))
    if row is not None:
        _change_state(session, CheckpointRow.id == row.id, (DELETING,), DELETED if is_deleted else COMMITTED)
    return row


def reject(session: Session, experiment_id: str, path: str) -> bool:
    """No attempt resumes from it again: it was found damaged. False if it was not committed."""
    own = and_(CheckpointRow.experiment_id == experiment_id, CheckpointRow.path == path)
    return _change_state(session, own, (COMMITTED,), REJECTED) > 0


def _change_state(session: Session, which: ColumnElement[bool], before: tuple[str, ...], after: str) -> int:
    changed = session.execute(
        update(CheckpointRow)
        .where(which, CheckpointRow.state.in_(before))
        .values(state=after)
        .execution_options(synchronize_session=False)
    )
    return int(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def highest_step(session: Session, experiment_id: str, *, before_attempt: int) -> int:
    """The highest step committed by attempts below ``before_attempt``; -1 for none."""
    query = select(func.max(CheckpointRow.step)).where(
        CheckpointRow.experiment_id == experiment_id, CheckpointRow.attempt_no < before_attempt
    )
    step = session.scalar(query)
    return -1 if step is None else step


def of_attempt(session: Session, experiment_id: str, attempt_no: int) -> list[CheckpointRow]:
    """Checkpoints that one attempt committed, oldest first."""
    query = select(CheckpointRow).where(
        CheckpointRow.experiment_id == experiment_id, CheckpointRow.attempt_no == attempt_no
    )
    return list(session.scalars(query.order_by(CheckpointRow.step)))

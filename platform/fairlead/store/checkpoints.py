"""Questions about committed checkpoints."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fairlead.errors import Conflict
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import CheckpointRow


def commit(
    session: Session,
    *,
    experiment_id: str,
    attempt_no: int,
    step: int,
    path: str,
    manifest_sha256: str,
    now: datetime,
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
    query = select(CheckpointRow).where(CheckpointRow.experiment_id == experiment_id)
    return list(session.scalars(query.order_by(CheckpointRow.step.desc(), CheckpointRow.attempt_no.desc())))


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

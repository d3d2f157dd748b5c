"""Trials that have ended and wait for the recorder; an index of their own holds them, so that it is short."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.orm import Session

from fairlead.store.tables import ExperimentRow, TrialRow


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingSweep:
    """A sweep that has a run in MLflow, and trials that have none."""

    experiment_id: str
    run_id: str
    project: str
    workload: str
    created_by: str


def sweeps_waiting(session: Session, *, without: Collection[str] = ()) -> list[WaitingSweep]:
    """Sweeps whose trials can be recorded, by id, but for ``without``."""
    is_waiting = ExperimentRow.id.in_(select(TrialRow.experiment_id).where(_is_unrecorded()).distinct())
    query = select(
        ExperimentRow.id,
        ExperimentRow.mlflow_run_id,
        ExperimentRow.project,
        ExperimentRow.workload,
        ExperimentRow.created_by,
    ).where(is_waiting, ExperimentRow.mlflow_run_id.is_not(None), ExperimentRow.id.not_in(without))
    return [
        WaitingSweep(experiment_id=key, run_id=run_id, project=project, workload=workload, created_by=created_by)
        for key, run_id, project, workload, created_by in session.execute(query.order_by(ExperimentRow.id))
        if run_id is not None
    ]


def unrecorded(
    session: Session, experiment_id: str, *, without: Collection[int] = (), limit: int = 50
) -> list[TrialRow]:
    """Trials of a sweep that have ended and that the recorder has not written, by number, but for ``without``."""
    query = select(TrialRow).where(
        TrialRow.experiment_id == experiment_id, _is_unrecorded(), TrialRow.no.not_in(without)
    )
    return list(session.scalars(query.order_by(TrialRow.no).limit(limit)))


def are_waiting() -> ColumnElement[bool]:
    """Of an experiment: some of its trials wait for the recorder."""
    return select(TrialRow.no).where(TrialRow.experiment_id == ExperimentRow.id, _is_unrecorded()).exists()


def count(session: Session) -> int:
    """How many trials wait for the recorder."""
    return session.scalar(select(func.count()).select_from(TrialRow).where(_is_unrecorded())) or 0


def mark_recorded(session: Session, experiment_id: str, run_ids: Mapping[int, str], *, now: datetime) -> None:
    """The recorder has written these: run by number."""
    rows = [
        {"experiment_id": experiment_id, "no": no, "mlflow_run_id": run_id, "recorded_at": now}
        for no, run_id in run_ids.items()
    ]
    session.execute(update(TrialRow), rows)


def _is_unrecorded() -> ColumnElement[bool]:
    """As the index says it."""
    return and_(TrialRow.recorded_at.is_(None), TrialRow.ended_at.is_not(None))

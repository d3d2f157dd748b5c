"""Questions about projects: quota, weight, what they hold now, and what they have used lately."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from fairlead.errors import NotFound
from fairlead.store.rows import insert_if_absent, reread_if_loaded
from fairlead.store.tables import AttemptRow, ExperimentRow, ProjectRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """What a project may hold at once; None is no limit."""

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    experiments: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What open attempts hold: an attempt counts from its offer until its outcome is known."""

    workers: int = 0
    cpus: float = 0
    gpus: float = 0
    experiments: int = 0


def ensure(session: Session, name: str, *, now: datetime) -> ProjectRow:
    """The project, made without quota if it is new."""
    row = session.get(ProjectRow, name)
    if row is not None:
        return row
    insert_if_absent(session, ProjectRow, name=name, created_at=now)
    return get(session, name)


def find(session: Session, name: str) -> ProjectRow | None:
    """The project, or None."""
    return session.get(ProjectRow, name)


def get(session: Session, name: str) -> ProjectRow:
    """The project. Raises ``NotFound``."""
    row = session.get(ProjectRow, name)
    if row is None:
        raise NotFound(f"there is no project {name!r}")
    return row


def every(session: Session) -> list[ProjectRow]:
    """All projects, by name."""
    return list(session.scalars(select(ProjectRow).order_by(ProjectRow.name)))


def locked(session: Session, name: str) -> ProjectRow | None:
    """The project as it is now, unchanged by others until the transaction ends. SQLite's writers take turns anyway."""
    query = select(ProjectRow).where(ProjectRow.name == name).with_for_update(key_share=True)
    return session.scalar(query.execution_options(populate_existing=True))


def quota_of(row: ProjectRow | None) -> Quota:
    """A project's quota; none at all for a project that nobody has written down."""
    if row is None:
        return Quota()
    return Quota(workers=row.quota_workers, cpus=row.quota_cpus, gpus=row.quota_gpus, experiments=row.quota_experiments)


def charge(session: Session, name: str, *, used: float, now: datetime) -> None:
    """Write a project's use as of ``now``. The caller holds the row: see ``locked``."""
    session.execute(
        update(ProjectRow)
        .where(ProjectRow.name == name)
        .values(used=used, used_at=now)
        .execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, ProjectRow, name)


def amend(session: Session, name: str, *, quota: Quota, weight: float) -> None:
    """Write quota and weight. What runs beyond a smaller quota goes on; nothing new begins."""
    columns = {
        "quota_workers": quota.workers,
        "quota_cpus": quota.cpus,
        "quota_gpus": quota.gpus,
        "quota_experiments": quota.experiments,
        "weight": weight,
    }
    session.execute(
        update(ProjectRow).where(ProjectRow.name == name).values(columns).execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, ProjectRow, name)


def held(session: Session, name: str | None = None) -> dict[str, Held]:
    """What each project holds now, or only ``name``; projects that hold nothing are left out."""
    query = (
        select(
            ExperimentRow.project,
            func.sum(AttemptRow.workers),
            func.sum(AttemptRow.cpus),
            func.sum(AttemptRow.gpus),
            func.count(),
        )
        .join(ExperimentRow, ExperimentRow.id == AttemptRow.experiment_id)
        .where(AttemptRow.outcome.is_(None))
        .group_by(ExperimentRow.project)
    )
    if name is not None:
        query = query.where(ExperimentRow.project == name)
    return {
        project: Held(workers=int(workers), cpus=float(cpus), gpus=float(gpus), experiments=int(count))
        for project, workers, cpus, gpus, count in session.execute(query)
    }

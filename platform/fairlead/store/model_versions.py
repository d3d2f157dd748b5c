"""Questions about the model versions that were registered in MLflow, as they were registered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, or_, select, true
from sqlalchemy.orm import Session

from fairlead.lifecycle import State
from fairlead.store.rows import insert_if_absent
from fairlead.store.tables import ExperimentRow, ModelVersionRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """A registered version and what its experiment says of it now."""

    experiment_id: str
    project: str
    name: str
    version: str
    alias: str
    model_id: str | None = None
    run_id: str | None = None
    """Model and run in MLflow that it was made of; None where an older release registered it."""
    report_sha256: str | None
    report_outcome: str | None
    gates: Sequence[Mapping[str, Any]] | None = None
    on_inconclusive: str = "block"
    """Both are read only where the outcome is not ``pass``."""
    report_run_id: str | None = None
    """The run among whose artifacts the report lies; None while MLflow has not all that it should have."""

    @property
    def key(self) -> tuple[str, str]:
        """Name and number."""
        return self.name, self.version


def insert(
    session: Session,
    experiment: ExperimentRow,
    *,
    name: str,
    version: str,
    alias: str,
    model_id: str,
    run_id: str,
    now: datetime,
) -> None:
    """Keep what was registered for an experiment; nothing where that is kept already."""
    insert_if_absent(
        session,
        ModelVersionRow,
        experiment_id=experiment.id,
        project=experiment.project,
        name=name,
        version=version,
        alias=alias,
        model_id=model_id,
        run_id=run_id,
        registered_at=now,
    )


def newest(session: Session) -> str | None:
    """The experiment whose model was registered last: another one means that there is something new."""
    order = (ModelVersionRow.registered_at.desc(), ModelVersionRow.experiment_id.desc())
    return session.scalar(select(ModelVersionRow.experiment_id).order_by(*order).limit(1))


def names(session: Session) -> list[str]:
    """Under which names something was ever registered."""
    return list(session.scalars(select(ModelVersionRow.name).distinct().order_by(ModelVersionRow.name)))


def experiment_ids(session: Session) -> frozenset[str]:
    """The experiments whose model was registered."""
    return frozenset(session.scalars(select(ModelVersionRow.experiment_id)))


def registrations(session: Session) -> tuple[Registration, ...]:
    """All of them, oldest first."""
    of = ExperimentRow
    told = (of.report_sha256, of.report_outcome, of.mlflow_run_id, of.mlflow_version, of.version)
    query = select(ModelVersionRow, *told).join(of, of.id == ModelVersionRow.experiment_id)
    rows = session.execute(query.order_by(ModelVersionRow.registered_at, ModelVersionRow.experiment_id)).all()
    doubtful = _doubtful(session)
    return tuple(
        Registration(
            experiment_id=row.experiment_id,
            project=row.project,
            name=row.name,
            version=row.version,
            alias=row.alias,
            model_id=row.model_id,
            run_id=row.run_id,
            report_sha256=sha256,
            report_outcome=outcome,
            report_run_id=run_id if seen >= version else None,
            **doubtful.get(row.experiment_id, {}),
        )
        for row, sha256, outcome, run_id, seen, version in rows
    )


def _doubtful(session: Session) -> dict[str, dict[str, Any]]:
    """Gates, and what the spec says of those without a conclusion, where the outcome alone does not say enough."""
    of = ExperimentRow
    query = select(of.id, of.gates, of.spec).join(ModelVersionRow, ModelVersionRow.experiment_id == of.id)
    return {
        key: {"gates": gates, "on_inconclusive": (spec.get("evaluation") or {}).get("on_inconclusive", "block")}
        for key, gates, spec in session.execute(query.where(of.report_outcome != "pass"))
    }


def pending(session: Session) -> dict[str, str]:
    """Experiments whose model is being registered, or soon will be, and under which name."""
    query = select(ExperimentRow.id, ExperimentRow.registration).where(
        ExperimentRow.state == State.SUCCEEDED, ExperimentRow.mlflow_version < ExperimentRow.version
    )
    found = {key: registration or {} for key, registration in session.execute(query)}
    return {key: registration["name"] for key, registration in found.items() if registration.get("is_pending")}


def page(
    session: Session,
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
    projects: Sequence[str] = (),
    names: Sequence[str] = (),
) -> list[tuple[ModelVersionRow, ExperimentRow]]:
    """Newest first, starting below ``after`` (registered_at, experiment_id), each with its experiment."""
    wanted = ((ModelVersionRow.project, projects), (ModelVersionRow.name, names))
    query = select(ModelVersionRow, ExperimentRow).join(
        ExperimentRow, ExperimentRow.id == ModelVersionRow.experiment_id
    )
    query = query.where(*(column.in_(values) for column, values in wanted if values), _below(after))
    order = (ModelVersionRow.registered_at.desc(), ModelVersionRow.experiment_id.desc())
    return [(version, row) for version, row in session.execute(query.order_by(*order).limit(limit))]


def _below(after: tuple[datetime, str] | None) -> ColumnElement[bool]:
    if after is None:
        return true()
    at, last_id = after
    earlier = or_(ModelVersionRow.registered_at < at, ModelVersionRow.experiment_id < last_id)
    return and_(ModelVersionRow.registered_at <= at, earlier)

"""From rows to what the API answers. NaN and infinity leave as null, named beside it."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from fairlead.lifecycle import Desired, Observation, Outcome, State
from fairlead.representation import (
    AmendmentView,
    AttemptView,
    EventView,
    ExperimentDetail,
    ExperimentView,
    GateView,
    MetricPointView,
    MetricsView,
    RegistrationView,
    SweepView,
    TrialDetail,
    TrialView,
)
from fairlead.search.trials import TrialState
from fairlead.store import experiments, trials
from fairlead.store.series import Series
from fairlead.store.tables import AmendmentRow, AttemptRow, EventRow, ExperimentRow, TrialRow


def answer(view: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A representation as JSON."""
    return Response(view.model_dump_json(by_alias=True), status, dict(headers or {}), "application/json")


def etag(row: ExperimentRow) -> str:
    """The strong tag of an experiment as it is."""
    return f'"{row.version}"'


def split_finite(metrics: Mapping[str, Any]) -> tuple[dict[str, float | None], dict[str, str]]:
    """Values with null where they are not finite, and the names of what stood there."""
    values = {key: None if isinstance(value, str) else value for key, value in metrics.items()}
    return values, {key: value for key, value in metrics.items() if isinstance(value, str)}


def experiment_view(row: ExperimentRow) -> ExperimentView:
    """The short form, for lists."""
    return ExperimentView(**_fields(row))


def experiment_detail(row: ExperimentRow, attempts: list[AttemptRow]) -> ExperimentDetail:
    """The long form."""
    views = tuple(attempt_view(attempt) for attempt in attempts)
    return ExperimentDetail(**_fields(row), spec=experiments.spec_of(row), attempts=views)


def _fields(row: ExperimentRow) -> dict[str, Any]:
    metrics, non_finite = split_finite(row.metrics)
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "workload": row.workload,
        "state": State(row.state),
        "desired": Desired(row.desired),
        "reason": row.reason,
        "waiting": row.waiting,
        "version": row.version,
        "priority": row.priority,
        "spec_hash": row.spec_hash,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "released_at": row.released_at,
        "attempt_no": row.current_attempt_no,
        "last_step": row.last_step,
        "total_steps": row.total_steps,
        "metrics": metrics,
        "non_finite": non_finite,
        "labels": row.labels,
        "report_outcome": row.report_outcome,
        "gates": tuple(GateView.model_validate(gate) for gate in row.gates),
        "registration": RegistrationView.model_validate(row.registration) if row.registration else None,
        "sweep": sweep_view(row),
        "derived_from": row.derived_from,
        "links": _links(row),
    }


def sweep_view(row: ExperimentRow) -> SweepView | None:
    """How a sweep stands; None for what is none."""
    search = row.spec.get("search")
    if not search:
        return None
    known = {**trials.unbegun(), **(row.sweep or {})}
    asked = row.total_steps if row.total_steps is not None else search.get("trials", 0)
    return SweepView.model_validate({**known, "trials": asked, "ended": known["finished"]})


def _links(row: ExperimentRow) -> dict[str, str]:
    here = f"/v1/experiments/{row.id}"
    links = {"self": here} | {
        page: f"{here}/{page}" for page in ("attempts", "events", "logs", "metrics", "checkpoints", "gates")
    }
    if row.spec.get("search"):
        links |= {page: f"{here}/{page}" for page in ("trials", "amendments")}
    if row.report_sha256 or row.report_outcome:
        links["report"] = f"{here}/report"
    if row.mlflow_url is not None:
        links["mlflow"] = row.mlflow_url
    return links


def attempt_view(row: AttemptRow) -> AttemptView:
    """One try."""
    return AttemptView(
        attempt_no=row.attempt_no,
        cluster=row.cluster,
        observation=Observation(row.observation),
        outcome=Outcome(row.outcome) if row.outcome else None,
        reason=row.reason,
        detail=row.detail or row.observed_detail,
        last_step=row.last_step,
        created_at=row.created_at,
        leased_at=row.leased_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        declared_lost_by=row.declared_lost_by,
    )


def trial_view(row: TrialRow) -> TrialView:
    """One trial, for lists."""
    return TrialView(**_trial_fields(row))


def trial_detail(row: TrialRow) -> TrialDetail:
    """One trial with its courses."""
    metrics, non_finite = split_finite(row.metrics)
    curves = {key: tuple(_point(point) for point in points) for key, points in row.curves.items()}
    here = f"/v1/experiments/{row.experiment_id}"
    fields = _trial_fields(row)
    return TrialDetail(
        **{**fields, "non_finite": {**non_finite, **fields["non_finite"]}},
        detail=row.detail,
        metrics=metrics,
        curves=curves,
        links={"self": f"{here}/trials/{row.no}", "sweep": here, "logs": f"{here}/logs?trial={row.no}"},
    )


def _trial_fields(row: TrialRow) -> dict[str, Any]:
    values, non_finite = split_finite(row.values)
    return {
        "no": row.no,
        "state": TrialState(row.state),
        "origin": row.origin,
        "parent": row.parent,
        "attempt_no": row.attempt_no,
        "params": row.params,
        "values": values,
        "non_finite": non_finite,
        "excess": row.excess,
        "reason": row.reason,
        "last_step": row.last_step,
        "tries": row.tries,
        "has_checkpoint": row.checkpoint is not None,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


def amendment_view(row: AmendmentRow) -> AmendmentView:
    """One change to a sweep."""
    return AmendmentView(no=row.no, kind=row.kind, actor=row.actor, payload=row.payload, at=row.created_at)


def event_view(row: EventRow) -> EventView:
    """One entry of the log."""
    return EventView(
        seq=row.seq,
        kind=row.kind,
        from_state=State(row.from_state) if row.from_state else None,
        to_state=State(row.to_state) if row.to_state else None,
        attempt_no=row.attempt_no,
        actor=row.actor,
        reason=row.reason,
        payload=row.payload,
        at=row.at,
    )


def metrics_view(row: ExperimentRow, series: list[Series]) -> MetricsView:
    """Last values, and the series that were asked for."""
    last, non_finite = split_finite(row.metrics)
    points = {one.key: tuple(_point(point) for point in one.points) for one in series}
    return MetricsView(last=last, non_finite=non_finite, series=points)


def _point(point: Any) -> MetricPointView:
    step, at_ms, value = point
    is_finite = not isinstance(value, str)
    return MetricPointView(
        step=step, at_ms=at_ms, value=value if is_finite else None, flag=None if is_finite else value
    )

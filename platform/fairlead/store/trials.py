"""Trials of sweeps: taken in as their runner tells of them, and read page by page. What was final stays as it was."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal, get_args

import structlog
from sqlalchemy import ColumnElement, SQLColumnExpression, and_, func, literal, or_, select, true
from sqlalchemy.orm import Session

from fairlead.protocol import MAX_CURVE_POINTS, MAX_CURVES, MetricPoint, TrialDocument, TrialRecord
from fairlead.search.best import best, excesses_of, front, nearest_miss, values_of
from fairlead.search.space import problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import SearchSpec
from fairlead.store import experiments
from fairlead.store.tables import ExperimentRow, TrialRow, UtcDateTime

MAX_NO = 2**31 - 1
"""Of a trial and of a step; PostgreSQL's integers hold no more."""
INHERITED_ATTEMPT = 0
_LARGEST = 1.7976931348623157e308
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
logger = structlog.get_logger(__name__)


# ---- as stored and as meant -----------------------------------------------------------------------------------------


def number_in(value: float) -> float | str:
    """As JSON keeps it: what is not finite by its name."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def numbers_out(stored: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name, as they were reported."""
    return {name: float(value) for name, value in stored.items()}


def trial_of(search: SearchSpec, row: TrialRow) -> Trial:
    """The trial that the functions of ``fairlead.search`` look at."""
    metrics = numbers_out(row.values)
    return Trial(
        no=row.no,
        point=row.params,
        state=TrialState(row.state),
        values=values_of(search, metrics) or (),
        excesses=excesses_of(search, metrics),
    )


def document_of(row: TrialRow, *, objective: str) -> TrialDocument:
    """The trial as a runner is told of it; ``objective`` is the first one's metric, whose course goes along."""
    return TrialDocument(
        no=row.no,
        state=TrialState(row.state),
        params=row.params,
        origin=row.origin,
        parent=row.parent,
        values=numbers_out(row.values),
        curve=tuple((step, value) for step, _, value in row.curves.get(objective, ())),
        last_step=row.last_step,
        tries=row.tries,
        reason=row.reason,
    )


# ---- taking in ------------------------------------------------------------------------------------------------------


def take(
    session: Session,
    row: ExperimentRow,
    search: SearchSpec,
    *,
    attempt_no: int,
    records: Sequence[TrialRecord],
    now: datetime,
) -> None:
    """Write what has become of trials, and how the sweep stands; the caller holds the attempt's lock.

    A record with a point begins a trial, or another try of one that was still running. What is told of a trial that is
    final changes nothing, but that its checkpoint is gone: an attempt that tries it again has not heard of its end.
    """
    known = _rows(session, row.id, {record.no for record in records})
    before = {no: TrialState(one.state) for no, one in known.items()}
    for record in records:
        one = known.get(record.no)
        if one is None and record.params is None:
            logger.warning("a trial is told of whose beginning was not", experiment_id=row.id, trial=record.no)
        elif one is None:
            known[record.no] = _begun(row.id, record, attempt_no=attempt_no, now=now)
            _write(known[record.no], search, record, now=now)
        elif record.has_lost_checkpoint:
            one.checkpoint = None
        elif one.state != TrialState.RUNNING:
            logger.warning("a trial that is final is told of once more", experiment_id=row.id, trial=record.no)
        else:
            if record.params is not None:
                _try_again(one, record, attempt_no=attempt_no)
            _write(one, search, record, now=now)
    session.add_all(known.values())
    session.flush()
    _sum_up(session, row, search, known, before)


def _rows(session: Session, experiment_id: str, nos: Iterable[int]) -> dict[int, TrialRow]:
    wanted, found = sorted(nos), dict[int, TrialRow]()
    for first in range(0, len(wanted), experiments.READ_AT_ONCE):
        portion = wanted[first : first + experiments.READ_AT_ONCE]
        query = select(TrialRow).where(TrialRow.experiment_id == experiment_id, TrialRow.no.in_(portion))
        found |= {one.no: one for one in session.scalars(query)}
    return found


def _begun(experiment_id: str, record: TrialRecord, *, attempt_no: int, now: datetime) -> TrialRow:
    return TrialRow(
        experiment_id=experiment_id,
        no=record.no,
        attempt_no=attempt_no,
        state=record.state,
        origin=record.origin,
        parent=record.parent,
        params=dict(record.params or {}),
        reason="",
        detail="",
        values={},
        metrics={},
        curves={},
        tries=1,
        started_at=_at(record.at_ms, now),
    )


def _try_again(row: TrialRow, record: TrialRecord, *, attempt_no: int) -> None:
    """With the point that the new try was given: what is bred from others may have another one by then."""
    row.params, row.parent = dict(record.params or {}), record.parent
    row.tries, row.attempt_no = row.tries + 1, attempt_no


def _write(row: TrialRow, search: SearchSpec, record: TrialRecord, *, now: datetime) -> None:
    row.state, row.reason = record.state, record.reason
    row.detail = record.detail or row.detail
    row.values = {**row.values, **{name: number_in(value) for name, value in record.values.items()}}
    row.metrics = {**row.metrics, **{name: number_in(value) for name, value in record.metrics.items()}}
    row.curves = extended(row.curves, record.points, first=search.metrics)
    if record.last_step is not None:
        row.last_step = min(record.last_step, MAX_NO)
    if record.checkpoint is not None:
        row.checkpoint = record.checkpoint.model_dump(mode="json")
    if record.state is not TrialState.RUNNING:
        row.ended_at = _at(record.at_ms, now)
    weigh(row, search)


def weigh(row: TrialRow, search: SearchSpec) -> None:
    """Write the columns that trials are ordered by."""
    metrics = numbers_out(row.values)
    value = metrics.get(search.objectives[0].metric, math.nan)
    beyond = sum(max(0.0, excess) for excess in excesses_of(search, metrics).values())
    is_known = values_of(search, metrics) is not None and math.isfinite(beyond)
    row.value = value if math.isfinite(value) else None
    row.excess = float(beyond) if is_known else None


def _at(at_ms: int, now: datetime) -> datetime:
    """When the runner says that it was; by our clock it cannot be later than now."""
    now_ms = int(now.timestamp() * 1000)
    return datetime.fromtimestamp(at_ms / 1000, UTC) if 0 < at_ms < now_ms else now


def extended(curves: Mapping[str, Any], points: Iterable[MetricPoint], *, first: Sequence[str]) -> dict[str, Any]:
    """Courses of metrics with further points. There is a place for each of ``first``, others come as they fit.

    A step that was told before is told again by another try: what came after it was lost with the one before.
    """
    found = {name: list(kept) for name, kept in curves.items()}
    reserved = first[:MAX_CURVES]
    for point in points:
        others = sum(name not in reserved for name in found)
        if point.key in found or point.key in reserved or others < MAX_CURVES - len(reserved):
            _append(found.setdefault(point.key, []), point)
    ranks = {name: rank for rank, name in enumerate(reserved)}
    return dict(sorted(found.items(), key=lambda item: ranks.get(item[0], MAX_CURVES)))


def _append(kept: list[Any], point: MetricPoint) -> None:
    while kept and kept[-1][0] >= point.step:
        kept.pop()
    # Once every second one went, what is left tells how far apart they are now.
    if len(kept) >= MAX_CURVE_POINTS // 2:
        apart = min(later[0] - earlier[0] for earlier, later in pairwise(kept))
        if point.step - kept[-1][0] < apart:
            return
    kept.append([point.step, point.at_ms, number_in(point.value)])
    if len(kept) >= MAX_CURVE_POINTS:
        kept[:] = kept[::2]


# ---- those of an earlier sweep --------------------------------------------------------------------------------------


def inherit(session: Session, row: ExperimentRow, search: SearchSpec, *, now: datetime) -> int:
    """Copy the finished trials of the sweep that ``search`` names, as far as they are of use here; how many they are.

    Of use are those that lie in this space and have a value for each objective. They are numbered from 0 in their
    order, and belong to no attempt. MLflow has them already, under the sweep that ran them.
    """
    done = [TrialState.SUCCEEDED, TrialState.PRUNED]
    query = select(TrialRow).where(TrialRow.experiment_id == search.inherit, TrialRow.state.in_(done))
    last_no, count = -1, 0
    while found := list(
        session.scalars(query.where(TrialRow.no > last_no).order_by(TrialRow.no).limit(experiments.READ_AT_ONCE))
    ):
        last_no = found[-1].no
        fitting = [one for one in found if _is_of_use(search, one)]
        copies = {no: _inherited(row.id, no, one, search, now=now) for no, one in enumerate(fitting, start=count)}
        session.add_all(copies.values())
        session.flush()
        count += len(copies)
        experiments.set_columns(session, row.id, sweep={**unbegun(), **(row.sweep or {}), "inherited": count})
        session.refresh(row, ["sweep"])
        _sum_up(session, row, search, copies, {})
    return count


def _is_of_use(search: SearchSpec, row: TrialRow) -> bool:
    return trial_of(search, row).is_usable and not problems_with_point(search, row.params)


def _inherited(experiment_id: str, no: int, source: TrialRow, search: SearchSpec, *, now: datetime) -> TrialRow:
    copied = ("state", "params", "reason", "detail", "values", "metrics", "curves", "last_step", "tries")
    later = ("started_at", "ended_at", "checkpoint", "mlflow_run_id")
    columns = {name: getattr(source, name) for name in (*copied, *later)}
    row = TrialRow(
        experiment_id=experiment_id,
        no=no,
        attempt_no=INHERITED_ATTEMPT,
        origin="inherited",
        recorded_at=source.recorded_at or now,
        **columns,
    )
    weigh(row, search)
    return row


# ---- how the sweep stands -------------------------------------------------------------------------------------------


def unbegun() -> dict[str, Any]:
    """How a sweep stands that has no trials."""
    counts = dict.fromkeys(TrialState, 0)
    return {"counts": counts, "inherited": 0, "finished": 0, "best": None, "value": None, "front": [], "nearest": None}


def _sum_up(
    session: Session,
    row: ExperimentRow,
    search: SearchSpec,
    told: Mapping[int, TrialRow],
    before: Mapping[int, TrialState],
) -> None:
    """Bring ``experiment.sweep`` up to date by what has changed, however many trials there are."""
    summary = {**unbegun(), **(row.sweep or {})}
    counts = dict(summary["counts"])
    for no, one in told.items():
        if (was := before.get(no)) is not None:
            counts[was] -= 1
        counts[one.state] = counts.get(one.state, 0) + 1
    ended = sum(many for state, many in counts.items() if state != TrialState.RUNNING)
    summary |= {"counts": counts, "finished": ended - summary["inherited"]}
    new = [one for no, one in told.items() if one.state != before.get(no) and one.state == TrialState.SUCCEEDED]
    if new:
        summary |= _standing(session, row.id, search, summary, new)
    experiments.set_columns(session, row.id, sweep=summary, last_step=summary["finished"])
    session.refresh(row, ["sweep", "last_step"])


def _standing(
    session: Session, experiment_id: str, search: SearchSpec, summary: Mapping[str, Any], new: Sequence[TrialRow]
) -> dict[str, Any]:
    """Who is best among those that were and those that have just ended; none of the others can be."""
    standing = {*summary["front"], *(no for no in (summary["best"], summary["nearest"]) if no is not None)}
    rows = {**_rows(session, experiment_id, standing), **{one.no: one for one in new}}
    trials = [trial_of(search, rows[no]) for no in sorted(rows)]
    if len(search.objectives) > 1:
        winner, on_front = None, front(search, trials)
    else:
        winner, on_front = best(search, trials), ()
    nearest = None if winner or on_front else nearest_miss(search, trials)
    return {
        "best": winner.no if winner else None,
        "value": winner.values[0] if winner else None,
        "front": [trial.no for trial in on_front],
        "nearest": nearest.no if nearest else None,
    }


# ---- reading --------------------------------------------------------------------------------------------------------


def find(session: Session, experiment_id: str, no: int) -> TrialRow | None:
    """The trial of that number, or None."""
    return session.get(TrialRow, (experiment_id, no)) if no <= MAX_NO else None


def count(session: Session, experiment_id: str, state: TrialState | None = None) -> int:
    """How many trials there are, in all or in a state."""
    query = select(func.count()).select_from(TrialRow).where(TrialRow.experiment_id == experiment_id)
    return session.scalar(query if state is None else query.where(TrialRow.state == state)) or 0


def documents(session: Session, experiment_id: str, *, first_no: int, limit: int) -> list[TrialDocument]:
    """Trials by number, from ``first_no`` on."""
    objective = _first_metric(experiments.get(session, experiment_id))
    query = select(TrialRow).where(TrialRow.experiment_id == experiment_id, TrialRow.no >= min(first_no, MAX_NO))
    return [document_of(one, objective=objective) for one in session.scalars(query.order_by(TrialRow.no).limit(limit))]


def _first_metric(row: ExperimentRow) -> str:
    """Without reading all of the spec: pages are asked for one after the other."""
    objective = (row.spec.get("search") or {}).get("objectives", [{}])[0]
    return str(objective.get("maximize") or objective.get("minimize") or "")


def search_of(spec: ExperimentSpec) -> SearchSpec:
    """What a sweep looks for. Raises ``ValueError`` for what is none."""
    if spec.search is None:
        raise ValueError("this experiment is no sweep")
    return spec.search


Sort = Literal["no", "-no", "value", "-value", "started_at", "-started_at", "ended_at", "-ended_at", "state", "-state"]
SORTS: tuple[Sort, ...] = get_args(Sort)
_Term = tuple[SQLColumnExpression[Any], bool]
"""What trials are ordered by, never null, and whether large ones come first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Some trials in order, and the place behind them; None where there are no more."""

    rows: list[TrialRow]
    place: list[Any] | None


def page(
    session: Session,
    experiment_id: str,
    *,
    sort: Sort,
    limit: int,
    states: Sequence[str] = (),
    after: Sequence[Any] | None = None,
) -> Page:
    """Trials in that order from behind ``after``.

    By value those come first that keep all constraints, then the others by how far they are beyond them. Those of which
    it is not known come last, either way; by time so do those that have none yet.
    """
    terms = _terms(sort)
    query = select(TrialRow, *(term for term, _ in terms)).where(TrialRow.experiment_id == experiment_id)
    if states:
        query = query.where(TrialRow.state.in_(states))
    if after is not None:
        query = query.where(_behind(terms, _from_json(sort, after)))
    query = query.order_by(*(term.desc() if is_down else term.asc() for term, is_down in terms))
    found = session.execute(query.limit(limit + 1)).all()
    shown = found[:limit]
    place = [_to_json(value) for value in shown[-1][1:]] if len(found) > limit else None
    return Page(rows=[one[0] for one in shown], place=place)


def _terms(sort: Sort) -> tuple[_Term, ...]:
    name, is_down = sort.removeprefix("-"), sort.startswith("-")
    number: _Term = (TrialRow.no, is_down and name == "no")
    match name:
        case "value":
            unknown = -_LARGEST if is_down else _LARGEST
            excess = func.coalesce(TrialRow.excess, _LARGEST)
            return (excess, False), (func.coalesce(TrialRow.value, unknown), is_down), number
        case "started_at" | "ended_at":
            column = TrialRow.started_at if name == "started_at" else TrialRow.ended_at
            never = literal(_EARLIEST if is_down else _LATEST, UtcDateTime())
            return (func.coalesce(column, never), is_down), number
        case "state":
            return (TrialRow.state, is_down), number
    return (number,)


def _behind(terms: Sequence[_Term], place: Sequence[Any]) -> ColumnElement[bool]:
    ways: list[ColumnElement[bool]] = []
    equal: ColumnElement[bool] = true()
    for (term, is_down), value in zip(terms, place, strict=True):
        ways.append(and_(equal, term < value if is_down else term > value))
        equal = and_(equal, term == value)
    return or_(*ways)


def _to_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _from_json(sort: Sort, place: Sequence[Any]) -> list[Any]:
    first, *others = place
    return [datetime.fromisoformat(first) if sort.endswith("_at") else first, *others]

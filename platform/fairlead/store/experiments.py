"""Questions about experiments, and the one way their state changes: compare-and-set with an event, together."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import product
from statistics import median
from typing import Any, cast

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Select, and_, bindparam, exists, func, or_, select, true, union_all, update
from sqlalchemy import Table as CoreTable
from sqlalchemy.orm import Session

from fairlead.errors import NotFound
from fairlead.lifecycle import Desired, State, move
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, PolicySpec, Wish, spec_hash
from fairlead.store import appetites, projects, recorded_trials
from fairlead.store.rows import loaded, reread_if_loaded
from fairlead.store.tables import AttemptRow, EventRow, ExperimentRow, TrialRow

_TABLE = cast("CoreTable", ExperimentRow.__table__)
"""Without the mapping, for ten thousand rows at a time."""
WAITING_STATES = (State.QUEUED, State.RETRYING)
HOLDING_STATES = (State.PLACED, State.RUNNING)
RELEASED_KIND = "released"
CUT = "the sweep ended before it did"
"""Why a trial is pruned that ran when nothing of its sweep was to go on."""


READ_AT_ONCE = 500
"""Rows that one statement asks for by id."""
MAX_WAYS = 440
"""Combinations of filters that a page is put together from, one by one; SQLite takes 500 in one statement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An experiment that waits for its turn, with the columns that queueing and placement look at."""

    id: str
    version: int
    state: State
    project: str
    priority: int
    wishes: tuple[Wish, ...]
    """Ways to run it, the preferred one first."""
    runtime_left_s: float
    """Of ``max_runtime_s``, which ends it: the bound that backfill may count on."""
    ran_s: float = 0
    """Run time of its attempts that have ended: so long it did not wait."""
    expected_s: float | None = None
    """How long experiments like it ran; for estimates only."""
    most_trials: int | None = None
    """Of a sweep: trials at a time that it could make use of by now; more than one slot it gets for these only."""
    current_attempt_no: int
    enqueued_at: datetime
    waiting: str | None

    def makes_use_of(self, wish: Wish) -> bool:
        """Whether it has trials for all slots of the wish."""
        return wish.is_least or self.most_trials is None or wish.trials <= self.most_trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """What became of the model of an experiment that has succeeded."""

    experiment: str
    decided: Mapping[str, Any]
    """Its ``registration``."""
    updated_at: datetime


def insert(
    session: Session,
    *,
    experiment_id: str,
    spec: ExperimentSpec,
    actor: str,
    now: datetime,
    total_steps: int | None,
    derived_from: str | None = None,
) -> ExperimentRow:
    """Store a new experiment as ``accepted``, with its first event; its project becomes one if it is none yet."""
    projects.ensure(session, spec.project, now=now)
    row = ExperimentRow(
        id=experiment_id,
        project=spec.project,
        name=spec.name,
        workload=spec.workload,
        spec=spec.model_dump(mode="json", by_alias=True),
        spec_hash=spec_hash(spec),
        labels=dict(spec.labels),
        created_by=actor,
        created_at=now,
        updated_at=now,
        desired=Desired.RUN,
        state=State.ACCEPTED,
        reason="accepted",
        version=1,
        current_attempt_no=0,
        priority=spec.policy.priority,
        workers=spec.wishes[0].workers,
        cpus=spec.wishes[0].cpus,
        gpus=spec.wishes[0].gpus,
        wishes=_wishes_column(spec),
        is_preemptible=spec.policy.preemptible,
        max_runtime_s=spec.policy.max_runtime_s,
        budget_cpu_hours=spec.budget.cpu_hours,
        budget_gpu_hours=spec.budget.gpu_hours,
        register_name=spec.register_as.name if spec.register_as else None,
        total_steps=total_steps,
        metrics={},
        mlflow_version=0,
        gates=[],
        derived_from=derived_from,
    )
    session.add(row)
    session.flush()
    session.add(_event(row, kind="accepted", actor=actor, now=now, to_state=State.ACCEPTED, reason="accepted"))
    session.flush()
    return row


def get(session: Session, experiment_id: str) -> ExperimentRow:
    """The experiment. Raises ``NotFound``."""
    row = session.get(ExperimentRow, experiment_id)
    if row is None:
        raise NotFound(f"there is no experiment {experiment_id!r}")
    return row


def lock(session: Session, experiment_id: str) -> ExperimentRow:
    """The experiment as it is now, and nobody else changes it until the transaction ends. Raises ``NotFound``."""
    row = session.get(ExperimentRow, experiment_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no experiment {experiment_id!r}")
    return row


def find(session: Session, experiment_id: str) -> ExperimentRow | None:
    """The experiment, or None."""
    return session.get(ExperimentRow, experiment_id)


def project_of(session: Session, experiment_id: str) -> str | None:
    """The project of an experiment; None where there is no such experiment."""
    return session.scalar(select(ExperimentRow.project).where(ExperimentRow.id == experiment_id))


def spec_of(row: ExperimentRow) -> ExperimentSpec:
    """The stored spec as a document."""
    return ExperimentSpec.model_validate(row.spec)


def policy_of(row: ExperimentRow) -> PolicySpec:
    """The stored spec's policy; the usual one where another release has written what this one cannot read."""
    try:
        return PolicySpec.model_validate(row.spec.get("policy") or {})
    except ValidationError:
        return PolicySpec()


def page(
    session: Session,
    *,
    limit: int,
    after: tuple[datetime, str] | None = None,
    states: tuple[str, ...] = (),
    projects: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
) -> list[ExperimentRow]:
    """Newest first, starting below ``after`` (created_at, id)."""
    # A name in any state is a walk for each state: without numbers on how often each occurs, SQLite would take an index
    # of the states for a name in one of them, and read all that ever succeeded.
    any_state = tuple(State) if names and not projects else (None,)
    ways = [*product(states or any_state, projects or (None,), names or (None,))]
    newest = (ExperimentRow.created_at.desc(), ExperimentRow.id.desc())
    if len(ways) <= MAX_WAYS:
        # A walk along an index for each, all cut short: asked for several at once a database may sort a million rows.
        pages = [_ids_of(*way, after=after).order_by(*newest).limit(limit).subquery() for way in ways]
        found = union_all(*(select(each.c.id) for each in pages)).subquery()
        query = select(ExperimentRow).join(found, found.c.id == ExperimentRow.id)
    else:
        wanted = ((ExperimentRow.state, states), (ExperimentRow.project, projects), (ExperimentRow.name, names))
        query = select(ExperimentRow).where(*(column.in_(values) for column, values in wanted if values), _below(after))
    return list(session.scalars(query.order_by(*newest).limit(limit)))


def _ids_of(
    state: str | None, project: str | None, name: str | None, *, after: tuple[datetime, str] | None
) -> Select[str]:
    wanted = ((ExperimentRow.state, state), (ExperimentRow.project, project), (ExperimentRow.name, name))
    equal = [column == value for column, value in wanted if value is not None]
    return select(ExperimentRow.id).where(*equal, _below(after))


def _below(after: tuple[datetime, str] | None) -> ColumnElement[bool]:
    if after is None:
        return true()
    created, last_id = after
    # The second half says it all; the first lets an index be entered at the right place.
    return and_(
        ExperimentRow.created_at <= created, or_(ExperimentRow.created_at < created, ExperimentRow.id < last_id)
    )


def in_states(session: Session, states: tuple[State, ...], *, limit: int = 500) -> list[ExperimentRow]:
    """Experiments in one of ``states``, longest unchanged first."""
    query = select(ExperimentRow).where(ExperimentRow.state.in_(states)).order_by(ExperimentRow.updated_at)
    return list(session.scalars(query.limit(limit)))


def wanting(session: Session, desired: tuple[Desired, ...], states: tuple[State, ...]) -> list[ExperimentRow]:
    """Experiments in one of ``states`` whose user wants one of ``desired``."""
    query = select(ExperimentRow).where(ExperimentRow.state.in_(states), ExperimentRow.desired.in_(desired))
    return list(session.scalars(query.limit(500)))


def due_retries(session: Session, now: datetime) -> list[ExperimentRow]:
    """Experiments whose delay before the next attempt is over."""
    query = select(ExperimentRow).where(
        ExperimentRow.state == State.RETRYING, ExperimentRow.desired == Desired.RUN, ExperimentRow.due_at <= now
    )
    return list(session.scalars(query.limit(500)))


def with_budget(session: Session) -> list[ExperimentRow]:
    """Experiments that hold resources and have a budget."""
    query = select(ExperimentRow).where(
        ExperimentRow.state.in_(HOLDING_STATES),
        or_(ExperimentRow.budget_cpu_hours.is_not(None), ExperimentRow.budget_gpu_hours.is_not(None)),
    )
    return list(session.scalars(query))


def released(session: Session) -> list[ExperimentRow]:
    """Held experiments that a human has let go on since, and of which nothing runs any more."""
    of_row = EventRow.experiment_id == ExperimentRow.id
    held = select(func.max(EventRow.seq)).where(of_row, EventRow.to_state == State.HELD).scalar_subquery()
    let_go = select(func.max(EventRow.seq)).where(of_row, EventRow.kind == RELEASED_KIND).scalar_subquery()
    is_open = exists().where(AttemptRow.experiment_id == ExperimentRow.id, AttemptRow.outcome.is_(None))
    query = select(ExperimentRow).where(
        ExperimentRow.state == State.HELD,
        ExperimentRow.desired != Desired.CANCEL,
        ExperimentRow.released_at.is_not(None),
        let_go > held,
        ~is_open,
    )
    return list(session.scalars(query.limit(500)))


def is_released(session: Session, row: ExperimentRow) -> bool:
    """Whether a human has let it go on since it was last held."""
    if row.released_at is None:
        return False
    newest = select(EventRow.kind).where(
        EventRow.experiment_id == row.id, or_(EventRow.kind == RELEASED_KIND, EventRow.to_state == State.HELD)
    )
    return session.scalar(newest.order_by(EventRow.seq.desc()).limit(1)) == RELEASED_KIND


def release_if_current(
    session: Session, row: ExperimentRow, *, actor: str, now: datetime, released_at: datetime
) -> bool:
    """Write that a human lets it go on, with one event, unless someone changed the row meanwhile (then False)."""
    columns = {"released_at": released_at}
    reason = f"{actor} releases it: what ended before counts no more"
    return _write_if_current(session, row, columns, kind=RELEASED_KIND, actor=actor, now=now, reason=reason)


def candidates(
    session: Session, *, known: Mapping[str, Candidate] | None = None, limit: int = 10_000
) -> list[Candidate]:
    """All that are queued, oldest first, by the columns that decide; specs are not read.

    ``known``: candidates of an earlier call. Of those whose version is still the same only the version is read, from an
    index. ``waiting`` has no version: it is as the caller last saw it, or wrote it.
    """
    found = known or {}
    query = select(_TABLE.c.id, _TABLE.c.version)
    query = query.where(_TABLE.c.state == State.QUEUED, _TABLE.c.desired == Desired.RUN)
    query = query.order_by(_TABLE.c.enqueued_at, _TABLE.c.id).limit(limit)
    queued = session.connection().execute(query).all()
    new = [key for key, version in queued if key not in found or found[key].version != version]
    read = _read_candidates(session, new)
    return [read.get(key) or found[key] for key, _ in queued if key in read or key in found]


def _read_candidates(session: Session, ids: Sequence[str]) -> dict[str, Candidate]:
    connection, found = session.connection(), dict[str, Candidate]()
    for start in range(0, len(ids), READ_AT_ONCE):
        chunk = ids[start : start + READ_AT_ONCE]
        query = select(*(_TABLE.c[name] for name in _DECIDING)).where(_TABLE.c.id.in_(chunk))
        for row in connection.execute(query):
            found[row.id] = _candidate(*row)
        sweeps = [key for key in chunk if key in found and found[key].wishes[0].trials]
        for key, appetite in appetites.of(session, sweeps).items():
            found[key] = replace(found[key], most_trials=appetite.wanted)
    return found


_DECIDING = (
    "id",
    "version",
    "project",
    "priority",
    "workers",
    "cpus",
    "gpus",
    "wishes",
    "max_runtime_s",
    "spent_s",
    "expected_s",
    "current_attempt_no",
    "enqueued_at",
    "waiting",
)


def _candidate(
    key: str,
    version: int,
    project: str,
    priority: int,
    workers: int,
    cpus: float,
    gpus: float,
    wishes: list[Any] | None,
    max_runtime_s: float,
    spent_s: float,
    expected_s: float | None,
    current_attempt_no: int,
    enqueued_at: datetime | None,
    waiting: str | None,
) -> Candidate:
    assert enqueued_at is not None, "queued rows have a place in the queue"
    return Candidate(
        id=key,
        version=version,
        state=State.QUEUED,
        project=project,
        priority=priority,
        wishes=_plain_wish(workers, cpus, gpus) if wishes is None else _shared(tuple(_wish(one) for one in wishes)),
        runtime_left_s=max(0.0, max_runtime_s - spent_s),
        ran_s=spent_s,
        expected_s=expected_s,
        current_attempt_no=current_attempt_no,
        enqueued_at=enqueued_at,
        waiting=waiting,
    )


@lru_cache(maxsize=4096)
def _plain_wish(workers: int, cpus: float, gpus: float) -> tuple[Wish, ...]:
    return (Wish(workers=workers, cpus_per_worker=cpus / workers, gpus_per_worker=gpus / workers),)


@lru_cache(maxsize=4096)
def _shared(wishes: tuple[Wish, ...]) -> tuple[Wish, ...]:
    """The same object for equal ones: a round compares them by identity first."""
    return wishes


def _wish(stored: dict[str, Any]) -> Wish:
    labels = tuple((name, value) for name, value in stored["labels"].items())
    return Wish(**{**stored, "labels": labels})


def _wishes_column(spec: ExperimentSpec) -> list[Any] | None:
    """None for the usual spec, whose one wish the columns beside tell."""
    wishes = spec.wishes
    if len(wishes) == 1 and not wishes[0].labels and not wishes[0].trials:
        return None
    return [_stored(wish) for wish in wishes]


def _stored(wish: Wish) -> dict[str, Any]:
    found = {**asdict(wish), "labels": dict(wish.labels)}
    if not wish.trials:
        del found["trials"]  # releases without sweeps read it as well
    return found


def promotions(session: Session, project: str, name: str) -> list[Promotion]:
    """Of experiments of ``project`` whose spec asks to register a model as ``name``, those of which it is decided."""
    query = select(_TABLE.c.id, _TABLE.c.registration, _TABLE.c.updated_at).where(
        _TABLE.c.project == project, _TABLE.c.register_name == name, _TABLE.c.state == State.SUCCEEDED
    )
    rows = session.connection().execute(query)
    return [Promotion(experiment=key, decided=found or {}, updated_at=at) for key, found, at in rows]


def names_and_reasons(session: Session, ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Name, and why it waits, of those of ``ids`` that are queued."""
    query = select(ExperimentRow.id, ExperimentRow.name, ExperimentRow.waiting).where(
        ExperimentRow.id.in_(ids), ExperimentRow.state == State.QUEUED
    )
    return {key: (name, waiting) for key, name, waiting in session.execute(query)}


def usual_run_s(session: Session, row: ExperimentRow) -> float | None:
    """The median run time of the last ten like it that succeeded, if any of the last hundred did.

    Like it are those of the same project, name and workload. A hundred: however many there are, admission looks at few.
    """
    columns = (ExperimentRow.workload, ExperimentRow.state, ExperimentRow.spent_s)
    like = select(*columns).where(ExperimentRow.project == row.project, ExperimentRow.name == row.name)
    found = session.execute(like.order_by(ExperimentRow.created_at.desc()).limit(100))
    known = [ran_s for *what, ran_s in found if what == [row.workload, State.SUCCEEDED] and ran_s > 0]
    return median(known[:10]) if known else None


def explain(session: Session, waiting: Mapping[str, str]) -> None:
    """Write down why some wait. No event, no new version; only while they are queued."""
    changed = update(_TABLE).where(_TABLE.c.id == bindparam("key"), _TABLE.c.state == State.QUEUED)
    found = [{"key": key, "why": why} for key, why in waiting.items()]
    session.connection().execute(changed.values(waiting=bindparam("why")), found)


def without_run(session: Session, *, without: Collection[str] = (), limit: int = 20) -> list[ExperimentRow]:
    """Experiments that have been placed or have ended and are not in MLflow yet, oldest first, but for ``without``."""
    early = (State.ACCEPTED, State.QUEUED)
    query = select(ExperimentRow).where(
        ExperimentRow.mlflow_run_id.is_(None), ExperimentRow.state.not_in(early), ExperimentRow.id.not_in(without)
    )
    return list(session.scalars(query.order_by(ExperimentRow.created_at).limit(limit)))


def ended_unrecorded(session: Session, *, without: Collection[str] = (), limit: int = 20) -> list[ExperimentRow]:
    """Ended experiments of whose last events MLflow has not heard, longest waiting first, but for ``without``.

    A sweep is among them once all its trials are recorded.
    """
    final = [state for state in State if state.is_final]
    query = select(ExperimentRow).where(
        ~recorded_trials.are_waiting(),
        ExperimentRow.state.in_(final),
        ExperimentRow.mlflow_run_id.is_not(None),
        ExperimentRow.mlflow_version < ExperimentRow.version,
        ExperimentRow.id.not_in(without),
    )
    return list(session.scalars(query.order_by(ExperimentRow.updated_at).limit(limit)))


def count_in(session: Session, states: tuple[State, ...]) -> int:
    """How many experiments are in one of ``states``."""
    return session.scalar(select(func.count()).select_from(ExperimentRow).where(ExperimentRow.state.in_(states))) or 0


def move_if_current(
    session: Session,
    row: ExperimentRow | Candidate,
    to: State,
    *,
    reason: str,
    actor: str,
    now: datetime,
    kind: str = "state",
    attempt_no: int | None = None,
    payload: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
) -> bool:
    """Move ``row`` to ``to`` with one event, unless someone changed it meanwhile (then False, and nothing is written).

    An ``ExperimentRow`` of this session shows the new version afterwards, so that another move may follow.
    Raises ``IllegalMove`` if the table of states does not know the move, ``ValueError`` without a reason.
    """
    source = State(row.state)
    move(source, to)
    if not reason.strip():
        raise ValueError(f"the move of {row.id} from {source} to {to} has no reason")
    changed = session.execute(
        update(ExperimentRow)
        .where(ExperimentRow.id == row.id, ExperimentRow.version == row.version)
        .values(
            {
                "state": to,
                "reason": reason,
                "waiting": None,
                "version": row.version + 1,
                "updated_at": now,
                **(columns or {}),
            }
        )
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        return False
    session.add(
        EventRow(
            experiment_id=row.id,
            seq=row.version + 1,
            kind=kind,
            from_state=source,
            to_state=to,
            attempt_no=attempt_no,
            actor=actor,
            reason=reason,
            payload=payload or {},
            at=now,
        )
    )
    if to.is_final:
        _cut_trials(session, row.id, now)
    session.flush()
    reread_if_loaded(session, ExperimentRow, row.id)
    return True


def _cut_trials(session: Session, experiment_id: str, now: datetime) -> None:
    """Trials that run when their sweep is over have ended with it, whether or not a runner was left to say so."""
    cut = session.execute(
        update(TrialRow)
        .where(TrialRow.experiment_id == experiment_id, TrialRow.state == TrialState.RUNNING)
        .values(state=TrialState.PRUNED, reason=CUT, ended_at=now)
        .execution_options(synchronize_session=False)
    ).rowcount  # type: ignore[attr-defined]  # an UPDATE's result has it
    if cut == 0:
        return
    summary = session.scalar(select(ExperimentRow.sweep).where(ExperimentRow.id == experiment_id)) or {}
    counts = dict(summary.get("counts", {}))
    counts[TrialState.RUNNING] = counts.get(TrialState.RUNNING, 0) - cut
    counts[TrialState.PRUNED] = counts.get(TrialState.PRUNED, 0) + cut
    finished = summary.get("finished", 0) + cut
    set_columns(session, experiment_id, sweep={**summary, "counts": counts, "finished": finished})


def note(
    session: Session,
    experiment_id: str,
    *,
    kind: str,
    actor: str,
    now: datetime,
    reason: str = "",
    attempt_no: int | None = None,
    payload: dict[str, Any] | None = None,
    columns: dict[str, Any] | None = None,
) -> int:
    """Append an event that changes no state; returns its ``seq``. Raises ``NotFound``.

    A row of this session may still be moved afterwards, unless someone else changed it before this event.
    """
    seq = session.scalar(
        update(ExperimentRow)
        .where(ExperimentRow.id == experiment_id)
        .values({"version": ExperimentRow.version + 1, "updated_at": now, **(columns or {})})
        .returning(ExperimentRow.version)
        .execution_options(synchronize_session=False)
    )
    if seq is None:
        raise NotFound(f"there is no experiment {experiment_id!r}")
    session.add(
        EventRow(
            experiment_id=experiment_id,
            seq=seq,
            kind=kind,
            attempt_no=attempt_no,
            actor=actor,
            reason=reason,
            payload=payload or {},
            at=now,
        )
    )
    session.flush()
    row = loaded(session, ExperimentRow, experiment_id)
    if row is not None and row.version == seq - 1:
        session.refresh(row)
    return int(seq)


def want_if_current(session: Session, row: ExperimentRow, desired: Desired, *, actor: str, now: datetime) -> bool:
    """Write what the user wants with one event, unless someone changed the row meanwhile (then False)."""
    reason = f"{actor} asks to {desired}"
    columns, payload = {"desired": desired}, {"desired": desired}
    return _write_if_current(
        session, row, columns, kind="desired", actor=actor, now=now, reason=reason, payload=payload
    )


def _write_if_current(
    session: Session,
    row: ExperimentRow,
    columns: dict[str, Any],
    *,
    kind: str,
    actor: str,
    now: datetime,
    reason: str,
    payload: dict[str, Any] | None = None,
) -> bool:
    changed = session.execute(
        update(ExperimentRow)
        .where(ExperimentRow.id == row.id, ExperimentRow.version == row.version)
        .values({**columns, "version": row.version + 1, "updated_at": now})
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        return False
    event = EventRow(
        experiment_id=row.id,
        seq=row.version + 1,
        kind=kind,
        actor=actor,
        reason=reason,
        payload=payload or {},
        at=now,
    )
    session.add(event)
    session.flush()
    return True


def versions(session: Session, ids: Sequence[str]) -> dict[str, int]:
    """The versions of some experiments, which tell whether anything new has happened to them."""
    query = select(ExperimentRow.id, ExperimentRow.version).where(ExperimentRow.id.in_(ids))
    return dict(session.execute(query).all())


def set_columns(session: Session, experiment_id: str, **columns: Any) -> None:
    """Write columns that are no part of the life: waiting, last metrics, MLflow's ids. No event, no new version."""
    session.execute(
        update(ExperimentRow)
        .where(ExperimentRow.id == experiment_id)
        .values(columns)
        .execution_options(synchronize_session=False)
    )


def _event(
    row: ExperimentRow, *, kind: str, actor: str, now: datetime, to_state: State | None, reason: str
) -> EventRow:
    return EventRow(
        experiment_id=row.id,
        seq=row.version,
        kind=kind,
        to_state=to_state,
        actor=actor,
        reason=reason,
        payload={},
        at=now,
    )

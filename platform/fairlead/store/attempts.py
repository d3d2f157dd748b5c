"""Questions about attempts, each write fenced by what makes it legitimate."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session, aliased

from fairlead.errors import NotFound, StaleAttempt, Unauthorized
from fairlead.lifecycle import (
    DEATHS_ON_NODES,
    EXCLUDE_WITHIN,
    OFFER_REFUSED,
    OFFER_WITHDRAWN,
    WORKER_DIED,
    Desired,
    NodeDeath,
    Observation,
    Outcome,
)
from fairlead.protocol import StopMode, attempt_path, runner_name
from fairlead.search.trials import TrialState
from fairlead.spec import Wish
from fairlead.store import appetites
from fairlead.store.appetites import Appetite
from fairlead.store.experiments import Candidate
from fairlead.store.rows import reread_if_loaded
from fairlead.store.tables import AttemptRow, ExperimentRow, TrialRow


def attempt_id(experiment_id: str, attempt_no: int) -> str:
    """The attempt's key."""
    return f"{experiment_id}-a{attempt_no}"


def insert(
    session: Session,
    *,
    candidate: Candidate,
    attempt_no: int,
    cluster: str,
    now: datetime,
    alternative: int = 0,
    plan: Mapping[str, int] | None = None,
) -> AttemptRow:
    """Offer a new attempt of a placed experiment to ``cluster``. Its row holds the resources, and the quota, at once.

    ``alternative``: which of the candidate's wishes; ``plan``: workers by node id, as placement counts on.
    """
    wish = candidate.wishes[alternative]
    row = AttemptRow(
        id=attempt_id(candidate.id, attempt_no),
        experiment_id=candidate.id,
        attempt_no=attempt_no,
        cluster=cluster,
        runner_name=runner_name(candidate.id, attempt_no),
        storage_path=str(attempt_path(candidate.project, candidate.id, attempt_no)),
        workers=wish.workers,
        cpus=wish.cpus,
        gpus=wish.gpus,
        alternative=alternative,
        plan=dict(plan) if plan is not None else None,
        trial_workers=wish.workers // wish.trials if wish.trials else None,
        created_at=now,
        lease_epoch=0,
        observation=Observation.ABSENT,
        observed_detail="",
        death_reason="",
        reason="",
        detail="",
        is_settled=False,
    )
    session.add(row)
    session.flush()
    return row


def get(session: Session, key: str) -> AttemptRow:
    """The attempt. Raises ``NotFound``."""
    row = session.get(AttemptRow, key)
    if row is None:
        raise NotFound(f"there is no attempt {key!r}")
    return row


def of_experiment(session: Session, experiment_id: str) -> list[AttemptRow]:
    """All attempts, oldest first."""
    query = select(AttemptRow).where(AttemptRow.experiment_id == experiment_id).order_by(AttemptRow.attempt_no)
    return list(session.scalars(query))


def open_on(session: Session, cluster: str) -> list[AttemptRow]:
    """Attempts of ``cluster`` without an outcome."""
    query = select(AttemptRow).where(AttemptRow.cluster == cluster, AttemptRow.outcome.is_(None))
    return list(session.scalars(query.order_by(AttemptRow.created_at)))


def open_everywhere(session: Session) -> list[AttemptRow]:
    """All attempts without an outcome."""
    return list(session.scalars(select(AttemptRow).where(AttemptRow.outcome.is_(None))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Occupant:
    """An open attempt with the columns that scheduling looks at."""

    attempt_id: str
    experiment_id: str
    cluster: str
    project: str
    priority: int
    is_preemptible: bool
    enqueued_at: datetime | None
    workers: int
    cpus: float
    gpus: float
    plan: dict[str, Any] | None
    started_at: datetime | None
    max_runtime_s: float
    spent_s: float
    expected_s: float | None
    trial_workers: int | None
    resized_at: datetime | None
    shrunk_at: datetime | None
    cpu_s: float
    gpu_s: float
    is_stopping: bool
    preemptions: int
    """How often its experiment was stopped for a more urgent one."""

    def held_s(self, now: datetime) -> tuple[float, float]:
        """Seconds of one CPU and of one GPU that it has held up to ``now``."""
        return _held_s(self, now)


def occupants(session: Session) -> list[Occupant]:
    """All that hold resources, oldest first."""
    preempted = aliased(AttemptRow)
    times = (
        select(func.count())
        .where(preempted.experiment_id == AttemptRow.experiment_id, preempted.stop_mode == StopMode.PREEMPT)
        .scalar_subquery()
    )
    query = (
        select(
            AttemptRow.id,
            AttemptRow.experiment_id,
            AttemptRow.cluster,
            ExperimentRow.project,
            ExperimentRow.priority,
            ExperimentRow.is_preemptible,
            ExperimentRow.enqueued_at,
            AttemptRow.workers,
            AttemptRow.cpus,
            AttemptRow.gpus,
            AttemptRow.plan,
            AttemptRow.started_at,
            ExperimentRow.max_runtime_s,
            ExperimentRow.spent_s,
            ExperimentRow.expected_s,
            AttemptRow.trial_workers,
            AttemptRow.resized_at,
            AttemptRow.shrunk_at,
            AttemptRow.cpu_s,
            AttemptRow.gpu_s,
            or_(AttemptRow.stop_mode.is_not(None), ExperimentRow.desired != Desired.RUN),
            times,
        )
        .join(ExperimentRow, ExperimentRow.id == AttemptRow.experiment_id)
        .where(AttemptRow.outcome.is_(None))
        .order_by(AttemptRow.created_at, AttemptRow.id)
    )
    names = [one.name for one in fields(Occupant)]
    return [Occupant(**dict(zip(names, row, strict=True))) for row in session.execute(query)]


def has_sweeps(session: Session) -> bool:
    """Whether any sweep holds resources."""
    query = select(AttemptRow.id).where(AttemptRow.outcome.is_(None), AttemptRow.trial_workers.is_not(None))
    return session.scalar(query.limit(1)) is not None


def appetites_of_sweeps(session: Session) -> dict[str, Appetite]:
    """Of all sweeps that hold resources, by attempt; empty where none does."""
    query = select(AttemptRow.id, AttemptRow.experiment_id)
    query = query.where(AttemptRow.outcome.is_(None), AttemptRow.trial_workers.is_not(None))
    sweeps = dict(session.execute(query).all())
    found = appetites.of(session, list(sweeps.values()))
    return {key: found[experiment_id] for key, experiment_id in sweeps.items()}


def unsettled(session: Session, *, limit: int = 200) -> list[AttemptRow]:
    """Attempts that ended and whose experiment has not moved on yet."""
    query = select(AttemptRow).where(AttemptRow.outcome.is_not(None), AttemptRow.is_settled.is_(False))
    return list(session.scalars(query.order_by(AttemptRow.ended_at).limit(limit)))


def has_finished_trials(session: Session, one: AttemptRow) -> bool:
    """Whether a sweep's attempt has brought a trial to its end; what its trials failed of is no progress."""
    query = select(TrialRow.no).where(
        TrialRow.experiment_id == one.experiment_id,
        TrialRow.attempt_no == one.attempt_no,
        TrialRow.state.in_((TrialState.SUCCEEDED, TrialState.PRUNED)),
    )
    return session.scalar(query.limit(1)) is not None


def slots(one: AttemptRow) -> int:
    """Trials at a time for which a sweep's attempt holds workers; 0 of what is no sweep's."""
    return one.workers // one.trial_workers if one.trial_workers else 0


def ended_on(session: Session, cluster: str, *, limit: int = 50) -> list[AttemptRow]:
    """Attempts that were begun or lost on ``cluster``, the one that ended last first."""
    says_something = or_(
        AttemptRow.started_at.is_not(None), AttemptRow.outcome.in_((Outcome.LOST, Outcome.INFRA_ERROR))
    )
    query = select(AttemptRow).where(
        AttemptRow.cluster == cluster,
        AttemptRow.outcome.is_not(None),
        AttemptRow.leased_at.is_not(None),
        says_something,
    )
    return list(session.scalars(query.order_by(AttemptRow.ended_at.desc(), AttemptRow.id.desc()).limit(limit)))


def deaths_on(session: Session, cluster: str, *, now: datetime) -> list[NodeDeath]:
    """Attempts of a cluster that have died within a day in a way that names nodes, the latest first."""
    query = select(
        AttemptRow.experiment_id,
        AttemptRow.reason,
        AttemptRow.ended_at,
        AttemptRow.node_id,
        AttemptRow.result["died_on"],
    ).where(
        AttemptRow.cluster == cluster,
        AttemptRow.outcome == Outcome.INFRA_ERROR,
        AttemptRow.reason.in_(DEATHS_ON_NODES),
        AttemptRow.ended_at > now - EXCLUDE_WITHIN,
    )
    return [
        NodeDeath(
            experiment_id=experiment_id,
            outcome=Outcome.INFRA_ERROR,
            reason=reason,
            nodes=tuple(died_on or ()) if reason == WORKER_DIED else (runner_node,) if runner_node else (),
            ended_at=ended_at,
        )
        for experiment_id, reason, ended_at, runner_node, died_on in session.execute(
            query.order_by(AttemptRow.ended_at.desc(), AttemptRow.id)
        )
        if ended_at is not None
    ]


def not_taken_since(session: Session, since: datetime) -> dict[str, frozenset[str]]:
    """Clusters whose agent did not take an offer after ``since``, by experiment."""
    query = select(AttemptRow.experiment_id, AttemptRow.cluster).where(
        AttemptRow.leased_at.is_(None),
        AttemptRow.outcome == Outcome.PREEMPTED,
        or_(AttemptRow.reason.startswith(OFFER_WITHDRAWN), AttemptRow.reason.startswith(OFFER_REFUSED)),
        AttemptRow.ended_at > since,
    )
    found: dict[str, set[str]] = {}
    for experiment_id, cluster in session.execute(query):
        found.setdefault(experiment_id, set()).add(cluster)
    return {experiment_id: frozenset(names) for experiment_id, names in found.items()}


def spent_s(session: Session, experiment_id: str, *, without: str | None = None) -> float:
    """Run time of an experiment's attempts that have ended, but for ``without``."""
    return sum(ran_s(one) for one in of_experiment(session, experiment_id) if one.id != without)


def ran_s(one: AttemptRow) -> float:
    """Run time of one that has ended.

    A lost attempt ran until it was last seen: the hours until its death was proven are not its own.
    """
    if one.started_at is None or one.ended_at is None:
        return 0.0
    last_seen = one.ended_at if one.result is not None else one.observed_at or one.started_at
    return max(0.0, (last_seen - one.started_at).total_seconds())


def held_s(one: AttemptRow, now: datetime) -> tuple[float, float]:
    """Seconds of one CPU and of one GPU that an attempt has held: up to ``now``, or to its end."""
    if one.outcome is None:
        return _held_s(one, now)
    if one.started_at is None:
        return 0.0, 0.0
    return _held_s(one, one.started_at + timedelta(seconds=ran_s(one)))


def _held_s(one: "Occupant | AttemptRow", until: datetime) -> tuple[float, float]:
    """A sweep may have held less before it was resized, or more."""
    if one.started_at is None:
        return 0.0, 0.0
    since = max(one.started_at, one.resized_at or one.started_at)
    seconds = max(0.0, (until - since).total_seconds())
    return one.cpu_s + seconds * one.cpus, one.gpu_s + seconds * one.gpus


def resize(session: Session, key: str, *, before: int, wish: Wish, plan: Mapping[str, int], now: datetime) -> bool:
    """Let a sweep's attempt that runs hold what ``wish`` says, as of ``now``; its agent is told with every sync.

    False if it holds another number of workers than ``before`` by now, is to stop, or has ended.
    """
    row = session.get(AttemptRow, key, with_for_update=True, populate_existing=True)
    if row is None or row.outcome is not None or row.stop_mode is not None or row.workers != before:
        return False
    row.cpu_s, row.gpu_s = _held_s(row, now)
    row.shrunk_at = now if wish.workers < before else row.shrunk_at
    row.workers, row.cpus, row.gpus = wish.workers, wish.cpus, wish.gpus
    row.plan, row.resized_at = dict(plan), now
    session.flush()
    return True


def hash_token(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def lease(session: Session, key: str, *, cluster: str, token: str, now: datetime) -> AttemptRow:
    """Hand the attempt to its cluster's agent under a fresh token. Raises ``StaleAttempt`` if it is no longer open."""
    changed = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == key, AttemptRow.cluster == cluster, AttemptRow.outcome.is_(None))
        .values(
            leased_at=now,
            lease_epoch=AttemptRow.lease_epoch + 1,
            token_sha256=hash_token(token),
            observed_at=now,
        )
        .execution_options(synchronize_session=False)
    )
    if changed.rowcount == 0:  # type: ignore[attr-defined]  # an UPDATE's result has it
        raise StaleAttempt(f"attempt {key} is not open on cluster {cluster}")
    reread_if_loaded(session, AttemptRow, key)
    return get(session, key)


def renew_token(session: Session, key: str, token: str) -> None:
    """Replace the token of a leased attempt, for an agent that has just attached."""
    session.execute(update(AttemptRow).where(AttemptRow.id == key).values(token_sha256=hash_token(token)))


def authenticate(session: Session, key: str, token: str) -> AttemptRow:
    """The attempt that ``token`` may write to.

    It stays so until the transaction ends: nobody can write an outcome in between, and writers of one attempt take
    turns. Raises ``Unauthorized`` for a wrong token, ``StaleAttempt`` once the attempt has ended or is not the current
    one.
    """
    row = _locked(session, key)
    if row is None or row.token_sha256 is None or not hmac.compare_digest(row.token_sha256, hash_token(token)):
        raise Unauthorized("this token does not belong to this attempt")
    if row.outcome is not None:
        raise StaleAttempt(f"attempt {key} has ended: {row.outcome}")
    if _current_attempt_no(session, row.experiment_id) != row.attempt_no:
        raise StaleAttempt(f"attempt {key} was superseded")
    return row


def _locked(session: Session, key: str) -> AttemptRow | None:
    """The row as it is now. SQLite needs no lock: its writers take turns anyway."""
    query = select(AttemptRow).where(AttemptRow.id == key).with_for_update(key_share=True)
    return session.scalar(query.execution_options(populate_existing=True))


def _current_attempt_no(session: Session, experiment_id: str) -> int | None:
    return session.scalar(select(ExperimentRow.current_attempt_no).where(ExperimentRow.id == experiment_id))


def write_if_open(session: Session, key: str, **columns: Any) -> bool:
    """Write columns of an attempt that has no outcome yet; False if it has one."""
    changed = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == key, AttemptRow.outcome.is_(None))
        .values(columns)
        .execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, AttemptRow, key)
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def end(
    session: Session,
    key: str,
    *,
    outcome: Outcome,
    reason: str,
    now: datetime,
    detail: str = "",
    result: dict[str, Any] | None = None,
    result_sha256: str | None = None,
) -> bool:
    """Write how the attempt ended, once; False if it had already."""
    columns = {"outcome": outcome, "reason": reason, "detail": detail, "ended_at": now}
    return write_if_open(session, key, **columns, result=result, result_sha256=result_sha256)


def ask_to_stop(session: Session, key: str, *, mode: StopMode, reason: str) -> bool:
    """Let the platform want a leased attempt stopped; its agent is told with every sync. False if it was asked before,
    has ended, or was never taken.
    """
    changed = session.execute(
        update(AttemptRow)
        .where(
            AttemptRow.id == key,
            AttemptRow.outcome.is_(None),
            AttemptRow.stop_mode.is_(None),
            AttemptRow.leased_at.is_not(None),
        )
        .values(stop_mode=mode, stop_reason=reason)
        .execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, AttemptRow, key)
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def withdraw(session: Session, key: str, *, outcome: Outcome, reason: str, now: datetime) -> bool:
    """End an attempt that no agent has leased; False if one has, or if it has ended."""
    changed = session.execute(
        update(AttemptRow)
        .where(AttemptRow.id == key, AttemptRow.outcome.is_(None), AttemptRow.leased_at.is_(None))
        .values(outcome=outcome, reason=reason, ended_at=now)
        .execution_options(synchronize_session=False)
    )
    reread_if_loaded(session, AttemptRow, key)
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # an UPDATE's result has it


def declare_lost(session: Session, key: str, *, by: str, why: str) -> bool:
    """Take a human's word that it is dead; the control loops end it. False if it has ended."""
    return write_if_open(session, key, declared_lost_by=by[:100], detail=why)


def note_stop(session: Session, key: str, now: datetime) -> None:
    """Write down when its agent was first asked to stop it."""
    columns = {"stop_since": now}
    session.execute(update(AttemptRow).where(AttemptRow.id == key, AttemptRow.stop_since.is_(None)).values(columns))


def settle(session: Session, key: str) -> None:
    """Mark that the experiment has moved on."""
    session.execute(update(AttemptRow).where(AttemptRow.id == key).values(is_settled=True))

"""What follows: from agents' words, results, evidence of death and users' wishes to the next state."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import structlog

from fairlead.clock import Clock
from fairlead.control.budget import over_budget
from fairlead.control.rows import for_each
from fairlead.control.situation import used_by
from fairlead.failpoints import failpoint
from fairlead.lifecycle import (
    DEATHS_ON_NODES,
    EXCLUDE_AFTER,
    OFFER_REFUSED,
    OFFER_WITHDRAWN,
    SESSION_ENDED,
    Desired,
    EndedAttempt,
    Next,
    NodeDeath,
    Observation,
    Outcome,
    State,
    after_attempt,
    retry_delay_bound_s,
)
from fairlead.protocol import STOP_GRACE_S, StopMode
from fairlead.queueing import rate, use_of
from fairlead.settings import ControlSettings
from fairlead.store import Session, Store, attempts, checkpoints, clusters, exclusions, experiments, projects
from fairlead.store.tables import AttemptRow, ClusterRow, ExperimentRow, ProjectRow

ACTOR = "settle"
CANNOT_STOP = "cannot_stop"
_STOP_MODES = {Desired.CANCEL: StopMode.CANCEL, Desired.PAUSE: StopMode.PAUSE}
IDLE_STATES = (State.ACCEPTED, State.QUEUED, State.RETRYING, State.PAUSED, State.HELD)
_MAY_BE_BLAMED = (Outcome.LOST, Outcome.INFRA_ERROR)
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settle:
    """One tick looks at everything that may have changed; each change is one short transaction."""

    store: Store
    clock: Clock
    settings: ControlSettings
    uniform: Callable[[float, float], float] = field(default=random.uniform)
    """Draws the delay before a retry; tests fix it."""

    def __call__(self) -> bool:
        steps = (
            self._note_starts,
            self._obey,
            self._watch_budgets,
            self._end_open_attempts,
            self._hold_unstoppable,
            self._move_on,
        )
        return sum(step() for step in steps) > 0  # all of them: any() would stop at the first

    def _note_starts(self) -> bool:
        """Placed becomes running once the runner has begun."""
        with self.store.read() as session:
            rows = experiments.in_states(session, (State.PLACED,))
            begun = [row for row in rows if _has_begun(session, row)]
        return for_each(begun, self._note_start)

    def _note_start(self, row: ExperimentRow) -> bool:
        with self.store.write() as session:
            return experiments.move_if_current(
                session,
                row,
                State.RUNNING,
                reason="the runner has begun",
                actor=ACTOR,
                now=self.clock.now(),
                attempt_no=row.current_attempt_no,
            )

    def _obey(self) -> bool:
        """Cancel or pause what has no open attempt."""
        with self.store.read() as session:
            open_ids = {attempt.experiment_id for attempt in attempts.open_everywhere(session)}
            cancelled = experiments.wanting(session, (Desired.CANCEL,), IDLE_STATES)
            cancelled = [row for row in cancelled if row.id not in open_ids]  # held, for it could not be stopped
            paused = experiments.wanting(session, (Desired.PAUSE,), (State.QUEUED, State.RETRYING))
        return for_each(cancelled + paused, self._obey_one)

    def _obey_one(self, row: ExperimentRow) -> bool:
        to = State.CANCELLED if row.desired == Desired.CANCEL else State.PAUSED
        with self.store.write() as session:
            return experiments.move_if_current(
                session, row, to, reason=f"{to} by the user", actor=ACTOR, now=self.clock.now()
            )

    def _watch_budgets(self) -> bool:
        """Have those stopped, at a checkpoint, whose budget is spent."""
        now = self.clock.now()
        with self.store.read() as session:
            watched = experiments.with_budget(session)
            spent = {row.id: over_budget(row, attempts.of_experiment(session, row.id), now) for row in watched}
        return for_each(
            [row for row in watched if spent[row.id]], lambda row: self._stop_over(row, spent[row.id] or "")
        )

    def _stop_over(self, row: ExperimentRow, why: str) -> bool:
        key = attempts.attempt_id(row.id, row.current_attempt_no)
        with self.store.write() as session:
            if not attempts.ask_to_stop(session, key, mode=StopMode.BUDGET, reason=why):
                return False
            experiments.note(
                session,
                row.id,
                kind="over_budget",
                actor=ACTOR,
                now=self.clock.now(),
                reason=f"it is stopped at its last checkpoint: {why}",
                attempt_no=row.current_attempt_no,
            )
        return True

    def _end_open_attempts(self) -> bool:
        """Offers nobody took, attempts proven dead, attempts of a Ray session that is gone."""
        with self.store.read() as session:
            open_attempts = attempts.open_everywhere(session)
            rows = {a.experiment_id: experiments.get(session, a.experiment_id) for a in open_attempts}
            here = {cluster.name: cluster for cluster in clusters.every(session)}
        return for_each(
            open_attempts, lambda attempt: self._end(attempt, rows[attempt.experiment_id], here[attempt.cluster])
        )

    def _end(self, attempt: AttemptRow, row: ExperimentRow, cluster: ClusterRow) -> bool:
        now = self.clock.now()
        if attempt.declared_lost_by is not None:
            outcome, reason = Outcome.LOST, f"declared_lost: by {attempt.declared_lost_by}: {attempt.detail}"
        elif attempt.leased_at is None:
            return self._withdraw(attempt, row, cluster)
        elif attempt.death_since is not None:
            outcome, reason = _outcome_of_death(row, attempt, attempt.death_reason or "runner_died")
        elif self._session_is_gone(attempt, cluster):
            outcome, reason = _outcome_of_death(row, attempt, SESSION_ENDED)
        else:
            return False
        with self.store.write() as session:
            detail = attempt.detail
            is_ended = attempts.end(session, attempt.id, outcome=outcome, reason=reason, now=now, detail=detail)
        failpoint("settle.ended")
        return is_ended

    def _withdraw(self, attempt: AttemptRow, row: ExperimentRow, cluster: ClusterRow) -> bool:
        now = self.clock.now()
        too_old = attempt.created_at + timedelta(seconds=self.settings.offer_ttl_s) <= now
        if row.desired == Desired.RUN and not too_old:
            return False
        outcome = Outcome.CANCELLED if row.desired == Desired.CANCEL else Outcome.PREEMPTED
        reason = self._why_not_taken(attempt, cluster) if row.desired == Desired.RUN else f"{row.desired}_requested"
        with self.store.write() as session:
            return attempts.withdraw(session, attempt.id, outcome=outcome, reason=reason, now=now)

    def _why_not_taken(self, attempt: AttemptRow, cluster: ClusterRow) -> str:
        if not clusters.has_fresh_agent(cluster, ttl_s=self.settings.agent_ttl_s, now=self.clock.now()):
            return f"{OFFER_WITHDRAWN}: no agent took it in time"
        refusal = attempt.observed_detail or "its log may say why"
        return f"{OFFER_REFUSED}: the agent of cluster {cluster.name} answers, but has not taken it: {refusal}"

    def _session_is_gone(self, attempt: AttemptRow, cluster: ClusterRow) -> bool:
        """Another Ray session was first seen long enough ago for every process of the old one to have ended."""
        session, since = cluster.ray_session, cluster.ray_session_since
        if attempt.ray_session is None or session is None or session == attempt.ray_session or since is None:
            return False
        return self.clock.now() - since >= timedelta(seconds=self.settings.ray_session_grace_s)

    def _hold_unstoppable(self) -> bool:
        """Hold what is still there long after its agent was told to stop it; the attempt keeps its resources."""
        with self.store.read() as session:
            asked = [attempt for attempt in attempts.open_everywhere(session) if attempt.stop_since is not None]
            rows = [(experiments.get(session, attempt.experiment_id), attempt) for attempt in asked]
        overdue = {row.id: attempt for row, attempt in rows if self._defies(row, attempt)}
        return for_each([row for row, _ in rows if row.id in overdue], lambda row: self._hold(row, overdue[row.id]))

    def _defies(self, row: ExperimentRow, attempt: AttemptRow) -> bool:
        mode = _STOP_MODES.get(Desired(row.desired)) or (attempt.stop_mode and StopMode(attempt.stop_mode))
        is_current = row.current_attempt_no == attempt.attempt_no and row.state in experiments.HOLDING_STATES
        if not mode or attempt.stop_since is None or not is_current:
            return False
        bound = timedelta(seconds=self.settings.stop_bound_s + STOP_GRACE_S[mode])
        return attempt.observation == Observation.PRESENT and self.clock.now() - attempt.stop_since > bound

    def _hold(self, row: ExperimentRow, attempt: AttemptRow) -> bool:
        assert attempt.stop_since is not None, "only attempts that were asked to stop can defy"
        seconds = (self.clock.now() - attempt.stop_since).total_seconds()
        reason = f"{CANNOT_STOP}: attempt {attempt.attempt_no} on cluster {attempt.cluster} is still there "
        reason += f"{seconds:.0f} s after its agent was asked to stop it; it keeps its resources until it is gone"
        with self.store.write() as session:
            return self._move(session, row, State.HELD, reason, attempt)

    def _move_on(self) -> bool:
        """Give every ended attempt its consequence."""
        with self.store.read() as session:
            ended = attempts.unsettled(session)
        return for_each(ended, self._move_on_from)

    def _move_on_from(self, attempt: AttemptRow) -> bool:
        now = self.clock.now()
        with self.store.write() as session:
            row = experiments.get(session, attempt.experiment_id)
            project = projects.locked(session, row.project)  # before the experiment is written, as dispatch does it
            if row.current_attempt_no != attempt.attempt_no or not _waits_for_an_end(row):
                self._settle(session, attempt, project)
                return True
            following = self._following(session, row)
            if following.state is State.HELD and row.state == State.HELD:
                self._settle(session, attempt, project)
                return True
            columns = {"due_at": self._due_at(following)} if following.state is State.RETRYING else {}
            if following.state is State.EVALUATING and row.state == State.PLACED:
                reason = "the result came before the word that it began"
                if not self._move(session, row, State.RUNNING, reason, attempt):
                    return False
                session.refresh(row)
            moved = experiments.move_if_current(
                session,
                row,
                following.state,
                reason=following.reason,
                actor=ACTOR,
                now=now,
                attempt_no=attempt.attempt_no,
                payload={"outcome": attempt.outcome, "attempt_reason": attempt.reason},
                columns=columns,
            )
            if moved:
                failpoint("settle.moving")
                self._settle(session, attempt, project)
                self._judge_cluster(session, attempt)
                self._judge_nodes(session, attempt)
        return moved

    def _settle(self, session: Session, attempt: AttemptRow, project: ProjectRow | None) -> None:
        """Mark the attempt as settled, and charge its use to its project in the same transaction: once."""
        now, half_life_s = self.clock.now(), self.settings.half_life_s
        attempts.settle(session, attempt.id)
        ran_s = attempts.ran_s(attempt)
        if project is None or attempt.ended_at is None or ran_s <= 0:
            return
        ended_s = max(0.0, (now - attempt.ended_at).total_seconds())
        held = rate(*(seconds / ran_s for seconds in attempts.held_s(attempt, now)))
        use = use_of(held, began_s=ended_s + ran_s, ended_s=ended_s, half_life_s=half_life_s)
        used = used_by(project, half_life_s=half_life_s, now=now) + use
        projects.charge(session, project.name, used=used, now=now)
        spent_s = attempts.spent_s(session, attempt.experiment_id)
        experiments.set_columns(session, attempt.experiment_id, spent_s=spent_s)

    def _judge_cluster(self, session: Session, attempt: AttemptRow) -> None:
        """No more offers for a cluster on which one experiment after the other is lost, until a human has looked."""
        why = clusters.blamed_for(session, attempt.cluster) if attempt.outcome in _MAY_BE_BLAMED else None
        if why is None:
            return
        active, suspect = clusters.ClusterState.ACTIVE, clusters.ClusterState.SUSPECT
        if clusters.change_state(session, attempt.cluster, suspect, sources=(active,)):
            logger.error("a cluster gets no more offers until it is activated", cluster=attempt.cluster, why=why)
            experiments.note(
                session,
                attempt.experiment_id,
                kind="cluster_suspected",
                actor=ACTOR,
                now=self.clock.now(),
                reason=f"cluster {attempt.cluster} gets no more offers until it is activated: {why}",
                attempt_no=attempt.attempt_no,
                payload={"cluster": attempt.cluster},
            )

    def _judge_nodes(self, session: Session, attempt: AttemptRow) -> None:
        """No more workers for a node on which one experiment after the other dies, until an admin takes it in again."""
        if attempt.outcome != Outcome.INFRA_ERROR or attempt.reason not in DEATHS_ON_NODES:
            return
        now, cluster = self.clock.now(), clusters.get(session, attempt.cluster)
        for node, deaths in exclusions.blamed_on(session, cluster, now=now).items():
            why = _why_excluded(deaths)
            if exclusions.exclude(session, cluster.name, node, reason=why, by=ACTOR, now=now):
                ids = [one.experiment_id for one in deaths]
                logger.error("a node gets no more workers", cluster=cluster.name, node=node, why=why, experiments=ids)
                experiments.note(
                    session,
                    attempt.experiment_id,
                    kind="node_excluded",
                    actor=ACTOR,
                    now=now,
                    reason=f"node {node} of cluster {cluster.name} gets no more workers until it is readmitted: {why}",
                    attempt_no=attempt.attempt_no,
                    payload={"cluster": cluster.name, "node": node},
                )

    def _move(self, session: Session, row: ExperimentRow, to: State, reason: str, attempt: AttemptRow) -> bool:
        now = self.clock.now()
        return experiments.move_if_current(
            session, row, to, reason=reason, actor=ACTOR, now=now, attempt_no=attempt.attempt_no
        )

    def _following(self, session: Session, row: ExperimentRow) -> Next:
        policy = experiments.policy_of(row)
        ended = tuple(_ended(session, row, one) for one in attempts.of_experiment(session, row.id) if one.outcome)
        following = after_attempt(
            ended,
            desired=Desired(row.desired),
            retries=policy.retries,
            runtime_left_s=policy.max_runtime_s - attempts.spent_s(session, row.id),
        )
        kept = _kept(row) if following.state is State.FAILED else ""
        return replace(following, reason=f"{following.reason}; {kept}") if kept else following

    def _due_at(self, following: Next) -> object:
        bound = retry_delay_bound_s(following.retry_no or 1)
        return self.clock.now() + timedelta(seconds=self.uniform(0, bound))


def _why_excluded(deaths: Sequence[NodeDeath]) -> str:
    """Without the experiments' names: whoever sees the cluster may read it."""
    reasons = ", ".join(one.reason for one in deaths[:EXCLUDE_AFTER])
    return f"attempts of {len(deaths)} experiments have died there within a day ({reasons})"


def _waits_for_an_end(row: ExperimentRow) -> bool:
    """Whether the end of the current attempt decides what becomes of the experiment."""
    if State(row.state) in experiments.HOLDING_STATES:
        return True
    return row.state == State.HELD and row.reason.startswith(f"{CANNOT_STOP}:")


def _has_begun(session: Session, row: ExperimentRow) -> bool:
    current = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
    return current.started_at is not None


def _outcome_of_death(row: ExperimentRow, attempt: AttemptRow, reason: str) -> tuple[Outcome, str]:
    if row.desired == Desired.CANCEL:
        return Outcome.CANCELLED, "cancelled by the user"
    if row.desired == Desired.PAUSE:
        return Outcome.PREEMPTED, "pause_requested"
    if attempt.stop_mode == StopMode.PREEMPT:
        return Outcome.PREEMPTED, "preempted"
    if attempt.stop_mode == StopMode.BUDGET:
        return Outcome.OVER_BUDGET, "budget spent"
    return Outcome.INFRA_ERROR, reason


def _ended(session: Session, row: ExperimentRow, attempt: AttemptRow) -> EndedAttempt:
    before = checkpoints.highest_step(session, attempt.experiment_id, before_attempt=attempt.attempt_no)
    own = checkpoints.of_attempt(session, attempt.experiment_id, attempt.attempt_no)
    assert attempt.outcome is not None, "only ended attempts are asked"
    return EndedAttempt(
        outcome=Outcome(attempt.outcome),
        reason=_reason(attempt),
        made_progress=any(checkpoint.step > before for checkpoint in own) or _has_finished_trials(session, attempt),
        is_forgiven=_is_forgiven(row, attempt),
    )


def _kept(row: ExperimentRow) -> str:
    """What a sweep that failed leaves behind: its runner may have died before it could say so itself."""
    found = row.sweep or {}
    finished, best, front = found.get("finished", 0), found.get("best"), found.get("front") or []
    if not finished:
        return ""
    names = (
        f", trial {best} is the best" if best is not None else f", {len(front)} on the Pareto front" if front else ""
    )
    return f"its {finished} finished trial{'s' if finished != 1 else ''} stay{names}"


def _has_finished_trials(session: Session, attempt: AttemptRow) -> bool:
    return attempt.trial_workers is not None and attempts.has_finished_trials(session, attempt)


def _reason(attempt: AttemptRow) -> str:
    """Why the platform stopped it, where that is how it ended."""
    is_stopped = attempt.outcome in (Outcome.PREEMPTED, Outcome.OVER_BUDGET) and attempt.leased_at is not None
    return attempt.stop_reason if is_stopped and attempt.stop_reason else attempt.reason


def _is_forgiven(row: ExperimentRow, attempt: AttemptRow) -> bool:
    return row.released_at is not None and attempt.ended_at is not None and attempt.ended_at <= row.released_at

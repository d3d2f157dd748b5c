"""What follows: from agents' words, results, evidence of death and users' wishes to the next state."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from fairlead.clock import Clock
from fairlead.control.rows import for_each
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Desired, EndedAttempt, Next, Outcome, State, after_attempt, retry_delay_bound_s
from fairlead.settings import ControlSettings
from fairlead.store import Session, Store, attempts, checkpoints, clusters, experiments
from fairlead.store.tables import AttemptRow, ExperimentRow

ACTOR = "settle"
IDLE_STATES = (State.ACCEPTED, State.QUEUED, State.RETRYING, State.PAUSED, State.HELD)
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
        steps = (self._note_starts, self._obey, self._end_open_attempts, self._move_on)
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
            cancelled = experiments.wanting(session, (Desired.CANCEL,), IDLE_STATES)
            paused = experiments.wanting(session, (Desired.PAUSE,), (State.QUEUED, State.RETRYING))
        return for_each(cancelled + paused, self._obey_one)

    def _obey_one(self, row: ExperimentRow) -> bool:
        to = State.CANCELLED if row.desired == Desired.CANCEL else State.PAUSED
        with self.store.write() as session:
            return experiments.move_if_current(
                session, row, to, reason=f"{to} by the user", actor=ACTOR, now=self.clock.now()
            )

    def _end_open_attempts(self) -> bool:
        """Offers nobody took, attempts proven dead, attempts of a Ray session that is gone."""
        with self.store.read() as session:
            open_attempts = attempts.open_everywhere(session)
            rows = {a.experiment_id: experiments.get(session, a.experiment_id) for a in open_attempts}
            sessions = {c.name: (c.ray_session, c.ray_session_since) for c in clusters.every(session)}
        return for_each(
            open_attempts,
            lambda attempt: self._end(
                attempt, rows[attempt.experiment_id], sessions.get(attempt.cluster, (None, None))
            ),
        )

    def _end(self, attempt: AttemptRow, row: ExperimentRow, ray: tuple[str | None, object]) -> bool:
        now = self.clock.now()
        if attempt.leased_at is None:
            return self._withdraw(attempt, row)
        if attempt.death_since is not None:
            outcome, reason = _outcome_of_death(row, attempt.death_reason or "runner_died")
        elif self._session_is_gone(attempt, ray):
            outcome, reason = _outcome_of_death(row, "node_lost: the Ray session it ran in has ended")
        else:
            return False
        with self.store.write() as session:
            is_ended = attempts.end(session, attempt.id, outcome=outcome, reason=reason, now=now)
        failpoint("settle.ended")
        return is_ended

    def _withdraw(self, attempt: AttemptRow, row: ExperimentRow) -> bool:
        now = self.clock.now()
        too_old = attempt.created_at + timedelta(seconds=self.settings.offer_ttl_s) <= now
        if row.desired == Desired.RUN and not too_old:
            return False
        outcome = Outcome.CANCELLED if row.desired == Desired.CANCEL else Outcome.PREEMPTED
        reason = (
            "offer_withdrawn: no agent took it in time" if row.desired == Desired.RUN else f"{row.desired}_requested"
        )
        with self.store.write() as session:
            return attempts.withdraw(session, attempt.id, outcome=outcome, reason=reason, now=now)

    def _session_is_gone(self, attempt: AttemptRow, ray: tuple[str | None, object]) -> bool:
        """Another Ray session was first seen long enough ago for every process of the old one to have ended."""
        session, since = ray
        if attempt.ray_session is None or session is None or session == attempt.ray_session or since is None:
            return False
        grace = timedelta(seconds=self.settings.ray_session_grace_s)
        return bool(self.clock.now() - since >= grace)  # type: ignore[operator]  # a datetime, or None handled above

    def _move_on(self) -> bool:
        """Give every ended attempt its consequence."""
        with self.store.read() as session:
            ended = attempts.unsettled(session)
        return for_each(ended, self._move_on_from)

    def _move_on_from(self, attempt: AttemptRow) -> bool:
        now = self.clock.now()
        with self.store.write() as session:
            row = experiments.get(session, attempt.experiment_id)
            if row.current_attempt_no != attempt.attempt_no or State(row.state) not in experiments.HOLDING_STATES:
                attempts.settle(session, attempt.id)
                return True
            following = self._following(session, row)
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
                attempts.settle(session, attempt.id)
        return moved

    def _move(self, session: Session, row: ExperimentRow, to: State, reason: str, attempt: AttemptRow) -> bool:
        now = self.clock.now()
        return experiments.move_if_current(
            session, row, to, reason=reason, actor=ACTOR, now=now, attempt_no=attempt.attempt_no
        )

    def _following(self, session: Session, row: ExperimentRow) -> Next:
        spec = experiments.spec_of(row)
        ended = tuple(_ended(session, one) for one in attempts.of_experiment(session, row.id) if one.outcome)
        return after_attempt(ended, desired=Desired(row.desired), retries=spec.policy.retries)

    def _due_at(self, following: Next) -> object:
        bound = retry_delay_bound_s(following.retry_no or 1)
        return self.clock.now() + timedelta(seconds=self.uniform(0, bound))


def _has_begun(session: Session, row: ExperimentRow) -> bool:
    current = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
    return current.started_at is not None


def _outcome_of_death(row: ExperimentRow, reason: str) -> tuple[Outcome, str]:
    if row.desired == Desired.CANCEL:
        return Outcome.CANCELLED, "cancelled by the user"
    if row.desired == Desired.PAUSE:
        return Outcome.PREEMPTED, "pause_requested"
    return Outcome.INFRA_ERROR, reason


def _ended(session: Session, attempt: AttemptRow) -> EndedAttempt:
    before = checkpoints.highest_step(session, attempt.experiment_id, before_attempt=attempt.attempt_no)
    own = checkpoints.of_attempt(session, attempt.experiment_id, attempt.attempt_no)
    assert attempt.outcome is not None, "only ended attempts are asked"
    return EndedAttempt(
        outcome=Outcome(attempt.outcome),
        reason=attempt.reason,
        made_progress=any(checkpoint.step > before for checkpoint in own),
    )

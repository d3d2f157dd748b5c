"""From accepted to placed: admit, order, place. Load, decide, apply: no connection is held while deciding."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog

from fairlead.admission import Rejected, admit
from fairlead.clock import Clock
from fairlead.control.budget import over_budget
from fairlead.control.leader import Term
from fairlead.control.rows import for_each, in_batches
from fairlead.control.situation import look
from fairlead.failpoints import failpoint
from fairlead.growth import Resized, resize
from fairlead.lifecycle import Desired, Outcome, State
from fairlead.placement import Placement, Running, Waiting, WaitingReason, with_placed
from fairlead.preemption import Preempt, place_or_preempt
from fairlead.protocol import StopMode
from fairlead.queueing import beyond_quota, order
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Session, Store, attempts, bundles, experiments, projects
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held, Quota
from fairlead.store.tables import AttemptRow, ExperimentRow

EXPLAINED_AT_ONCE = 500
"""Reasons that one tick writes; the rest follow at once."""
ADMITTED_TOGETHER = 5
"""Experiments admitted in one transaction: enough to share its cost, few enough that a submit does not wait for it."""
ACTOR = "dispatch"
AVOIDED_FOR = timedelta(minutes=5)
"""How long a cluster that did not take an offer comes last for that experiment."""
logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Seen:
    """The queue as the last round saw it, so that the next reads only what is new."""

    candidates: dict[str, Candidate] = field(default_factory=dict)
    epoch: int | None = None

    def of(self, epoch: int | None) -> Mapping[str, Candidate]:
        """What is still known under ``epoch``; nothing of another one."""
        if epoch != self.epoch:
            self.candidates, self.epoch = {}, epoch
        return self.candidates

    def keep(self, candidates: Iterable[Candidate]) -> None:
        """All that wait now."""
        self.candidates = {one.id: one for one in candidates}

    def told(self, reasons: Mapping[str, str]) -> None:
        """What has been written as their reasons."""
        for key, why in reasons.items():
            self.candidates[key] = replace(self.candidates[key], waiting=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatch:
    """One tick admits, revives and places; it answers whether anything moved."""

    store: Store
    clock: Clock
    settings: ControlSettings
    manifests: Mapping[str, Manifest]
    term: Term | None = None
    """Whose reasons are remembered: another leader may have written others."""
    _seen: Seen = field(default_factory=Seen)

    def __call__(self) -> bool:
        admitted = self._admit_accepted()
        revived = self._revive()
        placed = self._place()
        return admitted or revived or placed

    def _admit_accepted(self) -> bool:
        with self.store.read() as session:
            rows = experiments.in_states(session, (State.ACCEPTED,))
        wanted = (row for row in rows if row.desired != Desired.CANCEL)
        return in_batches(wanted, self._admit_together, size=ADMITTED_TOGETHER)

    def _admit_together(self, rows: Sequence[ExperimentRow]) -> bool:
        with self.store.write() as session:
            return sum(self._admit_one(session, row) for row in rows) > 0  # all of them: any() would stop at the first

    def _admit_one(self, session: Session, row: ExperimentRow) -> bool:
        now = self.clock.now()
        decision = admit(
            experiments.spec_of(row),
            manifests=self.manifests,
            has_bundle=lambda sha256: bundles.find(session, sha256) is not None,
        )
        if isinstance(decision, Rejected):
            reason = f"admission refused: {decision.detail}"
            return experiments.move_if_current(session, row, State.FAILED, reason=reason, actor=ACTOR, now=now)
        return experiments.move_if_current(
            session,
            row,
            State.QUEUED,
            reason="admitted",
            actor=ACTOR,
            now=now,
            columns={
                "enqueued_at": now,
                "total_steps": row.total_steps or decision.total_steps,  # an amendment may have raised it already
                "expected_s": experiments.usual_run_s(session, row),
            },
        )

    def _revive(self) -> bool:
        """Back into the queue: retries whose delay is over, and what users resumed or released. Old places are kept."""
        now = self.clock.now()
        with self.store.read() as session:
            due = experiments.due_retries(session, now)
            resumed = experiments.wanting(session, (Desired.RUN,), (State.PAUSED,))
            released = experiments.released(session)
        return bool(for_each([*due, *resumed], self._queue_again) | for_each(released, self._let_go_on))

    def _queue_again(self, row: ExperimentRow) -> bool:
        reason = "the delay before the next attempt is over" if row.state == State.RETRYING else "resumed"
        with self.store.write() as session:
            return experiments.move_if_current(
                session, row, State.QUEUED, reason=reason, actor=ACTOR, now=self.clock.now()
            )

    def _let_go_on(self, row: ExperimentRow) -> bool:
        """Once more from where it was held: an evaluation is made again, everything else is trained again."""
        with self.store.write() as session:
            current = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
            to = State.EVALUATING if current.outcome == Outcome.SUCCEEDED else State.QUEUED
            reason = f"released by a human; before, it was held: {row.reason}"
            return experiments.move_if_current(session, row, to, reason=reason, actor=ACTOR, now=self.clock.now())

    def _place(self) -> bool:
        now = self.clock.now()
        with self.store.read() as session:
            candidates = experiments.candidates(session, known=self._seen.of(self.term.epoch if self.term else None))
            self._seen.keep(candidates)
            if not candidates and not attempts.has_sweeps(session):
                return False
            here = look(session, self.settings, now)
            avoided = attempts.not_taken_since(session, now - AVOIDED_FOR)
        ordered = order(candidates, here.accounts, now=now, fairness=here.fairness)
        decided, preempting = place_or_preempt(
            ordered,
            here.clusters,
            max_preemptions=self.settings.max_preemptions,
            launches_per_cluster=self.settings.launches_per_cluster,
            accounts=here.accounts,
            avoided=avoided,
        )
        placed = [self._open_attempt(candidate, placement) for candidate, placement in decided.placed]
        sizes = resize(ordered, decided, with_placed(here.clusters, decided), here.accounts)
        resized = [self._resize(one) for one in sizes.resized]
        preempting = tuple(one for one in preempting if one.candidate.id not in sizes.served)
        for one in preempting:
            self._stop_victims(one)
        reasons = {one.candidate.id: _makes_room(one) for one in preempting}
        reasons |= {key: _gives_back(cluster) for key, cluster in sizes.served.items()}
        is_explained = self._explain(candidates, {**decided.waiting, **reasons})
        return any(placed) or any(resized) or not is_explained

    # ---- one placement ----

    def _open_attempt(self, candidate: Candidate, placement: Placement) -> bool:
        """The attempt's row holds room and quota from here on; both are looked at again under the project's lock."""
        now, attempt_no = self.clock.now(), candidate.current_attempt_no + 1
        with self.store.write() as session:
            if not self._is_within_quota(session, candidate, placement):
                return False
            moved = experiments.move_if_current(
                session,
                candidate,
                State.PLACED,
                reason=f"offered to cluster {placement.cluster}",
                actor=ACTOR,
                now=now,
                attempt_no=attempt_no,
                payload=_placement_payload(placement),
                columns={"current_attempt_no": attempt_no},
            )
            if moved:
                failpoint("dispatch.placing")
                row = attempts.insert(
                    session,
                    candidate=candidate,
                    attempt_no=attempt_no,
                    cluster=placement.cluster,
                    now=now,
                    alternative=placement.alternative,
                    plan=dict(placement.plan),
                )
                self._end_without_means(session, row)
        failpoint("dispatch.placed")
        return moved

    def _is_within_quota(self, session: Session, candidate: Candidate, placement: Placement) -> bool:
        """Somebody may have made the quota smaller since the round began."""
        quota = projects.quota_of(projects.locked(session, candidate.project))
        if quota == Quota():
            return True
        held = projects.held(session, candidate.project).get(candidate.project, Held())
        return beyond_quota(candidate.wishes[placement.alternative], quota, held) is None

    def _end_without_means(self, session: Session, attempt: AttemptRow) -> None:
        """An attempt that would have no run time, or no budget, is over before anyone is offered it."""
        if attempt.attempt_no == 1:
            return
        row = experiments.get(session, attempt.experiment_id)
        spent_s = attempts.spent_s(session, attempt.experiment_id)
        outcome, reason = None, ""
        if spent_s >= row.max_runtime_s:
            outcome = Outcome.TIMEOUT
            reason = f"the {row.max_runtime_s:g} s of run time were spent by earlier attempts"
        elif over := over_budget(row, attempts.of_experiment(session, row.id), self.clock.now()):
            outcome, reason = Outcome.OVER_BUDGET, over
        if outcome is not None:
            attempts.withdraw(session, attempt.id, outcome=outcome, reason=reason, now=self.clock.now())

    # ---- sweeps that grow and give back ----

    def _resize(self, one: Resized) -> bool:
        """Its row holds the new room and quota from here on; the quota is looked at again under the project's lock."""
        now, running = self.clock.now(), one.running
        with self.store.write() as session:
            if one.is_growth and not self._may_grow(session, one):
                return False
            before = running.wish.workers
            plan = dict(one.plan)
            if not attempts.resize(session, running.attempt_id, before=before, wish=one.wish, plan=plan, now=now):
                return False
            slots = one.wish.trials
            experiments.note(
                session,
                running.experiment_id,
                kind="grown" if one.is_growth else "shrunk",
                actor=ACTOR,
                now=now,
                reason=f"{slots} trial{'s' if slots != 1 else ''} at a time, not {running.wish.trials}: {one.reason}",
                attempt_no=attempts.get(session, running.attempt_id).attempt_no,
                payload={"slots": slots, "before": running.wish.trials, "nodes": plan},
            )
        return True

    def _may_grow(self, session: Session, one: Resized) -> bool:
        quota = projects.quota_of(projects.locked(session, one.running.project))
        held = projects.held(session, one.running.project).get(one.running.project, Held())
        more = replace(one.wish, workers=one.wish.workers - one.running.wish.workers)
        return beyond_quota(more, replace(quota, experiments=None), held) is None

    # ---- preemption ----

    def _stop_victims(self, chosen: Preempt) -> None:
        """All of them or none, in one transaction: a part would be stopped for nothing."""
        if chosen.victims:
            with self.store.write() as session:
                for victim in chosen.victims:
                    self._stop_victim(session, victim, chosen)

    def _stop_victim(self, session: Session, victim: Running, chosen: Preempt) -> None:
        now, reason = self.clock.now(), chosen.detail
        if not attempts.ask_to_stop(session, victim.attempt_id, mode=StopMode.PREEMPT, reason=reason):
            # nobody has taken the offer yet: it is taken back
            attempts.withdraw(session, victim.attempt_id, outcome=Outcome.PREEMPTED, reason=reason, now=now)
            return
        experiments.note(
            session,
            victim.experiment_id,
            kind="preempting",
            actor=ACTOR,
            now=now,
            reason=f"it is stopped at a checkpoint and queued again: {reason}",
            payload={"for": chosen.candidate.id, "times_before": victim.preemptions},
        )

    # ---- reasons ----

    def _explain(self, candidates: list[Candidate], waiting: Mapping[str, Waiting]) -> bool:
        """Write down why each waits, where the reason is a new one; whether that was all of them."""
        kinds = {id(one): one for one in waiting.values()}  # few: those who wait for the same thing share one
        texts = {key: str(one) for key, one in kinds.items()}
        told = [(one, texts[id(waiting[one.id])]) for one in candidates if one.id in waiting]
        changed = [(one.id, text) for one, text in told if one.waiting != text]
        if changed:
            with self.store.write() as session:
                experiments.explain(session, dict(changed[:EXPLAINED_AT_ONCE]))
            self._seen.told(dict(changed[:EXPLAINED_AT_ONCE]))
        return len(changed) <= EXPLAINED_AT_ONCE


def _makes_room(chosen: Preempt) -> Waiting:
    detail = f"attempts on {chosen.cluster} are being stopped to make room"
    return Waiting(reason=WaitingReason.PREEMPTING, detail=detail)


def _gives_back(cluster: str) -> Waiting:
    return Waiting(reason=WaitingReason.PREEMPTING, detail=f"sweeps on {cluster} give slots back to make room")


def _placement_payload(placement: Placement) -> dict[str, Any]:
    return {
        "cluster": placement.cluster,
        "nodes": dict(placement.plan),
        "alternative": placement.alternative,
        "is_backfill": placement.is_backfill,
    }

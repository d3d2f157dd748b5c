"""From accepted to placed: admit, order, place. Load, decide, apply: no connection is held while deciding."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from fairlead.admission import Rejected, admit
from fairlead.clock import Clock
from fairlead.control.rows import for_each
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Desired, Outcome, State
from fairlead.placement import ClusterSnapshot, Node, Placement, Waiting, place_in_order
from fairlead.queueing import order
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Session, Store, attempts, bundles, clusters, experiments
from fairlead.store.experiments import Candidate
from fairlead.store.tables import AttemptRow, ClusterRow, ExperimentRow

ACTOR = "dispatch"
AVOIDED_FOR = timedelta(minutes=5)
"""How long a cluster that did not take an offer comes last for that experiment."""
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispatch:
    """One tick admits, revives and places; it answers whether anything moved."""

    store: Store
    clock: Clock
    settings: ControlSettings
    manifests: Mapping[str, Manifest]

    def __call__(self) -> bool:
        admitted = self._admit_accepted()
        revived = self._revive()
        placed = self._place()
        return admitted or revived or placed

    def _admit_accepted(self) -> bool:
        with self.store.read() as session:
            rows = experiments.in_states(session, (State.ACCEPTED,))
        return for_each((row for row in rows if row.desired != Desired.CANCEL), self._admit_one)

    def _admit_one(self, row: ExperimentRow) -> bool:
        now = self.clock.now()
        with self.store.write() as session:
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
                columns={"enqueued_at": now, "total_steps": decision.total_steps},
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
            candidates = experiments.candidates(session)
            if not candidates:
                return False
            here = snapshots(session, self.settings, now)
            avoided = attempts.not_taken_since(session, now - AVOIDED_FOR)
        decided = place_in_order(
            order(candidates), here, launches_per_cluster=self.settings.launches_per_cluster, avoided=avoided
        )
        placed = [self._open_attempt(candidate, placement) for candidate, placement in decided.placed]
        self._explain(candidates, decided.waiting)
        return any(placed)

    def _open_attempt(self, candidate: Candidate, placement: Placement) -> bool:
        now, attempt_no = self.clock.now(), candidate.current_attempt_no + 1
        with self.store.write() as session:
            moved = experiments.move_if_current(
                session,
                candidate,
                State.PLACED,
                reason=f"offered to cluster {placement.cluster}",
                actor=ACTOR,
                now=now,
                attempt_no=attempt_no,
                columns={"current_attempt_no": attempt_no},
            )
            if moved:
                failpoint("dispatch.placing")
                row = attempts.insert(
                    session, candidate=candidate, attempt_no=attempt_no, cluster=placement.cluster, now=now
                )
                self._end_without_time(session, row)
        failpoint("dispatch.placed")
        return moved

    def _end_without_time(self, session: Session, attempt: AttemptRow) -> None:
        """An attempt that would have no run time is over before anyone is offered it."""
        policy = experiments.policy_of(experiments.get(session, attempt.experiment_id))
        spent_s = attempts.spent_s(session, attempt.experiment_id) if attempt.attempt_no > 1 else 0.0
        if spent_s >= policy.max_runtime_s:
            reason = f"the {policy.max_runtime_s:g} s of run time were spent by earlier attempts"
            attempts.withdraw(session, attempt.id, outcome=Outcome.TIMEOUT, reason=reason, now=self.clock.now())

    def _explain(self, candidates: list[Candidate], waiting: Mapping[str, Waiting]) -> None:
        """Write down why each waits, where the reason is a new one."""
        changed = [(one.id, str(waiting[one.id])) for one in candidates if one.id in waiting]
        known = {one.id: one.waiting for one in candidates}
        changed = [(key, why) for key, why in changed if known[key] != why]
        if changed:
            with self.store.write() as session:
                for key, why in changed:
                    experiments.set_columns(session, key, waiting=why)


def snapshots(session: Session, settings: ControlSettings, now: datetime) -> tuple[ClusterSnapshot, ...]:
    """Clusters as placement sees them."""
    usage = clusters.usage(session)
    return tuple(
        _snapshot(row, usage.get(row.name, (0, 0, 0)), clusters.why_closed(session, row), settings, now)
        for row in clusters.every(session)
    )


def _snapshot(
    row: ClusterRow, usage: tuple[float, float, int], why_closed: str | None, settings: ControlSettings, now: datetime
) -> ClusterSnapshot:
    living = [node for node in row.nodes if node["is_alive"]]
    cpus, gpus, launches = usage
    return ClusterSnapshot(
        name=row.name,
        is_active=why_closed is None,
        why_closed=why_closed or "",
        has_fresh_agent=clusters.has_fresh_agent(row, ttl_s=settings.agent_ttl_s, now=now),
        nodes=tuple(Node(cpus=node["cpus"], gpus=node["gpus"]) for node in living),
        cpus_in_use=cpus,
        gpus_in_use=gpus,
        launches=launches,
    )

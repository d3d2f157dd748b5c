"""From accepted to placed: admit, order, place. Load, decide, apply: no connection is held while deciding."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from fairlead.admission import Rejected, admit
from fairlead.clock import Clock
from fairlead.control.rows import for_each
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Desired, State
from fairlead.placement import ClusterSnapshot, Node, Placement, Waiting, place_in_order
from fairlead.queueing import order
from fairlead.settings import ControlSettings
from fairlead.spec import Manifest
from fairlead.store import Store, attempts, bundles, clusters, experiments
from fairlead.store.experiments import Candidate
from fairlead.store.tables import ClusterRow, ExperimentRow

ACTOR = "dispatch"
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
        return for_each([*due, *resumed], self._queue_again)

    def _queue_again(self, row: ExperimentRow) -> bool:
        reason = "the delay before the next attempt is over" if row.state == State.RETRYING else "resumed"
        with self.store.write() as session:
            return experiments.move_if_current(
                session, row, State.QUEUED, reason=reason, actor=ACTOR, now=self.clock.now()
            )

    def _place(self) -> bool:
        now = self.clock.now()
        with self.store.read() as session:
            candidates = experiments.candidates(session)
            if not candidates:
                return False
            here = snapshots(clusters.every(session), clusters.usage(session), self.settings, now)
        decided = place_in_order(order(candidates), here, launches_per_cluster=self.settings.launches_per_cluster)
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
                attempts.insert(session, candidate=candidate, attempt_no=attempt_no, cluster=placement.cluster, now=now)
        failpoint("dispatch.placed")
        return moved

    def _explain(self, candidates: list[Candidate], waiting: Mapping[str, Waiting]) -> None:
        """Write down why each waits, where the reason is a new one."""
        changed = [(one.id, str(waiting[one.id])) for one in candidates if one.id in waiting]
        known = {one.id: one.waiting for one in candidates}
        changed = [(key, why) for key, why in changed if known[key] != why]
        if changed:
            with self.store.write() as session:
                for key, why in changed:
                    experiments.set_columns(session, key, waiting=why)


def snapshots(
    rows: list[ClusterRow], usage: Mapping[str, tuple[float, float, int]], settings: ControlSettings, now: datetime
) -> tuple[ClusterSnapshot, ...]:
    """Clusters as placement sees them."""
    return tuple(_snapshot(row, usage.get(row.name, (0, 0, 0)), settings, now) for row in rows)


def _snapshot(
    row: ClusterRow, usage: tuple[float, float, int], settings: ControlSettings, now: datetime
) -> ClusterSnapshot:
    fresh_after = now - timedelta(seconds=settings.agent_ttl_s)
    living = [node for node in row.nodes if node["is_alive"]]
    cpus, gpus, launches = usage
    return ClusterSnapshot(
        name=row.name,
        is_active=row.state == "active",
        has_fresh_agent=row.last_sync_at is not None and row.last_sync_at >= fresh_after,
        nodes=tuple(Node(cpus=node["cpus"], gpus=node["gpus"]) for node in living),
        cpus_in_use=cpus,
        gpus_in_use=gpus,
        launches=launches,
    )

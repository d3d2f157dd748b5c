"""Marks what has fallen silent, and deletes what has expired. It never kills and never ends an attempt."""

from dataclasses import dataclass, field
from datetime import timedelta

from fairlead.clock import Clock
from fairlead.control.rows import for_each
from fairlead.lifecycle import Observation
from fairlead.retention import Kept, superfluous
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, batches, checkpoints, clusters, experiments, idempotency
from fairlead.store.tables import ExperimentRow

ACTOR = "reap"
BATCH_RETENTION = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reap:
    """One tick over clusters and expired rows; always idle afterwards."""

    store: Store
    clock: Clock
    settings: ControlSettings
    seen: dict[str, int] = field(default_factory=dict)
    """How far this process has looked through the checkpoints."""

    def __call__(self) -> bool:
        self._mark_unknown()
        self._let_checkpoints_go()
        now = self.clock.now()
        with self.store.write() as session:
            idempotency.forget_expired(session, now)
            batches.forget_recorded(session, before=now - BATCH_RETENTION)
        return False

    def _let_checkpoints_go(self) -> None:
        """Mark what new checkpoints have made superfluous; agents delete the files."""
        with self.store.read() as session:
            fresh = checkpoints.committed_after(session, self.seen.get("checkpoint", 0))
            ids = dict.fromkeys(row.experiment_id for row in fresh)
            rows = [experiments.get(session, experiment_id) for experiment_id in ids]
        for_each(rows, self._let_go)
        if fresh:
            self.seen["checkpoint"] = fresh[-1].id

    def _let_go(self, row: ExperimentRow) -> bool:
        policy = experiments.spec_of(row).policy.checkpoints
        with self.store.write() as session:
            open_ones = [one.attempt_no for one in attempts.of_experiment(session, row.id) if one.outcome is None]
            found = [
                Kept(id=one.id, attempt_no=one.attempt_no, step=one.step, score=one.score)
                for one in checkpoints.newest_first(session, row.id)
            ]
            surplus = superfluous(found, policy, open_attempt_no=max(open_ones, default=None))
            return checkpoints.mark_deleting(session, [one.id for one in surplus]) > 0 if surplus else False

    def _mark_unknown(self) -> None:
        """An agent that does not answer leaves its attempts unknown: unknown alone ends nothing."""
        now = self.clock.now()
        silent_before = now - timedelta(seconds=self.settings.agent_ttl_s)
        with self.store.read() as session:
            silent = [c.name for c in clusters.every(session) if c.last_sync_at and c.last_sync_at < silent_before]
            fading = [
                attempt
                for name in silent
                for attempt in attempts.open_on(session, name)
                if attempt.leased_at is not None and attempt.observation != Observation.UNKNOWN
            ]
        for attempt in fading:
            with self.store.write() as session:
                columns = {"observation": Observation.UNKNOWN, "observed_detail": "the agent does not answer"}
                if attempts.write_if_open(session, attempt.id, **columns):
                    experiments.note(
                        session,
                        attempt.experiment_id,
                        kind="observation_unknown",
                        actor=ACTOR,
                        now=now,
                        attempt_no=attempt.attempt_no,
                        reason=f"the agent of cluster {attempt.cluster} does not answer; the attempt is left alone",
                    )

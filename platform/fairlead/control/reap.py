"""Marks what has fallen silent, and deletes what has expired. It never kills and never ends an attempt."""

from dataclasses import dataclass
from datetime import timedelta

from fairlead.clock import Clock
from fairlead.lifecycle import Observation
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, batches, clusters, experiments, idempotency

ACTOR = "reap"
BATCH_RETENTION = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reap:
    """One tick over clusters and expired rows; always idle afterwards."""

    store: Store
    clock: Clock
    settings: ControlSettings

    def __call__(self) -> bool:
        self._mark_unknown()
        now = self.clock.now()
        with self.store.write() as session:
            idempotency.forget_expired(session, now)
            batches.forget_recorded(session, before=now - BATCH_RETENTION)
        return False

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

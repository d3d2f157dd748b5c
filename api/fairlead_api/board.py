"""The queue as it is now, worked out at most once a second for all who ask."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fairlead.control.situation import Situation, look
from fairlead.forecast import TOO_FAR_BACK, Estimate, forecast
from fairlead.queueing import order
from fairlead.settings import ControlSettings
from fairlead.store import Store, experiments
from fairlead.store.experiments import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """Who waits, in order, and when each might start."""

    situation: Situation
    ordered: tuple[Candidate, ...]
    places: Mapping[str, int]
    """Position by experiment, from 1."""
    estimates: Mapping[str, Estimate]

    def estimate(self, experiment_id: str) -> Estimate:
        """When it might start."""
        return self.estimates.get(experiment_id, TOO_FAR_BACK)


@dataclass(slots=True)
class Board:
    """Keeps the newest look at the queue; one thread at a time makes a new one."""

    store: Store
    settings: ControlSettings
    max_age_s: float = 1.0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _queue: Queue | None = None
    _at_s: float = 0.0

    def queue(self, now: datetime) -> Queue:
        """The queue, at most ``max_age_s`` old."""
        with self._lock:
            if self._queue is None or time.monotonic() - self._at_s >= self.max_age_s:
                self._queue, self._at_s = self._read(now), time.monotonic()
            return self._queue

    def _read(self, now: datetime) -> Queue:
        with self.store.read() as session:
            candidates = experiments.candidates(session)
            situation = look(session, self.settings, now)
        ordered = order(candidates, situation.accounts, now=now, fairness=situation.fairness)
        return Queue(
            situation=situation,
            ordered=ordered,
            places={one.id: position for position, one in enumerate(ordered, start=1)},
            estimates=forecast(ordered, situation.clusters, situation.accounts),
        )

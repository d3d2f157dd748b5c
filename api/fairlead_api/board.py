"""The queue as it is now, worked out for all who ask, at most once a second.

With ten thousand waiting a look takes some tenths of a second, so whoever asks is given the one before, unless that is
too old, while a new one is made.
"""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from fairlead.control.situation import Situation, look
from fairlead.forecast import TOO_FAR_BACK, Estimate, forecast
from fairlead.queueing import order
from fairlead.settings import ControlSettings
from fairlead.store import Store, experiments
from fairlead.store.experiments import Candidate

logger = structlog.get_logger(__name__)


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
    fresh_s: float = 1.0
    """Once it is older, the next who asks has a new one made, and does not wait for it."""
    usable_s: float = 3.0
    """Nobody is told what is older."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _queue: Queue | None = None
    _at_s: float = -math.inf

    def queue(self, now: datetime) -> Queue:
        """The queue, at most ``usable_s`` old."""
        with self._lock:
            age_s = time.monotonic() - self._at_s
            if self._queue is None or age_s >= self.usable_s:
                return self._renew(now)
            if age_s >= self.fresh_s and self._looking.acquire(blocking=False):
                threading.Thread(target=self._renew_meanwhile, args=(now,), name="board").start()
            return self._queue

    def _renew(self, now: datetime) -> Queue:
        self._queue, self._at_s = self._read(now), time.monotonic()
        return self._queue

    def _renew_meanwhile(self, now: datetime) -> None:
        try:
            self._renew(now)
        except Exception:  # the next who asks, or the one after, makes another and is told what is wrong
            logger.exception("looking at the queue failed")
        finally:
            self._looking.release()

    def _read(self, now: datetime) -> Queue:
        with self.store.read() as session:
            known = {} if self._queue is None else {one.id: one for one in self._queue.ordered}
            candidates = experiments.candidates(session, known=known)
            situation = look(session, self.settings, now)
        ordered = order(candidates, situation.accounts, now=now, fairness=situation.fairness)
        return Queue(
            situation=situation,
            ordered=ordered,
            places={one.id: position for position, one in enumerate(ordered, start=1)},
            estimates=forecast(ordered, situation.clusters, situation.accounts),
        )

"""How much of what a workload reports is kept: a token bucket for an attempt's points, so that others get their turn.

The limits lie far beyond what can be brought to MLflow, so only a flood is thinned out.
"""

import threading

from fairlead.clock import Clock

BURST = 1_000_000
"""Points that may come at once."""
POINTS_PER_S = 20_000.0
"""Points that may come for ever: four times what reaches MLflow on one machine (``benchmarks/metric_ingest.py``)."""
MAX_KEYS = 10_000
"""Different metrics of one attempt; those beyond are left out."""


class Meter:
    """Lets whole reports pass while there are tokens: beyond the rate every so-manieth step is kept. Thread-safe."""

    def __init__(self, clock: Clock, *, burst: float = BURST, per_s: float = POINTS_PER_S) -> None:
        self._clock = clock
        self._burst, self._per_s = burst, per_s
        self._lock = threading.Lock()
        self._tokens = burst
        self._at_s = clock.monotonic_s()
        self.num_dropped = 0

    def admits(self, num_points: int) -> bool:
        """Whether a report of so many points is kept; if not, they are counted. The largest report has its turn too."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
            self._at_s = now_s
            if self._tokens >= min(num_points, self._burst):
                self._tokens -= num_points
                return True
            self.num_dropped += num_points
            return False

"""What the control loops of this process count, for Prometheus: their rounds, and what went wrong. Labels are bounded.

The api shows it among its own numbers. A control process beside it has a port for it, where it is asked to.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, Metric

from fairlead.control.deliver import webhook_failures
from fairlead.control.leader import stale_writes_dropped
from fairlead.control.rows import rows_not_served
from fairlead.errors import BadInput, StaleLeader, Unavailable

# Without this each counter has a series more, with the time at which it was made.
disable_created_metrics()  # type: ignore[no-untyped-call]
logger = structlog.get_logger(__name__)
CAUSES = ("stale", "unavailable", "crashed")
"""Why a round ends early: another process leads, a database or MLflow is away, a mistake of ours."""


class LoopMeters:
    """Counts for all loops of a process; a collector, to be registered."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._rounds = Histogram(
            "fairlead_round_seconds", "Time of a round of a control loop.", ("loop",), registry=self._registry
        )
        self._failures = Counter(
            "fairlead_round_failures",
            f"Rounds that ended early: {', '.join(CAUSES)}.",
            ("loop", "cause"),
            registry=self._registry,
        )
        self.leads = Gauge("fairlead_leads", "1 while this process leads the control loops.", registry=self._registry)

    def expect(self, loops: Iterable[str]) -> None:
        """Show zeros for these: Prometheus sees no increase in a number that appears as 1."""
        for loop in loops:
            self._rounds.labels(loop)
            for cause in CAUSES:
                self._failures.labels(loop, cause)

    @contextmanager
    def round(self, loop: str) -> Iterator[None]:
        """Time a round, and count how it ended. What it raises goes on."""
        began_s = time.monotonic()
        try:
            yield
        except BaseException as error:
            self._failures.labels(loop, _cause(error)).inc()
            raise
        finally:
            self._rounds.labels(loop).observe(time.monotonic() - began_s)

    def collect(self) -> Iterator[Metric]:
        """All of it."""
        yield from self._registry.collect()
        yield CounterMetricFamily(
            "fairlead_stale_write_dropped",
            "Writes that the control loops of this process gave up because another process leads.",
            value=stale_writes_dropped.value,
        )
        yield CounterMetricFamily(
            "fairlead_webhook_failures", "Tries to send a message that failed.", value=webhook_failures.value
        )
        yield CounterMetricFamily(
            "fairlead_rows_not_served", "Rows that a loop left for its next round.", value=rows_not_served.value
        )


def _cause(error: BaseException) -> str:
    if isinstance(error, StaleLeader):
        return "stale"
    return "unavailable" if isinstance(error, Unavailable) else "crashed"


LOOPS = LoopMeters()
"""Of this process."""


@contextmanager
def serving(host: str, port: int | None) -> Iterator[None]:
    """Answer Prometheus at ``host:port``, where a port is given. Raises ``BadInput`` where it is taken."""
    if port is None:
        yield
        return
    registry = CollectorRegistry()
    registry.register(LOOPS)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise BadInput(f"the meters cannot be shown at {host}:{port}: {error.strerror}") from error
    logger.info("serving meters", host=host, port=port)
    try:
        yield
    finally:
        _close(server, thread)


def _close(server: WSGIServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join(5)

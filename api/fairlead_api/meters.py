"""What Prometheus may ask: requests, streams, experiments by state, agents by silence. Labels are bounded."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fairlead.control.leader import stale_writes_dropped
from fairlead.lifecycle import State
from fairlead.store import clusters, experiments
from fairlead_api.parts import Api
from fairlead_api.streams import Streams

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Meters:
    """Counts requests, and looks at the database when it is asked."""

    def __init__(self, api: Api, streams: Streams) -> None:
        self._api = api
        self._streams = streams
        self._registry = CollectorRegistry()
        names = ("method", "status")
        self._requests = Histogram("fairlead_request_seconds", "Time to answer.", names, registry=self._registry)
        self._registry.register(self)

    def observe(self, method: str, status: int, took_s: float) -> None:
        """Count one request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, f"{status // 100}xx").observe(took_s)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering asks no database."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """What is so at this moment. Raises ``Unavailable`` where the database does not answer."""
        with self._api.store.read() as session:
            states = {state: experiments.count_in(session, (state,)) for state in State}
            synced = {row.name: row.last_sync_at for row in clusters.every(session)}
        by_state = GaugeMetricFamily("fairlead_experiments", "Experiments by state.", labels=["state"])
        for state, count in states.items():
            by_state.add_metric([state.value], count)
        silence = GaugeMetricFamily("fairlead_agent_silence_seconds", "Since the last sync.", labels=["cluster"])
        for name, at in synced.items():
            if at is not None:
                silence.add_metric([name], max(0.0, (self._api.now() - at).total_seconds()))
        yield by_state
        yield silence
        yield GaugeMetricFamily("fairlead_streams", "Open streams.", value=self._streams.count)
        yield CounterMetricFamily(
            "fairlead_stale_write_dropped",
            "Writes that the control loops of this process gave up because another process leads.",
            value=stale_writes_dropped.value,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self._registry)

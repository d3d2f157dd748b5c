"""What Prometheus may ask of this process and of the database behind it. Labels are bounded.

A label is a state, a loop, a kind of request, or the name of a cluster or a project, of which only so many are named.
"""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from fairlead import __version__
from fairlead.control.leader import LEASE
from fairlead.control.meters import LOOPS
from fairlead.flags import FlagCode
from fairlead.lifecycle import State
from fairlead.store import Session, clusters, experiments, flags, gauges, leases, outbox, recorded_trials
from fairlead.store.clusters import ClusterState, has_fresh_agent
from fairlead.store.tables import ClusterRow
from fairlead_api.parts import Api
from fairlead_api.streams import Streams

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHERS = "(others)"
"""Projects beyond the first ones; no project can be called so."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Meters:
    """Counts requests, and looks at the database when it is asked."""

    def __init__(self, api: Api, streams: Streams) -> None:
        self._api = api
        self._streams = streams
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "fairlead_request_seconds",
            "Time to answer. Streams, and agents that wait for work, are kinds of their own.",
            ("method", "status", "kind"),
            registry=self._registry,
        )
        build = Gauge("fairlead_build_info", "1, with the release.", ("version",), registry=self._registry)
        build.labels(__version__).set(1)
        ProcessCollector(registry=self._registry)
        self._registry.register(LOOPS)
        self._registry.register(streams.lag)
        self._registry.register(self)

    def observe(self, method: str, status: int, took_s: float, kind: str) -> None:
        """Count one request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, f"{status // 100}xx", kind).observe(took_s)

    def describe(self) -> Iterator[Metric]:
        """Nothing in advance: registering asks no database."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """What is so at this moment. Raises ``Unavailable`` where the database does not answer."""
        yield _gauge("fairlead_streams", "Open streams.", self._streams.count)
        with self._api.store.read() as session:
            found = [*self._experiments(session), *self._clusters(session), *self._behind(session)]
        yield from found

    def _experiments(self, session: Session) -> Iterator[Metric]:
        by_state = GaugeMetricFamily("fairlead_experiments", "Experiments by state.", labels=["state"])
        for state in State:
            by_state.add_metric([state.value], experiments.count_in(session, (state,)))
        yield by_state
        queue = gauges.queue(session)
        queued = GaugeMetricFamily(
            "fairlead_queued", f"Queued experiments of the {gauges.MOST_PROJECTS} longest queues.", labels=["project"]
        )
        for project, count in queue.by_project:
            queued.add_metric([project], count)
        queued.add_metric([OTHERS], queue.others)
        yield queued
        yield self._age(
            "fairlead_queue_oldest_seconds",
            "The longest wait in the queue, without the time that it ran.",
            queue.oldest_at,
        )

    def _clusters(self, session: Session) -> Iterator[Metric]:
        """Without those that are retired."""
        rows = gauges.clusters_in_use(session)
        held = clusters.usage(session)
        silence = GaugeMetricFamily("fairlead_agent_silence_seconds", "Since the last sync.", labels=["cluster"])
        is_open = GaugeMetricFamily(
            "fairlead_cluster_open", "1 where it gets offers: active, with an agent that answers.", labels=["cluster"]
        )
        has = {kind: _of_clusters(f"fairlead_cluster_{kind}", f"{kind.upper()} of living nodes.") for kind in _KINDS}
        uses = {
            kind: _of_clusters(f"fairlead_cluster_{kind}_held", f"{kind.upper()} held by open attempts.")
            for kind in _KINDS
        }
        for row in rows:
            if row.last_sync_at is not None:
                silence.add_metric([row.name], self._api.age_s(row.last_sync_at))
            is_open.add_metric([row.name], self._is_open(row))
            for index, kind in enumerate(_KINDS):
                has[kind].add_metric([row.name], sum(node[kind] for node in row.nodes if node["is_alive"]))
                uses[kind].add_metric([row.name], held.get(row.name, (0.0, 0.0, 0))[index])
        yield from (silence, is_open, *has.values(), *uses.values())

    def _is_open(self, row: ClusterRow) -> bool:
        is_fresh = has_fresh_agent(row, ttl_s=self._api.settings.agent_ttl_s, now=self._api.now())
        return row.state == ClusterState.ACTIVE and is_fresh

    def _behind(self, session: Session) -> Iterator[Metric]:
        """What waits for the loops, and for how long."""
        pending, oldest_at = outbox.pending(session)
        yield _gauge("fairlead_webhook_pending", "Messages that active webhooks have not taken yet.", pending)
        yield self._age("fairlead_webhook_oldest_seconds", "Since the oldest of those was written.", oldest_at)
        given_up = gauges.messages_given_up(session)
        yield _gauge("fairlead_webhook_given_up", "Messages whose last try has failed.", given_up)
        yield _gauge("fairlead_webhooks_disabled", "Webhooks that get no messages.", gauges.webhooks_disabled(session))
        unrecorded = gauges.unrecorded_since(session)
        yield self._age("fairlead_unrecorded_seconds", "Since points came that MLflow has not got yet.", unrecorded)
        trials = recorded_trials.count(session)
        yield _gauge("fairlead_trials_unrecorded", "Trials that have ended and are not in MLflow yet.", trials)
        yield from self._registry_flags(session)
        left_s = leases.left_s(session, LEASE, now=self._api.now())
        yield _gauge("fairlead_control_lease_seconds", "For how long some process leads; 0: none does.", left_s)

    def _registry_flags(self, session: Session) -> Iterator[Metric]:
        """What differs in MLflow, and how old that knowledge is where there is something to compare."""
        by_code, found = _of_codes(), flags.count_by_code(session)
        for code in FlagCode:
            by_code.add_metric([code.value], found.get(code, 0))
        yield by_code
        checked, anything = flags.checked(session), gauges.registered_since(session)
        since = anything if checked is None else checked.checked_at
        text = "Since MLflow's registry was last compared with what was registered."
        yield self._age("fairlead_registry_checked_seconds", text, since)

    def _age(self, name: str, text: str, since: datetime | None) -> Metric:
        return _gauge(name, f"{text[:-1]}; 0: nothing waits.", 0.0 if since is None else self._api.age_s(since))

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self._registry)


_KINDS = ("cpus", "gpus")


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _of_codes() -> GaugeMetricFamily:
    text = "What differs in MLflow's registry from what was registered, by code."
    return GaugeMetricFamily("fairlead_registry_flags", text, labels=["code"])


def _of_clusters(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["cluster"])

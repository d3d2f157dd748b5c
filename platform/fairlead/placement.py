"""Stage 3: where does all of it fit? All workers or none; the cluster is chosen, the nodes are Ray's affair."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from fairlead.store.experiments import Candidate


class WaitingReason(StrEnum):
    """Why an experiment is not placed now."""

    NO_CLUSTER = "no_cluster"
    CLUSTER_CLOSED = "cluster_closed"
    NO_AGENT = "no_agent"
    NO_CLUSTER_FITS = "no_cluster_fits"
    RESOURCES_IN_USE = "resources_in_use"
    BEHIND_OTHERS = "behind_others"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """What one living node has in all."""

    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSnapshot:
    """A cluster as placement sees it."""

    name: str
    is_active: bool
    has_fresh_agent: bool
    why_closed: str = ""
    """Why it gets no offers, where it is not active."""
    nodes: tuple[Node, ...]
    cpus_in_use: float = 0
    gpus_in_use: float = 0
    launches: int = 0
    """Attempts offered or leased that have not begun."""

    @property
    def free_cpus(self) -> float:
        """CPUs that no open attempt holds."""
        return sum(node.cpus for node in self.nodes) - self.cpus_in_use

    @property
    def free_gpus(self) -> float:
        """GPUs that no open attempt holds."""
        return sum(node.gpus for node in self.nodes) - self.gpus_in_use


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Now, on this cluster."""

    cluster: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Not now; ask again next round."""

    reason: WaitingReason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def place(
    candidate: Candidate, clusters: Iterable[ClusterSnapshot], *, avoided: frozenset[str] = frozenset()
) -> Placement | Waiting:
    """Choose the cluster with most room among those that can hold every worker at once, or say what is missing.

    ``avoided``: clusters that come last, since they have not taken it before.
    """
    known = tuple(clusters)
    if not known:
        return Waiting(reason=WaitingReason.NO_CLUSTER, detail="no cluster has ever attached; start an agent")
    if not any(cluster.is_active for cluster in known):
        closed = "; ".join(f"{one.name} is {one.why_closed or 'not active'}" for one in known)
        return Waiting(reason=WaitingReason.CLUSTER_CLOSED, detail=closed)
    active = [cluster for cluster in known if cluster.is_active and cluster.has_fresh_agent]
    if not active:
        names = ", ".join(cluster.name for cluster in known if cluster.is_active)
        return Waiting(reason=WaitingReason.NO_AGENT, detail=f"no agent answers for {names}; is it running?")
    large_enough = [cluster for cluster in active if _holds(candidate, cluster)]
    if not large_enough:
        return Waiting(reason=WaitingReason.NO_CLUSTER_FITS, detail=_too_large(candidate, active))
    with_room = [cluster for cluster in large_enough if _has_room(candidate, cluster)]
    if not with_room:
        return Waiting(reason=WaitingReason.RESOURCES_IN_USE, detail=_in_use(candidate, large_enough))
    best = max(with_room, key=lambda one: (one.name not in avoided, one.free_gpus, one.free_cpus, one.name))
    return Placement(cluster=best.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round decided: placements by experiment, and why the others wait."""

    placed: tuple[tuple[Candidate, Placement], ...]
    waiting: Mapping[str, Waiting]


def place_in_order(
    ordered: Iterable[Candidate],
    clusters: Iterable[ClusterSnapshot],
    *,
    launches_per_cluster: int,
    avoided: Mapping[str, frozenset[str]] | None = None,
) -> Round:
    """Place as many as fit, in order. Who waits for room keeps those behind from taking it: nobody starves.

    ``avoided``: by experiment, clusters that have not taken it before.
    """
    here = {cluster.name: cluster for cluster in clusters}
    placed: list[tuple[Candidate, Placement]] = []
    waiting: dict[str, Waiting] = {}
    blocked_by: str | None = None
    for candidate in ordered:
        decision = place(candidate, here.values(), avoided=(avoided or {}).get(candidate.id, frozenset()))
        if isinstance(decision, Waiting):
            waiting[candidate.id] = decision
            if decision.reason is WaitingReason.RESOURCES_IN_USE:
                blocked_by = blocked_by or candidate.id
        elif blocked_by is not None:
            detail = f"{blocked_by} is ahead and waits for room"
            waiting[candidate.id] = Waiting(reason=WaitingReason.BEHIND_OTHERS, detail=detail)
        elif here[decision.cluster].launches >= launches_per_cluster:
            detail = f"{launches_per_cluster} attempts are being started on {decision.cluster}; the next goes after one"
            waiting[candidate.id] = Waiting(reason=WaitingReason.BEHIND_OTHERS, detail=detail)
        else:
            placed.append((candidate, decision))
            here[decision.cluster] = _with(candidate, here[decision.cluster])
    return Round(placed=tuple(placed), waiting=waiting)


def _with(candidate: Candidate, cluster: ClusterSnapshot) -> ClusterSnapshot:
    return replace(
        cluster,
        cpus_in_use=cluster.cpus_in_use + candidate.cpus,
        gpus_in_use=cluster.gpus_in_use + candidate.gpus,
        launches=cluster.launches + 1,
    )


def _workers_on(candidate: Candidate, node: Node) -> int:
    by_cpu = math.floor(node.cpus / candidate.cpus_per_worker + 1e-9)
    if candidate.gpus_per_worker == 0:
        return by_cpu
    return min(by_cpu, math.floor(node.gpus / candidate.gpus_per_worker + 1e-9))


def _holds(candidate: Candidate, cluster: ClusterSnapshot) -> bool:
    """Whether the empty cluster could hold all workers: a worker never spans nodes."""
    return sum(_workers_on(candidate, node) for node in cluster.nodes) >= candidate.workers


def _has_room(candidate: Candidate, cluster: ClusterSnapshot) -> bool:
    slack = 1e-9
    return cluster.free_cpus + slack >= candidate.cpus and cluster.free_gpus + slack >= candidate.gpus


def _needs(candidate: Candidate) -> str:
    gpus = f" and {candidate.gpus:g} GPUs" if candidate.gpus else ""
    return f"needs {candidate.cpus:g} CPUs{gpus} for {candidate.workers} workers"


def _too_large(candidate: Candidate, clusters: list[ClusterSnapshot]) -> str:
    have = "; ".join(
        f"{one.name} has {sum(n.cpus for n in one.nodes):g} CPUs and {sum(n.gpus for n in one.nodes):g} GPUs"
        f" on {len(one.nodes)} node{'s' if len(one.nodes) != 1 else ''}"
        for one in clusters
    )
    return f"{_needs(candidate)}; {have}"


def _in_use(candidate: Candidate, clusters: list[ClusterSnapshot]) -> str:
    freest = max(clusters, key=lambda one: (one.free_gpus, one.free_cpus))
    gpus = f" and {freest.free_gpus:g} GPUs" if candidate.gpus else ""
    return f"{_needs(candidate)}; {freest.name} has {freest.free_cpus:g} CPUs{gpus} free now"

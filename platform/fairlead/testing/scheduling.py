"""Candidates and clusters for tests of the stages that decide who runs where."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from fairlead.lifecycle import State
from fairlead.placement import ClusterSnapshot, Node, Running, pack
from fairlead.spec import SearchSpec, Wish
from fairlead.spec.search import DimensionSpec, ObjectiveSpec
from fairlead.store.experiments import Candidate

START = datetime(2026, 1, 1, tzinfo=UTC)


def a_wish(workers: int = 1, *, cpus: float = 1, gpus: float = 0, **labels: str) -> Wish:
    """``workers`` of so much each."""
    return Wish(workers=workers, cpus_per_worker=cpus, gpus_per_worker=gpus, labels=tuple(sorted(labels.items())))


@lru_cache(maxsize=1024)
def wishes(*workers: int, gpus: float = 0) -> tuple[Wish, ...]:
    """Ways to run it, by their workers; the same object for the same ways, as the store has it."""
    return tuple(a_wish(each, gpus=gpus) for each in workers)


@lru_cache(maxsize=1024)
def sweep_wishes(trials: int, *, workers: int = 1, gpus: float = 0) -> tuple[Wish, ...]:
    """Ways to run a sweep: up to ``trials`` at a time, each of so many workers."""
    space = {"lr": DimensionSpec(uniform=(0, 1))}
    search = SearchSpec(space=space, objectives=(ObjectiveSpec(minimize="loss"),), trials=trials)
    return tuple(replace(a_wish(slots * workers, gpus=gpus), trials=slots) for slots in search.slot_counts)


def a_candidate(
    key: str = "a",
    *,
    workers: int = 1,
    gpus: float = 0,
    priority: int = 50,
    age_s: float = 0,
    bound_s: float = 86_400,
    **changes: Any,
) -> Candidate:
    """A queued experiment, one CPU a worker, ``age_s`` in the queue at ``START``."""
    plain: dict[str, Any] = {
        "id": key,
        "version": 2,
        "state": State.QUEUED,
        "project": "default",
        "priority": priority,
        "wishes": wishes(workers, gpus=gpus),
        "runtime_left_s": bound_s,
        "current_attempt_no": 0,
        "enqueued_at": START - timedelta(seconds=age_s),
        "waiting": None,
    }
    return Candidate(**{**plain, **changes})


def a_cluster(
    name: str = "local", *, nodes: tuple[tuple[float, float], ...] = ((2, 0),), **changes: Any
) -> ClusterSnapshot:
    """A cluster that may get offers; ``nodes``: CPUs and GPUs of each."""
    shape = tuple(Node(node_id=f"{name}-{i}", cpus=cpus, gpus=gpus) for i, (cpus, gpus) in enumerate(nodes))
    plain: dict[str, Any] = {"name": name, "is_active": True, "has_fresh_agent": True, "nodes": shape}
    return ClusterSnapshot(**{**plain, **changes})


def running(
    cluster: ClusterSnapshot,
    workers: int,
    *,
    gpus: float = 0,
    key: str = "r",
    ends_in_s: float = 3600,
    counts: tuple[int, ...] | None = None,
    **changes: Any,
) -> ClusterSnapshot:
    """The cluster with one more attempt on it. Raises ``ValueError`` where it does not fit."""
    wish = a_wish(workers, gpus=gpus)
    counts = counts or pack(wish, [node.room for node in cluster.nodes])
    if counts is None:
        raise ValueError(f"{workers} workers do not fit on {cluster.name}")
    plain: dict[str, Any] = {
        "attempt_id": f"{key}-a1",
        "experiment_id": key,
        "project": "default",
        "priority": 50,
        "wish": wish,
        "counts": counts,
        "ends_in_s": ends_in_s,
    }
    nodes = tuple(
        replace(node, used_cpus=node.used_cpus + count, used_gpus=node.used_gpus + count * gpus)
        for node, count in zip(cluster.nodes, counts, strict=True)
    )
    return replace(cluster, nodes=nodes, running=(*cluster.running, Running(**{**plain, **changes})))

"""What scheduling looks at: clusters with what runs there, projects with what they hold and have used. Columns only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fairlead.placement import OVERHEAD_S, ClusterSnapshot, Node, Room, Running, pack
from fairlead.queueing import Account, Fairness, decayed, rate, use_of
from fairlead.settings import ControlSettings
from fairlead.spec import Wish
from fairlead.store import Session, attempts, clusters, exclusions, projects
from fairlead.store.appetites import Appetite
from fairlead.store.attempts import Occupant
from fairlead.store.projects import Held
from fairlead.store.tables import ClusterRow, ProjectRow

LET_GO_S = 60.0
"""Within this a sweep that was told to hold less has interrupted trials and given back what they held."""
NO_APPETITE = Appetite(wanted=0, limit=0)
SEEN_AFTER_S = 15.0
"""An attempt that began so long ago shows in what Ray calls free; a younger one may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """One moment, as queueing, placement and preemption see it."""

    now: datetime
    clusters: tuple[ClusterSnapshot, ...]
    accounts: Mapping[str, Account]
    fairness: Fairness


def look(session: Session, settings: ControlSettings, now: datetime) -> Situation:
    """The situation as it is now."""
    occupants = attempts.occupants(session)
    appetites = attempts.appetites_of_sweeps(session) if any(one.trial_workers for one in occupants) else {}
    fairness = Fairness(half_life_s=settings.half_life_s, patience_s=settings.patience_s)
    excluded = exclusions.by_cluster(session)
    by_cluster: dict[str, list[Occupant]] = {}
    for one in occupants:
        by_cluster.setdefault(one.cluster, []).append(one)
    here = tuple(
        _snapshot(
            row,
            by_cluster.get(row.name, []),
            why_closed=clusters.why_closed(session, row),
            excluded=excluded.get(row.name, frozenset()),
            appetites=appetites,
            settings=settings,
            fairness=fairness,
            now=now,
        )
        for row in clusters.every(session)
    )
    accounts = accounts_of(projects.every(session), occupants, half_life_s=settings.half_life_s, now=now)
    return Situation(now=now, clusters=here, accounts=accounts, fairness=fairness)


# ---- projects -------------------------------------------------------------------------------------------------------


def accounts_of(
    rows: Iterable[ProjectRow], occupants: Iterable[Occupant], *, half_life_s: float, now: datetime
) -> dict[str, Account]:
    """Every project with its quota, what it holds, and its use up to now, attempts that still run included."""
    held: dict[str, Held] = {}
    running: dict[str, float] = {}
    for one in occupants:
        before = held.get(one.project, Held())
        held[one.project] = Held(
            workers=before.workers + one.workers,
            cpus=before.cpus + one.cpus,
            gpus=before.gpus + one.gpus,
            experiments=before.experiments + 1,
        )
        began_s = 0.0 if one.started_at is None else (now - one.started_at).total_seconds()
        held_s = one.held_s(now)
        each_s = rate(*(seconds / began_s for seconds in held_s)) if began_s > 0 else 0.0
        use = use_of(each_s, began_s=began_s, ended_s=0, half_life_s=half_life_s)
        running[one.project] = running.get(one.project, 0.0) + use
    return {
        row.name: Account(
            weight=row.weight,
            used=used_by(row, half_life_s=half_life_s, now=now) + running.get(row.name, 0.0),
            quota=projects.quota_of(row),
            held=held.get(row.name, Held()),
        )
        for row in rows
    }


def used_by(row: ProjectRow, *, half_life_s: float, now: datetime) -> float:
    """What is left today of the use of attempts that have ended."""
    if row.used_at is None:
        return 0.0
    return decayed(row.used, for_s=(now - row.used_at).total_seconds(), half_life_s=half_life_s)


# ---- clusters -------------------------------------------------------------------------------------------------------


def _snapshot(
    row: ClusterRow,
    occupants: Sequence[Occupant],
    *,
    why_closed: str | None,
    excluded: frozenset[str],
    appetites: Mapping[str, Appetite],
    settings: ControlSettings,
    fairness: Fairness,
    now: datetime,
) -> ClusterSnapshot:
    living = [node for node in row.nodes if node["is_alive"]]
    running = tuple(
        _running(one, living, appetites.get(one.attempt_id, NO_APPETITE), fairness, now) for one in occupants
    )
    rooms = _rooms(living, running, occupants, now)
    return ClusterSnapshot(
        name=row.name,
        is_active=why_closed is None,
        why_closed=why_closed or "",
        has_fresh_agent=clusters.has_fresh_agent(row, ttl_s=settings.agent_ttl_s, now=now),
        labels=row.labels or {},
        nodes=tuple(
            Node(
                node_id=node["node_id"],
                cpus=node["cpus"],
                gpus=node["gpus"],
                used_cpus=node["cpus"] - cpus,
                used_gpus=node["gpus"] - gpus,
                is_excluded=node["node_id"] in excluded,
            )
            for node, (cpus, gpus) in zip(living, rooms, strict=True)
        ),
        running=running,
        launches=sum(one.started_at is None for one in occupants),
    )


def _running(
    one: Occupant, living: Sequence[Mapping[str, Any]], appetite: Appetite, fairness: Fairness, now: datetime
) -> Running:
    wish = Wish(
        workers=one.workers,
        cpus_per_worker=one.cpus / one.workers,
        gpus_per_worker=one.gpus / one.workers,
        trials=one.workers // one.trial_workers if one.trial_workers else 0,
    )
    shrunk_s = math.inf if one.shrunk_at is None else (now - one.shrunk_at).total_seconds()
    age_s = 0.0 if one.started_at is None else max(0.0, (now - one.started_at).total_seconds())
    left_s = max(0.0, one.max_runtime_s - one.spent_s - age_s)
    # Stopped, it would be the first to begin again: it went before the more urgent one, and would once more.
    has_waited = fairness.is_patient(one.enqueued_at or now, ran_s=one.spent_s + age_s, now=now)
    return Running(
        attempt_id=one.attempt_id,
        experiment_id=one.experiment_id,
        project=one.project,
        priority=one.priority,
        wish=wish,
        counts=_counts(one, wish, living),
        ends_in_s=OVERHEAD_S if one.is_stopping else left_s + OVERHEAD_S,
        expected_s=None if one.expected_s is None else max(0.0, one.expected_s - age_s),
        age_s=age_s,
        is_preemptible=one.is_preemptible and not has_waited,
        preemptions=one.preemptions,
        is_stopping=one.is_stopping,
        has_begun=one.started_at is not None,
        wanted=appetite.wanted,
        limit=appetite.limit,
        is_letting_go=shrunk_s < LET_GO_S,
    )


def _counts(one: Occupant, wish: Wish, living: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Its workers by node, as planned; on nodes with most room where there is no plan, or its nodes are gone."""
    plan = one.plan or {}
    counts = tuple(plan.get(node["node_id"], 0) for node in living)
    if sum(counts) == one.workers:
        return counts
    return pack(wish, [(node["cpus"], node["gpus"]) for node in living]) or counts


def _rooms(
    living: Sequence[Mapping[str, Any]], running: Sequence[Running], occupants: Sequence[Occupant], now: datetime
) -> list[Room]:
    """What is free on each node, by our books and by Ray's: the smaller, so that neither is overdrawn.

    What began a moment ago may not show in Ray's: unless they show as much in use as ours, it is taken off them.
    Where both agree on the sum they only disagree on the nodes, since Ray chooses those: then Ray knows better.
    """
    books = [(node["cpus"], node["gpus"]) for node in living]
    seen = [(node.get("free_cpus", node["cpus"]), node.get("free_gpus", node["gpus"])) for node in living]
    for one in running:
        books = _less(books, one)
    if not all(ours >= rays for ours, rays in zip(_sums(books), _sums(seen), strict=True)):
        for one, occupant in zip(running, occupants, strict=True):
            if occupant.started_at is None or (now - occupant.started_at).total_seconds() < SEEN_AFTER_S:
                seen = _less(seen, one)
    if _sums(books) == _sums(seen):
        return seen
    return [(min(a[0], b[0]), min(a[1], b[1])) for a, b in zip(books, seen, strict=True)]


def _less(rooms: list[Room], one: Running) -> list[Room]:
    per = one.wish.cpus_per_worker, one.wish.gpus_per_worker
    return [(room[0] - count * per[0], room[1] - count * per[1]) for room, count in zip(rooms, one.counts, strict=True)]


def _sums(rooms: Iterable[Room]) -> tuple[float, float]:
    known = list(rooms)
    return round(sum(room[0] for room in known), 3), round(sum(room[1] for room in known), 3)

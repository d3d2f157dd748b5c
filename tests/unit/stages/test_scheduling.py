"""What the queue promises: shares, quotas, backfill that delays nobody, bounded preemption, nobody forgotten."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairlead.forecast import forecast
from fairlead.placement import (
    OVERHEAD_S,
    Board,
    ClusterSnapshot,
    Placement,
    Round,
    Waiting,
    WaitingReason,
    bound_s,
    pack,
    place,
    place_in_order,
    with_placed,
)
from fairlead.preemption import Preempt, Spare, choose, place_or_preempt
from fairlead.queueing import Account, Fairness, beyond_quota, decayed, order, rate, use_of
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held, Quota
from fairlead.testing.scheduling import START, a_candidate, a_cluster, a_wish, running, wishes


def decide(ordered: list[Candidate], *clusters: ClusterSnapshot, **more: Account) -> Round:
    return place_in_order(ordered, clusters, launches_per_cluster=None, accounts=more)


# ---- shares ---------------------------------------------------------------------------------------------------------


def test_of_equal_priority_the_project_that_used_less_goes_first() -> None:
    busy, idle = a_candidate("busy", project="p", age_s=100), a_candidate("idle", project="q")
    accounts = {"p": Account(used=1000), "q": Account(used=10)}
    assert [one.id for one in order([busy, idle], accounts)] == ["idle", "busy"]
    assert [one.id for one in order([busy, idle], {"p": Account(used=1000, weight=1000), "q": Account(used=10)})] == [
        "busy",
        "idle",
    ]


def test_projects_alternate_within_one_round() -> None:
    crowd = [a_candidate(f"p{i}", project="p", age_s=100 - i) for i in range(3)]
    few = [a_candidate(f"q{i}", project="q", age_s=10 - i) for i in range(2)]
    assert [one.id for one in order([*crowd, *few])] == ["p0", "q0", "p1", "q1", "p2"]


def test_who_has_waited_too_long_is_not_held_back_by_priority() -> None:
    low = a_candidate("low", priority=1, age_s=5000)
    high = a_candidate("high", priority=90, project="q")
    accounts = {"q": Account(used=5)}
    assert next(one.id for one in order([low, high], accounts, now=START)) == "high"
    patient = Fairness(patience_s=4000)
    assert next(one.id for one in order([low, high], accounts, now=START, fairness=patient)) == "low"


def test_use_halves_with_each_half_life() -> None:
    assert rate(2, 1) == 18
    assert decayed(8, for_s=200, half_life_s=100) == 2
    # An hour of use, an hour ago, with a half-life of an hour: half of what the same hour counts at its end.
    at_its_end = use_of(1, began_s=3600, ended_s=0, half_life_s=3600)
    assert at_its_end == pytest.approx(3600 / math.log(2) / 2)
    assert use_of(1, began_s=7200, ended_s=3600, half_life_s=3600) == pytest.approx(at_its_end / 2)
    assert use_of(1, began_s=10, ended_s=10, half_life_s=3600) == 0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.integers(0, 9)), max_size=40),
    st.dictionaries(st.sampled_from("0123"), st.floats(0, 1e9), max_size=4),
)
def test_the_order_is_whole_and_keeps_priorities_and_places(
    found: list[tuple[int, int, int]], used: dict[str, float]
) -> None:
    candidates = [
        a_candidate(f"e{i}", project=str(project), age_s=age, priority=priority)
        for i, (project, age, priority) in enumerate(found)
    ]
    ordered = order(candidates, {name: Account(used=amount) for name, amount in used.items()})
    assert sorted(one.id for one in ordered) == sorted(one.id for one in candidates)
    assert [one.priority for one in ordered] == sorted((one.priority for one in ordered), reverse=True)
    for project in {one.project for one in ordered}:
        own = [(-one.priority, one.enqueued_at, one.id) for one in ordered if one.project == project]
        assert own == sorted(own)


# ---- quotas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "held", "why"),
    [
        (Quota(), Held(gpus=99), None),
        (Quota(gpus=4), Held(), None),
        (Quota(gpus=3), Held(), "needs 4 GPUs; the project may hold 3"),
        (Quota(gpus=8), Held(gpus=5), "needs 4 GPUs; the project may hold 8, 5 of which are in use"),
        (Quota(workers=1), Held(), "needs 2 workers; the project may hold 1"),
        (Quota(cpus=1), Held(), "needs 2 CPUs; the project may hold 1"),
        (Quota(experiments=1), Held(experiments=1), "needs 1 experiments at once; the project may hold 1, 1 of"),
    ],
)
def test_a_quota_says_what_is_exceeded(quota: Quota, held: Held, why: str | None) -> None:
    found = beyond_quota(a_wish(2, gpus=2), quota, held)
    assert found == why if why is None else str(found).startswith(why)


def test_who_waits_for_quota_blocks_nobody() -> None:
    mine = [a_candidate("mine", project="p", workers=2), a_candidate("yours", project="q", workers=2)]
    account = Account(quota=Quota(cpus=3), held=Held(cpus=2))
    decided = decide(mine, a_cluster(nodes=((8, 0),)), p=account)
    assert [one.id for one, _ in decided.placed] == ["yours"]
    assert decided.waiting["mine"].reason is WaitingReason.QUOTA_IN_USE
    never = decide([a_candidate("never", project="p", workers=4)], a_cluster(nodes=((8, 0),)), p=account)
    assert never.waiting["never"].reason is WaitingReason.EXCEEDS_QUOTA


# ---- hardware -------------------------------------------------------------------------------------------------------


def test_labels_choose_the_cluster_and_alternatives_are_tried_in_order() -> None:
    old, new = a_cluster("old", nodes=((8, 8),), labels={"gpu": "a100"}), a_cluster("new", labels={"gpu": "h100"})
    new = replace(new, nodes=a_cluster("new", nodes=((8, 2),)).nodes)
    wishes = (a_wish(2, gpus=1, gpu="h100"), a_wish(4, gpus=1, gpu="a100"))
    first = place(a_candidate(wishes=wishes), [old, new])
    assert isinstance(first, Placement)
    assert (first.cluster, first.alternative) == ("new", 0)
    second = place(a_candidate(wishes=wishes), [old, running(new, 1, gpus=1)])
    assert isinstance(second, Placement)
    assert (second.cluster, second.alternative, second.plan) == ("old", 1, (("old-0", 4),))
    nowhere = place(a_candidate(wishes=(a_wish(gpu="tpu"),)), [old, new])
    assert isinstance(nowhere, Waiting)
    assert nowhere.reason is WaitingReason.NO_CLUSTER_FITS
    assert "with gpu=tpu" in nowhere.detail
    assert "with gpu=a100" in nowhere.detail


def test_who_needs_a_cluster_that_is_closed_waits_for_that_and_not_for_hardware() -> None:
    silent = a_cluster("silent", labels={"zone": "a"}, has_fresh_agent=False)
    drained = a_cluster("drained", labels={"zone": "b"}, is_active=False, why_closed="draining")
    here = [silent, drained, a_cluster("open", labels={"zone": "c"})]
    bound = place(a_candidate(wishes=(a_wish(zone="a"),)), here)
    assert str(bound) == (
        "no_agent: needs 1 CPUs for 1 workers with zone=a, which no open cluster has:"
        " no agent answers for silent; is it running?"
    )
    closed = place(a_candidate(wishes=(a_wish(zone="b"),)), here)
    assert str(closed).startswith("cluster_closed: ")
    assert str(closed).endswith("which no open cluster has: drained is draining")
    too_large = place(a_candidate(wishes=(a_wish(64, zone="a"),)), here)
    assert isinstance(too_large, Waiting)
    assert too_large.reason is WaitingReason.NO_CLUSTER_FITS
    other = place(a_candidate(wishes=(a_wish(zone="a"), a_wish(zone="c"))), here)
    assert isinstance(other, Placement)
    assert (other.cluster, other.alternative) == ("open", 1)


def test_who_waits_for_room_is_told_of_the_wish_that_an_open_cluster_could_hold() -> None:
    silent = a_cluster("silent", labels={"zone": "a"}, has_fresh_agent=False)
    busy = running(a_cluster("busy", labels={"zone": "b"}), 2)
    waiting = place(a_candidate(wishes=(a_wish(zone="a"), a_wish(2, zone="b"))), [silent, busy])
    assert str(waiting) == "resources_in_use: needs 2 CPUs for 2 workers with zone=b; busy has 0 CPUs free now"


def test_who_fits_in_sum_but_on_no_node_is_told_of_the_nodes() -> None:
    here = [a_cluster(nodes=((1, 0), (1, 0), (1, 0)))]
    waiting = place(a_candidate(wishes=(a_wish(1, cpus=2),)), here)
    assert str(waiting) == (
        "no_cluster_fits: needs 2 CPUs for 1 workers; local has 3 CPUs and 0 GPUs on 3 nodes, room for 0 of 1 workers"
    )


def test_an_excluded_node_gets_no_workers() -> None:
    cluster = a_cluster(nodes=((2, 0), (2, 0)))
    cluster = replace(cluster, nodes=(replace(cluster.nodes[0], is_excluded=True), cluster.nodes[1]))
    placed = place(a_candidate(workers=2), [cluster])
    assert isinstance(placed, Placement)
    assert placed.plan == (("local-1", 2),)
    waiting = place(a_candidate(workers=3), [cluster])
    assert isinstance(waiting, Waiting)
    assert "1 more excluded" in waiting.detail


def without(cluster: ClusterSnapshot, *indices: int) -> ClusterSnapshot:
    """The cluster with these of its nodes excluded."""
    nodes = (replace(node, is_excluded=index in indices) for index, node in enumerate(cluster.nodes))
    return replace(cluster, nodes=tuple(nodes))


PAIR = a_cluster(nodes=((2, 0), (2, 0)))


@pytest.mark.parametrize(
    ("workers", "cluster", "reason"),
    [
        (3, without(PAIR, 0), WaitingReason.NODES_EXCLUDED),
        (1, without(PAIR, 0, 1), WaitingReason.NODES_EXCLUDED),
        (5, without(PAIR, 0), WaitingReason.NO_CLUSTER_FITS),
        (2, running(without(PAIR, 0), 1), WaitingReason.NODES_EXCLUDED),
        (2, without(running(running(PAIR, 1), 2, counts=(0, 2)), 0), WaitingReason.RESOURCES_IN_USE),
    ],
    ids=["too large without", "none is left", "too large anyway", "it has room now", "it is as full"],
)
def test_who_would_fit_were_no_node_excluded_is_told_so(
    workers: int, cluster: ClusterSnapshot, reason: WaitingReason
) -> None:
    waiting = place(a_candidate(workers=workers), [cluster])
    assert isinstance(waiting, Waiting)
    assert waiting.reason is reason
    assert ("excluded nodes were taken in again" in waiting.detail) is (reason is WaitingReason.NODES_EXCLUDED)
    found = forecast([a_candidate("e", workers=workers)], [cluster], {})["e"]
    assert (found.in_s is None) is (found.basis.startswith(("never", "not while nodes are excluded")))


def test_excluded_nodes_of_another_cluster_are_told_of_where_the_one_that_could_hold_it_is_full() -> None:
    full, burnt = running(a_cluster("full"), 2), without(a_cluster("burnt"), 0)
    waiting = place(a_candidate(workers=2), [full, burnt])
    assert isinstance(waiting, Waiting)
    assert waiting.reason is WaitingReason.NODES_EXCLUDED
    assert "burnt has 0 CPUs free now" in waiting.detail
    elsewhere = place(a_candidate(wishes=(a_wish(2, zone="a"),)), [replace(full, labels={"zone": "a"}), burnt])
    assert isinstance(elsewhere, Waiting)
    assert elsewhere.reason is WaitingReason.RESOURCES_IN_USE


def test_who_waits_behind_one_that_misses_an_excluded_node_waits_behind_it() -> None:
    cluster = running(without(a_cluster(nodes=((2, 0), (4, 0))), 0), 3, ends_in_s=600)
    first, second = a_candidate("a", workers=2), a_candidate("b", workers=2)
    decided = decide([first, second], cluster)
    assert decided.waiting["a"].reason is WaitingReason.NODES_EXCLUDED
    assert decided.waiting["b"].reason is WaitingReason.BEHIND_OTHERS
    assert [one.experiment_id for one in decided.reservations] == ["a"]


NODES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6)


@given(st.integers(1, 12), st.sampled_from([0.5, 1, 3]), st.sampled_from([0, 0.5, 1, 2]), NODES)
def test_all_workers_are_placed_or_none_and_no_node_is_overdrawn(
    workers: int, cpus: float, gpus: float, nodes: list[tuple[int, int]]
) -> None:
    wish = a_wish(workers, cpus=cpus, gpus=gpus)
    counts = pack(wish, nodes)
    most = sum(int(min(c / cpus, g / gpus if gpus else math.inf)) for c, g in nodes)
    assert (counts is not None) is (most >= workers)
    if counts is not None:
        assert sum(counts) == workers
        assert all(n * cpus <= c and n * gpus <= g for n, (c, g) in zip(counts, nodes, strict=True))


def test_fragments_are_no_room() -> None:
    """Two free GPUs on two nodes are no room for one worker with two."""
    cluster = running(running(a_cluster(nodes=((8, 4), (8, 4))), 3, gpus=1), 3, gpus=1, counts=(0, 3))
    waiting = place(a_candidate(wishes=(a_wish(1, gpus=2),)), [cluster])
    assert isinstance(waiting, Waiting)
    assert waiting.reason is WaitingReason.RESOURCES_IN_USE
    assert "2 GPUs free now" in waiting.detail


# ---- backfill -------------------------------------------------------------------------------------------------------


def test_a_short_one_goes_past_the_head_and_a_long_one_does_not() -> None:
    cluster = running(a_cluster(nodes=((4, 0),)), 3, ends_in_s=1000)
    head = a_candidate("head", workers=4)
    short, long = a_candidate("short", bound_s=1000 - OVERHEAD_S), a_candidate("long", bound_s=5000)
    decided = decide([head, long, short], cluster)
    assert [(one.id, placement.is_backfill) for one, placement in decided.placed] == [("short", True)]
    assert decided.waiting["long"].reason is WaitingReason.BEHIND_OTHERS
    assert "others ahead of it wait for room" in decided.waiting["long"].detail
    assert [(one.experiment_id, one.in_s) for one in decided.reservations] == [("head", 1000)]


def test_a_long_one_goes_past_where_the_head_will_fit_beside_it() -> None:
    cluster = running(a_cluster(nodes=((4, 0),)), 3, ends_in_s=1000)
    decided = decide([a_candidate("head", workers=3), a_candidate("long", bound_s=9999)], cluster)
    assert [one.id for one, _ in decided.placed] == ["long"]


def test_of_two_long_ones_only_the_first_goes_past_where_the_head_will_fit_beside_one() -> None:
    cluster = running(a_cluster(nodes=((4, 0),)), 2, ends_in_s=1000)
    long, longer = a_candidate("long", bound_s=9999), a_candidate("longer", wishes=(a_wish(1, cpus=0.9),), bound_s=9999)
    decided = decide([a_candidate("head", workers=3), long, longer], cluster)
    assert [one.id for one, _ in decided.placed] == ["long"]
    assert decided.waiting["longer"].reason is WaitingReason.BEHIND_OTHERS


def test_each_cluster_keeps_room_for_one() -> None:
    one, other = running(a_cluster("one"), 2, ends_in_s=100), running(a_cluster("two"), 2, ends_in_s=200)
    decided = decide([a_candidate("x"), a_candidate("y"), a_candidate("z")], one, other)
    assert [(one.experiment_id, one.cluster) for one in decided.reservations] == [("x", "one"), ("y", "two")]
    assert decided.waiting["z"].reason is WaitingReason.BEHIND_OTHERS


WISHES = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 1]), st.sampled_from([60, 600, 6000])), max_size=14)
RUNNERS = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([50, 500, 5000])), max_size=5)


def a_busy_cluster(nodes: list[tuple[int, int]], runners: list[tuple[int, int]]) -> ClusterSnapshot:
    cluster = a_cluster(nodes=tuple(nodes))
    for i, (workers, ends_in_s) in enumerate(runners):
        if pack(a_wish(workers), [node.room for node in cluster.nodes]) is not None:
            cluster = running(cluster, workers, key=f"r{i}", ends_in_s=ends_in_s)
    return cluster


def candidates_of(found: list[tuple[int, int, int]]) -> list[Candidate]:
    return [a_candidate(f"e{i}", workers=w, gpus=g, bound_s=b) for i, (w, g, b) in enumerate(found)]


@given(WISHES, NODES, RUNNERS)
def test_backfill_never_delays_the_head(
    found: list[tuple[int, int, int]], nodes: list[tuple[int, int]], runners: list[tuple[int, int]]
) -> None:
    """Once all that was placed runs to its bound, the head has room no later than without those that went past it."""
    cluster, candidates = a_busy_cluster(nodes, runners), candidates_of(found)
    decided = decide(candidates, cluster)
    for reservation in decided.reservations:
        head = next(one for one in candidates if one.id == reservation.experiment_id)
        (after,) = with_placed([cluster], decided)
        then = Board.of(after).earliest_s(head.wishes[0], ())
        assert then is not None
        assert then[0] <= reservation.in_s


@given(WISHES, NODES, RUNNERS, st.integers(0, 20), st.integers(0, 4))
def test_no_round_exceeds_a_node_or_a_quota_and_every_one_has_a_place_or_a_reason(
    found: list[tuple[int, int, int]],
    nodes: list[tuple[int, int]],
    runners: list[tuple[int, int]],
    cpus: int,
    at_once: int,
) -> None:
    cluster, candidates = a_busy_cluster(nodes, runners), candidates_of(found)
    account = Account(quota=Quota(cpus=cpus, experiments=at_once))
    decided = place_in_order(candidates, [cluster], launches_per_cluster=None, accounts={"default": account})
    (after,) = with_placed([cluster], decided)
    assert all(node.used_cpus <= node.cpus and node.used_gpus <= node.gpus for node in after.nodes)
    assert sum(one.wishes[p.alternative].cpus for one, p in decided.placed) <= cpus
    assert len(decided.placed) <= at_once
    assert {one.id for one, _ in decided.placed} | set(decided.waiting) == {one.id for one in candidates}
    for one, placement in decided.placed:
        assert sum(count for _, count in placement.plan) == one.wishes[0].workers


# ---- round after round ----------------------------------------------------------------------------------------------

Order = Callable[[list[Candidate], dict[str, Account], datetime], Sequence[Candidate]]
STOP_S = 60.0
MAX_PREEMPTIONS = 2


@dataclass
class World:
    """Clusters while rounds go by. Everyone runs a part of its bound; who is stopped begins again from nothing."""

    clusters: list[ClusterSnapshot]
    waiting: list[Candidate]
    order: Order
    quotas: dict[str, Quota] = field(default_factory=dict)
    fairness: Fairness = field(default_factory=Fairness)
    parts: dict[str, float] = field(default_factory=dict)
    preemptible: set[str] = field(default_factory=set)
    now: datetime = START
    used: dict[str, float] = field(default_factory=dict)
    running: dict[str, "Life"] = field(default_factory=dict)
    stops: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Who was stopped for whom."""
    done: set[str] = field(default_factory=set)

    def round(self) -> Round:
        """Decide, check what must always hold, begin and stop, and go on to the next end."""
        clusters, accounts = self.snapshots(), self.accounts()
        ordered = self.order(self.waiting, accounts, self.now)
        decided, preempting = place_or_preempt(
            ordered, clusters, max_preemptions=MAX_PREEMPTIONS, launches_per_cluster=None, accounts=accounts
        )
        for one, placement in decided.placed:
            self.begin(one, placement)
        for chosen in preempting:
            for victim in chosen.victims:
                self.running[victim.experiment_id].stop(self.now)
                self.pairs[chosen.candidate.id, victim.experiment_id] += 1
        self.check()
        self.advance()
        return decided

    def begin(self, one: Candidate, placement: Placement) -> None:
        nodes = next(cluster for cluster in self.clusters if cluster.name == placement.cluster).nodes
        counts = tuple(dict(placement.plan).get(node.node_id, 0) for node in nodes)
        assert sum(counts) == one.wishes[placement.alternative].workers
        self.waiting = [other for other in self.waiting if other is not one]
        ends_at = self.now + timedelta(seconds=bound_s(one) * self.parts.get(one.id, 1.0))
        self.running[one.id] = Life(one, placement.cluster, placement.alternative, counts, self.now, ends_at)

    def check(self) -> None:
        for cluster in self.snapshots():
            assert all(node.used_cpus <= node.cpus and node.used_gpus <= node.gpus for node in cluster.nodes)
        for project, quota in self.quotas.items():
            held = self.held(project)
            assert quota.cpus is None or held.cpus <= quota.cpus
            assert quota.experiments is None or held.experiments <= quota.experiments
        assert all(count <= MAX_PREEMPTIONS for count in self.stops.values())

    def advance(self) -> None:
        """To the next end, or a minute on."""
        before = self.now
        self.now = min((life.ends_at for life in self.running.values()), default=self.now + timedelta(minutes=1))
        left = decayed(1.0, for_s=(self.now - before).total_seconds(), half_life_s=self.fairness.half_life_s)
        self.used = {project: used * left for project, used in self.used.items()}
        for key, life in [*self.running.items()]:
            project = life.one.project
            held_s = (self.now - max(before, life.began_at)).total_seconds()
            self.used[project] = self.used.get(project, 0.0) + rate(life.wish.cpus, life.wish.gpus) * held_s
            if life.ends_at <= self.now:
                del self.running[key]
                self.end(life)

    def end(self, life: "Life") -> None:
        if not life.is_stopping:
            self.done.add(life.one.id)
            return
        self.stops[life.one.id] += 1
        self.waiting.append(replace(life.one, ran_s=life.one.ran_s + life.age_s(self.now)))

    def held(self, project: str) -> Held:
        lives = [life for life in self.running.values() if life.one.project == project]
        return Held(
            workers=sum(life.wish.workers for life in lives),
            cpus=sum(life.wish.cpus for life in lives),
            gpus=sum(life.wish.gpus for life in lives),
            experiments=len(lives),
        )

    def accounts(self) -> dict[str, Account]:
        projects = {one.project for one in self.waiting} | {life.one.project for life in self.running.values()}
        return {
            name: Account(used=self.used.get(name, 0.0), quota=self.quotas.get(name, Quota()), held=self.held(name))
            for name in projects
        }

    def snapshots(self) -> list[ClusterSnapshot]:
        found = []
        for cluster in self.clusters:
            here = cluster
            for life in self.running.values():
                if life.cluster == cluster.name:
                    here = running(here, 1, counts=life.counts, key=life.one.id, **self.as_seen(life))
            found.append(here)
        return found

    def as_seen(self, life: "Life") -> dict[str, Any]:
        one, age_s = life.one, life.age_s(self.now)
        has_waited = self.fairness.is_patient(one.enqueued_at, ran_s=one.ran_s + age_s, now=self.now)
        return {
            "wish": life.wish,
            "gpus": life.wish.gpus_per_worker,
            "project": one.project,
            "priority": one.priority,
            "ends_in_s": OVERHEAD_S if life.is_stopping else bound_s(one) - age_s,
            "age_s": age_s,
            "is_preemptible": one.id in self.preemptible and not has_waited,
            "preemptions": self.stops[one.id],
            "is_stopping": life.is_stopping,
        }


@dataclass
class Life:
    """One that runs."""

    one: Candidate
    cluster: str
    alternative: int
    counts: tuple[int, ...]
    began_at: datetime
    ends_at: datetime
    is_stopping: bool = False

    @property
    def wish(self) -> Wish:
        return self.one.wishes[self.alternative]

    def age_s(self, now: datetime) -> float:
        return (now - self.began_at).total_seconds()

    def stop(self, now: datetime) -> None:
        self.is_stopping, self.ends_at = True, min(self.ends_at, now + timedelta(seconds=STOP_S))


def first_come(waiting: list[Candidate], _: dict[str, Account], __: datetime) -> Sequence[Candidate]:
    return sorted(waiting, key=lambda one: (one.enqueued_at, one.id))


def by_priority(waiting: list[Candidate], _: dict[str, Account], __: datetime) -> Sequence[Candidate]:
    return sorted(waiting, key=lambda one: (-one.priority, one.enqueued_at, one.id))


def fairly(fairness: Fairness) -> Order:
    return lambda waiting, accounts, now: order(waiting, accounts, now=now, fairness=fairness)


DRAWN = st.lists(
    st.tuples(
        st.integers(1, 4),  # workers
        st.sampled_from([60, 600, 6000]),  # bound
        st.sampled_from([0.1, 0.5, 1.0]),  # the part of it that it runs
        st.integers(0, 2),  # project
        st.sampled_from([10, 50, 90]),  # priority
        st.booleans(),  # may be stopped
        st.sampled_from([None, 1, 2]),  # workers of an alternative
    ),
    max_size=12,
)
TWO = st.sampled_from([((2, 0), (2, 0)), ((4, 0),), ((1, 0), (1, 0), (2, 0))])
"""Nodes of four CPUs in all."""


def a_world(found: list[Any], nodes: tuple[tuple[float, float], ...], ordering: Order, **more: Any) -> World:
    waiting, parts, preemptible = [], {}, set()
    for i, (workers, bound, part, project, priority, may_be_stopped, other) in enumerate(found):
        key = f"e{i:02}"
        ways = wishes(workers, other) if other else wishes(workers)
        waiting.append(
            a_candidate(key, wishes=ways, bound_s=bound, project=f"p{project}", priority=priority, age_s=len(found) - i)
        )
        parts[key] = part
        preemptible |= {key} if may_be_stopped else set()
    clusters = [a_cluster("a", nodes=nodes), a_cluster("b", nodes=((1, 0),))]
    return World(clusters, waiting, ordering, parts=parts, preemptible=preemptible, **more)


@given(DRAWN, TWO, st.sampled_from([2, 3, 4]), st.sampled_from([1, 2]))
def test_no_quota_and_no_node_is_ever_exceeded_and_all_that_may_run_ends(
    found: list[Any], nodes: tuple[tuple[float, float], ...], cpus: int, at_once: int
) -> None:
    """Through preemptions, alternatives and early ends; ``World.check`` looks after every round."""
    quotas = {"p0": Quota(cpus=cpus), "p1": Quota(experiments=at_once)}
    world = a_world(found, nodes, fairly(Fairness()), quotas=quotas)
    may_run = {
        one.id
        for one in world.waiting
        if any(beyond_quota(wish, quotas.get(one.project, Quota())) is None for wish in one.wishes)
    }
    for _ in range(300):
        world.round()
    assert world.done == may_run
    assert not world.running


@given(DRAWN, TWO)
def test_a_reservation_is_kept_whoever_goes_past(found: list[Any], nodes: tuple[tuple[float, float], ...]) -> None:
    """In every later round it is at the same time or sooner, until its holder begins: in order of arrival."""
    world = a_world(found[:6], nodes, first_come)
    world.preemptible = set()
    late = [replace(one, id=f"z{i}") for i, one in enumerate(a_world(found[6:], nodes, first_come).waiting)]
    promised: dict[str, datetime] = {}
    for _ in range(200):
        if late:
            world.waiting.append(replace(late.pop(0), enqueued_at=world.now + timedelta(seconds=1)))
        began = world.now
        decided = world.round()
        waiting = {one.id for one in world.waiting}
        for key, by in promised.items():
            assert key not in waiting or began < by, f"{key} should have begun at {by}"
        for kept in decided.reservations:
            by = began + timedelta(seconds=kept.in_s)
            assert by <= promised.get(kept.experiment_id, by)
            promised[kept.experiment_id] = by


@given(DRAWN, TWO, st.integers(1, 3))
def test_nobody_starves_under_a_flood_of_the_highest_priority(
    found: list[Any], nodes: tuple[tuple[float, float], ...], crowds: int
) -> None:
    """There is always more of it than fits, from other projects than theirs, and it never ends."""
    fairness = Fairness(half_life_s=3600, patience_s=2000)
    world = a_world(found[:6], nodes, fairly(fairness), fairness=fairness)
    mine = {one.id for one in world.waiting}
    for number in range(1500):
        if mine <= world.done:
            return
        flood = sum(one.priority == 100 for one in world.waiting)
        world.waiting += [
            a_candidate(f"f{number:04}-{i}", project=f"q{i % crowds}", priority=100, bound_s=300, enqueued_at=world.now)
            for i in range(6 - flood)
        ]
        world.round()
    pytest.fail(f"{mine - world.done} never ran")


@given(DRAWN, TWO)
def test_nobody_is_stopped_twice_for_the_same_one(found: list[Any], nodes: tuple[tuple[float, float], ...]) -> None:
    """No loops: who was stopped does not take the room that it made."""
    world = a_world([(*one[:6], None) for one in found], nodes, by_priority)
    late = [replace(one, id=f"z{i}") for i, one in enumerate(world.waiting[4:])]
    world.waiting, world.clusters = world.waiting[:4], world.clusters[:1]
    for _ in range(200):
        world.waiting += [replace(late.pop(0), enqueued_at=world.now)] if late else []
        world.round()
    assert all(count == 1 for count in world.pairs.values())


def test_who_has_waited_too_long_is_stopped_for_nobody() -> None:
    """It would be the first to begin again, and be stopped again."""
    fairness = Fairness(patience_s=100)
    low = a_candidate("low", workers=4, priority=10, age_s=200)
    world = World([a_cluster(nodes=((4, 0),))], [low], fairly(fairness), fairness=fairness, preemptible={"low"})
    world.round()
    assert world.done == {"low"}
    world.waiting = [low]
    world.begin(low, Placement(cluster="local", plan=(("local-0", 4),)))
    (seen,) = world.snapshots()[0].running
    assert not seen.is_preemptible


def test_who_makes_room_is_decided_before_others_go_past() -> None:
    """The short one would only be stopped in the next round: the head has room in a minute, not in an hour."""
    cluster = running(a_cluster(nodes=((4, 0),)), 3, priority=10, is_preemptible=True, ends_in_s=3600)
    head, short = a_candidate("head", workers=4, priority=90), a_candidate("short", bound_s=600)
    decided, (chosen,) = place_or_preempt([head, short], [cluster], max_preemptions=3, launches_per_cluster=None)
    assert decided.placed == ()
    assert [victim.experiment_id for victim in chosen.victims] == ["r"]
    assert [(one.experiment_id, one.in_s) for one in decided.reservations] == [("head", OVERHEAD_S)]
    unasked, nobody = place_or_preempt([head, short], [cluster], max_preemptions=0, launches_per_cluster=None)
    assert [one.id for one, _ in unasked.placed] == ["short"]
    assert nobody == ()


def test_nobody_is_stopped_for_a_wish_beyond_the_quota() -> None:
    cluster = running(a_cluster(nodes=((4, 0),)), 4, priority=10, is_preemptible=True, project="q")
    head = a_candidate("head", wishes=(a_wish(4), a_wish(1, cpus=4)), priority=90, project="p")
    for workers, victims in ((4, 1), (1, 1), (0, 0)):
        quota = Quota(workers=workers)
        _, chosen = place_or_preempt(
            [head], [cluster], max_preemptions=3, launches_per_cluster=None, accounts={"p": Account(quota=quota)}
        )
        assert len(chosen) == victims


def test_a_cluster_where_room_is_made_is_left_to_the_first() -> None:
    """Two that are urgent, two clusters: each has one stopped, and neither both."""
    busy = [
        running(a_cluster(name, nodes=((2, 0),)), 2, key=name, priority=10, is_preemptible=True, age_s=age_s)
        for name, age_s in (("a", 10), ("b", 20))
    ]
    urgent = [a_candidate(key, workers=2, priority=90) for key in ("x", "y")]
    _, chosen = place_or_preempt(urgent, busy, max_preemptions=3, launches_per_cluster=None)
    assert [(one.candidate.id, one.cluster) for one in chosen] == [("x", "a"), ("y", "b")]


# ---- preemption -----------------------------------------------------------------------------------------------------


def test_only_preemptible_ones_of_lower_priority_make_room() -> None:
    urgent = a_candidate("urgent", workers=2, priority=80)
    busy = a_cluster(nodes=((2, 0),))
    for changes in ({}, {"is_preemptible": True, "priority": 80}, {"is_preemptible": True, "preemptions": 3}):
        assert isinstance(choose(urgent, [running(busy, 2, **changes)], max_preemptions=3), Spare)
    chosen = choose(urgent, [running(busy, 2, is_preemptible=True)], max_preemptions=3)
    assert isinstance(chosen, Preempt)
    assert [victim.experiment_id for victim in chosen.victims] == ["r"]


def test_the_fewest_then_the_youngest_are_stopped() -> None:
    cluster = a_cluster(nodes=((8, 0),))
    for key, workers, age_s in (("old", 4, 900), ("young", 2, 10), ("small", 1, 5), ("tiny", 1, 1)):
        cluster = running(cluster, workers, key=key, age_s=age_s, is_preemptible=True)
    one = choose(a_candidate("x", workers=2, priority=80), [cluster], max_preemptions=3)
    assert isinstance(one, Preempt)
    assert [victim.experiment_id for victim in one.victims] == ["young"]
    two = choose(a_candidate("x", workers=3, priority=80), [cluster], max_preemptions=3)
    assert isinstance(two, Preempt)
    assert [victim.experiment_id for victim in two.victims] == ["old"]


def test_nobody_more_is_stopped_where_enough_stop_already() -> None:
    cluster = running(a_cluster(nodes=((2, 0),)), 1, key="a", is_preemptible=True, is_stopping=True)
    cluster = running(cluster, 1, key="b", is_preemptible=True)
    chosen = choose(a_candidate("x", priority=80), [cluster], max_preemptions=3)
    assert isinstance(chosen, Preempt)
    assert chosen.victims == ()


@given(
    st.integers(1, 8),
    NODES,
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99), st.booleans(), st.integers(0, 4)), max_size=8),
)
def test_preemption_is_bounded_and_no_victim_is_superfluous(
    workers: int, nodes: list[tuple[int, int]], runners: list[tuple[int, int, bool, int]]
) -> None:
    cluster = a_cluster(nodes=tuple(nodes))
    for i, (size, priority, may, times) in enumerate(runners):
        if pack(a_wish(size), [node.room for node in cluster.nodes]) is not None:
            cluster = running(
                cluster, size, key=f"r{i}", priority=priority, is_preemptible=may, preemptions=times, age_s=i
            )
    urgent = a_candidate("urgent", workers=workers, priority=60)
    chosen = choose(urgent, [cluster], max_preemptions=3)
    if isinstance(chosen, Spare):
        return
    assert all(v.is_preemptible and v.priority < 60 and v.preemptions < 3 for v in chosen.victims)
    kept = [one for one in cluster.running if one not in chosen.victims]
    assert pack(urgent.wishes[0], _rooms_with(cluster, kept)) is not None
    for victim in chosen.victims:
        assert pack(urgent.wishes[0], _rooms_with(cluster, [*kept, victim])) is None


def _rooms_with(cluster: ClusterSnapshot, kept: list) -> list[tuple[float, float]]:  # type: ignore[type-arg]
    return [(node.cpus - sum(one.counts[i] for one in kept), node.gpus) for i, node in enumerate(cluster.nodes)]


def test_a_bound_has_room_for_start_and_stop() -> None:
    assert bound_s(a_candidate(bound_s=100)) == 100 + OVERHEAD_S

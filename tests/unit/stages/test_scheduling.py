"""What the queue promises: shares, quotas, backfill that delays nobody, bounded preemption, nobody forgotten."""

import math
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from fairlead.preemption import Preempt, Spare, choose
from fairlead.queueing import Account, Fairness, beyond_quota, decayed, order, rate, use_of
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held, Quota
from fairlead.testing.scheduling import START, a_candidate, a_cluster, a_wish, running


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


def test_an_excluded_node_gets_no_workers() -> None:
    cluster = a_cluster(nodes=((2, 0), (2, 0)))
    cluster = replace(cluster, nodes=(replace(cluster.nodes[0], is_excluded=True), cluster.nodes[1]))
    placed = place(a_candidate(workers=2), [cluster])
    assert isinstance(placed, Placement)
    assert placed.plan == (("local-1", 2),)
    waiting = place(a_candidate(workers=3), [cluster])
    assert isinstance(waiting, Waiting)
    assert "1 more excluded" in waiting.detail


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
    assert "head is ahead" in decided.waiting["long"].detail
    assert [(one.experiment_id, one.in_s) for one in decided.reservations] == [("head", 1000)]


def test_a_long_one_goes_past_where_the_head_will_fit_beside_it() -> None:
    cluster = running(a_cluster(nodes=((4, 0),)), 3, ends_in_s=1000)
    decided = decide([a_candidate("head", workers=3), a_candidate("long", bound_s=9999)], cluster)
    assert [one.id for one, _ in decided.placed] == ["long"]


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


# ---- nobody is forgotten --------------------------------------------------------------------------------------------


def run_dry(candidates: list[Candidate], cluster: ClusterSnapshot, *, rounds: int) -> list[str]:
    """Let everything run to its bound, with ten small newcomers of the highest priority in every round at first."""
    done: list[str] = []
    now, waiting, here = START, list(candidates), cluster
    for number in range(rounds):
        if number < 20:
            waiting += [a_candidate(f"new{number}-{i}", priority=99, bound_s=300, enqueued_at=now) for i in range(2)]
        ordered = order(waiting, now=now, fairness=Fairness(patience_s=2000))
        decided = place_in_order(ordered, [here], launches_per_cluster=None)
        (here,) = with_placed([here], decided)
        begun = {one.id for one, _ in decided.placed}
        waiting = [one for one in waiting if one.id not in begun]
        step_s = min((one.ends_in_s for one in here.running), default=60)
        now += timedelta(seconds=step_s)
        done += [one.experiment_id for one in here.running if one.ends_in_s <= step_s]
        here = _later(here, step_s)
    return done


def _later(cluster: ClusterSnapshot, step_s: float) -> ClusterSnapshot:
    empty = replace(cluster, nodes=tuple(replace(n, used_cpus=0, used_gpus=0) for n in cluster.nodes), running=())
    for one in cluster.running:
        if one.ends_in_s > step_s:
            nodes = tuple(
                replace(
                    node,
                    used_cpus=node.used_cpus + count * one.wish.cpus_per_worker,
                    used_gpus=node.used_gpus + count * one.wish.gpus_per_worker,
                )
                for node, count in zip(empty.nodes, one.counts, strict=True)
            )
            left = replace(one, ends_in_s=one.ends_in_s - step_s)
            empty = replace(empty, nodes=nodes, running=(*empty.running, left))
    return empty


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99), st.sampled_from([60, 6000])), max_size=10))
def test_everyone_that_fits_gets_its_turn_whatever_comes_in_between(found: list[tuple[int, int, int]]) -> None:
    candidates = [
        a_candidate(f"e{i}", workers=workers, priority=priority, bound_s=bound)
        for i, (workers, priority, bound) in enumerate(found)
    ]
    done = run_dry(candidates, a_cluster(nodes=((2, 0), (2, 0))), rounds=120)
    assert {one.id for one in candidates} <= set(done)


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

"""Queueing and placement: whose turn, where, and why not."""

from hypothesis import given
from hypothesis import strategies as st

from fairlead.placement import Placement, Waiting, WaitingReason, place, place_in_order
from fairlead.queueing import order
from fairlead.testing.scheduling import a_candidate, a_cluster, running


def reason_of(decision: Placement | Waiting) -> WaitingReason:
    assert isinstance(decision, Waiting)
    return decision.reason


def where(decision: Placement | Waiting) -> str:
    assert isinstance(decision, Placement)
    return decision.cluster


def test_priority_goes_first_then_the_longer_wait_then_the_id() -> None:
    late, early = a_candidate("late"), a_candidate("early", age_s=10)
    urgent, twin = a_candidate("urgent", priority=90), a_candidate("aaa", age_s=10)
    assert [one.id for one in order([late, early, urgent, twin])] == ["urgent", "aaa", "early", "late"]


def test_each_reason_for_waiting_says_what_is_missing() -> None:
    one = a_candidate(workers=2)
    assert reason_of(place(one, [])) is WaitingReason.NO_CLUSTER
    assert reason_of(place(one, [a_cluster(has_fresh_agent=False)])) is WaitingReason.NO_AGENT
    closed = place(one, [a_cluster(is_active=False, why_closed="draining: wait")])
    assert str(closed) == "cluster_closed: local is draining: wait"
    assert reason_of(place(one, [a_cluster("b", is_active=False), a_cluster(has_fresh_agent=False)])) is (
        WaitingReason.NO_AGENT
    )
    too_large = place(a_candidate(workers=64, gpus=1), [a_cluster()])
    assert reason_of(too_large) is WaitingReason.NO_CLUSTER_FITS
    assert "64 GPUs" in str(too_large)
    assert "2 CPUs and 0 GPUs" in str(too_large)
    assert reason_of(place(one, [running(a_cluster(), 1)])) is WaitingReason.RESOURCES_IN_USE


def test_a_worker_never_spans_nodes() -> None:
    halves = a_cluster(nodes=((1.5, 0), (1.5, 0)))
    assert place(a_candidate(workers=2), [halves]).cluster == "local"
    assert reason_of(place(a_candidate(workers=3), [halves])) is WaitingReason.NO_CLUSTER_FITS


def test_the_cluster_with_most_room_is_chosen() -> None:
    clusters = [
        a_cluster("small"),
        a_cluster("large", nodes=((8, 0),)),
        running(a_cluster("busy", nodes=((16, 0),)), 12),
    ]
    assert place(a_candidate(), clusters).cluster == "large"


def test_one_that_fits_nowhere_blocks_nobody_but_one_that_waits_for_room_does() -> None:
    impossible, large, small = (
        a_candidate("impossible", workers=99),
        a_candidate("large", workers=2),
        a_candidate("small"),
    )
    decided = place_in_order([impossible, large, small], [running(a_cluster(), 1)], launches_per_cluster=2)
    assert decided.placed == ()
    assert decided.waiting["impossible"].reason is WaitingReason.NO_CLUSTER_FITS
    assert decided.waiting["large"].reason is WaitingReason.RESOURCES_IN_USE
    assert decided.waiting["small"].reason is WaitingReason.BEHIND_OTHERS
    assert "others ahead of it" in decided.waiting["small"].detail


def test_launches_at_once_are_bounded() -> None:
    ordered = [a_candidate(f"e{i}") for i in range(4)]
    decided = place_in_order(ordered, [a_cluster(nodes=((8, 0),))], launches_per_cluster=2)
    assert [one.id for one, _ in decided.placed] == ["e0", "e1"]


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), max_size=20),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4)), min_size=1, max_size=4),
)
def test_no_round_gives_out_more_than_there_is(wishes: list[tuple[int, int]], nodes: list[tuple[int, int]]) -> None:
    ordered = [a_candidate(f"e{i}", workers=workers, gpus=gpus) for i, (workers, gpus) in enumerate(wishes)]
    cluster = a_cluster(nodes=tuple(nodes))
    decided = place_in_order(ordered, [cluster], launches_per_cluster=100)
    assert sum(one.wishes[0].cpus for one, _ in decided.placed) <= cluster.free_cpus
    assert sum(one.wishes[0].gpus for one, _ in decided.placed) <= cluster.free_gpus
    assert len(decided.placed) + len(decided.waiting) == len(ordered)


def test_a_cluster_that_did_not_take_it_comes_last_but_is_better_than_none() -> None:
    large, small = a_cluster("large", nodes=((8, 0),)), a_cluster("small")
    assert place(a_candidate(), [large, small]).cluster == "large"
    assert place(a_candidate(), [large, small], avoided=frozenset({"large"})).cluster == "small"
    assert place(a_candidate(), [large], avoided=frozenset({"large"})).cluster == "large"
    avoided = {"a": frozenset({"large"})}
    decided = place_in_order(
        [a_candidate("a"), a_candidate("b")], [large, small], launches_per_cluster=2, avoided=avoided
    )
    assert [placement.cluster for _, placement in decided.placed] == ["small", "large"]

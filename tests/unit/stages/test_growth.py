"""Sweeps that run grow where nobody waits, and give slots back where somebody does; nothing is ever overdrawn."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.growth import Resized, Sizes, resize
from fairlead.placement import ClusterSnapshot, Running, WaitingReason, bound_s, place_in_order, with_placed
from fairlead.queueing import Account, order
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held, Quota
from fairlead.testing.scheduling import a_candidate, a_cluster, a_wish, running, sweep_wishes

LETS_GO_AFTER = 2
"""Rounds after which a runner has given back what it was told to."""


def a_running_sweep(
    cluster: ClusterSnapshot, slots: int, *, workers: int = 1, wanted: int = 100, key: str = "s", **changes: Any
) -> ClusterSnapshot:
    """The cluster with a sweep of so many slots on it."""
    wish = replace(a_wish(slots * workers), trials=slots)
    plain: dict[str, Any] = {"wanted": wanted, "limit": 256, "wish": wish, "key": key}
    return running(cluster, slots * workers, **{**plain, **changes})


def a_sweep(key: str = "b", *, trials: int = 100, workers: int = 1, **changes: Any) -> Candidate:
    return a_candidate(key, wishes=sweep_wishes(trials, workers=workers), **changes)


def sizes_of(waiting: Iterable[Candidate], *clusters: ClusterSnapshot, **accounts: Account) -> Sizes:
    ordered = tuple(waiting)
    decided = place_in_order(ordered, clusters, launches_per_cluster=None, accounts=accounts)
    return resize(ordered, decided, with_placed(clusters, decided), accounts)


def slots(sizes: Sizes) -> dict[str, int]:
    return {one.running.experiment_id: one.wish.trials for one in sizes.resized}


# ---- growing --------------------------------------------------------------------------------------------------------


def test_a_sweep_that_began_with_little_takes_what_is_free() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0), (3, 0))), 2, workers=2)
    (one,) = sizes_of([], cluster).resized
    assert one.is_growth
    assert (one.wish.trials, one.wish.workers) == (3, 6)
    assert dict(one.plan) == {"local-0": 4, "local-1": 2}


def test_it_takes_no_more_than_it_has_trials_for() -> None:
    assert slots(sizes_of([], a_running_sweep(a_cluster(nodes=((8, 0),)), 1, wanted=3))) == {"s": 3}
    assert slots(sizes_of([], a_running_sweep(a_cluster(nodes=((8, 0),)), 2, wanted=2))) == {}
    assert slots(sizes_of([], a_running_sweep(a_cluster(nodes=((8, 0),)), 2, wanted=0))) == {}


def test_it_takes_no_more_than_its_quota_allows_and_is_no_second_experiment() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((8, 0),)), 1)
    account = Account(quota=Quota(cpus=3, experiments=1), held=Held(workers=1, cpus=1, experiments=1))
    assert slots(sizes_of([], cluster, default=account)) == {"s": 3}


def test_of_two_the_smaller_one_grows_first() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((8, 0),)), 3, key="large")
    cluster = a_running_sweep(cluster, 1, key="small")
    assert slots(sizes_of([], cluster)) == {"small": 4, "large": 4}


@pytest.mark.parametrize("changes", [{"is_stopping": True}, {"has_begun": False}, {"is_letting_go": True}])
def test_what_is_on_its_way_in_or_out_does_not_grow(changes: dict[str, Any]) -> None:
    assert slots(sizes_of([], a_running_sweep(a_cluster(nodes=((4, 0),)), 1, **changes))) == {}


def test_it_grows_past_nobody_who_waits_for_room_there() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 1)
    assert slots(sizes_of([a_candidate("head", workers=4, priority=10)], cluster)) == {}
    elsewhere = a_candidate("elsewhere", wishes=(a_wish(8),))
    assert slots(sizes_of([elsewhere], cluster, running(a_cluster("big", nodes=((8, 0),)), 8))) == {"s": 4}


def test_it_leaves_its_quota_to_those_of_its_project_that_wait_for_it() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((8, 0),)), 1)
    account = Account(quota=Quota(cpus=4), held=Held(workers=2, cpus=2, experiments=2))
    assert slots(sizes_of([a_candidate("next", workers=3)], cluster, default=account)) == {}


# ---- giving back ----------------------------------------------------------------------------------------------------


def test_one_slot_is_given_to_a_sweep_that_waits() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4)
    sizes = sizes_of([a_sweep()], cluster)
    assert slots(sizes) == {"s": 3}
    assert sizes.served == {"b": "local"}
    assert not sizes.resized[0].is_growth


def test_nobody_is_asked_for_more_while_room_is_on_its_way() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4, is_letting_go=True)
    sizes = sizes_of([a_sweep()], cluster)
    assert (slots(sizes), sizes.served) == ({}, {"b": "local"})


def test_nobody_gives_so_much_that_he_has_less_than_who_takes() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4)
    assert slots(sizes_of([a_candidate("w", workers=2)], cluster)) == {"s": 2}
    assert slots(sizes_of([a_candidate("w", workers=3)], cluster)) == {}
    assert slots(sizes_of([a_candidate("w", workers=3, priority=60)], cluster)) == {"s": 1}
    assert slots(sizes_of([a_candidate("w", workers=4, priority=60)], cluster)) == {}
    assert slots(sizes_of([a_candidate("w", priority=40)], cluster)) == {}


def test_what_a_sweep_has_no_trials_for_anybody_may_have() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4, wanted=1)
    assert slots(sizes_of([a_candidate("w", workers=3, priority=40)], cluster)) == {"s": 1}


@pytest.mark.parametrize(("theirs", "given_back"), [(0, {"s": 3}), (2, {"s": 3}), (3, {})])
def test_a_project_that_holds_less_may_take_until_both_hold_the_same(theirs: int, given_back: dict[str, int]) -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4)
    mine, other = (Account(held=Held(workers=held, cpus=held, experiments=1)) for held in (4, theirs))
    assert slots(sizes_of([a_candidate("w", project="q")], cluster, default=mine, q=other)) == given_back


def test_a_sweep_that_fills_its_quota_lets_others_of_its_project_begin() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((8, 0),)), 4)
    account = Account(quota=Quota(cpus=4), held=Held(workers=4, cpus=4, experiments=1))
    sizes = sizes_of([a_sweep(), a_sweep("c")], cluster, default=account)
    assert slots(sizes) == {"s": 3}
    assert "quota for experiment b" in sizes.resized[0].reason
    at_once = Account(quota=Quota(experiments=1), held=Held(workers=4, cpus=4, experiments=1))
    assert slots(sizes_of([a_candidate("w", workers=8)], cluster, default=at_once)) == {}


def test_a_sweep_with_much_gives_half_of_the_difference_to_one_with_little() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((8, 0),)), 7, key="rich")
    cluster = a_running_sweep(cluster, 1, key="poor")
    assert slots(sizes_of([], cluster)) == {"rich": 4}
    alike = a_running_sweep(a_running_sweep(a_cluster(nodes=((3, 0),)), 2, key="a"), 1, key="b")
    assert slots(sizes_of([], alike)) == {}


def test_a_sweep_that_may_train_fewer_at_a_time_gives_back_the_rest() -> None:
    cluster = a_running_sweep(a_cluster(nodes=((4, 0),)), 4, limit=2, wanted=2)
    sizes = sizes_of([], cluster)
    assert slots(sizes) == {"s": 2}
    assert sizes.resized[0].reason == "at most 2 trials at a time, as amended"


def test_room_is_given_back_on_the_node_where_it_is_of_use() -> None:
    cluster = a_cluster(nodes=((2, 0), (2, 0)))
    cluster = a_running_sweep(cluster, 3, counts=(2, 1))
    head = a_candidate("w", wishes=(a_wish(1, cpus=2),))
    (one,) = sizes_of([head], cluster).resized
    assert dict(one.plan) == {"local-0": 2}


# ---- round after round ----------------------------------------------------------------------------------------------


@dataclass
class Life:
    """An attempt: what it holds by the books, and what its runner has not let go of yet."""

    one: Candidate
    wish: Wish
    counts: tuple[int, ...]
    ends_in: int
    lingering: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """Rounds left, and workers that are still there."""


@dataclass
class World:
    """One cluster while rounds go by; sweeps never end."""

    cluster: ClusterSnapshot
    waiting: list[Candidate]
    quotas: dict[str, Quota]
    running: dict[str, Life] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    def round(self) -> Sizes:
        here, accounts = self.snapshot(), self.accounts()
        ordered = order(self.waiting, accounts)
        decided = place_in_order(ordered, [here], launches_per_cluster=None, accounts=accounts)
        sizes = resize(ordered, decided, with_placed([here], decided), accounts)
        for one, placement in decided.placed:
            plan, wish = dict(placement.plan), one.wishes[placement.alternative]
            counts = tuple(plan.get(node.node_id, 0) for node in self.cluster.nodes)
            self.running[one.id] = Life(one, wish, counts, 10**9 if wish.trials else int(bound_s(one)))
            self.begun.add(one.id)
        self.waiting = [one for one in self.waiting if one.id not in self.running]
        for resized in sizes.resized:
            self.apply(resized)
        self.check()
        self.advance()
        return sizes

    def apply(self, resized: Resized) -> None:
        life, plan = self.running[resized.running.experiment_id], dict(resized.plan)
        counts = tuple(plan.get(node.node_id, 0) for node in self.cluster.nodes)
        assert sum(counts) == resized.wish.workers
        assert resized.wish.trials >= 1
        gone = tuple(before - after for before, after in zip(life.counts, counts, strict=True))
        if not resized.is_growth:
            life.lingering.append((LETS_GO_AFTER, gone))
        life.counts, life.wish = counts, resized.wish

    def advance(self) -> None:
        for key, life in [*self.running.items()]:
            life.lingering = [(left - 1, counts) for left, counts in life.lingering if left > 1]
            life.ends_in -= 1
            if life.ends_in <= 0:
                del self.running[key]

    def check(self) -> None:
        for node, (cpus, _) in zip(self.cluster.nodes, self.in_use(with_lingering=True), strict=True):
            assert cpus <= node.cpus
        for project, quota in self.quotas.items():
            held = self.held(project)
            assert quota.cpus is None or held.cpus <= quota.cpus
            assert quota.experiments is None or held.experiments <= quota.experiments

    def in_use(self, *, with_lingering: bool) -> list[tuple[float, float]]:
        found = [0.0] * len(self.cluster.nodes)
        for life in self.running.values():
            lingering = [counts for _, counts in life.lingering] if with_lingering else []
            for counts in (life.counts, *lingering):
                found = [cpus + count * life.wish.cpus_per_worker for cpus, count in zip(found, counts, strict=True)]
        return [(cpus, 0.0) for cpus in found]

    def held(self, project: str) -> Held:
        lives = [life for life in self.running.values() if life.one.project == project]
        cpus = sum(life.wish.cpus for life in lives)
        return Held(workers=sum(life.wish.workers for life in lives), cpus=cpus, experiments=len(lives))

    def accounts(self) -> dict[str, Account]:
        names = {one.project for one in self.waiting} | {life.one.project for life in self.running.values()}
        return {name: Account(quota=self.quotas.get(name, Quota()), held=self.held(name)) for name in names}

    def snapshot(self) -> ClusterSnapshot:
        """Rooms as Ray has them: what lingers is in use."""
        used = self.in_use(with_lingering=True)
        nodes = tuple(replace(n, used_cpus=cpus) for n, (cpus, _) in zip(self.cluster.nodes, used, strict=True))
        lives = tuple(
            Running(
                attempt_id=f"{key}-a1",
                experiment_id=key,
                project=life.one.project,
                priority=life.one.priority,
                wish=life.wish,
                counts=life.counts,
                ends_in_s=float(life.ends_in),
                wanted=life.one.wishes[0].trials,
                limit=256,
                is_letting_go=bool(life.lingering),
            )
            for key, life in self.running.items()
        )
        return replace(self.cluster, nodes=nodes, running=lives)


NODES = st.lists(st.integers(1, 6), min_size=1, max_size=3)
SWEEPS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 2), st.integers(0, 2)), min_size=1, max_size=6)
PLAIN = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(1, 20)), max_size=6)


def a_world(nodes: list[int], sweeps: list[Any], plain: list[Any], quotas: dict[str, Quota]) -> World:
    waiting = [
        a_sweep(f"s{i}", trials=trials, workers=workers, project=f"p{project}", age_s=50 - i)
        for i, (trials, workers, project) in enumerate(sweeps)
    ]
    waiting += [
        a_candidate(f"e{i}", workers=workers, project=f"p{project}", bound_s=bound, age_s=20 - i)
        for i, (workers, project, bound) in enumerate(plain)
    ]
    return World(a_cluster(nodes=tuple((cpus, 0) for cpus in nodes)), waiting, quotas)


@given(NODES, SWEEPS, PLAIN, st.integers(1, 8), st.integers(1, 3))
@settings(deadline=None)
def test_growth_overdraws_no_node_and_no_quota(
    nodes: list[int], sweeps: list[Any], plain: list[Any], cpus: int, at_once: int
) -> None:
    """``World.check`` looks after every round, at what runners have not let go of as well."""
    world = a_world(nodes, sweeps, plain, {"p0": Quota(cpus=cpus), "p1": Quota(experiments=at_once)})
    for _ in range(40):
        world.round()


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=8))
@settings(deadline=None)
def test_no_sweep_keeps_another_from_starting_and_none_stays_small(cpus: int, found: list[tuple[int, int]]) -> None:
    """Though none of them ever ends: as many run as there are CPUs, each within its share."""
    world = a_world([cpus], [(trials, 1, project) for trials, project in found], [], {})
    for _ in range(60):
        world.round()
    assert len(world.begun) == min(cpus, len(found))
    assert not world.round().resized
    lives = list(world.running.values())
    assert sum(life.wish.trials for life in lives) == cpus or all(
        life.wish.trials == life.one.wishes[0].trials for life in lives
    )
    hungry = [life.wish.trials for life in lives if life.wish.trials < life.one.wishes[0].trials]
    largest = max(life.wish.trials for life in lives)
    assert all(largest - few <= 1 for few in hungry)


def test_a_small_one_behind_a_sweep_waits_for_a_slot_and_no_longer() -> None:
    world = a_world([4], [(100, 1, 0)], [], {})
    world.round()
    assert world.running["s0"].wish.trials == 4
    world.waiting.append(a_candidate("late", project="p0", bound_s=1))
    assert world.round().served == {"late": "local"}
    for _ in range(LETS_GO_AFTER + 1):
        world.round()
    assert "late" in world.begun
    assert world.running["s0"].wish.trials == 3


def test_reasons_name_one_trial_and_not_every_number_of_them() -> None:
    two = a_sweep(workers=2)
    for cluster, reason, words in (
        (a_cluster(nodes=((1, 0),)), WaitingReason.NO_CLUSTER_FITS, "needs 2 CPUs for 1 trial of 2 workers; local has"),
        (running(a_cluster(), 2), WaitingReason.RESOURCES_IN_USE, "needs 2 CPUs for 1 trial of 2 workers; local has"),
    ):
        waiting = place_in_order([two], [cluster], launches_per_cluster=None).waiting["b"]
        assert waiting.reason is reason
        assert waiting.detail.startswith(words)
        assert " or " not in waiting.detail


@pytest.mark.parametrize(("cpus", "placed"), [(1, 0), (2, 1), (7, 3), (None, 4)])
def test_a_sweep_begins_with_as_many_trials_as_quota_and_room_allow(cpus: float | None, placed: int) -> None:
    account = Account(quota=Quota(cpus=cpus))
    two, cluster = a_sweep(workers=2, trials=1000), a_cluster(nodes=((8, 0),))
    decided = place_in_order([two], [cluster], launches_per_cluster=None, accounts={"default": account})
    if not placed:
        assert decided.waiting["b"].reason is WaitingReason.EXCEEDS_QUOTA
        assert decided.waiting["b"].detail == "needs 2 CPUs; the project may hold 1"
        return
    ((_, placement),) = decided.placed
    assert two.wishes[placement.alternative].trials == placed


def test_room_is_kept_for_the_first_trial_of_a_sweep_that_waits() -> None:
    cluster = running(running(a_cluster(nodes=((4, 0),)), 3, key="long", ends_in_s=5000), 1, ends_in_s=100)
    (kept,) = place_in_order([a_sweep()], [cluster], launches_per_cluster=None).reservations
    assert kept.in_s == 100
    assert sweep_wishes(100)[kept.alternative].trials == 1

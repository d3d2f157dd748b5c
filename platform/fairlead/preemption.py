"""Stage 4: who must make room? Only what may be stopped, for what is more urgent, and never for ever.

It stops attempts whose spec says ``preemptible``, of a priority strictly below the candidate's own, which have been
stopped so fewer than ``max_preemptions`` times. So nobody is stopped for ever, and two never stop each other in turn.
Who is to make room is decided before others go past: a short one that went past now would only be stopped next.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fairlead.placement import (
    ClusterSnapshot,
    Placement,
    Room,
    Round,
    Running,
    pack,
    place_in_order,
    with_placed,
    with_stopping,
)
from fairlead.queueing import Account, beyond_quota, holding
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Preempt:
    """Stop these, and there is room; nobody if those that stop already are enough."""

    candidate: Candidate
    cluster: str
    victims: tuple[Running, ...]

    @property
    def detail(self) -> str:
        """For people."""
        return f"room for priority {self.candidate.priority}, experiment {self.candidate.id}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Spare:
    """Nobody is to be stopped for it."""

    detail: str


def place_or_preempt(
    ordered: Sequence[Candidate],
    clusters: Iterable[ClusterSnapshot],
    *,
    max_preemptions: int,
    launches_per_cluster: int | None,
    accounts: Mapping[str, Account] | None = None,
    avoided: Mapping[str, frozenset[str]] | None = None,
) -> tuple[Round, tuple[Preempt, ...]]:
    """One round, and whom to stop for those to whom it gave a reservation; arguments as of ``place_in_order``."""
    here = tuple(clusters)
    placing = partial(
        place_in_order, ordered, launches_per_cluster=launches_per_cluster, accounts=accounts, avoided=avoided
    )
    decided = placing(here)
    if max_preemptions == 0 or not decided.reservations:
        return decided, ()
    chosen = _for_reservations(decided, ordered, here, accounts or {}, max_preemptions)
    victims = [victim for one in chosen for victim in one.victims]
    # Where some are to stop, room comes much sooner than the first look had it, so that fewer may go past.
    return (placing(with_stopping(here, victims)) if victims else decided), chosen


def _for_reservations(
    decided: Round,
    ordered: Sequence[Candidate],
    clusters: tuple[ClusterSnapshot, ...],
    accounts: Mapping[str, Account],
    max_preemptions: int,
) -> tuple[Preempt, ...]:
    """In order, and each as if nobody behind it had been placed."""
    kept_for = {one.experiment_id: one.cluster for one in decided.reservations}
    placements = {candidate.id: (candidate, placement) for candidate, placement in decided.placed}
    ahead: list[tuple[Candidate, Placement]] = []
    left_alone: set[str] = set()
    found: list[Preempt] = []
    for candidate in ordered:
        if candidate.id in placements:
            ahead.append(placements[candidate.id])
        if candidate.id in kept_for:
            here = with_placed(clusters, replace(decided, placed=tuple(ahead)))
            account = _account_with(accounts.get(candidate.project, Account()), candidate.project, ahead)
            open_to_it = [cluster for cluster in here if cluster.name not in left_alone]
            chosen = choose(_within_quota(candidate, account), open_to_it, max_preemptions=max_preemptions)
            if isinstance(chosen, Preempt):
                found.append(chosen)
            left_alone.add(chosen.cluster if isinstance(chosen, Preempt) else kept_for[candidate.id])
    return tuple(found)


def _account_with(account: Account, project: str, ahead: Iterable[tuple[Candidate, Placement]]) -> Account:
    held = account.held
    for candidate, placement in ahead:
        if candidate.project == project:
            held = holding(held, candidate.wishes[placement.alternative])
    return replace(account, held=held)


def _within_quota(candidate: Candidate, account: Account) -> Candidate:
    """With those of its wishes only that its project may have now."""
    wishes = tuple(wish for wish in candidate.wishes if beyond_quota(wish, account.quota, account.held) is None)
    return replace(candidate, wishes=wishes)


def choose(candidate: Candidate, clusters: Iterable[ClusterSnapshot], *, max_preemptions: int) -> Preempt | Spare:
    """Whom to stop so that ``candidate``, which waits for room, can begin: the fewest, then the youngest."""
    found = [
        Preempt(candidate=candidate, cluster=cluster.name, victims=victims)
        for wish in candidate.wishes
        for cluster in clusters
        if wish.is_least and cluster.is_open and cluster.carries(wish)
        if (victims := _victims(candidate, wish, cluster, max_preemptions)) is not None
    ]
    if not found:
        return Spare(detail=f"nothing preemptible below priority {candidate.priority} would make enough room")
    return min(found, key=lambda one: (len(one.victims), sum(victim.age_s for victim in one.victims), one.cluster))


def _victims(
    candidate: Candidate, wish: Wish, cluster: ClusterSnapshot, max_preemptions: int
) -> tuple[Running, ...] | None:
    stopping = [one for one in cluster.running if one.is_stopping]
    rooms = _without([node.room for node in cluster.nodes], stopping, cluster)
    if pack(wish, rooms) is not None:
        return ()
    willing = [
        one
        for one in cluster.running
        if one.is_preemptible
        and not one.is_stopping
        and one.priority < candidate.priority
        and one.preemptions < max_preemptions
    ]
    willing.sort(key=lambda one: (one.priority, one.age_s))
    for one in sorted(willing, key=lambda one: one.age_s):
        if pack(wish, _without(rooms, [one], cluster)) is not None:
            return (one,)
    return _few(wish, rooms, willing, cluster)


def _few(wish: Wish, rooms: list[Room], willing: list[Running], cluster: ClusterSnapshot) -> tuple[Running, ...] | None:
    """Add the least important until there is room, then spare who turned out not to be needed, the oldest first."""
    chosen: list[Running] = []
    for one in willing:
        chosen.append(one)
        if pack(wish, _without(rooms, chosen, cluster)) is not None:
            break
    else:
        return None
    for one in sorted(chosen, key=lambda one: (-one.priority, -one.age_s)):
        others = [other for other in chosen if other is not one]
        if pack(wish, _without(rooms, others, cluster)) is not None:
            chosen = others
    return tuple(chosen)


def _without(rooms: Sequence[Room], ended: Iterable[Running], cluster: ClusterSnapshot) -> list[Room]:
    left = list(rooms)
    for one in ended:
        for index, count in enumerate(one.counts):
            if count and not cluster.nodes[index].is_excluded:
                cpus, gpus = left[index]
                left[index] = (cpus + count * one.wish.cpus_per_worker, gpus + count * one.wish.gpus_per_worker)
    return left

"""Stage 4: who must make room? Only what may be stopped, for what is more urgent, and never for ever.

It stops attempts whose spec says ``preemptible``, of a priority strictly below the candidate's own, which have been
stopped so fewer than ``max_preemptions`` times. So nobody is stopped for ever, and two never stop each other in turn.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairlead.placement import ClusterSnapshot, Room, Running, pack
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


def choose(candidate: Candidate, clusters: Iterable[ClusterSnapshot], *, max_preemptions: int) -> Preempt | Spare:
    """Whom to stop so that ``candidate``, which waits for room, can begin: the fewest, then the youngest."""
    found = [
        Preempt(candidate=candidate, cluster=cluster.name, victims=victims)
        for wish in candidate.wishes
        for cluster in clusters
        if cluster.is_open and cluster.carries(wish)
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

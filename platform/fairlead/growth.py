"""Sweeps that run may hold more, or have to give room back: a slot more is one more trial at a time.

Three promises. *Nobody is passed*: a sweep grows only where nobody waits for room, or for its project's quota, that it
would take. *Nobody is kept waiting for ever*: what a sweep holds beyond one trial it gives back to others, as long as
it is not left with less than they get. *Nobody stays small*: of several sweeps the one that holds least grows first,
and one that holds much more gives it slots. A trial without its slot is interrupted at a checkpoint and goes on later.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fairlead.placement import ClusterSnapshot, Room, Round, Running, WaitingReason, capacity, pack
from fairlead.queueing import NO_ACCOUNT, Account, beyond_quota, holding, rate
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held

_FOR_ROOM = frozenset(
    {
        WaitingReason.RESOURCES_IN_USE,
        WaitingReason.NODES_EXCLUDED,
        WaitingReason.BEHIND_OTHERS,
        WaitingReason.STARTS_UNDER_WAY,
        WaitingReason.PREEMPTING,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resized:
    """A sweep's attempt is to hold other slots from now on."""

    running: Running
    cluster: str
    wish: Wish
    plan: tuple[tuple[str, int], ...]
    """Workers by node."""
    reason: str

    @property
    def is_growth(self) -> bool:
        """Whether it gets slots."""
        return self.wish.trials > self.running.wish.trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What one round makes of the sweeps that run."""

    resized: tuple[Resized, ...]
    served: Mapping[str, str]
    """Experiments that wait for room which sweeps give back, by cluster: nobody is stopped for them."""


def resize(
    ordered: Sequence[Candidate],
    decided: Round,
    clusters: Iterable[ClusterSnapshot],
    accounts: Mapping[str, Account],
) -> Sizes:
    """Who grows and who gives back, once a round has placed whom it could. ``clusters``: with what it has placed."""
    books = _Books({cluster.name: _Site.of(cluster) for cluster in clusters}, _with_placed(accounts, decided))
    if not any(_elastic(one) for site in books.sites.values() for one in site.running.values()):
        return Sizes(resized=(), served={})
    by_id = {one.id: one for one in ordered}
    served = {
        one.experiment_id: one.cluster
        for one in decided.reservations
        if books.make_room(by_id[one.experiment_id], one.cluster)
    }
    for candidate in _first_for_quota(ordered, decided):
        books.make_quota(candidate)
    waiting = tuple(_for_room(ordered, decided))
    stuck = frozenset(one.project for one in ordered if _reason(decided, one) is WaitingReason.QUOTA_IN_USE)
    for site in books.sites.values():
        books.obey_limits(site)
        if site.cluster.is_open and not any(_could_be_here(one, site.cluster) for one in waiting):
            books.fill(site, stuck)
    return Sizes(resized=tuple(books.resized()), served=served)


def _for_room(ordered: Iterable[Candidate], decided: Round) -> Iterator[Candidate]:
    """Those that wait for room, one for each way of running: thousands ask for the same."""
    known: set[int] = set()
    for one in ordered:
        if _reason(decided, one) in _FOR_ROOM and id(one.wishes) not in known:
            known.add(id(one.wishes))
            yield one


def _elastic(one: Running) -> bool:
    """Whether it is a sweep's, runs, and is not on its way out."""
    return bool(one.attempt_id) and one.wish.trials > 0 and one.has_begun and not one.is_stopping


def _reason(decided: Round, one: Candidate) -> WaitingReason | None:
    found = decided.waiting.get(one.id)
    return None if found is None else found.reason


def _first_for_quota(ordered: Sequence[Candidate], decided: Round) -> Iterator[Candidate]:
    """Of each project the first that waits for its quota."""
    projects = set[str]()
    for one in ordered:
        if _reason(decided, one) is WaitingReason.QUOTA_IN_USE and one.project not in projects:
            projects.add(one.project)
            yield one


def _could_be_here(candidate: Candidate, cluster: ClusterSnapshot) -> bool:
    return any(
        wish.is_least and cluster.carries(wish) and capacity(wish, cluster) >= wish.workers for wish in candidate.wishes
    )


def _with_placed(accounts: Mapping[str, Account], decided: Round) -> dict[str, Account]:
    found = dict(accounts)
    for candidate, placement in decided.placed:
        account = found.get(candidate.project, NO_ACCOUNT)
        held = holding(account.held, candidate.wishes[placement.alternative])
        found[candidate.project] = replace(account, held=held)
    return found


def _of(wish: Wish, trials: int) -> Wish:
    """The wish with other slots."""
    return replace(wish, workers=wish.workers // wish.trials * trials, trials=trials)


def _rate(wish: Wish) -> float:
    return rate(wish.cpus, wish.gpus)


@dataclass(slots=True)
class _Site:
    """A cluster while sizes change. Rooms are those that are free now: what is given back is not among them."""

    cluster: ClusterSnapshot
    rooms: list[Room]
    running: dict[str, Running]
    """By attempt, as it is to be."""

    @classmethod
    def of(cls, cluster: ClusterSnapshot) -> "_Site":
        known = {one.attempt_id: one for one in cluster.running if one.attempt_id}
        return cls(cluster=cluster, rooms=[node.room for node in cluster.nodes], running=known)

    @property
    def elastic(self) -> list[Running]:
        return [one for one in self.running.values() if _elastic(one)]

    @property
    def is_letting_go(self) -> bool:
        """Whether room is on its way: nobody is asked for more before it has come."""
        return any(one.is_letting_go for one in self.running.values())

    def coming(self) -> list[Room]:
        """The rooms once those have ended that stop already."""
        rooms = list(self.rooms)
        for one in self.running.values():
            if one.is_stopping:
                rooms = self.without(rooms, one.wish, one.counts)
        return rooms

    def without(self, rooms: Sequence[Room], wish: Wish, counts: Sequence[int]) -> list[Room]:
        """The rooms with so many workers gone; those on excluded nodes leave none."""
        return [
            room
            if node.is_excluded or not count
            else (room[0] + count * wish.cpus_per_worker, room[1] + count * wish.gpus_per_worker)
            for room, node, count in zip(rooms, self.cluster.nodes, counts, strict=True)
        ]

    def fewer(self, one: Running, rooms: Sequence[Room]) -> tuple[Running, list[Room]]:
        """The attempt with a slot less, whose workers are taken where there is most room, and the rooms then."""
        counts, left = list(one.counts), list(rooms)
        for _ in range(one.wish.workers // one.wish.trials):
            there = [index for index, count in enumerate(counts) if count]
            if not there:
                break
            index = max(there, key=lambda each: (left[each], -each))
            counts[index] -= 1
            left = self.without(left, one.wish, [int(each == index) for each in range(len(counts))])
        return replace(one, wish=_of(one.wish, one.wish.trials - 1), counts=tuple(counts)), left


class _Books:
    """All clusters and accounts while one round changes sizes."""

    def __init__(self, sites: dict[str, _Site], accounts: dict[str, Account]) -> None:
        self.sites = sites
        self.accounts = accounts
        self._before = {key: one for site in sites.values() for key, one in site.running.items()}
        self._reasons: dict[str, str] = {}

    def resized(self) -> Iterator[Resized]:
        """Those that are to hold something else than they do."""
        for site in self.sites.values():
            nodes = [node.node_id for node in site.cluster.nodes]
            for key, one in site.running.items():
                if one.wish.trials != self._before[key].wish.trials:
                    yield Resized(
                        running=self._before[key],
                        cluster=site.cluster.name,
                        wish=one.wish,
                        plan=tuple((node, count) for node, count in zip(nodes, one.counts, strict=True) if count),
                        reason=self._reasons[key],
                    )

    # ---- giving back ----

    def make_room(self, candidate: Candidate, name: str) -> bool:
        """Have slots given back for one that waits for room; whether enough are, or are on their way."""
        site = self.sites[name]
        if site.is_letting_go:
            return True
        for wish in candidate.wishes:
            if wish.is_least and site.cluster.carries(wish):
                rooms = site.coming()
                if pack(wish, rooms) is not None:
                    return False  # who stops already makes room, and is no sweep that gives back
                if self._take(site, candidate, wish, rooms):
                    return True
        return False

    def _take(self, site: _Site, candidate: Candidate, wish: Wish, rooms: list[Room]) -> bool:
        """Slot by slot of who holds most, until it fits; all of that or nothing."""
        changed: dict[str, Running] = {}
        while pack(wish, rooms) is None:
            giving = (changed.get(one.attempt_id, one) for one in site.elastic)
            willing = [one for one in giving if self._may_take(candidate, wish, one)]
            if not willing:
                return False
            giver = max(willing, key=lambda one: (_rate(one.wish), one.attempt_id))
            changed[giver.attempt_id], rooms = site.fewer(giver, rooms)
        self._change(site, changed, f"room for experiment {candidate.id}")
        return True

    def _may_take(self, candidate: Candidate, wish: Wish, giver: Running) -> bool:
        if giver.wish.trials <= 1:
            return False
        if giver.wish.trials > giver.wanted or candidate.priority > giver.priority:
            return True
        left = _of(giver.wish, giver.wish.trials - 1)
        if candidate.priority < giver.priority or _rate(left) < _rate(wish):
            return False
        if candidate.project == giver.project:
            return True
        theirs, mine = (self.accounts.get(name, NO_ACCOUNT) for name in (giver.project, candidate.project))
        given = _rate(self._before[giver.attempt_id].wish) - _rate(left)
        after = rate(theirs.held.cpus, theirs.held.gpus) - given
        return after / theirs.weight >= (rate(mine.held.cpus, mine.held.gpus) + _rate(wish)) / mine.weight

    def make_quota(self, candidate: Candidate) -> None:
        """Have slots of its own project's sweeps given back for one that waits for the project's quota."""
        account = self.accounts.get(candidate.project, NO_ACCOUNT)
        for wish in candidate.wishes:
            if wish.is_least and beyond_quota(wish, account.quota) is None:
                self._take_quota(candidate, wish, account)
                return

    def _take_quota(self, candidate: Candidate, wish: Wish, account: Account) -> None:
        changed: dict[str, tuple[_Site, Running]] = {}
        held = account.held
        while beyond_quota(wish, account.quota, held) is not None:
            giving = (
                changed.get(one.attempt_id, (site, one))
                for site in self.sites.values()
                for one in site.elastic
                if one.project == candidate.project
            )
            willing = [(site, one) for site, one in giving if self._may_take(candidate, wish, one)]
            if not willing:
                return
            site, giver = max(willing, key=lambda one: (_rate(one[1].wish), one[1].attempt_id))
            fewer, _ = site.fewer(giver, site.rooms)
            held = _moved(held, giver.wish, fewer.wish)
            changed[giver.attempt_id] = site, fewer
        for site, one in changed.values():
            self._change(site, {one.attempt_id: one}, f"room in the project's quota for experiment {candidate.id}")

    def obey_limits(self, site: _Site) -> None:
        """Slots beyond what an amendment allows are given back at once."""
        for one in site.elastic:
            fewer = one
            while fewer.wish.trials > max(1, one.limit):
                fewer, _ = site.fewer(fewer, site.rooms)
            if fewer is not one:
                self._change(site, {one.attempt_id: fewer}, f"at most {one.limit} trials at a time, as amended")

    # ---- growing ----

    def fill(self, site: _Site, stuck: frozenset[str]) -> None:
        """Give what is free to those that hold least, or have much given to who holds little."""
        hungry = [one for one in site.elastic if one.wanted > one.wish.trials and not one.is_letting_go]
        hungry = [one for one in hungry if one.project not in stuck]
        heap = [(-one.priority, _rate(one.wish), key) for one in hungry if (key := one.attempt_id)]
        heapq.heapify(heap)
        grown: dict[str, Running] = {}
        while heap:
            priority, _, key = heapq.heappop(heap)
            bigger = self._bigger(site, site.running[key])
            if bigger is None:
                continue  # rooms and quotas only shrink, so that it finds none later
            grown[key] = bigger
            self._change(site, {key: bigger}, "there is room, and nobody waits for it")
            if bigger.wish.trials < bigger.wanted:
                heapq.heappush(heap, (priority, _rate(bigger.wish), key))
        if hungry and not grown and not site.is_letting_go:
            self._balance(site, hungry)

    def _bigger(self, site: _Site, one: Running) -> Running | None:
        """With a slot more, if there is room and quota for it; the room is taken."""
        more = _of(one.wish, 1)
        counts = pack(more, site.rooms)
        if counts is None or self._beyond_quota(one, more):
            return None
        site.rooms = site.without(site.rooms, more, [-count for count in counts])
        both = tuple(before + count for before, count in zip(one.counts, counts, strict=True))
        return replace(one, wish=_of(one.wish, one.wish.trials + 1), counts=both)

    def _beyond_quota(self, one: Running, more: Wish) -> bool:
        account = self.accounts.get(one.project, NO_ACCOUNT)
        quota = replace(account.quota, experiments=None)  # it is one already
        return beyond_quota(more, quota, account.held) is not None

    def _balance(self, site: _Site, hungry: Sequence[Running]) -> None:
        """Have who holds most give half of the difference to who holds least; it grows once the room has come."""
        poor = min(hungry, key=lambda one: (-one.priority, _rate(one.wish), one.attempt_id))
        more = _of(poor.wish, 1)
        able = [one for one in site.elastic if one.wish.trials > 1 and one.priority <= poor.priority]
        rich = max(able, key=lambda one: (_rate(one.wish), one.attempt_id), default=poor)
        difference = _rate(rich.wish) - _rate(poor.wish)
        each = _rate(_of(rich.wish, 1))
        enough = math.ceil((poor.wanted - poor.wish.trials) * _rate(more) / each)
        slots = min(int(difference / 2 / max(_rate(more), each)), enough)
        if slots < 1 or (rich.project != poor.project and self._beyond_quota(poor, more)):
            return
        fewer, rooms = rich, site.coming()
        for _ in range(min(slots, rich.wish.trials - 1)):
            fewer, rooms = site.fewer(fewer, rooms)
        if pack(more, rooms) is not None:
            self._change(site, {rich.attempt_id: fewer}, f"experiment {poor.experiment_id} holds much less")

    def _change(self, site: _Site, changed: Mapping[str, Running], reason: str) -> None:
        for key, one in changed.items():
            before = site.running[key]
            account = self.accounts.get(one.project, NO_ACCOUNT)
            self.accounts[one.project] = replace(account, held=_moved(account.held, before.wish, one.wish))
            is_fewer = one.wish.trials < before.wish.trials
            site.running[key] = replace(one, is_letting_go=one.is_letting_go or is_fewer)
            self._reasons[key] = reason


def _moved(held: Held, before: Wish, after: Wish) -> Held:
    """What is held once an attempt holds something else."""
    return replace(
        held,
        workers=held.workers - before.workers + after.workers,
        cpus=held.cpus - before.cpus + after.cpus,
        gpus=held.gpus - before.gpus + after.gpus,
    )

"""Stage 3: where does all of it fit? All workers of one of its wishes on one cluster, or none.

Two promises. *All or nothing*: the workers are packed over the nodes one by one, and either all find room or none is
offered. *Backfill never delays the head*: who is first to wait for room on a cluster gets a *reservation* there, for
the moment by which enough of what runs has reached its bound (``policy.max_runtime_s``, which ends it). Others go past
it only if they are over by then, by their own bound, or if the head still fits beside them. That is EASY backfill
(Lifka 1995); since every experiment has a bound, none is left out of it. What history says is never counted on.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from fairlead.queueing import NO_ACCOUNT, NO_QUOTA, Account, beyond_quota, holding
from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held

OVERHEAD_S = 180.0
"""What starting and stopping may add to a bound on run time."""
_SLACK = 1e-9


class WaitingReason(StrEnum):
    """Why an experiment is not placed now."""

    NO_CLUSTER = "no_cluster"
    CLUSTER_CLOSED = "cluster_closed"
    NO_AGENT = "no_agent"
    NO_CLUSTER_FITS = "no_cluster_fits"
    NODES_EXCLUDED = "nodes_excluded"
    EXCEEDS_QUOTA = "exceeds_quota"
    QUOTA_IN_USE = "quota_in_use"
    RESOURCES_IN_USE = "resources_in_use"
    BEHIND_OTHERS = "behind_others"
    STARTS_UNDER_WAY = "starts_under_way"
    PREEMPTING = "preempting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One living node: what it has in all, and what nobody holds of it."""

    cpus: float
    gpus: float
    node_id: str = ""
    used_cpus: float = 0
    used_gpus: float = 0
    is_excluded: bool = False
    """One experiment after the other died there, or an admin says so: it gets no workers."""

    @property
    def room(self) -> "Room":
        """What is free; nothing of an excluded node."""
        return (0.0, 0.0) if self.is_excluded else self.unused

    @property
    def unused(self) -> "Room":
        """What nobody holds, were it not excluded."""
        return self.cpus - self.used_cpus, self.gpus - self.used_gpus

    @property
    def size(self) -> "Room":
        """What would be free if nothing ran."""
        return (0.0, 0.0) if self.is_excluded else (self.cpus, self.gpus)


Room = tuple[float, float]
"""CPUs and GPUs that are free on one node."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """An open attempt: what it holds where, and when that is over at the latest."""

    attempt_id: str
    experiment_id: str
    project: str
    priority: int
    wish: Wish
    counts: tuple[int, ...]
    """Workers on each of the cluster's nodes, in their order."""
    ends_in_s: float
    """Its bound, from now."""
    expected_s: float | None = None
    """When it may be over, judged by its like; for estimates only."""
    age_s: float = 0
    is_preemptible: bool = False
    preemptions: int = 0
    is_stopping: bool = False
    has_begun: bool = True
    wanted: int = 0
    """Of a sweep: trials at a time that it could make use of."""
    limit: int = 0
    """Of a sweep: trials at a time that it may train at most."""
    is_letting_go: bool = False
    """It was told a moment ago to hold less, so that room is on its way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSnapshot:
    """A cluster as placement sees it."""

    name: str
    is_active: bool
    has_fresh_agent: bool
    why_closed: str = ""
    """Why it gets no offers, where it is not active."""
    labels: Mapping[str, str] = field(default_factory=dict)
    nodes: tuple[Node, ...]
    running: tuple[Running, ...] = ()
    launches: int = 0
    """Attempts offered or leased that have not begun."""

    @property
    def free_cpus(self) -> float:
        """CPUs that nobody holds."""
        return sum(node.room[0] for node in self.nodes)

    @property
    def free_gpus(self) -> float:
        """GPUs that nobody holds."""
        return sum(node.room[1] for node in self.nodes)

    @property
    def has_excluded(self) -> bool:
        """Whether some of its nodes get no workers."""
        return any(node.is_excluded for node in self.nodes)

    @property
    def is_open(self) -> bool:
        """Whether it may get offers."""
        return self.is_active and self.has_fresh_agent

    def carries(self, wish: Wish) -> bool:
        """Whether it has every label that the wish asks for."""
        return all(self.labels.get(name) == value for name, value in wish.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Now, on this cluster."""

    cluster: str
    alternative: int = 0
    """Which of the candidate's wishes."""
    plan: tuple[tuple[str, int], ...] = ()
    """Workers by node."""
    is_backfill: bool = False
    """It goes past somebody who waits for room."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """Not now; ask again next round."""

    reason: WaitingReason
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


# ---- packing --------------------------------------------------------------------------------------------------------


def pack(wish: Wish, rooms: Sequence[Room]) -> tuple[int, ...] | None:
    """Workers for each node so that all find room, or None. A worker never spans nodes; few nodes are taken, full ones.

    All workers are alike, so that this finds a way wherever there is one.
    """
    fits = _fits(wish, rooms)
    if sum(fits) < wish.workers:
        return None
    alone = [(count, index) for index, count in enumerate(fits) if count >= wish.workers]
    counts = [0] * len(rooms)
    if alone:
        counts[min(alone)[1]] = wish.workers
        return tuple(counts)
    left = wish.workers
    for count, index in sorted(((count, index) for index, count in enumerate(fits)), key=lambda one: (-one[0], one[1])):
        counts[index] = min(count, left)
        left -= counts[index]
    return tuple(counts)


def capacity(wish: Wish, cluster: ClusterSnapshot) -> int:
    """How many such workers the empty cluster could hold."""
    return sum(_fits(wish, [node.size for node in cluster.nodes]))


def _fits(wish: Wish, rooms: Sequence[Room]) -> list[int]:
    """How many of its workers each room could hold. Most of a round is spent here, so it is one loop."""
    cpus, gpus = wish.cpus_per_worker, wish.gpus_per_worker
    if gpus:
        return [max(0, min(int(room[0] / cpus + _SLACK), int(room[1] / gpus + _SLACK))) for room in rooms]
    return [max(0, int(room[0] / cpus + _SLACK)) for room in rooms]


def _taken(rooms: Sequence[Room], wish: Wish, counts: Iterable[int]) -> list[Room]:
    """The rooms with these workers in them."""
    return [_freed(room, wish, -count) if count else room for room, count in zip(rooms, counts, strict=True)]


def _freed(room: Room, wish: Wish, count: int) -> Room:
    return room[0] + count * wish.cpus_per_worker, room[1] + count * wish.gpus_per_worker


def bound_s(candidate: Candidate) -> float:
    """After this time it is over at the latest."""
    return candidate.runtime_left_s + OVERHEAD_S


# ---- one cluster during one round -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """What is kept for who was first to wait for room on a cluster."""

    experiment_id: str
    cluster: str
    alternative: int
    in_s: float
    """By then it has room at the latest."""


@dataclass(slots=True)
class Board:
    """A cluster while a round fills it. Rooms change, the snapshot does not."""

    snapshot: ClusterSnapshot
    rooms: list[Room]
    launches: int
    reservation: Reservation | None = None
    reserved: Wish | None = None
    rooms_then: list[Room] = field(default_factory=list)
    """At the time of the reservation, with what has begun since and outlasts it."""

    @classmethod
    def of(cls, snapshot: ClusterSnapshot) -> "Board":
        """The cluster as it is now."""
        return cls(snapshot=snapshot, rooms=[node.room for node in snapshot.nodes], launches=snapshot.launches)

    def holds(self, wish: Wish) -> bool:
        """Whether the empty cluster could."""
        return self.snapshot.carries(wish) and capacity(wish, self.snapshot) >= wish.workers

    def would_hold(self, wish: Wish) -> bool:
        """Whether the empty cluster could, were none of its nodes excluded."""
        sizes = [(node.cpus, node.gpus) for node in self.snapshot.nodes]
        return self.snapshot.has_excluded and self.snapshot.carries(wish) and pack(wish, sizes) is not None

    def would_fit(self, wish: Wish) -> bool:
        """Whether it would have room for it now, were none of its nodes excluded."""
        if not self.snapshot.has_excluded or not self.snapshot.carries(wish):
            return False
        nodes = zip(self.snapshot.nodes, self.rooms, strict=True)
        return pack(wish, [node.unused if node.is_excluded else room for node, room in nodes]) is not None

    def fit(self, candidate: Candidate, wish: Wish) -> tuple[int, ...] | None:
        """Where it fits now without delaying the reservation; None where it does not."""
        counts = pack(wish, self.rooms)
        if counts is None or self.reserved is None or self.reservation is None:
            return counts
        if bound_s(candidate) <= self.reservation.in_s:
            return counts
        return counts if pack(self.reserved, _taken(self.rooms_then, wish, counts)) is not None else None

    def rank(self, avoided: frozenset[str], index: int) -> tuple[bool, int, float, float, str]:
        """Higher is better: not avoided, the preferred wish, most room."""
        gpus, cpus = sum(room[1] for room in self.rooms), sum(room[0] for room in self.rooms)
        return self.snapshot.name not in avoided, -index, gpus, cpus, self.snapshot.name

    def take(self, candidate: Candidate, wish: Wish, counts: tuple[int, ...]) -> None:
        """It begins here."""
        self.rooms = _taken(self.rooms, wish, counts)
        self.launches += 1
        if self.reservation is not None and bound_s(candidate) > self.reservation.in_s:
            self.rooms_then = _taken(self.rooms_then, wish, counts)

    def earliest_s(self, wish: Wish, begun: Iterable[Running]) -> tuple[float, list[Room]] | None:
        """When it has room here at the latest, and the rooms then; None if never while nodes are as they are."""
        rooms = list(self.rooms)
        fits = _fits(wish, rooms)
        total = sum(fits)
        if total >= wish.workers:
            return 0.0, rooms
        for running in sorted((*self.snapshot.running, *begun), key=lambda one: one.ends_in_s):
            for index, count in enumerate(running.counts):
                if count and not self.snapshot.nodes[index].is_excluded:
                    rooms[index] = _freed(rooms[index], running.wish, count)
                    total -= fits[index]
                    (fits[index],) = _fits(wish, rooms[index : index + 1])
                    total += fits[index]
            if total >= wish.workers:
                return running.ends_in_s, rooms
        return None


# ---- one round ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one round decided: placements in order, why the others wait, and for whom room is kept."""

    placed: tuple[tuple[Candidate, Placement], ...]
    waiting: Mapping[str, Waiting]
    reservations: tuple[Reservation, ...] = ()


def place(
    candidate: Candidate,
    clusters: Iterable[ClusterSnapshot],
    *,
    account: Account | None = None,
    avoided: frozenset[str] = frozenset(),
) -> Placement | Waiting:
    """Where it would go if it were alone in the queue, or what is missing. ``avoided``: clusters that come last."""
    decided = place_in_order(
        [candidate],
        clusters,
        accounts={} if account is None else {candidate.project: account},
        launches_per_cluster=None,
        avoided={candidate.id: avoided},
    )
    return decided.placed[0][1] if decided.placed else decided.waiting[candidate.id]


def place_in_order(
    ordered: Iterable[Candidate],
    clusters: Iterable[ClusterSnapshot],
    *,
    launches_per_cluster: int | None,
    accounts: Mapping[str, Account] | None = None,
    avoided: Mapping[str, frozenset[str]] | None = None,
    may_backfill: bool = True,
) -> Round:
    """Place as many as fit, in order, each whole or not at all, within its project's quota.

    The first to wait for room on a cluster gets a reservation there, which no later one delays. Who waits for quota, or
    fits nowhere, keeps nothing from anybody. ``avoided``: by experiment, clusters that have not taken it before.
    ``may_backfill``: without, who waits for room blocks everybody behind; to compare with.
    """
    boards = [Board.of(cluster) for cluster in clusters]
    now = _Now(boards, dict(accounts or {}), launches_per_cluster, avoided or {}, may_backfill)
    for candidate in ordered:
        now.consider(candidate)
    reservations = tuple(board.reservation for board in boards if board.reservation is not None)
    return Round(placed=tuple(now.placed), waiting=now.waiting, reservations=reservations)


Unit = tuple[float, float]
"""What one worker holds."""


def _once(known: dict[tuple[str, Unit], int], board: Board, wish: Wish, count: Callable[[Board, Wish], int]) -> int:
    """How many workers like these there are on a cluster, counted for the first who asks."""
    key = board.snapshot.name, (wish.cpus_per_worker, wish.gpus_per_worker)
    if key not in known:
        known[key] = count(board, wish)
    return known[key]


def _in_all(board: Board, wish: Wish) -> int:
    return capacity(wish, board.snapshot)


def _free(board: Board, wish: Wish) -> int:
    return sum(_fits(wish, board.rooms))


class _Now:
    """One round while it goes on. Rooms only shrink, so a shape that found none finds none later in the round."""

    def __init__(
        self,
        boards: list[Board],
        accounts: dict[str, Account],
        launches: int | None,
        avoided: Mapping[str, frozenset[str]],
        may_backfill: bool,
    ) -> None:
        self.boards = boards
        self.accounts = accounts
        self.launches = math.inf if launches is None else launches
        self.avoided = avoided
        self.may_backfill = may_backfill
        self.placed: list[tuple[Candidate, Placement]] = []
        self.waiting: dict[str, Waiting] = {}
        self.begun: dict[str, list[Running]] = {}
        self._open = [board for board in boards if board.snapshot.is_open]
        self._closed = _why_none_is_open(boards)
        self._shapes: dict[tuple[Wish, ...], int] = {}
        self._shape_of: dict[int, tuple[int, tuple[Wish, ...]]] = {}
        self._held: dict[int, list[tuple[int, Board]]] = {}
        self._nowhere: dict[int, Waiting] = {}
        self._failed: dict[tuple[int, tuple[int, ...]], tuple[float, Waiting]] = {}
        self._quota: dict[tuple[str, int], tuple[Held, Waiting | None, tuple[int, ...]]] = {}
        self._known: dict[tuple[str, int], tuple[Account, float, Waiting]] = {}
        self._has_waiter = False

    def consider(self, candidate: Candidate) -> None:
        """Give it a place, or the reason why not."""
        account = self.accounts.get(candidate.project, NO_ACCOUNT)
        known = self._known.get((candidate.project, id(candidate.wishes)))
        if known is not None and known[0] is account and bound_s(candidate) >= known[1]:
            self.waiting[candidate.id] = known[2]
            return
        decision = self._closed or self._decide(candidate, account)
        if isinstance(decision, Waiting):
            self.waiting[candidate.id] = decision
        else:
            self.placed.append((candidate, decision))

    def _decide(self, candidate: Candidate, account: Account) -> Placement | Waiting:
        shape = self._shape(candidate.wishes)
        holders = self._holders(shape, candidate.wishes)
        if not holders:
            return self._fits_nowhere(shape, candidate.wishes)
        beyond, within = self._within_quota(candidate, shape, account)
        if beyond is not None:
            return self._know(candidate, account, 0.0, beyond)
        failed = self._failed.get((shape, within))
        if failed is not None and bound_s(candidate) >= failed[0]:
            return self._know(candidate, account, *failed)
        mine = [(index, board) for index, board in holders if index in within]
        decision = self._try(candidate, mine, account)
        if isinstance(decision, Waiting) and self._is_telling(decision, candidate, mine):
            # Where several bounds failed the smallest is remembered: a smaller one may still go past.
            in_use = decision.reason in _IN_USE
            self._failed[shape, within] = bound_s(candidate), _BEHIND if in_use else decision
        return decision

    def _know(self, candidate: Candidate, account: Account, bound: float, waiting: Waiting) -> Waiting:
        """The next of its project that asks for the same, and may take as long, is told the same without a look."""
        self._known[candidate.project, id(candidate.wishes)] = account, bound, waiting
        return waiting

    def _is_telling(self, decision: Waiting, candidate: Candidate, mine: list[tuple[int, Board]]) -> bool:
        """Whether all later ones of this shape will fare the same."""
        if candidate.id in self.avoided:
            return False
        is_full = decision.reason is not WaitingReason.STARTS_UNDER_WAY
        return not (is_full and any(board.reservation is None for _, board in mine))

    def _shape(self, wishes: tuple[Wish, ...]) -> int:
        """The same number for equal wishes. Most are the same object, which spares comparing ten thousand of them."""
        found = self._shape_of.get(id(wishes))
        if found is None:
            number = self._shapes.setdefault(wishes, len(self._shapes))
            found = self._shape_of[id(wishes)] = number, wishes  # kept, so that nothing else gets its id
        return found[0]

    def _holders(self, shape: int, wishes: tuple[Wish, ...]) -> list[tuple[int, Board]]:
        if shape not in self._held:
            # What a sweep wants for more trials is more of the same, so that its wishes are counted together.
            known: dict[tuple[str, Unit], int] = {}
            self._held[shape] = [
                (i, b)
                for i, wish in enumerate(wishes)
                for b in self._open
                if b.snapshot.carries(wish) and wish.workers <= _once(known, b, wish, _in_all)
            ]
        return self._held[shape]

    def _within_quota(
        self, candidate: Candidate, shape: int, account: Account
    ) -> tuple[Waiting | None, tuple[int, ...]]:
        """Why none of its wishes may begin, or the numbers of those that may."""
        key = candidate.project, shape
        known = self._quota.get(key)
        if known is None or known[0] is not account.held:
            beyond, within = _judge_quota(candidate.wishes, account)
            self._quota[key] = known = account.held, beyond, within
        return known[1], known[2]

    def _try(self, candidate: Candidate, holders: list[tuple[int, Board]], account: Account) -> Placement | Waiting:
        if not self.may_backfill and self._has_waiter:
            return _BEHIND
        avoided = self.avoided.get(candidate.id, frozenset())
        free: dict[tuple[str, Unit], int] = {}
        fitting = [
            (index, board, counts)
            for index, board in holders
            if candidate.makes_use_of(candidate.wishes[index])
            if candidate.wishes[index].workers <= _once(free, board, candidate.wishes[index], _free)
            if (counts := board.fit(candidate, candidate.wishes[index])) is not None
        ]
        startable = [one for one in fitting if one[1].launches < self.launches]
        if startable:
            index, board, counts = max(startable, key=lambda one: one[1].rank(avoided, one[0]))
            return self._take(candidate, board, index, counts, account)
        if fitting:
            names = ", ".join(sorted({board.snapshot.name for _, board, _ in fitting}))
            detail = f"{self.launches:g} attempts are being started on {names}; the next goes after one"
            return Waiting(reason=WaitingReason.STARTS_UNDER_WAY, detail=detail)
        return self._blocked(candidate, holders)

    def _take(
        self, candidate: Candidate, board: Board, index: int, counts: tuple[int, ...], account: Account
    ) -> Placement:
        wish, nodes = candidate.wishes[index], board.snapshot.nodes
        board.take(candidate, wish, counts)
        self.accounts[candidate.project] = replace(account, held=holding(account.held, wish))
        self.begun.setdefault(board.snapshot.name, []).append(_running(candidate, wish, counts))
        return Placement(
            cluster=board.snapshot.name,
            alternative=index,
            plan=tuple((node.node_id, count) for node, count in zip(nodes, counts, strict=True) if count),
            is_backfill=self._has_waiter,
        )

    def _blocked(self, candidate: Candidate, holders: list[tuple[int, Board]]) -> Waiting:
        """It waits for room: the first to do so on a cluster has it kept. A sweep, for one trial: it may grow later."""
        holders = [(index, board) for index, board in holders if candidate.wishes[index].is_least]
        kept = self._reserve(candidate, [(i, board) for i, board in holders if board.reservation is None])
        if not kept and self._has_waiter:
            return _BEHIND
        self._has_waiter = True
        for index in sorted({index for index, _ in holders}):  # clusters that could not hold it otherwise included
            wish = candidate.wishes[index]
            if (found := next((board for board in self._open if board.would_fit(wish)), None)) is not None:
                return _only_excluded(wish, found)
        return _in_use(candidate.wishes, holders)

    def _reserve(self, candidate: Candidate, holders: list[tuple[int, Board]]) -> bool:
        found = [
            (earliest[0], index, board, earliest[1])
            for index, board in holders
            if (earliest := board.earliest_s(candidate.wishes[index], self.begun.get(board.snapshot.name, ())))
        ]
        if not found:
            return False
        in_s, index, board, rooms = min(found, key=lambda one: (one[0], one[1], one[2].snapshot.name))
        name = board.snapshot.name
        board.reservation = Reservation(experiment_id=candidate.id, cluster=name, alternative=index, in_s=in_s)
        board.reserved, board.rooms_then = candidate.wishes[index], rooms
        return True

    def _fits_nowhere(self, shape: int, wishes: tuple[Wish, ...]) -> Waiting:
        """No open cluster could hold it even if nothing ran there; whether a closed one could is another matter."""
        if shape not in self._nowhere:
            self._nowhere[shape] = self._why_nowhere(wishes)
        return self._nowhere[shape]

    def _why_nowhere(self, wishes: tuple[Wish, ...]) -> Waiting:
        wishes = tuple(wish for wish in wishes if wish.is_least)
        asked = " or ".join(_needs(wish) for wish in wishes)
        closed = [board for board in self.boards if not board.snapshot.is_open]
        if could := [board.snapshot for board in closed if any(board.holds(wish) for wish in wishes)]:
            why = _why_closed(could)
            return replace(why, detail=f"{asked}, which no open cluster has: {why.detail}")
        have = "; ".join(_has(board.snapshot, wishes) for board in self._open)
        if names := [board.snapshot.name for board in self._open if any(map(board.would_hold, wishes))]:
            told = f"{asked}; {have}; it would fit on {names[0]} if the excluded nodes were taken in again"
            return Waiting(reason=WaitingReason.NODES_EXCLUDED, detail=told)
        return Waiting(reason=WaitingReason.NO_CLUSTER_FITS, detail=f"{asked}; {have}")


def with_placed(clusters: Iterable[ClusterSnapshot], decided: Round) -> tuple[ClusterSnapshot, ...]:
    """The clusters once what a round has placed holds its room there."""
    here = {cluster.name: cluster for cluster in clusters}
    for candidate, placement in decided.placed:
        wish, plan = candidate.wishes[placement.alternative], dict(placement.plan)
        cluster = here[placement.cluster]
        counts = tuple(plan.get(node.node_id, 0) for node in cluster.nodes)
        nodes = tuple(
            replace(
                node,
                used_cpus=node.used_cpus + count * wish.cpus_per_worker,
                used_gpus=node.used_gpus + count * wish.gpus_per_worker,
            )
            for node, count in zip(cluster.nodes, counts, strict=True)
        )
        running = (*cluster.running, _running(candidate, wish, counts))
        here[cluster.name] = replace(cluster, nodes=nodes, running=running)
    return tuple(here.values())


def with_stopping(clusters: Iterable[ClusterSnapshot], victims: Iterable[Running]) -> tuple[ClusterSnapshot, ...]:
    """The clusters once these have been asked to stop."""
    ids = {one.attempt_id for one in victims}
    return tuple(
        replace(
            cluster,
            running=tuple(
                replace(one, is_stopping=True, ends_in_s=min(one.ends_in_s, OVERHEAD_S))
                if one.attempt_id in ids
                else one
                for one in cluster.running
            ),
        )
        for cluster in clusters
    )


def _running(candidate: Candidate, wish: Wish, counts: tuple[int, ...]) -> Running:
    return Running(
        attempt_id="",
        experiment_id=candidate.id,
        project=candidate.project,
        priority=candidate.priority,
        wish=wish,
        counts=counts,
        ends_in_s=bound_s(candidate),
        expected_s=candidate.expected_s,
    )


def _judge_quota(wishes: tuple[Wish, ...], account: Account) -> tuple[Waiting | None, tuple[int, ...]]:
    """A sweep may begin where its project may have one trial."""
    if account.quota == NO_QUOTA:
        return None, tuple(range(len(wishes)))
    least = [wish for wish in wishes if wish.is_least]
    ever = [beyond_quota(wish, account.quota) for wish in least]
    if all(ever):
        return Waiting(reason=WaitingReason.EXCEEDS_QUOTA, detail=str(ever[0])), ()
    now = [beyond_quota(wish, account.quota, account.held) for wish in least]
    if all(now):
        return Waiting(reason=WaitingReason.QUOTA_IN_USE, detail=str(now[ever.index(None)])), ()
    may = (beyond_quota(wish, account.quota, account.held) is None for wish in wishes)
    return None, tuple(index for index, is_within in enumerate(may) if is_within)


def _why_none_is_open(boards: list[Board]) -> Waiting | None:
    known = [board.snapshot for board in boards]
    if not known:
        return Waiting(reason=WaitingReason.NO_CLUSTER, detail="no cluster has ever attached; start an agent")
    return None if any(cluster.is_open for cluster in known) else _why_closed(known)


def _why_closed(closed: Sequence[ClusterSnapshot]) -> Waiting:
    """Why none of these gets offers."""
    if active := [cluster.name for cluster in closed if cluster.is_active]:
        detail = f"no agent answers for {', '.join(active)}; is it running?"
        return Waiting(reason=WaitingReason.NO_AGENT, detail=detail)
    said = "; ".join(f"{one.name} is {one.why_closed or 'not active'}" for one in closed)
    return Waiting(reason=WaitingReason.CLUSTER_CLOSED, detail=said)


# It names nobody: else ten thousand rows would be written anew whenever the first in the queue is another one.
_BEHIND = Waiting(
    reason=WaitingReason.BEHIND_OTHERS,
    detail="others ahead of it wait for room; going past them would delay them",
)


_IN_USE = frozenset({WaitingReason.RESOURCES_IN_USE, WaitingReason.NODES_EXCLUDED})
"""It waits for room, so that those behind it may have to wait for it."""


def _needs(wish: Wish) -> str:
    gpus = f" and {wish.gpus:g} GPUs" if wish.gpus else ""
    labels = "".join(f" with {name}={value}" for name, value in wish.labels)
    return f"needs {wish.cpus:g} CPUs{gpus} for {_whom(wish)}{labels}"


def _whom(wish: Wish) -> str:
    if not wish.trials:
        return f"{wish.workers} workers"
    each = wish.workers // wish.trials
    of = f" of {each} workers" if each > 1 else ""
    return f"{wish.trials} trial{'s' if wish.trials != 1 else ''}{of}"


def _has(one: ClusterSnapshot, wishes: Sequence[Wish]) -> str:
    nodes = [node for node in one.nodes if not node.is_excluded]
    excluded = f", {len(one.nodes) - len(nodes)} more excluded" if len(nodes) < len(one.nodes) else ""
    labels = f" with {', '.join(f'{name}={value}' for name, value in one.labels.items())}" if one.labels else ""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    # In sum there is enough, which nobody would understand without a word on the nodes.
    split = [wish for wish in wishes if one.carries(wish) and wish.cpus <= cpus and wish.gpus <= gpus]
    rooms = [sum(_fits(wish, [node.size for node in nodes])) for wish in split[:1]]
    room = "".join(f", room for {count} of {split[0].workers} workers" for count in rooms)
    on = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}{excluded}{labels}{room}"
    return f"{one.name} has {cpus:g} CPUs and {gpus:g} GPUs on {on}"


def _in_use(wishes: Sequence[Wish], holders: Sequence[tuple[int, Board]]) -> Waiting:
    """What the freest of its clusters is short of, for the first of its wishes that this one could hold."""

    def free(board: Board) -> Room:
        return sum(room[1] for room in board.rooms), sum(room[0] for room in board.rooms)

    index, freest = max(holders, key=lambda one: (*free(one[1]), -one[0]))
    return Waiting(reason=WaitingReason.RESOURCES_IN_USE, detail=_free_now(wishes[index], freest))


def _only_excluded(wish: Wish, board: Board) -> Waiting:
    detail = f"{_free_now(wish, board)}; it would fit if the excluded nodes were taken in again"
    return Waiting(reason=WaitingReason.NODES_EXCLUDED, detail=detail)


def _free_now(wish: Wish, board: Board) -> str:
    cpus, gpus = (sum(room[i] for room in board.rooms) for i in (0, 1))
    total = sum(_fits(wish, board.rooms))
    spread = f", room for {total} of {wish.workers} workers" if total else ""
    has_gpus = f" and {gpus:g} GPUs" if wish.gpus else ""
    return f"{_needs(wish)}; {board.snapshot.name} has {cpus:g} CPUs{has_gpus} free now{spread}"

"""Stage 2: whose turn is it? Priority, then the share of each project, then the place in the queue; and the quota.

*Use* is what a project's attempts have held, in seconds of one CPU, a GPU counting as ``GPU_WEIGHT`` CPUs, halved with
every half-life that has passed since. A project's *share* is its use over its weight: the smallest one goes first.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from operator import itemgetter

from fairlead.spec import Wish
from fairlead.store.experiments import Candidate
from fairlead.store.projects import Held, Quota

GPU_WEIGHT = 16.0
"""CPUs that one GPU counts as: about what stands beside one in a training machine."""
NO_USE = 0.0
NO_QUOTA = Quota()
NOTHING = Held()


def rate(cpus: float, gpus: float) -> float:
    """What holding these for a second adds to use."""
    return cpus + GPU_WEIGHT * gpus


def decayed(used: float, *, for_s: float, half_life_s: float) -> float:
    """What is left of ``used`` after ``for_s`` seconds."""
    return used * _left(for_s / half_life_s)


def use_of(rate_per_s: float, *, began_s: float, ended_s: float, half_life_s: float) -> float:
    """Decayed use of an attempt that held something from ``began_s`` to ``ended_s`` seconds before now.

    The integral of ``rate_per_s * 0.5 ** (age / half_life_s)`` over the ages between; both at least 0.
    """
    if began_s <= ended_s:
        return NO_USE
    scale = rate_per_s * half_life_s / math.log(2)
    return scale * (_left(ended_s / half_life_s) - _left(began_s / half_life_s))


def _left(half_lives: float) -> float:
    return math.exp2(-max(0.0, half_lives))


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """A project as the queue sees it."""

    weight: float = 1.0
    used: float = NO_USE
    """Decayed use up to now, attempts that still run included."""
    quota: Quota = NO_QUOTA
    held: Held = NOTHING

    @property
    def share(self) -> float:
        """Use over weight; small goes first."""
        return self.used / self.weight


NO_ACCOUNT = Account()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fairness:
    """How the queue weighs; from the settings."""

    half_life_s: float = 86_400.0
    patience_s: float = 259_200.0
    """Who has waited longer counts as of the highest priority that waits: low priority is no sentence for life."""

    def is_patient(self, enqueued_at: datetime, *, ran_s: float, now: datetime) -> bool:
        """Whether it has waited that long. ``ran_s``: what it has run since ``enqueued_at``, which is no waiting."""
        return (now - enqueued_at).total_seconds() - ran_s > self.patience_s


USUAL = Fairness()


@dataclass(slots=True)
class _Lane:
    """What one project has waiting on one level of priority, oldest first."""

    waiting: list[Candidate] = field(default_factory=list)
    next: int = 0


def order(
    candidates: Iterable[Candidate],
    accounts: Mapping[str, Account] | None = None,
    *,
    now: datetime | None = None,
    fairness: Fairness = USUAL,
) -> tuple[Candidate, ...]:
    """All that wait, in the order in which they may go.

    Higher priority first. Among equals the project with the smallest share, where each one that is given a place counts
    at once with what it may come to hold, so that projects alternate. In a project the longer wait, then the id.
    """
    known, found = tuple(candidates), accounts or {}
    if not known:
        return ()
    level = _Level(now, fairness, max(one.priority for one in known))
    ordered = sorted((-level(one), one.enqueued_at, one.id, one) for one in known)
    shares = {name: account.share for name, account in found.items()}
    weights = {name: account.weight for name, account in found.items()}
    return tuple(
        one
        for _, equals in groupby(ordered, key=itemgetter(0))
        for one in _alternating([each[-1] for each in equals], shares, weights, fairness.half_life_s)
    )


@dataclass(frozen=True, slots=True)
class _Level:
    now: datetime | None
    fairness: Fairness
    highest: int

    def __call__(self, one: Candidate) -> int:
        if self.now is not None and self.fairness.is_patient(one.enqueued_at, ran_s=one.ran_s, now=self.now):
            return self.highest
        return one.priority


def _alternating(
    equals: list[Candidate], shares: dict[str, float], weights: Mapping[str, float], half_life_s: float
) -> Iterable[Candidate]:
    """Of the project with the smallest share its oldest, and again. ``shares`` grow with what is given out."""
    lanes: dict[str, _Lane] = {}
    for one in equals:
        lanes.setdefault(one.project, _Lane()).waiting.append(one)
    heap = [(shares.get(name, NO_USE), lane.waiting[0].enqueued_at, name) for name, lane in lanes.items()]
    heapq.heapify(heap)
    while heap:
        share, _, name = heapq.heappop(heap)
        lane = lanes[name]
        chosen = lane.waiting[lane.next]
        yield chosen
        wish = chosen.wishes[0]
        held_s = min(chosen.runtime_left_s if chosen.expected_s is None else chosen.expected_s, half_life_s)
        shares[name] = share + rate(wish.cpus, wish.gpus) * held_s / weights.get(name, 1.0)
        lane.next += 1
        if lane.next < len(lane.waiting):
            heapq.heappush(heap, (shares[name], lane.waiting[lane.next].enqueued_at, name))


# ---- quota ----------------------------------------------------------------------------------------------------------


def beyond_quota(wish: Wish, quota: Quota, held: Held = NOTHING) -> str | None:
    """Which quota would be exceeded if this began beside what is ``held``, in numbers; None if none would."""
    asked = (
        ("workers", wish.workers, held.workers, quota.workers),
        ("CPUs", wish.cpus, held.cpus, quota.cpus),
        ("GPUs", wish.gpus, held.gpus, quota.gpus),
        ("experiments at once", 1, held.experiments, quota.experiments),
    )
    for what, needed, in_use, limit in asked:
        if limit is not None and in_use + needed > limit + 1e-9:
            beside = f", {in_use:g} of which are in use" if in_use else ""
            return f"needs {needed:g} {what}; the project may hold {limit:g}{beside}"
    return None


def holding(held: Held, wish: Wish) -> Held:
    """What is held once this has begun as well."""
    return Held(
        workers=held.workers + wish.workers,
        cpus=held.cpus + wish.cpus,
        gpus=held.gpus + wish.gpus,
        experiments=held.experiments + 1,
    )

"""Whether a trial is worth going on with, by what others had reported at the same step, and what may take its place.

Asynchronous: a trial is judged by those that came before it and never waits for others. Pure but for what it remembers,
and that is what was reported: a sweep that goes on elsewhere reports it once more, trial after trial, and passes over
the verdicts meanwhile; who still runs is judged again when it comes to the next place.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fairlead.search.chance import changed
from fairlead.search.space import Point
from fairlead.spec.search import AshaSpec, MedianSpec, PbtSpec, SearchSpec

CONTINUATIONS_A_TRIAL = 5
"""Where the spec does not say how many there may be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoOn:
    """Nothing speaks against it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Continuation:
    """A trial to begin in the place of one that was stopped. It counts among none that were asked for."""

    parent: int
    """The trial from whose newest checkpoint it begins."""
    point: Point


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """It is not worth its time any more."""

    reason: str
    """``pruned_at_9: it is 14th of 20, and the best 6 go on``."""
    is_complete: bool = False
    """It has run all the steps that there are: it succeeded, and was not pruned."""
    continuation: Continuation | None = None


Verdict = GoOn | Stop


class Stopping(Protocol):
    """Judges trials by what they report. Of each it is told ``begin``, then every report, then ``end``."""

    def begin(self, no: int, point: Point, parent: int | None = None) -> None:
        """Trial ``no`` begins at ``point``, from the checkpoint of ``parent`` if there is one."""
        return None

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """Of trial ``no``, which has just reported ``cost`` at ``step``; small is good, NaN is worst.

        Steps begin at 1 and rise within a trial; a step may be left out, and one that is told again changes nothing.
        """
        ...

    def end(self, no: int) -> None:
        """Trial ``no`` has ended, for whatever reason."""
        return None


def stopping(search: SearchSpec, *, seed: int) -> Stopping:
    """The way that a spec asks for."""
    asked = search.early_stopping
    if asked is None:
        return Never()
    if asked.median is not None:
        return ByMedian(asked.median)
    if asked.hyperband is not None:
        return ByBracket(asked.hyperband)
    if asked.pbt is not None:
        return ByPopulation(asked.pbt, search, seed=seed)
    assert asked.asha is not None, "one of the four is given"
    return ByRung(asked.asha)


class Never(Stopping):
    """Lets every trial run to its end."""

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """It goes on."""
        return GoOn()


def rungs(asked: AshaSpec, bracket: int = 0) -> tuple[int, ...]:
    """Steps at which trials are judged: ``grace * reduction_factor^(bracket + k)``, all below ``max_resource``."""
    found, step = [], asked.grace * asked.reduction_factor**bracket
    while step < asked.max_resource:
        found.append(step)
        step *= asked.reduction_factor
    return tuple(found)


@dataclass(slots=True)
class _Rung:
    """What was reported at one step by those that came as far."""

    costs: list[float] = field(default_factory=list)
    """In order."""

    def enter(self, cost: float) -> int:
        """How many are better than this one, or as good and came before it."""
        place = bisect.bisect_right(self.costs, cost)
        self.costs.insert(place, cost)
        return place


class ByRung(Stopping):
    """ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020), as its stopping form.

    A trial that reaches a rung goes on if it is among the best ``1/reduction_factor`` of those that have reached it.
    Until there are ``reduction_factor`` of them, nobody is stopped: there would be no best part.
    """

    def __init__(self, asked: AshaSpec, bracket: int = 0) -> None:
        self._factor = asked.reduction_factor
        self._most = asked.max_resource
        self._rungs = {step: _Rung() for step in rungs(asked, bracket)}
        self._passed: dict[int, int] = {}
        """By trial: the last rung it was judged at."""

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """Judge it at the highest rung that it has reached since the last time."""
        if step >= self._most:
            return Stop(reason=f"max_resource: it has run {self._most} steps", is_complete=True)
        due = [at for at in self._rungs if self._passed.get(no, 0) < at <= step]
        if not due:
            return GoOn()
        at = self._passed[no] = due[-1]
        rung = self._rungs[at]
        place = rung.enter(math.inf if math.isnan(cost) else cost) + 1
        count = len(rung.costs)
        able = count // self._factor
        if count < self._factor or place <= able:
            return GoOn()
        return Stop(reason=f"pruned_at_{at}: it is {_ordinal(place)} of {count}, and the best {able} go on")


class ByBracket(Stopping):
    """Hyperband (Li et al., JMLR 18, 2018), asynchronous: trials are dealt to ASHA brackets of different grace.

    In proportion to how many each bracket would begin: many in the one that stops early, few in the one that never
    does. The dealing goes by the trial's number, so that it is the same after a stop.
    """

    def __init__(self, asked: AshaSpec) -> None:
        factor = asked.reduction_factor
        count = len(rungs(asked)) + 1
        self._brackets: Sequence[ByRung] = [ByRung(asked, bracket) for bracket in range(count)]
        begun = [math.ceil(count / (count - s) * factor ** (count - 1 - s)) for s in range(count)]
        self._round = [bracket for bracket, many in enumerate(begun) for _ in range(many)]

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """Judge it within its bracket."""
        return self._brackets[self._round[no % len(self._round)]].judge(no, step, cost)


class ByMedian(Stopping):
    """The median rule (Golovin et al., "Google Vizier", KDD 2017).

    A trial is stopped at a step where the best it has reported is worse than the median, over the other trials that
    came as far, of their means up to this step.
    """

    def __init__(self, asked: MedianSpec) -> None:
        self._grace, self._least = asked.grace, asked.min_trials
        self._last: dict[int, int] = {}
        self._best: dict[int, float] = {}
        self._sums: dict[int, tuple[float, int]] = {}
        self._means: dict[int, dict[int, float]] = {}
        """By step and trial."""

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """Compare it with the others at this very step."""
        if step <= self._last.get(no, 0):
            return GoOn()
        cost = math.inf if math.isnan(cost) else cost
        total, count = self._sums.get(no, (0.0, 0))
        self._sums[no] = total + cost, count + 1
        self._last[no], self._best[no] = step, min(cost, self._best.get(no, math.inf))
        means = self._means.setdefault(step, {})
        others = sorted(means.values())
        means[no] = (total + cost) / (count + 1)
        if step < self._grace or len(others) < self._least:
            return GoOn()
        median = (others[(len(others) - 1) // 2] + others[len(others) // 2]) / 2
        if self._best[no] <= median:
            return GoOn()
        return Stop(reason=f"pruned_at_{step}: its best is worse than the median of {len(others)} others")


class ByPopulation(Stopping):
    """PBT (Jaderberg et al., "Population Based Training of Neural Networks", 2017), a trial at a time.

    At each report a trial is compared with those that were the last to come to the place it has passed, one each
    ``interval`` steps: not only when it comes there itself, or the first would never be compared with anybody. Is it
    among the worst, and one of the best still runs, then a continuation of that one takes its place. Which one, and how
    its point is changed, goes by the seed, the trial and the place, not by who was judged before.
    """

    def __init__(self, asked: PbtSpec, search: SearchSpec, *, seed: int) -> None:
        self._asked, self._search, self._seed = asked, search, seed
        self._population = search.population
        self._left = asked.continuations or CONTINUATIONS_A_TRIAL * search.trials
        self._points: dict[int, Point] = {}
        """Of those that have not ended."""
        self._last: dict[int, int] = {}
        """By trial: the last step that it reported."""
        self._ready: dict[int, int | None] = {}
        """By trial: the step from which on it may be stopped; None for a continuation that has not reported yet."""
        self._costs: dict[int, dict[int, float]] = {}
        """By place and trial, in the order in which they came there."""

    def begin(self, no: int, point: Point, parent: int | None = None) -> None:
        """A continuation is one of those that there may be."""
        self._points[no] = point
        self._ready[no] = 0 if parent is None else None
        self._left -= parent is not None

    def judge(self, no: int, step: int, cost: float) -> Verdict:
        """Compare it at the last place that it has passed."""
        last = self._last.get(no, 0)
        if step <= last:
            return GoOn()
        self._last[no] = step
        if self._ready[no] is None:
            self._ready[no] = step - 1 + self._asked.interval
        at = step - step % self._asked.interval
        if at == 0:
            return GoOn()
        came = self._costs.setdefault(at, {})
        if last < at:
            came[no] = math.inf if math.isnan(cost) else cost
        return self._compared(no, at, came)

    def end(self, no: int) -> None:
        """Nobody is continued who is at the end already."""
        self._points.pop(no, None)

    def _compared(self, no: int, at: int, came: dict[int, float]) -> Verdict:
        peers = {no, *list(came)[-self._population :]}
        ranked = sorted(peers, key=lambda one: (came[one], one))
        many, place = int(len(ranked) * self._asked.quantile), ranked.index(no) + 1
        if place <= len(ranked) - many or at < (self._ready[no] or 0) or self._left <= 0:
            return GoOn()
        parents = [one for one in ranked[:many] if one in self._points and came[one] < came[no]]
        if not parents:
            return GoOn()
        random = np.random.default_rng((self._seed, no, at))
        parent = parents[int(random.integers(len(parents)))]
        point = changed(self._search, self._asked, self._points[parent], random)
        reason = f"replaced_at_{at}: it is {_ordinal(place)} of {len(ranked)}, and trial {parent} is continued instead"
        return Stop(reason=reason, continuation=Continuation(parent=parent, point=point))


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"

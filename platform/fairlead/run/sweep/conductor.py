"""Decides what a sweep does next: which trial begins, which is stopped, when it is over. Knows neither Ray nor files.

Whatever it remembers follows from the trials' rows and the amendments: another conductor that is given those goes on
where this one was.
"""

import heapq
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fairlead.protocol import Amendment, SweepSummary, TrialDocument
from fairlead.search.best import best, excesses_of, front, nearest_miss, values_of
from fairlead.search.space import Point
from fairlead.search.stopping import Continuation, Stop, stopping
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import SearchSpec

MAX_TRIES = 5
"""How often a trial is begun that never ends: it may be what kills its runner."""
JUDGED_AFTER = 20
"""Trials that must have ended before a sweep fails because too many of them did, unless there are fewer."""
Origin = Literal["proposed", "enqueued", "inherited"]


class Proposer(Protocol):
    """Who proposes points; see ``search.proposals.Proposals``."""

    def propose(self, no: int) -> Point | None:
        """The point of trial ``no``; None where there is none left."""
        ...

    def enter(self, no: int, point: Point) -> None:
        """Take in a trial whose point was not proposed."""
        ...

    def report(self, no: int, step: int, value: float) -> None:
        """What a running trial has reported of the first objective."""
        ...

    def tell(self, trial: Trial) -> None:
        """How a trial has ended."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """Begin this trial now."""

    no: int
    point: Point
    origin: Origin = "proposed"
    parent: int | None = None
    tries: int = 1
    """This one included."""


@dataclass(kw_only=True, slots=True)
class Entry:
    """A trial as the conductor knows it."""

    no: int
    point: Point
    origin: Origin = "proposed"
    parent: int | None = None
    state: TrialState = TrialState.RUNNING
    tries: int = 0
    reason: str = ""
    last: dict[str, float] = field(default_factory=dict)
    """All that it has reported, as it was last."""
    best: dict[str, float] = field(default_factory=dict)
    """Of the objectives, the best that it has reported."""
    values: dict[str, float] = field(default_factory=dict)
    """Of the metrics that objectives and constraints look at, as they count."""
    last_step: int | None = None
    stop_reason: str | None = None
    """Why it is to end before its time."""
    is_complete: bool = False
    """It is to end because it has run all the steps that there are."""


class Conductor:
    """One sweep. Not for several threads.

    ``seed`` is the spec's. ``proposer`` makes who proposes, given the trials there are. ``steps_of``: how many steps a
    trial at a point has by itself, where that is known.
    """

    def __init__(
        self,
        search: SearchSpec,
        proposer: Callable[[Sequence[Trial]], Proposer],
        *,
        seed: int = 0,
        trials: Iterable[TrialDocument] = (),
        amendments: Sequence[Amendment] = (),
        steps_of: Callable[[Point], int | None] = lambda point: None,
    ) -> None:
        self._search = search
        self._steps_of = steps_of
        self._stopping = stopping(search, seed=seed)
        self._entries: dict[int, Entry] = {}
        self._running: set[int] = set()
        self._ended: list[Trial] = []
        self._counts: Counter[TrialState] = Counter()
        self._best_costs: list[float] = []
        """After each trial that ended, the best cost by then: of one objective."""
        self._latest_failure = ""
        self._again: deque[int] = deque()
        self._by_hand: deque[Point] = deque()
        self._continuations: deque[Continuation] = deque()
        self._settled: list[Entry] = []
        self._limit = search.trials
        self._num_new = 0
        self._num_by_hand = 0
        """Enqueued points that were begun before this conductor came."""
        self._is_finishing = False
        self._is_dry = False
        self._prefetched: Begin | None = None
        self._next_no = 0
        self.amendment_no = 0
        """The last amendment that was taken in."""
        self.concurrency = search.concurrency
        """Trials at a time, at most; None: as many as there are slots."""
        for one in sorted(trials, key=lambda one: one.no):
            self._remember(one)
        self._proposer = proposer([self._trial_of(entry) for entry in self._entries.values()])
        self._give_up_deadly_ones()
        self.amend(amendments)

    # ---- what there was ---------------------------------------------------------------------------------------------

    def _remember(self, one: TrialDocument) -> None:
        entry = Entry(
            no=one.no,
            point=one.params,
            origin=one.origin,
            parent=one.parent,
            state=one.state,
            tries=one.tries,
            reason=one.reason,
            values=dict(one.values),
            last_step=one.last_step,
        )
        self._enter(entry)
        for step, value in one.curve:
            self._stopping.judge(one.no, step, self._cost(value))
        self._num_by_hand += one.origin == "enqueued"
        if one.state is TrialState.RUNNING:
            self._again.append(one.no)
        else:
            self._note_ended(entry)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.no] = entry
        self._next_no = max(self._next_no, entry.no + 1)
        self._num_new += entry.origin != "inherited" and entry.parent is None
        self._stopping.begin(entry.no, entry.point, entry.parent)

    def _give_up_deadly_ones(self) -> None:
        for no in [no for no in self._again if self._entries[no].tries >= MAX_TRIES]:
            self._again.remove(no)
            why = f"it was begun {MAX_TRIES} times and never ended: it may be what ends its runner"
            self._settle(self._entries[no], TrialState.FAILED, why)

    def _settle(self, entry: Entry, state: TrialState, reason: str) -> None:
        """End one that does not run; ``take_settled`` tells of it."""
        self._end(entry, state, reason)
        self._settled.append(entry)

    def take_settled(self) -> list[Entry]:
        """Trials that have ended without running once more, each told once."""
        found, self._settled = self._settled, []
        return found

    # ---- amendments -------------------------------------------------------------------------------------------------

    def amend(self, amendments: Sequence[Amendment]) -> list[int]:
        """Take in those that are new; the trials under way that are to be stopped because of them."""
        stopped = []
        for one in amendments:
            if one.no <= self.amendment_no:
                continue
            self.amendment_no = one.no
            match one.kind:
                case "add_trials":
                    self._limit += one.trials or 0
                case "concurrency":
                    self.concurrency = one.concurrency
                case "enqueue":
                    self._enqueue(one.params or {})
                case "stop_trial":
                    if one.trial is not None and self._stop_by_hand(one.trial, one.by):
                        stopped.append(one.trial)
                case "finish":
                    self._is_finishing = True
                case "priority":
                    pass  # the control plane's own affair
        return stopped

    def _enqueue(self, point: Point) -> None:
        if self._num_by_hand > 0:  # amendments are told from the first one on, and this one was begun already
            self._num_by_hand -= 1
            return
        self._by_hand.append(point)

    def _stop_by_hand(self, no: int, by: str) -> bool:
        """Whether it is under way. One that waits to be begun again ends at once."""
        entry = self._entries.get(no)
        if entry is None or entry.state is not TrialState.RUNNING:
            return False
        reason = f"stopped by {by}" if by else "stopped by a user"
        if no in self._again:
            self._again.remove(no)
            self._settle(entry, TrialState.PRUNED, reason)
            return False
        entry.stop_reason = entry.stop_reason or reason
        return True

    # ---- what comes next --------------------------------------------------------------------------------------------

    def next(self, *, elapsed_s: float) -> Begin | None:
        """The trial to begin now, if any. ``elapsed_s``: run time of the sweep over all attempts."""
        if self._again:
            entry = self._entries[self._again.popleft()]
            entry.tries += 1
            entry.last, entry.best, entry.values = {}, {}, {}
            return self._begun(entry)
        begin = self._continued()
        if begin is None and self.why_no_more(elapsed_s) is not None:
            return None
        if begin is None:
            begin, self._prefetched = self._prefetched or self._propose(), None
        if begin is None:
            self._is_dry = True
            return None
        entry = Entry(no=begin.no, point=begin.point, origin=begin.origin, parent=begin.parent, tries=1)
        self._enter(entry)
        return self._begun(entry)

    def prefetch(self, *, elapsed_s: float) -> None:
        """Have the next point proposed while nothing else is to be done: a proposal may take longer than a trial."""
        if (
            self._prefetched is not None or self._again or self._search.is_population
        ):  # its continuations need the number
            return
        if self.why_no_more(elapsed_s) is None:
            self._prefetched = self._propose()

    def _begun(self, entry: Entry) -> Begin:
        self._running.add(entry.no)
        return Begin(no=entry.no, point=entry.point, origin=entry.origin, parent=entry.parent, tries=entry.tries)

    def _continued(self) -> Begin | None:
        """Of a population: one that takes the place of another."""
        if not self._continuations or self._is_finishing or self.too_many_failed is not None:
            return None
        wanted = self._continuations.popleft()
        return Begin(no=self._next_no, point=wanted.point, parent=wanted.parent)

    def _propose(self) -> Begin | None:
        no = self._next_no
        if self._by_hand:
            point = self._by_hand.popleft()
            self._proposer.enter(no, point)
            return Begin(no=no, point=point, origin="enqueued")
        proposed = self._proposer.propose(no)
        return None if proposed is None else Begin(no=no, point=proposed)

    def why_no_more(self, elapsed_s: float) -> str | None:
        """Why no new trial is begun, if so: ``SweepSummary.ended_because``."""
        hours = self._search.hours
        if self._is_finishing:
            return "finished"
        if self.too_many_failed is not None:
            return "failed"
        if hours is not None and elapsed_s >= hours * 3600:
            return "hours"
        if self._is_on_plateau():
            return "plateau"
        if self._num_new >= self._limit:
            return "trials"
        return "grid" if self._is_dry and not self._by_hand else None

    def over_because(self, elapsed_s: float) -> str | None:
        """Why the sweep is over, once nothing of it runs any more."""
        if self._running or self._again:
            return None
        if self._continuations and not self._is_finishing and self.too_many_failed is None:
            return None
        return self.why_no_more(elapsed_s)

    def _is_on_plateau(self) -> bool:
        """As ``search.best.is_on_plateau``, from the best costs by then."""
        plateau = self._search.plateau
        if plateau is None or len(self._best_costs) <= plateau.trials:
            return False
        before, now = self._best_costs[-1 - plateau.trials], self._best_costs[-1]
        return math.isfinite(before) and before - now <= plateau.min_improvement

    @property
    def too_many_failed(self) -> str | None:
        """Why the sweep is to fail, if so. A few failures at the beginning prove nothing."""
        failed, ended = self._counts[TrialState.FAILED], len(self._ended)
        judged = min(JUDGED_AFTER, self._limit)
        if ended < judged or failed <= self._search.max_failed_fraction * ended:
            return None
        return f"{failed} of {ended} trials failed; the last of them: {self._latest_failure}"

    # ---- what trials say --------------------------------------------------------------------------------------------

    def reported(self, no: int, step: int, metrics: Mapping[str, float]) -> str | None:
        """Take in a report; why the trial is to end now, where that is new."""
        entry = self._entries[no]
        entry.last.update(metrics)
        entry.last_step = step if entry.last_step is None else max(step, entry.last_step)
        for one in self._search.objectives:
            if (value := metrics.get(one.metric)) is not None:
                known = entry.best.get(one.metric, math.nan)
                is_better = value > known if one.is_maximized else value < known
                entry.best[one.metric] = value if is_better or math.isnan(known) else known
        first = metrics.get(self._search.objectives[0].metric)
        if first is None:
            return None
        self._proposer.report(no, step, first)
        verdict = self._stopping.judge(no, step, self._cost(first))
        if not isinstance(verdict, Stop) or entry.stop_reason is not None or self._ends_anyway(entry, step, verdict):
            return None
        entry.stop_reason, entry.is_complete = verdict.reason, verdict.is_complete
        if verdict.continuation is not None:
            self._continuations.append(verdict.continuation)
        return verdict.reason

    def _ends_anyway(self, entry: Entry, step: int, verdict: Stop) -> bool:
        """It has run as long as any trial may, and has no step left: stopped now it would not count its rows."""
        steps = self._steps_of(entry.point)
        return verdict.is_complete and steps is not None and steps <= step

    def finished(self, no: int, values: Mapping[str, float], *, has_evaluated: bool) -> Entry:
        """Its workload has returned. ``values``: what was measured at its end."""
        entry = self._entries[no]
        entry.last.update(values)
        entry.values = self._counting(entry)
        if entry.stop_reason is not None and not has_evaluated and not entry.is_complete:
            return self._end(entry, TrialState.PRUNED, entry.stop_reason)
        if (problem := self._problem_with(entry)) is not None:
            return self._end(entry, TrialState.FAILED, problem)
        return self._end(entry, TrialState.SUCCEEDED, entry.stop_reason or "completed")

    def _counting(self, entry: Entry) -> dict[str, float]:
        """Of the metrics that are looked at, the values that count."""
        found = {name: entry.last[name] for name in self._search.metrics if name in entry.last}
        return found | entry.best if self._search.value == "best" else found

    def _problem_with(self, entry: Entry) -> str | None:
        for one in self._search.objectives:
            value = entry.values.get(one.metric)
            if value is None:
                told = ", ".join(list(entry.last)[:10]) or "nothing"
                return f"it never reported {one.metric}, which the sweep looks at; it reported {told}"
            if math.isnan(value):
                return f"{one.metric} is not a number (NaN)"
        return None

    def failed(self, no: int, reason: str) -> Entry:
        """It has failed."""
        entry = self._entries[no]
        entry.values = self._counting(entry)
        return self._end(entry, TrialState.FAILED, reason)

    def cut(self, no: int, reason: str) -> Entry:
        """The sweep ends before it could."""
        entry = self._entries[no]
        if no in self._again:
            self._again.remove(no)
        entry.values = self._counting(entry)
        return self._end(entry, TrialState.PRUNED, reason)

    def interrupted(self, no: int, *, is_counted: bool) -> None:
        """It was stopped in the middle by no fault of its own, and is begun again. ``is_counted``: it may be what
        ended its process: after ``MAX_TRIES`` of these it is given up."""
        entry = self._entries[no]
        self._running.discard(no)
        if not is_counted:
            entry.tries -= 1
        if entry.tries >= MAX_TRIES:
            why = f"its process ended {MAX_TRIES} times without a word"
            self._settle(entry, TrialState.FAILED, why)
        elif entry.stop_reason is not None:
            self._settle(entry, TrialState.PRUNED, entry.stop_reason)
        else:
            self._again.append(no)

    def _end(self, entry: Entry, state: TrialState, reason: str) -> Entry:
        self._running.discard(entry.no)
        entry.state, entry.reason = state, reason
        if state is TrialState.FAILED:
            self._latest_failure = reason
        self._proposer.tell(self._note_ended(entry))
        return entry

    def _note_ended(self, entry: Entry) -> Trial:
        trial = self._trial_of(entry)
        self._stopping.end(entry.no)
        self._ended.append(trial)
        self._counts[entry.state] += 1
        if len(self._search.objectives) == 1:
            before = self._best_costs[-1] if self._best_costs else math.inf
            counts = _is_complete(trial) and trial.is_feasible
            self._best_costs.append(min(before, self._cost(trial.values[0])) if counts else before)
        return trial

    def _trial_of(self, entry: Entry) -> Trial:
        values: tuple[float, ...] | None = None
        if entry.state is TrialState.SUCCEEDED:
            values = values_of(self._search, entry.values)
        elif entry.state is TrialState.PRUNED:
            first = entry.values.get(self._search.objectives[0].metric)
            values = None if first is None else (first,)
        is_known = entry.state is not TrialState.RUNNING and bool(entry.values)
        return Trial(
            no=entry.no,
            point=entry.point,
            state=entry.state,
            values=values or (),
            excesses=excesses_of(self._search, entry.values) if is_known else {},
            step=entry.last_step or 0,
            parent=entry.parent,
        )

    def _cost(self, value: float) -> float:
        return -value if self._search.objectives[0].is_maximized else value

    # ---- how it stands ----------------------------------------------------------------------------------------------

    def entry(self, no: int) -> Entry:
        """A trial that was begun. Raises ``KeyError``."""
        return self._entries[no]

    @property
    def unfinished(self) -> list[int]:
        """Those that run, or wait to be begun again."""
        return sorted({*self._running, *self._again})

    @property
    def ended(self) -> Sequence[Trial]:
        """All that have ended, in that order."""
        return self._ended

    @property
    def best_value(self) -> float | None:
        """Of one objective, the best value of a trial that keeps all constraints."""
        if not self._best_costs or not math.isfinite(self._best_costs[-1]):
            return None
        return self._cost(self._best_costs[-1])

    def counts(self) -> Counter[TrialState]:
        """Trials by state."""
        return self._counts | Counter({TrialState.RUNNING: len(self._running) + len(self._again)})

    def kept(self, most: int) -> frozenset[int]:
        """Trials whose checkpoints are worth their room: the ``most`` best, or the front, or the nearest miss."""
        if len(self._search.objectives) > 1:
            chosen = {trial.no for trial in front(self._search, self._ended)}
        else:
            able = [trial for trial in self._ended if _is_complete(trial) and trial.is_feasible]
            chosen = {trial.no for trial in heapq.nsmallest(most, able, key=lambda one: self._cost(one.values[0]))}
        if not chosen and (nearest := nearest_miss(self._search, self._ended)) is not None:
            chosen = {nearest.no}
        return frozenset(chosen)

    def summary(self, ended_because: str) -> SweepSummary:
        """What became of it."""
        several = len(self._search.objectives) > 1
        first = None if several else best(self._search, self._ended)
        ahead = front(self._search, self._ended) if several else ()
        nearest = None if first or ahead else nearest_miss(self._search, self._ended)
        return SweepSummary(
            counts=dict(self.counts()),
            best=first.no if first else None,
            front=tuple(trial.no for trial in ahead),
            nearest=nearest.no if nearest else None,
            ended_because=ended_because,
        )


def _is_complete(trial: Trial) -> bool:
    has_values = bool(trial.values) and all(math.isfinite(value) for value in trial.values)
    return trial.state is TrialState.SUCCEEDED and has_values

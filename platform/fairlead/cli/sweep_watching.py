"""Following a sweep: one live table on a terminal, a line per ended trial elsewhere.

A look costs a few small requests a second, however many trials there are: those that run, the last few that ended, and
the best, each only where the summary says that it has changed.
"""

import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from rich.live import Live
from rich.markup import escape

from fairlead.cli.changes import REFRESH_S, changes, event_line
from fairlead.cli.output import out, styled
from fairlead.cli.picture import (
    MOST_OF_FRONT,
    PACE_S,
    TRIAL_STYLES,
    Look,
    Picture,
    Sample,
    is_kept,
    per_minute,
    progress_text,
    value_of,
)
from fairlead.cli.searching import point_text
from fairlead.client import Experiment
from fairlead.client.experiment import has_ended
from fairlead.representation import ExperimentDetail, SweepView, TrialView
from fairlead.search.trials import TrialState
from fairlead.spec.search import SearchSpec

MOST_RUNNING, MOST_ENDED, MOST_FAILED = 12, 12, 50
MOST_A_PAGE = 500
MOST_LINES = 5
"""Trials that get a line each in one second, where nobody sees a table; more get one line together."""
BETWEEN_SUMMARIES_S = 5.0


class Looker:
    """Looks at a sweep again and again, asking only for what has changed since."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._best: dict[int, TrialView] = {}
        self._ended: tuple[TrialView, ...] = ()
        self._failed: tuple[TrialView, ...] = ()
        self._counted = SweepView()
        self._samples: deque[Sample] = deque(maxlen=int(PACE_S))
        self._last: Look | None = None

    def look(self, *, has_running: bool = True) -> Look:
        """How it stands now, by the experiment's last refresh and a few rows; asked for once a second at most."""
        view = self._experiment.view
        assert isinstance(view, ExperimentDetail), "refresh sets a detail"
        is_soon = bool(self._samples) and time.monotonic() - self._samples[-1].at_s < REFRESH_S
        if self._last is not None and is_soon and not has_ended(view):
            return self._last
        self._last = self._look(view, has_running=has_running)
        return self._last

    def _look(self, view: ExperimentDetail, *, has_running: bool) -> Look:
        sweep = view.sweep or SweepView()
        if sweep.ended != self._counted.ended:
            self._ended = self._last_ended(sweep.counts.get(TrialState.RUNNING, 0))
        if sweep.counts.get(TrialState.FAILED, 0) != self._counted.counts.get(TrialState.FAILED, 0):
            self._failed = self._some(state=TrialState.FAILED, sort="-ended_at", limit=MOST_FAILED)
        self._counted = sweep
        self._samples.append(Sample(at_s=time.monotonic(), ended=sweep.ended))
        is_any_running = has_running and bool(sweep.counts.get(TrialState.RUNNING, 0))
        return Look(
            view=view,
            best=self._those(best_of(sweep)),
            running=self._some(state=TrialState.RUNNING, sort="no", limit=MOST_RUNNING) if is_any_running else (),
            ended=self._ended,
            failed=self._failed,
            per_minute=per_minute(self._samples, self._ended),
            now=datetime.now(UTC),
        )

    def _last_ended(self, running: int) -> tuple[TrialView, ...]:
        """Those that run come first in this order: they have not ended yet."""
        found = self._some(sort="-ended_at", limit=min(MOST_A_PAGE, MOST_ENDED + running))
        return tuple(trial for trial in found if trial.ended_at is not None)[:MOST_ENDED]

    def _some(self, *, sort: str, limit: int, state: TrialState | None = None) -> tuple[TrialView, ...]:
        return tuple(islice(self._experiment.trials(state=state, sort=sort, limit=limit), limit))

    def _those(self, numbers: Sequence[int]) -> tuple[TrialView, ...]:
        """Trials that have ended: they change no more, and are asked for once."""
        for no in numbers:
            if no not in self._best:
                self._best[no] = self._experiment.trial(no)
        return tuple(self._best[no] for no in numbers)


def best_of(sweep: SweepView) -> tuple[int, ...]:
    """The numbers of the best trial, or of the front's first, or of the nearest where none keeps the constraints."""
    if sweep.front:
        return sweep.front[:MOST_OF_FRONT]
    number = sweep.best if sweep.best is not None else sweep.nearest
    return () if number is None else (number,)


def follow_live(experiment: Experiment) -> None:
    """One table on a terminal, drawn anew every second."""
    looker = Looker(experiment)
    with Live(Picture(look=looker.look()), console=out(), refresh_per_second=8, transient=True) as live:
        for events in changes(experiment):
            for event in events:
                if line := event_line(event):
                    live.console.print(line)
            live.update(Picture(look=looker.look()))


def follow_lines(experiment: Experiment) -> None:
    """A line for each change of state and each ended trial; where trials end by the dozen, one for all together."""
    console, looker = out(), Looker(experiment)
    told, summed_s = {trial.no for trial in looker.look(has_running=False).ended}, 0.0
    for events in changes(experiment):
        for event in events:
            if line := event_line(event):
                console.print(line)
        look = looker.look(has_running=False)
        fresh = [trial for trial in reversed(look.ended) if trial.no not in told]
        if len(fresh) <= MOST_LINES:
            for trial in fresh:
                console.print(trial_line(look.search, trial))
        elif time.monotonic() - summed_s < BETWEEN_SUMMARIES_S:
            continue
        else:
            summed_s = time.monotonic()
            console.print(progress_text(look) + best_text(look))
        told.update(trial.no for trial in fresh)


def trial_line(search: SearchSpec, trial: TrialView) -> str:
    """What became of one trial."""
    values = [f"{one.metric} {value_of(trial, one.metric)}" for one in search.objectives]
    kept = {True: "", None: "", False: " [red]breaks a constraint[/]"}[
        is_kept(search, trial) if search.constraints else None
    ]
    told = "  ".join(values) + kept if trial.values else escape(trial.reason)
    return f"trial {trial.no} {styled(trial.state, TRIAL_STYLES)}  {told}  [dim]{escape(point_text(trial.params))}[/]"


def best_text(look: Look) -> str:
    """The best so far, or how many are on the front."""
    if look.sweep.front:
        return f"; {len(look.sweep.front)} on the Pareto front"
    if not look.best or look.sweep.best is None:
        return ""
    metric = look.search.objectives[0].metric
    return f"; best {escape(metric)} {value_of(look.best[0], metric)} (trial {look.best[0].no})"

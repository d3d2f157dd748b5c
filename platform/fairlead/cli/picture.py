"""A sweep as one table: how it stands, the best so far, what runs, what has ended. Pure, and of any width."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fairlead.cli.output import STATE_STYLES, ago, number, styled, table
from fairlead.cli.searching import point_text, value_text
from fairlead.client.experiment import has_ended
from fairlead.representation import ExperimentDetail, SweepView, TrialView
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import SearchSpec

MOST_OF_FRONT = 8
MOST_REASONS = 3
TRIAL_STYLES = {"succeeded": "green", "failed": "red", "pruned": "yellow", "running": "cyan"}

MOST_LINES = 16
"""Of trials that run or have ended."""
NARROW_BELOW = 120
"""Columns below which the parameters of the best may get lines of their own."""
MOST_COLUMNS = 6
"""Parameters with a column of their own; more are written one after the other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What is known of a sweep at one moment."""

    view: ExperimentDetail
    best: tuple[TrialView, ...] = ()
    """The best trial, or the first of the Pareto front; where none keeps the constraints, the nearest."""
    running: tuple[TrialView, ...] = ()
    ended: tuple[TrialView, ...] = ()
    """The last few, newest first."""
    failed: tuple[TrialView, ...] = ()
    per_minute: float | None = None
    """Trials that end in a minute."""
    now: datetime
    """By the server's clock, as far as known."""

    @property
    def sweep(self) -> SweepView:
        """Its summary; an empty one before anything is known."""
        return self.view.sweep or SweepView()

    @property
    def search(self) -> SearchSpec:
        """What is looked for."""
        assert self.view.spec.search is not None, "it is a sweep"
        return self.view.spec.search


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A look, drawn as wide as the terminal is, and no higher."""

    look: Look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Headline, bar, one table, failures."""
        look, width = self.look, options.max_width
        sections = _sections(look, options)
        rows, layout = trials_table(console, look.search, sections, width=width, now=look.now, is_short=True)
        parts: list[RenderableType] = [_headline(look), Text.from_markup(progress_text(look)), _bar(look, width)]
        parts += [rows] if rows.row_count else []
        if layout.parameters == "none":
            parts += _points(sections[0][1])
        if reasons := failures_text(look):
            parts.append(Text.from_markup(reasons))
        yield Group(*parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The best trial of a sweep, its Pareto front, or which came nearest; with all parameters."""

    look: Look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A title, a table, and what the table has no room for."""
        look = self.look
        if not look.best:
            yield Text("no trial has ended with a value yet" if not has_ended(look.view) else "no trial has a value")
            return
        yield Text.from_markup(f"[bold]{_title(look)}[/]")
        sections = [("", look.best)]
        rows, layout = trials_table(
            console, look.search, sections, width=options.max_width, now=look.now, is_short=True
        )
        yield rows
        if layout.parameters == "none":
            yield from _points(look.best)
        if (more := len(look.sweep.front) - len(look.best)) > 0:
            yield Text.from_markup(f"[dim]and {more} more on the front[/]")


def _title(look: Look) -> str:
    if not has_best(look.sweep):
        return "no trial keeps all constraints; the nearest is"
    return "the best trial" if look.sweep.best is not None else f"the Pareto front: {len(look.sweep.front)} trials"


def _points(trials: Sequence[TrialView]) -> list[Text]:
    return [Text.from_markup(f"[dim]{one.no}:[/] {escape(point_text(one.params))}") for one in trials]


def has_best(sweep: SweepView) -> bool:
    """Whether a trial has ended that keeps all constraints."""
    return sweep.best is not None or bool(sweep.front)


def promotion(sweep_id: str, sweep: SweepView) -> str:
    """The command that promotes the best; of a front a number must be chosen."""
    return f"fairlead promote {sweep_id}" + ("" if sweep.best is not None else " --trial NO")


def is_sweep(spec: ExperimentSpec) -> bool:
    """Whether an experiment trains many times."""
    return spec.search is not None


# ---- words ----------------------------------------------------------------------------------------------------------


def progress_text(look: Look) -> str:
    """``tpe: 12 of 40 trials ended, 2 running, 1 pruned; 31 a minute, 54 s left``."""
    sweep = look.sweep
    parts = [f"{sweep.ended} of {sweep.trials} trials ended"]
    for state, style in ((TrialState.RUNNING, "cyan"), (TrialState.PRUNED, "yellow"), (TrialState.FAILED, "red")):
        count = sweep.counts.get(state, 0)
        parts += [f"[{style}]{count} {state}[/]" if count else f"[dim]0 {state}[/]"]
    pace = [f"{look.per_minute:.3g} a minute"] if look.per_minute else []
    pace += [f"{ago(left)} left"] if (left := left_s(look)) is not None else []
    return f"[bold]{escape(look.search.chosen.name)}[/] {', '.join(parts)}" + (f"; {', '.join(pace)}" if pace else "")


def left_s(look: Look) -> float | None:
    """Seconds until all trials have ended, by throughput; None where nothing can be told."""
    missing = look.sweep.trials - look.sweep.ended
    if not look.per_minute or missing <= 0 or has_ended(look.view):
        return None
    return 60 * missing / look.per_minute


def failures_text(look: Look) -> str:
    """How many failed of what, the most frequent first."""
    count = look.sweep.counts.get(TrialState.FAILED, 0)
    if not count:
        return ""
    found = Counter(_first_words(trial.reason) for trial in look.failed)
    of = f"{count} failed" if len(look.failed) >= count else f"{count} failed, the last {len(look.failed)} by"
    told = "; ".join(f"{times} × {reason}" for reason, times in found.most_common(MOST_REASONS))
    more = f"; {len(found) - MOST_REASONS} other reasons" if len(found) > MOST_REASONS else ""
    return f"[red]{of}:[/] [dim]{escape(told + more)}[/]"


def _first_words(reason: str) -> str:
    """A reason without what differs from trial to trial."""
    line = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return line if len(line) <= 70 else f"{line[:69]}…"


def is_kept(search: SearchSpec, trial: TrialView) -> bool | None:
    """Whether a trial keeps all constraints; None while that is not known."""
    found = [constraint_is_kept(search, index, trial) for index in range(len(search.constraints))]
    if any(one is False for one in found):
        return False
    return None if any(one is None for one in found) else True


def constraint_is_kept(search: SearchSpec, index: int, trial: TrialView) -> bool | None:
    """Whether it keeps one of them; of a trial that has ended what was never reported is not kept."""
    metric, required = search.requirements[index]
    value = trial.values.get(metric)
    if value is None:
        return None if trial.state is TrialState.RUNNING else False
    return required.admits(Fraction(value))


def kept_text(is_so: bool | None) -> str:
    """For people."""
    return {True: "[green]yes[/]", False: "[red]no[/]", None: "[dim]–[/]"}[is_so]


# ---- the table ------------------------------------------------------------------------------------------------------

Section = tuple[str, Sequence[TrialView]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How a table of trials is drawn."""

    heading: int
    """Characters of a line of a metric's name."""
    parameters: Literal["columns", "text", "none"]
    """A column each; all in one; not at all."""
    has_age: bool = True


LAYOUTS = (
    Layout(heading=60, parameters="columns"),
    Layout(heading=20, parameters="columns"),
    Layout(heading=15, parameters="text"),
)
NARROW = Layout(heading=15, parameters="none")
BROKEN = Layout(heading=15, parameters="text", has_age=False)


def trials_table(
    console: Console,
    search: SearchSpec,
    sections: Sequence[Section],
    *,
    width: int,
    now: datetime,
    is_short: bool = False,
) -> tuple[Table, Layout]:
    """Trials in sections, each with state, steps, values of the objectives, age and parameters.

    ``is_short``: whether parameters that do not fit are left out rather than broken. The widest layout that fits.
    """
    for layout in LAYOUTS:
        if layout.parameters == "columns" and len(search.space) > MOST_COLUMNS:
            continue
        rows = _drawn(search, sections, layout, now)
        if Measurement.get(console, console.options.update(width=1000), rows).maximum <= width:
            return rows, layout
    last = NARROW if is_short else BROKEN
    return _drawn(search, sections, last, now), last


def _drawn(search: SearchSpec, sections: Sequence[Section], layout: Layout, now: datetime) -> Table:
    has_names = any(name for name, _ in sections)
    rows = table(*([""] if has_names else []), "#trial", "state", "#step")
    for one in search.objectives:
        direction = "max" if one.is_maximized else "min"
        rows.add_column(f"{broken(one.metric, layout.heading)}\n({direction})", justify="right", no_wrap=True)
    if search.constraints:
        rows.add_column("kept", no_wrap=True)
    if layout.has_age:
        rows.add_column("age", justify="right", no_wrap=True)
    for name in search.space if layout.parameters == "columns" else ():
        rows.add_column(escape(name), justify="right", no_wrap=True)
    if layout.parameters == "text":
        rows.add_column("parameters", overflow="fold")
    for section, trials in sections:
        for place, trial in enumerate(trials):
            first = [f"[dim]{section}[/]" if place == 0 else ""] if has_names else []
            rows.add_row(*first, *_cells(search, trial, layout, now))
    return rows


def _cells(search: SearchSpec, trial: TrialView, layout: Layout, now: datetime) -> list[str]:
    values = [value_of(trial, one.metric) for one in search.objectives]
    kept = [kept_text(is_kept(search, trial))] if search.constraints else []
    step = "" if trial.last_step is None else str(trial.last_step)
    point = [point_text(trial.params)] if layout.parameters == "text" else []
    if layout.parameters == "columns":
        point = [value_text(trial.params[name]) if name in trial.params else "" for name in search.space]
    old = [age(trial, now)] if layout.has_age else []
    cells = [str(trial.no), styled(trial.state, TRIAL_STYLES), step, *values, *kept, *old]
    return [*cells, *(escape(cell) for cell in point)]


def value_of(trial: TrialView, metric: str) -> str:
    """A value, or its name where it is not finite, or a dash."""
    return escape(trial.non_finite.get(metric) or number(trial.values.get(metric)))


def age(trial: TrialView, now: datetime) -> str:
    """Since it ended, or, of one that runs, since it began."""
    at = trial.ended_at or trial.started_at
    return "" if at is None else ago((now - at).total_seconds())


def broken(name: str, width: int) -> str:
    """A name of a metric in lines of at most ``width``, broken behind its separators where that is possible."""
    pieces, lines = [""], [""]
    for letter in name:
        pieces[-1] += letter
        pieces += [""] if letter in "/_." else []
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return escape("\n".join(lines))


def _sections(look: Look, options: ConsoleOptions) -> list[Section]:
    """What is shown so that the whole fits a terminal: headline, bar, heading and failures need their lines.

    Of what the best leave, those that run get half or more.
    """
    height = options.height or options.size.height
    is_narrow = options.max_width < NARROW_BELOW  # the best may then need a second line each
    room = max(6, height - (11 if is_narrow else 8) - bool(look.failed))
    best = look.best[: max(2, min(MOST_OF_FRONT, room // (4 if is_narrow else 2)))]
    left = max(2, min(MOST_LINES, room - len(best) * (2 if is_narrow else 1)))
    running = look.running[: max(1, left - min(len(look.ended), left // 2))]
    name = "best" if look.sweep.best is not None else "front" if look.sweep.front else "nearest"
    return [(name, best), ("running", running), ("ended", look.ended[: max(1, left - len(running))])]


# ---- headline -------------------------------------------------------------------------------------------------------


def _headline(look: Look) -> RenderableType:
    view = look.view
    head = Text.from_markup(
        f"[bold]{escape(view.name)}[/] [dim]{view.id}[/] {styled(view.state, STATE_STYLES)} "
        f"[dim]{escape(view.waiting or view.reason)}[/]"
    )
    return head if has_ended(view) else Spinner("dots", text=head)


def _bar(look: Look, width: int) -> RenderableType:
    total = max(1, look.sweep.trials)
    row = Table.grid()  # a bar alone does not end its line
    row.add_row(ProgressBar(total=total, completed=min(look.sweep.ended, total), width=min(60, width)))
    return row


# ---- pace -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """How many had ended at a moment of a monotonic clock."""

    at_s: float
    ended: int


PACE_S = 120.0
LEAST_PACE_S = 10.0


def per_minute(samples: Sequence[Sample], ended: Sequence[TrialView]) -> float | None:
    """Trials that end in a minute: by what was seen of late, and at first by when the last few ended."""
    recent = [one for one in samples if samples[-1].at_s - one.at_s <= PACE_S]
    if recent and recent[-1].at_s - recent[0].at_s >= LEAST_PACE_S and recent[-1].ended > recent[0].ended:
        return 60 * (recent[-1].ended - recent[0].ended) / (recent[-1].at_s - recent[0].at_s)
    times = sorted(trial.ended_at for trial in ended if trial.ended_at is not None)
    span = (times[-1] - times[0]).total_seconds() if len(times) > 1 else 0.0
    return 60 * (len(times) - 1) / span if span > 0 else None

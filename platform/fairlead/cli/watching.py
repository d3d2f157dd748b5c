"""Following an experiment: a live picture on a terminal, a line per change elsewhere, JSON lines for programs.

State changes arrive as they happen, over the event stream; steps and metrics are asked for once a second meanwhile.
"""

import sys

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fairlead.cli.changes import changes, event_line
from fairlead.cli.output import STATE_STYLES, number, out, print_json_line, styled
from fairlead.cli.picture import is_sweep
from fairlead.cli.sweep_watching import follow_lines as follow_sweep_lines
from fairlead.cli.sweep_watching import follow_live as follow_sweep_live
from fairlead.client import Experiment
from fairlead.client.experiment import has_ended
from fairlead.representation import ExperimentView

MOST_METRICS = 8


def follow(experiment: Experiment, *, as_json: bool = False) -> None:
    """Show an experiment until it has ended and is registered, or is held. ``KeyboardInterrupt`` passes through."""
    if as_json:
        for change in changes(experiment):
            for event in change:
                print_json_line(event)
    elif is_sweep(experiment.spec):
        (follow_sweep_live if sys.stdout.isatty() else follow_sweep_lines)(experiment)
    else:
        (_follow_live if sys.stdout.isatty() else _follow_lines)(experiment)
    experiment.await_registration()


def _follow_live(experiment: Experiment) -> None:
    with Live(picture(experiment.view), console=out(), refresh_per_second=8, transient=True) as live:
        for events in changes(experiment):
            for event in events:
                if line := event_line(event):
                    live.console.print(line)
            live.update(picture(experiment.view))


def _follow_lines(experiment: Experiment) -> None:
    console, step = out(), None
    for events in changes(experiment):
        for event in events:
            if line := event_line(event):
                console.print(line)
        if experiment.view.last_step != step:
            step = experiment.view.last_step
            console.print(_step_line(experiment.view))


def picture(view: ExperimentView) -> RenderableType:
    """State, reason, a bar of steps and the last metrics."""
    head = Text.from_markup(
        f"[bold]{escape(view.name)}[/] [dim]{view.id}[/] {styled(view.state, STATE_STYLES)} "
        f"[dim]{escape(view.waiting or view.reason)}[/]"
    )
    parts: list[RenderableType] = [head if has_ended(view) else Spinner("dots", text=head)]
    if view.total_steps:
        parts.append(_bar(view))
    if view.metrics:
        parts.append(_metrics(view))
    return Group(*parts)


def _bar(view: ExperimentView) -> RenderableType:
    done, total = view.last_step or 0, view.total_steps or 1
    row = Table.grid(padding=(0, 1))
    row.add_row(f"step {done}/{total}", ProgressBar(total=total, completed=min(done, total), width=40))
    return row


def _metrics(view: ExperimentView) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    for name in _chosen(view):
        row.add_row(f"[dim]{escape(name)}[/]", view.non_finite.get(name) or number(view.metrics[name]))
    return row


def _chosen(view: ExperimentView) -> list[str]:
    """What a person watches: losses, then validation."""
    order = {"train": 0, "validation": 1, "test": 2}
    names = [name for name in view.metrics if not name.startswith(("system/", "rai/"))]
    return sorted(names, key=lambda name: (order.get(name.split("/")[0], 3), name))[:MOST_METRICS]


def _step_line(view: ExperimentView) -> str:
    values = "  ".join(f"{name} {view.non_finite.get(name) or number(view.metrics[name])}" for name in _chosen(view))
    return f"step {view.last_step}/{view.total_steps or '?'}  {escape(values)}"

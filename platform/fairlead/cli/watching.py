"""Following an experiment: a live picture on a terminal, a line per change elsewhere, JSON lines for programs.

State changes arrive as they happen, over the event stream; steps and metrics are asked for once a second meanwhile.
"""

import queue
import sys
import threading
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from fairlead.cli.output import STATE_STYLES, number, out, print_json_line, styled
from fairlead.client import Experiment
from fairlead.client.experiment import has_ended
from fairlead.errors import FairleadError
from fairlead.representation import EventView, ExperimentView

REFRESH_S = 1.0
MOST_METRICS = 8
QUIET_EVENTS = frozenset({"checkpoint_committed"})
"""One a step: the bar says it already."""


def follow(experiment: Experiment, *, as_json: bool = False) -> None:
    """Show an experiment until it has ended and is registered, or is held. ``KeyboardInterrupt`` passes through."""
    if as_json:
        for change in changes(experiment):
            for event in change:
                print_json_line(event)
    elif sys.stdout.isatty():
        _follow_live(experiment)
    else:
        _follow_lines(experiment)
    experiment.await_registration()


def changes(experiment: Experiment) -> Iterator[tuple[EventView, ...]]:
    """New events, at least once a second, with the experiment refreshed before each; the last is after its end."""
    arrived: queue.SimpleQueue[EventView | FairleadError | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(experiment, arrived), daemon=True).start()
    is_over = False
    while not is_over:
        events, is_over = _drain(arrived)
        # A held experiment's stream stays open, so a quiet second ends that one.
        is_quiet_end = has_ended(experiment.refresh().view) and not events
        is_over = is_over or is_quiet_end
        yield events


def _listen(experiment: Experiment, arrived: "queue.SimpleQueue[EventView | FairleadError | None]") -> None:
    try:
        for event in experiment.events():
            arrived.put(event)
        arrived.put(None)
    except FairleadError as error:
        arrived.put(error)


def _drain(arrived: "queue.SimpleQueue[EventView | FairleadError | None]") -> tuple[tuple[EventView, ...], bool]:
    """What has come within a second; True once the stream has ended."""
    events: list[EventView] = []
    try:
        item = arrived.get(timeout=REFRESH_S)
        while True:
            if isinstance(item, FairleadError):
                raise item
            if item is None:
                return tuple(events), True
            events.append(item)
            item = arrived.get_nowait()
    except queue.Empty:
        return tuple(events), False


def _follow_live(experiment: Experiment) -> None:
    with Live(picture(experiment.view), console=out(), refresh_per_second=8, transient=True) as live:
        for events in changes(experiment):
            for event in events:
                if line := _event_line(event):
                    live.console.print(line)
            live.update(picture(experiment.view))


def _follow_lines(experiment: Experiment) -> None:
    console, step = out(), None
    for events in changes(experiment):
        for event in events:
            if line := _event_line(event):
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


def _event_line(event: EventView) -> str | None:
    if event.kind in QUIET_EVENTS:
        return None
    at = event.at.astimezone().strftime("%H:%M:%S")
    reason = f" [dim]{escape(event.reason)}[/]" if event.reason not in ("", event.to_state) else ""
    if event.to_state is None:
        return f"[dim]{at} {escape(event.kind)}[/]{reason}"
    return f"[dim]{at}[/] {styled(event.to_state, STATE_STYLES)}{reason}"


def _step_line(view: ExperimentView) -> str:
    values = "  ".join(f"{name} {view.non_finite.get(name) or number(view.metrics[name])}" for name in _chosen(view))
    return f"step {view.last_step}/{view.total_steps or '?'}  {escape(values)}"

"""What happens to an experiment while somebody follows it: its events, and how it stands, at least once a second."""

import queue
import threading
from collections.abc import Iterator

from rich.markup import escape

from fairlead.cli.output import STATE_STYLES, styled
from fairlead.client import Experiment
from fairlead.client.experiment import has_ended
from fairlead.errors import FairleadError
from fairlead.representation import EventView

REFRESH_S = 1.0
QUIET_EVENTS = frozenset({"checkpoint_committed"})
"""One a step: the bar says it already."""


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


def event_line(event: EventView) -> str | None:
    """An event for people, in one line; None for one that the picture tells already."""
    if event.kind in QUIET_EVENTS:
        return None
    at = event.at.astimezone().strftime("%H:%M:%S")
    reason = f" [dim]{escape(event.reason)}[/]" if event.reason not in ("", event.to_state) else ""
    if event.to_state is None:
        return f"[dim]{at} {escape(event.kind)}[/]{reason}"
    return f"[dim]{at}[/] {styled(event.to_state, STATE_STYLES)}{reason}"

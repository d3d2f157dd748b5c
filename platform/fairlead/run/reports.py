"""What a rank has to say, on its way to the runner: gathered for a moment, sent together, in order, while it trains.

A call of its own for every step would cost the training loop a part of each step and the runner even more. A thread
sends all that half a second brings, and finishes checkpoints, whose slow half (digests, flushing to disk) needs no
waiting either. A killed rank may take its last half second along; a restart repeats those steps.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from fairlead.run.messages import Report

GATHER_S = 0.5
MAX_WAITING_VALUES = 10_000
"""Reported values that wait to be sent; a workload that reports faster than they leave waits as well."""
Action = Callable[[], None]


class ReportQueue:
    """Reports and actions between them. The first error of its thread is raised by every call that follows."""

    def __init__(self, deliver: Callable[[Sequence[Report]], None], *, gather_s: float = GATHER_S) -> None:
        self._deliver = deliver
        self._gather_s = gather_s
        self._changed = threading.Condition()
        self._entries: deque[Report | Action] = deque()
        self._num_values = 0
        self._num_actions = 0
        self._is_busy = False
        self._hurry = threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="fairlead-reports", daemon=True).start()

    def put(self, report: Report) -> None:
        """Send it soon. Waits while too many values wait."""
        with self._changed:
            while self._num_values >= MAX_WAITING_VALUES and self._error is None:
                self._hurry.set()
                self._changed.wait()
            self._append(report)
            self._num_values += len(report.metrics)

    def then(self, action: Action) -> None:
        """Run ``action`` once everything before it has been sent. Waits while an earlier action has not run."""
        with self._changed:
            while self._num_actions and self._error is None:
                self._changed.wait()
            self._append(action)
            self._num_actions += 1
            self._hurry.set()

    def flush(self) -> None:
        """Return when all that was put in has been sent and done."""
        with self._changed:
            self._hurry.set()
            while (self._entries or self._is_busy) and self._error is None:
                self._changed.wait()
            self._raise()

    def _append(self, entry: Report | Action) -> None:
        self._raise()
        self._entries.append(entry)
        self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # ---- the thread ----

    def _run(self) -> None:
        while self._error is None:
            self._await_entries()
            self._hurry.wait(self._gather_s)
            self._hurry.clear()
            try:
                while (portion := self._next()) is not None:
                    self._do(portion)
            except BaseException as error:  # whatever it is, the workload's thread must hear of it
                with self._changed:
                    self._error, self._is_busy = error, False
                    self._changed.notify_all()

    def _await_entries(self) -> None:
        with self._changed:
            while not self._entries:
                self._changed.wait()

    def _next(self) -> tuple[Report, ...] | Action | None:
        """All reports up to the next action, or that action; None at the end."""
        with self._changed:
            if not self._entries:
                return None
            self._is_busy = True
            if callable(self._entries[0]):
                return self._entries.popleft()  # type: ignore[return-value]  # a report cannot be called
            reports: list[Report] = []
            while self._entries and isinstance(self._entries[0], Report):
                reports.append(self._entries[0])
                self._entries.popleft()
            return tuple(reports)

    def _do(self, portion: tuple[Report, ...] | Action) -> None:
        if isinstance(portion, tuple):
            self._deliver(portion)
        else:
            portion()
        with self._changed:
            if isinstance(portion, tuple):
                self._num_values -= sum(len(report.metrics) for report in portion)
            else:
                self._num_actions -= 1
            self._is_busy = False
            self._changed.notify_all()

import threading
import time
from collections.abc import Sequence

import pytest

from fairlead.run import reports as module
from fairlead.run.messages import Report
from fairlead.run.reports import ReportQueue

PATIENCE_S = 20


def a_report(step: int, *, values: int = 1) -> Report:
    return Report(generation=1, step=step, metrics={f"train/{n}": 0.5 for n in range(values)}, at_ms=0)


class Runner:
    """The other end: keeps what arrives, and may be told to keep its callers waiting."""

    def __init__(self) -> None:
        self.calls: list[list[int | str]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.is_asked = threading.Event()

    def deliver(self, reports: Sequence[Report]) -> None:
        self.is_asked.set()
        assert self.may_answer.wait(PATIENCE_S)
        self.calls.append([report.step for report in reports])

    def note(self, what: str) -> None:
        self.calls.append([what])


def test_many_steps_arrive_in_few_calls_and_in_order() -> None:
    runner = Runner()
    queue = ReportQueue(runner.deliver)
    for step in range(500):
        queue.put(a_report(step))
    queue.flush()
    assert [step for call in runner.calls for step in call] == list(range(500))
    assert len(runner.calls) < 50


def test_a_report_leaves_without_being_asked_for() -> None:
    runner = Runner()
    ReportQueue(runner.deliver, gather_s=0.01).put(a_report(1))
    assert runner.is_asked.wait(PATIENCE_S)


def test_an_action_comes_after_the_reports_before_it_and_before_those_after_it() -> None:
    runner = Runner()
    queue = ReportQueue(runner.deliver)
    queue.put(a_report(1))
    queue.then(lambda: runner.note("checkpoint"))
    queue.put(a_report(2))
    queue.flush()
    assert runner.calls == [[1], ["checkpoint"], [2]]


def test_reporting_waits_for_nobody_until_too_much_waits() -> None:
    runner = Runner()
    runner.may_answer.clear()
    queue = ReportQueue(runner.deliver, gather_s=0.01)
    queue.put(a_report(0, values=module.MAX_WAITING_VALUES))
    assert runner.is_asked.wait(PATIENCE_S)
    stuck = threading.Thread(target=queue.put, args=(a_report(1),), daemon=True)
    stuck.start()
    stuck.join(0.2)
    assert stuck.is_alive()
    runner.may_answer.set()
    stuck.join(PATIENCE_S)
    assert not stuck.is_alive()


def test_a_second_checkpoint_waits_for_the_first_and_training_goes_on_beside_one() -> None:
    queue = ReportQueue(lambda _: None)
    is_written = threading.Event()
    queue.then(lambda: is_written.wait(PATIENCE_S) and None)
    queue.put(a_report(1))
    second = threading.Thread(target=queue.then, args=(lambda: None,), daemon=True)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    is_written.set()
    second.join(PATIENCE_S)
    assert not second.is_alive()
    queue.flush()


def test_what_went_wrong_is_raised_where_the_workload_hears_it() -> None:
    def fail(_: Sequence[Report]) -> None:
        raise ConnectionError("the runner is gone")

    queue = ReportQueue(fail, gather_s=0.01)
    queue.put(a_report(1))
    with pytest.raises(ConnectionError, match="the runner is gone"):
        queue.flush()
    with pytest.raises(ConnectionError):
        queue.put(a_report(2))
    with pytest.raises(ConnectionError):
        queue.then(lambda: None)


def test_a_report_costs_the_training_loop_next_to_nothing() -> None:
    queue = ReportQueue(lambda _: None)
    began_s = time.perf_counter()
    for step in range(2000):
        queue.put(a_report(step))
    assert (time.perf_counter() - began_s) / 2000 < 0.001

"""How often a loop ticks, and what becomes of rows served together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import pytest

from fairlead.control.loops import REST_AT_MOST_S, REST_SHARE, run_until
from fairlead.control.rows import in_batches
from fairlead.errors import Unavailable


class Stop(Event):
    """Notes how long it was waited for, and is set at the first wait."""

    def __init__(self) -> None:
        super().__init__()
        self.rests_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.rests_s.append(timeout or 0.0)
        self.set()
        return True


def rest_after(*, tick_s: float, is_busy: bool, idle_s: float = 0.0, name: str = "settle") -> float:
    """Seconds that a loop rests after a tick during which the bell rang."""
    stop, wake = Stop(), Event()

    def tick() -> bool:
        time.sleep(tick_s)
        if not idle_s:
            wake.set()
        return is_busy

    run_until(stop, tick, name=name, idle_s=idle_s or 60, wake=wake, may_run=lambda: True)
    return stop.rests_s[0]


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_loop_that_is_rung_all_the_time_works_a_tenth_of_it(is_busy: bool) -> None:
    assert rest_after(tick_s=0.02, is_busy=is_busy) >= REST_SHARE * 0.02 * 0.9  # the wait for the ring took no time


def test_a_long_tick_is_not_followed_by_a_long_rest() -> None:
    assert rest_after(tick_s=0.2, is_busy=True) == pytest.approx(REST_AT_MOST_S, abs=0.01)


def test_who_has_waited_for_a_ring_need_not_rest() -> None:
    assert rest_after(tick_s=0.001, is_busy=False, idle_s=0.3) == 0


def test_who_waits_for_answers_inside_a_tick_does_not_rest_after_it() -> None:
    stop, rings = Stop(), iter([True, True, False])

    def tick() -> bool:
        time.sleep(0.01)
        return next(rings)

    run_until(stop, tick, name="deliver", idle_s=0, wake=Event(), may_run=lambda: True)
    assert len(stop.rests_s) == 1, "only after the tick that found nothing"


@dataclass(frozen=True)
class Row:
    id: str


def test_the_rows_of_a_batch_that_breaks_are_served_alone() -> None:
    calls: list[list[str]] = []

    def act(rows: Sequence[Row]) -> bool:
        calls.append([row.id for row in rows])
        if any(row.id == "c" for row in rows):
            raise ValueError("c cannot be read")
        return True

    assert in_batches([Row(id=key) for key in "abcde"], act, size=2)
    assert calls == [["a", "b"], ["c", "d"], ["c"], ["d"], ["e"]]


def test_nothing_is_served_when_nothing_can_be() -> None:
    def act(rows: Sequence[Row]) -> bool:
        calls.append(len(rows))
        raise Unavailable("the database does not answer")

    calls: list[int] = []
    with pytest.raises(Unavailable):
        in_batches([Row(id=key) for key in "abc"], act, size=2)
    assert calls == [2]

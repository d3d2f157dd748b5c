from fairlead.testing import FakeClock
from fairlead_api.crowd import COUNTED_EVERY_S, Crowd


class Queue:
    """Counts how often it is counted."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.counted = 0

    def count(self) -> int:
        self.counted += 1
        return self.length


def test_while_there_is_room_the_queue_is_counted_once_a_second() -> None:
    clock, queue = FakeClock(), Queue(0)
    crowd = Crowd(clock)
    assert all(crowd.lets_in(100, queue.count) for _ in range(50))
    assert queue.counted == 1
    clock.advance(COUNTED_EVERY_S)
    assert crowd.lets_in(100, queue.count)
    assert queue.counted == 2


def test_no_more_get_in_than_there_is_room_for() -> None:
    queue = Queue(7)
    crowd = Crowd(FakeClock())
    found = []
    for _ in range(6):
        found.append(crowd.lets_in(10, queue.count))
        queue.length += found[-1]
    assert found == [True, True, True, False, False, False]


def test_nobody_is_refused_for_what_has_left() -> None:
    queue = Queue(10)
    crowd = Crowd(FakeClock())
    assert not crowd.lets_in(10, queue.count)
    queue.length = 9
    assert crowd.lets_in(10, queue.count)


def test_what_other_processes_let_in_is_seen_a_second_later() -> None:
    clock, queue = FakeClock(), Queue(0)
    crowd = Crowd(clock)
    assert crowd.lets_in(10, queue.count)
    queue.length = 10
    assert crowd.lets_in(10, queue.count)
    clock.advance(COUNTED_EVERY_S)
    assert not crowd.lets_in(10, queue.count)

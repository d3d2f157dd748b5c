"""Writers of SQLite take turns in the order they came."""

import threading
import time
from collections.abc import Callable

import pytest

from fairlead.errors import Unavailable
from fairlead.store.fair_lock import FairLock


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end_s, "it never came to be so"
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking_and_nobody_slips_in() -> None:
    lock, told = FairLock(timeout_s=10), []

    def writer(number: int) -> None:
        with lock.hold():
            told.append(number)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(20)]
    with lock.hold():
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda number=number: lock.num_waiting == number + 1)
    with lock.hold():
        assert told == list(range(20)), "asked last, served last"
    for thread in threads:
        thread.join()


def test_whoever_loses_patience_leaves_the_others_their_turns() -> None:
    lock, told = FairLock(timeout_s=0.05), []

    def writer() -> None:
        with lock.hold():
            told.append("wrote")

    with lock.hold():
        with pytest.raises(Unavailable, match=r"others have been writing for 0\.05 seconds"), lock.hold():
            pass
        assert lock.num_waiting == 0
        thread = threading.Thread(target=writer)
        thread.start()
        until(lambda: lock.num_waiting == 1)
    thread.join()
    assert told == ["wrote"]
    with lock.hold():
        pass


def test_a_turn_ends_with_whatever_was_raised_in_it() -> None:
    lock = FairLock(timeout_s=0.05)
    with pytest.raises(ValueError, match="spoiled"), lock.hold():
        raise ValueError("spoiled")
    with lock.hold():
        assert lock.num_waiting == 0


def test_many_writers_are_never_two_at_once() -> None:
    lock, inside, most = FairLock(timeout_s=30), 0, 0

    def writer() -> None:
        nonlocal inside, most
        for _ in range(300):
            with lock.hold():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=writer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside, lock.num_waiting) == (1, 0, 0)

"""Writers of SQLite take turns in the order they came."""

import threading
import time
from collections.abc import Callable

import pytest

from fairlead.errors import Unavailable
from fairlead.store.turns import Turns


def until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end_s, "it never came to be so"
        time.sleep(0.001)


def test_turns_come_in_the_order_of_asking_and_nobody_slips_in() -> None:
    turns, told = Turns(patience_s=10), []

    def writer(number: int) -> None:
        with turns.take():
            told.append(number)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(20)]
    with turns.take():
        for number, thread in enumerate(threads):
            thread.start()
            until(lambda number=number: turns.num_waiting == number + 1)
    with turns.take():
        assert told == list(range(20)), "asked last, served last"
    for thread in threads:
        thread.join()


def test_whoever_loses_patience_leaves_the_others_their_turns() -> None:
    turns, told = Turns(patience_s=0.05), []

    def writer() -> None:
        with turns.take():
            told.append("wrote")

    with turns.take():
        with pytest.raises(Unavailable, match=r"others have been writing for 0\.05 seconds"), turns.take():
            pass
        assert turns.num_waiting == 0
        thread = threading.Thread(target=writer)
        thread.start()
        until(lambda: turns.num_waiting == 1)
    thread.join()
    assert told == ["wrote"]
    with turns.take():
        pass


def test_a_turn_ends_with_whatever_was_raised_in_it() -> None:
    turns = Turns(patience_s=0.05)
    with pytest.raises(ValueError, match="spoiled"), turns.take():
        raise ValueError("spoiled")
    with turns.take():
        assert turns.num_waiting == 0


def test_many_writers_are_never_two_at_once() -> None:
    turns, inside, most = Turns(patience_s=30), 0, 0

    def writer() -> None:
        nonlocal inside, most
        for _ in range(300):
            with turns.take():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=writer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside, turns.num_waiting) == (1, 0, 0)

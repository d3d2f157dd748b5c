"""Ranks as threads of this process, for what is counted together."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fairlead.data.predictions import Ranks
from fairlead.errors import FairleadError

TIMEOUT_S = 60.0
T = TypeVar("T")


def together(num_ranks: int, work: Callable[[Ranks], T]) -> list[T]:
    """What ``work`` answers on each of so many ranks, which may gather. Raises what the first failing rank raised."""
    meeting = threading.Barrier(num_ranks, timeout=TIMEOUT_S)
    table: list[Any] = [None] * num_ranks

    def gather(number: int, value: Any) -> list[Any]:
        table[number] = value
        meeting.wait()
        values = list(table)
        meeting.wait()
        return values

    def run(number: int) -> T:
        try:
            return work(Ranks(number=number, of=num_ranks, gather=lambda value: gather(number, value)))
        except FairleadError:
            meeting.abort()
            raise

    with ThreadPoolExecutor(num_ranks) as pool:
        running = [pool.submit(run, number) for number in range(num_ranks)]
    raised = [error for each in running if (error := each.exception()) is not None]
    if raised:
        raise next((error for error in raised if not isinstance(error, threading.BrokenBarrierError)), raised[0])
    return [each.result() for each in running]

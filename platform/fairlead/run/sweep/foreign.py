"""A sampler or searcher of the user's own: whatever it raises is an error of the spec, and is said to be one."""

from collections.abc import Callable
from typing import TypeVar

from fairlead.errors import BadSpec, Problem
from fairlead.run.sweep.conductor import Proposer
from fairlead.search.space import Point
from fairlead.search.trials import Trial

T = TypeVar("T")


class Foreign:
    """Proposes what another proposer does. Raises ``BadSpec`` where that one raises anything."""

    def __init__(self, name: str, proposer: Proposer) -> None:
        self._name = name
        self._proposer = proposer

    def propose(self, no: int) -> Point | None:
        """The point of trial ``no``."""
        return self._asked(lambda: self._proposer.propose(no))

    def enter(self, no: int, point: Point) -> None:
        """Take in a trial whose point was not proposed."""
        self._asked(lambda: self._proposer.enter(no, point))

    def report(self, no: int, step: int, value: float) -> None:
        """What a running trial has reported."""
        self._asked(lambda: self._proposer.report(no, step, value))

    def tell(self, trial: Trial) -> None:
        """How a trial has ended."""
        self._asked(lambda: self._proposer.tell(trial))

    def _asked(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except Exception as error:  # code that is not ours
            message = f"{self._name} failed: {type(error).__name__}: {error}"
            problem = Problem(pointer="/search/algorithm/name", message=message)
            raise BadSpec(message, problems=(problem,)) from error

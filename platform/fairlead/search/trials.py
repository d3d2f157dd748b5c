"""A trial: one point of a sweep, and how good it turned out to be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from fairlead.search.space import Point


class TrialState(StrEnum):
    """Where a trial is in its life."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One point of a sweep and how good it turned out to be."""

    no: int
    point: Point
    state: TrialState = TrialState.RUNNING
    values: tuple[float, ...] = ()
    """Of the objectives, in their order; of one that was pruned, where it was then."""
    excesses: Mapping[str, float] = field(default_factory=dict)
    """By constraint: how far it is beyond its limit, 0 or less where it keeps it."""
    step: int = 0
    """The last one that it reported; of one that was pruned, how far it had come."""
    parent: int | None = None
    """The trial from whose checkpoint it began: how good it is says little about its own point."""

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps all constraints."""
        return all(excess <= 0 for excess in self.excesses.values())

    @property
    def is_usable(self) -> bool:
        """Whether an algorithm can go by it: a value that is not a number says nothing."""
        known = self.state in (TrialState.SUCCEEDED, TrialState.PRUNED)
        return known and bool(self.values) and not any(math.isnan(value) for value in self.values)

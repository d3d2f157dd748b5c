"""Where values lie on the plots of a sweep: axes of numbers, plain or logarithmic, and of levels."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairlead.evaluation.drawing import figure, short
from fairlead.spec.search import DimensionSpec

LARGEST = 1e300
"""Beyond it differences overflow."""
MOST_LEVELS = 8
"""Levels with a name beside them; of more, only some."""
_FAR = 3.0
"""Values further out than so many times the range of nine in ten are drawn at the edge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Positions from 0 to 1, and the names beside some of them."""

    label: str
    ticks: tuple[tuple[float, str], ...]
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    levels: tuple[Any, ...] | None = None
    num_beyond: int = 0
    """Values that lie beyond its ends, and are drawn there."""

    def at(self, value: Any) -> float | None:
        """A position; at the nearer end for what lies beyond; None for what has no place."""
        if self.levels is not None:
            number = next((no for no, one in enumerate(self.levels) if _is_same(one, value)), None)
            return None if number is None else (number + 0.5) / len(self.levels)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_drawable(value):
            return None
        if self.is_log:
            if value <= 0:
                return None
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)


def axis_of_dimension(name: str, dimension: DimensionSpec) -> Axis:
    """The range in which a parameter is looked for."""
    if dimension.choice is not None:
        levels = dimension.choice
        count = len(levels)
        named = range(count) if count <= MOST_LEVELS else sorted({round(k * (count - 1) / 7) for k in range(8)})
        ticks = tuple(((no + 0.5) / count, short(level_name(levels[no]))) for no in named)
        return Axis(label=name, ticks=ticks, levels=levels)
    low, high = map(float, dimension.bounds)
    return _of_numbers(name, low, high, is_log=dimension.is_log)


def axis_of_trials(last: int) -> Axis:
    """Numbers of trials, from 0."""
    room = max(1, last) * 0.03
    bare = _of_numbers("trial", -room, last + room)
    ticks = tuple((at, text) for at, text in bare.ticks if "." not in text and not text.startswith("\u2212"))
    return replace(bare, ticks=ticks)


def axis_of_values(
    label: str, values: Iterable[float | None], *, is_maximized: bool | None = None, always: Sequence[float] = ()
) -> Axis:
    """A range that holds the values; of an objective, a few very bad ones may lie beyond the worse end.

    ``always``: values that must be within it.
    """
    there = sorted(value for value in values if value is not None and _is_drawable(value))
    low, high = (there[0], there[-1]) if there else (0.0, 1.0)
    if there and is_maximized is not None and len(there) >= 10:
        tenth = len(there) // 10
        low_core, high_core = there[tenth] if is_maximized else low, high if is_maximized else there[-1 - tenth]
        reach = _FAR * (high_core - low_core)
        low, high = max(low, high_core - reach), min(high, low_core + reach)
    must = [value for value in always if _is_drawable(value)]
    low, high = min([low, *must]), max([high, *must])
    room = (high - low) * 0.04 or abs(low) * 0.1 or 1.0
    num_beyond = sum(not low <= value <= high for value in there)
    return _of_numbers(label, low - room, high + room, num_beyond=num_beyond)


def level_name(value: Any) -> str:
    """A value of a choice, as short as it can be told from others."""
    return value if isinstance(value, str) else json.dumps(value)


def shown(value: Any) -> str:
    """A parameter's value as people write it."""
    if isinstance(value, float):
        return figure(value)
    return short(level_name(value))


def tick(value: float) -> str:
    """A round number in few letters."""
    if value and not 1e-4 <= abs(value) < 1e7:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}".replace("-", "\u2212")
    return figure(value)


def _is_drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST


def _is_same(one: Any, other: Any) -> bool:
    """Whether they are equal; true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _of_numbers(label: str, low: float, high: float, *, is_log: bool = False, num_beyond: int = 0) -> Axis:
    bare = Axis(label=label, ticks=(), low=low, high=high, is_log=is_log)
    values = _log_ticks(low, high) if is_log else _plain_ticks(low, high)
    placed = ((bare.at(value), tick(value)) for value in values)
    ticks = tuple((at, text) for at, text in placed if at is not None)
    return replace(bare, ticks=ticks, num_beyond=num_beyond)


def _plain_ticks(low: float, high: float) -> list[float]:
    """Round numbers, four or so."""
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if rough <= factor * size * (1 + 1e-9))
    first = math.ceil(low / step - 1e-9)
    numbers = range(first, first + 8)
    return [0.0 if number == 0 else number * step for number in numbers if number * step <= high + step * 1e-9]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; over few of them also what lies between."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = last - first
    factors = (1, 2, 5) if decades <= 2 else (1,)
    every = max(1, math.ceil(decades / 5))
    found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    inside = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    return inside if len(inside) >= 2 else [low, high]

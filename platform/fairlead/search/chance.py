"""Points of a space that chance makes: drawn anew, or another one a little changed."""

import math
from typing import Any

import numpy as np

from fairlead.search.space import Point, draw, nearest
from fairlead.spec.search import DimensionSpec, PbtSpec, SearchSpec


def at_random(search: SearchSpec, random: np.random.Generator) -> dict[str, Any]:
    """A point, drawn anew."""
    return draw(search, lambda _, dimension: value_at_random(dimension, random))


def value_at_random(dimension: DimensionSpec, random: np.random.Generator) -> Any:
    """A value of one parameter, all of its values as likely, or all of their ratios."""
    if dimension.choice is not None:
        return dimension.choice[int(random.integers(len(dimension.choice)))]
    low, high = dimension.bounds
    half = 0.5 if dimension.is_whole and dimension.is_log else 0.0  # else both ends would be half as likely
    if dimension.is_log:
        return nearest(dimension, math.exp(random.uniform(math.log(low - half), math.log(high + half))))
    if not dimension.is_whole and dimension.step is None:
        return float(random.uniform(low, high))
    step = dimension.step or 1
    return nearest(dimension, low + step * int(random.integers(math.floor((high - low) / step + 1e-8) + 1)))


def changed(search: SearchSpec, asked: PbtSpec, point: Point, random: np.random.Generator) -> dict[str, Any]:
    """``point`` with its numbers moved by one of the factors, and some values drawn anew."""

    def suggest(name: str, dimension: DimensionSpec) -> Any:
        if random.random() < asked.resample or name not in point:
            return value_at_random(dimension, random)
        if dimension.choice is not None:
            return point[name]
        return _moved(dimension, point[name], float(random.choice(asked.factors)))

    return draw(search, suggest)


def _moved(dimension: DimensionSpec, value: float, factor: float) -> float:
    """A step at least, where there are steps and room: 1.2 times 2 is no other whole number than 2."""
    moved = nearest(dimension, value * factor)
    if moved != value or value == 0 or factor == 1:
        return moved
    return nearest(
        dimension, value + math.copysign(dimension.step or (1 if dimension.is_whole else 0), value * (factor - 1))
    )

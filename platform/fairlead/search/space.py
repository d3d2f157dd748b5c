"""The space of a sweep: which points it has, and whether the workload can be given them. Pure, and without Optuna."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from fairlead.errors import Problem
from fairlead.spec import Manifest
from fairlead.spec.search import DimensionSpec, SearchSpec

Point = Mapping[str, Any]
"""Values by parameter, without those that are not looked for at this point."""
Suggest = Callable[[str, DimensionSpec], Any]
_SLACK = 1e-8
"""In steps: 0.1 + 0.2 is a whole number of tenths."""


def draw(search: SearchSpec, suggest: Suggest) -> dict[str, Any]:
    """A point, asking ``suggest`` for each parameter that is looked for, those first on which others depend."""
    point: dict[str, Any] = {}
    for name in search.order():
        dimension = search.space[name]
        if _is_looked_for(dimension, point):
            point[name] = suggest(name, dimension)
    return point


def _is_looked_for(dimension: DimensionSpec, point: Point) -> bool:
    return all(other in point and point[other] in values for other, values in dimension.when.items())


def nearest(dimension: DimensionSpec, value: float) -> float:
    """Of a range of numbers: the one that lies nearest to ``value``."""
    low, high = dimension.bounds
    value = min(high, max(low, value))
    if dimension.step is None and not dimension.is_whole:
        return value
    step = Fraction(str(dimension.step or 1))
    begin, end = Fraction(str(low)), Fraction(str(high))
    steps = min((end - begin) // step, round((Fraction(value) - begin) / step))
    found = begin + steps * step
    return int(found) if dimension.is_whole else float(found)


def grid(search: SearchSpec) -> Iterator[dict[str, Any]]:
    """All points, in an order that never changes: the last parameter moves first.

    Raises ``ValueError`` where a parameter has no values that can be listed.
    """
    names = search.order()

    def from_here(position: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if position == len(names):
            yield dict(point)
            return
        name = names[position]
        if not _is_looked_for(search.space[name], point):
            yield from from_here(position + 1, point)
            return
        values = search.space[name].values
        if values is None:
            raise ValueError(f"{name} has no values that can be listed")
        for value in values:
            yield from from_here(position + 1, {**point, name: value})

    return from_here(0, {})


def size(search: SearchSpec, *, most: int) -> int | None:
    """How many points there are, counted up to ``most``; None where they cannot be listed."""
    if any(dimension.values is None for dimension in search.space.values()):
        return None
    return sum(1 for _ in itertools.islice(grid(search), most))


def problems_with_point(search: SearchSpec, point: Point) -> tuple[Problem, ...]:
    """Why a point that was made by hand is none of this space."""
    found = []
    for name in point:
        if name not in search.space:
            hint = f"known: {', '.join(search.space)}"
            found.append(Problem(pointer=f"/{name}", message="is not looked for by this sweep", suggestion=hint))
    for name in search.order():
        dimension = search.space[name]
        is_wanted = _is_looked_for(dimension, point)
        if is_wanted and name not in point:
            found.append(Problem(pointer=f"/{name}", message="is missing: this point needs it"))
        elif name in point and not is_wanted:
            found.append(Problem(pointer=f"/{name}", message="has no place at this point: see its when"))
        elif name in point and (message := _why_outside(dimension, point[name])):
            found.append(Problem(pointer=f"/{name}", message=message))
    return tuple(found)


def _why_outside(dimension: DimensionSpec, value: Any) -> str | None:
    if dimension.choice is not None:
        is_there = any(value == one and type(value) is type(one) for one in dimension.choice)
        return None if is_there else f"must be one of {', '.join(map(repr, dimension.choice))}, not {value!r}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (dimension.is_whole and value != int(value)):
        return f"must be a {'whole ' if dimension.is_whole else ''}number, not {value!r}"
    low, high = dimension.bounds
    if not low <= value <= high:
        return f"must lie between {low:g} and {high:g}, not {value!r}"
    steps = (value - low) / (dimension.step or 1)
    if dimension.step is not None and abs(steps - round(steps)) > _SLACK:
        return f"must be {low:g} and whole steps of {dimension.step:g}, not {value!r}"
    return None


def problems_with_space(
    search: SearchSpec, params: Mapping[str, Any], manifest: Manifest | None
) -> tuple[Problem, ...]:
    """What the workload cannot be given, and what is said twice. Without a manifest only the latter can be known."""
    found = []
    for name, dimension in search.space.items():
        here = f"/search/space/{name}"
        if name in params:
            message = "is given under params as well: it is either fixed or looked for"
            found.append(Problem(pointer=here, message=message))
        if manifest is None:
            continue
        parameter = manifest.parameters.get(name)
        if parameter is None:
            known = f"known: {', '.join(manifest.parameters)}"
            found.append(Problem(pointer=here, message="unknown parameter", suggestion=known))
            continue
        if parameter.type == "int" and dimension.choice is None and not dimension.is_whole:
            hint = "write int or log_int"
            found.append(Problem(pointer=here, message="takes whole numbers only", suggestion=hint))
            continue
        messages = (parameter.problem_with(value) for value in dimension.choice or dimension.bounds)
        if first := next(filter(None, messages), None):
            found.append(Problem(pointer=here, message=first))
    return tuple(found)

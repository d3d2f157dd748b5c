"""What a sweep looks for, in words and as a table: of a spec, before anything has run."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from fairlead.cli.output import table
from fairlead.spec import ExperimentSpec
from fairlead.spec.search import (
    AshaSpec,
    DimensionSpec,
    EarlyStoppingSpec,
    MedianSpec,
    ObjectiveSpec,
    PbtSpec,
    SearchSpec,
)

_NAMES = {"asha": "ASHA", "hyperband": "Hyperband"}
MOST_CHOICES = 6
"""Of a choice, in one line; the spec has all."""


def print_search(console: Console, spec: ExperimentSpec) -> None:
    """The space, how it is searched, and what for. Nothing for a spec that is no sweep."""
    search = spec.search
    if search is None:
        return
    console.print(f"\n[bold]a sweep[/]: {escape(described(search))}")
    console.print(f"  {escape(goals(search.objectives))}")
    for text in search.constraints:
        console.print(f"  only where {escape(text)}")
    rows = table("parameter", "from", "to", "how")
    for name, dimension in search.space.items():
        rows.add_row(escape(name), *(escape(cell) for cell in _range(dimension)))
    console.print(rows)


def described(search: SearchSpec) -> str:
    """How a space is searched and for how long, in one line."""
    most = f"at most {search.concurrency} at a time" if search.concurrency else "as many at a time as there is room for"
    parts = [f"{search.trials} trials, {most}", search.chosen.name, early_stopping(search.early_stopping)]
    parts += [f"at most {search.hours:g} h"] if search.hours is not None else []
    parts += [f"until {search.plateau.trials} trials have not made it better"] if search.plateau is not None else []
    parts += [f"after what sweep {search.inherit} found"] if search.inherit is not None else []
    return "; ".join(parts)


def early_stopping(asked: EarlyStoppingSpec | None) -> str:
    """Which trials are stopped early, in words."""
    if asked is None:
        return "no trial is stopped early"
    name, way = next((name, way) for name, way in asked if way is not None)
    if isinstance(way, MedianSpec):
        return f"stopped early where worse than the median, after {way.grace} steps"
    if isinstance(way, AshaSpec):
        best = f"the best of every {way.reduction_factor} go on"
        return f"stopped early by {_NAMES[name]}: {best}, from step {way.grace} to {way.max_resource}"
    assert isinstance(way, PbtSpec), "it is one of the four"
    return f"population based training: every {way.interval} steps good ones are continued in the place of bad ones"


def goals(objectives: Iterable[ObjectiveSpec]) -> str:
    """``maximize validation/accuracy, minimize train/loss``."""
    return ", ".join(f"{'maximize' if one.is_maximized else 'minimize'} {one.metric}" for one in objectives)


def _range(dimension: DimensionSpec) -> tuple[str, str, str]:
    """Where from, where to, and how: of a choice the values."""
    when = "".join(
        f"; only where {name} is {' or '.join(value_text(value) for value in values)}"
        for name, values in dimension.when.items()
    )
    if dimension.choice is not None:
        listed = [value_text(value) for value in dimension.choice[:MOST_CHOICES]]
        listed += [f"{len(dimension.choice) - MOST_CHOICES} more"] if len(dimension.choice) > MOST_CHOICES else []
        return "", "", f"one of {', '.join(listed)}{when}"
    low, high = dimension.bounds
    how = "whole numbers, " if dimension.is_whole else ""
    how += "by ratio" if dimension.is_log else "evenly"
    step = f", in steps of {dimension.step:g}" if dimension.step is not None else ""
    return f"{low:g}", f"{high:g}", how + step + when


def value_text(value: Any) -> str:
    """A parameter's value, short: three digits are enough to recognise it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return f"[{','.join(value_text(one) for one in value)}]"
    return str(value)


def point_text(params: Mapping[str, Any]) -> str:
    """``lr=0.01 hidden=[16]``."""
    return " ".join(f"{name}={value_text(value)}" for name, value in params.items())

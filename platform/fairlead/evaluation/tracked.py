"""Names under which numbers of a report are tracked: ``rai/<metric>/<grouping>``, and its bounds behind a dot.

A sweep may aim at any of them, so they must be known before there is a report: ``flat_metrics`` makes them.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairlead.evaluation.measured import METRICS
from fairlead.evaluation.metrics import (
    Task,
    aggregate_names,
    canonical,
    is_over_groups,
    known_metric,
    metric_names,
    nearest_metric,
)

PREFIX = "rai/"
OVERALL = "overall"
BOUNDS = ("lower95", "upper95")
_KEY_LIMIT = 250


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """A name taken apart."""

    metric: str
    place: str
    """``overall``, or the slug of a grouping."""
    bound: str | None = None


def key_of(metric: str, place: str) -> str:
    """The name of a value."""
    return f"{PREFIX}{metric}/{place}"


def slugs(groupings: Iterable[Sequence[str]]) -> list[str]:
    """Names of groupings that tracking accepts, different for different groupings."""
    found: list[str] = []
    for by in groupings:
        slug = "__".join(re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in by)
        if len(slug) > _KEY_LIMIT // 2 or slug in {*found, OVERALL}:
            digest = hashlib.sha256("\0".join(by).encode()).hexdigest()[:8]
            slug = f"{slug[: _KEY_LIMIT // 2]}-{digest}"
        found.append(slug)
    return found


def is_tracked(name: str) -> bool:
    """Whether it is the name of a number of the report, and not one that the workload reports."""
    return name.startswith(PREFIX)


def read_key(key: str) -> Tracked | None:
    """The parts of a name; None for one that is not of this form. The last part wins where it looks like a bound."""
    metric, slash, place = key.removeprefix(PREFIX).partition("/")
    if not is_tracked(key) or not slash or not metric or not place:
        return None
    for bound in BOUNDS:
        if place.endswith(f".{bound}"):
            return Tracked(metric=metric, place=place.removesuffix(f".{bound}"), bound=bound)
    return Tracked(metric=metric, place=place)


def metrics_in(keys: Iterable[str]) -> tuple[str, ...]:
    """Metrics that a report must hold for these names, each once: what ``flat_metrics`` is to be asked for."""
    found = (read_key(key) for key in keys)
    return tuple(dict.fromkeys(one.metric for one in found if one is not None))


def problem_with_key(key: str, *, task: Task, groupings: Sequence[tuple[str, ...]]) -> str | None:
    """Why the report of a trial never holds ``key``, with what to do about it; None if it may.

    ``groupings``: those of its report. Whether there are scores is only known once it has run.
    """
    one = read_key(key)
    if one is None or "/" in one.place:
        return (
            f"{key!r} is no number of the report: they are called rai/<metric>/<grouping>, and rai/<metric>/{OVERALL}"
        )
    if one.metric in METRICS:
        return f"{one.metric!r} is not measured in trials: ask for it in a gate of what is promoted"
    if not known_metric(one.metric, task):
        near = nearest_metric(one.metric, task)
        hint = f"did you mean {near!r}?" if near else "see a report for the names that exist"
        return f"no metric of a {task} task is called {one.metric!r}; {hint}"
    if (name := canonical(one.metric)) != one.metric:
        return f"the report calls {one.metric!r} {name!r}: write rai/{name}/{one.place}"
    if is_over_groups(one.metric, task):
        return _problem_over_groups(one, task, slugs(groupings))
    if one.place != OVERALL:
        return f"{one.metric!r} is one value for all rows: ask for rai/{one.metric}/{OVERALL}, or for its _group_min"
    return None if one.metric in metric_names(task) else _not_in_reports(one)


def _problem_over_groups(one: Tracked, task: Task, there: Sequence[str]) -> str | None:
    if one.metric not in aggregate_names(task):
        return _not_in_reports(one)
    if one.place in there:
        return None
    if not there:
        return f"{one.metric!r} compares groups, and there are none: list some under evaluation.groupings"
    if one.place == OVERALL:
        return f"{one.metric!r} compares groups: say which, as in rai/{one.metric}/{there[0]}"
    near = next(iter(difflib.get_close_matches(one.place, there, n=1)), None)
    hint = f"did you mean {near!r}?" if near else "add it to evaluation.groupings"
    return f"the report compares no groups by {one.place!r}, only by {', '.join(there)}; {hint}"


def _not_in_reports(one: Tracked) -> str:
    return f"{one.metric!r} is only counted where a gate asks for it: trials have none"

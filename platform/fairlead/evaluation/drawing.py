"""How values look on the page: marks on scales, charts, and numbers and names as people write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Any

from fairlead.evaluation.cells import UNKNOWN

Report = Mapping[str, Any]
Key = tuple[str, ...]
CHART = 220.0
"""Length of a chart's side, in its own units."""
MOST_LETTERS = 60
REASONS = {
    "empty": "no rows",
    "no_positive_labels": "no positive labels",
    "no_negative_labels": "no negative labels",
    "no_positive_predictions": "none predicted positive",
    "no_negative_predictions": "none predicted negative",
    "single_group": "fewer than two groups have a value",
    "both_zero": "all rates are zero",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A value with its interval on a scale from 0 to 1; positions in percent, None where there is no value."""

    text: str
    note: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    is_low_support: bool = False
    pooled: str = ""
    """Of few rows: what all groups together suggest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a chart, in units of the chart; ``style`` picks colour, dashes and marker together."""

    name: str
    style: int
    points: tuple[tuple[float, float], ...]
    has_markers: bool
    bands: tuple[tuple[float, float, float], ...] = ()
    """Vertical intervals: x, bottom, top."""

    @property
    def path(self) -> str:
        """Points as SVG wants them."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A square chart, its upright axis from 0 to 1, points in units of the chart."""

    title: str
    x_axis: str
    y_axis: str
    series: tuple[Series, ...]
    has_diagonal: bool
    x_end: float = 1.0
    """The value at the right end."""
    marker_at: float | None = None
    """A vertical line, such as the threshold in use."""


def hidden_groups(groups: Sequence[Mapping[str, Any]], *, min_display: int) -> frozenset[Key]:
    """Which groups of one grouping are hidden: small ones, and a second one where one alone could be computed.

    In every line of the table (all groups, and all groups that share a level of one attribute) a single hidden
    group takes the smallest other one with it. ``groups`` are entries of the report with equal ``by``.
    """
    sizes = {tuple(group["key"].values()): group["n"] for group in groups if group["n"]}
    hidden = {key for key, rows in sizes.items() if rows < min_display}
    width = len(next(iter(sizes), ()))
    lines = [list(sizes)]
    for axis in range(width if width > 1 else 0):
        levels = dict.fromkeys(key[axis] for key in sizes)
        lines += [[key for key in sizes if key[axis] == level] for level in levels]
    is_settled = False
    while not is_settled:
        is_settled = True
        for line in lines:
            seen = [key for key in line if key not in hidden]
            if seen and len(line) - len(seen) == 1:
                hidden.add(min(seen, key=lambda key: (sizes[key], key)))
                is_settled = False
    return frozenset(hidden)


def hidden_by(report: Report, by: Sequence[str]) -> frozenset[Key]:
    """Groups of ``by`` that are hidden."""
    found = [group for group in report["groups"] if set(group["by"]) == set(by)]
    return hidden_groups(found, min_display=report["settings"]["min_display"])


def mark_of_bounds(entry: Mapping[str, Any], *, end: float = 1.0) -> Mark:
    """Value and one-sided bounds of a gap or a gate, on a scale from 0 to ``end``."""
    if entry["value"] is None:
        return Mark(text="no value", note=REASONS.get(entry.get("reason", ""), ""))
    low, high = entry["lower95"], entry["upper95"]
    is_exact = low is not None and low == high == entry["value"]
    return Mark(
        text=number(entry["value"]),
        note="" if low is None or is_exact else f"{number(low)} to {number(high)}",
        at=percent(entry["value"] / end),
        low=None if low is None else percent(low / end),
        high=None if high is None else percent(high / end),
    )


def mark_of_difference(entry: Mapping[str, Any], *, end: float) -> Mark:
    """Value and one-sided bounds of a difference that may have either sign, on a scale from -``end`` to ``end``."""
    if entry["value"] is None:
        return Mark(text="no value")
    low, high = entry["lower95"], entry["upper95"]
    at, start, stop = (
        None if value is None else percent((value + end) / (2 * end)) for value in (entry["value"], low, high)
    )
    return Mark(
        text=signed(entry["value"]),
        note="" if low is None else f"{signed(low)} to {signed(high)}",
        at=at,
        low=start,
        high=stop,
    )


def mark_of_interval(entry: Mapping[str, Any]) -> Mark:
    """Value and two-sided interval of one group."""
    pooled = f"{number(entry['pooled']['value'])} with the others" if "pooled" in entry else ""
    if entry["value"] is None:
        return Mark(text="–", note=REASONS.get(entry.get("reason", ""), entry.get("reason", "")), pooled=pooled)
    low, high = entry["interval"] or (None, None)
    return Mark(
        text=number(entry["value"]),
        note=f"{number(low)} to {number(high)}" if low is not None else "",
        at=percent(entry["value"]),
        low=percent(low),
        high=percent(high),
        is_low_support=entry["support"] == "low",
        pooled=pooled,
    )


def round_end(values: Sequence[float | None], *, least: float = 0.1) -> float:
    """A round number of at least ``least`` that none of them exceeds."""
    reach = max((value for value in values if value is not None and isfinite(value)), default=1.0)
    return next((end for end in _ROUND_ENDS if max(reach, least) <= end), float(ceil(reach)))


_ROUND_ENDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


def signed(value: float | None) -> str:
    """With its sign, a true minus."""
    return "no value" if value is None else f"{value:+.3f}".replace("-", "\u2212")


def group_name(key: Key) -> str:
    """A group as its levels."""
    return " · ".join(short(level) for level in key)


def listed_by(names: Sequence[str]) -> str:
    """Attributes in a row of words."""
    return " and ".join(short(name) for name in names)


def short(text: str) -> str:
    """Text from data, printable and not too long."""
    if text == UNKNOWN:
        return "unknown"
    plain = "".join(letter if letter.isprintable() else "�" for letter in text) or "(empty)"
    return plain if len(plain) <= MOST_LETTERS else f"{plain[:MOST_LETTERS]}…"


def place(x: float, y: float) -> tuple[float, float]:
    """A point of the unit square in the units of a chart."""
    return x * CHART, (1 - y) * CHART


def percent(value: float | None) -> float | None:
    """A position on a scale from 0 to 1, in percent; None off the scale."""
    return None if value is None or not -1e-9 <= value <= 1 + 1e-9 else round(100 * value, 2)


def number(value: float | None) -> str:
    """Three digits after the point."""
    return "–" if value is None else f"{value:.3f}"


def sentence(text: str) -> str:
    """``text`` as a sentence."""
    return f"{text[:1].upper()}{text[1:]}.".replace("<=", "≤").replace(">=", "≥")


def count(value: float) -> str:
    """A whole number, its thousands apart."""
    return f"{int(value):,}".replace(",", " ")

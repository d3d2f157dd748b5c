"""How values look on the page: marks on scales, charts, and numbers and names as people write them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite, log10
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
    "no_variation": "no variation",
    "below_resolution": "too small beside the range of the numbers",
    "no_relevance": "no relevance",
    "no_query_of_its_own": "no list of its own",
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
class Scale:
    """Where values are drawn, from ``start`` to ``end``; ``is_open``: of any size, not shares of 1."""

    start: float = 0.0
    end: float = 1.0
    is_open: bool = False

    @property
    def ends(self) -> tuple[str, str]:
        """What stands at both ends."""
        return figure(self.start), figure(self.end)

    def at(self, value: float | None) -> float | None:
        """A position in percent; None off the scale."""
        return None if value is None else percent((value - self.start) / (self.end - self.start))

    def side(self, value: float | None) -> float | None:
        """The same, but at the nearer end where an interval leaves the scale."""
        return None if value is None else self.at(min(max(value, self.start), self.end))

    def text(self, value: float | None) -> str:
        """A value in as many digits as are worth reading."""
        return number(value) if value is None or not self.is_open else figure(value)


SHARES = Scale()


def scale_of(values: Sequence[float | None]) -> Scale:
    """A scale for values of any size: from 0, or as far to the left as to the right, to a round number."""
    there = [value for value in values if value is not None and isfinite(value)]
    reach = max(map(abs, there), default=1.0) or 1.0
    size = 10.0 ** floor(log10(reach))
    end = next(step * size for step in (1, 1.5, 2, 3, 4, 5, 7.5, 10) if reach <= step * size * (1 + 1e-9))
    return Scale(start=-end if min(there, default=0.0) < 0 else 0.0, end=end, is_open=True)


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
    """A square chart, points in units of the chart."""

    title: str
    x_axis: str
    y_axis: str
    series: tuple[Series, ...]
    has_diagonal: bool
    x_end: float = 1.0
    """The value at the right end."""
    x_start: float = 0.0
    y_start: float = 0.0
    y_end: float = 1.0
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


def mark_of_bounds(entry: Mapping[str, Any], *, end: float = 1.0, scale: Scale | None = None) -> Mark:
    """Value and one-sided bounds of a gap or a gate, on ``scale`` or on one from 0 to ``end``."""
    on = scale or Scale(end=end)
    if entry["value"] is None:
        return Mark(text="no value", note=REASONS.get(entry.get("reason", ""), ""))
    low, high = entry["lower95"], entry["upper95"]
    is_exact = low is not None and low == high == entry["value"]
    place = on.side if on.is_open else on.at
    return Mark(
        text=on.text(entry["value"]),
        note="" if low is None or high is None or is_exact else f"{on.text(low)} to {on.text(high)}",
        at=on.at(entry["value"]),
        low=place(low),
        high=place(high),
    )


def mark_of_difference(entry: Mapping[str, Any], *, scale: Scale) -> Mark:
    """Value and one-sided bounds of a difference that may have either sign, with their signs."""
    mark, low, high = mark_of_bounds(entry, scale=scale), entry["lower95"], entry["upper95"]
    if entry["value"] is None:
        return mark
    return replace(mark, text=signed(entry["value"]), note="" if low is None else f"{signed(low)} to {signed(high)}")


def mark_of_interval(entry: Mapping[str, Any], *, scale: Scale = SHARES) -> Mark:
    """Value and two-sided interval of one group."""
    pooled = f"{number(entry['pooled']['value'])} with the others" if "pooled" in entry else ""
    if entry["value"] is None:
        return Mark(text="–", note=REASONS.get(entry.get("reason", ""), entry.get("reason", "")), pooled=pooled)
    low, high = entry["interval"] or (None, None)
    place = scale.side if scale.is_open else scale.at
    return Mark(
        text=scale.text(entry["value"]),
        note=f"{scale.text(low)} to {scale.text(high)}" if low is not None else "",
        at=scale.at(entry["value"]),
        low=place(low),
        high=place(high),
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


def figure(value: float) -> str:
    """Four digits of a number of any size, its thousands apart, with a true minus."""
    size = floor(log10(abs(value))) if value else 0
    if not -4 <= size < 9:
        text = f"{value:.3e}"
    else:
        text = f"{value:,.{max(0, 3 - size)}f}".replace(",", " ")
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "\u2212")


def sentence(text: str) -> str:
    """``text`` as a sentence."""
    return f"{text[:1].upper()}{text[1:]}.".replace("<=", "≤").replace(">=", "≥")


def count(value: float) -> str:
    """A whole number, its thousands apart."""
    return f"{int(value):,}".replace(",", " ")

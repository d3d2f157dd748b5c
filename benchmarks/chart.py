"""Bars and curves as SVG, without a plotting library: readable on light and dark pages."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

OURS, THEIRS = "#3b82c4", "#8a8f98"
_COLOURS = ("#3b82c4", "#d97706", "#16a34a", "#c026d3", "#0d9488", "#dc2626", "#7c3aed", "#a16207")
_SPREAD, _GRID = "#c2410c", 'stroke="#767676" stroke-opacity=".25"'
_WIDTH, _LABELS, _ROW = 760, 250, 26
_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 74, 190, 48, 52
_LABEL_GAP, _DIGIT = 15.0, 7.5
"""How far apart labels lie below each other, and how wide a digit is."""
_MANY = 60
"""Points of a curve that are drawn small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: its end is ``value``; a thin line goes from ``low`` to ``high``."""

    label: str
    value: float
    low: float
    high: float
    is_ours: bool = True
    """What is compared with it is grey."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve through ``points``, from left to right."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """Where a value lies on the picture."""

    place: Callable[[float], float]
    ticks: Sequence[float]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, one below the other. Values are not negative."""
    scale = (_WIDTH - _LABELS - 80) / max([row.high for row in rows if row.high > 0] or [1.0])
    drawn = [_bar(row, 44 + _ROW * number, scale) for number, row in enumerate(rows)]
    return _picture(title, 50 + _ROW * len(rows), drawn)


def numbers(title: str, values: Mapping[str, float]) -> str:
    """One bar for each number, measured once."""
    known = {name: max(0.0, value) for name, value in values.items()}
    return bars(title, [Bar(label=name, value=value, low=value, high=value) for name, value in known.items()])


def _bar(row: Bar, top: int, scale: float) -> str:
    middle, end = top + 9, _LABELS + row.high * scale
    return (
        f'<text x="{_LABELS - 8}" y="{top + 13}" text-anchor="end">{escape(row.label)}</text>'
        f'<rect x="{_LABELS}" y="{top}" width="{row.value * scale:.1f}" height="18" '
        f'fill="{OURS if row.is_ours else THEIRS}"/>'
        f'<line x1="{_LABELS + row.low * scale:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="{_SPREAD}" '
        f'stroke-width="2"/><text x="{end + 8:.1f}" y="{top + 13}">{shown(row.value)}</text>'
    )


def curves(title: str, lines: Sequence[Line], *, x: str, y: str, is_log: bool = True) -> str:
    """Curves with one dot a measured point, on logarithmic axes or on plain ones from zero.

    A logarithmic axis has no place for what is not positive: such points are left out.
    """
    usable = [Line(label=each.label, points=_fit(each.points) if is_log else each.points) for each in lines]
    points = [point for line in usable for point in line.points] or [(1.0, 1.0)]
    across = _axis([at for at, _ in points], _LEFT, _WIDTH - _RIGHT, is_log=is_log)
    up = _axis([at for _, at in points], _HEIGHT - _BOTTOM, _TOP, is_log=is_log)
    named = _with_room(across.ticks, across)
    drawn = [_tick_across(at, across, is_named=at in named) for at in across.ticks] + [
        _tick_up(at, up) for at in up.ticks
    ]
    drawn += [_named(x, _LEFT, _HEIGHT - 12), _named(y, 8, _TOP - 10)]
    ends = _apart([up.place(line.points[-1][1]) if line.points else math.inf for line in usable])
    for number, line in enumerate(usable):
        if line.points:
            drawn.append(_curve(line, _COLOURS[number % len(_COLOURS)], across, up, ends[number]))
    return _picture(title, _HEIGHT, drawn)


def _fit(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(at, value) for at, value in points if at > 0 and value > 0]


def _axis(values: Sequence[float], begin: float, end: float, *, is_log: bool) -> _Axis:
    ticks = _log_ticks(min(values), max(values)) if is_log else _plain_ticks(max(values))
    low, high = (math.log(each) if is_log else each for each in (ticks[0], ticks[-1]))
    return _Axis(
        place=lambda value: begin + (end - begin) * ((math.log(value) if is_log else value) - low) / (high - low),
        ticks=ticks,
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """From the 1, 2 or 5 below ``low`` to the one above ``high``; only powers of ten where there would be many."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for digits in ((1, 2, 5), (1,)):
        marks = [digit * 10.0**power for power in powers for digit in digits]
        first = max(number for number, mark in enumerate(marks) if mark <= low * 1.0001)
        last = min(number for number, mark in enumerate(marks) if mark >= high / 1.0001 and number > first)
        if last - first <= 9:
            break
    return marks[first : last + 1]


def _plain_ticks(high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10(high)) if high > 0 else 1.0
    step = next(step * part for part in (0.2, 0.5, 1, 2) if high / (step * part) <= 6)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)] if high > 0 else [0.0, 1.0]


def _apart(places: Sequence[float]) -> list[float]:
    """The same places, moved down where two labels would lie on each other."""
    moved, last = list(places), -math.inf
    for number in sorted(range(len(places)), key=lambda each: places[each]):
        last = moved[number] = max(places[number], last + _LABEL_GAP)
    return moved


def _with_room(ticks: Sequence[float], across: _Axis) -> list[float]:
    """Ticks whose numbers do not touch each other: all, or the powers of ten, or every second or third."""
    tens = [at for at in ticks if at > 0 and math.log10(at).is_integer()]
    for chosen in (ticks, *([tens] if len(tens) > 1 else []), ticks[::2], ticks[::3]):
        places = [(across.place(at), len(shown(at)) * _DIGIT / 2) for at in chosen]
        if all(left + half + _DIGIT < right - other for (left, half), (right, other) in pairwise(places)):
            break
    return list(chosen)


def _tick_across(value: float, across: _Axis, *, is_named: bool) -> str:
    at = across.place(value)
    number = f'<text x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{shown(value)}</text>'
    return (
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" {_GRID}/>{number if is_named else ""}'
    )


def _tick_up(value: float, up: _Axis) -> str:
    at = up.place(value)
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" {_GRID}/>'
        f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{shown(value)}</text>'
    )


def _named(text: str, x: float, y: float) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'


def _curve(line: Line, colour: str, across: _Axis, up: _Axis, label_at: float) -> str:
    places = [(across.place(at), up.place(value)) for at, value in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    radius = 3 if len(places) <= _MANY else 1
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>' for x, y in places)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{radius / 2 + 0.5}"/>{dots}'
        f'<text x="{_WIDTH - _RIGHT + 10}" y="{label_at + 4:.1f}" fill="{colour}">{escape(line.label)}</text>'
    )


def _picture(title: str, height: int, drawn: Sequence[str]) -> str:
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="13" fill="#767676">\n'
        f'<text x="8" y="22" font-size="15">{escape(title)}</text>\n{body}\n</svg>\n'
    )


def shown(value: float) -> str:
    """Three digits that count, and no exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")

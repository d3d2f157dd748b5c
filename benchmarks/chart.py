"""Bar charts as SVG, without a plotting library: readable on light and dark pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _LABELS, _ROW = 760, 240, 26


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar: its end is ``value``; a thin line goes from ``low`` to ``high``."""

    label: str
    value: float
    low: float
    high: float


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars from zero, one below the other. Values are not negative."""
    scale = (_WIDTH - _LABELS - 70) / max([row.high for row in rows] or [1.0])
    height = 50 + _ROW * len(rows)
    drawn = "\n".join(_bar(row, 44 + _ROW * number, scale) for number, row in enumerate(rows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="13" fill="#767676">\n'
        f'<text x="8" y="22" font-size="15">{escape(title)}</text>\n{drawn}\n</svg>\n'
    )


def _bar(row: Bar, top: int, scale: float) -> str:
    middle, end = top + 9, _LABELS + row.high * scale
    return (
        f'<text x="{_LABELS - 8}" y="{top + 13}" text-anchor="end">{escape(row.label)}</text>'
        f'<rect x="{_LABELS}" y="{top}" width="{row.value * scale:.1f}" height="18" fill="#3b82c4"/>'
        f'<line x1="{_LABELS + row.low * scale:.1f}" x2="{end:.1f}" y1="{middle}" y2="{middle}" stroke="#c2410c" '
        f'stroke-width="2"/><text x="{end + 8:.1f}" y="{top + 13}">{row.value:.2f}</text>'
    )

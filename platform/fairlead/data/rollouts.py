"""Plays for people to look at: an animation of one, and how returns rose.

Drawn here from observations: gymnasium draws its environments with pygame, which is large and not needed to play.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 360, 240
MOST_FRAMES = 150
FRAME_MS = 50
_INK, _LIGHT, _ACCENT, _SECOND = "#1f2933", "#cbd2d9", "#2f6f9f", "#c8553d"
_PAPER = "#ffffff"
_OVERSAMPLING = 3  # Pillow's lines are not smooth by themselves


class History:
    """Metrics of every round, for a curve at the end; part of a checkpoint."""

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {}
        """By metric: round and value."""

    def add(self, number: int, metrics: Mapping[str, float]) -> None:
        """Enter the metrics of round ``number``."""
        for name, value in metrics.items():
            self.points.setdefault(name, []).append((number, value))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"points": self.points}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.points = {name: [(number, value) for number, value in points] for name, points in state["points"].items()}


def animation(environment: str, observations: NDArray[np.float32], *, total: float) -> bytes:
    """A GIF of one episode, ``observations``: shape (steps + 1, observations); of a long one every second step, or so.

    Of environments other than CartPole and Acrobot each observation is a bar between the ends it reaches.
    """
    every = -(-len(observations) // MOST_FRAMES)
    chosen = [*range(0, len(observations) - 1, every), len(observations) - 1]
    low, high = observations.min(axis=0), observations.max(axis=0)
    frames = []
    for step in chosen:
        picture, pen = _sheet()
        if environment.startswith("CartPole"):
            _draw_cart(pen, observations[step])
        elif environment.startswith("Acrobot"):
            _draw_links(pen, observations[step])
        else:
            _draw_bars(pen, observations[step], low, high)
        _write(pen, (12, 8), f"{environment}   step {step} of {len(observations) - 1}   return {total:g}")
        frames.append(picture.resize((WIDTH, HEIGHT)))
    content = io.BytesIO()
    frames[0].save(
        content,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (len(frames) - 1) + [1500],
        loop=0,
    )
    return content.getvalue()


def cart_of(observation: NDArray[np.float32]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Foot and tip of CartPole's pole in pixels; the track shows positions from -2.4 to 2.4, where episodes end."""
    place, angle = float(observation[0]), float(observation[2])
    foot = (WIDTH / 2 + place / 2.4 * (WIDTH / 2 - 30), HEIGHT * 0.72)
    return foot, (foot[0] + 110 * math.sin(angle), foot[1] - 110 * math.cos(angle))


def links_of(observation: NDArray[np.float32]) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Hook, joint and tip of Acrobot in pixels, from the cosines and sines of its angles; 0 is hanging down."""
    first = math.atan2(observation[1], observation[0])
    both = first + math.atan2(observation[3], observation[2])
    hook, length = (WIDTH / 2, HEIGHT * 0.54), 48.0
    joint = (hook[0] + length * math.sin(first), hook[1] + length * math.cos(first))
    return hook, joint, (joint[0] + length * math.sin(both), joint[1] + length * math.cos(both))


def _draw_cart(pen: Any, observation: NDArray[np.float32]) -> None:
    foot, tip = cart_of(observation)
    _line(pen, [(20, foot[1] + 14), (WIDTH - 20, foot[1] + 14)], _LIGHT, 2)
    for end in (30, WIDTH - 30):  # beyond these it has failed
        _line(pen, [(end, foot[1] + 4), (end, foot[1] + 24)], _SECOND, 2)
    _box(pen, (foot[0] - 24, foot[1] - 10, foot[0] + 24, foot[1] + 13), _INK)
    _line(pen, [foot, tip], _ACCENT, 7)
    _dot(pen, foot, 4, _PAPER)


def _draw_links(pen: Any, observation: NDArray[np.float32]) -> None:
    hook, joint, tip = links_of(observation)
    _line(pen, [(40, hook[1] - 48), (WIDTH - 40, hook[1] - 48)], _SECOND, 2)  # the height that the tip must reach
    _line(pen, [hook, joint], _INK, 8)
    _line(pen, [joint, tip], _ACCENT, 8)
    for place in (hook, joint):
        _dot(pen, place, 5, _LIGHT)
    _dot(pen, tip, 5, _ACCENT)


def _draw_bars(pen: Any, observation: NDArray[np.float32], low: NDArray[Any], high: NDArray[Any]) -> None:
    height = min(24.0, (HEIGHT - 60) / len(observation))
    spread = np.where(high > low, high - low, 1.0)
    for place, share in enumerate(((observation - low) / spread).tolist()):
        top = 40 + place * height
        _box(pen, (30, top, WIDTH - 30, top + 0.7 * height), _LIGHT)
        _box(pen, (30, top, 30 + share * (WIDTH - 60), top + 0.7 * height), _ACCENT)


def _sheet() -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (WIDTH * _OVERSAMPLING, HEIGHT * _OVERSAMPLING), _PAPER)
    return picture, ImageDraw.Draw(picture)


def _line(pen: Any, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
    scaled = [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points]
    pen.line(scaled, fill=colour, width=width * _OVERSAMPLING)
    for place in points:
        _dot(pen, place, width / 2, colour)


def _dot(pen: Any, place: tuple[float, float], radius: float, colour: str) -> None:
    x, y = place
    pen.ellipse([v * _OVERSAMPLING for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)


def _box(pen: Any, corners: tuple[float, float, float, float], colour: str) -> None:
    pen.rectangle([value * _OVERSAMPLING for value in corners], fill=colour)


def _write(pen: Any, place: tuple[float, float], text: str) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size=12 * _OVERSAMPLING)
    pen.text((place[0] * _OVERSAMPLING, place[1] * _OVERSAMPLING), text, fill=_INK, font=font)


def curve(history: History, *, title: str, names: Sequence[str] = ("train/return", "validation/return")) -> str:
    """An SVG of some metrics by round; those that were never reported are left out."""
    lines = {name: history.points[name] for name in names if history.points.get(name)}
    values = [value for points in lines.values() for _, value in points] or [0.0]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    last = max((points[-1][0] for points in lines.values()), default=1)
    left, right, top, bottom = 56, 470, 40, 250

    def at(number: int, value: float) -> str:
        x = left + (right - left) * (number - 1) / max(1, last - 1)
        return f"{x:.1f},{bottom - (bottom - top) * (value - low) / (high - low):.1f}"

    drawn = [
        f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{_LIGHT}"/>',
        f'<text x="{left}" y="20" font-weight="bold">{title}</text>',
        f'<text x="{left - 6}" y="{bottom}" text-anchor="end">{low:.0f}</text>',
        f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{high:.0f}</text>',
        f'<text x="{left}" y="{bottom + 18}">1</text>',
        f'<text x="{right}" y="{bottom + 18}" text-anchor="end">{last}</text>',
    ]
    for place, (name, points) in enumerate(lines.items()):
        colour = (_ACCENT, _SECOND)[place % 2]
        path = " ".join(at(number, value) for number, value in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{left + 150 * place + 60}" y="{bottom + 18}" fill="{colour}">{name}</text>')
    body = "\n".join(drawn)
    style = f'font-family="sans-serif" font-size="12" fill="{_INK}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 280" {style}>\n{body}\n</svg>\n'

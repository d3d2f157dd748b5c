"""The data sets that need no download: scikit-learn ships them, they are made up here, or the machine has them anyway.

``builtin://lending?seed=3`` names a made-up one with another seed; each has settings of its own, or none. A setting is
a parameter of the function that reads the set: a whole number within ``_RANGES``, one of ``_CHOICES``, or a name that
``_PATTERNS`` describes.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from fairlead.data.builtin.episodes import ENVIRONMENT, episodes
from fairlead.data.builtin.interactions import interactions
from fairlead.data.builtin.language import python_docs, rewriting
from fairlead.data.builtin.scenes import digit_scenes
from fairlead.data.builtin.series import cycles, cylinder_bell_funnel
from fairlead.data.builtin.speech import spoken_words
from fairlead.data.builtin.tables import breast_cancer, diabetes, digit_anomalies, digits, fraud, lending
from fairlead.data.builtin.views import ray_traced_scene
from fairlead.data.columns import Source
from fairlead.errors import Problem

__all__ = ["BUILTIN", "BUILTIN_PREFIX", "builtin_problem", "read_builtin"]
BUILTIN_PREFIX = "builtin://"
MOST_ROWS = 10_000_000
BUILTIN: Mapping[str, Callable[..., Source]] = {
    "diabetes": diabetes,
    "breast_cancer": breast_cancer,
    "digits": digits,
    "digit_anomalies": digit_anomalies,
    "lending": lending,
    "fraud": fraud,
    "cycles": cycles,
    "cylinder_bell_funnel": cylinder_bell_funnel,
    "spoken_words": spoken_words,
    "ray_traced_scene": ray_traced_scene,
    "digit_scenes": digit_scenes,
    "python_docs": python_docs,
    "rewriting": rewriting,
    "episodes": episodes,
    "interactions": interactions,
}
_RANGES: Mapping[str, tuple[int, int]] = {
    "seed": (0, 2**32 - 1),
    "rows": (100, MOST_ROWS),
    "first": (0, 9),
    "last": (0, 9),
    "digit": (0, 9),
    "stations": (1, 1000),
    "months": (240, 12_000),
    "views": (10, 1000),
    "size": (8, 256),
    "noise": (0, 100),
    "kilobytes": (10, 10_000),
    "users": (10, 5000),
    "items": (10, 1000),
}
"""Least and most of each setting that is a whole number, whichever set has it."""
_CHOICES: Mapping[str, tuple[str, ...]] = {}
"""Values of each setting that is a text."""
_PATTERNS: Mapping[str, str] = {"environment": ENVIRONMENT}
"""Regular expressions of settings that are texts of which nobody has a list; the set itself says whether it has one."""


def builtin_problem(uri: str) -> Problem | None:
    """Why no built-in data set has the address ``uri``; None if one has."""
    name, _, query = uri.removeprefix(BUILTIN_PREFIX).partition("?")
    if name not in BUILTIN:
        message, hint = f"there is no built-in data set {name!r}", f"known: {', '.join(BUILTIN)}"
        return Problem(pointer="/data/uri", message=message, suggestion=hint)
    known = tuple(inspect.signature(BUILTIN[name]).parameters)
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            hint = f"known: {', '.join(known)}" if known else "it has none"
            return Problem(pointer="/data/uri", message=f"{name} has no setting {key[:80]!r}", suggestion=hint)
        if flaw := _setting_problem(key, text):
            return Problem(pointer="/data/uri", message=flaw)
    return None


def _setting_problem(key: str, text: str) -> str | None:
    if key in _CHOICES:
        if text in _CHOICES[key]:
            return None
        return f"{key} must be one of {', '.join(_CHOICES[key])}, not {text[:80]!r}"
    if key in _PATTERNS:
        return None if re.fullmatch(_PATTERNS[key], text) else f"{key} is no name such as CartPole-v1: {text[:80]!r}"
    least, most = _RANGES[key]
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        return f"{key} must be a whole number from {least} to {most}, not {text[:80]!r}"
    return None


def read_builtin(uri: str) -> Source:
    """The built-in data set at ``uri``, in which ``builtin_problem`` has found nothing wrong."""
    name, _, query = uri.removeprefix(BUILTIN_PREFIX).partition("?")
    texts = {*_CHOICES, *_PATTERNS}
    settings = {key: text if key in texts else int(text) for key, text in parse_qsl(query)}
    return BUILTIN[name](**settings)

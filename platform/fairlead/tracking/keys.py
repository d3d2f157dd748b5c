"""What MLflow accepts as names and values, and how ours are made to fit.

A *key* names a metric, a parameter or a tag. MLflow takes letters, digits and ``_ - . : / space``, refuses what
would mean another path (``a//b``, ``../a``), and at most 250 characters. A key that fits stays as it is. Any other
has its odd characters replaced by ``_`` and ends in ``-`` and eight hex digits of its own hash, so that two keys
never become one: ``acc@1`` is ``acc_1-`` and digits, the same ones every time.
"""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

MAX_KEY_CHARACTERS = 250
MAX_PARAM_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_PARAMS = 100
"""Parameters or tags in one call; a hundred of the longest stay below MLflow's megabyte."""
MARK = " … (cut by Fairlead; whole in spec.yaml)"

_FITS = re.compile(r"[A-Za-z0-9_\-.:/ ]{1,250}")
_ODD = re.compile(r"[^A-Za-z0-9_\-.:/ ]")

T = TypeVar("T")


def clean_key(key: str) -> str:
    """``key`` if MLflow accepts it, else the nearest one that it does. Idempotent; different keys stay different."""
    if _FITS.fullmatch(key) and posixpath.normpath(key) == key and not key.startswith(("/", "..")) and key != ".":
        return key
    mark = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    parts = (part for part in _ODD.sub("_", key).split("/") if part.strip(". "))
    start = "/".join(parts)[: MAX_KEY_CHARACTERS - len(mark) - 1].rstrip("/")
    return f"{start or 'key'}-{mark}"


def truncated(value: str, *, limit: int) -> str:
    """``value``, or its beginning and a mark."""
    return value if len(value) <= limit else value[: limit - len(MARK)] + MARK


def flattened(content: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; every other value as text: strings bare, the rest as JSON."""
    flat: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, prefix=f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def as_params(content: Mapping[str, str]) -> dict[str, str]:
    """Keys and values that ``log_batch`` accepts as parameters."""
    return {clean_key(key): truncated(value, limit=MAX_PARAM_CHARACTERS) for key, value in content.items()}


def as_tags(content: Mapping[str, str]) -> dict[str, str]:
    """Keys and values that MLflow accepts as tags."""
    return {clean_key(key): truncated(value, limit=MAX_TAG_CHARACTERS) for key, value in content.items()}


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """``items`` in order, at most ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))

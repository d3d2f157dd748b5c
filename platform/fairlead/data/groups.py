"""Sensitive attributes as codes: dictionary-encoded once, when the data are read.

The code of a level is its place in ``Attribute.levels``; one code more, ``len(levels)``, stands for unknown, which
a missing value is. Texts sort as texts, numbers as numbers, bands by their edges.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fairlead.data.columns import Column, as_texts, is_text, number_text
from fairlead.spec import BinSpec
from fairlead.workload import Attribute

UNKNOWN = "__unknown__"
MAX_LEVELS = 1000
MAX_NUMBERS = 50

Codes = NDArray[np.int16]


def band_levels(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the bands between ``edges``: 40 and 60 give ``<40``, ``40-60`` and ``>=60``."""
    texts = [number_text(float(edge)) for edge in edges]
    inner = (f"{low}-{high}" for low, high in pairwise(texts))
    return (f"<{texts[0]}", *inner, f">={texts[-1]}")


def band_codes(column: Column, edges: Sequence[float]) -> Codes:
    """The band of each number, an edge belonging to the band above it; missing: one code more."""
    values = column.astype(np.float64)
    codes = np.searchsorted(np.asarray(edges), values, side="right").astype(np.int16)
    return np.where(np.isnan(values), np.int16(len(edges) + 1), codes)


def encode_bands(name: str, column: Column, spec: BinSpec) -> tuple[Attribute, Codes]:
    """An attribute made of a column of numbers. Raises ``ValueError`` for a column of texts."""
    if is_text(column):
        raise ValueError(f"{spec.column!r} holds texts, which cannot be put into bands")
    return Attribute(name=name, levels=band_levels(spec.edges)), band_codes(column, spec.edges)


def encode_levels(name: str, column: Column, *, order: tuple[str, ...] | None = None) -> tuple[Attribute, Codes]:
    """An attribute whose levels are the values found. Raises ``ValueError`` when they are too many to be groups.

    ``order``: all levels in an order of their own.
    """
    texts = as_texts(column)
    found = {text for text in texts.tolist() if text is not None and text != UNKNOWN}
    most = MAX_LEVELS if is_text(column) else MAX_NUMBERS
    if len(found) > most:
        hint = "name a coarser column" if is_text(column) else "put it into bands with data.bins"
        raise ValueError(f"{name!r} has {len(found)} different values, too many to be groups; {hint}")
    levels = order or tuple(sorted(found) if is_text(column) else sorted(found, key=_as_number))
    place = {level: code for code, level in enumerate(levels)}
    codes = [place.get(text, len(levels)) for text in texts.tolist()]
    return Attribute(name=name, levels=levels), np.array(codes, dtype=np.int16)


def _as_number(text: str) -> float:
    return {"False": 0.0, "True": 1.0}[text] if text in ("False", "True") else float(text)

"""Sensitive attributes as codes: dictionary-encoded once, when the data are read.

The code of a level is its place in ``Attribute.levels``; one code more, ``len(levels)``, stands for unknown, which
a missing value is. Texts sort as texts, numbers as numbers, bands by their edges.
"""

from collections.abc import Collection, Sequence
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
    in_order = levels_of(name, found, has_texts=is_text(column))  # refuses too many
    levels = order or in_order
    place = {level: code for code, level in enumerate(levels)}
    codes = [place.get(text, len(levels)) for text in texts.tolist()]
    return Attribute(name=name, levels=levels), np.array(codes, dtype=np.int16)


def levels_of(name: str, found: Collection[str], *, has_texts: bool, bins: str = "data.bins") -> tuple[str, ...]:
    """The different values of a column in their order. Raises ``ValueError`` when they are too many to be groups.

    ``bins``: the key of the document that makes bands of numbers.
    """
    if len(found) > (MAX_LEVELS if has_texts else MAX_NUMBERS):
        hint = "name a coarser column" if has_texts else f"put it into bands with {bins}"
        raise ValueError(f"{name!r} has {len(found)} different values, too many to be groups; {hint}")
    return tuple(sorted(found) if has_texts else sorted(found, key=_as_number))


def _as_number(text: str) -> float:
    return {"False": 0.0, "True": 1.0}[text] if text in ("False", "True") else float(text)

"""What of the probes needs no torch: whether data can be looked at in the ways asked for; what is explained for whom.

These are known from the data alone, so that what cannot be done is refused before anything is trained.
"""

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from fairlead.data.dataset import Dataset
from fairlead.data.drift import MOST_BINS, MOST_COUNTS, MOST_NUMBERS
from fairlead.data.groups import Codes
from fairlead.data.mapped import Mapped
from fairlead.errors import BadData, BadInput
from fairlead.evaluation.cells import UNKNOWN
from fairlead.evaluation.explanations import ExplainedGroup
from fairlead.evaluation.measured import MAX_SECTION_BYTES
from fairlead.spec import AttributionsSpec, ProbesSpec
from fairlead.workload import DatasetInfo

MOST_LEVELS = 100
"""Of an attribute, whose rows are explained apart: those with most test rows."""
_KEYS = 100
"""Bytes of one entry's keys and brackets as JSON, or more."""
_EDGE = 24
"""Bytes of the edge of a bin as JSON, or more."""
_SUMS = 90
"""Bytes of the sums of one feature and group as JSON, or more."""
_PARTS = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")


def refuse_unfit(probes: ProbesSpec | None, dataset: Dataset) -> None:
    """Raise ``BadData`` with everything that ``probes`` asks for and these data do not allow.

    Raises ``BadInput`` where a library that it needs is not installed.
    """
    if probes is not None and probes.attributions is not None and find_spec("captum") is None:
        raise BadInput(
            "the spec asks for attributions, and captum is not installed on this node: install fairlead[explain]"
        )
    if probes is not None and isinstance(dataset.features, Mapped):
        raise BadData(
            "probes look at all rows in memory, and with data.streaming they stay on disk: take one of both out"
        )
    if probes is not None and (found := list(_problems(probes, dataset.info))):
        raise BadData("; ".join(found))


def explained_levels(info: DatasetInfo, codes: Codes) -> list[NDArray[np.int64]]:
    """Codes of each attribute's levels that are explained, ascending: at most ``MOST_LEVELS``, all of them with rows.

    ``codes``: of all rows of the test split, shape (n, attributes).
    """
    found = []
    for place, attribute in enumerate(info.attributes):
        rows = np.bincount(codes[:, place].astype(np.int64), minlength=len(attribute.levels) + 1)
        most = np.argsort(-rows, kind="stable")[:MOST_LEVELS]
        found.append(np.sort(most[rows[most] > 0]))
    return found


def explained_groups(info: DatasetInfo, explained: Sequence[NDArray[np.int64]]) -> tuple[ExplainedGroup, ...]:
    """All rows, then those of each of the ``explained_levels`` of every attribute."""
    groups = [ExplainedGroup(by=(), key={})]
    for attribute, chosen in zip(info.attributes, explained, strict=True):
        levels = (*attribute.levels, UNKNOWN)
        groups += [ExplainedGroup(by=(attribute.name,), key={attribute.name: levels[code]}) for code in chosen]
    return tuple(groups)


def left_out_levels(info: DatasetInfo, codes: Codes, explained: Sequence[NDArray[np.int64]]) -> dict[str, int]:
    """Levels of each attribute that have rows, and are not explained; attributes with none are left out."""
    return {
        attribute.name: num
        for attribute, each, chosen in zip(info.attributes, codes.T, explained, strict=True)
        if (num := len(np.unique(each)) - len(chosen))
    }


def attributed_features(info: DatasetInfo) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """What attributions are added up for: its names, and the number of one of them for each input, shape (inputs,).

    Columns of a table, or the parts of a picture, of which there are three by three.
    """
    if len(info.feature_shape) == 1:
        widths = [max(1, len(feature.levels)) for feature in info.features]
        return tuple(feature.name for feature in info.features), np.repeat(np.arange(len(widths)), widths)
    height, width = info.feature_shape[-2:]
    down, across = (3 * np.arange(size) // size for size in (height, width))
    parts = np.broadcast_to(3 * down[:, None] + across, info.feature_shape).ravel()
    there, numbers = np.unique(parts, return_inverse=True)
    return tuple(_PARTS[part] for part in there), numbers


def _problems(probes: ProbesSpec, info: DatasetInfo) -> Iterator[str]:
    if info.kind not in ("table", "images") or not info.classes:
        yield f"probes look at tables and images with classes, and {info.uri} holds none: take probes out"
        return
    are_pictures = len(info.feature_shape) > 1
    if probes.robustness and not are_pictures and all(one.levels for one in info.features):
        yield "robustness: there is no input that could be changed: all are texts"
    if probes.explanations is not None:
        if are_pictures:
            yield "permutation importance is about columns, and these data are pictures: take explanations out"
        elif _bytes_of_explanations(info) > MAX_SECTION_BYTES:
            yield "there are more columns and levels than explanations can hold: take explanations or some columns out"
    if probes.attributions is not None:
        yield from _problems_of_attributions(probes.attributions, info)
    if probes.drift is not None:
        numbers = 2 * info.feature_shape[0] if are_pictures else sum(not one.levels for one in info.features)
        if numbers > MOST_NUMBERS:
            yield f"drift looks at {MOST_NUMBERS} columns of numbers at most, and there are {numbers}"
        elif _bytes_of_drift(info, numbers) > MAX_SECTION_BYTES:
            yield "columns have more levels than drift can hold: take drift or the columns with most levels out"


def _problems_of_attributions(asked: AttributionsSpec, info: DatasetInfo) -> Iterator[str]:
    if asked.target == "positive" and len(info.classes) != 2:
        yield f"attributions: of {len(info.classes)} classes none is the positive one: take target predicted"
    names, _ = attributed_features(info)
    if strangers := set(asked.share_of) - set(names):
        yield f"attributions.share_of names {sorted(strangers)}, which is no input: there are {', '.join(names[:20])}"
    if _bytes_by_group(info, names, each=_SUMS) > MAX_SECTION_BYTES:
        yield "there are more columns and levels than attributions can hold: take attributions or some columns out"


def _bytes_of_explanations(info: DatasetInfo) -> int:
    """As JSON, or more."""
    names = [feature.name for feature in info.features]
    return _bytes_by_group(info, names, each=4 * (_digits(info, "test") + 2) + 4)


def _bytes_by_group(info: DatasetInfo, features: Sequence[str], *, each: int) -> int:
    """Of a table of features by groups, with ``each`` bytes for one of both."""
    levels = {one.name: sorted(map(_length, one.levels))[-MOST_LEVELS:] for one in info.attributes}
    groups = 1 + sum(len(sizes) + 1 for sizes in levels.values())
    names = sum(sum(sizes) + (len(sizes) + 1) * 2 * _length(name) for name, sizes in levels.items())
    return names + _KEYS * groups + sum(_length(name) + _KEYS + each * groups for name in features)


def _bytes_of_drift(info: DatasetInfo, numbers: int) -> int:
    """As JSON, or more."""
    a_bin = _digits(info, "train") + _digits(info, "test") + 4
    bins = min(MOST_BINS, MOST_COUNTS // max(1, numbers)) + 2
    columns = [(one.name, one.levels) for one in info.features if one.levels]
    columns += [(one.name, one.levels) for one in info.attributes]
    levels = [(name, (*labels, "__unknown__")) for name, labels in (*columns, (info.target, info.classes))]
    total = sum(_length(name) + _KEYS + sum(_length(label) + 2 + a_bin for label in labels) for name, labels in levels)
    wide = max((_length(one.name) for one in info.features), default=0)
    return total + numbers * (wide + _KEYS + bins * (_EDGE + a_bin))


def _length(text: str) -> int:
    return len(json.dumps(text))


def _digits(info: DatasetInfo, split: str) -> int:
    return len(str(info.num_by_split[split]))

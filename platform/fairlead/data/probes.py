"""What of the probes needs no torch: whether data can be looked at in the ways asked for, and whose rows are explained.

Both are known from the data alone, so that what cannot be done is refused before anything is trained.
"""

import json
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fairlead.data.dataset import Dataset
from fairlead.data.drift import MOST_BINS, MOST_COUNTS, MOST_NUMBERS
from fairlead.data.groups import Codes
from fairlead.errors import BadData
from fairlead.evaluation.measured import MAX_SECTION_BYTES
from fairlead.spec import ProbesSpec
from fairlead.workload import DatasetInfo

MOST_LEVELS = 100
"""Of an attribute, whose rows are explained apart: those with most test rows."""
_KEYS = 100
"""Bytes of one entry's keys and brackets as JSON, or more."""
_EDGE = 24
"""Bytes of the edge of a bin as JSON, or more."""


def refuse_unfit(probes: ProbesSpec | None, dataset: Dataset) -> None:
    """Raise ``BadData`` with everything that ``probes`` asks for and these data do not allow."""
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


def _problems(probes: ProbesSpec, info: DatasetInfo) -> Iterator[str]:
    are_pictures = len(info.feature_shape) > 1
    if probes.robustness and not are_pictures and all(one.levels for one in info.features):
        yield "robustness: there is no input that could be changed: all are texts"
    if probes.explanations is not None:
        if are_pictures:
            yield "permutation importance is about columns, and these data are pictures: take explanations out"
        elif _bytes_of_explanations(info) > MAX_SECTION_BYTES:
            yield "there are more columns and levels than explanations can hold: take explanations or some columns out"
    if probes.drift is not None:
        numbers = 2 * info.feature_shape[0] if are_pictures else sum(not one.levels for one in info.features)
        if numbers > MOST_NUMBERS:
            yield f"drift looks at {MOST_NUMBERS} columns of numbers at most, and there are {numbers}"
        elif _bytes_of_drift(info, numbers) > MAX_SECTION_BYTES:
            yield "columns have more levels than drift can hold: take drift or the columns with most levels out"


def _bytes_of_explanations(info: DatasetInfo) -> int:
    """As JSON, or more."""
    counts = 4 * (_digits(info, "test") + 2) + 4
    levels = {one.name: sorted(map(_length, one.levels))[-MOST_LEVELS:] for one in info.attributes}
    groups = 1 + sum(len(sizes) + 1 for sizes in levels.values())
    names = sum(sum(sizes) + (len(sizes) + 1) * 2 * _length(name) for name, sizes in levels.items())
    return names + _KEYS * groups + sum(_length(one.name) + _KEYS + counts * groups for one in info.features)


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

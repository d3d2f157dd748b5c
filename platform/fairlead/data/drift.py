"""Counting rows of train and test split in the same bins, for ``fairlead.evaluation.drift``.

Bins come from the whole train split, which every rank can read, so they are the same on all of them; each rank counts
its own shards, and counts add up.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairlead.errors import BadData
from fairlead.evaluation.cells import UNKNOWN
from fairlead.evaluation.drift import BELOW, DriftColumn, DriftCounts, Kind
from fairlead.workload import DatasetInfo, Rows

MOST_BINS = 100
"""Of numbers, beside one below and one above all values of the train split."""
LEAST_BINS = 10
MOST_COUNTS = 16_000
"""Of all columns of numbers together, a split: the report takes in so much."""
MOST_NUMBERS = MOST_COUNTS // LEAST_BINS


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column and its bins."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    edges: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """Of numbers: upper edges of all bins but the last."""

    @property
    def num_bins(self) -> int:
        """How many there are."""
        return len(self.edges) + 1 if self.kind in ("number", "picture") else len(self.labels)


class DriftCounter:
    """Bins of every column of a data set, fixed by its train split."""

    def __init__(self, info: DatasetInfo, train: Rows) -> None:
        self._info = info
        self._is_pictures = len(info.feature_shape) > 1
        values = self._numbers(train)
        if len(values) > MOST_NUMBERS:
            raise BadData(f"drift looks at {MOST_NUMBERS} columns of numbers at most, and there are {len(values)}")
        room = MOST_COUNTS // max(1, len(values))
        kind: Kind = "picture" if self._is_pictures else "number"
        numbers = [_of_numbers(name, kind, column, min(MOST_BINS, room)) for name, column in values.items()]
        features = {one.name: one for one in numbers}
        texts = {one.name: Column(name=one.name, kind="text", labels=one.levels) for one in info.features if one.levels}
        sensitive = [
            Column(name=one.name, kind="sensitive", labels=(*one.levels, UNKNOWN))
            for one in info.attributes
            if one.name not in texts
        ]
        order = [*features.values()] if self._is_pictures else [(features | texts)[one.name] for one in info.features]
        self.columns = (*order, *sensitive, Column(name=info.target, kind="target", labels=info.classes))

    def count(self, rows: Rows, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Rows in every bin of every column, one after another; ``codes``: of the attributes, shape (n, attributes)."""
        places = self._places(rows, codes)
        return np.concatenate(
            [np.bincount(places[column.kind, column.name], minlength=column.num_bins) for column in self.columns]
        ).astype(np.int64)

    def counts(self, train: NDArray[np.int64], test: NDArray[np.int64]) -> DriftCounts:
        """What all ranks counted together, ready for the report."""
        ends = np.cumsum([column.num_bins for column in self.columns])[:-1]
        parts = zip(self.columns, np.split(train, ends), np.split(test, ends), strict=True)
        return DriftCounts(
            n_train=self._info.num_by_split["train"],
            n_test=self._info.num_by_split["test"],
            columns=tuple(
                DriftColumn(
                    name=column.name,
                    kind=column.kind,
                    labels=column.labels,
                    train=tuple(old.tolist()),
                    test=tuple(new.tolist()),
                )
                for column, old, new in parts
            ),
        )

    def _places(self, rows: Rows, codes: NDArray[Any]) -> dict[tuple[str, str], NDArray[np.int64]]:
        values = self._numbers(rows)
        found: dict[tuple[str, str], NDArray[np.int64]] = {}
        for column in self.columns:
            if column.kind in ("number", "picture"):
                found[column.kind, column.name] = np.searchsorted(column.edges, values[column.name], side="left")
        start = 0
        for feature in self._info.features if not self._is_pictures else ():
            end = start + max(1, len(feature.levels))
            if feature.levels:
                found["text", feature.name] = rows.features[:, start:end].argmax(axis=1)
            start = end
        for place, attribute in enumerate(self._info.attributes):
            found["sensitive", attribute.name] = codes[:, place].astype(np.int64)
        found["target", self._info.target] = rows.labels
        return found

    def _numbers(self, rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Every column of numbers; of pictures, how bright and how rich in contrast each channel is."""
        wide = rows.features.astype(np.float64)
        if not self._is_pictures:
            starts = np.cumsum([0, *(max(1, len(one.levels)) for one in self._info.features)])
            kept = zip(self._info.features, starts, strict=False)
            return {one.name: wide[:, start] for one, start in kept if not one.levels}
        found = {}
        for channel in range(wide.shape[1]):
            suffix = f" of channel {channel + 1}" if wide.shape[1] > 1 else ""
            found[f"brightness{suffix}"] = wide[:, channel].mean(axis=(1, 2))
            found[f"contrast{suffix}"] = wide[:, channel].std(axis=(1, 2))
        return found


def _of_numbers(name: str, kind: Kind, values: NDArray[np.float64], bins: int) -> Column:
    """Quantiles of the train split, each once; a value belongs to the bin whose upper edge it does not exceed.

    Below the first and above the last there is a bin more, for what lies outside of the train split.
    """
    if not len(values):
        return Column(name=name, kind=kind, labels=())
    shares = np.linspace(0, 1, bins + 1)[1:]
    inside = np.unique(np.quantile(values, shares, method="inverted_cdf"))  # the last is the largest value
    least = float(values.min())
    labels = (f"{BELOW}{least:.6g}", *(f"{edge:.6g}" for edge in inside))
    return Column(name=name, kind=kind, labels=labels, edges=np.array([np.nextafter(least, -np.inf), *inside]))

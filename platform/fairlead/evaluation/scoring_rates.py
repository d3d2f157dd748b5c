"""Scoring rates: the share of a group's rows with a score above the median of all rows, from binned scores.

New York City's rule on automated employment decision tools (6 RCNY 5-300) defines the rate so. The counts keep scores
in 1024 equal bins, so rows within the median's bin cannot be told apart; what is certain of them becomes bounds. All
other rows are known to be above or not, and where the two middle rows lie in different bins everything is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairlead.evaluation.cells import IntArray
from fairlead.evaluation.groups import Grouping

UNDECIDED = "rows_in_the_bin_of_the_median"


@dataclass(frozen=True, kw_only=True, slots=True)
class Median:
    """Where the median of the scores of all rows lies, and how many rows are surely above it."""

    first: int
    last: int
    """Bins of the two middle rows; the same bin where one row is in the middle, and often else."""
    num_bins: int
    n: int
    above: int
    """Rows in later bins than ``first``."""
    within: int
    """Rows that cannot be told apart from the median: those of its bin; 0 where ``first`` and ``last`` differ."""
    undecided: int
    """So many of ``within`` are above the median at most: never is more than half of all rows."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The median is at least the first and at most the second."""
        middle = (self.first + self.last) / 2
        return middle / self.num_bins, (middle + 1) / self.num_bins


def median_of(histogram: IntArray) -> Median | None:
    """The median of binned scores. ``histogram``: rows by bin, shape (bins,). None without rows."""
    n = int(histogram.sum())
    if n == 0:
        return None
    reached = np.cumsum(histogram)
    first, last = (int(np.searchsorted(reached, rank, side="right")) for rank in ((n - 1) // 2, n // 2))
    above = n - int(reached[first])
    is_exact = first != last
    return Median(
        first=first,
        last=last,
        num_bins=len(histogram),
        n=n,
        above=above,
        within=0 if is_exact else int(histogram[first]),
        undecided=0 if is_exact else n // 2 - above,
    )


def rows_above(histograms: IntArray, median: Median) -> tuple[IntArray, IntArray]:
    """Rows of each group above the median: at least and at most. ``histograms``: shape (groups, bins).

    Each bound is reached by some order of the rows in the median's bin, though not for all groups at once.
    """
    surely = histograms[:, median.first + 1 :].sum(axis=1)
    within = np.minimum(histograms[:, median.first], median.undecided)
    return surely, surely + within


def scoring_section(overall: Grouping, groupings: Sequence[Grouping]) -> dict[str, Any]:
    """The report's section ``scoring``; empty without scores of two classes, or without rows.

    Rows count as such, whatever their weights. Groups with a missing level have no rate.
    """
    if overall.counts.histogram is None:
        return {}
    median = median_of(overall.counts.histogram[0].sum(axis=0))
    if median is None:
        return {}
    low, high = median.bounds
    return {
        "scoring": {
            "median": {
                "from": low,
                "to": high,
                "n": median.n,
                "above": median.above,
                "within": median.within,
                "undecided": median.undecided,
            },
            "groups": [entry for groups in groupings for entry in _entries(groups, median)],
        }
    }


def _entries(groups: Grouping, median: Median) -> list[dict[str, Any]]:
    assert groups.counts.histogram is not None, "all groupings are of one state"
    histograms = groups.counts.histogram.sum(axis=1)
    sizes, (least, most) = histograms.sum(axis=1), rows_above(histograms, median)
    shown = np.flatnonzero((sizes > 0) & ~groups.is_unknown)
    return [_entry(groups, int(at), int(sizes[at]), int(least[at]), int(most[at])) for at in shown]


def _entry(groups: Grouping, at: int, n: int, least: int, most: int) -> dict[str, Any]:
    return {
        "by": list(groups.by),
        "key": groups.key(at),
        "n": n,
        "num": least,
        "num_at_most": most,
        "value": least / n if least == most else None,
        "reason": None if least == most else UNDECIDED,
        "at_least": least / n,
        "at_most": most / n,
    }

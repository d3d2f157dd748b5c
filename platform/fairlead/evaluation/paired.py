"""A model against the present champion, on the same rows: differences of rates with paired limits.

Both answer every row of the split, so their errors go together, and the difference is known better than from two
separate samples. Only rates over all rows or over labels can be paired: their denominators are the same for both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np

from fairlead.evaluation.alternatives import paired_newcombe_limits
from fairlead.evaluation.estimates import Groups, IntArray
from fairlead.evaluation.intervals import FloatArray, Limits
from fairlead.evaluation.metrics import Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifferences:
    """The model's rate less the champion's, for each of several groups; satisfies ``Estimates``.

    ``table``: rows where both succeed, only the model, only the champion, neither; shape (groups, 4).
    """

    table: IntArray

    @property
    def method(self) -> str | None:
        return "newcombe-paired"

    @property
    def values(self) -> FloatArray:
        rows = self.support
        return np.where(rows > 0, (self.table[:, 1] - self.table[:, 2]) / np.maximum(rows, 1), np.nan)

    @property
    def support(self) -> IntArray:
        return np.asarray(self.table.sum(axis=1), dtype=np.int64)

    def exact(self, group: int) -> Fraction | None:
        rows = int(self.support[group])
        return Fraction(int(self.table[group, 1] - self.table[group, 2]), rows) if rows else None

    def reason(self, group: int) -> str | None:
        return None if self.support[group] else "empty"

    def limits(self, tail: float) -> Limits:
        both, ours, theirs, neither = np.where(self.support[:, None] > 0, self.table, 1).T
        return paired_newcombe_limits(both, ours, theirs, neither, tail=tail)

    def take(self, groups: Groups) -> "PairedDifferences":
        return PairedDifferences(table=self.table[groups])


def paired_differences(metric: str, counts: Counts) -> PairedDifferences:
    """``metric`` of the model less that of the champion, for every group of ``counts``.

    ``accuracy_score``; in binary tasks also ``selection_rate``, ``true_positive_rate``, ``false_positive_rate``.
    A row without an answer is a failure of whoever gave none. Raises ``ValueError`` for other metrics and without a
    champion.
    """
    if counts.paired is None:
        raise ValueError("these counts hold no answers of a champion")
    succeeds, labels = _question(metric, counts)
    table = np.zeros((len(counts.paired), 4), dtype=np.int64)
    answers = range(counts.paired.shape[2])
    for label, ours, theirs in product(labels, answers, answers):
        kind = 2 * (not succeeds(label, ours)) + (not succeeds(label, theirs))
        table[:, kind] += counts.paired[:, label, ours, theirs]
    return PairedDifferences(table=table)


def _question(metric: str, counts: Counts) -> tuple[Callable[[int, int], bool], Sequence[int]]:
    """Whether an answer to a row of some label counts, and the labels whose rows are asked."""
    num_classes = len(counts.classes)
    if metric == "accuracy_score":
        is_collapsed = counts.paired is not None and counts.paired.shape[2] < num_classes + 1
        return (lambda label, answer: answer == (1 if is_collapsed else label)), range(num_classes)
    labels = {"selection_rate": (0, 1), "true_positive_rate": (1,), "false_positive_rate": (0,)}
    if num_classes == 2 and metric in labels:
        return (lambda _, answer: answer == 1), labels[metric]
    raise ValueError(f"{metric!r} of this task has no denominator that both models share")

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
from fairlead.evaluation.intervals import Bounds, FloatArray, Limits
from fairlead.evaluation.metrics import WHOLE_RATES, Counts

PAIRED_RATES = (
    "selection_rate",
    "true_positive_rate",
    "false_negative_rate",
    "false_positive_rate",
    "true_negative_rate",
)
"""Of one class against the rest: each has a denominator that predictions play no part in."""


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

    @property
    def sums(self) -> FloatArray:
        """The model's rate and the champion's together, shape (groups,); from 0 to 2."""
        rows = np.maximum(self.support, 1)
        return np.where(self.support > 0, (2 * self.table[:, 0] + self.table[:, 1] + self.table[:, 2]) / rows, np.nan)

    def bounds_with(self, rows: float, *, alpha: float) -> Bounds:
        """Bounds of the first group as they would be with ``rows`` rows and the same shares."""
        shares = self.table[0] / max(int(self.support[0]), 1)
        limits = [paired_newcombe_limits(*(shares * rows), tail=tail) for tail in (alpha, alpha / 2)]
        (lower, upper), interval = limits[0], (float(limits[1].lower), float(limits[1].upper))
        return Bounds(lower=float(lower), upper=float(upper), interval=interval)

    def limits_of_sums(self, tail: float) -> Limits:
        """Limits of ``sums``: p + q is p - (1 - q) + 1, the difference to the rows on which the champion fails."""
        against_failures = PairedDifferences(table=self.table[:, [1, 0, 3, 2]]).limits(tail)
        return Limits(against_failures.lower + 1, against_failures.upper + 1)


def paired_differences(metric: str, counts: Counts, *, positive: int = 1) -> PairedDifferences:
    """``metric`` of the model less that of the champion, for every group of ``counts``.

    ``accuracy_score`` or ``zero_one_loss``; or one of ``PAIRED_RATES``, of class ``positive`` against the rest.
    A row without an answer is a failure of whoever gave none. Raises ``ValueError`` for other metrics, without a
    champion, and for rates where of many classes only right and wrong were kept.
    """
    if counts.paired is None:
        raise ValueError("these counts hold no answers of a champion")
    succeeds, labels = _question(metric, counts, positive)
    table = np.zeros((len(counts.paired), 4), dtype=np.int64)
    answers = range(counts.paired.shape[2])
    for label, ours, theirs in product(labels, answers, answers):
        kind = 2 * (not succeeds(label, ours)) + (not succeeds(label, theirs))
        table[:, kind] += counts.paired[:, label, ours, theirs]
    return PairedDifferences(table=table)


def champion_counts(counts: Counts) -> Counts:
    """What the champion alone answered, as counts of their own; of scores nothing is known.

    Where of many classes only right and wrong were kept, wrong answers stand as none. Raises ``ValueError`` without a
    champion.
    """
    if counts.paired is None:
        raise ValueError("these counts hold no answers of a champion")
    answers = counts.paired.sum(axis=2)
    if not keeps_classes(counts):
        table, labels = np.zeros_like(counts.table), np.arange(len(counts.classes))
        table[:, labels, labels], table[:, labels, -1] = answers[:, :, 1], answers[:, :, 0]
        answers = table
    return Counts(table=answers, classes=counts.classes)


def keeps_classes(counts: Counts) -> bool:
    """Whether pairs say which class was answered, not only right or wrong."""
    return counts.paired is not None and counts.paired.shape[2] == len(counts.classes) + 1


def _question(metric: str, counts: Counts, positive: int) -> tuple[Callable[[int, int], bool], Sequence[int]]:
    """Whether an answer to a row of some label counts, and the labels whose rows are asked."""
    every = range(len(counts.classes))
    is_collapsed = not keeps_classes(counts)
    if metric in WHOLE_RATES:
        is_hit = metric == "accuracy_score"
        return (lambda label, answer: (answer == (1 if is_collapsed else label)) is is_hit), every
    if metric not in PAIRED_RATES or is_collapsed:
        raise ValueError(f"{metric!r} of this task has no denominator that both models share")
    if metric.startswith("true_positive") or metric.startswith("false_negative"):
        labels: Sequence[int] = (positive,)
    else:
        labels = every if metric == "selection_rate" else [label for label in every if label != positive]
    if metric in ("false_negative_rate", "true_negative_rate"):
        return (lambda _, answer: answer not in (positive, len(every))), labels
    return (lambda _, answer: answer == positive), labels

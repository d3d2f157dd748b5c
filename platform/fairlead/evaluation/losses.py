"""Losses of scores: Brier's score and the log loss, from sums that workers keep, equal to scikit-learn's.

Brier's score of a row is the squared distance between its score and its label, summed over the classes in multi-class
tasks (Brier 1950). Its log loss is minus the logarithm of the probability that it gave its own class, at least 2.2e-16
(the machine epsilon, as in scikit-learn), so that one wrong certainty is worth 36 and not the whole mean.

Sums are kept in fixed point, as two words of 26 bits a row, so that they are exact and addition merges them: rounding
one row changes a mean by less than 1e-14. Squares are kept for Student's intervals.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.estimates import SampleMeans
from fairlead.evaluation.intervals import FloatArray

IntArray = NDArray[np.int64]

LOSSES = ("brier_score_loss", "log_loss")
"""Names as in scikit-learn."""
LOSS_SHAPE = (4, 2)
"""Per cell: Brier's score, its square, the log loss, its square; each as high and low word."""
LEAST_PROBABILITY = float(np.finfo(np.float64).eps)
_WORD = 26
_SCALES = (2.0**50, 2.0**49, 2.0**46, 2.0**41)  # at most 2, 4, 36.1 and 1300: below 2**52 when scaled


def row_losses(labels: IntArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Brier's score and the log loss of each row, shape (n,) each.

    ``labels``: class indices, shape (n,); ``scores``: of class 1, shape (n,), or of every class, shape (n, K).
    """
    own = _own(labels, scores)
    brier = (scores - labels) ** 2 if scores.ndim == 1 else (scores**2).sum(axis=1) - 2 * own + 1
    return brier, -np.log(np.clip(own, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))


def is_clipped(labels: IntArray, scores: FloatArray) -> NDArray[np.bool_]:
    """Rows that gave their own class less than the least probability, shape (n,)."""
    return np.asarray(_own(labels, scores) < LEAST_PROBABILITY, dtype=np.bool_)


def _own(labels: IntArray, scores: FloatArray) -> FloatArray:
    """What each row gave its own class, shape (n,)."""
    return np.where(labels == 1, scores, 1 - scores) if scores.ndim == 1 else scores[np.arange(len(labels)), labels]


def fixed_losses(labels: IntArray, scores: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """High and low words of what each row adds, one pair for each of the four sums."""
    brier, log = row_losses(labels, scores)
    for values, scale in zip((brier, brier**2, log, log**2), _SCALES, strict=True):
        fixed = np.rint(values * scale).astype(np.int64)
        yield (fixed >> _WORD).astype(np.float64), (fixed & (2**_WORD - 1)).astype(np.float64)


def loss_estimates(metric: str, losses: IntArray, rows: IntArray, *, num_classes: int) -> SampleMeans:
    """The mean of one of ``LOSSES`` for each group; ``losses``: shape (groups, 4, 2).

    ``rows``: those with a score, shape (groups,). A group without any has no value (``empty``); one of one class has.
    """
    first = 2 * LOSSES.index(metric)
    total, squares = (_sum(losses[:, at], _SCALES[at]) for at in (first, first + 1))
    n = np.maximum(rows, 1).astype(np.float64)
    means = total / n
    variances = np.maximum(squares - n * means**2, 0.0) / np.maximum(n - 1, 1)
    domain = (0.0, float(-np.log(LEAST_PROBABILITY)) if metric == "log_loss" else (1.0 if num_classes == 2 else 2.0))
    return SampleMeans(rows=rows, means=means, variances=variances, domain=domain)


def _sum(words: IntArray, scale: float) -> FloatArray:
    return np.asarray((words[:, 0] * 2.0**_WORD + words[:, 1]) / scale, dtype=np.float64)

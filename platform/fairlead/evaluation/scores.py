"""What only scores can tell: calibration, ROC curves, and accuracy against gaps over thresholds.

Calibration error compares, bin by bin, the mean confidence with the share of hits. The plain error is biased upwards
for few rows, so a small group looks worse calibrated than it is; the squared, bias-corrected one is not and is what
groups should be compared by (Roelofs et al. 2022, arXiv 2012.08668).
"""

from dataclasses import dataclass

import numpy as np

from fairlead.evaluation.estimates import Bootstrapped, IntArray
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.replicates import Resampled
from fairlead.evaluation.state import SCORE_SCALE

MOST_POINTS = 64
THRESHOLDS = 32
"""Thresholds 0, 1/32, ... 1 of a sweep: all of them edges of score bins, so the sweep is exact."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Confidence against hits of one group. Arrays have one entry for each bin; empty bins hold NaN."""

    rows: IntArray
    mean_score: FloatArray
    hit_rate: FloatArray

    @property
    def n(self) -> int:
        """Rows with a score."""
        return int(self.rows.sum())

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean absolute distance over rows. None without rows."""
        return self._mean(np.abs(self._distance())) if self.n else None

    @property
    def largest_error(self) -> float | None:
        """Maximum calibration error over bins. None without rows."""
        return float(np.nanmax(np.abs(self._distance()))) if self.n else None

    @property
    def root_mean_square_error(self) -> float | None:
        """Root of the mean squared distance over rows. None without rows."""
        return self._mean(self._distance() ** 2) ** 0.5 if self.n else None

    @property
    def squared_error_debiased(self) -> float | None:
        """Mean squared distance less its sampling noise, over bins of two rows or more; may be below 0."""
        usable = self.rows >= 2
        if not usable.any():
            return None
        rate, rows = self.hit_rate[usable], self.rows[usable]
        terms = self._distance()[usable] ** 2 - rate * (1 - rate) / (rows - 1)
        return float((rows * terms).sum() / rows.sum())

    @property
    def in_the_large(self) -> float | None:
        """Mean confidence less the share of hits. None without rows."""
        return -self._mean(self._distance()) if self.n else None

    def _distance(self) -> FloatArray:
        return self.hit_rate - self.mean_score

    def _mean(self, values: FloatArray) -> float:
        filled = self.rows > 0
        return float((self.rows[filled] * values[filled]).sum() / self.n)


def calibration(counts: IntArray, score_sums: IntArray) -> Calibration:
    """Calibration of one group from its bins; both of shape (2, bins): misses and hits."""
    rows = counts.sum(axis=0)
    divisor = np.where(rows > 0, rows, 1)
    is_empty = rows == 0
    mean_score = score_sums.sum(axis=0) / SCORE_SCALE / divisor
    return Calibration(
        rows=rows,
        mean_score=np.where(is_empty, np.nan, mean_score),
        hit_rate=np.where(is_empty, np.nan, counts[1] / divisor),
    )


CALIBRATION_METRICS = (
    "expected_calibration_error",
    "maximum_calibration_error",
    "squared_calibration_error_debiased",
    "calibration_in_the_large",
)
"""Of each group; gaps between groups are best taken of the debiased one. The last is signed: above 0 is too sure."""


def calibration_estimates(metric: str, counts: IntArray, score_sums: IntArray) -> Bootstrapped:
    """One of ``CALIBRATION_METRICS`` for each group; both arrays of shape (groups, 2, bins).

    Rows are resampled within a group; the mean confidence of each bin's hits and misses is held.
    """
    confidence = score_sums / SCORE_SCALE / np.maximum(counts, 1)

    def statistic(tables: FloatArray, groups: IntArray) -> FloatArray:
        return _calibration_statistic(metric, tables, confidence[groups])

    floor = 0.0 if metric in CALIBRATION_METRICS[:2] else -1.0
    return Bootstrapped(
        source=Resampled(counts, statistic, name=metric, domain=(floor, 1.0)),
        groups=np.arange(len(counts)),
        support=np.asarray(counts.sum(axis=(1, 2)), dtype=np.int64),
        undefined="too_few_rows_in_every_bin",
    )


def _calibration_statistic(metric: str, tables: FloatArray, confidence: FloatArray) -> FloatArray:
    """Values of tables of shape (..., groups, 2, bins); ``confidence``: mean of misses and hits, (groups, 2, bins)."""
    rows = tables.sum(axis=-2)
    divisor = np.where(rows > 0, rows, 1.0)
    rate = tables[..., 1, :] / divisor
    distance = rate - (tables * confidence).sum(axis=-2) / divisor
    total = rows.sum(axis=-1)
    if metric == "maximum_calibration_error":
        return np.where(total > 0, np.where(rows > 0, np.abs(distance), 0.0).max(axis=-1), np.nan)
    if metric == "squared_calibration_error_debiased":
        usable = rows >= 2
        total = np.where(usable, rows, 0.0).sum(axis=-1)
        noise = rate * (1 - rate) / np.where(usable, rows - 1, 1.0)
        terms = np.where(usable, rows * (distance**2 - noise), 0.0)
    else:
        terms = rows * (np.abs(distance) if metric == "expected_calibration_error" else -distance)
    return np.where(total > 0, terms.sum(axis=-1) / np.where(total > 0, total, 1.0), np.nan)


def kolmogorov_smirnov(one: IntArray, two: IntArray) -> float:
    """The largest distance between two groups' distributions of scores; rows by score bin, both with rows."""
    shares = np.cumsum(one) / one.sum() - np.cumsum(two) / two.sum()
    return float(np.abs(shares).max())


def roc_points(histogram: IntArray) -> list[tuple[float, float]] | None:
    """False and true positive rates from the strictest threshold to the loosest, at most 66 points.

    ``histogram`` has shape (2, bins): rows by label and score. None where a class has no rows.
    """
    totals = histogram.sum(axis=1)
    if not totals.all():
        return None
    filled = histogram[:, histogram.sum(axis=0) > 0]
    rates = np.cumsum(filled[:, ::-1], axis=1) / totals[:, None]
    if rates.shape[1] > MOST_POINTS:
        way = rates.sum(axis=0)
        rates = rates[:, np.unique(np.searchsorted(way, np.linspace(way[0], 2.0, MOST_POINTS), side="left"))]
    points = [(float(fpr), float(tpr)) for fpr, tpr in rates.T]
    return [(0.0, 0.0), *points]


def sweep(histogram: IntArray) -> tuple[FloatArray, IntArray]:
    """Thresholds, and (tn, fp, fn, tp) of each group at each: shapes (33,) and (groups, 33, 4).

    ``histogram`` has shape (groups, 2, bins); a row is positive when its score is at or above the threshold.
    """
    step = histogram.shape[2] // THRESHOLDS
    coarse = histogram.reshape(*histogram.shape[:2], THRESHOLDS, step).sum(axis=3)
    below = np.concatenate([np.zeros((*coarse.shape[:2], 1), dtype=np.int64), np.cumsum(coarse, axis=2)], axis=2)
    above = below[:, :, -1:] - below
    tables = np.stack([below[:, 0], above[:, 0], below[:, 1], above[:, 1]], axis=2)
    return np.arange(THRESHOLDS + 1) / THRESHOLDS, tables

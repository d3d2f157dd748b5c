"""How a cost grows with size: the exponent of a power law through what was measured."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """``factor * size ** exponent``. 0: it does not grow; 1: twice the size costs twice as much."""

    exponent: float
    standard_error: float | None
    """Of the exponent; None with fewer than three sizes, which a line always fits."""
    factor: float
    last: float
    """The exponent between the two largest sizes alone: what comes next, where small sizes are mostly fixed cost."""


def power_law(points: Sequence[tuple[float, float]]) -> PowerLaw:
    """Least squares of log cost on log size.

    Raises ``ValueError`` for fewer than two sizes, and for sizes and costs that are not positive.
    """
    if any(size <= 0 or cost <= 0 for size, cost in points):
        raise ValueError("sizes and costs must be positive to have a logarithm")
    ordered = sorted((math.log(size), math.log(cost)) for size, cost in points)
    sizes, costs = [size for size, _ in ordered], [cost for _, cost in ordered]
    if len(set(sizes)) < 2:
        raise ValueError("growth needs at least two sizes")
    slope, intercept = statistics.linear_regression(sizes, costs)
    middle = statistics.fmean(sizes)
    return PowerLaw(
        exponent=slope,
        standard_error=_standard_error(ordered, slope, intercept, sum((size - middle) ** 2 for size in sizes)),
        factor=math.exp(intercept),
        last=_last(ordered),
    )


def _standard_error(
    ordered: Sequence[tuple[float, float]], slope: float, intercept: float, spread: float
) -> float | None:
    if len(ordered) < 3:
        return None
    residuals = sum((cost - intercept - slope * size) ** 2 for size, cost in ordered)
    return math.sqrt(residuals / (len(ordered) - 2) / spread)


def _last(ordered: Sequence[tuple[float, float]]) -> float:
    """From the medians of the two largest sizes."""
    largest = sorted({size for size, _ in ordered})[-2:]
    before, after = (statistics.median(cost for size, cost in ordered if size == each) for each in largest)
    return (after - before) / (largest[1] - largest[0])

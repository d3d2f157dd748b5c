"""Whether the rows a model is tested on look like those it was trained on: the report's ``drift``, from counts in bins.

Bins are fixed by the train split: quantiles of a column of numbers, the levels of all others. With p and q the shares
of a bin in the train and the test split, of n and m rows:

- **PSI**, the population stability index, is the sum of (q - p) ln(q / p), over about ten bins, half a row added to
  each count. Each bin has a tenth of the train rows or more, and more where five rows of both splits are not to be
  expected of a tenth: neighbouring numbers are taken together, and levels that are rarer, in their order. It is never
  negative, and rows drawn from one and the same distribution have about (bins - 1)(1/n + 1/m) on average: divided by
  1/n + 1/m it is chi-squared with bins - 1 degrees of freedom then, and noncentral where little moved. Where much did
  it is about normal, with the variance of the delta method. Its bounds are the wider ones of both. Yurdakul, Naranjo
  2020, Statistical properties of the population stability index, Journal of Risk Model Validation 14(4).
- What moves among levels that are taken together does not show in the index. Where the levels of a bin differ by more
  than chance explains (chi-squared, ``level`` over the columns), or there are too few rows for two bins, the index
  proves nothing, and no gate on it passes.
- **Distance**: Kolmogorov and Smirnov's for numbers, over up to a hundred bins, which is at most that of the values
  themselves, so that its p-value is at least theirs; the total variation of levels, with a chi-squared test for which
  levels of fewer than five rows to be expected are taken together.

P-values are adjusted for the number of columns. That a difference is more than chance explains says nothing of its
size: PSI does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from fairlead.evaluation.multiplicity import adjusted
from fairlead.spec import Document, DriftSpec

Kind = Literal["number", "text", "sensitive", "target", "picture"]
MOST_SHOWN = 10
BELOW = "below "
"""How the label of a first bin begins that lies below all train rows, and therefore has none."""
PSI_BINS = 10
_LEAST_EXPECTED = 5.0
_LEAST_WITHIN = 1.0
"""Rows to be expected of a class, where many classes are tested together: enough then (Cochran 1954)."""
_FloatArray = NDArray[np.float64]


class DriftColumn(Document):
    """What ranks counted of one column."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    """Of levels; of columns of numbers, upper edges of all bins but the last, the first maybe after ``BELOW``."""
    train: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def is_number(self) -> bool:
        """Whether its bins are in an order."""
        return self.kind in ("number", "picture")


class DriftCounts(Document):
    """Everything that is counted for drift."""

    n_train: int = Field(ge=0)
    n_test: int = Field(ge=0)
    columns: tuple[DriftColumn, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Binned:
    """Rows of one column in about ten bins."""

    labels: list[str]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    reason: str | None
    """Why the index over these bins proves nothing; None if it may."""


_COUNTS: TypeAdapter[DriftCounts] = TypeAdapter(DriftCounts)


def drift_section(asked: DriftSpec, found: Any, alpha: float = 0.05) -> dict[str, Any]:
    """The report's ``drift`` from ``DriftCounts``, with one-sided bounds at ``alpha``.

    Raises ``ValueError`` for what is none, or lacks rows of a split.
    """
    counts = _read(found)
    if not counts.columns or not counts.n_train or not counts.n_test:
        reason = "there are no rows to compare"
        return {"why_not_measured": reason, "metrics": {"drift_psi_max": _metric(None, None, None, reason)}}
    binned = [_binned(column, asked.level / len(counts.columns)) for column in counts.columns]
    found = [_column(*pair, alpha) for pair in zip(counts.columns, binned, strict=True)]
    entries = sorted(found, key=lambda one: -one["psi"])
    tested = [entry for entry in entries if entry["p_value"] is not None]
    for entry, p_adjusted in zip(
        tested, adjusted([one["p_value"] for one in tested], asked.correction).tolist(), strict=True
    ):
        entry |= {"p_adjusted": p_adjusted, "beyond_chance": p_adjusted <= asked.level}
    for entry in entries[MOST_SHOWN:]:
        entry["bins"] = []
    return {
        "why_not_measured": None,
        "metrics": {"drift_psi_max": _largest(binned, alpha)},
        "n_train": counts.n_train,
        "n_test": counts.n_test,
        "level": asked.level,
        "correction": asked.correction,
        "n_tested": len(tested),
        "n_beyond_chance": sum(bool(entry["beyond_chance"]) for entry in entries),
        "columns": entries,
    }


def largest_limits(asked: DriftSpec, found: Any) -> Callable[[float], tuple[float, float]]:
    """One-sided limits of ``drift_psi_max`` as a function of alpha. Raises ``ValueError`` as ``drift_section`` does."""
    columns = _read(found).columns
    binned = [_binned(column, asked.level / len(columns)) for column in columns]
    return lambda alpha: _limits(binned, alpha)


def _read(found: Any) -> DriftCounts:
    counts = _COUNTS.validate_python(found)
    for column in counts.columns:
        if (sum(column.train), sum(column.test)) != (counts.n_train, counts.n_test):
            raise ValueError(f"{column.name} does not count every row of both splits once")
    return counts


def psi(train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """The population stability index of counts in the same bins, shape (bins,), half a row added to each."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (train, test))
    return float(((q - p) * np.log(q / p)).sum())


def psi_limits(train: NDArray[np.int64], test: NDArray[np.int64], *, tail: float) -> tuple[float, float]:
    """One-sided limits of the index, each missed with probability ``tail``; see the module."""
    from scipy import special  # large; see intervals.normal_quantile

    if len(train) < 2:
        return 0.0, 0.0
    value, unit, freedom = psi(train, test), 1 / int(train.sum()) + 1 / int(test.sum()), len(train) - 1

    def noncentrality(seen: float, share: float) -> float:
        is_possible = float(special.chdtr(freedom, seen)) > share  # else even rows that are alike give more
        return float(special.chndtrinc(seen, freedom, share)) if is_possible else 0.0

    # A value that is small by luck must not prove more than rows that are alike do on average.
    seen = value / unit
    lower, upper = unit * noncentrality(seen, 1 - tail), unit * noncentrality(max(seen, freedom), tail)
    margin = -float(special.ndtri(tail)) * _psi_error(train, test)
    return max(0.0, min(lower, value - freedom * unit - margin)), max(upper, value + margin)


def _psi_error(train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """The standard error of the index by the delta method: near enough where the index is far from 0."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (train, test))
    slopes = (1 - q / p - np.log(q / p), 1 - p / q + np.log(q / p))
    parts = (
        (shares * slope**2).sum() - (shares * slope).sum() ** 2 for shares, slope in zip((p, q), slopes, strict=True)
    )
    return float(sum(part / counts.sum() for part, counts in zip(parts, (train, test), strict=True)) ** 0.5)


def _metric(value: float | None, lower: float | None, upper: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "lower95": lower, "upper95": upper, "reason": reason}


def _largest(binned: Sequence[_Binned], alpha: float) -> dict[str, Any]:
    """The largest index of any column, which none may have kept to itself."""
    if reason := next((one.reason for one in binned if one.reason), None):
        return _metric(None, None, None, reason)
    return _metric(max(psi(one.train, one.test) for one in binned), *_limits(binned, alpha), None)


def _limits(binned: Sequence[_Binned], alpha: float) -> tuple[float, float]:
    lower = max(psi_limits(one.train, one.test, tail=alpha / len(binned))[0] for one in binned)
    return lower, max(psi_limits(one.train, one.test, tail=alpha)[1] for one in binned)


def _column(column: DriftColumn, binned: _Binned, alpha: float) -> dict[str, Any]:
    train, test = binned.train, binned.test
    lower, upper = psi_limits(train, test, tail=alpha)
    return {
        "name": column.name,
        "kind": column.kind,
        "psi": psi(train, test),
        "psi_lower95": lower,
        "psi_upper95": None if binned.reason else upper,
        "psi_reason": binned.reason,
        "psi_by_chance": (len(train) - 1) * (1 / int(train.sum()) + 1 / int(test.sum())),
        **(_of_numbers(column) if column.is_number else _of_levels(column)),
        "p_adjusted": None,
        "beyond_chance": None,
        "bins": [
            {"label": label, "train": int(old), "test": int(new)}
            for label, old, new in zip(binned.labels, train, test, strict=True)
        ],
    }


def _binned(column: DriftColumn, level: float) -> _Binned:
    """About ten bins, and whether they tell enough; ``level``: of the test for what they hide."""
    table = np.array([column.train, column.test], dtype=np.int64)
    fewest = int(table.sum(axis=1).min())
    least = table[0].sum() / min(PSI_BINS, max(1, fewest // int(_LEAST_EXPECTED)))
    together = _neighbours(table, least) if column.is_number else _levels_together(table, least)
    reason = None
    if len(together) < 2 <= np.count_nonzero(table.sum(axis=0)):
        reason = f"{fewest} rows are too few to compare {column.name}: two bins of five rows each are needed"
    elif not column.is_number and _p_within(table, together) <= level:
        reason = f"levels of {column.name} moved that are too rare to be bins of their own"
    name = _range if column.is_number else _list
    return _Binned(
        labels=[name(column.labels, places) for places in together],
        train=np.array([table[0, places].sum() for places in together], dtype=np.int64),
        test=np.array([table[1, places].sum() for places in together], dtype=np.int64),
        reason=reason,
    )


def _neighbours(table: NDArray[np.int64], least: float) -> list[list[int]]:
    """Bins of numbers, together until each has another ``least`` of the train rows.

    What test rows lie below or above all train rows are bins of their own.
    """
    inside = np.flatnonzero(table[0])
    first, last = int(inside[0]), int(inside[-1])
    shares = np.floor(table[0, first : last + 1].cumsum() / least + 1e-9)
    ends = (np.flatnonzero(np.diff(shares, prepend=0.0) > 0) + first).tolist()  # bins that end a share
    ends[-1] = last
    firsts = [first, *(end + 1 for end in ends[:-1])]
    found = [list(range(start, end + 1)) for start, end in zip(firsts, ends, strict=True)]
    outside = [list(range(first)), list(range(last + 1, table.shape[1]))]
    below, above = ([places] if table[1, places].any() else [] for places in outside)
    return [*below, *found, *above]


def _levels_together(table: NDArray[np.int64], least: float) -> list[list[int]]:
    """Levels of ``least`` train rows are alone, rarer ones together in their order, not by size: that is chance."""
    there = np.flatnonzero(table.sum(axis=0)).tolist()
    rare = _classes([place for place in there if table[0, place] < least], table[0], least)
    return sorted([*([place] for place in there if table[0, place] >= least), *rare])


def _classes(places: Sequence[int], sizes: NDArray[Any], least: float) -> list[list[int]]:
    """``places`` in their order, a class closed as soon as it reaches ``least``; what is left belongs to the last."""
    found: list[list[int]] = []
    current: list[int] = []
    for place in places:
        current.append(place)
        if sizes[current].sum() >= least:
            found, current = [*found, current], []
    if current and found:
        found[-1] += current
    elif current:
        found.append(current)
    return found


def _p_within(table: NDArray[np.int64], together: Sequence[Sequence[int]]) -> float:
    """Whether levels that are taken together moved against each other: one chi-squared test within all bins."""
    from scipy import stats

    expected = _expected(table)
    total, freedom = 0.0, 0
    for places in together:
        classes = _classes(places, expected, _LEAST_WITHIN)
        if len(classes) > 1:
            inside = np.stack([table[:, each].sum(axis=1) for each in classes], axis=1)
            if inside.sum(axis=1).all():
                found = stats.chi2_contingency(inside, correction=False)
                total, freedom = total + float(found.statistic), freedom + int(found.dof)
    return float(stats.chi2.sf(total, freedom)) if freedom else 1.0


def _list(labels: Sequence[str], places: Sequence[int]) -> str:
    return labels[places[0]] if len(places) == 1 else f"{labels[places[0]]} and {len(places) - 1} more"


def _range(edges: Sequence[str], places: Sequence[int]) -> str:
    """Neighbouring bins in words; bin i reaches from above edge i - 1 up to edge i."""
    first, last = places[0], places[-1]
    if first == last == 0 and edges and edges[0].startswith(BELOW):
        return edges[0]
    low = edges[first - 1].removeprefix(BELOW) if first else None
    if last >= len(edges):
        return "all" if low is None else f"above {low}"
    high = edges[last].removeprefix(BELOW)
    return f"up to {high}" if low is None else high if low == high else f"{low} to {high}"


def _of_numbers(column: DriftColumn) -> dict[str, Any]:
    from scipy import stats

    shares = [np.cumsum(counts) / sum(counts) for counts in (column.train, column.test)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    rows = sum(column.train) * sum(column.test) / (sum(column.train) + sum(column.test))
    p_value = float(stats.kstwo.sf(distance, max(1, round(rows))))
    is_constant = np.count_nonzero(column.train) < 2 and np.count_nonzero(column.test) < 2 and distance == 0
    return {
        "distance": distance,
        "test": "kolmogorov_smirnov",
        "p_value": None if is_constant else min(1.0, p_value),
    }


def _of_levels(column: DriftColumn) -> dict[str, Any]:
    from scipy import stats

    table = np.array([column.train, column.test], dtype=np.float64)
    shares = table / table.sum(axis=1, keepdims=True)
    pooled = _without_rare(table)
    p_value = float(stats.chi2_contingency(pooled, correction=False).pvalue) if pooled.shape[1] > 1 else None
    return {"distance": float(np.abs(shares[0] - shares[1]).sum() / 2), "test": "chi_square", "p_value": p_value}


def _expected(table: NDArray[Any]) -> _FloatArray:
    """Rows of each level to be expected in the smaller split, if nothing moved."""
    return np.asarray(table.sum(axis=0) * (table.sum(axis=1).min() / table.sum()), dtype=np.float64)


def _without_rare(table: _FloatArray) -> _FloatArray:
    """The levels there are, the rarest taken together until five rows of each are to be expected in both splits."""
    expected = _expected(table)
    order = np.argsort(expected, kind="stable")
    there = [place for place in order.tolist() if expected[place] > 0]
    classes = _classes([place for place in there if expected[place] < _LEAST_EXPECTED], expected, _LEAST_EXPECTED)
    common = [[place] for place in there if expected[place] >= _LEAST_EXPECTED]
    if classes and common and expected[classes[0]].sum() < _LEAST_EXPECTED:
        classes, common = [[*classes[0], *common[0]]], common[1:]
    classes = [*classes, *common]
    return np.stack([table[:, each].sum(axis=1) for each in classes], axis=1) if classes else np.zeros((2, 0))


def largest(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The columns that moved most, those the section shows bins of."""
    return list(section.get("columns", ())[:MOST_SHOWN])

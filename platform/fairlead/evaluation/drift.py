"""Whether the rows a model is tested on look like those it was trained on: the report's ``drift``, from counts in bins.

Bins are fixed by the train split: quantiles of a column of numbers, the levels of all others. With p and q the shares
of a bin in the train and the test split:

- **PSI**, the population stability index, is the sum of (q - p) ln(q / p), over about ten bins, half a row added to
  each count. It is never negative, and rows drawn from one and the same distribution have about
  (bins - 1)(1/n + 1/m) on average: divided by 1/n + 1/m it is chi-squared with bins - 1 degrees of freedom then, and
  noncentral otherwise, from which its bounds come. Yurdakul, Naranjo 2020, Statistical properties of the population
  stability index, Journal of Risk Model Validation 14(4).
- **Distance**: Kolmogorov and Smirnov's for numbers, over up to a hundred bins, which is at most that of the values
  themselves, so that its p-value is at least theirs; the total variation of levels, with a chi-squared test for which
  levels of fewer than five rows to be expected are taken together.

P-values are adjusted for the number of columns. That a difference is more than chance explains says nothing of its
size: PSI does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from fairlead.evaluation.multiplicity import adjusted
from fairlead.spec import Document, DriftSpec

Kind = Literal["number", "text", "sensitive", "target", "picture"]
MOST_SHOWN = 10
PSI_BINS = 10
_LEAST_EXPECTED = 5.0
_FloatArray = NDArray[np.float64]


class DriftColumn(Document):
    """What ranks counted of one column."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    """Of levels; of columns of numbers, the upper edge of each bin but the last."""
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


_COUNTS: TypeAdapter[DriftCounts] = TypeAdapter(DriftCounts)


def drift_section(asked: DriftSpec, found: Any) -> dict[str, Any]:
    """The report's ``drift`` from ``DriftCounts``. Raises ``ValueError`` for what is none, or lacks rows of a split."""
    counts = _COUNTS.validate_python(found)
    for column in counts.columns:
        if (sum(column.train), sum(column.test)) != (counts.n_train, counts.n_test):
            raise ValueError(f"{column.name} does not count every row of both splits once")
    if not counts.columns or not counts.n_train or not counts.n_test:
        reason = "there are no rows to compare"
        return {"why_not_measured": reason, "metrics": {"drift_psi_max": _metric(None, None, None, reason)}}
    entries = sorted((_column(column, asked.level) for column in counts.columns), key=lambda one: -one["psi"])
    tested = [entry for entry in entries if entry["p_value"] is not None]
    for entry, p_adjusted in zip(
        tested, adjusted([one["p_value"] for one in tested], asked.correction).tolist(), strict=True
    ):
        entry |= {"p_adjusted": p_adjusted, "beyond_chance": p_adjusted <= asked.level}
    for entry in entries[MOST_SHOWN:]:
        entry["bins"] = []
    lower = max(_lower_psi(column, asked.level / len(entries)) for column in counts.columns)
    return {
        "why_not_measured": None,
        "metrics": {
            "drift_psi_max": _metric(entries[0]["psi"], lower, max(one["psi_upper95"] for one in entries), None)
        },
        "n_train": counts.n_train,
        "n_test": counts.n_test,
        "level": asked.level,
        "correction": asked.correction,
        "n_tested": len(tested),
        "n_beyond_chance": sum(bool(entry["beyond_chance"]) for entry in entries),
        "columns": entries,
    }


def psi(train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    """The population stability index of counts in the same bins, shape (bins,), half a row added to each."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (train, test))
    return float(((q - p) * np.log(q / p)).sum())


def psi_limits(value: float, *, bins: int, n_train: int, n_test: int, tail: float) -> tuple[float, float]:
    """One-sided limits of the index, each missed with probability ``tail``; see the module."""
    from scipy import special  # large; see intervals.normal_quantile

    if bins < 2:
        return 0.0, 0.0
    unit, freedom = 1 / n_train + 1 / n_test, bins - 1

    def noncentrality(seen: float, share: float) -> float:
        is_possible = float(special.chdtr(freedom, seen)) > share  # else even rows that are alike give more
        return float(special.chndtrinc(seen, freedom, share)) if is_possible else 0.0

    # A value that is small by luck must not prove more than rows that are alike do on average.
    seen = value / unit
    return unit * noncentrality(seen, 1 - tail), unit * noncentrality(max(seen, freedom), tail)


def _metric(value: float | None, lower: float | None, upper: float | None, reason: str | None) -> dict[str, Any]:
    return {"value": value, "lower95": lower, "upper95": upper, "reason": reason}


def _column(column: DriftColumn, level: float) -> dict[str, Any]:
    labels, train, test = _coarse(column)
    value = psi(train, test)
    n_train, n_test = int(train.sum()), int(test.sum())
    lower, upper = psi_limits(value, bins=len(train), n_train=n_train, n_test=n_test, tail=level)
    return {
        "name": column.name,
        "kind": column.kind,
        "psi": value,
        "psi_lower95": lower,
        "psi_upper95": upper,
        "psi_by_chance": (len(train) - 1) * (1 / n_train + 1 / n_test),
        **(_of_numbers(column) if column.is_number else _of_levels(column)),
        "p_adjusted": None,
        "beyond_chance": None,
        "bins": [
            {"label": label, "train": int(old), "test": int(new)}
            for label, old, new in zip(labels, train, test, strict=True)
        ],
    }


def _lower_psi(column: DriftColumn, tail: float) -> float:
    _, train, test = _coarse(column)
    sizes = int(train.sum()), int(test.sum())
    return psi_limits(psi(train, test), bins=len(train), n_train=sizes[0], n_test=sizes[1], tail=tail)[0]


def _coarse(column: DriftColumn) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """About ten bins: of numbers, neighbours together until each has a tenth of the train rows."""
    train, test = np.array(column.train, dtype=np.int64), np.array(column.test, dtype=np.int64)
    if not column.is_number:
        there = np.flatnonzero(train + test)
        return [column.labels[level] for level in there], train[there], test[there]
    tenths = np.floor(train.cumsum() * PSI_BINS / train.sum() + 1e-9)
    starts = np.flatnonzero(np.diff(tenths, prepend=0.0, append=tenths[-1])[:-1] > 0)  # bins that end a tenth
    ends = np.unique([*starts.tolist(), len(train) - 1])
    firsts = [0, *(ends[:-1] + 1).tolist()]
    labels = [_range(column.labels, first, int(end)) for first, end in zip(firsts, ends, strict=True)]
    return labels, np.add.reduceat(train, firsts), np.add.reduceat(test, firsts)


def _range(edges: Sequence[str], first: int, last: int) -> str:
    """Bins from ``first`` to ``last`` in words; bin i reaches from above edge i - 1 up to edge i."""
    if last >= len(edges):
        return f"above {edges[first - 1]}" if first else "all"
    return f"{edges[first - 1]} to {edges[last]}" if first else f"up to {edges[last]}"


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


def _without_rare(table: _FloatArray) -> _FloatArray:
    """The levels there are, the rarest taken together until five rows of each are to be expected in both splits."""
    expected = table.sum(axis=0) * (table.sum(axis=1).min() / table.sum())
    order = np.argsort(expected, kind="stable")
    order = order[expected[order] > 0]
    columns, rest, missing = [], np.zeros(2), 0.0
    for level in order:
        if expected[level] < _LEAST_EXPECTED or 0 < missing < _LEAST_EXPECTED:
            rest, missing = rest + table[:, level], missing + expected[level]
        else:
            columns.append(table[:, level])
    return np.stack([*columns, *([rest] if missing else [])], axis=1) if columns or missing else np.zeros((2, 0))


def largest(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The columns that moved most, those the section shows bins of."""
    return list(section.get("columns", ())[:MOST_SHOWN])

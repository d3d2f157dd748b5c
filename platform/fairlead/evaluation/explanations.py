"""What the model goes by: the report's ``explanations``, from counts of rows right and wrong with a column shuffled.

*Permutation importance* of a column is the accuracy that is lost when its values are dealt out anew among the rows of
the test split, everything else staying: Breiman 2001, Random forests; Fisher, Rudin, Dominici 2019 (arXiv 1801.01489).
One deal, the same whatever the number of ranks. The same rows are judged twice, so the interval is that of a paired
difference (Newcombe). It says what this model uses, not what causes what; columns that say the same share it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, TypeAdapter

from fairlead.evaluation.alternatives import paired_newcombe_limits
from fairlead.spec import Document, ExplanationsSpec

Paired = tuple[int, int, int, int]
"""Rows right both times, only with the column as it is, only with it shuffled, never."""


class ExplainedGroup(Document):
    """Whose rows are counted: all, or those with one level of one attribute."""

    by: tuple[str, ...]
    key: dict[str, str]


class ShuffledColumn(Document):
    """Counts of one column, in the order of the groups."""

    name: str
    counts: tuple[Paired, ...]


class ExplanationCounts(Document):
    """Everything that is counted for permutation importance. The first group is all rows."""

    n: int = Field(ge=0)
    groups: tuple[ExplainedGroup, ...]
    columns: tuple[ShuffledColumn, ...]
    left_out: dict[str, int] = Field(default_factory=dict)
    """Levels by attribute that have rows, and yet are not among the groups: those with fewest."""


_COUNTS: TypeAdapter[ExplanationCounts] = TypeAdapter(ExplanationCounts)


def explanations_section(asked: ExplanationsSpec, found: Any, alpha: float = 0.05) -> dict[str, Any]:
    """The report's ``explanations`` from ``ExplanationCounts``, with one-sided bounds at ``alpha``.

    Raises ``ValueError`` for what is none.
    """
    counts = _COUNTS.validate_python(found)
    for column in counts.columns:
        if len(column.counts) != len(counts.groups) or sum(column.counts[0]) != counts.n:
            raise ValueError(f"{column.name} does not count every row of the test split once")
    entries = [_column(column, counts.groups, alpha) for column in counts.columns]
    return {
        "why_not_measured": None if counts.n else "there are no rows to look at",
        "metrics": {},
        "method": "permutation",
        "n": counts.n,
        "left_out": counts.left_out,
        "columns": sorted(entries, key=lambda one: -(one["groups"][0]["lost"] or 0.0)) if counts.n else [],
    }


def _column(column: ShuffledColumn, groups: Sequence[ExplainedGroup], alpha: float) -> dict[str, Any]:
    table = np.array(column.counts, dtype=np.int64)
    rows = table.sum(axis=1)
    there = np.where(rows[:, None] > 0, table, 1)
    # Of right as it is less right when shuffled: the second cell is what is lost.
    two_sided, one_sided = (paired_newcombe_limits(*there.T, tail=tail) for tail in (alpha / 2, alpha))
    return {
        "name": column.name,
        "groups": [
            {
                "by": list(group.by),
                "key": group.key,
                "n": int(rows[at]),
                "lost": float((table[at, 1] - table[at, 2]) / rows[at]) if rows[at] else None,
                "lower95": float(one_sided.lower[at]) if rows[at] else None,
                "upper95": float(one_sided.upper[at]) if rows[at] else None,
                "interval": [float(two_sided.lower[at]), float(two_sided.upper[at])] if rows[at] else None,
            }
            for at, group in enumerate(groups)
        ],
    }

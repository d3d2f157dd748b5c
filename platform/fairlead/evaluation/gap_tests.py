"""Which of the many gaps in a report chance alone does not explain.

One test for each metric and grouping: that all groups are alike. Rates that are complements of one another, ratios,
and names that mean the same gap twice are the same question, and are asked once. See ``multiplicity``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fairlead.evaluation.disparities import gap_spreads
from fairlead.evaluation.groups import Grouping
from fairlead.evaluation.multiplicity import adjusted, gap_p_value
from fairlead.spec.evaluation import Correction

COMPARED = {
    "binary": (
        "selection_rate",
        "true_positive_rate",
        "false_positive_rate",
        "precision_score",
        "negative_predictive_value",
        "accuracy_score",
    ),
    "multiclass": ("selection_rate", "true_positive_rate", "precision_score", "accuracy_score"),
}
"""Metrics whose gaps are counted as comparisons, by task; with scores ``roc_auc_score`` besides, in binary tasks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GapTest:
    """One gap, asked whether it is there at all."""

    metric: str
    by: tuple[str, ...]
    p_value: float | None
    """None where there is no gap to speak of: fewer than two groups have a value. Such a test counts for nothing."""
    p_adjusted: float | None


def gap_tests(
    groupings: Sequence[Grouping], overall: Grouping, correction: Correction, *, min_support: int
) -> tuple[GapTest, ...]:
    """Every comparison of a report, with its p-value for itself and as one of all.

    It is made among the groups whose gap is shown: those with ``min_support`` rows, or all where these have no gap.
    """
    has_areas = overall.counts.histogram is not None
    names = (*COMPARED[overall.counts.task], *(("roc_auc_score",) if has_areas else ()))
    asked = [(f"{name}_difference", groups) for groups in groupings for name in names]
    p_values = []
    for name, groups in asked:
        spreads = gap_spreads(name, groups, overall.counts, min_support=min_support)
        p_values.append(gap_p_value(spreads) if spreads else None)
    beyond = iter(adjusted([p_value for p_value in p_values if p_value is not None], correction).tolist())
    return tuple(
        GapTest(metric=name, by=groups.by, p_value=p_value, p_adjusted=None if p_value is None else next(beyond))
        for (name, groups), p_value in zip(asked, p_values, strict=True)
    )

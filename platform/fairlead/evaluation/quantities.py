"""Regression, ranking and quality alike: what reports and gates ask of counts that are not those of classes."""

from collections.abc import Sequence

from fairlead.evaluation.disparities import Disparity
from fairlead.evaluation.encoding import Encoded
from fairlead.evaluation.estimates import Estimates
from fairlead.evaluation.gap_tests import GapTest
from fairlead.evaluation.metrics import Task, metric_names
from fairlead.evaluation.multiplicity import adjusted, gap_p_value
from fairlead.evaluation.ranking import RankGroups, RankState, rank_disparity, rank_estimates, rank_grouping
from fairlead.evaluation.regression import (
    MomentGroups,
    MomentState,
    moment_disparity,
    moment_estimates,
    moment_grouping,
)
from fairlead.evaluation.state import CountState
from fairlead.spec.evaluation import Correction

NumberState = MomentState | RankState
NumberGroups = MomentGroups | RankGroups
AnyState = CountState | MomentState | RankState
"""Whatever workers may hand over."""

TESTED = {
    "regression": ("mean_error", "mean_absolute_error", "mean_squared_error"),
    "ranking": ("exposure", "ndcg_score"),
    "quality": ("mean_quality",),
}
"""Metrics whose gaps are counted as comparisons."""


def read_state(data: bytes) -> AnyState:
    """What one of the states' ``to_bytes`` wrote. Raises ``ValueError`` for anything else."""
    kind = str(Encoded(data).header.get("format")).partition("/")[0]
    kinds: dict[str, type[MomentState] | type[RankState]] = {
        "fairlead-moments": MomentState,
        "fairlead-ranking": RankState,
    }
    return kinds[kind].from_bytes(data) if kind in kinds else CountState.from_bytes(data)


def merged(states: Sequence[AnyState]) -> AnyState:
    """The sum of one state or more. Raises ``ValueError`` where they do not count the same things."""
    found = states[0]
    for state in states[1:]:
        found = _sum(found, state)
    return found


def _sum(one: AnyState, other: AnyState) -> AnyState:
    if isinstance(one, CountState) and isinstance(other, CountState):
        return one.merge(other)
    if isinstance(one, MomentState) and isinstance(other, MomentState):
        return one.merge(other)
    if isinstance(one, RankState) and isinstance(other, RankState):
        return one.merge(other)
    raise ValueError("only states of one task can be merged")


def task_of(state: NumberState) -> Task:
    """The task whose rows ``state`` has counted."""
    if isinstance(state, RankState):
        return "ranking"
    return "regression" if state.measure is None else "quality"


def number_metrics(state: NumberState) -> tuple[str, ...]:
    """Every metric of one group."""
    return metric_names(task_of(state))


def number_grouping(state: NumberState, by: Sequence[str] = ()) -> NumberGroups:
    """Sum the cells over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute."""
    return moment_grouping(state, by) if isinstance(state, MomentState) else rank_grouping(state, by)


def number_estimates(metric: str, groups: NumberGroups) -> Estimates:
    """A metric of each group. Raises ``ValueError`` for one that the task does not have."""
    return moment_estimates(metric, groups) if isinstance(groups, MomentGroups) else rank_estimates(metric, groups)


def number_disparity(
    name: str, groups: NumberGroups, overall: NumberGroups, *, alpha: float, min_support: int
) -> Disparity:
    """A gap, ratio or extreme, as ``disparities.disparity``."""
    if isinstance(groups, MomentGroups) and isinstance(overall, MomentGroups):
        return moment_disparity(name, groups, overall, alpha=alpha, min_support=min_support)
    if isinstance(groups, RankGroups) and isinstance(overall, RankGroups):
        return rank_disparity(name, groups, overall, alpha=alpha, min_support=min_support)
    raise ValueError("groups and all rows are not of one task")


def number_tests(
    task: Task, groupings: Sequence[NumberGroups], correction: Correction, *, min_support: int
) -> tuple[GapTest, ...]:
    """Every comparison of a report, with its p-value for itself and as one of all.

    It is made among groups of ``min_support`` rows, or among all where fewer than two have so many.
    """
    asked = [(f"{metric}_difference", metric, groups) for groups in groupings for metric in TESTED[task]]
    p_values = [_p_value(number_estimates(metric, groups), groups, min_support) for _, metric, groups in asked]
    beyond = iter(adjusted([p_value for p_value in p_values if p_value is not None], correction).tolist())
    return tuple(
        GapTest(metric=name, by=groups.by, p_value=p_value, p_adjusted=None if p_value is None else next(beyond))
        for (name, _, groups), p_value in zip(asked, p_values, strict=True)
    )


def _p_value(estimates: Estimates, groups: NumberGroups, min_support: int) -> float | None:
    is_known = ~groups.is_unknown & (estimates.values == estimates.values)
    for least in (min_support, 0):
        chosen = (is_known & (estimates.support >= least)).nonzero()[0]
        if len(chosen) >= 2:
            return gap_p_value([estimates.take(chosen)])
    return None

"""How the model stands up to changed inputs: the report's ``robustness``, from counts under conditions.

Every condition is counted on the same rows beside the predictions for the rows as they are, so what is lost is a
difference of paired rates, and known better than from two samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairlead.evaluation.disparities import disparity
from fairlead.evaluation.entries import disparity_of, values_of
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.paired import paired_differences
from fairlead.evaluation.state import CountState
from fairlead.spec import EvaluationSpec, ProbesSpec

METRIC = "accuracy_score"
GAPS = ("accuracy_score_difference", "accuracy_score_group_min")


def robustness_section(
    state: CountState,
    conditions: Mapping[str, CountState],
    probes: ProbesSpec,
    groupings: Sequence[tuple[str, ...]],
    evaluation: EvaluationSpec,
) -> list[dict[str, Any]]:
    """One entry a way to change the inputs, for all rows and for every group; those without counts are left out.

    ``conditions``: counts by name of condition, with the predictions for unchanged rows as their champion.
    """
    return [
        {
            "condition": one.condition,
            "method": one.method,
            "eps": one.eps,
            "norm": None if one.method == "noise" else one.norm_used,
            "steps": one.steps_used if one.method == "pgd" else None,
            "restarts": one.restarts_used if one.method == "pgd" else None,
            "state": {"digest": conditions[one.condition].digest()},
            "rows_judged_otherwise": rows_judged_otherwise(state, conditions[one.condition]),
            "groups": [
                entry
                for by in ((), *groupings)
                for entry in _groups(grouping(conditions[one.condition], by), evaluation)
            ],
            "disparities": [
                entry for by in groupings for entry in _disparities(conditions[one.condition], by, evaluation)
            ],
        }
        for one in probes.robustness
        if one.condition in conditions
    ]


def rows_judged_otherwise(state: CountState, condition: CountState) -> int | None:
    """The least number of rows for which the probe's clean predictions are not those that were counted; 0 if honest.

    None where the state keeps only right and wrong of the clean predictions.
    """
    if condition.paired is None or condition.paired.shape[2:] != (len(state.classes) + 1,) * 2:
        return None
    clean = condition.paired.sum(axis=2)
    return int(np.abs(clean - state.counts).sum()) // 2


def _groups(groups: Grouping, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    accuracy = values_of(group_estimates(METRIC, groups.counts), evaluation)
    changes = values_of(paired_differences(METRIC, groups.counts), evaluation)
    return [
        {
            "by": list(groups.by),
            "key": groups.key(index),
            "n": int(size),
            "unknown": bool(groups.is_unknown[index]),
            METRIC: accuracy[index],
            "change": changes[index],
        }
        for index, size in enumerate(groups.sizes)
    ]


def _disparities(condition: CountState, by: tuple[str, ...], evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    groups, overall = grouping(condition, by), grouping(condition)
    keys = [groups.key(index) for index in range(len(groups.keys))]
    alpha, min_support = 1 - evaluation.confidence, evaluation.min_support
    return [
        disparity_of(disparity(name, groups, overall.counts, alpha=alpha, min_support=min_support), keys)
        for name in GAPS
    ]

"""What the report says of a regression or a ranking: its groups, gaps and limits, in the form that classes have too."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fairlead.evaluation.entries import disparity_of, values_of
from fairlead.evaluation.metrics import aggregate_names
from fairlead.evaluation.quantities import (
    NumberGroups,
    NumberState,
    number_disparity,
    number_estimates,
    number_grouping,
    number_metrics,
    task_of,
)
from fairlead.evaluation.ranking import RankGroups, RankState
from fairlead.evaluation.regression import MomentGroups, MomentState, Sums
from fairlead.evaluation.words import fractions_of, total
from fairlead.spec import EvaluationSpec

NO_CLASSES: dict[str, Any] = {
    "classes": [],
    "positive_class": None,
    "threshold": None,
    "conditional": [],
    "resolution": [],
    "inequality": {"generalized_entropy_index": None, "theil_index": None, "between_groups": []},
    "calibration": [],
    "curves": [],
    "thresholds": [],
}
"""What a report says of classes, where there are none."""


def number_data(state: NumberState) -> dict[str, Any]:
    """Which rows there were."""
    unknown = {}
    for attribute in state.attributes:
        groups = number_grouping(state, (attribute.name,))
        unknown[attribute.name] = int(groups.sizes[groups.is_unknown].sum())
    return {
        "n": state.book.n,
        "n_unknown": unknown,
        "n_nan_labels": state.book.n_nan_labels,
        "n_nan_scores": 0,
        "n_abstained": state.book.n_nan_scores,
    }


def number_groups(state: NumberState, groups: NumberGroups, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """The entries of one grouping: values, and what they are made of."""
    metrics = {name: values_of(number_estimates(name, groups), evaluation) for name in number_metrics(state)}
    return [
        {
            "by": list(groups.by),
            "key": dict(zip(groups.by, key, strict=True)),
            "n": int(groups.sizes[index]),
            "unknown": bool(groups.is_unknown[index]),
            "metrics": {name: values[index] for name, values in metrics.items()},
            "moments": _moments(groups, index),
        }
        for index, key in enumerate(groups.keys)
    ]


def number_disparities(
    state: NumberState, groups: NumberGroups, overall: NumberGroups, evaluation: EvaluationSpec
) -> list[dict[str, Any]]:
    """Every gap of one grouping."""
    alpha, least = 1 - evaluation.confidence, evaluation.min_support
    keys = [dict(zip(groups.by, key, strict=True)) for key in groups.keys]
    found = (
        number_disparity(name, groups, overall, alpha=alpha, min_support=least)
        for name in aggregate_names(task_of(state))
    )
    return [disparity_of(each, keys) for each in found]


def number_section(state: NumberState, groupings: Sequence[NumberGroups]) -> dict[str, Any]:
    """What only this task has to say, under its name."""
    if isinstance(state, RankState):
        mixed = [{"by": list(groups.by), "n": _num_mixed(state, groups)} for groups in groupings if groups.by]
        ranked = {
            "n_queries": state.n_queries,
            "n_without_relevance": state.n_irrelevant_queries,
            "n_of_one_row": state.n_single_queries,
            "n_of_several_groups": mixed,
        }
        return {"ranking": ranked}
    if state.measure is not None:
        return {"quality": {"measure": state.measure, "range": [state.low, state.high], "better": state.better}}
    simple = [groups for groups in groupings if isinstance(groups, MomentGroups) and len(groups.by) < 2]
    return {
        "regression": {
            "range": [state.low, state.high],
            "step": state.unit.step,
            "bins": [entry for groups in simple for entry in _bins(state, groups)],
        }
    }


def number_limitations(
    state: NumberState, groupings: Sequence[NumberGroups], evaluation: EvaluationSpec
) -> Iterator[str]:
    """What a reader must know of these counts, besides what is true of all."""
    if state.book.n_nan_labels:
        what = "relevance" if isinstance(state, RankState) else "target"
        yield f"{state.book.n_nan_labels} rows have no {what} and are in no metric."
    if isinstance(state, RankState):
        yield from _limits_of_ranking(state)
    else:
        yield from _limits_of_regression(state, groupings)
    if evaluation.control:
        yield "Gaps within strata were not computed: they are defined for two classes."
    for groups in groupings:
        few = int(((groups.sizes < evaluation.min_support) & ~groups.is_unknown).sum())
        if few and groups.by:
            have = "1 group by {} has" if few == 1 else f"{few} groups by {{}} have"
            yield f"{have.format(' and '.join(groups.by))} fewer than {evaluation.min_support} rows."


def _limits_of_regression(state: MomentState, groupings: Sequence[NumberGroups]) -> Iterator[str]:
    if state.book.n_nan_scores and state.measure is not None:
        yield f"{state.book.n_nan_scores} rows have no answer that could be graded, and are in no metric."
    elif state.book.n_nan_scores:
        yield (
            f"{state.book.n_nan_scores} rows have no prediction and are in no metric: no requirement is met as long as "
            "nobody knows how far off it would be there."
        )
    coarse = [
        groups for groups in groupings if isinstance(groups, MomentGroups) and any(s.is_coarse for s in groups.sums)
    ]
    if coarse:
        yield (
            f"Numbers are counted in steps of {state.unit.step:.3g}, since they range from {state.low:g} to "
            f"{state.high:g}: errors of some groups are too small beside that to be told. Look for a number that is "
            "far out, or give columns.target_range."
        )


def _limits_of_ranking(state: RankState) -> Iterator[str]:
    yield "Exposure is what a place is worth, 1 / log2(1 + rank); what people looked at is not known here."
    if state.n_single_queries:
        yield f"{state.n_single_queries} queries have one row: there is nothing to rank, and they have no NDCG."
    if state.n_irrelevant_queries:
        yield f"{state.n_irrelevant_queries} queries have no relevant row, and so no NDCG."
    if state.n_mixed_queries:
        yield (
            f"{state.n_mixed_queries} queries have rows of several groups: they have a NDCG among all rows, and in a "
            "group only where all their rows are of it."
        )


def _num_mixed(state: RankState, groups: NumberGroups) -> int:
    assert isinstance(groups, RankGroups), "of this state"
    return int(state.ndcg[:, 0].sum() - groups.queries.sum())


def _moments(groups: NumberGroups, index: int) -> dict[str, Any]:
    if isinstance(groups, MomentGroups):
        return _moments_of(groups.sums[index])
    exposure, ndcg = groups.exposure[index].sum(axis=0), groups.ndcg[index]
    return {
        "n": int(exposure[0]),
        "exposure": float(fractions_of(exposure[1:3])),
        "relevance": float(fractions_of(exposure[3:5])) * 1024,
        "queries": int(ndcg[0]),
        "ndcg": float(fractions_of(ndcg[1:3])),
        "squared_ndcg": float(fractions_of(ndcg[3:5])),
    }


def _moments_of(sums: Sums) -> dict[str, Any]:
    """Sums over rows, as far as floats can say them; ``centred``: less the middle of the range."""
    scale = sums.unit.scale
    return {
        "n": sums.n,
        "centre": sums.unit.centre,
        "centred_target": sums.y / scale,
        "centred_prediction": sums.p / scale,
        "absolute_error": sums.absolute / scale,
        "squared_centred_target": sums.yy / scale**2,
        "squared_centred_prediction": sums.pp / scale**2,
        "squared_error": sums.squared_error / scale**2,
    }


def _bins(state: MomentState, groups: MomentGroups) -> list[dict[str, Any]]:
    """Mean target and mean prediction by bins of the prediction: how far predictions mean what they say."""
    return [
        {
            "by": list(groups.by),
            "key": dict(zip(groups.by, key, strict=True)),
            "points": [
                {
                    "n": int(row[0]),
                    "mean_target": state.unit.centre + total(row[1:3]) / int(row[0]) / state.unit.scale,
                    "mean_prediction": state.unit.centre + total(row[3:5]) / int(row[0]) / state.unit.scale,
                }
                for row in bins
                if row[0]
            ],
        }
        for key, bins in zip(groups.keys, groups.bins, strict=True)
        if np.any(bins[:, 0])
    ]

"""The parts of the page that a regression or a ranking has in the place of those of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from fairlead.evaluation.cells import UNKNOWN
from fairlead.evaluation.drawing import (
    CHART,
    SHARES,
    Chart,
    Key,
    Report,
    Scale,
    Series,
    count,
    figure,
    group_name,
    scale_of,
)

TASKS = ("regression", "ranking", "quality")
TITLES = {
    "mean_prediction": "mean prediction",
    "mean_target": "mean target",
    "mean_error": "mean error",
    "mean_absolute_error": "mean absolute error",
    "mean_squared_error": "mean squared error",
    "root_mean_squared_error": "root mean squared error",
    "r2_score": "R²",
    "exposure": "exposure",
    "exposure_per_relevance": "exposure per relevance",
    "ndcg_score": "NDCG",
    "mean_quality": "mean quality",
}
MEANINGS = {
    "mean_prediction": "what is predicted on average",
    "mean_target": "what is true on average",
    "mean_error": "prediction less target: below 0 too low, above 0 too high",
    "mean_absolute_error": "how far off predictions are on average",
    "root_mean_squared_error": "the same, far ones counting more",
    "r2_score": "share of the targets’ spread that predictions explain; below 0: worse than their mean",
    "exposure": "attention that the place of a row gets on average: the first place 1, the second 0.63",
    "exposure_per_relevance": "attention for each unit of relevance",
    "ndcg_score": "how near lists come to the best order: 1 is the best",
    "mean_quality": "how good answers are on average, in the unit said above",
}
COLUMNS = {
    "regression": ("mean_absolute_error", "root_mean_squared_error", "mean_error", "r2_score"),
    "ranking": ("exposure", "exposure_per_relevance", "ndcg_score"),
    "quality": ("mean_quality",),
}
TILES = {
    "regression": (
        "mean_absolute_error",
        "root_mean_squared_error",
        "mean_error",
        "r2_score",
        "mean_target",
        "mean_prediction",
    ),
    "ranking": ("ndcg_score", "exposure", "exposure_per_relevance"),
    "quality": ("mean_quality",),
}
LADDER = {
    "regression": (
        "mean_error_difference",
        "mean_absolute_error_difference",
        "mean_absolute_error_ratio",
        "root_mean_squared_error_difference",
        "mean_prediction_difference",
    ),
    "ranking": (
        "exposure_difference",
        "exposure_ratio",
        "exposure_per_relevance_ratio",
        "ndcg_score_difference",
    ),
    "quality": ("mean_quality_difference", "mean_quality_group_min", "mean_quality_group_max"),
}
_MOST_SERIES = 6
_ENDS = ("value", "lower95", "upper95")


def is_of_numbers(report: Report) -> bool:
    """Whether it is about a regression or a ranking."""
    return report["task"] in TASKS


def scale_of_metric(report: Report, by: Sequence[str], metric: str, hidden: frozenset[Key]) -> Scale:
    """Where values of the groups of one grouping, and of all rows, are drawn; classes have shares of 1."""
    if not is_of_numbers(report):
        return SHARES
    shown = [
        group["metrics"][metric]
        for group in report["groups"]
        if not group["by"] or (group["by"] == list(by) and tuple(group["key"].values()) not in hidden)
    ]
    values = [entry["value"] for entry in shown]
    # few rows have intervals that would leave nothing to see of the others: these leave the scale
    sure = [end for entry in shown if entry["support"] == "ok" for end in entry["interval"] or ()]
    return scale_of([*values, *sure])


def scale_of_gap(metric: str, entries: Sequence[Mapping[str, Any]], limits: Sequence[float]) -> Scale:
    """Where one gap, ratio or extreme is drawn, with the limits that gates set for it."""
    if metric.endswith(("_ratio", "_ratio_to_overall")):
        return Scale(is_open=True)
    return scale_of([*limits, *(entry[end] for entry in entries for end in _ENDS)])


def prediction_chart(report: Report, by: Sequence[str], hidden: frozenset[Key]) -> tuple[Chart, ...]:
    """Mean target over mean prediction, by bins of the prediction: on the diagonal they mean what they say."""
    entries = [
        entry
        for entry in report.get("regression", {"bins": ()})["bins"]
        if entry["by"] == list(by)
        and tuple(entry["key"].values()) not in hidden
        and UNKNOWN not in entry["key"].values()
    ][:_MOST_SERIES]
    least = report["settings"]["min_display"]
    shown = [(entry, [one for one in entry["points"] if one["n"] >= least]) for entry in entries]
    values = [one[end] for _, points in shown for one in points for end in ("mean_target", "mean_prediction")]
    if not values:
        return ()
    scale = scale_of(values)
    return (
        Chart(
            title="Targets by prediction",
            x_axis="mean prediction",
            y_axis="mean target",
            series=tuple(_series(index, entry, points, scale) for index, (entry, points) in enumerate(shown) if points),
            has_diagonal=True,
            x_start=scale.start,
            x_end=scale.end,
            y_start=scale.start,
            y_end=scale.end,
        ),
    )


def _series(index: int, entry: Mapping[str, Any], points: Sequence[Mapping[str, Any]], scale: Scale) -> Series:
    key, rows = tuple(entry["key"].values()), sum(one["n"] for one in entry["points"])
    width = scale.end - scale.start
    return Series(
        name=f"{group_name(key) if key else 'all rows'} (n = {count(rows)})",
        style=index,
        points=tuple(
            ((one["mean_prediction"] - scale.start) / width * CHART, (scale.end - one["mean_target"]) / width * CHART)
            for one in points
        ),
        has_markers=True,
    )


def facts(report: Report) -> str:
    """What else there is to say of the rows, in a sentence or two."""
    if report["task"] == "regression":
        low, high = report["regression"]["range"]
        return f"Targets and predictions range from {figure(low)} to {figure(high)}."
    if report["task"] == "quality":
        found = report["quality"]
        low, high = found["range"]
        return (
            f"The quality of a row is its {found['measure']}, from {figure(low)} to {figure(high)}; "
            f"{found['better']} is better."
        )
    if report["task"] != "ranking":
        return ""
    found = report["ranking"]
    text = f"The rows make {count(found['n_queries'])} lists."
    more = [
        f"{count(found[name])} {what}"
        for name, what in (("n_of_one_row", "have one row"), ("n_without_relevance", "have no relevant row"))
        if found[name]
    ]
    return f"{text} Of these {' and '.join(more)}, and no NDCG." if more else text


WORDS = {
    "quality": {
        "how": "Means have Student’s intervals; differences combine those of both groups.",
        "absent": "the mean of a group without rows",
        "which": "The workload itself grades its answers, row by row; the platform has added them up, each row once.",
    },
    "regression": {
        "how": "Means have Student’s intervals, mean squares those of a sum of squares (Satterthwaite); differences "
        "combine those of both groups, ratios those of the logarithms.",
        "absent": "R² of a group whose targets do not vary",
        "which": "Equal mean errors and equal spreads of errors are different things: a model may be right on average "
        "for a group, and far off for each in it.",
    },
    "ranking": {
        "how": "A mean NDCG has Student’s interval. Rows of a list compete for its places, so intervals of exposures "
        "come from leaving lists out, a hundredth of them at a time (jackknife).",
        "absent": "the NDCG of a group that has no list of its own",
        "which": "Equal exposure, and exposure in proportion to relevance, usually cannot both hold when groups differ "
        "in relevance.",
    },
}
"""How this is to be read, by task."""

"""Classification metrics as functions of counts, under the names Fairlearn and scikit-learn give them.

Counts have shape (groups, K, K+1): label, prediction, and a last column for rows without a prediction. Such rows
stay in every denominator that is taken over labels: a model that abstains on hard rows is not better for it. In
binary tasks class 1 is the positive one. In multi-class tasks each rate is taken one class against the rest; the
value of a group is the mean over the classes where it is defined, and a gap is the largest over the classes.

A quotient 0/0 has no value but a reason: ``empty`` (no rows), ``no_positive_labels``, ``no_negative_labels``,
``no_positive_predictions``, ``no_negative_predictions``, and the like.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fairlead.evaluation.estimates import Estimates, FScores, IntArray, Means, Plain, Quotients, RankAreas, Rates
from fairlead.evaluation.intervals import FloatArray

Task = Literal["binary", "multiclass"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Confusion:
    """One class against the rest: rows of each group, shape (groups,) each."""

    tn: IntArray
    fp: IntArray
    fn: IntArray
    tp: IntArray
    abstained_negative: IntArray
    abstained_positive: IntArray

    @property
    def positives(self) -> IntArray:
        """Rows labelled positive, abstained ones included."""
        return self.tp + self.fn + self.abstained_positive

    @property
    def negatives(self) -> IntArray:
        """Rows labelled negative, abstained ones included."""
        return self.tn + self.fp + self.abstained_negative

    @property
    def n(self) -> IntArray:
        """All rows."""
        return self.positives + self.negatives


@dataclass(frozen=True, kw_only=True, slots=True)
class RateDefinition:
    """A rate of a confusion table: what is counted, out of what, and why there may be nothing to count."""

    numerator: Callable[[Confusion], IntArray]
    denominator: Callable[[Confusion], IntArray]
    undefined: str
    is_over_labels: bool = False
    """Denominators of different classes share no row, so that rates of classes are independent."""


RATES: dict[str, RateDefinition] = {
    "selection_rate": RateDefinition(numerator=lambda c: c.tp + c.fp, denominator=lambda c: c.n, undefined="empty"),
    "base_rate": RateDefinition(numerator=lambda c: c.positives, denominator=lambda c: c.n, undefined="empty"),
    "true_positive_rate": RateDefinition(
        numerator=lambda c: c.tp,
        denominator=lambda c: c.positives,
        undefined="no_positive_labels",
        is_over_labels=True,
    ),
    "false_negative_rate": RateDefinition(
        numerator=lambda c: c.fn,
        denominator=lambda c: c.positives,
        undefined="no_positive_labels",
        is_over_labels=True,
    ),
    "false_positive_rate": RateDefinition(
        numerator=lambda c: c.fp, denominator=lambda c: c.negatives, undefined="no_negative_labels"
    ),
    "true_negative_rate": RateDefinition(
        numerator=lambda c: c.tn, denominator=lambda c: c.negatives, undefined="no_negative_labels"
    ),
    "precision_score": RateDefinition(
        numerator=lambda c: c.tp,
        denominator=lambda c: c.tp + c.fp,
        undefined="no_positive_predictions",
        is_over_labels=True,
    ),
    "false_discovery_rate": RateDefinition(
        numerator=lambda c: c.fp,
        denominator=lambda c: c.tp + c.fp,
        undefined="no_positive_predictions",
        is_over_labels=True,
    ),
    "negative_predictive_value": RateDefinition(
        numerator=lambda c: c.tn, denominator=lambda c: c.tn + c.fn, undefined="no_negative_predictions"
    ),
    "false_omission_rate": RateDefinition(
        numerator=lambda c: c.fn, denominator=lambda c: c.tn + c.fn, undefined="no_negative_predictions"
    ),
}
"""Rates of one class; ``precision_score`` and its complement are independent over classes by their predictions."""

WHOLE_RATES = ("accuracy_score", "zero_one_loss")
"""Rates over all classes at once."""
OTHER_METRICS = ("balanced_accuracy_score", "f1_score", "matthews_corrcoef")
BINARY_ONLY = ("treatment_equality",)
SCORE_METRICS = ("roc_auc_score",)
COUNT = "count"

ALIASES = {"recall_score": "true_positive_rate"}
PUBLISHED = {
    "demographic_parity_difference": "selection_rate_difference",
    "demographic_parity_ratio": "selection_rate_ratio",
    "equal_opportunity_difference": "true_positive_rate_difference",
    "equal_opportunity_ratio": "true_positive_rate_ratio",
    "predictive_parity_difference": "precision_score_difference",
    "predictive_parity_ratio": "precision_score_ratio",
    "impact_ratio": "selection_rate_ratio",
}
"""Names under which some gaps are known, and what they are gaps of."""
EQUALIZED_ODDS = (
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "equalized_odds_mean_difference",
    "equalized_odds_mean_ratio",
)
AGGREGATES = (
    "difference_to_overall",
    "ratio_to_overall",
    "difference",
    "ratio",
    "group_min",
    "group_max",
)
"""Suffixes of a metric that is compared over groups; longer ones first, so that they are recognised first."""
SPREADS = ("total_variation_distance",)
"""Gaps that are not made of one metric; multi-class only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One statistic of every group of a grouping, for one class (None: for the task as a whole)."""

    metric: str
    class_name: str | None
    estimates: Estimates


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """All that metrics are made of, for some groups."""

    table: IntArray
    """Shape (groups, K, K+1)."""
    classes: tuple[str, ...]
    histogram: IntArray | None = None
    """Shape (groups, 2, bins)."""
    _families: dict[str, tuple["Family", ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed before: every gap and extreme of a metric looks at the same values."""

    @property
    def task(self) -> Task:
        """Binary with two classes, multi-class with more."""
        return "binary" if len(self.classes) == 2 else "multiclass"

    def take(self, groups: IntArray | Sequence[int]) -> "Counts":
        """The counts of some of the groups."""
        histogram = None if self.histogram is None else self.histogram[groups]
        return Counts(table=self.table[groups], classes=self.classes, histogram=histogram)


def one_against_rest(table: IntArray, positive: int) -> Confusion:
    """The confusion table of one class; ``table`` has shape (groups, K, K+1)."""
    num_classes = table.shape[1]
    abstained = table[:, :, num_classes]
    predicted = table[:, :, :num_classes]
    tp = predicted[:, positive, positive]
    fn = predicted[:, positive, :].sum(axis=1) - tp
    fp = predicted[:, :, positive].sum(axis=1) - tp
    tn = predicted.sum(axis=(1, 2)) - tp - fn - fp
    positive_abstained = abstained[:, positive]
    return Confusion(
        tn=tn,
        fp=fp,
        fn=fn,
        tp=tp,
        abstained_negative=abstained.sum(axis=1) - positive_abstained,
        abstained_positive=positive_abstained,
    )


def metric_names(task: Task, *, has_scores: bool = True) -> tuple[str, ...]:
    """Every metric of one group, ``count`` aside."""
    binary = BINARY_ONLY + (SCORE_METRICS if has_scores else ()) if task == "binary" else ()
    return (*WHOLE_RATES, *RATES, *OTHER_METRICS, *binary)


def aggregate_names(task: Task, *, has_scores: bool = True) -> tuple[str, ...]:
    """Every gap, ratio and extreme over groups."""
    names = metric_names(task, has_scores=has_scores)
    own = tuple(f"{metric}_{aggregate}" for metric in names for aggregate in AGGREGATES)
    return (*PUBLISHED, *EQUALIZED_ODDS, *(SPREADS if task == "multiclass" else ()), *own)


def known_metric(name: str, task: Task) -> bool:
    """Whether a gate may ask for ``name``."""
    name = canonical(name)
    return name == COUNT or name in metric_names(task) or name in aggregate_names(task)


def nearest_metric(name: str, task: Task) -> str | None:
    """The known metric whose name is most like ``name``; None if none is like it."""
    known = (*metric_names(task), *aggregate_names(task), *ALIASES)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def is_over_groups(name: str, task: Task) -> bool:
    """Whether ``name`` compares groups, and so needs a grouping."""
    return canonical(name) in aggregate_names(task)


def canonical(name: str) -> str:
    """``name`` with an alias replaced by the name used here."""
    for alias, metric in ALIASES.items():
        if name == alias or name.startswith(f"{alias}_"):
            return metric + name.removeprefix(alias)
    return name


def split_aggregate(name: str) -> tuple[str, str]:
    """Metric and aggregate of a name such as ``accuracy_score_group_min``."""
    for aggregate in AGGREGATES:
        if name.endswith(f"_{aggregate}"):
            return name.removesuffix(f"_{aggregate}"), aggregate
    raise ValueError(f"{name!r} names no aggregate; aggregates end in {', '.join(AGGREGATES)}")


def families(metric: str, counts: Counts) -> tuple[Family, ...]:
    """What gaps of ``metric`` are taken over: one family, or one for each class of a multi-class task."""
    if metric not in counts._families:
        counts._families[metric] = _families(metric, counts)
    return counts._families[metric]


def _families(metric: str, counts: Counts) -> tuple[Family, ...]:
    if counts.task == "multiclass" and (metric in RATES or metric == "f1_score"):
        return tuple(
            Family(metric=metric, class_name=name, estimates=class_estimates(metric, counts, index))
            for index, name in enumerate(counts.classes)
        )
    return (Family(metric=metric, class_name=None, estimates=group_estimates(metric, counts)),)


def group_estimates(metric: str, counts: Counts) -> Estimates:
    """The value of ``metric`` for each group: of class 1 in binary tasks, the mean over classes otherwise.

    Raises ``ValueError`` for a metric that the task, or the absence of scores, does not allow.
    """
    if metric in WHOLE_RATES:
        return _whole_rate(metric, counts.table)
    if metric == "matthews_corrcoef":
        return _matthews(counts.table)
    if metric == "roc_auc_score" and counts.histogram is not None:
        return RankAreas(positives=counts.histogram[:, 1], negatives=counts.histogram[:, 0])
    if metric == "balanced_accuracy_score":
        recalls = _over_classes("true_positive_rate", counts)
        skips = counts.task == "multiclass"
        return Means(parts=recalls, skips_undefined=skips, is_independent=True)
    if metric in RATES or metric in ("f1_score", *BINARY_ONLY):
        if counts.task == "binary":
            return class_estimates(metric, counts, 1)
        is_independent = metric in RATES and RATES[metric].is_over_labels
        parts = _over_classes(metric, counts)
        return Means(parts=parts, skips_undefined=True, is_independent=is_independent)
    raise ValueError(f"{metric!r} cannot be computed for this {counts.task} task")


def class_estimates(metric: str, counts: Counts, positive: int) -> Estimates:
    """The value of a rate, ``f1_score`` or ``treatment_equality`` for one class against the rest."""
    confusion = one_against_rest(counts.table, positive)
    rows = confusion.n.astype(np.float64)
    if metric == "f1_score":
        hits = confusion.tp.astype(np.float64)
        # positives without a prediction are misses
        errors = (confusion.fp + confusion.positives - confusion.tp).astype(np.float64)
        return FScores(hits=hits, errors=errors, rows=rows)
    if metric == "treatment_equality":
        return Quotients(
            numerators=confusion.fn.astype(np.float64),
            denominators=confusion.fp.astype(np.float64),
            rows=rows,
            undefined="no_false_positives",
        )
    definition = RATES[metric]
    return Rates(
        numerators=definition.numerator(confusion).astype(np.float64),
        denominators=definition.denominator(confusion).astype(np.float64),
        undefined=definition.undefined,
        is_empty=rows == 0,
    )


def generalized_entropy(benefits: Sequence[float], weights: Iterable[float] | None = None) -> float | None:
    """Generalised entropy index of order 2 of ``benefits``, each occurring ``weights`` times.

    1/(2n) sum((b/mean)^2 - 1); None without rows or with a mean of 0. Source: Speicher et al. 2018, equation 3.
    """
    values, counts = _weighted(benefits, weights)
    total, mean = counts.sum(), _mean(values, counts)
    if not mean:
        return None
    return float((counts * ((values / mean) ** 2 - 1)).sum() / (2 * total))


def theil_index(benefits: Sequence[float], weights: Iterable[float] | None = None) -> float | None:
    """Theil index of ``benefits``, each occurring ``weights`` times; 0 ln 0 is 0.

    1/n sum((b/mean) ln(b/mean)); None without rows or with a mean of 0.
    """
    values, counts = _weighted(benefits, weights)
    total, mean = counts.sum(), _mean(values, counts)
    if not mean:
        return None
    share = values / mean
    return float((counts * share * np.log(np.where(share > 0, share, 1.0))).sum() / total)


def benefit_counts(confusion: Confusion) -> FloatArray:
    """Rows whose benefit (prediction - label + 1) is 0, 1 and 2; shape (groups, 3)."""
    return np.stack([confusion.fn, confusion.tn + confusion.tp, confusion.fp], axis=1).astype(np.float64)


def between_group_entropy(confusion: Confusion) -> float | None:
    """Generalised entropy of order 2 when every row has its group's mean benefit."""
    benefits = benefit_counts(confusion)
    rows = benefits.sum(axis=1)
    kept = rows > 0
    means = benefits[kept] @ np.array([0.0, 1.0, 2.0]) / rows[kept]
    return generalized_entropy(means.tolist(), rows[kept].tolist())


def differential_fairness(table: IntArray) -> float | None:
    """Smoothed empirical differential fairness of predictions: the largest log ratio between two groups.

    Probabilities are (rows + 1) / (all rows + K). Source: Foulds et al. 2020. None with fewer than two groups.
    """
    predicted = table[:, :, :-1].sum(axis=1)
    predicted = predicted[predicted.sum(axis=1) > 0]
    if len(predicted) < 2:
        return None
    logs = np.log((predicted + 1) / (predicted.sum(axis=1, keepdims=True) + predicted.shape[1]))
    return float((logs.max(axis=0) - logs.min(axis=0)).max())


def _over_classes(metric: str, counts: Counts) -> tuple[Estimates, ...]:
    return tuple(class_estimates(metric, counts, index) for index in range(len(counts.classes)))


def _whole_rate(metric: str, table: IntArray) -> Rates:
    rows = table.sum(axis=(1, 2)).astype(np.float64)
    hits = np.trace(table, axis1=1, axis2=2).astype(np.float64)
    numerators = hits if metric == "accuracy_score" else rows - hits
    return Rates(numerators=numerators, denominators=rows, undefined="empty", is_empty=rows == 0)


def _matthews(table: IntArray) -> Plain:
    """Gorodkin's coefficient of K classes, which for two is Matthews's; whole numbers until the last step."""
    values = np.array([_matthews_of(group) for group in table], dtype=np.float64)
    return Plain(values=values, support=table.sum(axis=(1, 2)), undefined="no_variation")


def _matthews_of(table: IntArray) -> float:
    labels = [int(count) for count in table.sum(axis=1)] + [0]
    predictions = [int(count) for count in table.sum(axis=0)]
    rows, hits = sum(labels), int(np.trace(table))
    covariance = hits * rows - sum(one * two for one, two in zip(labels, predictions, strict=True))
    spread = (rows**2 - sum(count**2 for count in labels)) * (rows**2 - sum(count**2 for count in predictions))
    return covariance / spread**0.5 if spread else np.nan


def _weighted(benefits: Sequence[float], weights: Iterable[float] | None) -> tuple[FloatArray, FloatArray]:
    values = np.asarray(benefits, dtype=np.float64)
    counts = np.ones(len(values)) if weights is None else np.asarray(list(weights), dtype=np.float64)
    return values, counts


def _mean(values: FloatArray, counts: FloatArray) -> float:
    return float((values * counts).sum() / counts.sum()) if counts.sum() else 0.0

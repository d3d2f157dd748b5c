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

from fairlead.evaluation.estimates import (
    Bootstrapped,
    Estimates,
    ExactAreas,
    FScores,
    IntArray,
    Means,
    Plain,
    Quotients,
    RankAreas,
    Rates,
    WeightedRates,
)
from fairlead.evaluation.exact import ExactScores
from fairlead.evaluation.intervals import FloatArray
from fairlead.evaluation.losses import LOSSES, loss_estimates
from fairlead.evaluation.measured import METRICS as MEASURED
from fairlead.evaluation.replicates import Resampled, is_drawable
from fairlead.evaluation.scores import CALIBRATION_METRICS, calibration_estimates
from fairlead.evaluation.state import SQUARE_SCALE, WEIGHT_SCALE

Task = Literal["binary", "multiclass", "regression", "ranking", "quality"]


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

REGRESSION_METRICS = (
    "mean_prediction",
    "mean_target",
    "mean_error",
    "mean_absolute_error",
    "mean_squared_error",
    "root_mean_squared_error",
    "r2_score",
)
RANKING_METRICS = ("exposure", "exposure_per_relevance", "ndcg_score")
"""``exposure_per_relevance`` is the sum of exposures over that of relevances: its ratio between groups is the
disparate treatment ratio."""
QUALITY_METRICS = ("mean_quality",)
"""How good answers are on average, where each has one number that says so."""
_OF_NUMBERS: dict[Task, tuple[str, ...]] = {
    "regression": REGRESSION_METRICS,
    "ranking": RANKING_METRICS,
    "quality": QUALITY_METRICS,
}
_SIGNED = ("mean_prediction", "mean_target", "mean_error", "r2_score", "mean_quality")
"""Metrics that may be below 0, so that their ratios mean nothing."""
BOUNDLESS = ("r2_score",)
"""Metrics of numbers without limits."""

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
_CALIBRATION_AGGREGATES = frozenset(f"{metric}_{each}" for metric in CALIBRATION_METRICS for each in AGGREGATES)
"""Computed where they are asked for, not in every report: they need resampling."""
SPREADS = ("total_variation_distance", "kolmogorov_smirnov_distance")
"""Gaps that are not made of one metric: of predictions in multi-class tasks, of scores in binary ones."""


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
    """Rows by label and score, shape (groups, 2, bins)."""
    calibration: IntArray | None = None
    """Rows by hit and confidence, shape (groups, 2, bins)."""
    score_sums: IntArray | None = None
    """Sums of confidences in fixed point, shape (groups, 2, bins)."""
    weights: IntArray | None = None
    """Sums of weights in fixed point, shape (groups, K, K+1): then rates are weighted."""
    squares: IntArray | None = None
    """Sums of squared weights in fixed point, shape (groups, K, K+1)."""
    replicates: IntArray | None = None
    """The counts or weights of each resampling, shape (groups, R, K, K+1)."""
    losses: IntArray | None = None
    """Sums of losses of scores, shape (groups, 4, 2)."""
    exact: ExactScores | None = None
    """Every different score, where the state kept them."""
    paired: IntArray | None = None
    """Rows by label, prediction and the champion's prediction; see ``CountState.paired``."""
    _families: dict[str, tuple["Family", ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What was computed before: every gap and extreme of a metric looks at the same values."""

    @property
    def task(self) -> Task:
        """Binary with two classes, multi-class with more."""
        return "binary" if len(self.classes) == 2 else "multiclass"

    def take(self, groups: IntArray | Sequence[int]) -> "Counts":
        """The counts of some of the groups."""
        names = ("histogram", "calibration", "score_sums", "weights", "squares", "replicates", "losses", "paired")
        kept = {name: array[groups] for name in names if (array := getattr(self, name)) is not None}
        exact = None if self.exact is None else self.exact.take(groups)
        return Counts(table=self.table[groups], classes=self.classes, exact=exact, **kept)

    @property
    def is_resampled(self) -> bool:
        """Whether rows count by weight, or together with others of their cluster."""
        return self.weights is not None or self.replicates is not None


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


def metric_names(task: Task, *, has_scores: bool = True, has_losses: bool = True) -> tuple[str, ...]:
    """Every metric of one group, ``count`` aside."""
    if task in _OF_NUMBERS:
        return _OF_NUMBERS[task]
    binary = BINARY_ONLY + (SCORE_METRICS if has_scores else ()) if task == "binary" else ()
    return (*WHOLE_RATES, *RATES, *OTHER_METRICS, *binary, *(LOSSES if has_scores and has_losses else ()))


def aggregate_names(task: Task, *, has_scores: bool = True, has_losses: bool = True) -> tuple[str, ...]:
    """Every gap, ratio and extreme over groups."""
    names = metric_names(task, has_scores=has_scores, has_losses=has_losses)
    own = tuple(
        f"{metric}_{aggregate}"
        for metric in names
        for aggregate in AGGREGATES
        if metric not in _SIGNED or not aggregate.startswith("ratio")
    )
    if task in _OF_NUMBERS:
        return own
    spreads = SPREADS[:1] if task == "multiclass" else SPREADS[1:] if has_scores else ()
    return (*PUBLISHED, *EQUALIZED_ODDS, *spreads, *own)


def has_bounds(name: str, task: Task) -> bool:
    """Whether bounds of ``name``, a metric of numbers or an aggregate of one, are known; of classes it depends."""
    if task not in _OF_NUMBERS or name == COUNT:
        return True
    return not name.startswith(BOUNDLESS) and not name.endswith("_to_overall")


def needs_scores(name: str) -> bool:
    """Whether ``name``, a metric or an aggregate of one, is made of scores."""
    return canonical(name).startswith((*SCORE_METRICS, *CALIBRATION_METRICS, SPREADS[1], *LOSSES))


def needs_losses(name: str) -> bool:
    """Whether ``name``, a metric or an aggregate of one, is made of sums of losses."""
    return canonical(name).startswith(LOSSES)


def known_metric(name: str, task: Task) -> bool:
    """Whether a gate may ask for ``name``."""
    name = canonical(name)
    alone = (COUNT, *(() if task in _OF_NUMBERS else CALIBRATION_METRICS), *metric_names(task))
    return name in alone or is_over_groups(name, task)


def nearest_metric(name: str, task: Task) -> str | None:
    """The known metric whose name is most like ``name``; None if none is like it."""
    of_classes = () if task in _OF_NUMBERS else (*CALIBRATION_METRICS, *ALIASES)
    known = (*metric_names(task), *of_classes, *aggregate_names(task), *MEASURED)
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.5)), None)


def task_of_metric(name: str) -> Task | None:
    """The first task that has a metric called ``name``; None if none has."""
    tasks: tuple[Task, ...] = ("binary", "multiclass", "regression", "ranking", "quality")
    return next((task for task in tasks if known_metric(name, task)), None)


def is_over_groups(name: str, task: Task) -> bool:
    """Whether ``name`` compares groups, and so needs a grouping."""
    is_of_calibration = task not in _OF_NUMBERS and canonical(name) in _CALIBRATION_AGGREGATES
    return canonical(name) in aggregate_names(task) or is_of_calibration


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
        return _whole_rate(metric, counts)
    if metric == "matthews_corrcoef":
        return _matthews(counts)
    if metric in CALIBRATION_METRICS and counts.calibration is not None and counts.score_sums is not None:
        return calibration_estimates(metric, counts.calibration, counts.score_sums)
    if metric in LOSSES and counts.losses is not None and counts.calibration is not None:
        rows = np.asarray(counts.calibration.sum(axis=(1, 2)), dtype=np.int64)
        return loss_estimates(metric, counts.losses, rows, num_classes=len(counts.classes))
    if metric == "roc_auc_score" and counts.exact is not None:
        return counts.exact.areas
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


def cross_area(counts: Counts, positives: int, negatives: int) -> Estimates | None:
    """The chance that a positive row of one group scores above a negative one of another; None without scores.

    Source: Kallus and Zhou 2019 (xAUC).
    """
    if counts.exact is not None:
        found = counts.exact
        return ExactAreas.of([found.area(int(found.groups[positives]), int(found.groups[negatives]))])
    if counts.histogram is None:
        return None
    return RankAreas(positives=counts.histogram[[positives], 1], negatives=counts.histogram[[negatives], 0])


def class_estimates(metric: str, counts: Counts, positive: int) -> Estimates:
    """The value of a rate, ``f1_score`` or ``treatment_equality`` for one class against the rest."""
    if metric in RATES:
        definition = RATES[metric]
        return _rates(definition.numerator, definition.denominator, definition.undefined, counts, positive)
    confusion = one_against_rest(_table(counts), positive)
    rows = counts.table.sum(axis=(1, 2)).astype(np.float64)
    if metric == "f1_score":
        hits = confusion.tp.astype(np.float64)
        # positives without a prediction are misses
        errors = (confusion.fp + confusion.positives - confusion.tp).astype(np.float64)
        scores = FScores(hits=hits, errors=errors, rows=rows)
        return _without_limits(scores, counts, "no_positives_at_all") if counts.is_resampled else scores
    quotients = Quotients(
        numerators=confusion.fn.astype(np.float64),
        denominators=confusion.fp.astype(np.float64),
        rows=rows,
        undefined="no_false_positives",
    )
    return _without_limits(quotients, counts, "no_false_positives") if counts.is_resampled else quotients


def _table(counts: Counts) -> IntArray:
    return counts.table if counts.weights is None else counts.weights


def _without_limits(estimates: Estimates, counts: Counts, undefined: str) -> Plain:
    """Values of weighted rows: the intervals of counts do not hold for them."""
    return Plain(values=estimates.values, support=counts.table.sum(axis=(1, 2)), undefined=undefined)


Part = Callable[[Confusion], IntArray]


def _rates(numerator: Part, denominator: Part, undefined: str, counts: Counts, positive: int) -> Estimates:
    """A rate of counts, or of weights; ``numerator`` and ``denominator`` are sums of some entries of the table."""
    confusion = one_against_rest(_table(counts), positive)
    is_empty = counts.table.sum(axis=(1, 2)) == 0
    if not counts.is_resampled:
        return Rates(
            numerators=numerator(confusion).astype(np.float64),
            denominators=denominator(confusion).astype(np.float64),
            undefined=undefined,
            is_empty=is_empty,
        )
    return WeightedRates(
        weighted_numerators=numerator(confusion),
        weighted_denominators=denominator(confusion),
        rows=_effective_rows(denominator, counts, positive),
        undefined=undefined,
        is_empty=is_empty,
        replicates=_replicated(numerator, denominator, counts, positive),
    )


def _effective_rows(denominator: Part, counts: Counts, positive: int) -> FloatArray:
    """(Sum of weights)**2 / sum of squared weights; without weights the rows themselves."""
    total = denominator(one_against_rest(_table(counts), positive)).astype(np.float64)
    if counts.weights is None or counts.squares is None:
        return total
    squares = denominator(one_against_rest(counts.squares, positive)) / SQUARE_SCALE
    return np.where(squares > 0, (total / WEIGHT_SCALE) ** 2 / np.where(squares > 0, squares, 1.0), 0.0)


def _replicated(numerator: Part, denominator: Part, counts: Counts, positive: int) -> FloatArray | None:
    """The rate in each resampling, shape (groups, R)."""
    if counts.replicates is None:
        return None
    groups, replicates = counts.replicates.shape[:2]
    confusion = one_against_rest(counts.replicates.reshape(-1, *counts.table.shape[1:]), positive)
    rows = denominator(confusion).astype(np.float64)
    values = np.where(rows > 0, numerator(confusion) / np.where(rows > 0, rows, 1.0), np.nan)
    return np.asarray(values.reshape(groups, replicates), dtype=np.float64)


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


def _whole_rate(metric: str, counts: Counts) -> Estimates:
    """Rows that are right, or wrong, of all: as rates of a table of two classes, wrong and right."""

    def collapsed(table: IntArray) -> IntArray:
        hits = np.trace(table, axis1=-2, axis2=-1)
        found = np.zeros((*table.shape[:-2], 2, 3), dtype=np.int64)
        found[..., 1, 1], found[..., 1, 0] = hits, table.sum(axis=(-2, -1)) - hits
        return found

    two = Counts(
        table=collapsed(counts.table),
        classes=("wrong", "right"),
        weights=None if counts.weights is None else collapsed(counts.weights),
        squares=None if counts.squares is None else collapsed(counts.squares),
        replicates=None if counts.replicates is None else collapsed(counts.replicates),
    )
    is_hit = metric == "accuracy_score"
    return _rates(lambda c: c.tp if is_hit else c.fn, lambda c: c.n, "no_weight", two, 1)


def _matthews(counts: Counts) -> Estimates:
    """Gorodkin's coefficient of K classes, which for two is Matthews's; whole numbers until the last step."""
    support = np.asarray(counts.table.sum(axis=(1, 2)), dtype=np.int64)
    values = np.array([_matthews_of(group) for group in _table(counts)], dtype=np.float64)
    if counts.is_resampled or not is_drawable(counts.table):
        return Plain(values=values, support=support, undefined="no_variation")
    source = Resampled(counts.table, _matthews_of_many, name="matthews_corrcoef", domain=(-1.0, 1.0))
    source.values = values
    return Bootstrapped(source=source, groups=np.arange(len(values)), support=support, undefined="no_variation")


def _matthews_of_many(tables: FloatArray, groups: IntArray) -> FloatArray:
    """The same of tables of shape (..., K, K+1), in floats."""
    labels, predictions = tables.sum(axis=-1), tables.sum(axis=-2)
    rows, hits = labels.sum(axis=-1), np.trace(tables, axis1=-2, axis2=-1)
    covariance = hits * rows - (labels * predictions[..., :-1]).sum(axis=-1)
    of_labels, of_predictions = (rows**2 - (each**2).sum(axis=-1) for each in (labels, predictions))
    spread = np.sqrt(of_labels) * np.sqrt(of_predictions)
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1.0), np.nan)


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

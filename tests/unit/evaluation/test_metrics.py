"""Metrics and gaps against Fairlearn and scikit-learn, and what has no value."""

import math
import warnings

import numpy as np
import pytest
from fairlearn import metrics as fairlearn_metrics
from sklearn import metrics as sklearn_metrics

from fairlead.evaluation import disparity, grouping, known_metric, metric_names, nearest_metric
from fairlead.evaluation.disparities import Disparity
from fairlead.evaluation.estimates import RankAreas
from fairlead.evaluation.metrics import Counts, aggregate_names, differential_fairness, group_estimates
from fairlead.evaluation.state import CountState
from fairlead.testing.evaluation import example_state, state_of_rows, state_of_tables

BINARY = {
    "selection_rate": fairlearn_metrics.selection_rate,
    "true_positive_rate": fairlearn_metrics.true_positive_rate,
    "false_positive_rate": fairlearn_metrics.false_positive_rate,
    "true_negative_rate": fairlearn_metrics.true_negative_rate,
    "false_negative_rate": fairlearn_metrics.false_negative_rate,
    "accuracy_score": sklearn_metrics.accuracy_score,
    "zero_one_loss": sklearn_metrics.zero_one_loss,
    "precision_score": sklearn_metrics.precision_score,
    "balanced_accuracy_score": sklearn_metrics.balanced_accuracy_score,
    "f1_score": sklearn_metrics.f1_score,
    "matthews_corrcoef": sklearn_metrics.matthews_corrcoef,
}
MULTICLASS = {
    "accuracy_score": sklearn_metrics.accuracy_score,
    "balanced_accuracy_score": sklearn_metrics.balanced_accuracy_score,
    "matthews_corrcoef": sklearn_metrics.matthews_corrcoef,
    "f1_score": lambda y, p: sklearn_metrics.f1_score(y, p, average="macro"),
    "precision_score": lambda y, p: sklearn_metrics.precision_score(y, p, average="macro"),
    "true_positive_rate": lambda y, p: sklearn_metrics.recall_score(y, p, average="macro"),
}


def rows_of(num_classes: int, seed: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, rows)
    predictions = np.where(generator.random(rows) < 0.6, labels, generator.integers(0, num_classes, rows))
    return labels, predictions, generator.choice(["a", "b", "c"], rows)


def gaps(state: CountState, metric: str, by: str = "group", *, min_support: int = 1) -> Disparity:
    return disparity(metric, grouping(state, [by]), grouping(state).counts, alpha=0.05, min_support=min_support)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_classes", "table"), [(2, BINARY), (4, MULTICLASS)])
def test_every_value_and_gap_equals_fairlearns(num_classes: int, table, seed: int) -> None:  # type: ignore[no-untyped-def]
    labels, predictions, groups = rows_of(num_classes, seed)
    frame = fairlearn_metrics.MetricFrame(metrics=table, y_true=labels, y_pred=predictions, sensitive_features=groups)
    state = state_of_rows(
        labels.tolist(), predictions.tolist(), groups={"group": groups.tolist()}, num_classes=num_classes
    )
    by_group = grouping(state, ["group"])
    for metric in table:
        ours = group_estimates(metric, by_group.counts).values[:3]
        assert ours == pytest.approx(frame.by_group[metric].to_numpy(), abs=1e-12)
        assert group_estimates(metric, grouping(state).counts).values[0] == pytest.approx(
            frame.overall[metric], abs=1e-12
        )
        if num_classes == 2 or metric in ("accuracy_score", "balanced_accuracy_score"):
            assert gaps(state, f"{metric}_difference").of_all.value == pytest.approx(
                frame.difference()[metric], abs=1e-12
            )
            assert gaps(state, f"{metric}_ratio").of_all.value == pytest.approx(frame.ratio()[metric], abs=1e-12)
            assert gaps(state, f"{metric}_group_min").of_all.value == pytest.approx(
                frame.group_min()[metric], abs=1e-12
            )
            to_overall = frame.difference(method="to_overall")[metric]
            assert gaps(state, f"{metric}_difference_to_overall").of_all.value == pytest.approx(to_overall, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("metric", "theirs", "options"),
    [
        ("demographic_parity_difference", fairlearn_metrics.demographic_parity_difference, {}),
        ("demographic_parity_ratio", fairlearn_metrics.demographic_parity_ratio, {}),
        ("equal_opportunity_difference", fairlearn_metrics.equal_opportunity_difference, {}),
        ("equalized_odds_difference", fairlearn_metrics.equalized_odds_difference, {}),
        ("equalized_odds_ratio", fairlearn_metrics.equalized_odds_ratio, {}),
        ("equalized_odds_mean_difference", fairlearn_metrics.equalized_odds_difference, {"agg": "mean"}),
        ("equalized_odds_mean_ratio", fairlearn_metrics.equalized_odds_ratio, {"agg": "mean"}),
    ],
)
def test_named_gaps_equal_fairlearns(metric: str, theirs, options: dict[str, str], seed: int) -> None:  # type: ignore[no-untyped-def]
    labels, predictions, groups = rows_of(2, seed)
    state = state_of_rows(labels.tolist(), predictions.tolist(), groups={"group": groups.tolist()})
    expected = theirs(labels, predictions, sensitive_features=groups, **options)
    assert gaps(state, metric).of_all.value == pytest.approx(expected, abs=1e-12)


def test_a_multiclass_gap_is_the_largest_over_classes() -> None:
    labels, predictions, groups = rows_of(4, 5)
    state = state_of_rows(labels.tolist(), predictions.tolist(), groups={"group": groups.tolist()}, num_classes=4)
    shares = np.array([[np.mean(predictions[groups == g] == k) for k in range(4)] for g in "abc"])
    spread = shares.max(axis=0) - shares.min(axis=0)
    found = gaps(state, "demographic_parity_difference").of_all
    assert found.value == pytest.approx(spread.max(), abs=1e-12)
    assert found.class_name == str(spread.argmax())
    distances = [np.abs(one - two).sum() / 2 for one in shares for two in shares]
    assert gaps(state, "total_variation_distance").of_all.value == pytest.approx(max(distances), abs=1e-12)


def test_the_area_under_the_curve_stays_within_its_stated_error() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, 3000)
    scores = 1 / (1 + np.exp(-generator.normal(labels, 1.5)))
    state = state_of_rows(labels.tolist(), (scores > 0.5).astype(int).tolist(), scores=scores.tolist())
    areas = group_estimates("roc_auc_score", grouping(state).counts)
    assert isinstance(areas, RankAreas)
    expected = sklearn_metrics.roc_auc_score(labels, scores)
    assert abs(areas.values[0] - expected) <= areas.bin_errors[0]
    lower, upper = areas.limits(0.025)
    assert lower[0] < expected < upper[0]
    assert upper[0] - lower[0] == pytest.approx(2 * 1.96 * 0.0085, rel=0.15)  # about a binormal standard error


def test_a_perfect_order_still_has_limits() -> None:
    state = state_of_rows([0, 0, 1, 1], [0, 0, 1, 1], scores=[0.1, 0.2, 0.8, 0.9])
    areas = group_estimates("roc_auc_score", grouping(state).counts)
    lower, upper = areas.limits(0.025)
    assert areas.values[0] == upper[0] == 1
    assert 0 < lower[0] < 0.95


def test_swapping_labels_swaps_hits_of_both_kinds() -> None:
    labels, predictions, groups = rows_of(2, 9)
    one = state_of_rows(labels.tolist(), predictions.tolist(), groups={"group": groups.tolist()})
    two = state_of_rows((1 - labels).tolist(), (1 - predictions).tolist(), groups={"group": groups.tolist()})
    for metric, twin in (
        ("true_positive_rate", "true_negative_rate"),
        ("precision_score", "negative_predictive_value"),
    ):
        ours, theirs = (
            group_estimates(m, grouping(s, ["group"]).counts).values for m, s in ((metric, one), (twin, two))
        )
        assert np.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("metric", ["demographic_parity", "equal_opportunity", "equalized_odds", "predictive_parity"])
def test_equal_tables_have_no_gap(metric: str) -> None:
    state = state_of_tables({"a": (40, 10, 5, 45), "b": (40, 10, 5, 45), "c": (80, 20, 10, 90)})
    assert gaps(state, f"{metric}_difference").of_all.exact == 0
    assert gaps(state, f"{metric}_ratio").of_all.exact == 1


def test_abstaining_makes_no_model_better() -> None:
    state = state_of_rows([1, 1, 1, 0], [1, -1, -1, 0])
    counts = grouping(state).counts
    expected = {"accuracy_score": 0.5, "true_positive_rate": 1 / 3, "selection_rate": 0.25, "f1_score": 0.5}
    assert {m: float(group_estimates(m, counts).values[0]) for m in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "metric", "reason"),
    [
        ((5, 5, 0, 0), "true_positive_rate", "no_positive_labels"),
        ((0, 0, 5, 5), "false_positive_rate", "no_negative_labels"),
        ((5, 0, 5, 0), "precision_score", "no_positive_predictions"),
        ((0, 5, 0, 5), "negative_predictive_value", "no_negative_predictions"),
        ((5, 0, 0, 0), "f1_score", "no_positives_at_all"),
        ((5, 0, 0, 0), "matthews_corrcoef", "no_variation"),
        ((5, 0, 1, 1), "treatment_equality", "no_false_positives"),
        ((5, 5, 0, 0), "balanced_accuracy_score", "no_positive_labels"),
        ((0, 0, 0, 0), "accuracy_score", "empty"),
        ((0, 0, 0, 0), "true_positive_rate", "empty"),
        ((0, 0, 0, 0), "matthews_corrcoef", "empty"),
    ],
)
def test_undefined_is_not_zero_but_has_a_reason(table: tuple[int, int, int, int], metric: str, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimates = group_estimates(metric, grouping(state_of_tables({"a": table}), ["group"]).counts)
    assert math.isnan(estimates.values[0])
    assert estimates.reason(0) == reason


def test_equalized_odds_with_one_half_undefined_does_not_look_perfect() -> None:
    state = state_of_tables({"a": (5, 5, 0, 0), "b": (4, 4, 2, 2)})
    found = gaps(state, "equalized_odds_difference").of_all
    assert (found.value, found.reason, found.is_complete) == (None, "single_group", False)
    assert gaps(state, "false_positive_rate_difference").of_all.value == 0  # the other half is still reported


def test_a_group_without_a_value_drops_out_and_makes_the_gap_incomplete() -> None:
    state = state_of_tables({"a": (5, 5, 0, 0), "b": (4, 4, 2, 2), "c": (4, 4, 1, 3)})
    found = gaps(state, "equal_opportunity_difference")
    assert found.of_all.value == 0.25
    assert (found.of_all.is_complete, found.undefined, found.of_all.num_groups) == (False, (0,), 2)


@pytest.mark.parametrize("aggregate", ["difference", "ratio", "group_min"])
def test_a_single_group_has_no_gap(aggregate: str) -> None:
    found = gaps(state_of_tables({"a": (4, 4, 2, 2)}), f"selection_rate_{aggregate}").of_all
    assert (found.value, found.reason) == (None, "single_group")


def test_one_row_is_enough_to_count_and_not_to_conclude() -> None:
    state = state_of_rows([1], [1], groups={"group": ["a"]})
    assert group_estimates("accuracy_score", grouping(state).counts).values[0] == 1
    assert gaps(state, "accuracy_score_difference").of_all.value is None


@pytest.mark.parametrize(("selected", "ratio", "reason"), [((0, 0), None, "both_zero"), ((0, 5), 0.0, None)])
def test_ratios_at_zero(selected: tuple[int, int], ratio: float | None, reason: str | None) -> None:
    tables = {name: (10 - s, s, 0, 0) for name, s in zip("ab", selected, strict=True)}
    found = gaps(state_of_tables(tables), "demographic_parity_ratio").of_all
    assert (found.value, found.reason) == (ratio, reason)
    assert gaps(state_of_tables(tables), "demographic_parity_difference").of_all.value == selected[1] / 10


def test_unknown_levels_take_no_part_in_gaps() -> None:
    state = state_of_rows([0] * 6, [0, 1, 0, 1, 1, 1], groups={"group": ["a", "a", "b", "b", None, None]})
    assert gaps(state, "demographic_parity_difference").of_all.value == 0


def test_every_aggregate_of_a_small_random_state_is_sound() -> None:
    for num_classes in (2, 3):
        state = example_state(rows=60, num_classes=num_classes, seed=4)
        groups, whole = grouping(state, ["sex", "age_band"]), grouping(state).counts
        for metric in aggregate_names(whole.task, has_scores=num_classes == 2):
            for one in (f := disparity(metric, groups, whole, alpha=0.05, min_support=5)).of_all, f.of_supported:
                assert one.value is None or not math.isnan(one.value)
                assert (one.value is None) == (one.reason is not None) or "matthews" in metric
                if one.value is not None and "ratio" in metric:
                    assert 0 <= one.value <= 1 or metric.startswith(("matthews", "treatment"))
                if one.value is not None and one.bounds is not None:
                    assert one.bounds.lower - 1e-9 <= one.value <= one.bounds.upper + 1e-9
                    assert one.bounds.interval[0] <= one.bounds.lower
                    assert one.bounds.upper <= one.bounds.interval[1]


def test_differential_fairness_of_a_hand_worked_table() -> None:
    table = np.zeros((2, 2, 3), dtype=np.int64)
    table[0, 0, :2], table[1, 0, :2] = (8, 0), (2, 6)
    assert differential_fairness(table) == pytest.approx(math.log((7 / 10) / (1 / 10)))


def test_ten_thousand_groups_are_compared_in_reasonable_time() -> None:
    generator = np.random.default_rng(0)
    table = np.zeros((10_000, 2, 3), dtype=np.int64)
    table[:, :, :2] = generator.integers(0, 60, (10_000, 2, 2))
    counts = Counts(table=table, classes=("0", "1"))
    assert group_estimates("accuracy_score", counts).limits(0.05).upper.shape == (10_000,)
    state = CountState(attributes=[], classes=["0", "1"])
    base = grouping(state)
    groups = type(base)(
        by=("place",),
        keys=tuple((str(index),) for index in range(10_000)),
        counts=counts,
        calibration=None,
        score_sums=None,
    )
    overall = Counts(table=table.sum(axis=0, keepdims=True), classes=("0", "1"))
    for metric in ("demographic_parity_difference", "demographic_parity_ratio"):
        found = disparity(metric, groups, overall, alpha=0.05, min_support=1).of_all
        assert found.bounds is not None
        assert found.value is not None
        assert found.bounds.lower - 1e-9 <= found.value <= found.bounds.upper + 1e-9


@pytest.mark.parametrize(
    ("name", "task", "is_known", "nearest"),
    [
        ("demographic_parity_difference", "binary", True, None),
        ("recall_score_group_min", "binary", True, None),
        ("impact_ratio", "multiclass", True, None),
        ("total_variation_distance", "binary", False, None),
        ("treatment_equality", "multiclass", False, None),
        ("demografic_parity_diference", "binary", False, "demographic_parity_difference"),
        ("acuracy_score", "multiclass", False, "accuracy_score"),
    ],
)
def test_metrics_are_known_by_name_and_task(name: str, task, is_known: bool, nearest: str | None) -> None:  # type: ignore[no-untyped-def]
    assert known_metric(name, task) is is_known
    if nearest:
        assert nearest_metric(name, task) == nearest


def test_every_name_on_the_list_can_be_computed() -> None:
    for num_classes in (2, 3):
        state = example_state(rows=100, num_classes=num_classes)
        counts = grouping(state).counts
        for name in metric_names(counts.task, has_scores=num_classes == 2):
            assert group_estimates(name, counts).values.shape == (1,)
    with pytest.raises(ValueError, match="cannot be computed"):
        group_estimates("no_such_metric", counts)

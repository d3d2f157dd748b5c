"""Other intervals, against R, scipy and statsmodels; limits from resampled counts; calibration and score distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import confint_proportions_2indep

from fairlead.evaluation import disparity, grouping, newcombe_interval
from fairlead.evaluation.alternatives import (
    clopper_pearson_interval,
    jeffreys_interval,
    log_ratio_interval,
    miettinen_nurminen_interval,
    paired_newcombe_interval,
)
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.replicates import draw_tables
from fairlead.evaluation.scores import CALIBRATION_METRICS, calibration, kolmogorov_smirnov
from fairlead.testing.evaluation import example_state, state_of_rows

counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (clopper_pearson_interval, (0.4286584, 0.5713416)),  # R, DescTools::BinomCI(100, 200)
        (jeffreys_interval, (0.4311217, 0.5688783)),
    ],
)
def test_intervals_of_r(interval, expected: tuple[float, float]) -> None:  # type: ignore[no-untyped-def]
    lower, upper = interval(100, 200)
    assert (float(lower), float(upper)) == pytest.approx(expected, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(counts)
def test_clopper_pearson_equals_scipys(one: tuple[int, int]) -> None:
    theirs = stats.binomtest(*one).proportion_ci(0.95, method="exact")
    lower, upper = clopper_pearson_interval(*one)
    assert (float(lower), float(upper)) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("interval", [clopper_pearson_interval, jeffreys_interval])
def test_no_rows_bound_nothing(interval) -> None:  # type: ignore[no-untyped-def]
    assert [float(limit) for limit in interval(0, 0)] == [0.0, 1.0]
    with pytest.raises(ValueError, match="numerator"):
        interval(3, 2)


@pytest.mark.parametrize(
    ("pair", "miettinen_nurminen", "newcombe"),
    [  # Newcombe 1998, table II, methods 6 and 10; statsmodels 0.15 restricts its rates wrongly for differences
        ((56, 70, 48, 80), (0.0528, 0.3382), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1700, 0.8406), (0.1705, 0.8090)),
        ((5, 56, 0, 29), (-0.0326, 0.1933), (-0.0381, 0.1926)),
    ],
)
def test_differences_of_newcombes_paper(
    pair: tuple[int, int, int, int], miettinen_nurminen: tuple[float, float], newcombe: tuple[float, float]
) -> None:
    for interval, expected in ((miettinen_nurminen_interval, miettinen_nurminen), (newcombe_interval, newcombe)):
        lower, upper = interval(*pair)
        assert (float(lower), float(upper)) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("one", "two"), [((15, 30), (20, 30)), ((3, 50), (9, 60)), ((200, 220), (150, 400))])
def test_the_log_ratio_with_half_a_row_equals_statsmodels(one: tuple[int, int], two: tuple[int, int]) -> None:
    theirs = confint_proportions_2indep(*one, *two, method="log-adjusted", compare="ratio", correction=False)
    lower, upper = log_ratio_interval(*one, *two)
    assert (float(lower), float(upper)) == pytest.approx(theirs, rel=1e-9)


def test_the_paired_interval_uses_that_errors_go_together() -> None:
    together, apart = paired_newcombe_interval(40, 6, 2, 52), paired_newcombe_interval(22, 24, 20, 34)
    assert together.lower < 0.04 < together.upper
    assert float(together.upper - together.lower) < 0.6 * float(apart.upper - apart.lower)
    lower, upper = paired_newcombe_interval(12, 13, 12, 13)  # no correlation: as if the samples were two
    assert (float(lower), float(upper)) == pytest.approx([float(v) for v in newcombe_interval(25, 50, 24, 50)])
    turned = paired_newcombe_interval(40, 2, 6, 52)
    assert (float(turned.lower), float(turned.upper)) == pytest.approx(
        (-float(together.upper), -float(together.lower)), abs=1e-12
    )


def test_the_paired_interval_covers() -> None:
    shares = np.array([0.45, 0.12, 0.06, 0.37])
    tables = np.random.default_rng(3).multinomial(120, shares, size=4000).T
    lower, upper = paired_newcombe_interval(*tables)
    assert ((lower <= 0.06) & (upper >= 0.06)).mean() == pytest.approx(0.95, abs=0.015)


def test_paired_tables_with_empty_margins_have_limits() -> None:
    lower, upper = paired_newcombe_interval([10, 0, 0], [0, 10, 0], [0, 0, 0], [0, 0, 10])
    assert np.isfinite(lower).all()
    assert np.isfinite(upper).all()
    assert (lower <= [0, 1, 0]).all()
    assert (upper >= np.array([0, 1, 0]) - 1e-12).all()


# ---- from resampled counts ------------------------------------------------------------------------------------------


def test_drawing_counts_is_drawing_rows() -> None:
    table = np.array([[30, 50, 20], [0, 0, 0]])
    drawn = draw_tables(table, replicates=20_000, name="test")
    assert drawn.sum(axis=2).tolist() == [[100, 0]] * 20_000
    assert drawn[:, 0].mean(axis=0) == pytest.approx([30, 50, 20], abs=0.2)
    assert drawn[:, 0].var(axis=0) == pytest.approx([21, 25, 16], rel=0.05)
    assert np.array_equal(drawn, draw_tables(table, replicates=20_000, name="test"))


def test_resampled_limits_do_not_depend_on_the_order_of_groups() -> None:
    estimates = group_estimates("matthews_corrcoef", grouping(example_state(), ["sex", "age_band"]).counts)
    order = np.arange(len(estimates.values))[::-1]
    turned = estimates.take(order).limits(0.05)
    assert np.array_equal(turned.lower, estimates.limits(0.05).lower[order], equal_nan=True)


def test_bca_limits_of_the_correlation_equal_scipys() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 150)
    predictions = np.where(random.random(150) < 0.8, labels, 1 - labels)
    ours = group_estimates("matthews_corrcoef", grouping(state_of_rows(labels.tolist(), predictions.tolist())).counts)
    theirs = stats.bootstrap(
        (labels, predictions), matthews_corrcoef, paired=True, vectorized=False, n_resamples=999, rng=0
    ).confidence_interval
    limits = ours.limits(0.025)
    assert ours.values[0] == pytest.approx(matthews_corrcoef(labels, predictions), abs=1e-12)
    assert (limits.lower[0], limits.upper[0]) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_few_rows_that_do_not_vary_prove_nothing() -> None:
    state = state_of_rows([1], [1], scores=[0.75])
    error = group_estimates("expected_calibration_error", grouping(state).counts)
    assert error.values[0] == pytest.approx(0.25)
    assert (error.limits(0.05).lower[0], error.limits(0.05).upper[0]) == (0.0, 1.0)


# ---- calibration and scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("metric", CALIBRATION_METRICS)
def test_calibration_metrics_are_those_of_the_reports_table(metric: str, num_classes: int) -> None:
    groups = grouping(example_state(num_classes=num_classes), ["sex"])
    found = group_estimates(metric, groups.counts)
    assert groups.calibration is not None
    assert groups.score_sums is not None
    for group in range(2):
        table = calibration(groups.calibration[group], groups.score_sums[group])
        expected = {
            "expected_calibration_error": table.error,
            "maximum_calibration_error": table.largest_error,
            "squared_calibration_error_debiased": table.squared_error_debiased,
            "calibration_in_the_large": table.in_the_large,
        }[metric]
        assert found.values[group] == pytest.approx(expected, abs=1e-12)
        limits = found.limits(0.05)
        assert limits.lower[group] <= found.values[group] <= limits.upper[group]


def test_a_gap_in_calibration_is_bounded() -> None:
    state = example_state()
    found = disparity(
        "squared_calibration_error_debiased_difference",
        grouping(state, ["sex"]),
        grouping(state).counts,
        alpha=0.05,
        min_support=30,
    ).of_all
    assert found.bounds is not None
    assert found.value is not None
    assert 0 <= found.bounds.lower <= found.value <= found.bounds.upper
    assert found.method == "pairs-bootstrap-bca"


def test_the_debiased_error_is_not_pulled_up_in_small_groups() -> None:
    random = np.random.default_rng(5)
    plain, debiased = [], []
    for _ in range(200):
        scores = random.random(40)
        labels = (random.random(40) < scores).astype(int)
        state = grouping(state_of_rows(labels.tolist(), labels.tolist(), scores=scores.tolist())).counts
        plain.append(group_estimates("expected_calibration_error", state).values[0])
        debiased.append(group_estimates("squared_calibration_error_debiased", state).values[0])
    assert np.mean(plain) > 0.15  # of a model that is perfectly calibrated
    assert abs(np.mean(debiased)) < 0.01


def test_the_distance_between_scores_equals_scipys() -> None:
    random = np.random.default_rng(6)
    scores = np.floor(np.r_[random.beta(2, 3, 300), random.beta(3, 2, 200)] * 1024) / 1024
    groups = ["a"] * 300 + ["b"] * 200
    state = state_of_rows([0, 1] * 250, [0] * 500, groups={"g": groups}, scores=scores.tolist())
    margin = grouping(state, ["g"])
    found = disparity("kolmogorov_smirnov_distance", margin, grouping(state).counts, alpha=0.05, min_support=1)
    expected = stats.ks_2samp(scores[:300], scores[300:]).statistic
    assert found.of_all.value == pytest.approx(expected, abs=1e-12)
    assert margin.counts.histogram is not None
    one, two = margin.counts.histogram.sum(axis=1)[:2]
    assert kolmogorov_smirnov(one, two) == pytest.approx(expected, abs=1e-12)

"""Regression and ranking: against Fairlearn and scikit-learn, exact for any sharding, closed to nonsense."""

from functools import reduce

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as theirs
from sklearn.metrics import ndcg_score

from fairlead.evaluation.ranking import RankState, rank_disparity, rank_estimates, rank_grouping
from fairlead.evaluation.regression import (
    REGRESSION_METRICS,
    MomentState,
    moment_disparity,
    moment_estimates,
    moment_grouping,
)
from fairlead.workload import Attribute

SEX = Attribute(name="sex", levels=("F", "M"))
N = 300
SKLEARN = {
    "mean_absolute_error": theirs.mean_absolute_error,
    "mean_squared_error": theirs.mean_squared_error,
    "root_mean_squared_error": theirs.root_mean_squared_error,
    "r2_score": theirs.r2_score,
    "mean_prediction": lambda y, p: p.mean(),
    "mean_target": lambda y, p: y.mean(),
    "mean_error": lambda y, p: (p - y).mean(),
}


def rows_of(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    target = random.normal(50, 20, N).clip(-100, 200)
    return random.integers(0, 2, (N, 1)), target, (target + random.normal(2, 7, N)).clip(-100, 200)


def moments(rows: np.ndarray | slice = slice(None)) -> MomentState:
    codes, target, predicted = rows_of()
    state = MomentState(attributes=[SEX], low=-100, high=200)
    state.update(codes[rows], target[rows], predicted[rows], record_hashes=np.arange(N)[rows])
    return state


def test_regression_metrics_and_gaps_equal_fairlearns() -> None:
    codes, target, predicted = rows_of()
    frame = MetricFrame(metrics=SKLEARN, y_true=target, y_pred=predicted, sensitive_features=codes[:, 0])
    groups, overall = moment_grouping(moments(), ["sex"]), moment_grouping(moments())
    assert set(SKLEARN) == set(REGRESSION_METRICS)
    for metric in REGRESSION_METRICS:
        found = moment_estimates(metric, groups)
        assert found.values[:2] == pytest.approx(frame.by_group[metric].to_numpy(), rel=1e-6)
        assert moment_estimates(metric, overall).values[0] == pytest.approx(frame.overall[metric], rel=1e-6)
        gap = moment_disparity(f"{metric}_difference", groups, overall, alpha=0.05, min_support=30).of_all
        assert gap.value == pytest.approx(frame.difference()[metric], rel=1e-5, abs=1e-6)


def test_students_limits_equal_scipys() -> None:
    codes, target, predicted = rows_of()
    errors = np.abs(predicted - target)[codes[:, 0] == 0]
    expected = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    limits = moment_estimates("mean_absolute_error", moment_grouping(moments(), ["sex"])).limits(0.025)
    assert (limits.lower[0], limits.upper[0]) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_the_gap_of_means_is_bounded_about_as_welch_does() -> None:
    codes, target, predicted = rows_of()
    errors = predicted - target
    one, two = errors[codes[:, 0] == 0], errors[codes[:, 0] == 1]
    welch = stats.ttest_ind(one, two, equal_var=False).confidence_interval(0.95)
    groups, overall = moment_grouping(moments(), ["sex"]), moment_grouping(moments())
    found = moment_disparity("mean_error_difference", groups, overall, alpha=0.05, min_support=30).of_all
    assert found.method == "pairs-t"
    assert found.bounds is not None
    assert found.bounds.interval[1] == pytest.approx(max(abs(welch.low), abs(welch.high)), rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.lists(st.integers(0, N), min_size=3, max_size=3))
def test_moments_do_not_depend_on_sharding(order: list[int], cuts: list[int]) -> None:
    shards = [moments(rows) for rows in np.split(np.arange(N), sorted(cuts))]
    merged = reduce(MomentState.merge, [shards[index] for index in order])
    assert merged.to_bytes() == moments().to_bytes()
    assert MomentState.from_bytes(merged.to_bytes()).digest() == moments().digest()


def test_many_large_values_are_summed_exactly() -> None:
    state = MomentState(attributes=[], low=-1.0, high=1.0)
    rows = 200_000
    signs = np.where(np.arange(rows) % 2, 0.999, -0.999)
    state.update(np.zeros((rows, 0)), signs, signs[::-1], record_hashes=np.arange(rows))
    groups = moment_grouping(state)
    assert moment_estimates("mean_prediction", groups).values[0] == 0
    assert moment_estimates("mean_squared_error", groups).values[0] == pytest.approx(4 * 0.999**2, rel=1e-8)


def test_values_that_cannot_be_are_counted_or_refused() -> None:
    state = MomentState(attributes=[SEX], low=0, high=10)
    state.update([[0], [1], [2]], [1, np.nan, 3], [1, 2, np.nan], record_hashes=[1, 2, 3])
    assert (state.book.n, state.book.n_nan_labels, state.book.n_nan_scores, state.book.n_unknown) == (3, 1, 1, 1)
    assert moment_grouping(state).sizes.tolist() == [1]
    with pytest.raises(ValueError, match="wider range"):
        state.update([[0]], [1], [10.5], record_hashes=[4])
    with pytest.raises(ValueError, match="range of the target"):
        MomentState(attributes=[], low=1, high=1)
    with pytest.raises(ValueError, match="no metric of regression"):
        moment_estimates("accuracy_score", moment_grouping(state))
    with pytest.raises(ValueError, match="state"):
        MomentState.from_bytes(b"something else")


def test_no_variation_and_single_rows_have_no_false_certainty() -> None:
    state = MomentState(attributes=[SEX], low=0, high=10)
    state.update([[0], [1], [1]], [5, 5, 5], [4, 5, 6], record_hashes=[1, 2, 3])
    groups = moment_grouping(state, ["sex"])
    r2, error = moment_estimates("r2_score", groups), moment_estimates("mean_absolute_error", groups)
    assert [r2.reason(group) for group in range(3)] == ["no_variation", "no_variation", "empty"]
    assert error.limits(0.05).upper[0] == np.inf
    assert error.reason(2) == "empty"


# ---- ranking --------------------------------------------------------------------------------------------------------


def lists(seed: int = 1, queries: int = 40, size: int = 6) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    query = np.repeat(np.arange(queries), size)
    ranks = np.concatenate([random.permutation(size) + 1 for _ in range(queries)])
    relevance = random.integers(0, 4, queries * size).astype(float)
    sex = np.repeat(random.integers(0, 2, queries), size)[:, None]
    return sex, ranks, relevance, query


def ranked(of: tuple[np.ndarray, ...], queries: np.ndarray | None = None) -> RankState:
    codes, ranks, relevance, query = of
    rows = slice(None) if queries is None else np.isin(query, queries)
    state = RankState(attributes=[SEX])
    hashes = np.arange(len(ranks))[rows]
    state.update(codes[rows], ranks[rows], relevance[rows], query[rows], record_hashes=hashes)
    return state


def test_ndcg_of_each_group_equals_scikit_learns() -> None:
    of = lists()
    codes, ranks, relevance, query = of
    found = rank_estimates("ndcg_score", rank_grouping(ranked(of), ["sex"]))
    for group in range(2):
        asked = np.unique(query[codes[:, 0] == group])
        each = [ndcg_score([relevance[query == q]], [-ranks[query == q]]) for q in asked]
        assert found.values[group] == pytest.approx(np.mean(each), abs=1e-8)
        assert found.support[group] == len(asked)


def test_exposure_is_attention_per_row_and_per_relevance() -> None:
    state = RankState(attributes=[SEX])
    state.update([[0], [1], [1]], [1, 2, 3], [1, 1, 0], [7, 7, 7], record_hashes=[1, 2, 3])
    groups, overall = rank_grouping(state, ["sex"]), rank_grouping(state)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    exposure = rank_estimates("exposure", groups).values[:2]
    assert exposure == pytest.approx([1.0, (second + third) / 2], abs=1e-8)
    ratio = rank_disparity("exposure_ratio", groups, overall, alpha=0.05, min_support=1).of_all
    assert ratio.value == pytest.approx((second + third) / 2, abs=1e-8)
    treatment = rank_disparity("exposure_per_relevance_ratio", groups, overall, alpha=0.05, min_support=1).of_all
    assert treatment.value == pytest.approx(1 / (second + third), abs=1e-8)
    assert (state.n_queries, state.n_mixed_queries) == (1, 1)
    assert rank_estimates("ndcg_score", groups).reason(0) == "no_query_of_its_own"


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 39))
def test_rankings_do_not_depend_on_sharding_or_order(order: list[int], cut: int) -> None:
    of = lists()
    parts = [ranked(of, np.array(queries)) for queries in (order[:cut], order[cut:])]
    shuffled = np.random.default_rng(cut).permutation(len(of[1]))
    assert parts[0].merge(parts[1]).digest() == ranked(of).digest()
    again = RankState(attributes=[SEX])
    again.update(*(column[shuffled] for column in of), record_hashes=shuffled)
    assert again.to_bytes() == RankState.from_bytes(ranked(of).to_bytes()).to_bytes()


def test_ranks_and_relevances_outside_their_range_are_refused() -> None:
    state = RankState(attributes=[SEX])
    for ranks, relevance, message in (([0], [1], "ranks"), ([1.5], [1], "ranks"), ([1], [-1], "relevances")):
        with pytest.raises(ValueError, match=message):
            state.update([[0]], ranks, relevance, [1], record_hashes=[1])
    state.update([[0], [0]], [1, 2], [0, np.nan], [1, 1], record_hashes=[1, 2])
    assert (state.n_irrelevant_queries, state.book.n_nan_labels) == (1, 1)

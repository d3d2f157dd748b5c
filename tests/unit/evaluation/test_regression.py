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

from fairlead.evaluation.metrics import REGRESSION_METRICS
from fairlead.evaluation.ranking import RankState, places, rank_disparity, rank_estimates, rank_grouping
from fairlead.evaluation.regression import (
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
        assert found.values[:2] == pytest.approx(frame.by_group[metric].to_numpy(), rel=1e-12, abs=1e-13)
        assert moment_estimates(metric, overall).values[0] == pytest.approx(frame.overall[metric], rel=1e-12, abs=1e-13)
        gap = moment_disparity(f"{metric}_difference", groups, overall, alpha=0.05, min_support=30).of_all
        assert gap.value == pytest.approx(frame.difference()[metric], rel=1e-12, abs=1e-12)


def test_students_limits_equal_scipys() -> None:
    codes, target, predicted = rows_of()
    errors = np.abs(predicted - target)[codes[:, 0] == 0]
    expected = stats.ttest_1samp(errors, 0).confidence_interval(0.95)
    limits = moment_estimates("mean_absolute_error", moment_grouping(moments(), ["sex"])).limits(0.025)
    assert (limits.lower[0], limits.upper[0]) == pytest.approx((expected.low, expected.high), rel=1e-12)


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
        assert found.values[group] == pytest.approx(np.mean(each), abs=1e-12)
        assert found.support[group] == len(asked)


def test_exposure_is_attention_per_row_and_per_relevance() -> None:
    state = RankState(attributes=[SEX])
    state.update([[0], [1], [1]], [1, 2, 3], [1, 1, 0], [7, 7, 7], record_hashes=[1, 2, 3])
    groups, overall = rank_grouping(state, ["sex"]), rank_grouping(state)
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    exposure = rank_estimates("exposure", groups).values[:2]
    assert exposure == pytest.approx([1.0, (second + third) / 2], abs=1e-14)
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


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-6, 1.0, 1e4]),
    st.sampled_from([0.0, 3.0, -1e5]),
)
def test_regression_equals_scikit_learn_to_twelve_digits_whatever_the_unit(
    seed: int, unit: float, shift: float
) -> None:
    random = np.random.default_rng(seed)
    target = (random.normal(size=200) + shift) * unit
    predicted = target + random.standard_t(3, size=200) * unit / 5
    group = random.integers(0, 2, 200)
    low, high = min(target.min(), predicted.min()), max(target.max(), predicted.max())
    state = MomentState(attributes=[SEX], low=low, high=high)
    state.update(group[:, None], target, predicted, record_hashes=np.arange(200))
    groups = moment_grouping(state, ["sex"])
    for metric, function in SKLEARN.items():
        scale = unit if metric.startswith("mean_") else 1.0
        expected = [function(target[group == one], predicted[group == one]) for one in (0, 1)]
        found = moment_estimates(metric, groups).values[:2]
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12 * scale), metric


def test_limits_of_a_mean_square_are_those_of_a_sum_of_squares_of_normal_errors() -> None:
    random = np.random.default_rng(3)
    errors = random.normal(0, 2, 20_000)
    state = MomentState(attributes=[], low=-20, high=20)
    state.update(np.zeros((len(errors), 0)), np.zeros(len(errors)), errors, record_hashes=np.arange(len(errors)))
    found = moment_estimates("mean_squared_error", moment_grouping(state)).limits(0.025)
    total = float((errors**2).sum())
    expected = total / stats.chi2.ppf([0.975, 0.025], len(errors))
    assert (found.lower[0], found.upper[0]) == pytest.approx(expected, rel=0.001)


def test_errors_that_the_range_leaves_no_room_for_have_a_reason_and_no_value() -> None:
    state = MomentState(attributes=[SEX], low=-1e20, high=1e20)
    state.update([[0], [0], [1]], [1.0, 2.0, 0.0], [1.5, 2.5, 1e20], record_hashes=[1, 2, 3])
    groups = moment_grouping(state, ["sex"])
    for metric in ("mean_absolute_error", "mean_squared_error", "mean_error"):
        found = moment_estimates(metric, groups)
        assert [found.reason(group) for group in (0, 1)] == ["below_resolution", None]
        assert np.isnan(found.values[0])
    assert moment_estimates("r2_score", groups).reason(0) == "no_variation"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_ndcg_equals_scikit_learns_with_ties_too(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    query = np.repeat(np.arange(30), size)
    scores = random.integers(0, 4, len(query)) / 3
    relevance = random.integers(0, 3, len(query)).astype(float)
    sex = np.repeat(random.integers(0, 2, 30), size)
    shuffled = random.permutation(len(query))
    ranks, ties = places(scores[shuffled], query[shuffled])
    state = RankState(attributes=[SEX])
    of_rows = (sex[shuffled, None], ranks, relevance[shuffled], query[shuffled])
    state.update(*of_rows, ties=ties, record_hashes=shuffled)
    found = rank_estimates("ndcg_score", rank_grouping(state, ["sex"]))
    for group in range(2):
        asked = [q for q in np.unique(query[sex == group]) if relevance[query == q].any()]
        each = [ndcg_score([relevance[query == q]], [scores[query == q]]) for q in asked]
        assert found.support[group] == len(asked)
        assert found.values[group] == pytest.approx(np.mean(each), abs=1e-12) if asked else found.reason(group)


def test_lists_of_several_groups_have_an_ndcg_over_all_rows_and_by_whoever_asks() -> None:
    asker, item = Attribute(name="asker", levels=("a", "b")), Attribute(name="item", levels=("x", "y"))
    state = RankState(attributes=[asker, item])
    codes = [[0, 0], [0, 1], [1, 1], [1, 0]]
    state.update(codes, [1, 2, 1, 2], [1, 0, 0, 1], [7, 7, 8, 8], record_hashes=[1, 2, 3, 4])
    second = 1 / np.log2(3)
    assert rank_estimates("ndcg_score", rank_grouping(state)).values[0] == pytest.approx((1 + second) / 2, abs=1e-12)
    assert rank_estimates("ndcg_score", rank_grouping(state, ["asker"])).values[:2] == pytest.approx([1, second])
    assert rank_estimates("ndcg_score", rank_grouping(state, ["item"])).reason(0) == "no_query_of_its_own"
    assert RankState.from_bytes(state.to_bytes()).digest() == state.digest()


def test_a_list_of_one_row_has_exposure_and_no_ndcg() -> None:
    state = RankState(attributes=[])
    state.update(np.zeros((3, 0)), [1, 1, 2], [3, 1, 0], [5, 6, 6], record_hashes=[1, 2, 3])
    assert (state.n_queries, state.n_single_queries) == (2, 1)
    assert rank_estimates("ndcg_score", rank_grouping(state)).support[0] == 1
    assert rank_grouping(state).sizes.tolist() == [3]


def coverage(of_list: int, lists_drawn: int, *, runs: int = 300) -> tuple[float, float]:
    """How often upper bounds of the gap and lower ones of the ratio hold, where one group is placed lower."""
    truth = np.zeros(2)
    held_gap = held_ratio = 0
    random = np.random.default_rng(11)
    for run in range(runs + 1):
        drawn = 40_000 if run == 0 else lists_drawn
        score = random.normal(size=(drawn, of_list))
        sex = np.tile(np.arange(of_list) % 2, (drawn, 1))
        rank = np.argsort(np.argsort(-(score + 0.5 * (sex == 0)), axis=1), axis=1) + 1
        if run == 0:
            exposed = 1 / np.log2(1 + rank)
            truth = np.array([exposed[sex == one].mean() for one in (0, 1)])
            continue
        state = RankState(attributes=[SEX])
        query = np.repeat(np.arange(drawn), of_list)
        rows = (sex.reshape(-1, 1), rank.ravel(), np.ones(rank.size), query)
        state.update(*rows, record_hashes=np.arange(rank.size))
        groups, overall = rank_grouping(state, ["sex"]), rank_grouping(state)
        gap, ratio = (
            rank_disparity(f"exposure_{kind}", groups, overall, alpha=0.05, min_support=1).of_all.bounds
            for kind in ("difference", "ratio")
        )
        assert gap is not None
        assert ratio is not None
        held_gap += gap.upper >= truth[0] - truth[1]
        held_ratio += ratio.lower <= truth[1] / truth[0]
    return held_gap / runs, held_ratio / runs


@pytest.mark.parametrize(("of_list", "drawn"), [(2, 40), (2, 300), (8, 60)])
def test_bounds_of_exposure_hold_though_rows_of_a_list_compete(of_list: int, drawn: int) -> None:
    for held in coverage(of_list, drawn):
        assert held >= 0.915  # nominally 0.95; 300 runs tell it to within 0.025


def test_upper_bounds_of_a_mean_square_hold_for_normal_errors() -> None:
    random = np.random.default_rng(5)
    held, runs, rows = 0, 400, 60
    for _ in range(runs):
        state = MomentState(attributes=[], low=-10, high=10)
        errors = random.normal(0.5, 1, rows)
        state.update(np.zeros((rows, 0)), np.zeros(rows), errors, record_hashes=np.arange(rows))
        held += moment_estimates("mean_squared_error", moment_grouping(state)).limits(0.05).upper[0] >= 1.25
    assert held / runs >= 0.925  # nominally 0.95; 400 runs tell it to within 0.022

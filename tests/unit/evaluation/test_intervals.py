"""Intervals against scipy and statsmodels, and bounds of extremes against brute force."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from fairlead.evaluation.estimates import Rates
from fairlead.evaluation.intervals import (
    _undominated,
    gap_bounds,
    koopman_interval,
    maximum_bounds,
    minimum_bounds,
    newcombe_interval,
    normal_quantile,
    ratio_bounds,
    wilson_interval,
    wilson_limits,
)


def rates(*pairs: tuple[int, int]) -> Rates:
    numerators, denominators = np.array(pairs, dtype=np.float64).T
    return Rates(numerators=numerators, denominators=denominators, undefined="empty", is_empty=denominators == 0)


def random_rates(groups: int, seed: int, rows: int = 200) -> Rates:
    generator = np.random.default_rng(seed)
    denominators = generator.integers(1, rows, groups)
    return rates(*zip(generator.binomial(denominators, 0.4), denominators, strict=True))


counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (399, 1000)])
def test_wilson_equals_scipys(hits: int, rows: int) -> None:
    theirs = stats.binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    lower, upper = wilson_interval(hits, rows)
    assert (float(lower), float(upper)) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_rows_bound_nothing_and_impossible_counts_are_refused() -> None:
    assert wilson_interval([0], [0]) == (np.array([0.0]), np.array([1.0]))
    with pytest.raises(ValueError, match="numerator"):
        wilson_limits(3, 2, tail=0.05)
    with pytest.raises(ValueError, match="tail"):
        normal_quantile(0)


@settings(max_examples=60, deadline=None)
@given(counts, counts)
def test_newcombe_equals_statsmodels(one: tuple[int, int], two: tuple[int, int]) -> None:
    theirs = confint_proportions_2indep(*one, *two, method="newcomb", compare="diff", correction=False)
    lower, upper = newcombe_interval(*one, *two)
    assert (float(lower), float(upper)) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("one", "two"), [((15, 30), (20, 30)), ((3, 50), (9, 60)), ((200, 220), (150, 400))])
def test_koopman_equals_statsmodels(one: tuple[int, int], two: tuple[int, int]) -> None:
    theirs = confint_proportions_2indep(*one, *two, method="score", compare="ratio", correction=False)
    lower, upper = koopman_interval(*one, *two)
    assert (float(lower), float(upper)) == pytest.approx(theirs, rel=1e-6)


def test_koopman_at_the_edges() -> None:
    lower, upper = koopman_interval([0, 5, 0, 9], [10, 10, 10, 9], [5, 0, 0, 7], [10, 10, 10, 7])
    assert lower[0] == 0
    assert np.isinf(upper[1])
    assert lower[2] == 0
    assert np.isinf(upper[2])
    assert lower[3] < 1 < upper[3]


@settings(max_examples=60, deadline=None)
@given(counts, counts)
def test_intervals_contain_what_they_are_about(one: tuple[int, int], two: tuple[int, int]) -> None:
    first, second = one[0] / one[1], two[0] / two[1]
    difference = newcombe_interval(*one, *two)
    assert difference.lower <= first - second <= difference.upper
    assert wilson_interval(*one).lower <= first <= wilson_interval(*one).upper
    if second > 0:
        ratio = koopman_interval(*one, *two)
        assert ratio.lower <= first / second * (1 + 1e-12)
        assert ratio.upper >= first / second * (1 - 1e-12)


@pytest.mark.parametrize("groups", [2, 3, 10, 60])
def test_gap_bounds_equal_the_extreme_over_all_pairs(groups: int) -> None:
    spread = random_rates(groups, seed=groups)
    x, n, alpha = spread.numerators, spread.denominators, 0.05
    first, second = np.array(list(permutations(range(groups), 2))).T
    one_sided = newcombe_interval(x[first], n[first], x[second], n[second], confidence=1 - 2 * alpha)
    shared = newcombe_interval(x[first], n[first], x[second], n[second], confidence=1 - 2 * alpha / len(first))
    found = gap_bounds([spread], alpha=alpha)
    assert found.upper == pytest.approx(one_sided.upper.max(), abs=1e-12)
    assert found.lower == pytest.approx(max(0, shared.lower.max()), abs=1e-12)


@pytest.mark.parametrize("groups", [2, 3, 10, 210])  # beyond 200 groups only candidates are paired
def test_ratio_bounds_equal_the_extreme_over_all_pairs(groups: int) -> None:
    spread = random_rates(groups, seed=groups)
    x, n, alpha = spread.numerators + 1, spread.denominators + 2, 0.05
    positive = rates(*zip(x.astype(int), n.astype(int), strict=True))
    first, second = np.array(list(permutations(range(groups), 2))).T
    one_sided = koopman_interval(x[first], n[first], x[second], n[second], confidence=1 - 2 * alpha)
    shared = koopman_interval(x[first], n[first], x[second], n[second], confidence=1 - 2 * alpha / len(first))
    found = ratio_bounds([positive], alpha=alpha)
    assert found.lower == pytest.approx(one_sided.lower.min(), rel=1e-9)
    assert found.upper == pytest.approx(min(1, shared.upper.min()), rel=1e-9)


def test_worst_groups_are_bounded_like_mirror_images() -> None:
    spread = rates((40, 50), (30, 60), (9, 10))
    alpha = 0.05
    least, most = minimum_bounds([spread], alpha=alpha), maximum_bounds([spread], alpha=alpha)
    one_sided, shared = spread.limits(alpha), spread.limits(alpha / 3)
    assert (least.lower, least.upper) == (one_sided.lower.min(), shared.upper.min())
    assert (most.lower, most.upper) == (shared.lower.max(), one_sided.upper.max())


@settings(max_examples=40, deadline=None)
@given(st.lists(counts, min_size=2, max_size=8))
def test_bounds_of_extremes_contain_the_value(groups: list[tuple[int, int]]) -> None:
    spread = rates(*groups)
    gap = float(spread.values.max() - spread.values.min())
    found = gap_bounds([spread], alpha=0.05)
    assert 0 <= found.interval[0] <= found.lower <= gap + 1e-12
    assert gap - 1e-12 <= found.upper <= found.interval[1]
    if spread.values.max() > 0:
        ratio = float(spread.values.min() / spread.values.max())
        bounds = ratio_bounds([spread], alpha=0.05)
        assert bounds.interval[0] <= bounds.lower <= ratio * (1 + 1e-9)
        assert ratio * (1 - 1e-9) <= bounds.upper <= bounds.interval[1] + 1e-12 <= 1 + 1e-12


@dataclass(frozen=True, kw_only=True)
class Setting:
    groups: int
    rows: int
    gap: float


@pytest.mark.parametrize(
    "setting",
    [
        Setting(groups=2, rows=200, gap=0.0),
        Setting(groups=2, rows=200, gap=0.1),
        Setting(groups=10, rows=100, gap=0.0),
        Setting(groups=10, rows=500, gap=0.1),
    ],
    ids=str,
)
def test_bounds_cover_the_true_gap(setting: Setting) -> None:
    truth = 0.4 + np.linspace(-setting.gap / 2, setting.gap / 2, setting.groups)
    generator = np.random.default_rng(7)
    draws = 300
    covered = np.zeros(3)
    for sample in generator.binomial(setting.rows, truth, size=(draws, setting.groups)):
        found = gap_bounds([rates(*((int(x), setting.rows) for x in sample))], alpha=0.05)
        is_inside = found.interval[0] <= setting.gap <= found.interval[1]
        covered += (found.upper >= setting.gap, found.lower <= setting.gap, is_inside)
    assert (covered / draws >= 0.92).all()  # 0.95 less two Monte-Carlo errors


def _sizes(setting: Setting) -> np.ndarray:
    if setting.rows:
        return np.full(setting.groups, setting.rows)
    return np.geomspace(20, 2000, setting.groups).round().astype(int)


@pytest.mark.nightly  # two thousand data sets a setting take about a minute
@pytest.mark.parametrize(
    "setting",
    [
        Setting(groups=2, rows=200, gap=0.0),
        Setting(groups=2, rows=200, gap=0.1),
        Setting(groups=10, rows=100, gap=0.0),
        Setting(groups=10, rows=1000, gap=0.0),
        Setting(groups=10, rows=500, gap=0.1),
        Setting(groups=20, rows=0, gap=0.0),  # 20 to 2,000 rows, geometric
        Setting(groups=20, rows=0, gap=0.1),
    ],
    ids=str,
)
def test_bounds_cover_the_true_gap_as_often_as_they_say(setting: Setting) -> None:
    truth = 0.4 + np.linspace(-setting.gap / 2, setting.gap / 2, setting.groups)
    sizes = _sizes(setting)
    covered = np.zeros(3)
    for sample in np.random.default_rng(11).binomial(sizes, truth, size=(2000, setting.groups)):
        found = gap_bounds([rates(*zip(sample.tolist(), sizes.tolist(), strict=True))], alpha=0.05)
        is_inside = found.interval[0] <= setting.gap <= found.interval[1]
        covered += (found.upper >= setting.gap, found.lower <= setting.gap, is_inside)
    assert (covered / 2000 >= 0.935).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_undominated_groups_are_those_that_fewer_than_two_beat(points: list[tuple[int, int]]) -> None:
    first, second = np.array(points, dtype=np.float64).reshape(-1, 2).T
    best, runner_up, expected = -np.inf, -np.inf, []
    for group in np.lexsort((-second, -first)):
        if second[group] > runner_up:
            expected.append(int(group))
            best, runner_up = max(best, second[group]), max(runner_up, min(best, second[group]))
    assert _undominated(first, second).tolist() == expected

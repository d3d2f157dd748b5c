"""Numbers that others have published."""

from fractions import Fraction
from math import log

import numpy as np
import pytest

from fairlead.evaluation import disparity, grouping, wilson_interval
from fairlead.evaluation.intervals import wilson_limits
from fairlead.evaluation.metrics import generalized_entropy, group_estimates, theil_index
from fairlead.evaluation.scores import calibration
from fairlead.evaluation.state import CountState
from fairlead.testing.evaluation import state_of_rows, state_of_tables

GUIDE_LABELS = [int(c) for c in "011110101000111111"]
GUIDE_PREDICTIONS = [int(c) for c in "001011100111100110"]
GUIDE_GROUPS = list("bbabbcccaacabccbcc")
GUIDE_SECOND = list("868888666866668666")


def guide() -> CountState:
    return state_of_rows(GUIDE_LABELS, GUIDE_PREDICTIONS, groups={"first": GUIDE_GROUPS, "second": GUIDE_SECOND})


def values(state: CountState, metric: str, *by: str) -> list[float]:
    return group_estimates(metric, grouping(state, by).counts).values.tolist()


def gap(state: CountState, metric: str, *by: str) -> float | None:
    found = disparity(metric, grouping(state, by), grouping(state).counts, alpha=0.05, min_support=1)
    return found.of_all.value


@pytest.mark.parametrize(
    ("metric", "overall", "by_group"),
    [
        ("true_positive_rate", 0.5, [0.5, 0.6, 0.4]),
        ("false_positive_rate", 2 / 3, [1, 0, 2 / 3]),
        ("selection_rate", 10 / 18, [0.75, 0.5, 0.5]),
    ],
)
def test_rates_of_fairlearns_guide(metric: str, overall: float, by_group: list[float]) -> None:
    assert values(guide(), metric) == pytest.approx([overall])
    assert values(guide(), metric, "first")[:3] == pytest.approx(by_group)


@pytest.mark.parametrize(
    ("metric", "difference", "ratio", "to_overall", "ratio_to_overall"),
    [
        ("true_positive_rate", 0.2, 2 / 3, 0.1, 0.8),
        ("false_positive_rate", 1, 0, 2 / 3, 0),
        ("selection_rate", 0.25, 2 / 3, 7 / 36, 20 / 27),
    ],
)
def test_gaps_of_fairlearns_guide(
    metric: str, difference: float, ratio: float, to_overall: float, ratio_to_overall: float
) -> None:
    state = guide()
    assert gap(state, f"{metric}_difference", "first") == pytest.approx(difference)
    assert gap(state, f"{metric}_ratio", "first") == pytest.approx(ratio)
    assert gap(state, f"{metric}_difference_to_overall", "first") == pytest.approx(to_overall)
    assert gap(state, f"{metric}_ratio_to_overall", "first") == pytest.approx(ratio_to_overall)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("demographic_parity_difference", 0.25),
        ("demographic_parity_ratio", 2 / 3),
        ("equalized_odds_difference", 1),
        ("equalized_odds_ratio", 0),
    ],
)
def test_named_gaps_of_fairlearns_guide(metric: str, value: float) -> None:
    assert gap(guide(), metric, "first") == pytest.approx(value)


def test_intersections_of_fairlearns_guide() -> None:
    groups = grouping(guide(), ["first", "second"])
    known = ~groups.is_unknown
    assert [groups.keys[index] for index in np.flatnonzero(known)] == [
        ("a", "6"),
        ("a", "8"),
        ("b", "6"),
        ("b", "8"),
        ("c", "6"),
        ("c", "8"),
    ]
    assert groups.sizes[known].tolist() == [2, 2, 3, 3, 6, 2]
    recall = group_estimates("true_positive_rate", groups.counts).values[known]
    precision = group_estimates("precision_score", groups.counts).values[known]
    assert recall == pytest.approx([0, 1, 2 / 3, 0.5, 0.5, 0])
    assert precision == pytest.approx([0, 0.5, 1, 1, 2 / 3, 0])


def test_fairlearns_metric_frame_docstring() -> None:
    labels, predictions = [int(c) for c in "1111100110"], [int(c) for c in "0111100011"]
    state = state_of_rows(labels, predictions, groups={"sex": ["F"] * 5 + ["M"] * 5})
    assert values(state, "accuracy_score", "sex")[:2] == [0.8, 0.6]
    assert gap(state, "accuracy_score_difference", "sex") == pytest.approx(0.2)
    assert gap(state, "accuracy_score_ratio", "sex") == pytest.approx(0.75)
    assert values(state, "selection_rate", "sex")[:2] == [0.8, 0.4]


@pytest.mark.parametrize(
    ("tables", "accuracy", "difference"),
    [
        ({"A": (0, 1, 3, 1), "B": (1, 1, 2, 1), "C": (1, 1, 0, 2)}, 0.428571, 0.55),
        ({"A": (1, 1, 2, 1), "B": (1, 3, 2, 1), "C": (0, 2, 0, 2)}, 0.375, 0.214286),
    ],
)
def test_strata_of_fairlearns_guide(
    tables: dict[str, tuple[int, int, int, int]], accuracy: float, difference: float
) -> None:
    state = state_of_tables(tables)
    assert values(state, "accuracy_score") == pytest.approx([accuracy], abs=1e-6)
    assert gap(state, "accuracy_score_difference", "group") == pytest.approx(difference, abs=1e-6)


COMPAS = {"African-American": (990, 805, 532, 1369), "Caucasian": (1139, 349, 461, 505)}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("false_positive_rate", [0.448468, 0.234543]),
        ("false_negative_rate", [0.279853, 0.477226]),
        ("precision_score", [0.629715, 0.591335]),
    ],
)
def test_rates_of_compas(metric: str, expected: list[float]) -> None:
    assert values(state_of_tables(COMPAS), metric, "group")[:2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("demographic_parity_difference", 0.240200),
        ("demographic_parity_ratio", 0.591638),
        ("equal_opportunity_difference", 0.197373),
        ("equalized_odds_difference", 0.213925),
        ("equalized_odds_mean_difference", 0.205649),
        ("equalized_odds_ratio", 0.522987),
    ],
)
def test_gaps_of_compas(metric: str, expected: float) -> None:
    assert gap(state_of_tables(COMPAS), metric, "group") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("selected", "of", "ratio"),
    [(45, 100, Fraction(3, 4)), (48, 100, Fraction(4, 5)), (51, 100, Fraction(17, 20)), (12, 25, Fraction(4, 5))],
)
def test_four_fifths_is_exact(selected: int, of: int, ratio: Fraction) -> None:
    tables = {"reference": (40, 60, 0, 0), "other": (of - selected, selected, 0, 0)}
    found = disparity(
        "impact_ratio",
        grouping(state_of_tables(tables), ["group"]),
        grouping(state_of_tables(tables)).counts,
        alpha=0.05,
        min_support=1,
    )
    assert found.of_all.exact == ratio


def test_entropy_indices_of_aif360() -> None:
    labels = np.array([int(c) for c in "1001001011"])
    first, second = (np.array([int(c) for c in text]) for text in ("1000111010", "0110000111"))
    assert generalized_entropy((first - labels + 1).tolist()) == pytest.approx(0.2)
    assert theil_index((first - labels + 1).tolist()) == pytest.approx(0.4 * log(2))
    assert generalized_entropy((second - labels + 1).tolist()) == pytest.approx(0.3)
    assert generalized_entropy([1, 1] + [1.25] * 4 + [0.75] * 4) == pytest.approx(0.025)


def test_wilson_of_r() -> None:
    lower, upper = wilson_interval(100, 200)
    assert (float(lower), float(upper)) == pytest.approx((0.4313609, 0.5686391), abs=1e-7)
    assert float(wilson_limits(100, 200, tail=0.05).upper) == pytest.approx(0.557765, abs=1e-6)


def test_calibration_error_of_torchmetrics() -> None:
    scores, labels = np.array([0.25, 0.25, 0.55, 0.75, 0.75]), np.array([0, 0, 1, 1, 1])
    bins = (scores * 2).astype(int)
    counts = np.array([np.bincount(bins[labels == hit], minlength=2) for hit in (0, 1)])
    sums = np.array([np.bincount(bins, scores * (labels == hit) * 2.0**32, minlength=2) for hit in (0, 1)])
    found = calibration(counts, sums.astype(np.int64))
    assert found.error == pytest.approx(0.29, abs=1e-9)
    assert found.root_mean_square_error == pytest.approx(0.2918, abs=5e-5)
    assert found.largest_error == pytest.approx(0.3167, abs=5e-5)

"""What data bring that nobody planned for: named in the answer, or refused by name; never a silent number."""

import numpy as np
import pytest

from fairlead.evaluation import UNKNOWN, CountState, build_report, disparity, grouping
from fairlead.evaluation.estimates import Rates
from fairlead.evaluation.intervals import koopman_interval, ratio_bounds
from fairlead.evaluation.metrics import group_estimates
from fairlead.evaluation.scores import calibration
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance, state_of_rows, state_of_tables
from fairlead.workload import Attribute

SEX = Attribute(name="sex", levels=("F", "M", "X"))


def of_all(state: CountState, metric: str):  # type: ignore[no-untyped-def]
    by = [state.attributes[0].name]
    return disparity(metric, grouping(state, by), grouping(state).counts, alpha=0.05, min_support=2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"codes": [[0], [4]]}, "codes of sex"),
        ({"labels": [0, 2]}, "labels must be whole numbers from 0 to 1"),
        ({"predictions": [0, 7]}, "predictions must be whole numbers from -1 to 1"),
        ({"labels": [0, np.inf]}, "labels"),
    ],
)
def test_what_no_class_or_level_has_is_refused_before_counting(change: dict[str, object], named: str) -> None:
    state = CountState(attributes=[SEX], classes=["0", "1"])
    rows = {"codes": [[0], [1]], "labels": [0, 1], "predictions": [0, 1], "record_hashes": [1, 2]}
    with pytest.raises(ValueError, match=named):
        state.update(**{**rows, **change})  # type: ignore[arg-type]
    assert (state.n, int(state.counts.sum())) == (0, 0)


def test_a_level_without_rows_is_listed_and_makes_a_gap_incomplete() -> None:
    state = CountState(attributes=[SEX], classes=["0", "1"])
    state.update([[0], [1], [0], [1]], [0, 1, 1, 0], [0, 1, 1, 1], record_hashes=[1, 2, 3, 4])
    found = of_all(state, "selection_rate_difference")
    assert found.undefined == (2,)
    assert not found.of_all.is_complete
    assert found.of_all.value == 0.5


def test_groups_of_one_class_have_no_rate_over_the_other() -> None:
    state = state_of_tables({"F": (5, 5, 0, 0), "M": (0, 0, 4, 6)})
    rate = group_estimates("true_positive_rate", grouping(state, ["group"]).counts)
    assert [rate.reason(group) for group in range(3)] == ["no_positive_labels", None, "empty"]
    odds = of_all(state, "equalized_odds_difference").of_all
    assert (odds.value, odds.reason) == (None, "single_group")


@pytest.mark.parametrize("metric", ["selection_rate_difference", "selection_rate_ratio", "accuracy_score_group_min"])
def test_groups_that_are_all_empty_give_no_number(metric: str) -> None:
    state = CountState(attributes=[SEX], classes=["0", "1"])
    found = of_all(state, metric)
    assert (found.of_all.value, found.of_all.reason) == (None, "single_group")
    assert found.undefined == (0, 1, 2)


def test_unknown_missing_and_unusable_rows_are_named_in_the_report() -> None:
    state = state_of_rows(
        [0, 1, 1, 0], [0, 1, 1, 1], groups={"sex": ["F", None, "M", "F"]}, scores=[0.1, 0.9, 0.8, 0.6]
    )
    state.update([[0], [1]], np.array([np.nan, 1.0]), [1, 1], record_hashes=[8, 9], scores=[0.7, np.nan])
    report = build_report(
        state, provenance=a_provenance(n_expected=6), evaluation=EvaluationSpec.model_validate({"groupings": "all"})
    )
    assert report["data"]["n_unknown"] == {"sex": 1}
    assert (report["data"]["n_nan_labels"], report["data"]["n_nan_scores"]) == (1, 1)
    text = " ".join(report["limitations"])
    for named in ("lack a sensitive value", "have no label", "not a number"):
        assert named in text
    assert any(group["key"] == {"sex": UNKNOWN} for group in report["groups"])


def test_ten_thousand_groups_are_compared_and_the_small_ones_named() -> None:
    places = Attribute(name="place", levels=tuple(str(index) for index in range(10_000)))
    state = CountState(attributes=[places], classes=["0", "1"])
    codes = np.repeat(np.arange(9_990), 2)[:, None]
    state.update(codes, codes[:, 0] % 2, codes[:, 0] % 3 % 2, record_hashes=np.arange(len(codes)))
    state.update(np.zeros((500, 1)), np.ones(500), np.ones(500), record_hashes=np.arange(500))
    found = disparity(
        "selection_rate_difference", grouping(state, ["place"]), grouping(state).counts, alpha=0.05, min_support=30
    )
    assert found.of_all.bounds is not None
    assert found.of_all.bounds.lower < 0.1  # two rows a group prove next to nothing
    assert found.of_all.bounds.upper == 1.0
    assert len(found.low_support) == 9_989
    assert len(found.undefined) == 10
    assert (found.of_supported.value, found.of_supported.reason) == (None, "single_group")


def test_of_very_many_groups_the_smallest_ratio_is_bounded_from_both_sides() -> None:
    """Beyond 200 groups only some pairs are looked at: those with many rows for the upper bound."""
    random = np.random.default_rng(2)
    n = random.integers(200, 4000, 230).astype(np.float64)
    x = np.floor(n * random.uniform(0.2, 0.6, 230)) + 1
    rate = Rates(numerators=x, denominators=n, undefined="empty", is_empty=n == 0)
    found = ratio_bounds([rate], alpha=0.05)
    one, two = np.array([(i, j) for i in range(230) for j in range(230) if i != j]).T
    one_sided = koopman_interval(x[one], n[one], x[two], n[two], confidence=0.9)
    shared = koopman_interval(x[one], n[one], x[two], n[two], confidence=1 - 0.1 / len(one))
    assert found.lower == pytest.approx(one_sided.lower.min(), rel=1e-9)
    assert found.upper == pytest.approx(shared.upper.min(), rel=1e-9)
    assert found.upper < 0.9


def test_calibration_error_of_several_classes_of_torchmetrics() -> None:
    scores = np.array([[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]])
    hits = scores.argmax(axis=1) == [0, 1, 2, 0]
    bins = np.minimum((scores.max(axis=1) * 3).astype(int), 2)
    counts = np.array([np.bincount(bins[hits == hit], minlength=3) for hit in (False, True)])
    weights = [np.bincount(bins, scores.max(axis=1) * (hits == hit) * 2.0**32, minlength=3) for hit in (False, True)]
    found = calibration(counts, np.array(weights).astype(np.int64))
    assert found.error == pytest.approx(0.2, abs=1e-9)
    assert found.root_mean_square_error == pytest.approx(0.2082, abs=5e-5)
    assert found.largest_error == pytest.approx(0.2333, abs=5e-5)

"""Scoring rates from binned scores, held against numpy on the scores themselves."""

import re
from typing import Any

import numpy as np
import pytest

from fairlead.evaluation import CountState, build_report, report_schema
from fairlead.evaluation.profiles import render_profile
from fairlead.evaluation.profiles.rules import nyc_ll144
from fairlead.evaluation.scoring_rates import UNDECIDED, median_of, rows_above
from fairlead.evaluation.state import SCORE_BINS
from fairlead.spec import EvaluationSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_rows, state_of_tables

WIDTH = 1 / SCORE_BINS


def binned(scores: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    bins = np.minimum((scores * SCORE_BINS).astype(int), SCORE_BINS - 1)
    return np.stack([np.bincount(bins[groups == group], minlength=SCORE_BINS) for group in range(num_groups)])


def direct(scores: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Rows above the sample's median, by the words of the rule."""
    return np.array([int((scores[groups == group] > np.median(scores)).sum()) for group in range(num_groups)])


KINDS = {
    "even": lambda generator, n: generator.random(n),
    "narrow": lambda generator, n: 0.5 + generator.normal(0, 2 * WIDTH, n),
    "tied": lambda generator, n: generator.integers(0, 4, n) / 4,
    "tied in one bin": lambda generator, n: 0.5 + generator.integers(0, 4, n) * WIDTH / 8,
    "skewed": lambda generator, n: generator.beta(0.3, 3, n),
    "two values": lambda generator, n: generator.integers(0, 2, n).astype(float),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_what_numpy_finds(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for n in (1, 2, 3, 10, 101, 1000):
        scores, groups = np.clip(KINDS[kind](generator, n), 0, 1), generator.integers(0, 3, n)
        histograms = binned(scores, groups, 3)
        median = median_of(histograms.sum(axis=0))
        assert median is not None
        low, high = median.bounds
        assert low <= np.median(scores) <= high
        least, most = rows_above(histograms, median)
        found = direct(scores, groups, 3)
        assert (least <= found).all()
        assert (found <= most).all()
        assert median.above <= found.sum() <= median.above + median.undecided


def test_each_bound_is_reached_by_some_order_within_the_bin() -> None:
    """Eleven rows, five of them in the bin of the median; every order of those is tried by numpy."""
    from itertools import permutations

    outside, inside = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), 0.5 + WIDTH * np.arange(1, 6) / 8
    groups = np.array([0, 1, 2, 0, 1, 1, 0, 0, 0, 1, 2])
    seen = []
    for order in permutations(inside):
        scores = np.concatenate([outside, order])
        seen.append(direct(scores, groups, 3))
    histograms = binned(np.concatenate([outside, inside]), groups, 3)
    median = median_of(histograms.sum(axis=0))
    assert median is not None
    assert (median.within, median.undecided) == (5, 2)
    least, most = rows_above(histograms, median)
    assert least.tolist() == np.min(seen, axis=0).tolist()
    assert most.tolist() == np.max(seen, axis=0).tolist()


def test_middle_rows_in_different_bins_leave_nothing_open() -> None:
    scores, groups = np.array([0.1, 0.2, 0.6, 0.6]), np.array([0, 1, 0, 1])
    median = median_of(binned(scores, groups, 2).sum(axis=0))
    assert median is not None
    assert (median.within, median.undecided, median.above) == (0, 0, 2)
    assert median.bounds[0] <= np.median(scores) <= median.bounds[1]
    least, most = rows_above(binned(scores, groups, 2), median)
    assert least.tolist() == most.tolist() == direct(scores, groups, 2).tolist()


def test_without_rows_there_is_no_median() -> None:
    assert median_of(np.zeros(SCORE_BINS, dtype=np.int64)) is None


# ---- in the report and in the layout --------------------------------------------------------------------------------


def population(seed: int, n: int = 4000) -> tuple[CountState, np.ndarray, dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    columns = {
        "sex": generator.choice(["female", "male"], n, p=[0.45, 0.55]),
        "race": generator.choice(["a", "b", "c", "rare"], n, p=[0.5, 0.3, 0.19, 0.01]),
    }
    pull = 0.15 * (columns["sex"] == "male") + 0.2 * (columns["race"] == "b")
    scores = np.clip(generator.normal(0.45 + pull, 0.2), 0, 1)
    predictions = (scores >= 0.5).astype(int)
    labels = generator.integers(0, 2, n)
    known = {name: [str(level) for level in column] for name, column in columns.items()}
    return state_of_rows(labels, predictions, groups=known, scores=scores), scores, columns


def report_of(state: CountState, **settings: Any) -> dict[str, Any]:
    evaluation = EvaluationSpec.model_validate({"groupings": "all", **settings})
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation)


@pytest.mark.parametrize("seed", range(5))
def test_rates_and_ratios_of_the_layout_hold_those_of_the_scores(seed: int) -> None:
    state, scores, columns = population(seed)
    tables = {table.title: table for table in nyc_ll144(report_of(state)).tables}
    is_above = scores > np.median(scores)
    for by in (("sex",), ("race",), ("sex", "race")):
        names = np.array([" x ".join(parts) for parts in zip(*(columns[name] for name in by), strict=True)])
        rates = {name: is_above[names == name].mean() for name in np.unique(names)}
        taking = {name: rate for name, rate in rates.items() if (names == name).mean() >= 0.02}
        table = tables[f"Scoring rates by {' x '.join(by)}"]
        assert {row[0].text for row in table.rows} == set(rates)
        for group, rows, rate, over, below in table.rows:
            assert int(rows.text) == (names == group.text).sum()
            assert_within(rates[group.text], rate.text)
            if group.text not in taking:
                assert over.text == "left out: under 2 % of the rows"
                continue
            ratio = rates[group.text] / max(taking.values())
            assert_within(ratio, over.text)
            if below.text != "cannot be told":
                assert (below.text == "yes") == (ratio < 0.8)


def assert_within(value: float, text: str) -> None:
    low, *high = map(float, re.findall(r"\d\.\d{3}", text))
    assert low - 0.0005 <= value <= (high[0] if high else low) + 0.0005
    assert not high or high[0] - low < 0.02, "a bin in a thousand leaves little open"


def test_ratios_that_the_bin_of_the_median_leaves_open_are_not_judged() -> None:
    """Ten rows of each group; those within one bin decide on which side of four fifths a is."""
    inside = 0.5 + WIDTH / 4
    of_a, of_b = [0.1] * 5 + [inside] * 2 + [0.9] * 3, [0.1] * 3 + [inside] * 2 + [0.9] * 5
    groups = {"sex": ["a"] * 10 + ["b"] * 10}
    report = report_of(state_of_rows([0, 1] * 10, [0] * 20, groups=groups, scores=of_a + of_b), min_display=0)
    assert report["scoring"]["median"] == {
        "from": 0.5,
        "to": 0.5 + WIDTH,
        "n": 20,
        "above": 8,
        "within": 4,
        "undecided": 2,
    }
    (one, _) = report["scoring"]["groups"]
    assert (one["num"], one["num_at_most"], one["value"], one["reason"]) == (3, 5, None, UNDECIDED)
    _, table = nyc_ll144(report).tables
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "10", "0.300 to 0.500", "0.429 to 1.000", "cannot be told"],
        ["b", "10", "0.500 to 0.700", "1.000", "no"],
    ]
    assert "4 of 20 rows lie in that of the median, and at most 2 of them are above it" in " ".join(
        nyc_ll144(report).notes
    )


def test_where_nobody_may_be_above_the_median_there_is_no_ratio() -> None:
    report = report_of(
        state_of_rows([0, 1] * 10, [0] * 20, groups={"sex": ["a", "b"] * 10}, scores=[0.5] * 20), min_display=0
    )
    _, table = nyc_ll144(report).tables
    assert [[cell.text for cell in row][2:] for row in table.rows] == [["0.000 to 1.000", "none", ""]] * 2


def test_rows_of_an_unknown_category_count_for_the_median_and_for_no_category() -> None:
    report = report_of(example_state())
    assert report["scoring"]["median"]["n"] == 2000
    by_sex = [group for group in report["scoring"]["groups"] if group["by"] == ["sex"]]
    assert [group["key"]["sex"] for group in by_sex] == ["female", "male"]
    assert sum(group["n"] for group in by_sex) == 2000 - report["data"]["n_unknown"]["sex"]
    assert "Rows of unknown sex" in render_profile(report, "nyc_ll144")[0].decode()


def test_small_groups_are_hidden_and_so_is_a_ratio_to_one_of_them() -> None:
    groups = {"sex": ["a"] * 60 + ["b"] * 40 + ["tiny"] * 4}
    scores = [0.1] * 40 + [0.9] * 20 + [0.1] * 20 + [0.9] * 20 + [0.9] * 4
    report = report_of(state_of_rows([0, 1] * 52, [0] * 104, groups=groups, scores=scores))
    table = nyc_ll144(report).tables[1]
    texts = [[cell.text for cell in row][1:] for row in table.rows]
    assert texts[2] == ["not shown, to protect a small group"] * 4
    assert "not shown: the highest rate is that of a small group" in {row[2] for row in texts}


def test_reports_without_scores_say_so_and_have_no_section() -> None:
    report = report_of(state_of_tables({"a": (40, 60, 0, 0), "b": (25, 75, 0, 0)}))
    assert "scoring" not in report
    assert "this report has none" in " ".join(nyc_ll144(report).notes)
    assert "scoring" not in report_of(example_state(num_classes=3))
    assert "scoring" not in report_of(example_state(rows=0))


def test_the_section_is_described_by_the_schema_and_old_reports_stay_readable() -> None:
    schema = report_schema()
    assert "scoring" in schema["properties"]
    assert "scoring" not in schema["required"]

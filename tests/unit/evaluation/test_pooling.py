"""Rates of groups of few rows, drawn towards what all groups have."""

import numpy as np
import pytest
from scipy import optimize, stats

from fairlead.evaluation import build_report
from fairlead.evaluation.page import render_page
from fairlead.evaluation.pooling import Prior, pooled_rates, prior_of
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, state_of_tables

# Tarone 1982, Biometrics 38: rats with tumours in 71 groups of untreated ones
RATS = (
    "0/20 0/20 0/20 0/20 0/20 0/20 0/20 0/19 0/19 0/19 0/19 0/18 0/18 0/17 1/20 1/20 1/20 1/20 1/19 1/19 1/18 1/18 "
    "2/25 2/24 2/23 2/20 2/20 2/20 2/20 2/20 2/20 1/10 5/49 2/19 5/46 3/27 2/17 7/49 7/47 3/20 3/20 2/13 9/48 10/50 "
    "4/20 4/20 4/20 4/20 4/20 4/20 4/20 10/48 4/19 4/19 4/19 5/22 11/46 12/49 5/20 5/20 6/23 5/19 6/22 6/20 6/20 6/20 "
    "16/52 15/46 15/47 9/24 4/14"
)
TABLES = {  # tn, fp, fn, tp: three groups of many rows and one of eight, all of whom were selected
    "a": (300, 100, 100, 300),
    "b": (280, 120, 90, 310),
    "c": (260, 140, 110, 290),
    "d": (0, 4, 0, 4),
}


def test_the_distribution_of_the_rats_is_near_the_most_likely_one() -> None:
    hits, rows = np.array([one.split("/") for one in RATS.split()], dtype=np.int64).T
    prior = prior_of(hits, rows)
    assert prior is not None

    def unlikelihood(logs: np.ndarray) -> float:
        first, second = np.exp(logs)
        return -float(stats.betabinom.logpmf(hits, rows, first, second).sum())

    first, second = np.exp(optimize.minimize(unlikelihood, [0.5, 2.5], method="Nelder-Mead").x)
    assert prior.mean == pytest.approx(first / (first + second), rel=0.1)
    assert prior.rows == pytest.approx(first + second, rel=0.35)
    own = pooled_rates([4], [14], prior, confidence=0.95)  # the current experiment of textbooks
    assert 0.19 < own.values[0] < 0.23, "between its own 0.286 and the 0.139 of all"


def test_a_pooled_rate_is_the_mean_of_its_posterior() -> None:
    found = pooled_rates([3, 0], [4, 0], Prior(0.4, 10.0), confidence=0.9)
    posterior = stats.beta(4 + 3, 6 + 1)
    assert found.values[0] == pytest.approx(posterior.mean())
    assert (found.lower[0], found.upper[0]) == pytest.approx(posterior.interval(0.9))
    assert found.values[1] == pytest.approx(0.4), "without rows, what all have"


def test_groups_that_differ_by_chance_alone_are_as_good_as_one() -> None:
    prior = prior_of([50, 51, 49], [100, 100, 100])
    assert prior == Prior(0.5, 300.0)
    assert prior_of([50, 51, 0], [100, 100, 0]) is None, "a spread of two groups is one difference"


def test_pooled_rates_are_nearer_to_the_truth_and_their_intervals_cover_it() -> None:
    random = np.random.RandomState(0)
    nearer, covered, count = 0, 0, 0
    for _ in range(200):
        truth = random.beta(6, 4, size=12)
        rows = np.where(np.arange(12) < 8, 300, 12)
        hits = random.binomial(rows, truth)
        prior = prior_of(hits, rows)
        assert prior is not None
        few = rows < 30
        found = pooled_rates(hits[few], rows[few], prior, confidence=0.95)
        raw = np.abs(hits[few] / rows[few] - truth[few]).mean()
        nearer += np.abs(found.values - truth[few]).mean() < raw
        covered += int(((found.lower <= truth[few]) & (truth[few] <= found.upper)).sum())
        count += int(few.sum())
    assert nearer > 130
    assert covered / count > 0.9, "less than 0.95: the distribution is taken as known"


def test_the_report_gives_small_groups_a_pooled_value_that_decides_nothing() -> None:
    state = state_of_tables(TABLES)
    gate = GateSpec(metric="selection_rate_group_max", by=("group",), require="<= 0.7")
    without = {**TABLES}
    del without["d"]
    reports = [
        build_report(one, provenance=a_provenance(n_expected=one.n), evaluation=EvaluationSpec(), gates=(gate,))
        for one in (state, state_of_tables(without))
    ]
    groups = {entry["key"].get("group"): entry["metrics"] for entry in reports[0]["groups"] if entry["by"]}
    small = groups["d"]["selection_rate"]
    assert small["value"] == 1.0
    assert 0.5 < small["pooled"]["value"] < 0.75
    assert small["pooled"]["interval"][0] < small["pooled"]["value"] < small["pooled"]["interval"][1]
    assert "pooled" not in groups["a"]["selection_rate"]
    assert [report["gates"][0]["outcome"] for report in reports] == ["inconclusive", "pass"]
    page = render_page(reports[0])
    assert "drawn towards what all groups have" not in page, "a group of eight rows is hidden"


def test_the_page_shows_a_pooled_value_beside_the_measured_one() -> None:
    state = state_of_tables({**TABLES, "d": (0, 9, 0, 9)})
    evaluation = EvaluationSpec(groupings=(("group",),))
    page = render_page(build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation))
    assert "with the others" in page
    assert "drawn towards what all groups have" in page

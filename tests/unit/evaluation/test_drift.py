"""Drift from counts: against scipy, by simulation, and what it becomes on the page and at a gate."""

from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy import stats

from fairlead.evaluation import Measurements, Outcome, build_report, evaluate_gates, flat_metrics, report_schema
from fairlead.evaluation.drift import DriftColumn, DriftCounts, drift_section, psi, psi_limits
from fairlead.evaluation.page import render_page
from fairlead.spec import DriftSpec, EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state

ASKED = DriftSpec()


def numbers(name: str, train: np.ndarray, test: np.ndarray, *, bins: int = 100) -> DriftColumn:
    edges = np.quantile(train, np.linspace(0, 1, bins + 1)[1:-1])
    old, new = (np.bincount(np.searchsorted(edges, values), minlength=bins) for values in (train, test))
    labels = tuple(f"{edge:.3g}" for edge in edges)
    return DriftColumn(name=name, kind="number", labels=labels, train=tuple(old.tolist()), test=tuple(new.tolist()))


def levels(name: str, train: list[int], test: list[int]) -> DriftColumn:
    labels = tuple("abcdefghij"[: len(train)])
    return DriftColumn(name=name, kind="text", labels=labels, train=tuple(train), test=tuple(test))


def section(*columns: DriftColumn, asked: DriftSpec = ASKED) -> dict[str, Any]:
    counts = DriftCounts(n_train=sum(columns[0].train), n_test=sum(columns[0].test), columns=columns)
    return drift_section(asked, counts.model_dump(mode="json"))


def test_numbers_are_tested_as_scipy_does_but_for_the_width_of_bins() -> None:
    generator = np.random.default_rng(1)
    for shift in (0.0, 0.1, 0.5):
        train, test = generator.normal(size=4000), generator.normal(shift, size=1000)
        (column,) = section(numbers("x", train, test))["columns"]
        exact = stats.ks_2samp(train, test, method="asymp")
        assert exact.statistic - 0.011 <= column["distance"] <= exact.statistic
        assert column["p_value"] >= exact.pvalue - 1e-12


def test_levels_are_tested_as_scipy_does() -> None:
    train, test = [500, 300, 200], [80, 90, 30]
    (column,) = section(levels("color", train, test))["columns"]
    assert column["p_value"] == pytest.approx(stats.chi2_contingency([train, test], correction=False).pvalue)
    assert column["distance"] == pytest.approx((0.1 + 0.15 + 0.05) / 2)
    assert [one["label"] for one in column["bins"]] == ["a", "b", "c"]


def test_rare_levels_are_taken_together_and_one_level_proves_nothing() -> None:
    (column,) = section(levels("color", [900, 50, 10, 10, 10, 10, 10], [90, 4, 1, 1, 1, 1, 2]))["columns"]
    together = stats.chi2_contingency([[900, 100], [90, 10]], correction=False).pvalue
    assert column["p_value"] == pytest.approx(together)
    (alone,) = section(levels("color", [900, 0], [90, 0]))["columns"]
    assert (alone["p_value"], alone["beyond_chance"]) == (None, None)


def test_the_index_of_a_worked_case() -> None:
    """Shares 1/2, 1/2 and 1/4, 3/4: (1/4 - 1/2) ln(1/2) + (3/4 - 1/2) ln(3/2) = 0.2747."""
    assert psi(np.array([500_000, 500_000]), np.array([250_000, 750_000])) == pytest.approx(0.274653, abs=1e-5)


@pytest.mark.parametrize("shares", [(0.1,) * 10, (0.06, 0.08, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.12, 0.14)])
def test_bounds_of_the_index_cover_the_truth_as_often_as_they_say(shares: tuple[float, ...]) -> None:
    """2,000 draws of 1,000 train and 500 test rows; 95 % and the error of the simulation, 1.5 %."""
    generator = np.random.default_rng(7)
    train = generator.multinomial(1000, (0.1,) * 10, size=2000)
    test = generator.multinomial(500, shares, size=2000)
    truth = float(((np.array(shares) - 0.1) * np.log(np.array(shares) / 0.1)).sum())
    found = [
        psi_limits(psi(old, new), bins=10, n_train=1000, n_test=500, tail=0.05)
        for old, new in zip(train, test, strict=True)
    ]
    assert np.mean([low <= truth for low, _ in found]) >= 0.935
    assert np.mean([truth <= high for _, high in found]) >= 0.935


def test_where_nothing_moved_almost_no_report_finds_anything() -> None:
    """200 data sets of 12 columns each: Holm keeps the share of those with any finding below the level."""
    generator = np.random.default_rng(3)
    found = 0
    for _ in range(200):
        columns = [numbers(f"c{at}", generator.normal(size=600), generator.normal(size=300)) for at in range(12)]
        found += section(*columns)["n_beyond_chance"] > 0
    assert found / 200 <= 0.08


def moved() -> dict[str, Any]:
    generator = np.random.default_rng(2)
    base = [numbers(f"c{at}", generator.normal(size=3000), generator.normal(size=800)) for at in range(11)]
    return section(
        *base,
        numbers("income", generator.normal(size=3000), generator.normal(0.6, size=800)),
        levels("colour", [1500, 1500], [400, 400]),
    )


def test_what_moved_comes_first_and_is_more_than_chance_explains() -> None:
    found = moved()
    assert [one["name"] for one in found["columns"] if one["beyond_chance"]] == ["income"]
    assert (found["columns"][0]["name"], found["n_tested"], found["n_beyond_chance"]) == ("income", 13, 1)
    assert [len(one["bins"]) > 0 for one in found["columns"]] == [True] * 10 + [False] * 3
    largest = found["metrics"]["drift_psi_max"]
    assert largest["value"] == found["columns"][0]["psi"] > 0.25
    assert 0 < largest["lower95"] < largest["value"] < largest["upper95"]


def report_of(*gates: GateSpec) -> dict[str, Any]:
    counted = [numbers("income", *(np.random.default_rng(seed).normal(size=2000) for seed in (1, 2)))]
    found = DriftCounts(n_train=2000, n_test=2000, columns=tuple(counted)).model_dump(mode="json")
    state = example_state()
    return build_report(
        state,
        provenance=a_provenance(n_expected=state.n),
        evaluation=EvaluationSpec(),
        gates=gates,
        measurements=Measurements(asked={"drift": ASKED}, found={"drift": found}),
    )


def test_it_stands_in_the_report_on_the_page_and_in_tracking() -> None:
    report = report_of(GateSpec(metric="drift_psi_max", require="<= 0.1"))
    jsonschema.validate(report, report_schema())
    assert report["gates"][0]["outcome"] == "pass"
    assert report["gates"][0]["bound"] == report["drift"]["metrics"]["drift_psi_max"]["upper95"]
    assert "drift" not in report["not_measured"]
    page = render_page(report)
    for words in ("look like the training rows", "income", "chance explains it", "Largest population stability index"):
        assert words in page, words
    assert "rai/drift_psi_max/overall" in flat_metrics(report).values


def test_a_gate_is_undecided_where_too_few_rows_were_tested_and_refused_where_nothing_was_asked_for() -> None:
    generator = np.random.default_rng(4)
    counted = numbers("x", generator.normal(size=200), generator.normal(size=60))
    counts = DriftCounts(n_train=200, n_test=60, columns=(counted,)).model_dump(mode="json")
    gate = GateSpec(metric="drift_psi_max", require="<= 0.1")
    known = Measurements(asked={"drift": ASKED}, found={"drift": counts})
    (outcome,) = evaluate_gates(example_state(), [gate], EvaluationSpec(), known)
    assert outcome.outcome is Outcome.INCONCLUSIVE
    (unasked,) = evaluate_gates(example_state(), [gate], EvaluationSpec())
    assert "add probes.drift" in unasked.why


def test_counts_that_lack_a_row_are_refused() -> None:
    short = DriftCounts(n_train=10, n_test=4, columns=(levels("a", [5, 4], [2, 2]),)).model_dump(mode="json")
    section = Measurements(asked={"drift": ASKED}, found={"drift": short}).sections["drift"]
    assert "does not count every row of both splits once" in section["why_not_measured"]


def test_without_rows_there_is_a_reason() -> None:
    nothing = DriftCounts(n_train=0, n_test=0, columns=()).model_dump(mode="json")
    assert drift_section(ASKED, nothing)["why_not_measured"] == "there are no rows to compare"

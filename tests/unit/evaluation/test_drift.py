"""Drift from counts: against scipy, by simulation, and what it becomes on the page and at a gate."""

from typing import Any

import jsonschema
import numpy as np
import pytest
from scipy import stats

from fairlead.evaluation import Measurements, Outcome, build_report, evaluate_gates, flat_metrics, report_schema
from fairlead.evaluation.drift import (
    DriftColumn,
    DriftCounts,
    _levels_together,
    _without_rare,
    drift_section,
    psi,
    psi_limits,
)
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
    labels = tuple(f"{at:03}" for at in range(len(train))) if len(train) > 10 else tuple("abcdefghij"[: len(train)])
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
    found = [psi_limits(old, new, tail=0.05) for old, new in zip(train, test, strict=True)]
    assert np.mean([low <= truth for low, _ in found]) >= 0.935
    assert np.mean([truth <= high for _, high in found]) >= 0.935


def tilted(train: np.ndarray, by: np.ndarray, index: float) -> np.ndarray:
    """Shares that ``by`` moves from ``train`` until their index is ``index``."""
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        shares = train * np.exp(middle * by)
        shares = shares / shares.sum()
        low, high = (middle, high) if ((shares - train) * np.log(shares / train)).sum() < index else (low, middle)
    return shares


@pytest.mark.parametrize("index", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    ("num_levels", "n_train", "n_test"),
    [(200, 700, 200), (500, 1000, 300), (50, 300, 150), (20, 400, 100), (10, 1000, 200)],
)
def test_bounds_cover_however_many_levels_there_are(num_levels: int, n_train: int, n_test: int, index: float) -> None:
    """600 draws, half of them of levels alike in size; the truth is that of the same bins."""
    generator = np.random.default_rng(num_levels)
    found = []
    for sizes in (np.ones(num_levels), 1 / np.arange(1, num_levels + 1)):
        p = sizes / sizes.sum()
        q = tilted(p, generator.normal(size=num_levels), index)
        for old, new in zip(generator.multinomial(n_train, p, 300), generator.multinomial(n_test, q, 300), strict=True):
            together = _levels_together(np.stack([old, new]), n_train / min(10, n_test // 5))
            a, b, true_a, true_b = (np.array([each[part].sum() for part in together]) for each in (old, new, p, q))
            low, high = psi_limits(a, b, tail=0.05)
            truth = ((true_b - true_a) * np.log(true_b / true_a)).sum() if index else 0.0
            found.append((low <= truth + 1e-12, truth <= high, psi(a, b) <= high))
    assert np.mean(found, axis=0)[:2].min() >= 0.935
    assert np.mean(found, axis=0)[2] == 1.0


def test_a_gate_does_not_pass_where_levels_moved_that_are_too_rare_to_be_bins() -> None:
    """Of 200 levels, index 1.0: over ten bins hardly anything is left of it, so the index must prove nothing."""
    generator = np.random.default_rng(5)
    p = np.full(200, 1 / 200)
    gate = GateSpec(metric="drift_psi_max", require="<= 0.25")
    outcomes = []
    for _ in range(40):
        q = tilted(p, generator.normal(size=200), 1.0)
        column = levels("job", generator.multinomial(700, p).tolist(), generator.multinomial(200, q).tolist())
        counts = DriftCounts(n_train=700, n_test=200, columns=(column,)).model_dump(mode="json")
        known = Measurements(asked={"drift": ASKED}, found={"drift": counts})
        (outcome,) = evaluate_gates(example_state(), [gate], EvaluationSpec(), known)
        outcomes.append(outcome.outcome)
    assert outcomes.count(Outcome.PASS) <= 2
    (entry,) = known.sections["drift"]["columns"]
    assert (entry["psi_upper95"], entry["beyond_chance"]) == (None, True)
    assert "too rare to be bins of their own" in entry["psi_reason"]


def test_levels_that_stay_pass_though_they_are_many_and_a_handful_of_rows_proves_nothing() -> None:
    generator = np.random.default_rng(6)
    p = np.full(200, 1 / 200)
    found = [
        section(levels("job", generator.multinomial(700, p).tolist(), generator.multinomial(200, p).tolist()))
        for _ in range(100)
    ]
    assert sum(one["metrics"]["drift_psi_max"]["value"] is None for one in found) <= 10
    few = section(levels("job", [30, 30], [3, 4]))["metrics"]["drift_psi_max"]
    assert (few["value"], few["upper95"]) == (None, None)
    assert "7 rows are too few" in few["reason"]


def test_rare_levels_are_more_than_one_class_where_they_have_the_rows() -> None:
    pooled = _without_rare(np.array([[400.0] * 2 + [7.0] * 20, [100.0] * 2 + [2.0] * 20]))
    assert pooled.shape[1] > 3
    assert (pooled.sum(axis=0) * 240 / 1180 >= 5).all()


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


@pytest.mark.parametrize(
    ("kind", "is_shown"), [("text", False), ("target", False), ("sensitive", False), ("number", True)]
)
def test_bins_of_few_people_are_not_on_the_page_whatever_they_are_of(kind: Any, is_shown: bool) -> None:
    labels = ("hamlet", "many") if kind != "number" else ("hamlet",)
    column = DriftColumn(name="town", kind=kind, labels=labels, train=(400, 1600), test=(3, 1997))
    assert (is_on_page(column, "hamlet"), is_on_page(column, "town")) == (is_shown, True)


def test_bins_of_a_number_that_is_a_sensitive_attribute_too_are_not_on_the_page() -> None:
    name = example_state().attributes[0].name
    column = DriftColumn(name=name, kind="number", labels=("hamlet",), train=(400, 1600), test=(3, 1997))
    assert not is_on_page(column, "hamlet")


def is_on_page(column: DriftColumn, word: str) -> bool:
    found = DriftCounts(n_train=2000, n_test=2000, columns=(column,)).model_dump(mode="json")
    state = example_state()
    known = Measurements(asked={"drift": ASKED}, found={"drift": found})
    report = build_report(
        state, provenance=a_provenance(n_expected=state.n), evaluation=EvaluationSpec(), measurements=known
    )
    page = render_page(report)
    drift = page[page.index("look like the training rows") :]
    return word in drift[: drift.index("</section>")]


def test_bounds_and_p_values_belong_to_the_confidence_of_the_evaluation() -> None:
    counted = [numbers("income", *(np.random.default_rng(seed).normal(size=2000) for seed in (1, 2)))]
    found = DriftCounts(n_train=2000, n_test=2000, columns=tuple(counted)).model_dump(mode="json")
    known = Measurements(asked={"drift": ASKED}, found={"drift": found})
    state, uppers = example_state(), []
    for confidence in (0.9, 0.95, 0.999):
        evaluation = EvaluationSpec(confidence=confidence, correction="holm")
        gate = GateSpec(metric="drift_psi_max", require="<= 0.1")
        provenance = a_provenance(n_expected=state.n)
        report = build_report(state, provenance=provenance, evaluation=evaluation, gates=(gate,), measurements=known)
        (decided,), entry = report["gates"], report["drift"]["metrics"]["drift_psi_max"]
        assert decided["bound"] == decided["upper95"] == entry["upper95"]
        assert entry["upper95"] == report["drift"]["columns"][0]["psi_upper95"]
        assert decided["p_value"] < 1e-6
        uppers.append(entry["upper95"])
    assert uppers == sorted(set(uppers))
    limits = known.limits("drift_psi_max")
    tight = GateSpec(metric="drift_psi_max", require=f"<= {limits(0.02)[1]:.6f}")
    evaluation = EvaluationSpec(correction="holm")
    (outcome,) = evaluate_gates(state, [tight], evaluation, known)
    assert outcome.p_value == pytest.approx(0.02, rel=0.01)


def test_counts_that_lack_a_row_are_refused() -> None:
    short = DriftCounts(n_train=10, n_test=4, columns=(levels("a", [5, 4], [2, 2]),)).model_dump(mode="json")
    section = Measurements(asked={"drift": ASKED}, found={"drift": short}).sections["drift"]
    assert "does not count every row of both splits once" in section["why_not_measured"]


def test_without_rows_there_is_a_reason() -> None:
    nothing = DriftCounts(n_train=0, n_test=0, columns=()).model_dump(mode="json")
    assert drift_section(ASKED, nothing)["why_not_measured"] == "there are no rows to compare"

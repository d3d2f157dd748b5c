"""Many comparisons at once: adjusted p-values, gates judged together, and the list of gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fairlead.evaluation import CountState, GateOutcome, Outcome, build_report, evaluate_gates, grouping
from fairlead.evaluation.estimates import Rates
from fairlead.evaluation.gap_tests import gap_tests
from fairlead.evaluation.intervals import gap_bounds
from fairlead.evaluation.multiplicity import SMALLEST_P, adjusted, benjamini_hochberg, gap_p_value, holm
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.spec.evaluation import Correction
from fairlead.testing.evaluation import Table, a_provenance, example_state, state_of_tables

# Benjamini and Hochberg 1995, section 4: fifteen end points of a trial of two treatments after a heart attack
THROMBOLYSIS = (
    *(0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459),
    *(0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000),
)
CORRECTIONS: tuple[Correction, ...] = ("none", "holm", "benjamini_hochberg")
p_values = st.lists(st.floats(0, 1), min_size=0, max_size=30)
levels = st.floats(0.001, 0.5)


def test_the_published_trial_has_three_findings_by_holm_and_four_by_benjamini_and_hochberg() -> None:
    found = {name: int((adjusted(THROMBOLYSIS, name) <= 0.05).sum()) for name in CORRECTIONS}
    assert found == {"none": 9, "holm": 3, "benjamini_hochberg": 4}


def test_adjusted_values_of_the_published_trial_are_those_computed_by_hand() -> None:
    assert holm(THROMBOLYSIS)[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])
    assert benjamini_hochberg(THROMBOLYSIS)[:4] == pytest.approx([0.0015, 0.0030, 0.0095, 0.035625])


@pytest.mark.parametrize("count", [1, 2, 15, 40])
def test_adjusted_values_are_those_of_statsmodels(count: int) -> None:
    values = np.round(np.random.default_rng(count).beta(0.4, 1, count), 2)  # with ties
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)
    assert benjamini_hochberg(values) == pytest.approx(multipletests(values, method="fdr_bh")[1], abs=1e-12)


@given(values=p_values, level=levels)
@settings(max_examples=100, deadline=None)
def test_no_correction_rejects_more_than_none_and_each_keeps_the_order(values: list[float], level: float) -> None:
    plain, by_share, by_family = (adjusted(values, name) for name in ("none", "benjamini_hochberg", "holm"))
    assert (plain <= by_share).all()
    assert (by_share <= by_family + 1e-15).all()
    assert (by_family <= 1).all()
    assert (by_family <= level).sum() <= (by_share <= level).sum() <= (plain <= level).sum()
    order = np.argsort(plain, kind="stable")
    assert (np.diff(by_share[order]) >= 0).all()
    assert (np.diff(by_family[order]) >= 0).all()


@given(values=p_values.filter(len), at=st.integers(0, 29), less=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_smaller_p_value_makes_no_adjusted_one_larger(values: list[float], at: int, less: float) -> None:
    smaller = [*values]
    smaller[at % len(values)] *= less
    for correction in (holm, benjamini_hochberg):
        assert (correction(smaller) <= correction(values) + 1e-15).all()


@pytest.mark.parametrize("values", [[-0.1], [1.1], [float("nan")]])
def test_what_is_no_probability_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        holm(values)


# ---- gaps -----------------------------------------------------------------------------------------------------------


def rates(*pairs: tuple[int, int]) -> Rates:
    numerators, denominators = np.array(pairs, dtype=np.float64).T
    return Rates(numerators=numerators, denominators=denominators, undefined="empty", is_empty=denominators == 0)


@pytest.mark.parametrize("spread", [rates((37, 100), (44, 90)), rates((3, 20), (9, 21), (14, 30), (0, 15))])
def test_the_p_value_of_a_gap_is_where_its_lower_bound_leaves_zero(spread: Rates) -> None:
    p_value = gap_p_value([spread])
    assert gap_bounds([spread], alpha=1.001 * p_value).lower > 0
    assert gap_bounds([spread], alpha=0.999 * p_value).lower == 0


def test_equal_groups_have_a_p_value_of_one_and_very_different_ones_the_smallest() -> None:
    assert gap_p_value([rates((40, 100), (40, 100))]) == 1
    assert gap_p_value([rates((1, 100_000), (99_999, 100_000))]) == SMALLEST_P


def test_with_no_true_gap_the_list_names_one_in_few_data_sets() -> None:
    generator = np.random.default_rng(3)
    named: dict[Correction, int] = {"none": 0, "holm": 0}
    for _ in range(60):
        tables = {f"g{index}": tuple(generator.multinomial(300, [0.4, 0.1, 0.2, 0.3]).tolist()) for index in range(4)}
        state = state_of_tables(tables)  # type: ignore[arg-type]
        groups, overall = grouping(state, ("group",)), grouping(state)
        for correction in named:
            tests = gap_tests([groups], overall, correction, min_support=30)
            named[correction] += any(test.p_adjusted is not None and test.p_adjusted <= 0.05 for test in tests)
    assert named["holm"] <= stats.binom.ppf(0.999, 60, 0.05)
    assert named["holm"] <= named["none"]


def test_groups_that_cannot_be_compared_are_listed_and_count_for_nothing() -> None:
    state = state_of_tables({"F": (50, 40, 0, 0), "M": (30, 20, 20, 30)})  # no positive labels among F
    tests = {
        test.metric: test for test in gap_tests([grouping(state, ("group",))], grouping(state), "holm", min_support=30)
    }
    assert tests["true_positive_rate_difference"].p_value is None
    assert tests["true_positive_rate_difference"].p_adjusted is None
    report = report_of(state)
    assert report["multiplicity"]["disparities"]["comparisons"] == len(tests) - 1


# ---- gates ----------------------------------------------------------------------------------------------------------

TABLE: Table = (380, 20, 30, 370)  # accuracy 750 of 800: .9375


def report_of(state: CountState, *gates: GateSpec, **settings: object) -> dict:  # type: ignore[type-arg]
    evaluation = EvaluationSpec.model_validate({"groupings": "all", **settings})
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation, gates=gates)


def decided(limits: list[str], correction: Correction, table: Table = TABLE) -> tuple[GateOutcome, ...]:
    gates = [GateSpec(id=f"g{index}", metric="accuracy_score", require=limit) for index, limit in enumerate(limits)]
    evaluation = EvaluationSpec.model_validate({"correction": correction})
    return evaluate_gates(state_of_tables({"all": table}), gates, evaluation)


def score_test(limit: float) -> float:
    """The p-value that belongs to Wilson's bound: the score test of 750 of 800 against ``limit``."""
    return float(stats.norm.sf((0.9375 - limit) / np.sqrt(limit * (1 - limit) / 800)))


def test_the_p_value_of_a_gate_is_that_of_the_test_its_bound_inverts() -> None:
    (outcome,) = decided([">= 0.92"], "holm")
    assert outcome.p_value == pytest.approx(score_test(0.92), rel=1e-5)
    assert outcome.p_adjusted == outcome.p_value
    assert outcome.outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("correction", "outcomes"),
    [
        # p-values of the limits: .0043, .0342, .0418, so Holm has .0130, .0685, .0685, the other .0130, .0418, .0418
        ("none", ["pass", "pass", "pass"]),
        ("holm", ["pass", "inconclusive", "inconclusive"]),
        ("benjamini_hochberg", ["pass", "pass", "pass"]),
    ],
)
def test_a_pass_must_stand_among_the_other_gates(correction: Correction, outcomes: list[str]) -> None:
    found = decided([">= 0.91", ">= 0.92", ">= 0.921"], correction)
    assert [one.outcome for one in found] == outcomes
    if correction != "none":
        plain = [score_test(limit) for limit in (0.91, 0.92, 0.921)]
        assert [one.p_adjusted for one in found] == pytest.approx(adjusted(plain, correction), rel=1e-5)
    if correction == "holm":
        assert "not as one of 3 gates" in found[1].why
        assert found[1].rows_needed_per_group is not None
        assert found[1].rows_needed_per_group > 800


def test_a_corrected_gate_never_passes_what_fails_or_is_open_without_it() -> None:
    generator = np.random.default_rng(1)
    state = example_state(rows=1500)
    metrics = ("demographic_parity_difference", "accuracy_score_group_min", "demographic_parity_ratio")
    for _ in range(2):
        gates = []
        for index, metric in enumerate(metrics * 2):
            operator = "<=" if metric.endswith("difference") else ">="
            limit = generator.uniform(0.05, 0.3) if operator == "<=" else generator.uniform(0.5, 0.8)
            gates.append(GateSpec(id=f"g{index}", metric=metric, by=("sex",), require=f"{operator} {limit:.3f}"))
        by_correction = {
            name: evaluate_gates(state, gates, EvaluationSpec.model_validate({"correction": name}))
            for name in CORRECTIONS
        }
        for plain, family, shared in zip(*by_correction.values(), strict=True):
            passes = [one.outcome is Outcome.PASS for one in (family, shared, plain)]
            assert passes == sorted(passes)
            if plain.outcome is not Outcome.PASS:
                assert family == shared == plain


def test_values_and_numbers_of_rows_are_no_comparisons() -> None:
    gates = (
        GateSpec(metric="accuracy_score", require=">= 0.92"),
        GateSpec(id="value", metric="accuracy_score", require=">= 0.9", evidence="point"),
        GateSpec(metric="count", require=">= 100"),
    )
    report = report_of(state_of_tables({"all": TABLE}), *gates, correction="holm")
    assert report["multiplicity"]["gates"] == {"correction": "holm", "comparisons": 1, "level": 0.05}
    assert [gate["outcome"] for gate in report["gates"]] == ["pass"] * 3
    assert ["p_value" in gate for gate in report["gates"]] == [True, False, False]


def test_by_default_gates_are_judged_each_for_itself_and_the_report_says_so() -> None:
    gates = [GateSpec(id=f"g{index}", metric="accuracy_score", require=">= 0.92") for index in range(5)]
    report = report_of(state_of_tables({"F": TABLE, "M": TABLE}), *gates)
    assert report["multiplicity"]["gates"] == {"correction": "none", "comparisons": 5, "level": 0.05}
    assert report["multiplicity"]["disparities"]["correction"] == "benjamini_hochberg"
    assert "p_value" not in report["gates"][0]


def test_gates_on_resampled_bounds_claim_no_smaller_p_value_than_resampling_resolves() -> None:
    gate = GateSpec(metric="matthews_corrcoef", require=">= 0.1")
    (outcome,) = evaluate_gates(state_of_tables({"all": TABLE}), [gate], EvaluationSpec(correction="holm"))
    assert outcome.p_value == pytest.approx(0.001)


def test_a_group_of_low_support_takes_no_part_in_the_test_of_a_gap_that_is_shown_without_it() -> None:
    alike = {"F": (60, 40, 20, 80), "M": (60, 40, 20, 80)}
    state = state_of_tables({**alike, "X": (0, 9, 0, 9)})  # 18 rows, all selected
    shown, all_of_them = (
        {
            test.metric: test.p_value
            for test in gap_tests([grouping(state, ("group",))], grouping(state), "holm", min_support=least)
        }
        for least in (30, 1)
    )
    assert shown["selection_rate_difference"] == pytest.approx(1.0)
    assert all_of_them["selection_rate_difference"] < 0.01
    gaps = {entry["metric"]: entry for entry in report_of(state)["disparities"]}
    assert gaps["selection_rate_difference"]["supported"]["value"] == 0.0
    assert gaps["selection_rate_difference"]["value"] == pytest.approx(0.4)

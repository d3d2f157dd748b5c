"""Gaps within strata, against a published table in which the gap over all rows misleads."""

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import StratifiedTable

from fairlead.errors import BadSpec
from fairlead.evaluation import (
    CountState,
    GateOutcome,
    Outcome,
    build_report,
    evaluate_gates,
    problem_with_gate,
    report_schema,
)
from fairlead.evaluation.alternatives import miettinen_nurminen_interval
from fairlead.evaluation.metrics import Task
from fairlead.evaluation.page import render_page
from fairlead.evaluation.profiles import render_profile
from fairlead.evaluation.stratified import (
    Strata,
    StratifiedGaps,
    association_test,
    conditional_gaps,
    odds_ratio,
    risk_difference,
)
from fairlead.spec import EvaluationSpec, ExperimentSpec, GateSpec, PredictionsSpec, from_mapping
from fairlead.testing.evaluation import a_provenance, example_state
from fairlead.workload import Attribute

# Bickel, Hammel and O'Connell 1975, Science 187: admitted and rejected in the six largest departments, Berkeley 1973
BERKELEY = {
    "A": ((512, 313), (89, 19)),
    "B": ((353, 207), (17, 8)),
    "C": ((120, 205), (202, 391)),
    "D": ((138, 279), (131, 244)),
    "E": ((53, 138), (94, 299)),
    "F": ((22, 351), (24, 317)),
}
"""Men, then women."""


def men_against_women(tables: dict[str, tuple[tuple[int, int], tuple[int, int]]] = BERKELEY) -> Strata:
    counts = np.array(list(tables.values()), dtype=np.float64)
    return Strata(
        x=counts[:, 0, 0],
        n=counts[:, 0].sum(axis=1),
        reference_x=counts[:, 1, 0],
        reference_n=counts[:, 1].sum(axis=1),
    )


def admissions() -> CountState:
    """Selected are those admitted; labels alternate, so that both rates exist."""
    attributes = (Attribute(name="sex", levels=("men", "women")), Attribute(name="department", levels=tuple(BERKELEY)))
    state = CountState(attributes=attributes, classes=("rejected", "admitted"))
    for department, table in enumerate(BERKELEY.values()):
        for sex, numbers in enumerate(table):
            for prediction, rows in zip((1, 0), numbers, strict=True):
                codes = np.tile([sex, department], (rows, 1))
                hashes = np.arange(rows) + state.n
                state.update(codes, np.arange(rows) % 2, np.full(rows, prediction), record_hashes=hashes)
    return state


def report_of(state: CountState) -> dict:  # type: ignore[type-arg]
    evaluation = EvaluationSpec(groupings="all", control=("department",))
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation)


def test_the_common_odds_ratio_of_berkeley_is_the_one_that_r_prints() -> None:
    value, interval = odds_ratio(men_against_women())  # R, mantelhaen.test(UCBAdmissions)
    assert value == pytest.approx(0.9046968, abs=5e-8)
    assert interval == pytest.approx((0.7719074, 1.0603298), abs=5e-8)


def test_the_test_of_berkeley_is_the_one_that_r_prints_without_its_continuity_correction() -> None:
    found = association_test(men_against_women())
    assert found == pytest.approx((1.5246, 0.2169), abs=5e-5)


@given(
    tables=st.lists(st.tuples(*[st.integers(1, 60)] * 4), min_size=1, max_size=8),
)
@settings(max_examples=40, deadline=None)
def test_pooled_values_are_those_of_statsmodels(tables: list[tuple[int, int, int, int]]) -> None:
    strata = men_against_women({str(at): ((a, b), (c, d)) for at, (a, b, c, d) in enumerate(tables)})
    oracle = StratifiedTable([np.array([[a, b], [c, d]]) for a, b, c, d in tables])
    value, interval = odds_ratio(strata)
    assert value == pytest.approx(oracle.oddsratio_pooled, rel=1e-12)
    assert interval == pytest.approx(oracle.oddsratio_pooled_confint(), rel=1e-9)
    found = oracle.test_null_odds(correction=False)
    assert association_test(strata) == pytest.approx((found.statistic, found.pvalue), rel=1e-9, abs=1e-12)


def test_the_pooled_difference_of_one_stratum_is_the_plain_one_with_the_plain_variance() -> None:
    value, interval = risk_difference(men_against_women({"all": ((30, 70), (20, 60))}))
    assert value == pytest.approx(0.3 - 0.25)
    assert interval is not None
    # Sato's variance of one stratum, by hand: (d * (P) + Q) / w**2 with w = 100*80/180
    first = (100 / 180) ** 2 * 20 - (80 / 180) ** 2 * 30 + (100 / 180) * (80 / 180) * (80 - 100) / 2
    second = (30 * 60 + 20 * 70) / 360
    error = np.sqrt(0.05 * first + second) / (8000 / 180)
    assert interval == pytest.approx((0.05 - 1.959964 * error, 0.05 + 1.959964 * error), abs=1e-6)


@given(tables=st.lists(st.tuples(*[st.integers(0, 30)] * 4), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_swapping_the_groups_turns_everything_round(tables: list[tuple[int, int, int, int]]) -> None:
    there = men_against_women({str(at): ((a, b), (c, d)) for at, (a, b, c, d) in enumerate(tables)})
    back = men_against_women({str(at): ((c, d), (a, b)) for at, (a, b, c, d) in enumerate(tables)})
    one, other = risk_difference(there), risk_difference(back)
    assert (one.value is None) == (other.value is None)
    if one.value is not None and other.value is not None:
        assert one.value == pytest.approx(-other.value, abs=1e-12)
    more, less = odds_ratio(there).value, odds_ratio(back).value
    if more and less:
        assert more * less == pytest.approx(1)


def test_strata_with_one_group_only_say_nothing_and_alone_give_no_value() -> None:
    with_empty = men_against_women({**BERKELEY, "G": ((10, 5), (0, 0))})
    assert risk_difference(with_empty) == risk_difference(men_against_women())
    nothing = men_against_women({"G": ((10, 5), (0, 0))})
    assert (risk_difference(nothing), odds_ratio(nothing), association_test(nothing)) == (
        (None, None),
        (None, None),
        None,
    )


def test_the_report_shows_that_the_gap_of_berkeley_turns_round_within_departments() -> None:
    report = report_of(admissions())
    jsonschema.validate(report, report_schema())
    entry = next(one for one in report["conditional"] if one["metric"] == "demographic_parity_difference")
    assert (entry["key"], entry["reference"]) == ({"sex": "women"}, {"sex": "men"})
    assert entry["unconditional"] == pytest.approx(557 / 1835 - 1198 / 2691)
    assert entry["difference"]["value"] > 0
    assert entry["reversed"]
    assert entry["odds_ratio"]["value"] == pytest.approx(1 / 0.9046968, abs=1e-6)
    in_a = next(one for one in entry["strata"] if one["key"] == {"department": "A"})
    assert (in_a["num"], in_a["den"], in_a["reference_num"], in_a["reference_den"]) == (89, 108, 512, 825)
    assert {one["name"]: one["role"] for one in report["attributes"]} == {"sex": "sensitive", "department": "control"}
    assert {tuple(one["by"]) for one in report["disparities"]} == {("sex",)}


def test_the_page_says_that_the_sign_changes() -> None:
    page = render_page(report_of(admissions()))
    assert "Within strata of department" in page
    assert "women less men: \u22120.142 over all rows" in page
    assert "The sign changes: by department the groups are spread differently." in page


def test_rows_of_unknown_groups_and_strata_take_no_part() -> None:
    state = example_state(rows=4000)
    groups, found = conditional_gaps(state, ("sex",), ("age_band",))
    assert len(found) == 2
    assert all(set(one.keys[0]) == {"age_band"} and len(one.keys) == 3 for one in found)
    unknown_sex_or_age = state.n - int(found[0].strata.n.sum() + found[0].strata.reference_n.sum())
    assert unknown_sex_or_age == state.n_unknown
    assert groups.by == ("sex",)


def test_what_is_compared_cannot_be_controlled_for() -> None:
    with pytest.raises(ValueError, match="other attributes"):
        conditional_gaps(example_state(), ("sex",), ("sex",))


# ---- gates within strata --------------------------------------------------------------------------------------------


def gaps_of(tables: list[tuple[tuple[int, int], tuple[int, int]]]) -> StratifiedGaps:
    """Selected and not of the first and of the second group, by stratum."""
    counts = np.array([tables], dtype=np.float64)
    x, y = counts[:, :, 0, 0], counts[:, :, 1, 0]
    return StratifiedGaps(pairs=((0, 1),), x=x, n=counts[:, :, 0].sum(axis=2), y=y, m=counts[:, :, 1].sum(axis=2))


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda t: t[0] + t[1] > 0 and t[2] + t[3] > 0))
@settings(max_examples=60, deadline=None)
def test_limits_of_one_stratum_are_miettinens_and_nurminens(table: tuple[int, int, int, int]) -> None:
    a, b, c, d = table
    found = gaps_of([((a, b), (c, d))]).limits(0.025)
    expected = miettinen_nurminen_interval([a], [a + b], [c], [c + d])
    assert (found.lower[0], found.upper[0]) == pytest.approx((expected.lower[0], expected.upper[0]), abs=1e-9)


def test_the_score_of_no_difference_is_cochrans_mantels_and_haenszels() -> None:
    found = gaps_of(list(BERKELEY.values()))
    test = association_test(men_against_women())
    assert test is not None
    assert found.score(np.zeros(1))[0] ** 2 == pytest.approx(test[0], rel=1e-12)
    assert found.values[0] == pytest.approx(risk_difference(men_against_women()).value, rel=1e-12)
    assert float(found.exact(0)) == pytest.approx(found.values[0], rel=1e-12)
    sato = risk_difference(men_against_women(), confidence=0.9).interval
    limits = found.limits(0.05)
    assert (limits.lower[0], limits.upper[0]) == pytest.approx(sato, abs=0.002)  # many rows: both are right


def test_strata_without_selected_rows_leave_doubt() -> None:
    nobody = gaps_of([((0, 20), (0, 20))] * 3)
    assert nobody.values[0] == 0
    assert nobody.bounds(0.05).upper > 0.03
    pooled = risk_difference(men_against_women({str(at): ((0, 20), (0, 20)) for at in range(3)}))
    assert pooled.interval == (0.0, 0.0)  # why gates do not use this one


@pytest.mark.parametrize(
    ("strata", "rows", "gap"),
    [(4, 60, 0.0), (4, 60, 0.15), (40, 5, 0.0), (40, 5, 0.1), (100, 2, 0.2), (12, 15, -0.25)],
)
def test_bounds_of_the_difference_hold(strata: int, rows: int, gap: float) -> None:
    random = np.random.default_rng(7)
    runs, base = 600, np.linspace(0.3, 0.6, strata)
    n, m = random.integers(rows, 2 * rows, (2, strata))
    x, y = random.binomial(n, base + gap, (runs, strata)), random.binomial(m, base, (runs, strata))
    gaps = StratifiedGaps(
        pairs=((0, 1),) * runs,
        x=x.astype(float),
        n=np.tile(n, (runs, 1)).astype(float),
        y=y.astype(float),
        m=np.tile(m, (runs, 1)).astype(float),
    )
    limits = gaps.limits(0.05)
    assert (limits.upper >= gap).mean() >= 0.93  # nominally 0.95; 600 runs tell it to within 0.018
    assert (limits.lower <= gap).mean() >= 0.93


def a_gate(require: str, **more: object) -> GateSpec:
    content = {"metric": "demographic_parity_difference", "by": ["sex"], "within": ["department"], "require": require}
    return GateSpec.model_validate({**content, **more})


def judged(state: CountState, gate: GateSpec, **settings: object) -> GateOutcome:
    evaluation = EvaluationSpec.model_validate({"groupings": [["sex"]], "control": ["department"], **settings})
    return evaluate_gates(state, [gate], evaluation)[0]


def test_a_gate_within_departments_passes_where_the_one_over_all_rows_fails() -> None:
    state = admissions()
    within = judged(state, a_gate("<= 0.05"))
    over_all = judged(state, GateSpec(metric="demographic_parity_difference", by=("sex",), require="<= 0.05"))
    assert (within.outcome, over_all.outcome) == (Outcome.PASS, Outcome.FAIL)
    assert within.value == pytest.approx(abs(risk_difference(men_against_women()).value or 0), rel=1e-12)
    assert within.within == ("department",)
    assert within.id == "demographic_parity_difference-sex-within-department"


def test_a_gate_within_strata_is_told_everywhere() -> None:
    gates = [a_gate("<= 0.05"), a_gate("<= 0.01", id="strict"), a_gate("<= 0.02", id="point", evidence="point")]
    evaluation = EvaluationSpec(groupings=(("sex",),), control=("department",), correction="holm")
    report = build_report(admissions(), provenance=a_provenance(n_expected=4526), evaluation=evaluation, gates=gates)
    jsonschema.validate(report, report_schema())
    assert [gate["within"] for gate in report["gates"]] == [["department"]] * 3
    assert report["gates"][0]["p_value"] < 0.05
    page = render_page(report)
    assert "by sex, within department: at most 0.05" in page
    assert "sex within department" in render_profile(report, "model_card")[0].decode()


def test_groups_that_share_too_few_rows_decide_nothing() -> None:
    attributes = (Attribute(name="sex", levels=("men", "women")), Attribute(name="department", levels=("A", "B")))
    state = CountState(attributes=attributes, classes=("no", "yes"))
    codes = [[0, 0]] * 100 + [[1, 1]] * 100 + [[1, 0]] * 10  # women are in A hardly ever, men never in B
    state.update(codes, [0] * 210, [0, 1] * 105, record_hashes=np.arange(210))
    few = judged(state, a_gate("<= 0.9"))
    assert few.outcome is Outcome.INCONCLUSIVE
    assert "no two groups have 30 rows each in strata with rows of both: sex=men against sex=women" in few.why
    enough = judged(state, a_gate("<= 0.9"), min_support=10)
    assert enough.outcome is Outcome.PASS
    assert "1 of 2 strata tell nothing" in enough.why


def test_of_three_groups_the_two_farthest_apart_decide() -> None:
    attributes = (Attribute(name="sex", levels=("a", "b", "c")), Attribute(name="department", levels=("A", "B")))
    state = CountState(attributes=attributes, classes=("no", "yes"))
    for group, selected in enumerate((20, 50, 80)):
        for department in range(2):
            predictions = np.arange(100) < selected
            codes = np.tile([group, department], (100, 1))
            state.update(codes, [0] * 100, predictions.astype(int), record_hashes=np.arange(100) + state.n)
    found = judged(state, a_gate(">= 0.48"))
    assert (found.value, found.outcome) == (pytest.approx(0.6), Outcome.PASS)


@pytest.mark.parametrize(
    ("gate", "control", "named"),
    [
        ({"within": ["age"]}, ["department"], "looks within 'age', which evaluation.control does not list"),
        ({"within": ["department"]}, [], "looks within 'department', which evaluation.control does not list"),
    ],
)
def test_a_stratum_that_is_not_declared_is_refused_with_the_document(
    gate: dict[str, object], control: list[str], named: str
) -> None:
    content = {
        "evaluation": {"groupings": [["sex"]], "control": control},
        "gates": [{"metric": "demographic_parity_difference", "by": ["sex"], "require": "<= 0.1", **gate}],
    }
    with pytest.raises(BadSpec, match=named):
        from_mapping(PredictionsSpec, content)
    experiment = {"name": "x", "workload": "tabular_mlp", "data": {"uri": "d.csv", "target": "y", "sensitive": ["sex"]}}
    with pytest.raises(BadSpec, match=named):
        from_mapping(ExperimentSpec, {**experiment, **content})


@pytest.mark.parametrize(
    ("gate", "task", "named"),
    [
        (a_gate("<= 0.1", metric="accuracy_score_difference"), "binary", "is not compared within strata"),
        (a_gate("<= 0.1", within=["sex"]), "binary", "cannot be compared within it as well"),
        (a_gate("<= 0.1"), "multiclass", "those of two classes"),
        (a_gate("<= 0.1", metric="energy_kwh", by=[]), "binary", "nothing to do with strata"),
    ],
)
def test_gates_that_cannot_be_within_strata_are_refused(gate: GateSpec, task: Task, named: str) -> None:
    problem = problem_with_gate(gate, task=task, attributes=["sex", "department"], asked={})
    assert problem is not None
    assert named in problem


def test_more_comparisons_than_a_gate_can_make_in_seconds_are_not_measured() -> None:
    levels = tuple(f"g{group}" for group in range(202))
    attributes = (Attribute(name="sex", levels=levels), Attribute(name="department", levels=("A", "B")))
    state = CountState(attributes=attributes, classes=("no", "yes"))
    codes = np.array([(group, stratum) for group in range(202) for stratum in (0, 1)])
    labels = np.arange(len(codes)) % 2
    state.update(codes, labels, labels, record_hashes=np.arange(len(codes)))
    outcome = judged(state, a_gate("<= 0.9", within=("department",)))
    assert outcome.outcome is Outcome.INCONCLUSIVE
    assert "20,301 pairs of groups in 2 strata make 40,602 comparisons, and 20,000 can be made" in outcome.why


def test_weighted_rows_are_not_looked_at_within_strata() -> None:
    state = CountState(
        attributes=[Attribute(name="sex", levels=("a", "b")), Attribute(name="department", levels=("A",))],
        classes=("no", "yes"),
        has_weights=True,
    )
    state.update([[0, 0], [1, 0]] * 50, [0, 1] * 50, [0, 1] * 50, weights=[1] * 100, record_hashes=np.arange(100))
    found = judged(state, a_gate("<= 0.9"))
    assert (found.outcome, "weights" in found.why) == (Outcome.INCONCLUSIVE, True)

"""What the measurements must prove: pass, fail, or too little known to say."""

import pytest

from fairlead.evaluation import CountState, GateOutcome, Outcome, evaluate_gates, overall_outcome, problem_with_gate
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import Table, example_state, state_of_rows, state_of_tables

HONEST = {"F": (540, 90, 110, 260), "M": (480, 150, 80, 290)}  # selection rates .35 and .44
SMALL_THIRD = {**HONEST, "X": (8, 4, 2, 6)}
WITHOUT_POSITIVES = {**HONEST, "X": (60, 40, 0, 0)}


def decide(
    tables: dict[str, Table], metric: str, require: str, *, evidence: str | None = None, **settings: object
) -> GateOutcome:
    by = () if metric in ("accuracy_score", "count", "true_positive_rate") else ("group",)
    gate = GateSpec.model_validate({"metric": metric, "by": by, "require": require, "evidence": evidence})
    return evaluate_gates(state_of_tables(tables), [gate], EvaluationSpec.model_validate(settings))[0]


@pytest.mark.parametrize(
    ("metric", "require", "evidence", "outcome"),
    [
        # the bound that must be proven meets the limit
        ("demographic_parity_difference", "<= 0.30", None, "pass"),
        ("demographic_parity_ratio", ">= 0.60", None, "pass"),
        ("accuracy_score", ">= 0.70", None, "pass"),
        ("accuracy_score_group_min", ">= 0.70", "lower_bound", "pass"),
        ("false_positive_rate_group_max", "<= 0.30", None, "pass"),
        ("equalized_odds_difference", "<= 0.20", None, "pass"),
        ("equalized_odds_mean_difference", "<= 0.20", None, "pass"),
        # the opposite bound violates it
        ("demographic_parity_difference", "<= 0.01", None, "fail"),
        ("demographic_parity_ratio", ">= 0.99", None, "fail"),
        ("accuracy_score", ">= 0.90", None, "fail"),
        ("accuracy_score_group_min", ">= 0.90", None, "fail"),
        # neither
        ("demographic_parity_difference", "<= 0.10", None, "inconclusive"),
        ("demographic_parity_ratio", ">= 0.80", None, "inconclusive"),
        ("accuracy_score", ">= 0.78", None, "inconclusive"),
        # the value alone
        ("demographic_parity_difference", "<= 0.10", "point", "pass"),
        ("demographic_parity_difference", "<= 0.08", "point", "fail"),
        ("accuracy_score", ">= 0.785", "point", "pass"),
        ("accuracy_score", "> 0.785", "point", "fail"),
        ("count", ">= 2000", None, "pass"),
        ("count", "> 2000", None, "fail"),
        # statistics without bounds prove nothing but their value
        ("treatment_equality_difference", "<= 0.9", None, "inconclusive"),
        ("matthews_corrcoef_difference", "<= 0.9", "point", "pass"),
    ],
)
def test_a_gate_compares_what_its_evidence_says(metric: str, require: str, evidence: str | None, outcome: str) -> None:
    assert decide(HONEST, metric, require, evidence=evidence).outcome == outcome


@pytest.mark.parametrize(
    ("tables", "metric", "require", "settings", "outcome"),
    [
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.30", {}, "inconclusive"),
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.30", {"low_support": "exclude"}, "pass"),
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.30", {"min_support": 20}, "inconclusive"),
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.50", {"min_support": 20}, "pass"),
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.01", {}, "fail"),
        (SMALL_THIRD, "demographic_parity_difference", "<= 0.01", {"low_support": "exclude"}, "fail"),
        (WITHOUT_POSITIVES, "equal_opportunity_difference", "<= 0.30", {}, "inconclusive"),
        (WITHOUT_POSITIVES, "equal_opportunity_difference", "<= 0.30", {"low_support": "exclude"}, "pass"),
        (WITHOUT_POSITIVES, "equalized_odds_difference", "<= 0.90", {}, "inconclusive"),
        ({"F": HONEST["F"]}, "demographic_parity_difference", "<= 0.90", {}, "inconclusive"),
        ({"F": (9, 0, 0, 1), "M": (9, 1, 0, 0)}, "demographic_parity_difference", "<= 0.99", {}, "inconclusive"),
        ({"F": (9, 0, 0, 1), "M": (9, 1, 0, 0)}, "accuracy_score", ">= 0.1", {}, "inconclusive"),
        ({"F": (0, 0, 0, 0)}, "accuracy_score", ">= 0.1", {}, "inconclusive"),
        ({"F": (50, 0, 0, 0)}, "true_positive_rate", ">= 0.0", {"min_support": 1}, "inconclusive"),
    ],
)
def test_small_and_valueless_groups_never_help_a_gate_to_pass(
    tables: dict[str, Table], metric: str, require: str, settings: dict[str, object], outcome: str
) -> None:
    assert decide(tables, metric, require, **settings).outcome == outcome


def test_excluded_groups_are_named() -> None:
    found = decide(SMALL_THIRD, "demographic_parity_difference", "<= 0.30", low_support="exclude")
    assert found.excluded == ("group=X",)
    assert "group=X" in found.why


@pytest.mark.parametrize("require", [">= 0.80", ">= 0.8", ">= 8e-1"])
def test_four_fifths_exactly_is_enough(require: str) -> None:
    tables = {"a": (2, 3, 0, 0), "b": (5, 15, 0, 0)}
    found = decide(tables, "impact_ratio", require, evidence="point", min_support=1)
    assert found.outcome == "pass"
    assert decide(tables, "impact_ratio", "> 0.8", evidence="point", min_support=1).outcome == "fail"


def test_rows_needed_settle_the_gate_when_they_come() -> None:
    tables = {"F": (540, 90, 90, 280), "M": (480, 150, 80, 290)}  # .37 and .44
    found = decide(tables, "demographic_parity_difference", "<= 0.10")
    assert (found.outcome, found.rows_needed_per_group) == (
        Outcome.INCONCLUSIVE,
        1431,
    )
    assert found.bound == pytest.approx(0.1058, abs=5e-5)
    assert found.lower95 == pytest.approx(0.0270, abs=5e-5)
    for rows, outcome in ((1500, "pass"), (1300, "inconclusive")):
        scaled = {
            "F": (rows - round(0.37 * rows), round(0.37 * rows), 0, 0),
            "M": (rows - round(0.44 * rows), round(0.44 * rows), 0, 0),
        }
        assert decide(scaled, "demographic_parity_difference", "<= 0.10").outcome == outcome


def test_rows_needed_count_rows_and_not_only_positives() -> None:
    half = dict.fromkeys("ab", (100, 100, 20, 80))
    tenth = dict.fromkeys("ab", (900, 900, 20, 80))
    needed = [decide(t, "equal_opportunity_difference", "<= 0.05").rows_needed_per_group for t in (half, tenth)]
    assert needed[0] is not None
    assert needed[1] == pytest.approx(needed[0] / 3 * 19, rel=0.01)


def test_no_number_of_rows_decides_a_value_on_the_limit() -> None:
    found = decide({"a": (50, 50, 0, 0), "b": (60, 40, 0, 0)}, "demographic_parity_difference", "<= 0.1")
    assert (found.outcome, found.rows_needed_per_group) == (Outcome.INCONCLUSIVE, None)


@pytest.mark.parametrize(
    ("metric", "by", "require", "evidence", "message"),
    [
        ("demografic_parity_difference", ["sex"], "<= 0.1", None, "did you mean 'demographic_parity_difference'"),
        ("demographic_parity_difference", [], "<= 0.1", None, "say which with by"),
        ("demographic_parity_difference", ["race"], "<= 0.1", None, "'race' is not a sensitive attribute"),
        ("accuracy_score", ["sex"], ">= 0.1", None, "accuracy_score_group_min"),
        ("accuracy_score", [], ">= 0.1", "upper_bound", "ask for lower_bound"),
        ("zero_one_loss", [], "<= 0.1", "lower_bound", "ask for upper_bound"),
    ],
)
def test_a_gate_that_can_never_be_evaluated_says_what_to_do(
    metric: str, by: list[str], require: str, evidence: str | None, message: str
) -> None:
    gate = GateSpec.model_validate({"metric": metric, "by": by, "require": require, "evidence": evidence})
    assert message in (problem_with_gate(gate, task="binary", attributes=["sex"]) or "")
    outcome = evaluate_gates(example_state(), [gate], EvaluationSpec())[0]
    assert outcome.outcome is Outcome.INCONCLUSIVE


def test_a_sound_gate_has_no_problem() -> None:
    gate = GateSpec(metric="demographic_parity_difference", by=("sex",), require="<= 0.1")
    assert problem_with_gate(gate, task="multiclass", attributes=["sex"]) is None


def test_without_scores_a_gate_on_their_order_is_not_measured() -> None:
    gates = [
        GateSpec(metric="roc_auc_score", require=">= 0.5"),
        GateSpec(metric="roc_auc_score_difference", by=("sex",), require="<= 0.5"),
    ]
    for state, outcome in ((example_state(has_scores=False), "inconclusive"), (example_state(), "pass")):
        assert [found.outcome for found in evaluate_gates(state, gates, EvaluationSpec())] == [outcome] * 2


def test_a_multiclass_gate_looks_at_the_worst_class() -> None:
    labels = [0, 1, 2] * 60
    predictions = [0, 1, 1, 0, 1, 2] * 30
    groups = (["a"] * 3 + ["b"] * 3) * 30
    state = state_of_rows(labels, predictions, groups={"group": groups}, num_classes=3)
    gates = [GateSpec(metric="equal_opportunity_difference", by=("group",), require="<= 0.5")]
    assert evaluate_gates(state, gates, EvaluationSpec())[0].outcome == "fail"
    assert evaluate_gates(state, gates, EvaluationSpec())[0].value == 1


@pytest.mark.parametrize(
    ("outcomes", "together"),
    [
        ([], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail", "pass"], "fail"),
    ],
)
def test_one_failure_decides_and_doubt_comes_next(outcomes: list[str], together: str) -> None:
    limits = {"pass": "<= 0.3", "fail": "<= 0.01", "inconclusive": "<= 0.10"}
    gates = [
        GateSpec(id=f"gate{index}", metric="demographic_parity_difference", by=("group",), require=limits[outcome])
        for index, outcome in enumerate(outcomes)
    ]
    state: CountState = state_of_tables(HONEST)
    assert overall_outcome(evaluate_gates(state, gates, EvaluationSpec())) == together

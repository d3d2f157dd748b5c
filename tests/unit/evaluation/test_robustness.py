"""Counts under conditions: what the report says of them, and what gates make of them."""

from typing import Any

import jsonschema
import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from fairlead.evaluation import CountState, Outcome, build_report, evaluate_gates, flat_metrics, report_schema
from fairlead.evaluation.page import render_page
from fairlead.evaluation.robustness import rows_judged_otherwise
from fairlead.spec import EvaluationSpec, GateSpec, ProbesSpec
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute

PROBES = ProbesSpec.model_validate(
    {"robustness": [{"method": "pgd", "eps": 0.1}, {"method": "pgd", "eps": 0.3}, {"method": "noise", "eps": 0.5}]}
)
EVALUATION = EvaluationSpec(groupings=(("sex",),))
ROWS = 1200


def rows() -> dict[str, Any]:
    generator = np.random.default_rng(5)
    sex = generator.integers(0, 2, ROWS)
    labels = generator.integers(0, 2, ROWS)
    clean = np.where(generator.random(ROWS) < 0.9, labels, 1 - labels)
    return {"sex": sex, "labels": labels, "clean": clean, "draws": generator.random(ROWS)}


def counted(predictions: np.ndarray, *, clean: np.ndarray | None = None) -> CountState:
    known = rows()
    state = CountState(
        attributes=[Attribute(name="sex", levels=("female", "male"))],
        classes=("no", "yes"),
        has_champion=clean is not None,
    )
    state.update(known["sex"][:, None], known["labels"], predictions, record_hashes=np.arange(ROWS), champion=clean)
    return state


def under(share_female: float, share_male: float) -> CountState:
    """That share of the rows that were right are wrong now."""
    known = rows()
    share = np.where(known["sex"] == 0, share_female, share_male)
    is_lost = (known["draws"] < share) & (known["clean"] == known["labels"])
    return counted(np.where(is_lost, 1 - known["labels"], known["clean"]), clean=known["clean"])


def conditions() -> dict[str, CountState]:
    return {"pgd_linf_0.1": under(0.1, 0.1), "pgd_linf_0.3": under(0.6, 0.2), "noise_0.5": under(0.0, 0.0)}


def report_of(*gates: GateSpec, found: dict[str, CountState] | None = None) -> dict[str, Any]:
    return build_report(
        counted(rows()["clean"]),
        provenance=a_provenance(n_expected=ROWS),
        evaluation=EVALUATION,
        gates=gates,
        probes=PROBES,
        conditions=conditions() if found is None else found,
    )


def test_every_condition_is_reported_with_accuracy_by_group_and_what_is_lost() -> None:
    report = report_of()
    jsonschema.validate(report, report_schema())
    assert [one["condition"] for one in report["robustness"]] == ["pgd_linf_0.1", "pgd_linf_0.3", "noise_0.5"]
    worst, known = report["robustness"][1], rows()
    by_sex = {group["key"].get("sex"): group for group in worst["groups"]}
    state = conditions()["pgd_linf_0.3"]
    assert by_sex[None]["accuracy_score"]["num"] == int(state.counts[:, 0, 0].sum() + state.counts[:, 1, 1].sum())
    assert by_sex["female"]["accuracy_score"]["value"] < by_sex["male"]["accuracy_score"]["value"]
    was_right = (known["clean"] == known["labels"]).mean()
    change = by_sex[None]["change"]
    assert change["value"] == pytest.approx(by_sex[None]["accuracy_score"]["value"] - was_right, abs=1e-12)
    assert change["method"] == "newcombe-paired"
    assert change["interval"][0] < change["value"] < change["interval"][1] < 0
    gaps = {gap["metric"]: gap for gap in worst["disparities"]}
    assert gaps["accuracy_score_difference"]["min"] == {"sex": "female"}
    assert gaps["accuracy_score_group_min"]["value"] == by_sex["female"]["accuracy_score"]["value"]
    assert "robustness" not in report["not_measured"]


def test_the_interval_of_what_is_lost_excludes_nothing_where_the_exact_paired_test_does() -> None:
    """McNemar's exact test as the oracle: 0 lies outside the interval where it is sure, and inside where it is not."""
    for name, state in conditions().items():
        lost = next(one for one in report_of()["robustness"] if one["condition"] == name)["groups"][0]["change"]
        assert state.paired is not None
        right = [[0, 0], [0, 0]]
        for label in (0, 1):
            for ours in (0, 1):
                for theirs in (0, 1):
                    right[ours == label][theirs == label] += int(state.paired[:, label, ours, theirs].sum())
        p_value = mcnemar(right, exact=True).pvalue
        assert (lost["interval"][0] > 0 or lost["interval"][1] < 0) is bool(p_value < 0.05), name


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        ({"metric": "accuracy_score", "require": ">= 0.85"}, Outcome.PASS),
        ({"metric": "accuracy_score", "require": ">= 0.85", "condition": "pgd_linf_0.3"}, Outcome.FAIL),
        ({"metric": "accuracy_score", "require": ">= 0.75", "condition": "pgd_linf_0.1"}, Outcome.PASS),
        (
            {"metric": "accuracy_score_group_min", "by": ["sex"], "require": ">= 0.5", "condition": "pgd_linf_0.3"},
            Outcome.FAIL,
        ),
        (
            {"metric": "accuracy_score_difference", "by": ["sex"], "require": "<= 0.1", "condition": "pgd_linf_0.1"},
            Outcome.PASS,
        ),
        ({"metric": "accuracy_score", "require": ">= 0.1", "condition": "fgsm_linf_9"}, Outcome.INCONCLUSIVE),
    ],
)
def test_gates_look_at_the_condition_they_name(gate: dict[str, Any], outcome: Outcome) -> None:
    asked = GateSpec.model_validate(gate)
    (found,) = evaluate_gates(counted(rows()["clean"]), [asked], EVALUATION, conditions=conditions())
    assert (found.outcome, found.condition) == (outcome, asked.condition)
    if outcome is Outcome.INCONCLUSIVE:
        assert found.why == "not measured: there are no counts under fgsm_linf_9"


def test_tracking_gets_accuracy_and_gaps_under_each_condition() -> None:
    values = flat_metrics(report_of()).values
    assert values["rai/accuracy_score/overall/under/pgd_linf_0.3"] < values["rai/accuracy_score/overall"]
    assert values["rai/accuracy_change/overall/under/noise_0.5"] == 0
    assert "rai/accuracy_score_group_min/sex/under/pgd_linf_0.1.lower95" in values


def test_a_probe_of_another_model_is_found_out() -> None:
    known = rows()
    other = known["clean"].copy()
    other[:7] = 1 - other[:7]
    assert rows_judged_otherwise(counted(known["clean"]), counted(known["clean"], clean=known["clean"])) == 0
    found = {**conditions(), "pgd_linf_0.1": counted(other, clean=other)}
    report = report_of(found=found)
    seen = report["robustness"][0]["rows_judged_otherwise"]
    assert 1 <= seen <= 7  # what moves back and forth between cells and labels cannot be seen in counts
    assert f"On {seen} rows at least" in render_page(report)


def test_the_page_says_what_was_changed_what_is_lost_and_for_whom() -> None:
    gate = GateSpec(metric="accuracy_score", require=">= 0.6", condition="pgd_linf_0.3")
    page = render_page(report_of(gate))
    for words in (
        "How it stands up to changed inputs",
        "PGD, 0.3",
        "20 steps, the worst of 2 starts",
        "by chance, against nobody",
        "Accuracy, under PGD, 0.3: at least 0.6",
        "Accuracy as the inputs change",
        "Lowest of any group",
    ):
        assert words in page, words
    assert "How it stands up" not in render_page(
        build_report(counted(rows()["clean"]), provenance=a_provenance(n_expected=ROWS), evaluation=EVALUATION)
    )


def test_a_small_group_is_hidden_here_too() -> None:
    evaluation = EVALUATION.amended(min_display=700)
    report = build_report(
        counted(rows()["clean"]),
        provenance=a_provenance(n_expected=ROWS),
        evaluation=evaluation,
        probes=PROBES,
        conditions=conditions(),
    )
    female = next(g for g in report["robustness"][1]["groups"] if g["key"] == {"sex": "female"})
    page = render_page(report)
    assert f'<span class="v">{female["accuracy_score"]["value"]:.3f}' not in page
    assert "not shown, to protect a small group" in page[page.index("How it stands up") :]

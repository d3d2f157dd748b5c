"""What mitigation changed: values of two reports on the same rows, or the reason why there are none."""

import re
from typing import Any

import jsonschema
import numpy as np
import pytest

from fairlead.evaluation import Baseline, CountState, build_report, report_bytes, report_schema
from fairlead.evaluation.page import render_page
from fairlead.spec import EvaluationSpec, GateSpec, MitigationSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_rows, state_of_tables

MITIGATION = MitigationSpec(method="lagrangian", by=("group",), allowed_gap=0.01)
GATES = (
    GateSpec(id="gap", metric="demographic_parity_difference", by=("group",), require="<= 0.10"),
    GateSpec(id="hits", metric="accuracy_score", require=">= 0.60"),
)
# tn, fp, fn, tp: 1,000 rows a group; f is selected half as often before, and as often afterwards.
BEFORE = {"f": (560, 40, 140, 260), "m": (340, 260, 60, 340)}
AFTER = {"f": (450, 150, 100, 300), "m": (440, 160, 110, 290)}


def report_of(
    after: CountState,
    baseline: Baseline | None,
    *,
    mitigation: MitigationSpec = MITIGATION,
    gates: tuple[GateSpec, ...] = GATES,
    **settings: Any,
) -> dict[str, Any]:
    evaluation = EvaluationSpec.model_validate(settings)
    provenance = a_provenance(n_expected=after.n)
    report = build_report(
        after, provenance=provenance, evaluation=evaluation, gates=gates, mitigation=mitigation, baseline=baseline
    )
    jsonschema.validate(report, report_schema())
    report_bytes(report)
    return report


def a_baseline(tables: dict[str, Any]) -> Baseline:
    return Baseline(experiment="e1", state=state_of_tables(tables))


def test_values_stand_beside_those_before_and_gates_are_asked_of_both() -> None:
    section = report_of(state_of_tables(AFTER), a_baseline(BEFORE))["mitigation"]
    assert section["before"]["experiment"] == "e1"
    assert section["options"] == {"allowed_gap": 0.01, "step_size": None, "strength": None}
    assert (section["goal"], section["decides_by_group"]) == ("demographic_parity", False)
    found = {(one["metric"], tuple(one["by"])): one for one in section["comparison"]}
    gap = found["demographic_parity_difference", ("group",)]
    assert (gap["before"]["value"], gap["after"]["value"]) == (pytest.approx(0.3), pytest.approx(0.0))
    assert gap["before"]["lower95"] > 0.25
    assert gap["after"]["upper95"] < 0.05
    hits = found["accuracy_score", ()]
    assert (hits["before"]["value"], hits["after"]["value"]) == (0.75, 0.74)
    assert section["gates"] == [
        {"id": "gap", "before": "fail", "after": "pass"},
        {"id": "hits", "before": "pass", "after": "pass"},
    ]
    (women, men) = section["groups"][:2]
    assert (women["key"], women["n"]) == ({"group": "f"}, 1000)
    assert women["metrics"]["selection_rate"] == {"before": 0.3, "after": 0.45}
    assert men["metrics"]["true_positive_rate"] == {"before": 0.85, "after": 0.725}


def test_the_before_column_is_what_the_other_experiments_own_report_says() -> None:
    baseline = a_baseline(BEFORE)
    assert baseline.state is not None
    section = report_of(state_of_tables(AFTER), baseline)["mitigation"]
    evaluation = EvaluationSpec(groupings=(("group",),))
    own = build_report(baseline.state, provenance=a_provenance(n_expected=2000), evaluation=evaluation, gates=GATES)
    gaps = {entry["metric"]: entry for entry in own["disparities"]}
    for one in section["comparison"]:
        if one["by"]:
            assert one["before"] == {name: gaps[one["metric"]][name] for name in ("value", "lower95", "upper95")}


def test_groups_of_the_method_are_reported_though_the_spec_asks_for_no_grouping() -> None:
    report = report_of(state_of_tables(AFTER), None, groupings=())
    assert ["group"] in [group["by"] for group in report["groups"]]


def test_groups_of_the_method_are_compared_though_the_spec_controls_for_them() -> None:
    section = report_of(state_of_tables(AFTER), a_baseline(BEFORE), groupings="all", control=["group"])["mitigation"]
    assert "demographic_parity_difference" in {one["metric"] for one in section["comparison"]}
    assert [group["key"] for group in section["groups"]][:2] == [{"group": "f"}, {"group": "m"}]


def test_a_metric_that_a_gate_spells_differently_is_compared_once() -> None:
    gates = (GateSpec(metric="recall_score_difference", by=("group",), require="<= 0.10"),)
    section = report_of(state_of_tables(AFTER), a_baseline(BEFORE), gates=gates)["mitigation"]
    metrics = [one["metric"] for one in section["comparison"]]
    assert metrics.count("true_positive_rate_difference") == 1
    assert len(metrics) == len(set(metrics))


def test_losses_are_drawn_on_a_scale_of_their_own() -> None:
    rows = np.arange(2000)
    sure, unsure = np.where(rows % 2 == 1, 0.99, 0.01), np.full(2000, 0.0001)  # unsure of half of them by 9.2
    groups = {"group": ["f" if row % 4 < 2 else "m" for row in rows]}
    after, before = (state_of_rows(rows % 2, scores > 0.5, groups=groups, scores=scores) for scores in (sure, unsure))
    gates = (GateSpec(metric="log_loss", require="<= 0.7"),)
    page = render_page(report_of(after, Baseline(experiment="e1", state=before), gates=gates))
    part = page[page.index("What was done against gaps") : page.index("How well the model does")]
    assert part.index("<th>Losses</th>") < part.index("<th>Other values</th>")
    losses = part[part.index("<th>Losses</th>") : part.index("<th>Other values</th>")]
    assert "<span>5</span>" in losses
    assert 'class="limit"' in losses


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (None, "names no experiment"),
        (Baseline(experiment="e1", why_not="it is running and has counted nothing yet"), "e1: it is running"),
        (a_baseline({"f": (560, 40, 140, 261), "m": (340, 260, 60, 339)}), "counted other rows"),
        (a_baseline({"w": (560, 40, 140, 260), "m": (340, 260, 60, 340)}), "counted other rows"),
        (a_baseline({"f": (140, 260, 560, 40), "m": (340, 260, 60, 340)}), "the same records with other labels"),
        (Baseline(experiment="e1", state=example_state()), "counted other rows"),
    ],
)
def test_where_there_is_no_before_the_report_says_why(baseline: Baseline | None, words: str) -> None:
    report = report_of(state_of_tables(AFTER), baseline)
    section = report["mitigation"]
    assert words in section["why_not_compared"]
    assert (section["before"], section["comparison"], section["groups"], section["gates"]) == (None, [], [], [])
    assert "Not compared with a model without it" in render_page(report)


def test_a_report_without_mitigation_says_nothing_of_it() -> None:
    state = state_of_tables(AFTER)
    report = build_report(state, provenance=a_provenance(n_expected=2000), evaluation=EvaluationSpec(), gates=GATES)
    assert "mitigation" not in report
    assert "against gaps" not in render_page(report)


@pytest.mark.parametrize("method", ["reweighing", "group_dro", "lagrangian", "adversarial", "thresholds"])
def test_the_page_shows_both_columns_and_says_what_was_done(method: Any) -> None:
    mitigation = MitigationSpec(method=method, by=("group",))
    report = report_of(state_of_tables(AFTER), a_baseline(BEFORE), mitigation=mitigation)
    page = render_page(report)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(headings) == len(set(headings)), "every section stands on the page once"
    for words in ("What was done against gaps", "experiment e1", "0.300 → 0.450", "✕ not met"):
        assert words in page
    assert "{goal}" not in page
    uses_groups = any("uses the group whenever it decides" in text for text in report["limitations"])
    assert uses_groups is (method == "thresholds")


def test_the_sweep_shows_no_threshold_in_use_where_each_group_has_its_own() -> None:
    state = example_state()
    reports = [
        build_report(
            state,
            provenance=a_provenance(),
            evaluation=EvaluationSpec(),
            mitigation=MitigationSpec(method=method, by=("sex",)),
        )
        for method in ("lagrangian", "thresholds")
    ]
    one, several = map(render_page, reports)
    assert "threshold in use" in one
    assert "threshold in use" not in several
    assert "If all groups had one threshold" in several


def test_multi_class_reports_are_compared_as_well() -> None:
    before, after = example_state(num_classes=4), example_state(num_classes=4)
    mitigation = MitigationSpec(method="reweighing", by=("sex",))
    report = build_report(
        after,
        provenance=a_provenance(),
        evaluation=EvaluationSpec(),
        mitigation=mitigation,
        baseline=Baseline(experiment="e1", state=before),
    )
    jsonschema.validate(report, report_schema())
    compared = {one["metric"] for one in report["mitigation"]["comparison"]}
    assert {"accuracy_score", "accuracy_score_difference", "demographic_parity_difference"} <= compared
    assert all(one["before"] == one["after"] for one in report["mitigation"]["comparison"])
    assert "What was done against gaps" in render_page(report)


def test_a_small_group_is_hidden_in_the_comparison_too() -> None:
    tables = {"f": (4, 1, 1, 1), "m": (340, 260, 60, 340), "x": (300, 300, 60, 340)}
    page = render_page(report_of(state_of_tables(tables), a_baseline(tables)))
    part = page[page.index("What was done against gaps") : page.index("How well the model does")]
    assert "not shown, to protect a small group" in part
    assert "0.286 → 0.286" not in part  # 2 of 7 selected

"""Reports of tiny regressions and rankings: whatever is missing, they validate, give reasons, and can be shown."""

import jsonschema
import numpy as np
import pytest

from fairlead.evaluation import MomentState, RankState, build_report, read_state, report_bytes, report_schema
from fairlead.evaluation.page import render_page
from fairlead.evaluation.profiles import render_profile
from fairlead.evaluation.ranking import places
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance
from fairlead.workload import Attribute

ATTRIBUTES = (Attribute(name="a", levels=("x", "y", "<b>")), Attribute(name="b", levels=("u",)))
GATES = {
    "regression": {
        "mean_squared_error_group_max": "<= 1",
        "mean_absolute_error_difference": "<= 1",
        "mean_absolute_error_ratio": ">= 0.5",
        "mean_error_group_min": ">= -1",
    },
    "ranking": {
        "exposure_ratio": ">= 0.8",
        "exposure_difference": "<= 0.1",
        "exposure_per_relevance_ratio": ">= 0.1",
        "ndcg_score_difference": "<= 1",
    },
    "quality": {
        "mean_quality_difference": "<= 0.5",
        "mean_quality_group_min": ">= 0.5",
    },
}


def tiny(task: str, random: np.random.Generator) -> MomentState | RankState:
    """Up to thirty rows, some alike, some without a target, a prediction, a group or a list of their own."""
    rows = int(random.integers(1, 30))
    codes = np.stack([random.integers(0, 4, rows), random.integers(0, 2, rows)], axis=1)
    if task == "regression":
        target = random.choice([0.0, 1.0, -3.0, 1e9, np.nan], rows)
        predicted = target + random.choice([0.0, 0.0, 1e-9, 5.0, np.nan], rows)
        moments = MomentState(attributes=ATTRIBUTES, low=-2e9, high=2e9)
        moments.update(codes, target, predicted, record_hashes=np.arange(rows))
        return moments
    if task == "quality":
        graded = MomentState(attributes=ATTRIBUTES, low=0, high=1, measure="overlap <b>", better="higher")
        graded.update_quality(codes, random.choice([0.0, 0.3, 1.0, np.nan], rows), record_hashes=np.arange(rows))
        return graded
    queries, relevance = random.integers(0, 6, rows), random.choice([0.0, 1.0, 2.0, np.nan], rows)
    first, ties = places(random.integers(0, 3, rows).astype(float), queries)
    ranked = RankState(attributes=ATTRIBUTES)
    ranked.update(codes, first, relevance, queries, ties=ties, record_hashes=np.arange(rows))
    return ranked


@pytest.mark.parametrize("task", GATES)
@pytest.mark.parametrize("seed", range(20))
def test_a_report_of_few_rows_has_a_value_or_a_reason_everywhere(task: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    state = tiny(task, random)
    gates = [GateSpec(metric=metric, by=("a",), require=limit) for metric, limit in GATES[task].items()]
    gates.append(GateSpec(metric="count", require=">= 3"))
    correction = ("none", "holm")[seed % 2]
    evaluation = EvaluationSpec(groupings="all", min_support=1 + 4 * (seed % 3), correction=correction)
    report = build_report(state, provenance=a_provenance(n_expected=state.book.n), evaluation=evaluation, gates=gates)
    jsonschema.validate(report, report_schema())
    report_bytes(report)  # no NaN, no infinity
    assert "<b>" not in render_page(report).split("Who was measured")[1].split("</section>")[0]
    for profile in ("model_card", "eu_ai_act_annex_iv", "cyclonedx"):
        assert render_profile(report, profile)[0]
    entries = [entry for group in report["groups"] for entry in group["metrics"].values()] + report["disparities"]
    assert all((entry["value"] is None) == ("reason" in entry) for entry in entries)
    assert all(gate["value"] is not None for gate in report["gates"] if gate["outcome"] == "pass")
    assert read_state(state.to_bytes()).digest() == state.digest()

"""Permutation importance from counts: its interval, its order, and who stays hidden."""

from typing import Any

import pytest

from fairlead.evaluation import Measurements, build_report
from fairlead.evaluation.alternatives import paired_newcombe_interval
from fairlead.evaluation.explanations import explanations_section
from fairlead.evaluation.page import render_page
from fairlead.spec import EvaluationSpec, ExplanationsSpec
from fairlead.testing.evaluation import a_provenance, example_state

FOUND: dict[str, Any] = {
    "n": 100,
    "groups": [
        {"by": [], "key": {}},
        {"by": ["town"], "key": {"town": "small"}},
        {"by": ["town"], "key": {"town": "large"}},
        {"by": ["town"], "key": {"town": "__unknown__"}},
    ],
    "columns": [
        {"name": "noise", "counts": [[78, 2, 2, 18], [4, 0, 0, 1], [74, 2, 2, 17], [0, 0, 0, 0]]},
        {"name": "income", "counts": [[55, 25, 5, 15], [2, 2, 0, 1], [53, 23, 5, 14], [0, 0, 0, 0]]},
    ],
}


def test_what_is_lost_is_a_paired_difference_and_the_largest_comes_first() -> None:
    first, second = explanations_section(ExplanationsSpec(), FOUND)["columns"]
    assert [first["name"], second["name"]] == ["income", "noise"]
    overall = first["groups"][0]
    assert overall["lost"] == pytest.approx(0.2)
    expected = paired_newcombe_interval(55, 25, 5, 15)
    assert overall["interval"] == pytest.approx([float(expected.lower), float(expected.upper)])
    assert second["groups"][0]["lost"] == 0
    assert first["groups"][3]["lost"] is None


def test_counts_that_lack_a_row_are_refused() -> None:
    lacking = {**FOUND, "n": 101}
    with pytest.raises(ValueError, match="noise does not count every row"):
        explanations_section(ExplanationsSpec(), lacking)


def test_a_small_group_is_hidden_though_no_grouping_compares_it() -> None:
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(),
        measurements=Measurements(asked={"explanations": ExplanationsSpec()}, found={"explanations": FOUND}),
    )
    page = render_page(report)
    assert "What the model goes by" in page
    assert "small +" not in page
    assert "large +" not in page  # else the small one could be had by subtraction


@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_intervals_and_bounds_are_at_the_confidence_of_the_spec_and_the_page_says_so(confidence: float) -> None:
    report = build_report(
        example_state(),
        provenance=a_provenance(),
        evaluation=EvaluationSpec(confidence=confidence),
        measurements=Measurements(asked={"explanations": ExplanationsSpec()}, found={"explanations": FOUND}),
    )
    overall = report["explanations"]["columns"][0]["groups"][0]
    two_sided = paired_newcombe_interval(55, 25, 5, 15, confidence=confidence)
    assert overall["interval"] == pytest.approx([float(two_sided.lower), float(two_sided.upper)])
    one_sided = paired_newcombe_interval(55, 25, 5, 15, confidence=2 * confidence - 1)
    assert (overall["lower95"], overall["upper95"]) == pytest.approx((float(one_sided.lower), float(one_sided.upper)))
    assert f"two-sided {100 * confidence:g} % interval, paired" in render_page(report)
    assert any(f"at confidence {confidence:g}" in text for text in report["limitations"])

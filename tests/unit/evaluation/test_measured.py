"""Numbers that no count holds: their sections, their gates, and what stands there where they were not measured."""

import math
import re
from typing import Any

import jsonschema
import pytest

from fairlead.evaluation import (
    Measurements,
    build_report,
    evaluate_gates,
    flat_metrics,
    nearest_metric,
    problem_with_gate,
    read_measurements,
    report_schema,
)
from fairlead.evaluation.measured import MAX_SECTION_BYTES, METRICS, measurements_bytes
from fairlead.evaluation.page import render_page
from fairlead.spec import Document, EnergySpec, EvaluationSpec, GateSpec, PrivacySpec
from fairlead.testing.evaluation import a_provenance, example_state

HERE = EnergySpec(intensity_g_per_kwh=400)


def a_node(**changes: Any) -> dict[str, Any]:
    """1.5 kWh in one hour, as a tracker writes it."""
    parts = {
        "cpu": {"kwh": 1.0, "is_measured": True, "how": "RAPL"},
        "ram": {"kwh": 0.5, "is_measured": False, "how": "watts by size"},
    }
    plain = {"node": "n1", "attempt": 1, "group": 1, "ranks": 2, "duration_s": 3600, "is_final": True, "parts": parts}
    return {**plain, "library": "codecarbon 3.3.2", **changes}


def of_energy(*nodes: dict[str, Any], asked: EnergySpec = HERE) -> Measurements:
    return Measurements(asked={"energy": asked}, found={"energy": list(nodes)})


def report_of(measurements: Measurements, *gates: GateSpec) -> dict[str, Any]:
    report = build_report(
        example_state(),
        provenance=a_provenance(n_expected=example_state().n),
        evaluation=EvaluationSpec(),
        gates=gates,
        measurements=measurements,
    )
    jsonschema.validate(report, report_schema())
    assert "<html" in render_page(report)
    return report


def decided(measurements: Measurements, metric: str, require: str) -> tuple[str, str]:
    (gate,) = report_of(measurements, GateSpec(metric=metric, require=require))["gates"]
    return gate["outcome"], gate["why"]


def test_the_page_shows_no_bounds_of_a_number_that_is_exact() -> None:
    gate = GateSpec(metric="energy_kwh", require="<= 10")
    page = render_page(report_of(of_energy(a_node()), gate))
    bar = page[page.index("<h2>What was required</h2>") : page.index("<h2>How well")]
    assert re.search(r"<span>[\d.]+</span>", bar)
    assert re.search(r"\([\d.]+ to [\d.]+\)", bar) is None


def test_nodes_attempts_and_worker_groups_add_up() -> None:
    found = of_energy(
        a_node(), a_node(attempt=2, group=1, is_final=False), a_node(attempt=2, group=2), a_node(node="n2")
    )
    section = report_of(found)["energy"]
    assert section["metrics"]["energy_kwh"]["value"] == pytest.approx(6.0)
    assert section["metrics"]["co2e_kg"]["value"] == pytest.approx(2.4)
    assert [(node["node"], node["kwh"], node["attempts"]) for node in section["nodes"]] == [
        ("n1", 4.5, [1, 2]),
        ("n2", 1.5, [1]),
    ]
    assert (section["attempts"], section["unfinished"]) == ([1, 2], 1)
    assert [(part["part"], part["measured"]) for part in section["parts"]] == [("cpu", True), ("ram", False)]
    assert not section["measured"]  # one part of it is a model


@pytest.mark.parametrize(
    ("require", "outcome", "why"),
    [
        ("<= 2", "pass", "the value 1.5 meets <= 2"),
        ("<= 1.5", "pass", "the value 1.5 meets <= 1.5"),
        ("< 1.5", "fail", "the value 1.5 does not meet < 1.5"),
    ],
)
def test_a_plain_number_is_exact(require: str, outcome: str, why: str) -> None:
    assert decided(of_energy(a_node()), "energy_kwh", require) == (outcome, why)


@pytest.mark.parametrize(
    ("measurements", "why"),
    [
        (Measurements(asked={"energy": HERE}), "not measured: the workers gave nothing"),
        (of_energy(a_node(), a_node(node="n2", parts={}, why_not="codecarbon is not installed")), "n2: codecarbon is"),
        (of_energy(), "not measured: what the workers gave cannot be read: no node said anything"),
        (of_energy({"node": "n1"}), "not measured: what the workers gave cannot be read"),
        (Measurements(asked={"energy": HERE}, found={"energy": "a lot"}), "what the workers gave cannot be read"),
    ],
)
def test_what_was_not_measured_decides_nothing_and_says_why(measurements: Measurements, why: str) -> None:
    outcome, told = decided(measurements, "energy_kwh", "<= 2")
    assert outcome == "inconclusive"
    assert why in told
    assert "energy" in report_of(measurements)["not_measured"]


def test_without_an_intensity_there_is_no_co2e() -> None:
    section = report_of(of_energy(a_node(), asked=EnergySpec()))["energy"]
    assert section["metrics"]["co2e_kg"]["value"] is None
    assert "states no intensity" in section["metrics"]["co2e_kg"]["reason"]
    assert section["metrics"]["energy_kwh"]["value"] == 1.5


def test_the_intensity_of_a_country_is_the_one_that_the_tracker_knows() -> None:
    germany = EnergySpec(country="DEU")
    known = a_node(intensity_g_per_kwh=380.0, intensity_source="codecarbon's table")
    section = report_of(of_energy(known, asked=germany))["energy"]
    assert section["intensity"] == {"g_per_kwh": 380.0, "source": "codecarbon's table", "country": "DEU"}
    assert section["metrics"]["co2e_kg"]["value"] == pytest.approx(0.57)
    unknown = report_of(of_energy(a_node(), asked=germany))["energy"]["metrics"]["co2e_kg"]
    assert unknown["reason"] == "no intensity is known for DEU: give energy.intensity_g_per_kwh"


@pytest.mark.parametrize(
    ("gate", "asked", "words"),
    [
        ({"metric": "epsilon", "require": "<= 8"}, None, "predictions made elsewhere do not tell it"),
        ({"metric": "epsilon", "require": "<= 8"}, {}, "only measured where the spec asks for it: add privacy"),
        ({"metric": "energy_kwh", "require": "<= 8"}, {}, "add energy"),
        ({"metric": "co2e_kg", "require": "<= 8"}, {"energy": EnergySpec()}, "CO2e needs a stated intensity"),
        ({"metric": "energy_kwh", "require": ">= 8"}, {"energy": EnergySpec()}, "smaller is better"),
        ({"metric": "energy_kwh", "by": ["sex"], "require": "<= 8"}, {"energy": EnergySpec()}, "drop by"),
        (
            {"metric": "energy_kwh", "require": "<= 8", "evidence": "lower_bound"},
            {"energy": EnergySpec()},
            "upper_bound",
        ),
        ({"metric": "energy_kwh", "require": "<= 8"}, {"energy": EnergySpec()}, None),
        ({"metric": "co2e_kg", "require": "<= 8"}, {"energy": HERE}, None),
    ],
)
def test_a_gate_on_what_the_spec_does_not_have_measured_is_refused_at_the_door(
    gate: dict[str, Any], asked: dict[str, Document] | None, words: str | None
) -> None:
    problem = problem_with_gate(GateSpec.model_validate(gate), task="binary", attributes=["sex"], asked=asked)
    assert (problem is None) if words is None else (words in (problem or ""))


def test_a_correction_leaves_exact_numbers_alone() -> None:
    state, evaluation = example_state(), EvaluationSpec(correction="holm")
    gates = [GateSpec(metric="energy_kwh", require="<= 2"), GateSpec(metric="accuracy_score", require=">= 0.1")]
    exact, counted = evaluate_gates(state, gates, evaluation, of_energy(a_node()))
    assert (exact.outcome, exact.p_value) == ("pass", None)
    assert counted.p_value is not None


def test_measured_numbers_go_to_tracking_and_are_told_apart_from_none() -> None:
    flat = flat_metrics(report_of(of_energy(a_node(), asked=EnergySpec())))
    assert flat.values["rai/energy_kwh/overall"] == 1.5
    assert "rai/co2e_kg/overall" in flat.undefined


PRIVATE = {
    "epsilon": 3.217,
    "delta": 1e-5,
    "noise_multiplier": 1.1,
    "max_grad_norm": 1.0,
    "sample_rate": 0.01,
    "steps": 9380,
    "records": 30_000,
    "library": "opacus 1.6.0",
}


def test_the_page_says_what_privacy_and_energy_mean() -> None:
    asked = {"privacy": PrivacySpec(noise_multiplier=1.1), "energy": EnergySpec()}
    nodes = [a_node(is_shared=True), a_node(attempt=2, is_final=False)]
    page = render_page(report_of(Measurements(asked=asked, found={"privacy": PRIVATE, "energy": nodes})))
    for words in (
        "any outcome of the training is at most 25 times as likely",
        "30,000 rows",
        "3 kWh",
        "about 30 times the electricity that boils a litre of water",
        "2 attempts are added up",
        "Some are shared with others",
        "The share of memory is an estimate",
        "No emissions are given: the spec states no intensity",
        "Some meters were cut off",
    ):
        assert words in page, words


def test_the_page_says_why_a_section_is_empty() -> None:
    asked = {"privacy": PrivacySpec(noise_multiplier=1.1), "energy": EnergySpec()}
    page = render_page(report_of(Measurements(asked=asked, why_not="nobody looked")))
    assert page.count("Not measured: nobody looked.") == 2


@pytest.mark.parametrize(
    "change", [{"delta": 1e-4}, {"max_grad_norm": 2.0}, {"noise_multiplier": 0.1}, {"epsilon": math.inf}, {"steps": -1}]
)
def test_privacy_other_than_asked_for_is_no_privacy(change: dict[str, Any]) -> None:
    asked = {"privacy": PrivacySpec(noise_multiplier=1.1)}
    found = Measurements(asked=asked, found={"privacy": {**PRIVATE, **change}})
    assert decided(found, "epsilon", "<= 8")[0] == "inconclusive"
    assert decided(Measurements(asked=asked, found={"privacy": PRIVATE}), "epsilon", "<= 8")[0] == "pass"


def test_a_misspelt_name_is_found_again() -> None:
    assert nearest_metric("epsilom", "binary") == "epsilon"
    assert all(METRICS[name].title for name in METRICS)


def test_measurements_come_back_from_their_file() -> None:
    sections = {"energy": [a_node()]}
    assert read_measurements(measurements_bytes(sections)) == sections


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"weather": {}}, "no section 'weather'"),
        ({"energy": math.nan}, "not JSON compliant"),
        ({"energy": {1, 2}}, "cannot be written as JSON"),
        ({"energy": "x" * MAX_SECTION_BYTES}, "more than"),
    ],
)
def test_what_a_report_cannot_hold_is_refused_where_it_is_made(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measurements_bytes(sections)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": "fairlead-measurements/1"}', b"\xff"])
def test_another_file_is_no_measurements(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_measurements(content)

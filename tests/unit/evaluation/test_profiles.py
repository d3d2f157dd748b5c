"""Other layouts of a report: every value with its place, small groups hidden, nothing judged."""

import json
import re
from fractions import Fraction
from typing import Any

import jsonschema
import numpy as np
import pytest

from fairlead.errors import BadInput
from fairlead.evaluation import CountState, build_report
from fairlead.evaluation.profiles import LAYOUTS, PROFILES, render_profile
from fairlead.spec import EvaluationSpec, GateSpec
from fairlead.testing.evaluation import a_provenance, example_state, state_of_tables
from fairlead.workload import Attribute

JUDGEMENTS = re.compile(r"\b(complian\w*|certif\w*|unbiased|fair|lawful|legal)\b", re.IGNORECASE)
GATES = (GateSpec(metric="demographic_parity_difference", by=("sex",), require="<= 0.1"),)


def report_of(state: CountState, *, gates: tuple[GateSpec, ...] = (), **settings: Any) -> dict[str, Any]:
    evaluation = EvaluationSpec.model_validate({"groupings": "all", **settings})
    return build_report(state, provenance=a_provenance(n_expected=state.n), evaluation=evaluation, gates=gates)


def at(report: Any, path: str) -> Any:
    for step in path.split("/")[1:]:
        report = report[int(step)] if isinstance(report, list) else report[step.replace("~1", "/").replace("~0", "~")]
    return report


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_every_value_says_where_it_stands_in_the_report(name: str) -> None:
    report = report_of(example_state(), gates=GATES)
    profile = LAYOUTS[name](report)
    cells = [cell for _, cell in profile.facts]
    cells += [cell for table in profile.tables for row in table.rows for cell in row]
    with_path = [cell for cell in cells if cell.path]
    assert len(with_path) > 15
    for cell in with_path:
        found = at(report, cell.path)
        if isinstance(found, float):
            assert cell.text.startswith(f"{found:.3f}")
        elif isinstance(found, list):
            assert cell.text == (", ".join(found) or "none")
        elif found is not None:
            assert str(found) in cell.text
    for table in profile.tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("rows", [2000, 0])
def test_no_profile_judges(name: str, num_classes: int, rows: int) -> None:
    report = report_of(example_state(num_classes=num_classes, rows=rows), gates=GATES)
    if num_classes > 2 and name in ("four_fifths", "nyc_ll144"):
        with pytest.raises(BadInput, match="two classes"):
            render_profile(report, name)
        return
    content, kind = render_profile(report, name)
    assert kind in ("text/markdown", "application/vnd.cyclonedx+json")
    assert JUDGEMENTS.findall(content.decode()) == []


def test_four_fifths_are_compared_exactly() -> None:
    """3/5 over 3/4 is 4/5, though floats make 0.7999999999999999 of it."""
    report = report_of(state_of_tables({"a": (40, 60, 0, 0), "b": (25, 75, 0, 0), "c": (41, 59, 0, 0)}))
    (table,) = LAYOUTS["four_fifths"](report).tables
    assert [row[-1].text for row in table.rows] == ["no", "no", "yes"]
    assert 0.6 / 0.75 < 0.8 == float(Fraction(4, 5))


def test_local_law_144_leaves_small_categories_out_of_the_ratios_and_shows_them_all_the_same() -> None:
    tables = {"a": (400, 600, 0, 0), "b": (600, 400, 0, 0), "c": (1, 14, 0, 0)}  # 15 of 2,015 rows, nearly all selected
    report = report_of(state_of_tables(tables))
    (table,) = LAYOUTS["nyc_ll144"](report).tables
    ratios = {row[0].text: (row[1].text, row[3].text) for row in table.rows}
    assert ratios == {"a": ("1000", "1.000"), "b": ("1000", "0.667"), "c": ("15", "left out: under 2 % of the rows")}
    (other,) = LAYOUTS["four_fifths"](report).tables
    assert other.rows[2][3].text == "1.000", "the four-fifths rule knows no such exception"
    notes = " ".join(LAYOUTS["nyc_ll144"](report).notes)
    assert "sex or race or ethnicity" in notes


@pytest.mark.parametrize("name", PROFILES)
def test_groups_that_the_page_hides_are_hidden_here_too(name: str) -> None:
    tables = {"a": (400, 300, 200, 100), "b": (300, 400, 100, 200), "tiny": (0, 0, 1, 6)}
    report = report_of(state_of_tables(tables))
    content = render_profile(report, name)[0].decode()
    hidden = next(group for group in report["groups"] if group["key"] == {"group": "tiny"})
    for metric in ("selection_rate", "accuracy_score", "true_positive_rate"):
        assert hidden["metrics"][metric]["value"] == 6 / 7
    gaps = {entry["metric"]: entry["value"] for entry in report["disparities"]}
    for value in (6 / 7, gaps["demographic_parity_difference"], gaps["accuracy_score_difference"]):
        assert f"{value:.3f}" not in content
        assert repr(value) not in content


def test_what_the_page_hides_beside_a_small_group_is_hidden_too_and_no_quotient_is_taken_without_it() -> None:
    tables = {"a": (250, 250, 0, 0), "b": (4, 36, 0, 0), "tiny": (4, 0, 0, 0)}  # b is hidden, or tiny would follow
    report = report_of(state_of_tables(tables))
    for name in PROFILES:
        content = render_profile(report, name)[0].decode()
        for text in ("0.900", "0.400", "0.9,"):  # b's selection rate, and its distance to a
            assert text not in content
    (table,) = LAYOUTS["four_fifths"](report).tables
    assert table.rows[0][3].text == "not shown: the highest rate is that of a small group"
    assert table.rows[0][4].text == ""


def test_conditions_and_confidence_of_requirements_are_said() -> None:
    gates = tuple(
        GateSpec(id=name, metric="accuracy_score", require=">= 0.6", condition=condition)
        for name, condition in (("clean", None), ("attacked", "pgd_linf_0.1"))
    )
    report = report_of(example_state(), gates=gates, confidence=0.8)
    for name in ("eu_ai_act_annex_iv", "model_card"):
        content = render_profile(report, name)[0].decode()
        assert content.count("as they are") == 1
        assert "pgd\\_linf\\_0.1" in content
        assert "80 %" in content
        assert "95 %" not in content


def test_text_from_data_cannot_write_markdown() -> None:
    levels = ("a|b", "[x](http://evil.example)", "<script>alert(1)</script>", "back`tick", "new\nline", "---")
    state = CountState(attributes=[Attribute(name="g|h", levels=levels)], classes=("no", "yes"))
    rows = np.arange(1200)
    state.update(rows[:, None] % 6, rows % 2, rows % 3 % 2, record_hashes=rows)
    for name in (*LAYOUTS, "model_card"):
        text = render_profile(report_of(state), name)[0].decode()
        assert re.search(r"(?<!\\)<script", text) is None
        assert re.search(r"(?<!\\)\]\(http", text) is None
        for line in text.splitlines():
            if line.startswith("|"):
                columns = len(re.findall(r"(?<!\\)\|", line))
                assert columns >= 2
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_the_head_of_a_model_card_is_yaml_whatever_the_data_are_called() -> None:
    import yaml

    report = report_of(example_state(), gates=GATES)
    report["experiment"], report["data"]["uri"] = 'x: "y"\n---\n', "file:///a'b: {c}"
    text = render_profile(report, "model_card")[0].decode()
    head = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    (index,) = head["model-index"]
    assert index["name"] == report["experiment"]
    values = {metric["name"]: metric["value"] for metric in index["results"][0]["metrics"]}
    assert values["accuracy_score"] == report["groups"][0]["metrics"]["accuracy_score"]["value"]


CYCLONEDX = {  # the part of bom-1.6.schema.json (ECMA-424) that a model card touches
    "type": "object",
    "required": ["bomFormat", "specVersion", "components"],
    "properties": {
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {"pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        "version": {"type": "integer", "minimum": 1},
        "components": {
            "items": {
                "required": ["type", "name"],
                "properties": {
                    "type": {"const": "machine-learning-model"},
                    "modelCard": {
                        "additionalProperties": False,
                        "properties": {
                            "modelParameters": {"type": "object"},
                            "quantitativeAnalysis": {
                                "properties": {
                                    "performanceMetrics": {
                                        "items": {
                                            "additionalProperties": False,
                                            "properties": {
                                                "type": {"type": "string"},
                                                "value": {"type": "string"},
                                                "slice": {"type": "string"},
                                                "confidenceInterval": {
                                                    "additionalProperties": False,
                                                    "properties": {
                                                        "lowerBound": {"type": "string"},
                                                        "upperBound": {"type": "string"},
                                                    },
                                                },
                                            },
                                        }
                                    }
                                }
                            },
                            "considerations": {
                                "properties": {
                                    "technicalLimitations": {"items": {"type": "string"}},
                                    "fairnessAssessments": {
                                        "items": {
                                            "additionalProperties": False,
                                            "properties": {
                                                name: {"type": "string"}
                                                for name in ("groupAtRisk", "benefits", "harms", "mitigationStrategy")
                                            },
                                        }
                                    },
                                }
                            },
                        },
                    },
                },
            }
        },
    },
}


def test_the_bill_of_materials_has_the_models_values_with_their_intervals() -> None:
    report = report_of(example_state(), gates=GATES)
    document = json.loads(render_profile(report, "cyclonedx")[0])
    jsonschema.validate(document, CYCLONEDX)
    card = document["components"][0]["modelCard"]
    metrics = {(one["type"], one.get("slice")): one for one in card["quantitativeAnalysis"]["performanceMetrics"]}
    entry = report["groups"][0]["metrics"]["accuracy_score"]
    overall = metrics["accuracy_score", None]
    assert float(overall["value"]) == entry["value"]
    assert [float(overall["confidenceInterval"][end]) for end in ("lowerBound", "upperBound")] == entry["interval"]
    assert ("true_positive_rate", "sex=female") in metrics
    again = json.loads(render_profile(report, "cyclonedx")[0])
    assert again["serialNumber"] == document["serialNumber"], "of the same counts"


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="there are four_fifths, nyc_ll144"):
        render_profile(report_of(example_state()), "iso")
    with pytest.raises(BadInput, match="compares no groups"):
        render_profile(report_of(example_state(), groupings=()), "four_fifths")

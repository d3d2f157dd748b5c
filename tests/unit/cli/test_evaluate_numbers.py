"""``fairlead evaluate`` of a regression and of a ranking: report, gates, page, profiles, signature."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import Result
from sklearn.metrics import mean_squared_error
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.evaluation import MomentState, RankState, flat_metrics, read_state, report_schema
from fairlead.evaluation.page import render_page
from fairlead.evaluation.profiles import render_profile
from fairlead.evaluation.signing import signed, verify

REGRESSION = """
name: incomes
columns: {target: income, prediction: predicted}
evaluation: {task: regression, groupings: [[sex], [sex, region]], on_inconclusive: warn}
gates:
  - {id: mse, metric: mean_squared_error_group_max, by: [sex], require: "<= 5.0e6"}
  - {id: mae, metric: mean_absolute_error_difference, by: [sex], require: "<= 100"}
  - {id: bias, metric: mean_error_difference, by: [sex], require: "<= 2000"}
  - {id: ratio, metric: mean_absolute_error_ratio, by: [sex], require: ">= 0.5"}
  - {id: fit, metric: r2_score, require: ">= 0.5", evidence: point}
"""
RANKING = """
name: jobs
columns: {query: list, score: score, target: relevance}
evaluation: {groupings: [[sex], [kind]], on_inconclusive: warn}
gates:
  - {id: exposure, metric: exposure_ratio, by: [kind], require: ">= 0.80"}
  - {id: treatment, metric: exposure_per_relevance_ratio, by: [kind], require: ">= 0.50"}
  - {id: ndcg, metric: ndcg_score_difference, by: [sex], require: "<= 0.10"}
  - {id: worst, metric: ndcg_score_group_min, by: [sex], require: ">= 0.99"}
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, spec: str) -> Result:
        Path("spec.yaml").write_text(spec)
        return CliRunner().invoke(app, ["evaluate", *arguments, "--spec", "spec.yaml", "--created", "2027-03-01"])

    return invoke


def incomes(rows: int = 2000) -> dict[str, Any]:
    random = np.random.default_rng(5)
    sex, region = random.choice(["F", "M"], rows), random.choice(["north", "south", "east"], rows)
    income = random.lognormal(10, 0.4, rows)
    predicted = income + random.normal(0, np.where(sex == "F", 1500, 1000)) - 700.0 * (sex == "F")
    return {"income": income, "predicted": predicted, "sex": sex, "region": region}


def jobs(lists: int = 400, size: int = 6) -> dict[str, Any]:
    random = np.random.default_rng(6)
    rows = lists * size
    relevance = random.integers(0, 4, rows)
    kind = random.choice(["new", "old"], rows)
    score = relevance + random.normal(0, 1, rows) + 0.4 * (kind == "old")
    asker = np.repeat(random.choice(["F", "M"], lists), size)
    return {
        "list": np.repeat(np.arange(lists), size),
        "relevance": relevance,
        "score": score,
        "kind": kind,
        "sex": asker,
    }


def written(table: dict[str, Any], name: str = "p.parquet") -> str:
    pyarrow.parquet.write_table(pa.table(table), name)
    return name


CASES = {"regression": (incomes, REGRESSION, MomentState), "ranking": (jobs, RANKING, RankState)}


@pytest.mark.parametrize("task", CASES)
def test_a_report_has_what_reports_have_and_can_be_shown_signed_and_laid_out(run: Run, task: str) -> None:
    make, spec, kind = CASES[task]
    result = run(written(make()), "--json", "--state", "counts.npz", spec=spec)
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    jsonschema.validate(report, report_schema())
    assert report["task"] == task
    assert isinstance(read_state(Path("counts.npz").read_bytes()), kind)
    assert read_state(Path("counts.npz").read_bytes()).digest() == report["state"]["digest"]
    for entry in [value for group in report["groups"] for value in group["metrics"].values()]:
        assert (entry["value"] is None) == ("reason" in entry)
    page = Path("report/report.html").read_text()
    assert "How far apart the groups are" in page
    assert "How far apart the groups are" in render_page(report)
    assert render_profile(report, "model_card")[0].decode().startswith("---")
    assert b"2(g)" in render_profile(report, "eu_ai_act_annex_iv")[0]
    assert json.loads(render_profile(report, "cyclonedx")[0])["components"][0]["modelCard"]
    sealed = signed(report, b"s" * 32)
    verify(sealed)
    assert flat_metrics(report).values
    again = run(written(make()), spec=spec)
    assert "Gaps between groups" in again.stdout


def test_gates_of_a_regression_are_decided_by_bounds(run: Run) -> None:
    table = incomes()
    report = json.loads(run(written(table), "--json", spec=REGRESSION).stdout)
    gates = {gate["id"]: gate for gate in report["gates"]}
    assert {name: gate["outcome"] for name, gate in gates.items()} == {
        "mse": "pass",
        "mae": "fail",
        "bias": "pass",
        "ratio": "pass",
        "fit": "pass",
    }
    worst = max(
        mean_squared_error(*(table[name][table["sex"] == sex] for name in ("income", "predicted"))) for sex in "FM"
    )
    assert gates["mse"]["value"] == pytest.approx(worst, rel=1e-12)
    assert gates["mse"]["bound"] > gates["mse"]["value"]


def test_gates_of_a_ranking_are_decided_by_bounds(run: Run) -> None:
    report = json.loads(run(written(jobs()), "--json", spec=RANKING).stdout)
    gates = {gate["id"]: gate for gate in report["gates"]}
    assert gates["worst"]["outcome"] == "fail"
    assert gates["ndcg"]["outcome"] == "pass"
    for name in ("exposure", "treatment"):
        assert gates[name]["lower95"] < gates[name]["value"] < gates[name]["upper95"] <= 1


def test_a_profile_that_needs_classes_says_so(run: Run) -> None:
    run(written(incomes()), spec=REGRESSION)
    result = CliRunner().invoke(app, ["report", "report/report.json", "--profile", "four_fifths"])
    assert result.exit_code == 2
    assert "selection rates by group need two classes" in result.stderr


def test_a_group_of_one_row_has_a_value_and_no_bounds_in_the_report(run: Run) -> None:
    table = incomes(50)
    table["sex"][0] = "X"
    table["sex"][1:] = np.where(table["sex"][1:] == "X", "F", table["sex"][1:])
    report = json.loads(run(written(table), "--json", spec=REGRESSION).stdout)
    one = next(group for group in report["groups"] if group["key"] == {"sex": "X"})["metrics"]["mean_absolute_error"]
    assert (one["lower95"], one["upper95"], one["interval"], one["support"]) == (0.0, None, None, "low")

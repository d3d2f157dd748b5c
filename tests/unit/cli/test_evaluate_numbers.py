"""``fairlead evaluate`` of a regression and of a ranking: report, gates, page, profiles, signature."""

import json
import re
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


def test_long_numbers_have_a_line_of_their_own_below_the_scale(run: Run) -> None:
    assert run(written(incomes()), spec=REGRESSION).exit_code == 3
    cards = Path("report/report.html").read_text().split('<div class="bar">')[1:]
    is_long = ['<div class="ends long">' in card for card in cards]
    assert is_long == [True, False, False, False, False]


def test_ends_of_intervals_are_written_like_the_value_beside_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    table = incomes()
    table |= {name: 1000 * np.asarray(table[name]) for name in ("income", "predicted")}
    lines = run(written(table), spec=REGRESSION).stdout.splitlines()
    line = next(line for line in lines if line.startswith("all "))
    assert re.search(r" ([\d,]+\.\d) ([\d,]+\.\d) to ([\d,]+\.\d) ", line), line
    table |= {name: np.asarray(table[name]) / 1e9 for name in ("income", "predicted")}
    line = next(line for line in run(written(table), spec=REGRESSION).stdout.splitlines() if line.startswith("all "))
    assert "0.00 to 0.00" not in line


def test_what_a_few_rows_of_a_ranking_are_is_said(run: Run) -> None:
    assert "fewer than 30 rows, or of NDCG lists, to tell from" in run(written(jobs()), spec=RANKING).stdout


def test_lists_that_are_all_in_the_best_order_leave_doubt(run: Run) -> None:
    rows = {"list": np.repeat(np.arange(40), 3), "score": np.tile([3.0, 2.0, 1.0], 40)}
    rows |= {"relevance": np.tile([2.0, 1.0, 0.0], 40), "sex": np.repeat(["F", "M"], 60)}
    spec = "columns: {query: list, score: score, target: relevance}\nevaluation: {groupings: [[sex]]}\ngates:\n"
    spec += '  - {metric: ndcg_score, require: ">= 0.95"}\n  - {metric: ndcg_score, id: low, require: ">= 0.92"}\n'
    first, second = json.loads(run(written(rows), "--json", spec=spec).stdout)["gates"]
    assert (first["value"], first["upper95"], first["outcome"]) == (1.0, 1.0, "inconclusive")
    assert first["lower95"] == pytest.approx(0.05 ** (1 / 40))  # the chance to see none of the others is 5 %
    assert second["outcome"] == "pass"


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

"""``fairlead evaluate``: the numbers of a trained experiment, exit codes, and a clear word for bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import Result
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.data.context import KeepingOutlet, LocalContext
from fairlead.data.dataset import open_dataset
from fairlead.data.export import Origin
from fairlead.evaluation import CountState, build_report, report_schema
from fairlead.spec import ExperimentSpec, from_yaml
from fairlead.testing.evaluation import a_provenance

GATES = """
evaluation: {groupings: [[sex], [sex, age]], min_support: 5}
gates:
  - {id: dp, metric: demographic_parity_difference, by: [sex], require: "<= 0.5"}
"""
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, spec: str = GATES) -> Result:
        Path("spec.yaml").write_text(spec)
        return CliRunner().invoke(app, ["evaluate", *arguments, "--spec", "spec.yaml", "--created", "2027-03-01"])

    return invoke


def a_table(rows: int = 400) -> dict[str, Any]:
    """People of whom more men are selected."""
    random = np.random.default_rng(7)
    sex, age = random.choice(["F", "M"], rows), random.choice(["young", "old"], rows)
    label = (random.random(rows) < 0.4).astype(np.int64)
    score = np.clip(0.2 + 0.4 * label + 0.15 * (sex == "M") + 0.2 * random.normal(size=rows), 0, 1)
    prediction = (score >= 0.5).astype(np.int64)
    weight = random.integers(1, 5, rows) / 2
    return {"label": label, "prediction": prediction, "score": score, "sex": sex, "age": age, "weight": weight}


def written(table: dict[str, Any], name: str = "p.parquet", rows: slice = slice(None)) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pa.table({key: values[rows] for key, values in table.items()}), name)
    return name


def value(report: dict[str, Any], metric: str, **key: str) -> float:
    group = next(group for group in report["groups"] if group["key"] == key)
    return float(group["metrics"][metric]["value"])


def gap(report: dict[str, Any], metric: str, *by: str) -> float:
    entry = next(e for e in report["disparities"] if (e["metric"], e["by"]) == (metric, list(by)))
    return float(entry["value"])


METRICS = {
    "accuracy_score": accuracy_score,
    "selection_rate": selection_rate,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
}


@pytest.mark.parametrize("weight", [None, "weight"])
def test_values_are_those_of_fairlearn(run: Run, weight: str | None) -> None:
    table = a_table()
    options = ["--column", f"weight={weight}"] if weight else []
    result = run(written(table), *options, "--json")
    report = json.loads(result.stdout)
    jsonschema.validate(report, report_schema())
    weights = {"sample_weight": table[weight]} if weight else {}
    frame = MetricFrame(
        metrics=METRICS,
        y_true=table["label"],
        y_pred=table["prediction"],
        sensitive_features={"sex": table["sex"], "age": table["age"]},
        sample_params=dict.fromkeys(METRICS, weights),
    )
    for metric in METRICS:
        assert value(report, metric) == pytest.approx(frame.overall[metric], abs=1e-9)
        for (sex, age), expected in frame.by_group[metric].items():
            assert value(report, metric, sex=sex, age=age) == pytest.approx(expected, abs=1e-9)
    rows = {"y_true": table["label"], "y_pred": table["prediction"], "sensitive_features": table["sex"], **weights}
    for name, function in (
        ("demographic_parity_difference", demographic_parity_difference),
        ("equalized_odds_difference", equalized_odds_difference),
    ):
        assert gap(report, name, "sex") == pytest.approx(function(**rows), abs=1e-9)


EXPERIMENT = """
name: risk
workload: tabular_mlp
data: {uri: data.csv, target: y, sensitive: [sex, band], record_id: id, positive: "yes",
       bins: {band: {column: age, edges: [40, 60]}}}
evaluation: {groupings: [[sex], [sex, band]], min_support: 10}
gates:
  - {metric: demographic_parity_difference, by: [sex, band], require: "<= 0.9"}
  - {metric: roc_auc_score, require: ">= 0.1"}
"""


def test_the_numbers_are_those_of_an_experiment_that_evaluates_the_same_rows(run: Run) -> None:
    random = np.random.default_rng(3)
    sex, age = random.choice(["F", "M", ""], 300), random.integers(20, 80, 300)
    names = np.where(random.random(300) < 0.5, "yes", "no")
    lines = [f"{i},{sex[i]},{age[i]},{i % 7},{names[i]}" for i in range(300)]
    Path("data.csv").write_text("id,sex,age,x,y\n" + "\n".join(lines) + "\n")
    spec = from_yaml(ExperimentSpec, EXPERIMENT)
    dataset = open_dataset(spec.data)
    origin = Origin(workload="w", module="m", params={}, code_hash="")
    context = LocalContext(dataset=dataset, origin=origin, outlet=KeepingOutlet())
    rows = dataset.rows("test").records
    scores = random.random(len(rows))
    context.evaluate("test", records=rows, predictions=(scores >= 0.5).astype(np.int64), scores=scores)
    expected = build_report(
        context.states["test"], provenance=a_provenance(), evaluation=spec.evaluation, gates=spec.gates
    )

    texts = [name or None for name in sex[rows]]
    table = {"id": rows, "sex": texts, "age": age[rows], "y": names[rows], "score": scores}
    report = json.loads(run(written(table), "--json", spec=EXPERIMENT).stdout)
    of_origin = {"created", "experiment", "attempt", "data", "limitations"}
    assert {key: report[key] for key in report if key not in of_origin} == {
        key: expected[key] for key in expected if key not in of_origin
    }
    assert report["state"]["digest"] == expected["state"]["digest"]  # record ids included


def test_shards_give_the_same_bytes_in_any_order(run: Run) -> None:
    table = a_table()
    whole = run(written(table), "--json").stdout
    cuts = [slice(0, 1), slice(1, 130), slice(130, 400)]
    parts = [written(table, f"parts/{number}.parquet", rows) for number, rows in enumerate(cuts)]
    for way in (parts, parts[::-1], ["parts"]):
        result = run(*way, "--json", "--output", "again")
        assert result.stdout == whole
        assert Path("again/report.json").read_text() == whole
    assert Path("report/report.html").read_bytes() == Path("again/report.html").read_bytes()


def test_people_get_a_summary_and_files(run: Run) -> None:
    result = run(written(a_table()), "--state", "counts.npz")
    assert "outcome pass" in result.stdout
    assert "the upper bound" in result.stdout
    assert "By sex and age" in result.stdout
    assert "report/report.html" in result.stderr
    assert "Predictions made elsewhere: predictions" in Path("report/report.html").read_text()
    report = json.loads(Path("report/report.json").read_text())
    assert CountState.from_bytes(Path("counts.npz").read_bytes()).digest() == report["state"]["digest"]


def test_of_very_many_groups_the_summary_shows_some_and_says_so(run: Run) -> None:
    rows = np.arange(1040)
    table = {"label": rows % 2, "prediction": rows % 3 % 2, "g": [f"g{row % 104:03d}" for row in rows]}
    result = run(written(table), spec="evaluation: {groupings: [[g]]}")
    assert ("g099" in result.stdout, "g100" in result.stdout) == (True, False)
    assert "and 4 more groups: the report has all" in result.stdout


@pytest.mark.parametrize(
    ("require", "settings", "code"),
    [
        ("<= 0.9", "", 0),
        ("<= 0.01", "", 3),
        ("<= 0.25", "", 5),
        ("<= 0.25", ", on_inconclusive: warn", 0),
        ("<= 0.25, evidence: point", "", 0),
    ],
)
def test_exit_codes_tell_how_gates_turned_out(run: Run, require: str, settings: str, code: int) -> None:
    limit, _, more = require.partition(",")
    spec = f"""
evaluation: {{groupings: [[sex]]{settings}}}
gates: [{{metric: demographic_parity_difference, by: [sex], require: "{limit}"{"," if more else ""}{more}}}]
"""
    result = run(written(a_table()), spec=spec)
    assert result.exit_code == code, result.stdout
    assert Path("report/report.json").exists()


@pytest.mark.parametrize(
    ("arguments", "spec", "named"),
    [
        (["p.parquet"], "gates: [{metric: accuracy_scor, require: '>= 0.5'}]", "did you mean 'accuracy_score'"),
        (["p.parquet"], "columns: {targt: x}", "did you mean 'target'"),
        (["p.parquet"], "columns: {target: lable}", "did you mean 'label'"),
        (["p.parquet"], "{a: [", "this is not YAML"),
        (["nowhere.parquet"], GATES, "nothing is there"),
        (["spec.yaml"], GATES, "a file with this ending is not read"),
        (["p.parquet", "--column", "label=x"], GATES, "write ROLE=NAME with one of target"),
        (["p.parquet", "--output", "p.parquet"], GATES, "cannot be written"),
        (["p.parquet", "--state", "."], GATES, "it is a directory"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_input_exits_2_and_says_what_to_do(
    run: Run, arguments: list[str], spec: str, named: str, as_json: bool
) -> None:
    written(a_table())
    result = run(*arguments, *(["--json"] if as_json else []), spec=spec)
    assert (result.exit_code, result.stdout) == (2, "")
    assert named in (json.dumps(json.loads(result.stderr)) if as_json else result.stderr)
    assert not Path("report").exists()


def test_what_data_bring_is_named_in_the_report(run: Run) -> None:
    table = a_table()
    table["weight"][:3] = 0
    table["score"][5] = np.nan
    table["sex"] = ["X", *([None] * 9), *table["sex"][10:]]
    table["label"] = [*table["label"][:-1].tolist(), None]
    spec = "columns: {weight: weight}\nevaluation: {groupings: [[sex]]}"
    report = json.loads(run(written(table), "--json", spec=spec).stdout)
    for words in (
        "3 rows have a weight of 0",
        "9 rows lack",
        "1 rows have no label",
        "1 rows have a score that is not",
    ):
        assert any(words in text for text in report["limitations"]), words
    lonely = next(group for group in report["groups"] if group["key"] == {"sex": "X"})
    assert (lonely["n"], lonely["metrics"]["true_positive_rate"]["reason"]) == (1, "no_positive_labels")


def test_neither_ray_nor_torch_nor_mlflow_is_loaded(run: Run) -> None:
    name = written(a_table())
    Path("spec.yaml").write_text(GATES)
    program = f"""
import sys
from fairlead.cli import app
try:
    app(["evaluate", {name!r}, "--spec", "spec.yaml"])
except SystemExit as end:
    assert end.code == 0
print(sorted({{"ray", "torch", "mlflow", "sqlalchemy", "fastapi", "sklearn"}} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.splitlines()[-1] == "[]"

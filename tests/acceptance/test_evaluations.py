"""Evaluations on the whole stack: counted by workers, judged by gates, in the list, in MLflow, on a page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fairlead import Client
from fairlead.embedded import EmbeddedStack

Fairlead = Callable[..., Any]


def written(path: Path, rows: int = 20_000, **changes: Any) -> Path:
    random = np.random.default_rng(3)
    label = (random.random(rows) < 0.4).astype(np.int64)
    sex = random.choice(["F", "M"], rows)
    score = np.clip(0.2 + 0.4 * label + 0.15 * (sex == "M") + 0.2 * random.normal(size=rows), 0, 1)
    table = {"id": np.arange(rows), "label": label, "score": score, "sex": sex} | changes
    pyarrow.parquet.write_table(pa.table(table), path, row_group_size=rows // 7)
    return path


def a_document(limit: float) -> str:
    gate = {"id": "dp", "metric": "demographic_parity_difference", "by": ["sex"], "require": f"<= {limit}"}
    content = {"name": "scores", "columns": {"record_id": "id"}, "evaluation": {"groupings": [["sex"]]}}
    return json.dumps({**content, "gates": [gate]})


@pytest.mark.parametrize(("limit", "outcome", "code"), [(0.4, "pass", 0), (0.05, "fail", 3)])
def test_gates_judge_predictions_by_what_workers_counted(
    fairlead: Fairlead,
    client: Client,
    stack: EmbeddedStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    outcome: str,
    code: int,
) -> None:
    path = written(tmp_path / "p.parquet")
    (tmp_path / "evaluate.yaml").write_text(a_document(limit))
    here = fairlead("evaluate", str(path), "--spec", "evaluate.yaml", "--json")
    arguments = ("evaluate", f"file://{path}", "--spec", "evaluate.yaml", "--on-cluster", "--workers", "2", "--watch")
    answer = fairlead(*arguments, "--json")
    assert (here.returncode, answer.returncode) == (code, code), answer.stderr
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["state"], last["reason"]) == ("succeeded", f"evaluated; gates: {outcome}")
    assert (last["report_outcome"], last["registration"]["is_registered"]) == (outcome, False)
    experiment = client.get(last["id"])
    _assert_same(experiment.report(), json.loads(here.stdout))
    assert "By sex" in fairlead("report", last["id"]).stdout
    assert "evaluation" in fairlead("list").stdout
    page = tmp_path / "report.html"
    fairlead("report", last["id"], "--html", str(page))
    assert "How well the model does over all rows" in page.read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow_url)
    _assert_in_mlflow(last["id"])


WHOSE = ("experiment", "attempt", "created", "signature")


def _assert_same(there: dict[str, Any], here: dict[str, Any]) -> None:
    """All numbers, gates and words of both reports, but for whose they are."""
    for report in (there, here):
        for name in WHOSE:
            report.pop(name, None)
        del report["data"]["uri"]
    assert there == here


def _assert_in_mlflow(experiment_id: str) -> None:
    found = mlflow.MlflowClient()
    (experiment,) = [one for one in found.search_experiments() if one.name == "default/scores"]
    (run,) = found.search_runs([experiment.experiment_id], f"tags.`fairlead.experiment_id` = '{experiment_id}'")
    assert (run.info.status, run.data.tags["fairlead.workload"]) == ("FINISHED", "evaluation")
    assert {"rai/accuracy_score/overall", "evaluation/rows_counted"} <= set(run.data.metrics)
    assert run.data.metrics["evaluation/rows_counted"] == 20_000
    paths = {file.path for file in found.list_artifacts(run.info.run_id, "responsible_ai")}
    assert {"responsible_ai/report.json", "responsible_ai/report.html"} <= paths


def test_predictions_that_cannot_be_counted_fail_with_their_reason(
    fairlead: Fairlead, client: Client, tmp_path: Path
) -> None:
    path = written(tmp_path / "p.parquet", 1000, id=np.r_[np.arange(999), 5])
    (tmp_path / "evaluate.yaml").write_text(a_document(0.4))
    answer = fairlead("evaluate", str(path), "--spec", "evaluate.yaml", "--on-cluster", "--watch", "--workers", "2")
    assert answer.returncode == 1
    failed = next(client.list(state="failed")).view
    assert "bad_data: 'id' names one row, but '5'" in failed.reason


def test_predictions_are_held_against_a_champions_in_the_same_file_here_and_on_a_cluster(
    fairlead: Fairlead, client: Client, tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    before = (random.random(20_000) < 0.5).astype(np.int64)
    path = written(tmp_path / "p.parquet", before=before)
    document = json.loads(a_document(0.4))
    document["columns"]["champion"] = "before"
    document["gates"] = [{"metric": "accuracy_score", "require": ">= champion + 0.1"}]
    (tmp_path / "evaluate.yaml").write_text(json.dumps(document))
    here = fairlead("evaluate", str(path), "--spec", "evaluate.yaml", "--json")
    there = fairlead(
        "evaluate", str(path), "--spec", "evaluate.yaml", "--on-cluster", "--workers", "2", "--watch", "--json"
    )
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    report = json.loads(here.stdout)
    assert report["gates"][0]["champion"]["column"] == "before"
    _assert_same(client.get(json.loads(there.stdout.splitlines()[-1])["id"]).report(), report)

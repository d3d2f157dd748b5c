"""Probes on the session's stack: two workers, a report with their sections, gates on them, numbers in MLflow."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from fairlead import Client
from fairlead.embedded import EmbeddedStack

SPEC: dict[str, Any] = {
    "name": "probed",
    "workload": "tabular_mlp",
    "params": {"epochs": 3},
    "resources": {"workers": 2},
    "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
    "evaluation": {"groupings": [["sex"]]},
    "probes": {
        "robustness": [{"method": "pgd", "eps": 0.5}, {"method": "noise", "eps": 0.5}],
        "temperature": {},
        "drift": {},
        "explanations": {},
        "attributions": {"baseline": "mean", "rows": 100, "share_of": ["bmi", "bp"]},
    },
    "gates": [
        {"id": "attacked", "metric": "accuracy_score", "require": ">= 0.9", "condition": "pgd_linf_0.5"},
        {"id": "moved", "metric": "drift_psi_max", "require": "<= 5"},
        {"id": "complete", "metric": "completeness_error", "require": "<= 0.01"},
        {"id": "share", "metric": "attribution_share", "require": "<= 0.01"},
    ],
}
FORGETFUL = """
import numpy as np

def train(params, context):
    rows = context.shard("test")
    context.report({"loss": 1.0}, step=1)
    context.evaluate("test", records=rows.records, predictions=np.zeros(len(rows), dtype=np.int64))
"""


def test_what_probes_find_stands_in_report_gates_and_tracking(client: Client, stack: EmbeddedStack) -> None:
    experiment = client.submit(SPEC)
    outcomes = {gate.id: gate.outcome for gate in experiment.result(timeout=240).gates}
    assert outcomes == {"attacked": "fail", "moved": "pass", "complete": "pass", "share": "fail"}
    report = experiment.report()
    attacked, noisy = report["robustness"]
    assert [one["rows_judged_otherwise"] for one in (attacked, noisy)] == [0, 0]
    overall = [next(group for group in one["groups"] if not group["by"]) for one in (attacked, noisy)]
    assert overall[0]["n"] == report["data"]["n_expected"]
    assert overall[0]["accuracy_score"]["value"] < overall[1]["accuracy_score"]["value"]
    assert report["drift"]["n_test"] == report["data"]["n_expected"]
    assert not {"robustness", "drift", "explanations", "attributions"} & set(report["not_measured"])
    assert (report["attributions"]["n"], report["attributions"]["n_split"]) == (100, report["data"]["n_expected"])
    assert report["attributions"]["share_of"] == ["bmi", "bp"]
    assert report["temperature"]["comparison"][0]["n"] == report["data"]["n_expected"]
    page = experiment.report_html()
    assert "How it stands up to changed inputs" in page
    assert "look like the training rows" in page
    assert "before and after a temperature" in page
    assert "What each answer is made of" in page
    wanted = {"rai/accuracy_score/overall/under/pgd_linf_0.5", "rai/drift_psi_max/overall"}
    wanted |= {"rai/completeness_error/overall", "rai/attribution_share/overall.upper95"}
    deadline_s = time.monotonic() + 90  # MLflow is written to after the experiment has ended
    while not wanted <= (found := _metrics(stack, experiment.id)):
        assert time.monotonic() < deadline_s, f"MLflow lacks {wanted - found}"
        time.sleep(0.5)


def _metrics(stack: EmbeddedStack, experiment_id: str) -> set[str]:
    tracked = MlflowClient(tracking_uri=stack.mlflow_url)
    everywhere = [each.experiment_id for each in tracked.search_experiments()]
    runs = tracked.search_runs(everywhere, f"tags.`fairlead.experiment_id` = '{experiment_id}'")
    return {name for run in runs for name in run.data.metrics}


def test_a_workload_that_forgets_its_probes_fails_and_is_told_what_to_call(
    fairlead: Callable[..., "subprocess.CompletedProcess[str]"], client: Client, tmp_path: Path
) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    spec = {**SPEC, "workload": "forgetful:train", "code": ".", "params": {}, "gates": []}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    answer = fairlead("submit", "--watch", "spec.yaml")
    assert answer.returncode == 1, answer.stderr
    (attempt,) = client.get(answer.stdout.split()[0]).detail().attempts
    assert (attempt.outcome, attempt.reason) == ("user_error", "no_result")
    assert "call fairlead.probes.run_probes" in attempt.detail

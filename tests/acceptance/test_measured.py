"""Privacy and energy from the spec to the report and MLflow, on two workers of a real stack."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from fairlead import Client
from fairlead.client import Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.testing.ray import wait_for

SPEC = {
    "name": "private",
    "workload": "tabular_mlp",
    "params": {"epochs": 4},
    "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
    "resources": {"workers": 2},
    "evaluation": {"groupings": [["sex"]]},
    "privacy": {"target_epsilon": 8},
    "energy": {"intensity_g_per_kwh": 400},
    "gates": [
        {"metric": "epsilon", "require": "<= 8"},
        {"id": "too-private", "metric": "epsilon", "require": "<= 0.1"},
        {"metric": "energy_kwh", "require": "<= 1"},
        {"metric": "co2e_kg", "require": "<= 0.4"},
    ],
}


def test_privacy_and_energy_are_trained_measured_judged_and_recorded(client: Client, stack: EmbeddedStack) -> None:
    experiment = client.submit(SPEC)
    experiment.result(timeout=300)
    report = experiment.report()
    outcomes = {gate["id"]: (gate["outcome"], gate["why"]) for gate in report["gates"]}
    assert {name: outcome for name, (outcome, _) in outcomes.items()} == {
        "epsilon": "pass",
        "too-private": "fail",
        "energy_kwh": "pass",
        "co2e_kg": "pass",
    }, outcomes
    privacy, energy = report["privacy"], report["energy"]
    assert 7.9 < privacy["metrics"]["epsilon"]["value"] <= 8
    assert (privacy["steps"], privacy["records"], privacy["unit"]) == (20, 265, "record")
    assert [node["ranks"] for node in energy["nodes"]] == [2]
    assert energy["metrics"]["co2e_kg"]["value"] == pytest.approx(energy["metrics"]["energy_kwh"]["value"] * 0.4)
    assert not {"privacy", "energy"} & set(report["not_measured"])
    page = experiment.report_html()
    assert "How much the model can tell of one record" in page
    assert "What the training used" in page
    run = _run(stack, experiment)
    assert run.data.metrics["rai/epsilon/overall"] == privacy["metrics"]["epsilon"]["value"]
    assert run.data.metrics["rai/energy_kwh/overall"] > 0
    assert run.data.params["spec.privacy.target_epsilon"] == "8.0"


def _run(stack: EmbeddedStack, experiment: Experiment) -> Run:
    """Its run in MLflow, once the report is there: MLflow is written after the experiment has ended."""
    found, mark = MlflowClient(tracking_uri=stack.mlflow_url), f"tags.`fairlead.experiment_id` = '{experiment.id}'"
    runs: list[Run] = []

    def has_report() -> bool:
        runs[:] = found.search_runs([each.experiment_id for each in found.search_experiments()], mark)
        return bool(runs) and "rai.outcome" in runs[0].data.tags

    wait_for(has_report, within_s=60, what="the report in MLflow")
    return runs[0]

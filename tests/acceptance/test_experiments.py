"""From the command line to a registered model, and every way it may not get there."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import mlflow
import psutil
import pytest
from sklearn.datasets import load_diabetes

from fairlead import Client
from fairlead.client import ExperimentFailed
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import State

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]


def a_spec(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "workload": "tabular_mlp",
        "params": {"epochs": 2},
        "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
        "evaluation": {"groupings": [["sex"]]},
        **changes,
    }


def _assert_complete_in_mlflow(ended: dict[str, Any]) -> None:
    """What a person looks for on the run's page, and the model as somebody else would load it."""
    found = mlflow.MlflowClient()
    version = found.get_model_version(ended["registration"]["name"], ended["registration"]["version"])
    run = found.get_run(version.run_id)
    assert run.data.tags["fairlead.experiment_id"] == ended["id"]
    assert run.data.tags["fairlead.data_digest"].startswith("sha256:")
    assert run.data.params["spec.seed"] == "0"
    assert {"train/loss", "system/rank_0/memory_mb", "rai/accuracy_score/overall"} <= set(run.data.metrics)
    assert [point.step for point in found.get_metric_history(version.run_id, "train/loss")] == list(range(1, 61))
    assert run.inputs.dataset_inputs[0].dataset.name == "diabetes"
    paths = {
        file.path
        for file in [*found.list_artifacts(version.run_id), *found.list_artifacts(version.run_id, "responsible_ai")]
    }
    assert {"spec.yaml", "responsible_ai/report.json", "responsible_ai/report.html"} <= paths
    rows = load_diabetes(as_frame=True, scaled=False).data.head(5)
    model = mlflow.pyfunc.load_model(f"models:/{version.name}@{ended['registration']['alias']}")
    predicted = model.predict(rows)
    assert set(predicted["prediction"]) <= {"above", "below"}
    assert (predicted["probability_above"] + predicted["probability_below"]).round(6).eq(1).all()


def _await_comparison(client: Client, name: str) -> None:
    """Until MLflow's registry was compared with the newest version of that name."""
    newest = next(client.models(name=name)).registered_at
    end_s = time.monotonic() + 90
    while (checked_at := client.registry_flags().checked_at) is None or checked_at < newest:
        assert time.monotonic() < end_s, f"it was compared at {checked_at}, and registered at {newest}"
        time.sleep(0.5)


def test_the_demonstration_ends_registered(
    fairlead: Fairlead, specs: Path, client: Client, stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fairlead("submit", "--watch", "--json", str(specs / "diabetes_risk.yaml"))
    assert answer.returncode == 0, answer.stderr
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["state"], last["report_outcome"]) == ("succeeded", "pass")
    assert last["registration"]["is_registered"]
    assert {gate["outcome"] for gate in last["gates"]} == {"pass"}
    assert last["last_step"] == last["total_steps"]
    experiment = client.get(last["id"])
    assert [event.seq for event in experiment.events()] == list(range(1, len(list(experiment.events())) + 1))
    assert sum(group["n"] for group in experiment.report()["groups"] if group["by"] == ["sex"]) == 133
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow_url)
    _assert_complete_in_mlflow(last)
    shown = fairlead("report", last["id"]).stdout
    assert all(text in shown for text in ("By sex", "By age_band", "Gaps between groups", "outcome pass"))


def test_an_unfair_model_fails_its_gate_and_is_registered_only_on_somebodys_word(
    fairlead: Fairlead, specs: Path, client: Client, stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = fairlead("submit", "--watch", "--json", str(specs / "diabetes_unfair.yaml"))
    assert answer.returncode == 3, answer.stderr
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["state"], last["report_outcome"]) == ("succeeded", "fail")
    assert not last["registration"]["is_registered"]
    assert [gate["outcome"] for gate in last["gates"] if gate["by"] == ["sex"]] == ["fail"]
    undecided = [gate["id"] for gate in last["gates"] if gate["outcome"] != "pass"]
    for gate in undecided:
        told = fairlead("override", last["id"], "--gate", gate, "--reason", "the board wants to see it fail in public")
        assert (told.returncode, "is overridden" in told.stdout) == (0, True), told.stderr
    view = client.get(last["id"]).await_registration()
    assert view.registration is not None
    assert view.registration.is_registered
    assert view.report_outcome == "fail", "an override changes no outcome"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.mlflow_url)
    versions = mlflow.MlflowClient()
    version = versions.get_model_version(str(view.registration.name), str(view.registration.version))
    assert version.tags["rai.outcome"] == "fail"
    assert version.tags["rai.overridden"].startswith(f"{undecided[0]} by ")
    there = {file.path for file in versions.list_artifacts(str(version.run_id), "responsible_ai/overrides")}
    assert there == {f"responsible_ai/overrides/{gate}.json" for gate in undecided}
    _await_comparison(client, str(view.registration.name))
    assert client.registry_flags().items == (), "what Fairlead registered is what MLflow has"
    assert fairlead("models").returncode == 0
    listed = next(client.models(name=str(view.registration.name)))
    assert (listed.report_outcome, set(listed.overridden)) == ("fail", set(undecided))
    assert "overridden by" in fairlead("report", last["id"]).stdout


def test_own_code_that_raises_fails_with_its_last_words(fairlead: Fairlead, tmp_path: Path, client: Client) -> None:
    (tmp_path / "broken.py").write_text("def train(params, context):\n    raise RuntimeError('no such luck')\n")
    (tmp_path / "spec.yaml").write_text(json.dumps(a_spec(workload="broken:train", code=".", params={})))
    answer = fairlead("submit", "--watch", "spec.yaml")
    assert answer.returncode == 1
    assert "user_error" in answer.stdout
    identity = answer.stdout.split()[0]
    assert "no such luck" in fairlead("show", identity).stdout
    assert client.get(identity).view.registration is None


def test_code_with_a_link_out_is_refused_before_anything_exists(fairlead: Fairlead, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "spec.yaml").write_text(json.dumps(a_spec(workload="a:b", code=".")))
    answer = fairlead("submit", "spec.yaml")
    assert (answer.returncode, "link is a symbolic link" in answer.stderr) == (2, True)


def test_a_running_experiment_can_be_cancelled(client: Client, fairlead: Fairlead) -> None:
    experiment = client.submit(a_spec(name="long", params={"epochs": 10_000}))
    for event in experiment.events():
        if event.to_state is State.RUNNING:
            break
    assert fairlead("cancel", experiment.id).returncode == 0
    assert fairlead("watch", experiment.id).returncode == 1
    assert (experiment.refresh().state, experiment.done()) == (State.CANCELLED, True)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"workload": "no_such_workload"}, "/workload"),
        ({"params": {"epochs": 0}}, "/params/epochs"),
        ({"params": {"epoch": 5}}, "/params/epoch"),
        ({"resorces": {}}, "/resorces"),
        ({"data": {"uri": "builtin://nothing"}, "evaluation": {}}, "/data/uri"),
        ({"data": {"uri": "builtin://diabetes", "split": {"train": 0.9}}}, "/data/split"),
    ],
)
def test_a_bad_spec_is_refused_with_the_field(fairlead: Fairlead, changes: dict[str, Any], pointer: str) -> None:
    answer = fairlead("submit", "-", "--json", text=json.dumps(a_spec(**changes)))
    assert (answer.returncode, answer.stdout) == (2, "")
    assert pointer in [error["pointer"] for error in json.loads(answer.stderr)["errors"]]


def test_more_than_the_cluster_has_waits_and_says_for_what(client: Client, fairlead: Fairlead) -> None:
    too_large = a_spec(name="too-large", resources={"workers": 500})
    plan = client.plan(too_large)
    assert (plan.is_valid, plan.fits) == (True, False)
    assert "500" in plan.why
    experiment = client.submit(too_large)
    _await(lambda: "no_cluster_fits" in str(experiment.refresh().view.waiting), "it never said what it waits for")
    assert experiment.state is State.QUEUED
    assert "500 CPUs" in fairlead("show", experiment.id).stdout
    experiment.cancel()
    _await(lambda: experiment.refresh().done(), "it was not cancelled")


def _await(condition: Callable[[], bool], complaint: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("data", "message"),
    [({"uri": "/no/such/file.csv", "target": "y"}, "no/such/file.csv")],
)
def test_data_that_cannot_be_read_end_with_a_reason(client: Client, data: dict[str, Any], message: str) -> None:
    experiment = client.submit(a_spec(data=data, evaluation={}))
    with pytest.raises(ExperimentFailed):
        experiment.result(timeout=200)
    detail = experiment.detail()
    assert message in detail.reason + detail.attempts[-1].reason + detail.attempts[-1].detail


def test_missing_columns_end_with_their_name(client: Client, tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 2}\n" for i in range(100))
    (tmp_path / "rows.csv").write_text("x,y\n" + rows)
    data = {"uri": str(tmp_path / "rows.csv"), "target": "no_such_column"}
    experiment = client.submit(a_spec(data=data, evaluation={}))
    with pytest.raises(ExperimentFailed):
        experiment.result(timeout=200)
    detail = experiment.detail()
    assert "no_such_column" in detail.reason + detail.attempts[-1].reason + detail.attempts[-1].detail


def test_the_demo_command_shows_everything_and_leaves_no_process_behind(fairlead: Fairlead, tmp_path: Path) -> None:
    home = tmp_path / "demo"
    answer = fairlead("demo", "--keep", str(home))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for text in ("succeeded", "By sex", "Gates", "registered diabetes-risk version 1", "/docs", "MLflow"):
        assert text in answer.stdout
    left = [each for each in psutil.process_iter(["cmdline"]) if str(home) in " ".join(each.info["cmdline"] or [])]
    assert left == []


def test_a_link_opens_the_report_without_a_token(fairlead: Fairlead, client: Client, stack: EmbeddedStack) -> None:
    ended = next(client.list(state="succeeded"), None)
    if ended is None:
        ended = client.submit(a_spec())
        ended.result(timeout=200)
    address = fairlead("report", ended.id, "--link").stdout.strip()
    with httpx.Client(trust_env=False) as browser:
        page = browser.get(address, headers={"Accept": "text/html"})
        assert (page.status_code, "<html" in page.text) == (200, True)
        assert browser.get(f"{stack.api_url}/v1/experiments/{ended.id}/report").status_code == 401

"""What ``docs/your-own-workload.md`` shows, submitted to a whole stack: code of one's own on two ranks."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from fairlead import Client, Experiment
from fairlead.client import ExperimentFailed
from fairlead.embedded import EmbeddedStack
from fairlead.errors import NotFound
from fairlead.lifecycle import Outcome, State
from fairlead.testing.pages import Page, read_page
from fairlead.testing.ray import wait_for
from fairlead.tracking.server import client_environment

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]
ENDS_S = 200


@pytest.fixture(scope="module")
def page() -> Page:
    return read_page(Path(__file__).parents[2] / "docs" / "your-own-workload.md")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in client_environment().items():
        monkeypatch.setenv(name, value)


def submitted(client: Client, directory: Path, name: str, **changes: Any) -> Experiment:
    path = directory / f"{name}.yaml"
    spec = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**spec, **changes}))
    return client.submit(path)


def recorded(stack: EmbeddedStack, experiment: Experiment, key: str) -> list[int]:
    """Steps of a metric in MLflow."""
    found = MlflowClient(tracking_uri=stack.mlflow_url)
    places = [each.experiment_id for each in found.search_experiments()]
    runs = found.search_runs(places, f"tags.`fairlead.experiment_id` = '{experiment.id}'")
    return [point.step for run in runs for point in found.get_metric_history(run.info.run_id, key)]


def test_the_script_of_the_page_trains_on_two_ranks_without_data_in_its_spec(
    fairlead: Fairlead, page: Page, client: Client, stack: EmbeddedStack, tmp_path: Path
) -> None:
    page.write("own", tmp_path)
    answer = fairlead("submit", "--watch", "--json", "digits.yaml")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["state"], last["last_step"], last["total_steps"]) == ("succeeded", 8, 8)
    experiment = client.get(last["id"])

    def kept() -> set[str]:
        return {path.parent.name for path in stack.home.rglob("training.pt") if experiment.id in path.parts}

    # The agent lets go of the others in a thread of its own, after the next word from the control plane.
    wait_for(lambda: kept() == {"ckpt-7", "ckpt-8"}, within_s=60, what="of eight checkpoints the last two")
    wait_for(lambda: recorded(stack, experiment, "accuracy") == [*range(1, 9)], within_s=60, what="all steps")
    with pytest.raises(NotFound, match="report"):
        experiment.report()
    shown = fairlead("show", experiment.id)
    assert (shown.returncode, "accuracy 0.9" in fairlead("logs", experiment.id).stdout) == (0, True), shown.stderr


def test_a_pause_is_no_end_of_a_script_that_counts_nothing(
    page: Page, client: Client, stack: EmbeddedStack, tmp_path: Path
) -> None:
    experiment = submitted(client, page.write("own", tmp_path), "digits", params={"epochs": 150})
    wait_for(lambda: (experiment.refresh().view.last_step or 0) > 2, within_s=ENDS_S, what="some steps")
    experiment.pause()
    wait_for(lambda: experiment.refresh().state is State.PAUSED, within_s=ENDS_S, what="the pause")
    experiment.resume()
    experiment.result(timeout=ENDS_S)
    first, second = experiment.attempts()
    assert (first.outcome, second.outcome) == (Outcome.PREEMPTED, Outcome.SUCCEEDED)
    assert first.last_step is not None
    assert first.last_step < 150
    wait_for(lambda: recorded(stack, experiment, "loss") == [*range(1, 151)], within_s=60, what="every step once")


@pytest.mark.parametrize(
    ("name", "metrics", "steps", "file"),
    [
        ("pictures", ["train/loss", "eval/accuracy"], [22], "trainer_state.json"),  # 64 rows a step
        ("strokes", ["train/loss", "validation/accuracy"], [1], "checkpoint.ckpt"),
    ],
)
def test_scripts_of_other_trainers_train_on_two_ranks(
    page: Page,
    client: Client,
    stack: EmbeddedStack,
    tmp_path: Path,
    name: str,
    metrics: list[str],
    steps: list[int],
    file: str,
) -> None:
    experiment = submitted(client, page.write("own", tmp_path), name, params={"epochs": 1})
    result = experiment.result(timeout=2 * ENDS_S)
    assert set(metrics) <= set(result.metrics)
    for metric in metrics:
        wait_for(lambda key=metric: recorded(stack, experiment, key) == steps, within_s=60, what=metric)
    assert [path for path in stack.home.rglob(file) if experiment.id in path.parts], "a checkpoint is kept"


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ("digit:train", "No module named 'digit'"),
        ("digits:trian", "module digits has no function trian"),
        ("silent:train", "without a call of report"),
    ],
)
def test_code_that_is_not_what_the_spec_says_fails_with_a_reason(
    page: Page, client: Client, tmp_path: Path, workload: str, words: str
) -> None:
    page.write("own", tmp_path)
    (tmp_path / "silent.py").write_text("def train(params, context):\n    print('nothing to say')\n")
    experiment = submitted(client, tmp_path, "digits", workload=workload, resources={"workers": 1})
    with pytest.raises(ExperimentFailed):
        experiment.result(timeout=ENDS_S)
    (attempt,) = experiment.attempts()
    assert attempt.outcome is Outcome.USER_ERROR
    assert words in f"{attempt.reason} {attempt.detail}"

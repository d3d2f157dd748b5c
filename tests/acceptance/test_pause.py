"""Pause and resume on a whole stack: nothing is left while it waits, and nothing is trained or counted twice."""

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import Outcome, State
from fairlead.testing.ray import wait_for
from fairlead.tracking.server import client_environment

EPOCHS = 1000


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in client_environment().items():
        monkeypatch.setenv(name, value)


def recorded_steps(stack: EmbeddedStack, experiment: Experiment) -> Counter[int]:
    """How often MLflow has each step; nothing while it does not answer."""
    with suppress(MlflowException):
        found = MlflowClient(tracking_uri=stack.mlflow_url)
        runs = found.search_runs(
            [each.experiment_id for each in found.search_experiments()],
            f"tags.`fairlead.experiment_id` = '{experiment.id}'",
        )
        run_ids = [run.info.run_id for run in runs]
        return Counter(point.step for key in run_ids for point in found.get_metric_history(key, "train/loss"))
    return Counter()


def processes_of(experiment: Experiment, attempt_no: int) -> list[psutil.Process]:
    """Those that have a file of the attempt open: its runner with its spool, what writes its workers' logs."""
    place = f"/{experiment.id}/a{attempt_no}/"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(place in file.path for file in process.open_files()):
                found.append(process)
    return found


@pytest.mark.nightly  # a minute; by day acceptance/test_stops.py pauses and resumes
def test_a_paused_experiment_leaves_nothing_running_and_goes_on_where_it_stopped(
    stack: EmbeddedStack, client: Client, tmp_path: Path
) -> None:
    spec = {
        "name": "paused",
        "workload": "tabular_mlp",
        "params": {"epochs": EPOCHS},
        "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
    }
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    experiment = client.submit(tmp_path / "spec.json")
    wait_for(lambda: (experiment.refresh().view.last_step or 0) > 20, within_s=240, what="some steps")
    at_work = processes_of(experiment, 1)
    assert at_work, "an attempt at work has files open"
    experiment.pause()
    wait_for(lambda: experiment.refresh().state is State.PAUSED, within_s=120, what="the pause")
    wait_for(
        lambda: not processes_of(experiment, 1) and not any(process.is_running() for process in at_work),
        within_s=60,
        what="the end of every process",
    )
    (first,) = experiment.attempts()
    assert (first.outcome, first.reason) == (Outcome.PREEMPTED, "pause_requested")
    stopped_at = first.last_step
    assert stopped_at is not None
    assert stopped_at < EPOCHS, "it was paused before its end"
    experiment.resume()
    assert experiment.result(timeout=300).state is State.SUCCEEDED
    assert [attempt.outcome for attempt in experiment.attempts()] == [Outcome.PREEMPTED, Outcome.SUCCEEDED]
    resumed = [event for event in experiment.events(follow=False) if event.kind == "resumed"]
    assert [event.attempt_no for event in resumed] == [2]
    assert resumed[0].payload["step"] == stopped_at, "the checkpoint was written when the pause was asked for"
    expected = Counter(range(1, EPOCHS + 1))
    wait_for(lambda: recorded_steps(stack, experiment) == expected, within_s=120, what="every step once in MLflow")

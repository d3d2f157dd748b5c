"""Processes that are killed while an experiment trains: nothing acknowledged is lost, nothing is counted twice."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import attempt_path, runner_name
from fairlead.run.census import marked_processes
from fairlead.store import open_store
from fairlead.testing.history import Expected, violations
from fairlead.tracking.server import client_environment

STEADY = """
import json, os, pathlib, tempfile, time
import numpy as np


def train(params, context):
    start = 0
    if context.resume_from is not None:
        start = json.loads((context.resume_from / "state.json").read_text())["step"]
    print(f"pid {os.getpid()} of rank {context.rank} goes on from step {start}", flush=True)
    for step in range(start + 1, params["steps"] + 1):
        time.sleep(params["step_s"])  # the work of a step
        if step % 5:
            context.report({"train/step": float(step)}, step=step)
            continue
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "state.json").write_text(json.dumps({"step": step}))
            context.report({"train/step": float(step)}, step=step, checkpoint=pathlib.Path(directory))
    test = context.shard("test")
    context.evaluate("test", records=test.records, predictions=np.zeros(len(test), dtype=np.int64))
"""
STEPS = 100


@pytest.fixture
def submit_steady(client: Client, tmp_path: Path) -> Callable[..., Experiment]:
    """Submits user code of 100 steps of a tenth of a second, and returns once it has reached step 10."""
    (tmp_path / "steady.py").write_text(STEADY)

    def submit(name: str, *, workers: int = 2, step_s: float = 0.1) -> Experiment:
        spec: dict[str, Any] = {
            "name": name,
            "workload": "steady:train",
            "code": ".",
            "params": {"steps": STEPS, "step_s": step_s},
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": workers},
            "policy": {"stall_timeout_s": 120},
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        experiment = client.submit(tmp_path / "spec.json")
        _await(lambda: (experiment.refresh().view.last_step or 0) >= 10, f"{name} never reached step 10", 120)
        return experiment

    return submit


def _await(condition: Callable[[], bool], complaint: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


def _is_done(experiment: Experiment) -> bool:
    return experiment.refresh().done()


def _points(stack: EmbeddedStack, experiment: Experiment, key: str = "train/step") -> Counter[int]:
    """How often MLflow has each step of a metric; nothing while MLflow is away."""
    with suppress(MlflowException):
        return _points_now(stack, experiment, key)
    return Counter()


def _points_now(stack: EmbeddedStack, experiment: Experiment, key: str) -> Counter[int]:
    found = MlflowClient(tracking_uri=stack.mlflow_url)
    runs = found.search_runs(
        [each.experiment_id for each in found.search_experiments()],
        f"tags.`fairlead.experiment_id` = '{experiment.id}'",
    )
    assert len(runs) <= 1, "a run was made twice"
    if not runs:  # MLflow may have been away ever since
        return Counter()
    return Counter(point.step for point in found.get_metric_history(runs[0].info.run_id, key))


def _await_every_step_once(stack: EmbeddedStack, experiment: Experiment) -> None:
    expected = Counter(range(1, STEPS + 1))
    _await(lambda: _points(stack, experiment) == expected, "MLflow lacks steps, or has some twice", 90)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in client_environment().items():
        monkeypatch.setenv(name, value)


def test_a_killed_rank_resumes_from_the_last_checkpoint(
    stack: EmbeddedStack, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("killed-rank")
    printed = "\n".join(experiment.logs(rank=1))
    os.kill(int(printed.split("pid ")[1].split()[0]), signal.SIGKILL)
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    events = list(experiment.events())
    resumed = [event for event in events if event.kind == "resumed"]
    assert len(experiment.detail().attempts) == 1
    assert resumed, [event.kind for event in events]
    assert resumed[-1].payload["step"] >= 5
    _await_every_step_once(stack, experiment)


def test_a_killed_train_controller_ends_the_attempt_leaves_nothing_and_the_next_goes_on(
    stack: EmbeddedStack, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("killed-controller")
    name = runner_name(experiment.id, 1)
    processes = {pid: " ".join(psutil.Process(pid).cmdline()) for pid in marked_processes(name)}
    (controller,) = (pid for pid, title in processes.items() if "TrainController" in title)
    os.kill(controller, signal.SIGKILL)
    _await(lambda: len(experiment.detail().attempts) == 2, "there was no second attempt", 90)
    assert marked_processes(name) == ()
    first = experiment.detail().attempts[0]
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "worker_died")
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    resumed = [event for event in experiment.events() if event.kind == "resumed"]
    assert [(event.attempt_no, event.payload["step"] >= 5) for event in resumed] == [(2, True)]
    _assert_kept(stack)


@pytest.mark.nightly  # waits for evidence of a death; Ray's files stay only where a runner could not tidy up
def test_a_snapshot_of_rays_that_was_cut_short_between_attempts_is_never_read(
    stack: EmbeddedStack, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("cut-snapshot")
    name = runner_name(experiment.id, 1)
    attempt = stack.home / "storage" / attempt_path(experiment.view.project, experiment.id, 1)
    os.kill(json.loads((attempt / "BEGUN").read_text())["pid"], signal.SIGKILL)
    _await(lambda: not marked_processes(name), "the workers of a dead runner go on", 60)
    for path in [path for path in (attempt / "ray").rglob("*") if path.is_file()]:
        os.truncate(path, path.stat().st_size // 2)
    (attempt / "ray" / name / "checkpoint_manager_snapshot.json").write_text('{"checkpoint_results": [')
    assert len(experiment.detail().attempts) == 1, "the second attempt has begun before the damage was done"
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    resumed = [event for event in experiment.events() if event.kind == "resumed"]
    assert [(event.attempt_no, event.payload["step"] >= 5) for event in resumed] == [(2, True)]
    assert len(experiment.detail().attempts) == 2
    _assert_kept(stack)


def _assert_kept(stack: EmbeddedStack) -> None:
    """Of all that this stack has done so far."""
    store = open_store(f"sqlite:///{stack.home / 'fairlead.db'}")
    try:
        assert violations(store, Expected(storage=stack.home / "storage")) == ()
    finally:
        store.close()


def test_a_killed_agent_is_replaced_and_the_runner_goes_on(
    stack: EmbeddedStack, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("killed-agent")
    before = stack.pid_of("agent")
    os.kill(before, signal.SIGKILL)
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    assert stack.pid_of("agent") != before
    assert len(experiment.detail().attempts) == 1
    assert not [event for event in experiment.events() if event.kind == "worker_group_restarted"]
    _await_every_step_once(stack, experiment)


def test_a_killed_api_loses_nothing_acknowledged(
    stack: EmbeddedStack, client: Client, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("killed-api")
    spec = {"name": "burst", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}}
    acknowledged: list[str] = []

    def submit(number: int) -> None:
        with stack.client() as own:
            acknowledged.append(own.submit({**spec, "name": f"burst-{number}"}).id)

    with ThreadPoolExecutor(4) as pool:
        submits = [pool.submit(submit, number) for number in range(24)]
        _await(lambda: len(acknowledged) >= 8, "the burst never began", 60)
        os.kill(stack.pid_of("api"), signal.SIGKILL)
        for each in submits:
            each.result(timeout=120)  # the client repeats what was not answered, under the same key
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    names = Counter(client.get(identity).view.name for identity in acknowledged)
    assert names == Counter(f"burst-{number}" for number in range(24))
    stored = [one for one in client.list() if one.view.name.startswith("burst-")]
    assert len(stored) == 24, "a repeated submit made a second experiment"
    for one in stored:
        one.cancel()
    for one in stored:
        _await(partial(_is_done, one), f"{one.id} was not cancelled", 120)
    for one in [experiment, *stored]:
        seqs = [event.seq for event in one.events()]
        assert seqs == list(range(1, len(seqs) + 1))
    _await_every_step_once(stack, experiment)


@pytest.mark.nightly  # a minute; by day the recorder meets an MLflow that is killed
def test_mlflow_dead_for_half_a_minute_neither_pauses_training_nor_loses_a_metric(
    stack: EmbeddedStack, submit_steady: Callable[..., Experiment]
) -> None:
    experiment = submit_steady("killed-mlflow", step_s=0.4)
    killed: set[int] = set()
    steps = [experiment.refresh().view.last_step or 0]
    until = time.monotonic() + 30
    while time.monotonic() < until:  # the supervisor starts it again, so it is killed again
        with suppress(KeyError, ProcessLookupError):  # dead, and not started again yet
            pid = stack.pid_of("mlflow")
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        steps.append(experiment.refresh().view.last_step or 0)
        time.sleep(0.2)
    assert killed
    assert steps[-1] - steps[0] >= 30, "training stood still while MLflow was away"
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    _await_every_step_once(stack, experiment)

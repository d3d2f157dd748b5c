"""Failpoints, and every one of them in real processes: what is killed, fails or sleeps there leaves no broken promise.

A matrix of every name and every action. The control plane's are passed by a real server and a scripted agent; those of
agents and runners by an embedded stack.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead import Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.failpoints import DIRECTORY_VARIABLE, NAMES, VARIABLE, FailpointError, failpoint, parse
from fairlead.lifecycle import State
from fairlead.store import open_store
from fairlead.testing.failpoints import Crash, armed
from fairlead.testing.history import Expected, violations
from fairlead.testing.mlflow import MlflowServer, serving_mlflow
from fairlead.testing.servers import Script, Server
from fairlead.testing.webhooks import receiving

ROOT = Path(__file__).parents[2]
ACTIONS = ("kill", "raise", "sleep=2")
CONTROL = tuple(name for name in NAMES if name.split(".")[0] in ("api", "dispatch", "settle", "evaluate"))
RECORD = tuple(name for name in NAMES if name.startswith("record.") and name != "record.children_made")
OF_SWEEPS = ("record.children_made", *(name for name in NAMES if name.startswith("sweep.")))
"""The script has no sweep: see ``test_record_trials`` and ``test_sweep_reports`` of control, ``test_sweep`` of run."""
CLUSTER_SIDE = tuple(name for name in NAMES if name.split(".")[0] in ("agent", "runner", "storage"))
DELIVER = tuple(name for name in NAMES if name.split(".")[0] in ("outbox", "deliver"))


# ---- the failpoints themselves -------------------------------------------------------------------------------------


def test_every_failpoint_in_the_code_is_named_once_and_every_name_is_in_the_matrix() -> None:
    passed = sorted(
        node.args[0].value
        for root in ("platform/fairlead", "api/fairlead_api")
        for path in (ROOT / root).rglob("*.py")
        if "testing" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint"
        if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    )
    assert passed == sorted(NAMES)
    assert sorted((*CONTROL, *RECORD, *OF_SWEEPS, *DELIVER, *CLUSTER_SIDE)) == sorted(NAMES)


def test_a_failpoint_does_nothing_unless_it_was_armed_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "agent.leased:raise")
    failpoint("agent.leased")


def test_an_armed_failpoint_acts_once() -> None:
    with armed("agent.leased", "raise"):
        with pytest.raises(FailpointError, match=re.escape("agent.leased: the attempt is leased")):
            failpoint("agent.leased")
        failpoint("agent.leased")
    with armed("agent.leased"), pytest.raises(Crash):
        failpoint("agent.leased")


@pytest.mark.parametrize("text", ["agent.nowhere:kill", "agent.leased:explode"])
def test_what_a_failpoint_cannot_do_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="failpoint"):
        parse(text)


def test_a_file_arms_a_failpoint_for_the_first_process_that_passes(tmp_path: Path) -> None:
    (tmp_path / "agent.leased").write_text("kill")
    program = "from fairlead.failpoints import failpoint; failpoint('agent.leased'); print('alive')"
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", program]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (first.returncode, first.stdout) == (-9, "")
    assert (second.returncode, second.stdout) == (0, "alive\n")
    assert [path.name for path in tmp_path.iterdir()] == ["agent.leased.taken"]


# ---- the control plane, with a scripted agent ----------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def _play(server: Server, names: tuple[str, ...], action: str) -> None:
    for name in names:
        (server.failpoints / name).write_text(action)
    acknowledged = Script(server).play()
    taken = {path.name.removesuffix(".taken") for path in server.failpoints.glob("*.taken")}
    assert taken == set(names), f"never passed: {set(names) - taken}"
    if action == "kill":
        assert server.num_starts == len(names) + 1
    _check(server, acknowledged)


def _check(server: Server, acknowledged: dict[str, str]) -> None:
    assert server.violations(acknowledged) == ()


def test_a_server_killed_at_one_place_after_the_other_keeps_every_promise(server: Server) -> None:
    _play(server, ("api.inserted", "dispatch.placed", "api.claimed", "evaluate.reported"), "kill")


def test_a_server_that_fails_at_every_place_keeps_every_promise(server: Server) -> None:
    _play(server, tuple(name for name in CONTROL if not name.startswith("evaluate.")), "raise")


@pytest.mark.nightly  # a server, killed or not, for each of thirty cases
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", CONTROL)
def test_a_server_in_trouble_at_a_failpoint_keeps_every_promise(server: Server, name: str, action: str) -> None:
    if name.startswith("evaluate.") and action == "raise":
        pytest.skip("an evaluation that errs is held for a human, as it should be: see test_loops")
    _play(server, (name,), action)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with serving_mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.mark.nightly  # MLflow and nine servers
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", RECORD)
def test_a_recorder_in_trouble_at_a_failpoint_loses_and_doubles_nothing(
    mlflow: MlflowServer, tmp_path: Path, name: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from fairlead.tracking.server import client_environment

    for key, value in client_environment().items():
        monkeypatch.setenv(key, value)
    server = Server(tmp_path, mlflow_url=mlflow.url)
    (server.failpoints / name).write_text(action)
    try:
        acknowledged = Script(server).play()
        found = MlflowClient(tracking_uri=mlflow.url)

        def recorded() -> bool:
            runs = found.search_runs(
                [each.experiment_id for each in found.search_experiments()],
                f"tags.`fairlead.experiment_id` = '{acknowledged['one']}'",
            )
            assert len(runs) <= 1, "two runs of one experiment"
            if not runs or runs[0].info.status != "FINISHED":
                return False
            return [one.step for one in found.get_metric_history(runs[0].info.run_id, "loss")] == list(range(5))

        server.until("every point, once, in one finished run", recorded)
        assert (server.failpoints / f"{name}.taken").exists()
        _check(server, acknowledged)
    finally:
        server.stop()


# ---- webhooks ------------------------------------------------------------------------------------------------------


def _play_with_a_receiver(server: Server, names: tuple[str, ...], action: str) -> None:
    """A crash between an answer and its note sends again, under the same id, when the lock is over."""
    for name in names:
        (server.failpoints / name).write_text(action)
    with receiving() as receiver:
        body, headers = {"url": receiver.url()}, {"Idempotency-Key": "hook"}
        ask = lambda: server.http("POST", "/v1/webhooks", json=body, headers=headers)  # noqa: E731
        webhook_id = server.until("a webhook", ask)["id"]
        acknowledged = Script(server).play()
        pending = f"/v1/webhooks/{webhook_id}/deliveries?state=eq:pending"
        done = lambda: (page := server.http("GET", pending)) is not None and page["items"] == []  # noqa: E731
        server.until("the last delivery", done)
        assert {path.name.removesuffix(".taken") for path in server.failpoints.glob("*.taken")} == set(names)
        got = {webhook_id: frozenset(receiver.ids)}
        assert server.violations(acknowledged, received=got) == ()


def test_a_server_killed_between_a_delivery_and_its_note_delivers_everything_under_one_id(server: Server) -> None:
    _play_with_a_receiver(server, ("outbox.announcing", "deliver.sent"), "kill")


@pytest.mark.nightly  # a server for each of twelve cases, which waits for locks to pass
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", DELIVER)
def test_a_delivery_in_trouble_at_a_failpoint_loses_no_message(server: Server, name: str, action: str) -> None:
    _play_with_a_receiver(server, (name,), action)


# ---- agents and runners, in an embedded stack ----------------------------------------------------------------------

WORK = """
import json, pathlib, tempfile, time
import numpy as np


def train(params, context):
    start = 0
    if context.resume_from is not None:
        start = json.loads((context.resume_from / "state.json").read_text())["step"]
    for step in range(start + 1, 9):
        time.sleep(0.05)
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "state.json").write_text(json.dumps({"step": step}))
            checkpoint = pathlib.Path(directory) if step % 4 == 0 else None
            context.report({"loss": 1.0 / step}, step=step, checkpoint=checkpoint)
    test = context.shard("test")
    context.evaluate("test", records=test.records, predictions=np.zeros(len(test), dtype=np.int64))
"""


@dataclass
class Bench:
    """A stack whose processes look for failpoints in a directory."""

    stack: EmbeddedStack
    failpoints: Path

    def run(self, directory: Path, names: tuple[str, ...], action: str) -> Experiment:
        """One experiment through all of them, to its end."""
        (directory / "work.py").write_text(WORK)
        spec = {"name": "passing", "workload": "work:train", "code": ".", "data": {"uri": "builtin://diabetes"}}
        (directory / "spec.json").write_text(json.dumps({**spec, "policy": {"stall_timeout_s": 60}}))
        for name in names:
            (self.failpoints / name).write_text(action)
        with self.stack.client() as client:
            experiment = client.submit(directory / "spec.json")
            experiment.result(timeout=400)
            assert experiment.view.state is State.SUCCEEDED, experiment.view.reason
        for name in names:
            assert (self.failpoints / f"{name}.taken").exists(), f"{name} was never passed"
            (self.failpoints / f"{name}.taken").unlink()
        self.check(experiment.id)
        return experiment

    def check(self, experiment_id: str) -> None:
        store = open_store(f"sqlite:///{self.stack.home / 'fairlead.db'}")
        try:
            expected = Expected(storage=self.stack.home / "storage", acknowledged={"the stack's": experiment_id})
            assert violations(store, expected) == ()
        finally:
            store.close()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory = tmp_path_factory.mktemp("failpoints")
    environment = {**os.environ, DIRECTORY_VARIABLE: str(directory)}
    with EmbeddedStack(tmp_path_factory.mktemp("home"), cpus=2, environment=environment) as stack:
        yield Bench(stack, directory)


@pytest.mark.nightly  # a minute; by day agent, runner and ranks are killed where they stand
def test_an_agent_and_a_runner_killed_between_their_side_effects_lose_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.run(tmp_path, ("agent.leased", "runner.checkpoint", "agent.claiming"), "kill")


@pytest.mark.nightly  # an experiment for each of fifty cases, some of which wait for evidence of a death
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", [name for name in CLUSTER_SIDE if name != "agent.attached"])
def test_an_agent_or_runner_in_trouble_at_a_failpoint_loses_nothing(
    bench: Bench, tmp_path: Path, name: str, action: str
) -> None:
    bench.run(tmp_path, (name,), action)


@pytest.mark.nightly  # needs an agent that starts anew
@pytest.mark.parametrize("action", ACTIONS)
def test_an_agent_in_trouble_right_after_it_attached_is_followed_by_another(
    bench: Bench, tmp_path: Path, action: str
) -> None:
    bench.run(tmp_path, ("agent.leased", "agent.attached"), action if action != "sleep=2" else "kill")

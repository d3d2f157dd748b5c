"""Failpoints, and every one of them in real processes: what is killed, fails or sleeps there leaves no broken promise.

A matrix of every name and every action. The control plane's are passed by a real server and a scripted agent; those of
agents and runners by an embedded stack.
"""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fairlead import Experiment
from fairlead.agent.control_plane import ControlPlane
from fairlead.embedded import EmbeddedStack
from fairlead.errors import FairleadError
from fairlead.evaluation import CountState
from fairlead.failpoints import DIRECTORY_VARIABLE, NAMES, VARIABLE, FailpointError, failpoint, parse
from fairlead.lifecycle import Observation, Outcome, State
from fairlead.protocol import (
    BEGUN_FILE,
    AttachRequest,
    AttemptObservation,
    Batch,
    CheckpointCommit,
    EvaluationSummary,
    FileEntry,
    LaunchDocument,
    LeaseRequest,
    MetricPoint,
    NodeInfo,
    ResultClaim,
    ResultDocument,
    StartedReport,
    SyncRequest,
)
from fairlead.run.storage import commit_checkpoint, describe_file
from fairlead.store import open_store, tokens
from fairlead.testing import a_spec
from fairlead.testing.failpoints import Crash, armed
from fairlead.testing.history import Expected, violations
from fairlead.testing.mlflow import MlflowServer, free_port, serving_mlflow
from fairlead.testing.webhooks import receiving
from fairlead.workload import Attribute

ROOT = Path(__file__).parents[2]
ACTIONS = ("kill", "raise", "sleep=2")
CONTROL = tuple(name for name in NAMES if name.split(".")[0] in ("api", "dispatch", "settle", "evaluate"))
RECORD = tuple(name for name in NAMES if name.startswith("record."))
CLUSTER_SIDE = tuple(name for name in NAMES if name.split(".")[0] in ("agent", "runner", "storage"))
DELIVER = tuple(name for name in NAMES if name.split(".")[0] in ("outbox", "deliver"))
LIMIT_S = 240.0


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
    assert sorted((*CONTROL, *RECORD, *DELIVER, *CLUSTER_SIDE)) == sorted(NAMES)


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


@dataclass
class Server:
    """A real api process with its loops, started again whenever it has died; and a user and an agent of it."""

    directory: Path
    mlflow_url: str = "http://127.0.0.1:9"
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    num_starts: int = 0
    user: str = ""
    agent: str = ""

    def __post_init__(self) -> None:
        self.failpoints.mkdir()
        (self.directory / "secret").write_bytes(b"k" * 32)
        entries = []
        for kind in ("user", "agent"):
            token_id, token = tokens.new_token()
            entry = {"id": token_id, "sha256": tokens.hash_token(token), "kind": kind, "name": kind}
            entries.append(entry | ({"cluster": "local"} if kind == "agent" else {}))
            setattr(self, kind, token)
        (self.directory / "tokens.json").write_text(json.dumps({"tokens": entries}))

    @property
    def failpoints(self) -> Path:
        return self.directory / "failpoints"

    @property
    def storage(self) -> Path:
        return self.directory / "storage"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.directory / 'fairlead.db'}"

    def keep_running(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        own = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
        settings = {
            "FAIRLEAD_DATABASE_URL": self.database_url,
            "FAIRLEAD_STORAGE": str(self.storage),
            "FAIRLEAD_MLFLOW_URL": self.mlflow_url,
            "FAIRLEAD_SECRET_KEY_FILE": str(self.directory / "secret"),
            "FAIRLEAD_TOKENS_FILE": str(self.directory / "tokens.json"),
            "FAIRLEAD_PORT": str(self.port),
            "FAIRLEAD_WITH_CONTROL": "1",
            "FAIRLEAD_IDLE_S": "0.2",
            "FAIRLEAD_WEBHOOK_NETWORKS": "127.0.0.0/8",
            DIRECTORY_VARIABLE: str(self.failpoints),
        }
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "fairlead_api"], env=own | settings, stderr=log)
        self.num_starts += 1

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def until(self, what: str, ask: Callable[[], Any]) -> Any:
        """Repeat a step through deaths of the server until it has an answer."""
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            self.keep_running()
            with suppress(httpx.HTTPError, FairleadError):
                if answer := ask():
                    return answer
            time.sleep(0.1)
        raise AssertionError(f"{what} never came:\n{(self.directory / 'server.log').read_text()[-3000:]}")

    def http(self, method: str, path: str, **more: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.user}", **more.pop("headers", {})}
        answer = httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, **more)
        return answer.json() if answer.is_success else None


@dataclass
class Script:
    """One experiment that succeeds with a report and one that is cancelled and dies, step by step, each repeatable."""

    server: Server
    epoch: int = 0
    observations: dict[str, AttemptObservation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.control = ControlPlane(self.server.url, agent_token=self.server.agent)

    def play(self) -> dict[str, str]:
        """Both from their submit to their end; returns what was acknowledged under which key."""
        first = self.submit("one")
        self.server.until("an agent", self._attach)
        self._run(self._take(first))
        self._await(first, State.SUCCEEDED)
        second = self.submit("two")
        document = self._take(second)
        self._start(document)
        self.server.until("a cancel", lambda: self.server.http("POST", f"/v1/experiments/{second}/cancel"))
        self._see(document.attempt_id, Observation.ABSENT, has_evidence_of_death=True, death_reason="runner_died")
        self._await(second, State.CANCELLED)
        self.control.close()
        return {"one": first, "two": second}

    def submit(self, key: str) -> str:
        body = a_spec(name=key).model_dump(mode="json", by_alias=True)
        headers = {"Idempotency-Key": key}
        ask = lambda: self.server.http("POST", "/v1/experiments", json=body, headers=headers)  # noqa: E731
        return str(self.server.until(f"an answer to the submit of {key}", ask)["id"])

    def _attach(self) -> int:
        node = NodeInfo(node_id="n", address="h", is_alive=True, cpus=2, gpus=0, free_cpus=2, free_gpus=0)
        request = AttachRequest(protocol=1, agent_version="1", ray_version="2", ray_session="s", nodes=(node,))
        self.epoch = self.control.attach(request).agent_epoch
        return self.epoch

    def _sync(self) -> Any:
        seen = tuple(self.observations.values())
        return self.control.sync(SyncRequest(agent_epoch=self.epoch, ray_session="s", observations=seen))

    def _see(self, attempt_id: str, observation: Observation, **more: Any) -> None:
        self.observations[attempt_id] = AttemptObservation(attempt_id=attempt_id, observation=observation, **more)

    def _take(self, experiment_id: str) -> LaunchDocument:
        """A lease whose answer is lost is offered again after a while, since the agent does not list the attempt."""

        def take() -> LaunchDocument | None:
            offers = [offer.attempt_id for offer in self._sync().offers if offer.attempt_id.startswith(experiment_id)]
            return self.control.lease(offers[0], LeaseRequest(agent_epoch=self.epoch)) if offers else None

        document: LaunchDocument = self.server.until("an offer", take)
        return document

    def _start(self, document: LaunchDocument) -> None:
        own = self.server.storage / document.storage_path
        own.mkdir(parents=True, exist_ok=True)
        (own / BEGUN_FILE).write_text(json.dumps({"node_id": "n"}))
        self._see(document.attempt_id, Observation.PRESENT)
        report, token = StartedReport(node_id="n", pid=1, ray_session="s"), document.attempt_token
        self.server.until("a start", lambda: self.control.started(document.attempt_id, report, token=token) or True)

    def _run(self, document: LaunchDocument) -> None:
        self._start(document)
        key, token = document.attempt_id, document.attempt_token
        own = self.server.storage / document.storage_path
        points = tuple(MetricPoint(key="loss", value=1.0, step=step, at_ms=step + 1) for step in range(5))
        batch = Batch(stream="metrics", first_offset=0, points=points)
        self.server.until("room for a batch", lambda: self._ship(key, batch, token))
        (own / "ckpt-4.tmp-1").mkdir()
        (own / "ckpt-4.tmp-1" / "weights").write_bytes(b"w")
        files = (describe_file(own / "ckpt-4.tmp-1" / "weights", root=own / "ckpt-4.tmp-1"),)
        made = commit_checkpoint(own / "ckpt-4.tmp-1", files, step=4, world_size=1)
        path = f"{document.storage_path}/ckpt-4"
        commit = CheckpointCommit(step=4, path=path, manifest_sha256=made.manifest_sha256)
        self.server.until("a commit", lambda: self.control.commit(key, commit, token=token) or True)
        claim = ResultClaim(result=_result(document, own), result_sha256="f" * 64)
        self.server.until("a claim", lambda: self.control.claim(key, claim, token=token) or True)
        del self.observations[key]

    def _ship(self, key: str, batch: Batch, token: str) -> int:
        try:
            return self.control.ship(key, batch, token=token)
        except FairleadError as error:  # it was taken before, and its answer lost
            return int(getattr(error, "expected", 0))

    def _await(self, experiment_id: str, state: State) -> None:
        def reached() -> bool:
            self._sync()
            return bool(self.server.http("GET", f"/v1/experiments/{experiment_id}")["state"] == state)

        self.server.until(f"{experiment_id} {state}", reached)


def _result(document: LaunchDocument, own: Path) -> ResultDocument:
    attributes = (Attribute(name="sex", levels=("f", "m")), Attribute(name="age_band", levels=("old", "young")))
    state = CountState(attributes=attributes, classes=("no", "yes"))
    rows = np.arange(200)
    groups = np.stack([rows % 2, rows // 2 % 2], axis=1).astype(np.int16)
    state.update(groups, labels=rows // 4 % 2, predictions=rows // 4 % 2, record_hashes=(rows + 1).astype(np.uint64))
    content = state.to_bytes()
    (own / "evaluation.state").write_bytes(content)
    summary = EvaluationSummary(
        state_file=FileEntry(path="evaluation.state", size=len(content), sha256=hashlib.sha256(content).hexdigest()),
        expected_rows=200,
        expected_sum=state.record_sum,
        expected_xor=state.record_xor,
    )
    now = datetime.now(UTC)
    return ResultDocument(
        experiment_id=document.experiment_id,
        attempt_no=1,
        outcome=Outcome.SUCCEEDED,
        reason="completed",
        evaluation=summary,
        started_at=now,
        ended_at=now,
    )


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
    store = open_store(server.database_url)
    try:
        assert violations(store, Expected(acknowledged=acknowledged, storage=server.storage)) == ()
    finally:
        store.close()


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
        store = open_store(server.database_url)
        try:
            got = {webhook_id: frozenset(receiver.ids)}
            expected = Expected(acknowledged=acknowledged, storage=server.storage, received=got)
            assert violations(store, expected) == ()
        finally:
            store.close()


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

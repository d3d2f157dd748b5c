"""A real api process with its loops, and a scripted agent: the control plane alone, for tests of its faults.

``Server`` is started again whenever it has died. ``Script`` says what an agent would say, each step repeatable.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from fairlead.agent.control_plane import ControlPlane
from fairlead.errors import FairleadError
from fairlead.evaluation import CountState
from fairlead.failpoints import DIRECTORY_VARIABLE
from fairlead.lifecycle import Observation, Outcome, State
from fairlead.protocol import (
    BEGUN_FILE,
    PROTOCOL,
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
from fairlead.testing.history import Expected, violations
from fairlead.testing.mlflow import free_port
from fairlead.workload import Attribute

LIMIT_S = 240.0


@dataclass
class Server:
    """A real api process with its loops, started again whenever it has died; and a user and an agent of it.

    ``clusters``: those that may have an agent; the first is that of ``agent``, the token.
    ``database_url``: a SQLite file in ``directory`` unless given. ``environment``: more settings of its process.
    ``prefix``: what the command line begins with, such as ``prlimit`` and its options.
    """

    directory: Path
    mlflow_url: str = "http://127.0.0.1:9"
    database_url: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    clusters: Sequence[str] = ("local",)
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    num_starts: int = 0
    user: str = ""
    agents: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.failpoints.mkdir()
        self.database_url = self.database_url or f"sqlite:///{self.directory / 'fairlead.db'}"
        (self.directory / "secret").write_bytes(b"k" * 32)
        entries = []
        for cluster in (None, *self.clusters):
            token_id, token = tokens.new_token()
            entry = {"id": token_id, "sha256": tokens.hash_token(token)}
            if cluster is None:
                self.user = token
                entries.append(entry | {"kind": "user", "name": "user"})
            else:
                self.agents[cluster] = token
                entries.append(entry | {"kind": "agent", "name": "agent", "cluster": cluster})
        (self.directory / "tokens.json").write_text(json.dumps({"tokens": entries}))

    @property
    def agent(self) -> str:
        """The token of the first cluster's agent."""
        return self.agents[self.clusters[0]]

    @property
    def failpoints(self) -> Path:
        """Where its process looks for failpoints."""
        return self.directory / "failpoints"

    @property
    def storage(self) -> Path:
        """The shared storage."""
        return self.directory / "storage"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.directory / "server.log").read_text(errors="replace")

    def keep_running(self) -> None:
        """Start it unless it runs."""
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
            "FAIRLEAD_MIGRATE": "1",
            "FAIRLEAD_IDLE_S": "0.2",
            "FAIRLEAD_WEBHOOK_NETWORKS": "127.0.0.0/8",
            DIRECTORY_VARIABLE: str(self.failpoints),
        }
        command = [*self.prefix, sys.executable, "-m", "fairlead_api"]
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=own | settings | dict(self.environment), stderr=log)
        self.num_starts += 1

    def start(self) -> None:
        """Start it and return when it is ready."""
        self.until("readiness", lambda: self.get("/readyz").status_code == 200)

    def stop(self) -> None:
        """End it as a power cut would."""
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
        raise AssertionError(f"{what} never came:\n{self.log[-3000:]}")

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request of the user's. Raises ``httpx.TransportError``."""
        headers = {"Authorization": f"Bearer {self.user}", **more.pop("headers", {})}
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=30, **more)

    def get(self, path: str) -> httpx.Response:
        """What the address answers."""
        return self.ask("GET", path)

    def http(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of a good answer; None of any other."""
        answer = self.ask(method, path, **more)
        return answer.json() if answer.is_success else None

    def submit(self, key: str) -> httpx.Response:
        """One try to submit an experiment of that name under that idempotency key."""
        body = a_spec(name=key).model_dump(mode="json", by_alias=True)
        return self.ask("POST", "/v1/experiments", json=body, headers={"Idempotency-Key": key})

    def violations(self, acknowledged: Mapping[str, str], **more: Any) -> tuple[str, ...]:
        """Every promise that its database and its storage show to be broken. ``more``: see ``history.Expected``."""
        store = open_store(self.database_url)
        try:
            return violations(store, Expected(acknowledged=acknowledged, storage=self.storage, **more))
        finally:
            store.close()


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
        self.server.until("an agent", self.attach)
        self.run(self.take(first))
        self.expect(first, State.SUCCEEDED)
        second = self.submit("two")
        document = self.take(second)
        self.begin(document)
        self.server.until("a cancel", lambda: self.server.http("POST", f"/v1/experiments/{second}/cancel"))
        self.see(document.attempt_id, Observation.ABSENT, has_evidence_of_death=True, death_reason="runner_died")
        self.expect(second, State.CANCELLED)
        self.control.close()
        return {"one": first, "two": second}

    def submit(self, key: str) -> str:
        """Submit until it is acknowledged; the experiment's id."""

        def acknowledged() -> Any:
            answer = self.server.submit(key)
            return answer.json() if answer.is_success else None

        return str(self.server.until(f"an answer to the submit of {key}", acknowledged)["id"])

    def attach(self) -> int:
        """Become the cluster's agent; the epoch."""
        node = NodeInfo(node_id="n", address="h", is_alive=True, cpus=2, gpus=0, free_cpus=2, free_gpus=0)
        request = AttachRequest(protocol=PROTOCOL, agent_version="1", ray_version="2", ray_session="s", nodes=(node,))
        self.epoch = self.control.attach(request).agent_epoch
        return self.epoch

    def _sync(self) -> Any:
        seen = tuple(self.observations.values())
        return self.control.sync(SyncRequest(agent_epoch=self.epoch, ray_session="s", observations=seen))

    def see(self, attempt_id: str, observation: Observation, **more: Any) -> None:
        """What every sync says of an attempt from now on."""
        self.observations[attempt_id] = AttemptObservation(attempt_id=attempt_id, observation=observation, **more)

    def take(self, experiment_id: str) -> LaunchDocument:
        """A lease whose answer is lost is offered again after a while, since the agent does not list the attempt."""

        def take() -> LaunchDocument | None:
            offers = [offer.attempt_id for offer in self._sync().offers if offer.attempt_id.startswith(experiment_id)]
            return self.control.lease(offers[0], LeaseRequest(agent_epoch=self.epoch)) if offers else None

        document: LaunchDocument = self.server.until("an offer", take)
        return document

    def begin(self, document: LaunchDocument) -> None:
        """The runner has begun."""
        own = self.server.storage / document.storage_path
        own.mkdir(parents=True, exist_ok=True)
        (own / BEGUN_FILE).write_text(json.dumps({"node_id": "n"}))
        self.see(document.attempt_id, Observation.PRESENT)
        report, token = StartedReport(node_id="n", pid=1, ray_session="s"), document.attempt_token
        self.server.until(
            "a start", lambda: _sent(lambda: self.control.started(document.attempt_id, report, token=token))
        )

    def run(self, document: LaunchDocument) -> None:
        """From the runner's beginning to its result, with points and a checkpoint."""
        self.begin(document)
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
        self.server.until("a commit", lambda: _sent(lambda: self.control.commit(key, commit, token=token)))
        claim = ResultClaim(result=_result(document, own), result_sha256="f" * 64)
        self.server.until("a claim", lambda: _sent(lambda: self.control.claim(key, claim, token=token)))
        del self.observations[key]

    def _ship(self, key: str, batch: Batch, token: str) -> int:
        try:
            return self.control.ship(key, batch, token=token)
        except FairleadError as error:  # it was taken before, and its answer lost
            return int(getattr(error, "expected", 0))

    def expect(self, experiment_id: str, state: State) -> None:
        """Go on reporting until the experiment has reached a state."""

        def reached() -> bool:
            self._sync()
            return bool(self.server.http("GET", f"/v1/experiments/{experiment_id}")["state"] == state)

        self.server.until(f"{experiment_id} {state}", reached)


def _sent(call: Callable[[], object]) -> bool:
    call()
    return True


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

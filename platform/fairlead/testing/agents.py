"""A real agent on a real Ray, talking to a control plane in memory, for tests."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from fairlead.bundle import pack
from fairlead.protocol import LaunchDocument
from fairlead.run.census import find_family, marked_processes
from fairlead.run.messages import RunnerStatus
from fairlead.testing.control import AGENT_TOKEN, FakeAttempt, FakeControlPlane
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import TINY, a_launch, a_spec, wait_for

START_S = 180


@dataclass
class Stack:
    """An agent's surroundings. ``offer`` first, ``start_agent`` then, or the other way round."""

    plane: FakeControlPlane
    head: LocalRay
    directory: Path
    agents: list[psutil.Process] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Path:
        """The shared storage."""
        return self.directory / "storage"

    def start_agent(self) -> "subprocess.Popen[bytes]":
        """Start an agent as its supervisor would, with short rests."""
        token = self.directory / "agent-token"
        token.write_text(AGENT_TOKEN)
        settings = {
            "FAIRLEAD_CONTROL_URL": self.plane.url,
            "FAIRLEAD_AGENT_TOKEN_FILE": str(token),
            "FAIRLEAD_RAY_ADDRESS": self.head.address,
            "FAIRLEAD_STORAGE": str(self.storage),
            "FAIRLEAD_CACHE": str(self.directory / "cache"),
            "FAIRLEAD_TICK_S": "0.3",
            "FAIRLEAD_SYNC_WAIT_S": "0.5",
            "FAIRLEAD_EVIDENCE_GAP_S": "2",
            "FAIRLEAD_STRAY_AFTER_S": "2",
        }
        with open(self.directory / "agent.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fairlead.agent"],
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.agents.append(psutil.Process(process.pid))
        return process

    def offer(self, experiment_id: str, **params: Any) -> FakeAttempt:
        """Offer an attempt of the tiny workload; ``workers``, ``policy`` and the workload's own parameters."""
        bundle = pack(self.directory / "code")
        self.plane.bundles[bundle.sha256] = bundle.content
        resources = {"workers": params.pop("workers", 1), "cpus_per_worker": 1}
        policy = params.pop("policy", {})
        spec = a_spec(params=params, resources=resources, policy=policy, code=f"sha256:{bundle.sha256}")
        document = a_launch(experiment_id, spec=spec, code_sha256=bundle.sha256)
        self.names.append(document.runner_name)
        return self.plane.offer(document)

    def runner_status(self, document: LaunchDocument) -> RunnerStatus:
        """What the runner itself says."""
        runner = ray.get_actor(document.runner_name, namespace="fairlead")
        status: RunnerStatus = ray.get(runner.status.remote(), timeout=20)
        return status

    def log(self) -> str:
        """What the agents have said."""
        return (self.directory / "agent.log").read_text()


def kill_tree(process: psutil.Process) -> None:
    """As a machine would: supervisor and agent at once, without a word."""
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.kill()
    psutil.wait_procs(family, timeout=10)


@pytest.fixture
def stack(local_ray: LocalRay, tmp_path: Path) -> Iterator[Stack]:
    """Everything but the agent; ends what is left of the attempts."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "tiny.py").write_bytes(TINY.read_bytes())
    (tmp_path / "storage").mkdir()
    plane = FakeControlPlane()
    made = Stack(plane=plane, head=local_ray, directory=tmp_path)
    try:
        yield made
        print(made.log()[-4000:])
    finally:
        for name in made.names:
            attempt = next(each for each in plane.attempts.values() if each.document.runner_name == name)
            attempt.is_over = True
        if made.agents and made.agents[-1].is_running():
            wait_for(lambda: all(is_gone(name) for name in made.names), within_s=90, what="an empty cluster")
        for process in made.agents:
            if process.is_running():
                process.terminate()
        _, left = psutil.wait_procs(made.agents, timeout=20)
        plane.close()
        assert not left, "an agent did not end on SIGTERM"


def is_gone(runner_name: str) -> bool:
    """Whether nothing of an attempt is left on this machine."""
    return find_family(runner_name).is_gone and not marked_processes(runner_name)


def has_step(attempt: FakeAttempt, step: int) -> bool:
    """Whether a step has arrived."""
    return step in attempt.steps("train/loss")


def wait_for_claim(attempt: FakeAttempt, within_s: float = START_S) -> Any:
    """The result, once it was claimed."""
    return wait_for(lambda: attempt.claim, within_s=within_s, what="the result").result

"""How long an agent lets the control plane hold an answer back."""

import math
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.agent import cluster as agents_cluster
from fairlead.agent.agent import Agent
from fairlead.agent.cluster import HURRIED_S, RayCluster


@pytest.mark.parametrize(
    ("is_freeing", "leaving", "patience_s"),
    [(False, [], 2.0), (False, [False], 2.0), (False, [False, True], HURRIED_S), (True, [], HURRIED_S)],
)
def test_nobody_waits_for_room_that_an_attempt_gives_back(
    is_freeing: bool, leaving: list[bool], patience_s: float
) -> None:
    parts: Any = SimpleNamespace(
        cluster=SimpleNamespace(is_freeing=is_freeing), settings=SimpleNamespace(sync_wait_s=2.0, storage=None)
    )
    agent = Agent(parts, threading.Event())
    agent._tended = {str(number): SimpleNamespace(is_leaving=one) for number, one in enumerate(leaving)}  # type: ignore[misc]
    assert agent._patience_s() == patience_s


def test_an_attempt_that_is_removed_again_and_again_hurries_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RayCluster(address="127.0.0.1:1", storage=tmp_path, worker_start_timeout_s=1)  # nobody listens there
    monkeypatch.setattr(cluster, "_answered_s", time.monotonic())
    monkeypatch.setattr(cluster, "_end_family", lambda runner_name: True)
    monkeypatch.setattr(cluster, "_on_every_node", lambda function, runner_name: (4711,))
    monkeypatch.setattr(agents_cluster, "marked_processes", lambda runner_name: ())
    hurries = []
    for name in ("fl-a-a1", "fl-a-a1", "fl-b-a1"):
        cluster._freed_s = -math.inf
        assert not cluster.remove(name), "a process of it is there that cannot be ended"
        hurries.append(cluster.is_freeing)
    cluster.close()
    assert hurries == [True, False, True]

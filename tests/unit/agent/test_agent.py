"""How long an agent lets the control plane hold an answer back."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from fairlead.agent.agent import Agent
from fairlead.agent.cluster import HURRIED_S


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

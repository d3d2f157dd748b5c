"""Stops of workloads that do not want to end. Nothing of an attempt may be left a minute after the word."""

import time

import psutil
import pytest

from fairlead.lifecycle import Outcome
from fairlead.protocol import STOP_GRACE_S, StopMode
from fairlead.testing.agents import START_S, Stack, has_step, is_gone, wait_for_claim
from fairlead.testing.ray import wait_for

BOUND_S = 60.0


def is_dead(process: psutil.Process) -> bool:
    """Gone, or waiting to be collected by whoever takes in orphans on this machine."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.nightly  # half a minute; the acceptance tests ask the same of a whole stack
def test_a_cancel_ends_ignored_signals_daemons_and_blocked_interpreters_within_a_minute(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-defy", misbehave="defy_or_block", rank="every", workers=2)
    wait_for(lambda: has_step(attempt, 0), within_s=START_S, what="the first step")
    logs = stack.storage / attempt.document.storage_path / "logs"
    words = wait_for(
        lambda: [each.read_text() for each in logs.glob("rank-0.0*.log") if "daemons" in each.read_text()],
        within_s=60,
        what="the daemons",
    )
    daemons = [psutil.Process(int(pid)) for pid in words[0].split("daemons ")[1].split()[:2]]
    assert attempt.claim is None, attempt.claim
    ranks = [psutil.Process(pid) for pid in stack.runner_status(attempt.document).worker_pids.values()]
    assert len(ranks) == 2
    asked = time.monotonic()
    stack.plane.ask_to_stop(attempt.document.attempt_id, StopMode.CANCEL, grace_s=STOP_GRACE_S[StopMode.CANCEL])
    result = wait_for_claim(attempt, within_s=BOUND_S)
    wait_for(lambda: is_gone(attempt.document.runner_name), within_s=BOUND_S, what="the end of all processes")
    wait_for(lambda: all(is_dead(each) for each in [*daemons, *ranks]), within_s=10, what="the last breath")
    took_s = time.monotonic() - asked
    print(f"everything was gone {took_s:.1f} s after the cancel")
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "cancelled")
    assert took_s < BOUND_S

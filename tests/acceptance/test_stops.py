"""Stops and stalls on a whole stack: whatever a user's code does, it ends, and what it did can be read."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.lifecycle import State
from fairlead.testing.ray import TINY, wait_for

CANCEL_BOUND_S = 60.0
Submit = Callable[..., Experiment]


@pytest.fixture
def submit_tiny(client: Client, tmp_path: Path) -> Submit:
    """Submits the workload that misbehaves as its parameters say."""
    (tmp_path / "tiny.py").write_bytes(TINY.read_bytes())
    (tmp_path / "dead.py").write_text("import ctypes\nctypes.string_at(0)\n")

    def submit(name: str, *, workload: str = "tiny:train", workers: int = 1, **more: Any) -> Experiment:
        spec = {
            "name": name,
            "workload": workload,
            "code": ".",
            "params": more.pop("params", {}),
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": workers},
            "policy": more,
        }
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        return client.submit(tmp_path / "spec.json")

    return submit


def is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_cancel_ends_everything_within_a_minute_whatever_the_code_does(submit_tiny: Submit) -> None:
    params = {"misbehave": "defy_or_block", "rank": "every"}
    experiment = submit_tiny("defiant", workers=2, params=params)
    line = wait_for(
        lambda: next((each for each in experiment.logs() if each.startswith("daemons ")), None),
        within_s=180,
        what="the daemons",
    )
    daemons = [int(pid) for pid in line.split()[1:3]]
    asked = time.monotonic()
    experiment.cancel()
    wait_for(lambda: experiment.refresh().state is State.CANCELLED, within_s=CANCEL_BOUND_S, what="the word cancelled")
    wait_for(lambda: all(is_dead(pid) for pid in daemons), within_s=CANCEL_BOUND_S, what="the end of the daemons")
    took_s = time.monotonic() - asked
    print(f"cancelled and gone after {took_s:.1f} s")
    assert took_s < CANCEL_BOUND_S


def test_a_paused_experiment_goes_on_from_its_checkpoint_and_keeps_few_of_them(
    submit_tiny: Submit, stack: EmbeddedStack
) -> None:
    experiment = submit_tiny("paused", params={"steps": 200, "step_s": 0.05})
    wait_for(lambda: (experiment.refresh().view.last_step or 0) >= 5, within_s=180, what="some steps")
    experiment.pause()
    wait_for(lambda: experiment.refresh().state is State.PAUSED, within_s=90, what="the pause")
    experiment.resume()
    assert experiment.result(timeout=240).state is State.SUCCEEDED
    resumed = [event.payload["step"] for event in experiment.events(follow=False) if event.kind == "resumed"]
    assert len(resumed) == 1
    assert resumed[0] >= 5
    place = stack.home / "storage" / "default" / experiment.id

    def steps_on_disk() -> list[int]:
        return sorted(int(each.name.removeprefix("ckpt-")) for each in place.glob("a*/ckpt-*"))

    wait_for(lambda: steps_on_disk() == [198, 199], within_s=90, what="the end of older checkpoints")


@pytest.mark.nightly  # two attempts with a delay between them: a minute
def test_a_hung_collective_is_stalled_with_the_stacks_of_all_ranks_and_retried_once(
    submit_tiny: Submit,
) -> None:
    params = {"misbehave": "hang", "rank": 1}
    experiment = submit_tiny("hung", workers=2, params=params, stall_timeout_s=12)
    assert experiment.result(timeout=400).state is State.SUCCEEDED, "the second attempt is past the step that hung"
    assert [attempt.outcome for attempt in experiment.detail().attempts] == ["stalled", "succeeded"]
    assert any("all_reduce" in line for line in experiment.stacks(rank=0, attempt=1))
    assert any("tiny.py" in line for line in experiment.stacks(rank=1))


@pytest.mark.nightly  # three attempts, each with its restarts, and growing delays between them: minutes
def test_code_that_kills_its_process_at_import_every_time_is_held_as_poison(submit_tiny: Submit) -> None:
    experiment = submit_tiny("poison", workload="dead:train")
    wait_for(lambda: experiment.refresh().state is State.HELD, within_s=580, what="the state held")
    assert experiment.view.reason.startswith("poison:")
    assert len(experiment.detail().attempts) == 3
    experiment.cancel()


@pytest.mark.nightly  # a death must be proven and a delay waited out: a minute
def test_a_killed_runner_is_followed_by_an_attempt_that_goes_on_from_its_last_checkpoint(submit_tiny: Submit) -> None:
    experiment = submit_tiny("runnerless", params={"steps": 300, "step_s": 0.1})
    wait_for(lambda: (experiment.refresh().view.last_step or 0) >= 10, within_s=180, what="some steps")
    marker = f"FAIRLEAD_ATTEMPT=fl-{experiment.id}-a1"
    runners = [process for process in psutil.process_iter() if process.name().startswith("ray::Runner")]
    (runner,) = [each for each in runners if is_of(each.pid, marker)]
    os.kill(runner.pid, signal.SIGKILL)
    assert experiment.result(timeout=400).state is State.SUCCEEDED
    first, second = experiment.detail().attempts
    assert (first.outcome, first.reason) == ("infra_error", "runner_died")
    assert second.outcome == "succeeded"
    resumed = [event.payload["step"] for event in experiment.events(follow=False) if event.kind == "resumed"]
    assert len(resumed) == 1
    assert resumed[0] >= 9


def is_of(pid: int, marker: str) -> bool:
    """Whether a process carries the mark of an attempt, in its environment or mapped."""
    shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/maps").read_bytes()
    return marker.encode() in shown

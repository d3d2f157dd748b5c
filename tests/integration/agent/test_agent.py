import os
import signal
from functools import partial

import psutil
import pytest

from fairlead.lifecycle import Observation, Outcome
from fairlead.protocol import StopMode
from fairlead.testing.agents import START_S, Stack, has_step, is_gone, kill_tree, wait_for_claim
from fairlead.testing.ray import wait_for
from fairlead.testing.releases import NEWS, saying_more

SUPERSEDED = 3


def test_an_offered_attempt_is_run_reported_and_cleaned_away(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-good", steps=5, workers=2)
    result = wait_for_claim(attempt)
    assert (result.outcome, result.reason) == (Outcome.SUCCEEDED, "completed")
    assert attempt.steps("train/loss") == [0, 1, 2, 3, 4]
    assert sorted(attempt.checkpoints) == [0, 1, 2, 3, 4]
    assert attempt.started is not None
    assert any(key.startswith("system/rank_1/") for key in {point.key for point in attempt.points})
    wait_for(lambda: is_gone(attempt.document.runner_name), within_s=60, what="the removal of the runner")
    assert stack.plane.stale_calls == 0
    environment = (stack.storage / attempt.document.storage_path / "result.json").read_text()
    assert attempt.token is not None
    assert attempt.token not in environment


def test_a_killed_agent_loses_and_doubles_nothing(stack: Stack) -> None:
    first = stack.start_agent()
    attempt = stack.offer("exp-adopt", steps=100, step_s=0.1)
    wait_for(lambda: has_step(attempt, 3), within_s=START_S, what="the first steps")
    kill_tree(psutil.Process(first.pid))
    before = len(attempt.steps("train/loss"))
    runner_pid = stack.runner_status(attempt.document).pid
    wait_for(
        lambda: (stack.runner_status(attempt.document).last_step or 0) > before + 10, within_s=90, what="steps alone"
    )
    stack.start_agent()
    result = wait_for_claim(attempt)
    assert result.outcome is Outcome.SUCCEEDED
    assert attempt.steps("train/loss") == list(range(100))
    assert attempt.started is not None
    assert attempt.started.pid == runner_pid
    assert stack.plane.agent_epoch == 2


def test_a_killed_runner_is_proven_dead_after_its_spool_is_harvested(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-dead", steps=1000, step_s=0.1)
    wait_for(lambda: has_step(attempt, 3), within_s=START_S, what="the first steps")
    os.kill(stack.runner_status(attempt.document).pid, signal.SIGKILL)
    proof = wait_for(lambda: stack.plane.has_evidence(attempt.document.attempt_id), within_s=90, what="evidence")
    assert (proof.observation, proof.death_reason) == (Observation.ABSENT, "runner_died")
    assert is_gone(attempt.document.runner_name)
    spool = stack.storage / attempt.document.storage_path / "spool" / "metrics.jsonl"
    assert len(attempt.points) == len(spool.read_text().splitlines())
    steps = attempt.steps("train/loss")
    assert steps == list(range(len(steps)))
    assert set(attempt.checkpoints) >= set(steps[:-1])


def test_a_cancel_ends_a_workload_that_does_not_listen(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-cancel", misbehave="hang", at=1)
    wait_for(lambda: has_step(attempt, 0), within_s=START_S, what="the first step")
    stack.plane.ask_to_stop(attempt.document.attempt_id, StopMode.CANCEL, grace_s=1)
    result = wait_for_claim(attempt, within_s=90)
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "cancelled")
    wait_for(lambda: is_gone(attempt.document.runner_name), within_s=90, what="the end of all processes")


def test_training_goes_on_while_the_control_plane_is_away(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-away", steps=60, step_s=0.1)
    wait_for(lambda: has_step(attempt, 3), within_s=START_S, what="the first steps")
    stack.plane.is_away = True
    result = stack.storage / attempt.document.storage_path / "result.json"
    wait_for(result.exists, within_s=120, what="the result on disk")
    assert attempt.claim is None
    stack.plane.is_away = False
    assert wait_for_claim(attempt, within_s=90).outcome is Outcome.SUCCEEDED
    assert attempt.steps("train/loss") == list(range(60))


def test_an_older_agent_ends_when_another_attaches_and_spares_what_the_newer_adopts(stack: Stack) -> None:
    first = stack.start_agent()
    attempt = stack.offer("exp-two", steps=100, step_s=0.1)
    wait_for(lambda: has_step(attempt, 3), within_s=START_S, what="the first steps")
    stack.start_agent()
    assert first.wait(timeout=START_S) == SUPERSEDED
    assert wait_for_claim(attempt).outcome is Outcome.SUCCEEDED
    assert attempt.steps("train/loss") == list(range(100))
    assert "superseded" in stack.log()


@pytest.mark.nightly  # a minute of waiting for answers
def test_a_head_that_does_not_answer_makes_everything_unknown_and_ends_nothing(stack: Stack) -> None:
    stack.start_agent()
    attempt = stack.offer("exp-head", steps=300, step_s=0.1)
    wait_for(lambda: has_step(attempt, 3), within_s=START_S, what="the first steps")
    (head,) = [each for each in stack.head.process.children(recursive=True) if each.name() == "gcs_server"]
    head.suspend()
    try:
        wait_for(
            lambda: attempt.observations[-1].observation is Observation.UNKNOWN, within_s=90, what="the word unknown"
        )
    finally:
        head.resume()
    assert wait_for_claim(attempt).outcome is Outcome.SUCCEEDED
    assert attempt.steps("train/loss") == list(range(300))
    assert not any(each.has_evidence_of_death for each in attempt.observations)


def test_code_that_must_not_be_unpacked_ends_the_attempt_before_it_begins(stack: Stack) -> None:
    attempt = stack.offer("exp-bundle", steps=1)
    assert attempt.document.code_sha256 is not None
    stack.plane.bundles[attempt.document.code_sha256] = b"this is no archive"
    stack.start_agent()
    result = wait_for_claim(attempt)
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason.startswith("bad_bundle: ")


def test_an_attempt_that_asks_for_what_this_release_does_not_know_is_given_back(stack: Stack) -> None:
    stack.plane.translate = partial(saying_more, also=("spec",))
    stack.start_agent()
    attempt = stack.offer("exp-newer")
    result = wait_for_claim(attempt, within_s=60)
    assert (result.outcome, result.reason) == (Outcome.INFRA_ERROR, "environment")
    assert NEWS in result.detail

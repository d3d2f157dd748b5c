import pytest

from fairlead.lifecycle import Outcome
from fairlead.protocol import StopMode
from fairlead.run.messages import Failure
from fairlead.run.verdict import Ending, Verdict, decide, from_exit, from_failure, stalled

BAD_COUNTS = Verdict(outcome=Outcome.USER_ERROR, reason="rows counted twice or not at all")
CAUSE = stalled(600, 4)


def an_ending(**changes: object) -> Ending:
    plain = {"cause": None, "stop": None, "has_finished": False, "incomplete": None, "trouble": None}
    return Ending(**(plain | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "outcome", "reason"),
    [
        ({"has_finished": True}, "succeeded", "completed"),
        ({"has_finished": True, "incomplete": BAD_COUNTS}, "user_error", BAD_COUNTS.reason),
        ({"cause": CAUSE, "trouble": "ActorDiedError"}, "stalled", "no progress"),
        ({"cause": CAUSE, "stop": StopMode.CANCEL}, "stalled", "no progress"),
        ({"stop": StopMode.CANCEL, "trouble": "ActorDiedError"}, "cancelled", "cancelled"),
        ({"stop": StopMode.CANCEL, "has_finished": True}, "cancelled", "cancelled"),
        ({"stop": StopMode.PAUSE, "has_finished": True, "incomplete": BAD_COUNTS}, "preempted", "pause_requested"),
        ({"stop": StopMode.PAUSE, "has_finished": True}, "succeeded", "completed"),
        ({"stop": StopMode.PREEMPT, "trouble": "x"}, "preempted", "preempted"),
        ({"stop": StopMode.TIMEOUT, "trouble": "x"}, "timeout", "run time spent"),
        ({"trouble": "WorkerGroupError: a worker died"}, "infra_error", "worker_died"),
        ({"trouble": "common causes: (1) killed by the OOM killer, (2) SIGSEGV"}, "infra_error", "worker_died"),
        ({"trouble": "ray.exceptions.OutOfMemoryError: Task was killed"}, "oom", "a worker was killed for memory"),
        ({"trouble": "WorkerGroupStartupTimeoutError: 120 s"}, "infra_error", "start_timeout"),
        ({}, "user_error", "no_result"),
    ],
)
def test_the_first_cause_counts_then_the_wish_then_the_work(
    changes: dict[str, object], outcome: str, reason: str
) -> None:
    verdict = decide(an_ending(**changes))
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


@pytest.mark.parametrize(
    ("failure", "outcome", "reason"),
    [
        ({"type_name": "ValueError", "message": "bad\nmore"}, "user_error", "ValueError: bad"),
        ({"type_name": "KeyError", "message": ""}, "user_error", "KeyError"),
        ({"type_name": "OutOfMemoryError", "message": "CUDA", "is_memory": True}, "oom", "OutOfMemoryError: CUDA"),
        ({"type_name": "BadData", "message": "x", "reason": "bad_data: x"}, "user_error", "bad_data: x"),
    ],
)
def test_an_exception_becomes_an_outcome_with_its_first_line(
    failure: dict[str, object], outcome: str, reason: str
) -> None:
    plain = {"generation": 1, "rank": 0, "traceback": "Traceback", "is_collective": False, "is_memory": False}
    verdict = from_failure(Failure(**(plain | failure)))  # type: ignore[arg-type]
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


@pytest.mark.parametrize(("code", "reason"), [(0, "no_result"), (3, "exit_code_3")])
def test_a_program_that_ends_itself_gave_no_result(code: int, reason: str) -> None:
    assert from_exit(1, code).reason == reason

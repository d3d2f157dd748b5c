from pathlib import Path

import pytest

from fairlead.lifecycle import Outcome
from fairlead.protocol import StopMode
from fairlead.run.idleness import Idle
from fairlead.run.messages import Failure
from fairlead.run.tails import TAIL_BYTES, last_lines
from fairlead.run.verdict import Ending, Verdict, decide, from_exit, from_failure, idle, judge, stalled
from fairlead.spec import RuleSpec

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
        ({"trouble": "ActorDiedError", "was_killed_for_memory": True}, "oom", "a worker was killed for memory"),
        ({"cause": CAUSE, "trouble": "ActorDiedError", "was_killed_for_memory": True}, "stalled", "no progress"),
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
    ("changes", "nodes"),
    [
        ({"trouble": "ActorDiedError"}, ("n1",)),
        ({"trouble": "WorkerGroupStartupTimeoutError: 120 s"}, ()),
        ({"trouble": "ActorDiedError", "was_killed_for_memory": True}, ()),
        ({"trouble": "ActorDiedError", "cause": CAUSE}, ()),
        ({"trouble": "ActorDiedError", "stop": StopMode.PAUSE}, ()),
    ],
)
def test_nodes_are_named_only_where_a_death_is_what_ended_it(changes: dict[str, object], nodes: tuple[str]) -> None:
    assert decide(an_ending(died_on=("n1",), **changes)).died_on == nodes


@pytest.mark.parametrize(
    ("failure", "outcome", "reason"),
    [
        ({"type_name": "ValueError", "message": "bad\nmore"}, "user_error", "ValueError: bad"),
        ({"type_name": "KeyError", "message": ""}, "user_error", "KeyError"),
        ({"type_name": "OutOfMemoryError", "message": "CUDA", "is_memory": True}, "oom", "OutOfMemoryError: CUDA"),
        ({"type_name": "BadData", "message": "x", "reason": "bad_data: x"}, "user_error", "bad_data: x"),
        (
            {"type_name": "StorageAway", "message": "x", "reason": "data_storage: x", "is_storage": True},
            "infra_error",
            "data_storage: x",
        ),
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


# ---- rules of the spec ----------------------------------------------------------------------------------------------

DIED = Verdict(outcome=Outcome.INFRA_ERROR, reason="worker_died", detail="ActorDiedError")
EXITED = from_exit(1, 75)


def rules(*given: dict[str, object]) -> tuple[RuleSpec, ...]:
    return tuple(RuleSpec.model_validate(one) for one in given)


@pytest.mark.parametrize(
    ("verdict", "rule", "printed", "expected"),
    [
        (EXITED, {"exit_code": 75, "then": "retry", "note": "try later"}, (), "rule: retry: exit code 75 (try later)"),
        (EXITED, {"exit_code": 74, "then": "retry"}, (), "exit_code_75"),
        (EXITED, {"exit_code": 75, "then": "fail"}, (), "rule: fail: exit code 75"),
        (from_exit(0, 139), {"exit_code": "SIGSEGV", "then": "fail"}, (), "rule: fail: exit code SIGSEGV"),
        (DIED, {"exit_code": 139, "then": "oom"}, ("*** SIGSEGV received at time=1 ***",), "rule: oom: exit code 139"),
        (DIED, {"exit_code": "SIGABRT", "then": "fail"}, ("Fatal Python error: Aborted",), "rule: fail"),
        (DIED, {"exit_code": "SIGABRT", "then": "fail"}, ("Fatal Python error: Bus error",), "worker_died"),
        (EXITED, {"exit_code": "SIGSEGV", "then": "fail"}, ("*** SIGSEGV received ***",), "exit_code_75"),
        (DIED, {"log": "CUDA error*NVLink", "then": "retry"}, ("x", "a CUDA error: some NVLink is bad"), "rule: retry"),
        (DIED, {"log": "CUDA error*NVLink", "then": "retry"}, ("CUDA error", "NVLink"), "worker_died"),
        (DIED, {"log": "ActorDiedError", "then": "fail"}, (), "rule: fail: log 'ActorDiedError'"),
        (CAUSE, {"log": "waiting for data", "then": "infra_error"}, ("waiting for data",), "rule: infra_error"),
    ],
)
def test_the_first_rule_that_matches_decides_how_a_failure_counts(
    verdict: Verdict, rule: dict[str, object], printed: tuple[str, ...], expected: str
) -> None:
    found = judge(verdict, rules({"log": "something else", "then": "oom"}, rule), printed)
    assert found.reason.startswith(expected)
    if expected.startswith("rule"):
        then = {"retry": "infra_error", "fail": "user_error"}.get(str(rule["then"]), rule["then"])
        assert found.outcome == then
        assert f"without it: {verdict.outcome}, {verdict.reason}" in found.detail
    else:
        assert found == verdict


def test_rules_count_in_the_order_of_the_spec_and_not_of_the_lines() -> None:
    given = rules(
        {"log": "first", "then": "oom"}, {"log": "second", "then": "fail"}, {"exit_code": 75, "then": "retry"}
    )
    assert judge(EXITED, given, ("second", "first")).outcome is Outcome.OOM
    assert judge(EXITED, given, ("second",)).reason.startswith("rule: fail")
    assert judge(EXITED, given, ()).reason.startswith("rule: retry")


@pytest.mark.parametrize("outcome", ["succeeded", "cancelled", "preempted", "timeout"])
def test_no_rule_changes_what_is_no_failure(outcome: str) -> None:
    verdict = Verdict(outcome=Outcome(outcome), reason="as it was")
    assert judge(verdict, rules({"log": "any text", "then": "fail"}), ("any text",)) == verdict


@pytest.mark.parametrize(
    ("message", "reason", "code"), [("3", None, 3), ("", "no_result", 0), ("bye", None, 1), ("-1", None, 255)]
)
def test_a_call_of_sys_exit_has_its_code(message: str, reason: str | None, code: int) -> None:
    failure = Failure(
        generation=1,
        rank=0,
        type_name="SystemExit",
        message=message,
        traceback="",
        is_collective=False,
        is_memory=False,
        reason=reason,
    )
    assert from_failure(failure).exit_code == code


def test_only_the_last_of_what_each_rank_printed_is_read(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "rank-0.000.log").write_bytes(b"too old\n" + b"x" * TAIL_BYTES + b"\n")
    (logs / "rank-0.009.log").write_text("line a\nline b\n")
    (logs / "rank-0.010.log").write_bytes(b"last \xff\n")
    (logs / "rank-10.000.log").write_text("of another rank\n")
    found = list(last_lines(tmp_path))
    assert found[-4:] == ["line a", "line b", "last \ufffd", "of another rank"]
    assert "too old" not in found
    assert sum(map(len, found)) < TAIL_BYTES + 100
    assert list(last_lines(tmp_path / "nowhere")) == []


def test_idle_workers_end_over_budget_which_no_rule_changes() -> None:
    verdict = idle(Idle(used_s=0.24, counted_s=600.2))
    assert verdict.outcome is Outcome.OVER_BUDGET
    told = "idle: the workers used 0.2 CPU seconds in 600 s"
    assert verdict.reason == f"{told}; policy.idle_limit_s asks for at least 5% of a CPU on one of them"
    rule = RuleSpec(log="idle", then="retry")
    assert judge(decide(an_ending(cause=verdict, trouble="ActorDiedError")), (rule,), ["idle"]) == verdict

"""How an attempt ended, decided from what is known once its worker group is gone. Pure.

The first cause counts: a rank that dies because the group was stopped for a stall does not make it a crash.
"""

import itertools
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fairlead.lifecycle import WORKER_DIED, Outcome
from fairlead.protocol import StopMode
from fairlead.run.idleness import IDLE_SHARE, Idle
from fairlead.run.messages import Failure
from fairlead.spec import RuleSpec
from fairlead.spec.experiment import SIGNALS

MAX_REASON = 300
MAX_DETAIL = 16_000
NO_RESULT = "no_result"
# Not "OOM killer": Ray mentions it as one possible cause of every death it cannot explain.
_MEMORY = re.compile(r"OutOfMemoryError|(?:running low on|ran out of) memory", re.IGNORECASE)
_START = re.compile(r"WorkerGroupStartupTimeoutError|startup timed out|InsufficientClusterResources")
STOPPED = {
    StopMode.CANCEL: (Outcome.CANCELLED, "cancelled"),
    StopMode.PAUSE: (Outcome.PREEMPTED, "pause_requested"),
    StopMode.PREEMPT: (Outcome.PREEMPTED, "preempted"),
    StopMode.TIMEOUT: (Outcome.TIMEOUT, "run time spent"),
    StopMode.BUDGET: (Outcome.OVER_BUDGET, "budget spent"),
}
"""How an attempt ends that was asked to, and had not finished."""
_RULED = frozenset({Outcome.USER_ERROR, Outcome.OOM, Outcome.STALLED, Outcome.INFRA_ERROR})
_LAST_WORDS = {
    "SIGABRT": "Fatal Python error: Aborted",
    "SIGBUS": "Fatal Python error: Bus error",
    "SIGFPE": "Fatal Python error: Floating-point exception",
    "SIGILL": "Fatal Python error: Illegal instruction",
    "SIGSEGV": "Fatal Python error: Segmentation fault",
}
"""What Python writes when a signal ends it: Ray does not say which one it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """An outcome with its reason. ``detail`` is for people."""

    outcome: Outcome
    reason: str
    detail: str = ""
    exit_code: int | None = None
    """Of the rank whose program ended its own process."""
    died_on: tuple[str, ...] = ()
    """Nodes on which ranks were killed or crashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """What is known when nothing of the attempt runs any more."""

    cause: Verdict | None
    """Why the runner itself ended the group, if it did."""
    stop: StopMode | None
    has_finished: bool
    """Every rank of the last group returned from the workload."""
    incomplete: Verdict | None
    """Why the ranks' results do not add up to a valid one."""
    trouble: str | None
    """What Ray Train said when it gave up."""
    was_killed_for_memory: bool = False
    """The kernel has killed something for memory around a rank of the last group, while that group ran."""
    died_on: tuple[str, ...] = ()
    """Nodes of the ranks that Ray Train found dead when it gave up; empty where it does not say which those are."""


def decide(ending: Ending) -> Verdict:
    """The outcome of an attempt."""
    if ending.cause is not None:
        return ending.cause
    is_complete = ending.has_finished and ending.incomplete is None
    if ending.stop is not None and (not is_complete or ending.stop is StopMode.CANCEL):
        outcome, reason = STOPPED[ending.stop]
        return Verdict(outcome=outcome, reason=reason)
    if not ending.has_finished:
        return _why_it_broke(ending)
    return ending.incomplete or Verdict(outcome=Outcome.SUCCEEDED, reason="completed")


def _why_it_broke(ending: Ending) -> Verdict:
    trouble = ending.trouble
    if trouble is None:
        detail = "the worker group ended, and not every rank has returned from the workload"
        return Verdict(outcome=Outcome.USER_ERROR, reason=NO_RESULT, detail=detail)
    detail = trouble[-MAX_DETAIL:]
    if ending.was_killed_for_memory or _MEMORY.search(trouble):
        return Verdict(outcome=Outcome.OOM, reason="a worker was killed for memory", detail=detail)
    if _START.search(trouble):
        return Verdict(outcome=Outcome.INFRA_ERROR, reason="start_timeout", detail=detail)
    return Verdict(outcome=Outcome.INFRA_ERROR, reason=WORKER_DIED, detail=detail, died_on=ending.died_on)


def from_failure(failure: Failure) -> Verdict:
    """What an exception on one rank means for the attempt."""
    first_line = failure.message.strip().splitlines()[0] if failure.message.strip() else ""
    words = f"{failure.type_name}: {first_line}" if first_line else failure.type_name
    return Verdict(
        outcome=_outcome_of(failure),
        reason=(failure.reason or words)[:MAX_REASON],
        detail=f"rank {failure.rank}: {failure.message[:2000]}\n{failure.traceback}"[:MAX_DETAIL],
        exit_code=_code_of(failure),
    )


def _outcome_of(failure: Failure) -> Outcome:
    if failure.is_memory:
        return Outcome.OOM
    return Outcome.INFRA_ERROR if failure.is_storage else Outcome.USER_ERROR


def _code_of(failure: Failure) -> int | None:
    """``sys.exit(3)`` arrives as an exception."""
    if failure.type_name != "SystemExit":
        return None
    if failure.reason == NO_RESULT:
        return 0
    return int(failure.message) % 256 if failure.message.removeprefix("-").isdecimal() else 1


def from_exit(rank: int, code: int) -> Verdict:
    """What it means that the program of ``rank`` ended its own process."""
    detail = f"rank {rank} ended its process with exit code {code} before the workload had returned"
    reason = NO_RESULT if code == 0 else f"exit_code_{code}"
    return Verdict(outcome=Outcome.USER_ERROR, reason=reason, detail=detail, exit_code=code % 256)


def stalled(age_s: float, last_step: int | None) -> Verdict:
    """No new step for too long."""
    where = "before its first step" if last_step is None else f"after step {last_step}"
    detail = f"no new step for {age_s:.0f} s, {where}; the stacks of all ranks are in the logs"
    return Verdict(outcome=Outcome.STALLED, reason="no progress", detail=detail)


def idle(seen: Idle) -> Verdict:
    """The workers hold resources and do nothing: nobody gains by trying it again."""
    told = f"idle: the workers used {seen.used_s:.1f} CPU seconds in {seen.counted_s:.0f} s"
    reason = f"{told}; policy.idle_limit_s asks for at least {IDLE_SHARE:.0%} of a CPU on one of them"
    return Verdict(outcome=Outcome.OVER_BUDGET, reason=reason)


def storage_failed(message: str) -> Verdict:
    """Checkpoints could not be written, several times in a row."""
    return Verdict(outcome=Outcome.INFRA_ERROR, reason="storage", detail=message[:MAX_DETAIL])


def judge(verdict: Verdict, rules: Sequence[RuleSpec], printed: Iterable[str]) -> Verdict:
    """The verdict as the spec's rules have it: the first that matches counts. ``printed``: the ranks' last lines.

    Rules are about failures only: nothing makes a success, a cancellation or a spent run time something else.
    """
    if not rules or verdict.outcome not in _RULED:
        return verdict
    number = _first_match(verdict, rules, itertools.chain(verdict.detail.splitlines(), printed))
    if number is None:
        return verdict
    rule = rules[number]
    outcome = {"retry": Outcome.INFRA_ERROR, "fail": Outcome.USER_ERROR}.get(rule.then) or Outcome(rule.then)
    seen = f"exit code {rule.exit_code}" if rule.log is None else f"log {rule.log!r}"
    note = f" ({rule.note})" if rule.note else ""
    before = f"rule {number + 1} of the spec decides; without it: {verdict.outcome}, {verdict.reason}\n"
    return Verdict(
        outcome=outcome,
        reason=f"rule: {rule.then}: {seen}{note}",
        detail=(before + verdict.detail)[:MAX_DETAIL],
        exit_code=verdict.exit_code,
    )


def _first_match(verdict: Verdict, rules: Sequence[RuleSpec], lines: Iterable[str]) -> int | None:
    """In one pass over the lines, which may be many."""
    best = next((i for i, rule in enumerate(rules) if rule.code is not None and rule.code == verdict.exit_code), None)
    looking = [(i, test) for i, rule in enumerate(rules[:best]) if (test := _test_of(rule, verdict)) is not None]
    for line in lines:
        if not looking:
            break
        if (found := next((i for i, test in looking if test(line)), None)) is not None:
            best, looking = found, [(i, test) for i, test in looking if i < found]
    return best


def _test_of(rule: RuleSpec, verdict: Verdict) -> Callable[[str], bool] | None:
    """How a line shows that the rule applies; None where no line can."""
    if rule.log is not None:
        return rule.matches
    if verdict.reason != WORKER_DIED:
        return None
    names = (name for name in SIGNALS if rule.code == 128 + signal.Signals[name])
    signs = tuple(sign for name in names for sign in (f"*** {name} received", _LAST_WORDS.get(name)) if sign)
    return (lambda line: any(sign in line for sign in signs)) if signs else None


def plain(text: str) -> str:
    """``text`` as UTF-8 can hold it: names of files may carry half a surrogate pair into a workload's last words."""
    return text.encode(errors="backslashreplace").decode()

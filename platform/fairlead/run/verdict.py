"""How an attempt ended, decided from what is known once its worker group is gone. Pure.

The first cause counts: a rank that dies because the group was stopped for a stall does not make it a crash.
"""

import re
from dataclasses import dataclass

from fairlead.lifecycle import Outcome
from fairlead.protocol import StopMode
from fairlead.run.messages import Failure

MAX_REASON = 300
MAX_DETAIL = 16_000
# Not "OOM killer": Ray mentions it as one possible cause of every death it cannot explain.
_MEMORY = re.compile(r"OutOfMemoryError|(?:running low on|ran out of) memory", re.IGNORECASE)
_START = re.compile(r"WorkerGroupStartupTimeoutError|startup timed out|InsufficientClusterResources")
_STOPPED = {
    StopMode.CANCEL: (Outcome.CANCELLED, "cancelled"),
    StopMode.PAUSE: (Outcome.PREEMPTED, "pause_requested"),
    StopMode.PREEMPT: (Outcome.PREEMPTED, "preempted"),
    StopMode.TIMEOUT: (Outcome.TIMEOUT, "run time spent"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """An outcome with its reason. ``detail`` is for people."""

    outcome: Outcome
    reason: str
    detail: str = ""


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


def decide(ending: Ending) -> Verdict:
    """The outcome of an attempt."""
    if ending.cause is not None:
        return ending.cause
    is_complete = ending.has_finished and ending.incomplete is None
    if ending.stop is not None and (not is_complete or ending.stop is StopMode.CANCEL):
        outcome, reason = _STOPPED[ending.stop]
        return Verdict(outcome=outcome, reason=reason)
    if not ending.has_finished:
        return _why_it_broke(ending.trouble)
    return ending.incomplete or Verdict(outcome=Outcome.SUCCEEDED, reason="completed")


def _why_it_broke(trouble: str | None) -> Verdict:
    if trouble is None:
        detail = "the worker group ended, and not every rank has returned from the workload"
        return Verdict(outcome=Outcome.USER_ERROR, reason="no_result", detail=detail)
    detail = trouble[-MAX_DETAIL:]
    if _MEMORY.search(trouble):
        return Verdict(outcome=Outcome.OOM, reason="a worker was killed for memory", detail=detail)
    reason = "start_timeout" if _START.search(trouble) else "worker_died"
    return Verdict(outcome=Outcome.INFRA_ERROR, reason=reason, detail=detail)


def from_failure(failure: Failure) -> Verdict:
    """What an exception on one rank means for the attempt."""
    first_line = failure.message.strip().splitlines()[0] if failure.message.strip() else ""
    words = f"{failure.type_name}: {first_line}" if first_line else failure.type_name
    return Verdict(
        outcome=Outcome.OOM if failure.is_memory else Outcome.USER_ERROR,
        reason=(failure.reason or words)[:MAX_REASON],
        detail=f"rank {failure.rank}: {failure.message[:2000]}\n{failure.traceback}"[:MAX_DETAIL],
    )


def from_exit(rank: int, code: int) -> Verdict:
    """What it means that the program of ``rank`` ended its own process."""
    detail = f"rank {rank} ended its process with exit code {code} before the workload had returned"
    reason = "no_result" if code == 0 else f"exit_code_{code}"
    return Verdict(outcome=Outcome.USER_ERROR, reason=reason, detail=detail)


def stalled(age_s: float, last_step: int | None) -> Verdict:
    """No new step for too long."""
    where = "before its first step" if last_step is None else f"after step {last_step}"
    detail = f"no new step for {age_s:.0f} s, {where}; the stacks of all ranks are in the logs"
    return Verdict(outcome=Outcome.STALLED, reason="no progress", detail=detail)


def storage_failed(message: str) -> Verdict:
    """Checkpoints could not be written, several times in a row."""
    return Verdict(outcome=Outcome.INFRA_ERROR, reason="storage", detail=message[:MAX_DETAIL])

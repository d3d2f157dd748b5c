"""What to do for one attempt, decided from what is seen of it. Pure; the effects are in ``tending``.

Level-triggered: every look decides anew, so a lost answer or a crash costs one repetition.
"""

from dataclasses import dataclass
from enum import StrEnum

from fairlead.lifecycle import Observation

STEADY_AFTER_S = 10.0
"""After so long people no longer watch each second, and what a look costs is felt by the training beside it."""
STEADY_TICKS = 3


class RunnerSeen(StrEnum):
    """The answer to "is there an actor of that name, and does it talk?"."""

    FOUND = "found"
    SILENT = "silent"
    """Ray knows the actor; it does not answer."""
    NONE = "none"
    RAY_AWAY = "ray_away"


class Action(StrEnum):
    """What the agent does next for an attempt."""

    REMOVE = "remove"
    """End and clean up whatever is left, then forget the attempt."""
    CLAIM = "claim"
    """Ship what is left, claim the result, remove leftovers."""
    LAUNCH = "launch"
    ABANDON = "abandon"
    """Nothing has begun and nothing must any more: say so in a result of our own."""
    WATCH = "watch"
    WAIT = "wait"
    PROVE_DEATH = "prove_death"
    """Collect evidence and harvest what the runner left."""
    FORCE = "force"
    """The runner does not end as asked: kill it and all of its processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One look at an attempt."""

    is_over: bool
    """The server says that it has ended, or that another attempt or lease superseded it."""
    has_result: bool
    """``result.json`` is there and valid."""
    runner: RunnerSeen
    has_begun: bool
    """The file ``BEGUN`` is there, or the runner says so."""
    has_document: bool
    """This agent holds the launch document."""
    stop_overdue: bool
    """It was asked to stop, and the grace and more have passed."""
    stop_asked: bool
    same_session: bool
    """Ray's session is the one in which the attempt began; true where it has not begun."""
    silent_s: float = 0
    """How long the runner has not answered."""
    stall_timeout_s: float = float("inf")
    progress_age_s: float = 0
    """Seconds since the runner's last step, by its own clock."""


STALL_MARGIN_S = 120.0
"""What a runner gets beyond its stall time-out to end the attempt itself, stacks and clean-up included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do, and what to report of it."""

    action: Action
    observation: Observation
    detail: str = ""


def decide(seen: Seen) -> Decision:
    """The table of section "Reconciliation" in ARCHITECTURE.md, row by row."""
    if seen.is_over:
        return Decision(action=Action.REMOVE, observation=Observation.PRESENT, detail="removing leftovers")
    if seen.has_result:
        return Decision(action=Action.CLAIM, observation=Observation.PRESENT, detail="claiming the result")
    match seen.runner:
        case RunnerSeen.RAY_AWAY:
            return Decision(action=Action.WAIT, observation=Observation.UNKNOWN, detail="ray_unreachable")
        case RunnerSeen.NONE:
            return _decide_without_runner(seen)
        case RunnerSeen.SILENT:
            return _decide_silent(seen)
        case RunnerSeen.FOUND:
            return _decide_found(seen)


def _decide_without_runner(seen: Seen) -> Decision:
    if not seen.has_begun:
        if seen.has_document and not seen.stop_asked:
            return Decision(action=Action.LAUNCH, observation=Observation.ABSENT, detail="launching")
        return Decision(action=Action.ABANDON, observation=Observation.ABSENT, detail="never begun")
    if not seen.same_session:
        return Decision(action=Action.PROVE_DEATH, observation=Observation.UNKNOWN, detail="another Ray session")
    return Decision(action=Action.PROVE_DEATH, observation=Observation.UNKNOWN, detail="the runner is gone")


def _decide_silent(seen: Seen) -> Decision:
    if seen.stop_overdue:
        return Decision(action=Action.FORCE, observation=Observation.PRESENT, detail="silent and asked to stop")
    if seen.silent_s > seen.stall_timeout_s:
        return Decision(action=Action.FORCE, observation=Observation.PRESENT, detail="silent beyond the stall time-out")
    return Decision(action=Action.WAIT, observation=Observation.UNKNOWN, detail="the runner does not answer")


def _decide_found(seen: Seen) -> Decision:
    if seen.stop_overdue:
        return Decision(action=Action.FORCE, observation=Observation.PRESENT, detail="does not stop")
    if not seen.has_begun:
        if seen.has_document and not seen.stop_asked:
            return Decision(action=Action.LAUNCH, observation=Observation.PRESENT, detail="launching")
        return Decision(action=Action.ABANDON, observation=Observation.PRESENT, detail="never begun")
    if seen.progress_age_s > seen.stall_timeout_s + STALL_MARGIN_S:
        return Decision(action=Action.FORCE, observation=Observation.PRESENT, detail="its stall watchdog did not act")
    return Decision(action=Action.WATCH, observation=Observation.PRESENT)


def ticks_to_rest(observation: Observation, *, age_s: float, is_behind: bool, stop_asked: bool) -> int:
    """How many ticks may pass between two looks: more at what trains steadily, has shipped all its words and need not
    stop. A look costs both sides a request.
    """
    is_steady = observation is Observation.PRESENT and age_s >= STEADY_AFTER_S
    return STEADY_TICKS if is_steady and not (is_behind or stop_asked) else 1

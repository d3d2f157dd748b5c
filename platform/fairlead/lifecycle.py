"""The states of an experiment, the legal moves between them, and the outcomes of an attempt.

Final states are those without a move: that is derived, not maintained.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from fairlead.errors import IllegalMove
from fairlead.spec import RetriesSpec


class State(StrEnum):
    """Where an experiment is. Every change carries a reason."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    PLACED = "placed"
    RUNNING = "running"
    EVALUATING = "evaluating"
    RETRYING = "retrying"
    PAUSED = "paused"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return not MOVES[self]


class Desired(StrEnum):
    """What the user wants; the only field of an experiment's life that users write."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class Observation(StrEnum):
    """What Ray is seen to have of an attempt. Unknown alone never kills, retries or ends anything."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"


class Outcome(StrEnum):
    """How an attempt ended; it decides the retry budget and the next state."""

    SUCCEEDED = "succeeded"
    USER_ERROR = "user_error"
    OOM = "oom"
    STALLED = "stalled"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    INFRA_ERROR = "infra_error"
    LOST = "lost"
    OVER_BUDGET = "over_budget"
    CANCELLED = "cancelled"


MOVES: dict[State, frozenset[State]] = {
    State.ACCEPTED: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.PLACED, State.PAUSED, State.CANCELLED}),
    State.PLACED: frozenset(
        {State.RUNNING, State.QUEUED, State.RETRYING, State.PAUSED, State.HELD, State.FAILED, State.CANCELLED}
    ),
    State.RUNNING: frozenset(
        {
            State.EVALUATING,
            State.QUEUED,
            State.RETRYING,
            State.PAUSED,
            State.HELD,
            State.FAILED,
            State.CANCELLED,
        }
    ),
    State.EVALUATING: frozenset({State.SUCCEEDED, State.HELD, State.FAILED}),
    State.RETRYING: frozenset({State.QUEUED, State.PAUSED, State.HELD, State.CANCELLED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.HELD: frozenset(  # released by a human, or with an attempt that could not be stopped: what follows its end
        {State.QUEUED, State.EVALUATING, State.RETRYING, State.PAUSED, State.FAILED, State.CANCELLED}
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}


def move(state: State, to: State) -> State:
    """Return ``to``, or raise ``IllegalMove``."""
    if to not in MOVES[state]:
        raise IllegalMove(f"an experiment cannot go from {state} to {to}")
    return to


MAX_RETRY_DELAY_S = 600.0
RETRY_BASE_S = 10.0
POISON_AFTER = 3
REFUSALS_HELD_AFTER = 3
BLAME_AFTER = 3
EXCLUDE_AFTER = 3
EXCLUDE_WITHIN = timedelta(hours=24)
WORKER_DIED, RUNNER_DIED = "worker_died", "runner_died"
DEATHS_ON_NODES = (WORKER_DIED, RUNNER_DIED)
"""Reasons of attempts whose death says where it came. ``node_lost`` is none: under its id no lost node comes back."""
OFFER_WITHDRAWN = "offer_withdrawn"
"""The reason of an attempt whose cluster had no agent that answered."""
OFFER_REFUSED = "offer_refused"
"""The reason of an attempt that no agent took although one answered."""
SESSION_ENDED = "node_lost: the Ray session it ran in has ended"
RULE_FAIL = "rule: fail:"
"""So begins the reason of an attempt that a rule of its spec wants to be the last."""
_POISONOUS_REASONS = frozenset(DEATHS_ON_NODES)
_REASONS_OUTSIDE = frozenset({"node_lost", "storage", "environment"})


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedAttempt:
    """What the retry decision needs to know of an attempt that has ended."""

    outcome: Outcome
    reason: str
    made_progress: bool
    """Whether it committed a checkpoint that no earlier attempt had; of a sweep, whether it finished a trial."""
    is_forgiven: bool = False
    """Whether it ended before a human released the experiment: it counts for no budget and no poison any more."""

    @property
    def code(self) -> str:
        """The reason's first word, which is for programs."""
        return self.reason.split(":")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Next:
    """The state that follows an attempt's end, with its reason."""

    state: State
    reason: str
    retry_no: int | None = None
    """How many retries of this kind came before, counted from 1; sets the delay."""


def after_attempt(
    ended: tuple[EndedAttempt, ...],
    *,
    desired: Desired,
    retries: RetriesSpec,
    runtime_left_s: float = math.inf,
) -> Next:
    """Decide what follows the last of ``ended``, oldest first. Pure: budgets are counts of attempts.

    ``runtime_left_s``: of ``max_runtime_s``, after all attempts; nothing is tried again without any.
    """
    last = ended[-1]
    if last.outcome is Outcome.SUCCEEDED:
        return Next(state=State.EVALUATING, reason="result committed")
    if desired is Desired.CANCEL or last.outcome is Outcome.CANCELLED:
        return Next(state=State.CANCELLED, reason="cancelled by the user")
    if desired is Desired.PAUSE:
        return Next(state=State.PAUSED, reason="paused by the user")
    following = _unasked(ended, retries)
    if following.state in (State.QUEUED, State.RETRYING) and runtime_left_s <= 0:
        return Next(state=State.FAILED, reason=f"timeout: no run time is left to try again after {following.reason}")
    return following


def _unasked(ended: tuple[EndedAttempt, ...], retries: RetriesSpec) -> Next:
    """What follows where the user wants it to run, and there is no result."""
    last = ended[-1]
    if last.outcome is Outcome.PREEMPTED:
        return _after_preemption(ended)
    if last.outcome is Outcome.TIMEOUT:
        return Next(state=State.FAILED, reason=f"timeout: {last.reason}")
    if last.outcome is Outcome.OVER_BUDGET:
        return Next(state=State.FAILED, reason=f"over_budget: {last.reason}")
    if last.reason.startswith(RULE_FAIL):
        return Next(state=State.FAILED, reason=f"{last.outcome}: {last.reason}")
    if _is_poison(ended):
        return Next(state=State.HELD, reason=f"poison: {POISON_AFTER} attempts in a row died without progress")
    return _retry_or_fail(ended, retries)


def _after_preemption(ended: tuple[EndedAttempt, ...]) -> Next:
    """Back to its old place; but not for ever where every offer is refused."""
    last, tail = ended[-1], _counting(ended)[-REFUSALS_HELD_AFTER:]
    if len(tail) == REFUSALS_HELD_AFTER and all(attempt.code == OFFER_REFUSED for attempt in tail):
        why = f"cannot_be_offered: {REFUSALS_HELD_AFTER} offers in a row were not taken, the last one {last.reason}"
        return Next(state=State.HELD, reason=why)
    return Next(state=State.QUEUED, reason=f"preempted: {last.reason}")


def _retry_or_fail(ended: tuple[EndedAttempt, ...], retries: RetriesSpec) -> Next:
    last = ended[-1]
    charged = _charged_to(last.outcome)
    budget: int = getattr(retries, charged)
    counting = _counting(_since_progress(ended, charged))
    spent = sum(1 for attempt in counting if _charged_to(attempt.outcome) == charged)
    if spent > budget:
        used = f" after {budget} retries" if budget else ""
        return Next(state=State.FAILED, reason=f"{last.outcome}: {last.reason}{used}")
    return Next(state=State.RETRYING, reason=f"{last.outcome}: {last.reason}", retry_no=spent)


def retry_delay_bound_s(retry_no: int) -> float:
    """The upper end of the uniform delay before retry ``retry_no`` (1, 2, ...), in seconds: full jitter."""
    return min(MAX_RETRY_DELAY_S, RETRY_BASE_S * 2.0 ** min(retry_no, 30))


def _charged_to(outcome: Outcome) -> str:
    if outcome in (Outcome.INFRA_ERROR, Outcome.LOST):
        return "infra"
    return outcome.value


def _since_progress(ended: tuple[EndedAttempt, ...], charged: str) -> tuple[EndedAttempt, ...]:
    """Progress forgives earlier infrastructure errors; other budgets count over the whole life."""
    if charged != "infra":
        return ended
    last_progress = max((i for i, attempt in enumerate(ended) if attempt.made_progress), default=0)
    return ended[last_progress:]


def _counting(ended: tuple[EndedAttempt, ...]) -> tuple[EndedAttempt, ...]:
    return tuple(attempt for attempt in ended if not attempt.is_forgiven)


def _is_poison(ended: tuple[EndedAttempt, ...]) -> bool:
    tail = _counting(ended)[-POISON_AFTER:]
    return len(tail) == POISON_AFTER and all(
        not attempt.made_progress
        and (attempt.outcome in (Outcome.OOM, Outcome.STALLED) or attempt.code in _POISONOUS_REASONS)
        for attempt in tail
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedThere:
    """What the judgement of a cluster needs to know of an attempt that began and ended on it."""

    experiment_id: str
    ray_session: str | None
    node_id: str | None
    """Of its runner."""
    outcome: Outcome
    reason: str

    @property
    def shared_loss(self) -> str | None:
        """What was lost with everything on it, if that was why it ended: a session of Ray, or a node."""
        if self.reason.startswith(SESSION_ENDED):
            return self.ray_session
        return self.node_id if self.reason.split(":")[0] == "node_lost" else None


def blame(ended: Iterable[EndedThere]) -> str | None:
    """Why a cluster must be suspected, or None. ``ended``: its attempts, newest first.

    Attempts of three experiments in a row that were lost by no fault of theirs: the cluster is what they share. What
    one Ray session or one node takes with it when it ends is one loss, however many attempts it ran.
    """
    losses: dict[str, EndedThere] = {}
    counted: set[str] = set()
    for attempt in itertools.takewhile(_was_lost_outside, ended):
        if attempt.experiment_id in losses or counted & {attempt.ray_session, attempt.node_id}:
            continue
        losses[attempt.experiment_id] = attempt
        if attempt.shared_loss is not None:
            counted.add(attempt.shared_loss)
        if len(losses) == BLAME_AFTER:
            told = "; ".join(f"{one.experiment_id}: {one.reason or one.outcome}" for one in losses.values())
            return f"attempts of {BLAME_AFTER} experiments in a row were lost there by no fault of theirs ({told})"
    return None


def _was_lost_outside(attempt: EndedThere) -> bool:
    if attempt.outcome is Outcome.LOST:
        return True
    return attempt.outcome is Outcome.INFRA_ERROR and attempt.reason.split(":")[0] in _REASONS_OUTSIDE


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeDeath:
    """What the judgement of nodes needs to know of an attempt that died, where its death names one or more."""

    experiment_id: str
    outcome: Outcome
    reason: str
    nodes: tuple[str, ...]
    """Where ranks died, as the runner reports it; or where the runner was, as the proof of its death has it."""
    ended_at: datetime


def blame_nodes(
    deaths: Iterable[NodeDeath], *, now: datetime, readmitted: Mapping[str, datetime]
) -> dict[str, tuple[NodeDeath, ...]]:
    """Nodes that are to get no more workers, each with the deaths that say so, the newest first.

    Attempts of three different experiments have died there by infrastructure errors within a day. An experiment that
    died so on several nodes counts against none of them: its death follows it. ``readmitted``: when an admin last took
    a node in again; what died there before counts no more.
    """
    recent = [one for one in deaths if _names_nodes(one) and now - one.ended_at < EXCLUDE_WITHIN]
    named: dict[str, set[str]] = {}
    for one in recent:
        named.setdefault(one.experiment_id, set()).update(one.nodes)
    found: dict[str, dict[str, NodeDeath]] = {}
    for one in sorted(recent, key=lambda one: one.ended_at, reverse=True):
        if len(named[one.experiment_id]) > 1:
            continue
        node = one.nodes[0]  # or the same once more: what a result says is not ours
        if node not in readmitted or one.ended_at > readmitted[node]:
            found.setdefault(node, {}).setdefault(one.experiment_id, one)
    return {node: tuple(those.values()) for node, those in found.items() if len(those) >= EXCLUDE_AFTER}


def _names_nodes(death: NodeDeath) -> bool:
    is_told = death.outcome is Outcome.INFRA_ERROR and death.reason in DEATHS_ON_NODES
    return is_told and bool(death.nodes)

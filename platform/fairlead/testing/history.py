"""Reads what a control plane has kept and says which of its promises it broke, one sentence each.

The promises are the invariants by which the platform is designed: I1 what was acknowledged exists, I2 one key makes one
experiment, I3 only the current attempt commits, I4 attempts are numbered upwards, I5 what is final stays, I6 the events
replay to the row, I7 checkpoints exist and verify, I9 a cancelled experiment takes no more steps, I11 budgets hold,
I12 one runner begins an attempt, I13 streams have no gap and no double, I10 every event reaches every webhook that
wants it, under one id. I8, what is left in Ray, is not in the database.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select

from fairlead.lifecycle import MOVES, Outcome, State
from fairlead.protocol import BEGUN_FILE
from fairlead.spec import ExperimentSpec
from fairlead.store import Store
from fairlead.store.outbox import MessageState, is_wanted, message_id_of
from fairlead.store.tables import (
    AttemptRow,
    BatchRow,
    CheckpointRow,
    EventRow,
    ExperimentRow,
    IdempotencyRow,
    OutboxRow,
    StreamRow,
    WebhookEndpointRow,
)
from fairlead.store.webhooks import EndpointState

SUBMIT_ROUTES = ("POST /v1/experiments", "POST /v1/evaluations")
HOLDING = (State.PLACED, State.RUNNING, State.HELD)
Point = tuple[str, int, int]
"""Metric, step and time stamp: what makes a point the same for MLflow, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What the caller knows beside the database."""

    acknowledged: Mapping[str, str] = field(default_factory=dict)
    """The experiment that was acknowledged under each idempotency key."""
    storage: Path | None = None
    """The shared storage; None: files are not looked at."""
    is_clock_steady: bool = True
    """Whether time stamps can be compared: nobody has set the clock."""
    keeps_batches: bool = True
    """Whether no recorded batch was old enough to be forgotten."""
    received: Mapping[str, Set[str]] = field(default_factory=dict)
    """The ids of the messages that each endpoint's receiver has got; absent: it was not asked."""
    cancel_bound_s: float = 120.0
    """How long after a cancel steps may still come in, from an agent that answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Life:
    """One experiment with all that belongs to it, each in order."""

    row: ExperimentRow
    attempts: tuple[AttemptRow, ...]
    events: tuple[EventRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    batches: tuple[BatchRow, ...]
    offsets: Mapping[tuple[str, str], int]
    """Next offset by attempt and stream."""

    @property
    def moves(self) -> tuple[EventRow, ...]:
        """The events that changed the state."""
        return tuple(event for event in self.events if event.to_state is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Everything that was read, in one transaction."""

    lives: tuple[Life, ...]
    answers: tuple[IdempotencyRow, ...]
    endpoints: tuple[WebhookEndpointRow, ...] = ()
    messages: tuple[OutboxRow, ...] = ()


def read(store: Store) -> History:
    """What the database holds now."""
    with store.read() as session:
        rows = list(session.scalars(select(ExperimentRow).order_by(ExperimentRow.created_at, ExperimentRow.id)))
        attempts = list(session.scalars(select(AttemptRow).order_by(AttemptRow.attempt_no)))
        events = list(session.scalars(select(EventRow).order_by(EventRow.seq)))
        checkpoints = list(session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)))
        batches = list(session.scalars(select(BatchRow).order_by(BatchRow.first_offset)))
        streams = list(session.scalars(select(StreamRow)))
        answers = tuple(session.scalars(select(IdempotencyRow).where(IdempotencyRow.route.in_(SUBMIT_ROUTES))))
        endpoints = tuple(session.scalars(select(WebhookEndpointRow)))
        messages = tuple(session.scalars(select(OutboxRow).order_by(OutboxRow.id)))
    of_attempt = {attempt.id: attempt.experiment_id for attempt in attempts}
    lives = tuple(
        Life(
            row=row,
            attempts=_of(row.id, attempts),
            events=_of(row.id, events),
            checkpoints=_of(row.id, checkpoints),
            batches=_of(row.id, batches),
            offsets={
                (one.attempt_id, one.stream): one.next_offset for one in streams if of_attempt[one.attempt_id] == row.id
            },
        )
        for row in rows
    )
    return History(lives=lives, answers=answers, endpoints=endpoints, messages=messages)


def _of(key: str, rows: list[Any]) -> tuple[Any, ...]:
    return tuple(row for row in rows if row.experiment_id == key)


def violations(store: Store, expected: Expected | None = None) -> tuple[str, ...]:
    """Every promise that is broken, as text; empty if all are kept."""
    return broken(read(store), expected or Expected())


def broken(history: History, expected: Expected) -> tuple[str, ...]:
    """The same of what was read before."""
    found = [*_submits(history, expected), *_webhooks(history, expected)]
    for life in history.lives:
        found += [f"{life.row.id}: {said}" for check in CHECKS for said in check(life, expected)]
    return tuple(found)


def is_at_rest(history: History) -> bool:
    """Whether nothing will move any more without a human: all are final, paused or held, and none has an open attempt.

    An experiment whose attempt cannot be stopped is held with the attempt open; that is not rest.
    """
    states = {State(life.row.state) for life in history.lives}
    resting = {state for state in State if state.is_final} | {State.PAUSED, State.HELD}
    return states <= resting and all(one.outcome is not None for life in history.lives for one in life.attempts)


# ---- submits --------------------------------------------------------------------------------------------------------


def _submits(history: History, expected: Expected) -> Iterator[str]:
    """I1 and I2."""
    exist = {life.row.id for life in history.lives}
    for key, experiment_id in expected.acknowledged.items():
        if experiment_id not in exist:
            yield f"I1: {experiment_id} was acknowledged under {key} and is not there"
    stored = {answer.key: str(json.loads(answer.body)["id"]) for answer in history.answers}
    for key, experiment_id in stored.items():
        if experiment_id not in exist:
            yield f"I2: the answer kept under {key} names {experiment_id}, which is not there"
        if expected.acknowledged.get(key, experiment_id) != experiment_id:
            yield f"I2: {key} was acknowledged as {expected.acknowledged[key]} and is kept as {experiment_id}"
    for experiment_id, count in Counter(stored.values()).items():
        if count > 1:
            yield f"I2: {count} keys name {experiment_id}"


# ---- webhooks -------------------------------------------------------------------------------------------------------


def _webhooks(history: History, expected: Expected) -> Iterator[str]:
    """I10, of endpoints that were there and active all the time since they were made."""
    kept = {(message.endpoint_id, message.message_id): message for message in history.messages}
    for endpoint in history.endpoints:
        if endpoint.state != EndpointState.ACTIVE:
            continue
        wanted = set(_wanted_by(endpoint, history.lives, expected))
        for message_id in sorted(wanted):
            message = kept.get((endpoint.id, message_id))
            if message is None:
                yield f"I10: {message_id} was never written for webhook {endpoint.id}, which wants it"
            elif message.state != MessageState.DELIVERED:
                yield f"I10: {message_id} is {message.state} for webhook {endpoint.id}"
        if endpoint.id in expected.received:
            got = expected.received[endpoint.id]
            lost = [one for one in wanted if one not in got]
            yield from (f"I10: {one} never reached webhook {endpoint.id}" for one in sorted(lost))


def _wanted_by(endpoint: WebhookEndpointRow, lives: tuple[Life, ...], expected: Expected) -> Iterator[str]:
    for life in lives:
        if endpoint.project in (None, life.row.project):
            for event in life.events:
                is_later = event.at > endpoint.created_at or endpoint.id in expected.received
                if is_later and is_wanted(endpoint.kinds, event.kind, event.to_state):
                    yield message_id_of(event.experiment_id, event.seq)


# ---- attempts -------------------------------------------------------------------------------------------------------


def _attempts(life: Life, expected: Expected) -> Iterator[str]:
    """I3 and I4."""
    numbers = [attempt.attempt_no for attempt in life.attempts]
    if numbers != list(range(1, len(numbers) + 1)) or life.row.current_attempt_no != len(numbers):
        yield f"I4: its attempts are {numbers}, its current one is {life.row.current_attempt_no}"
    still_open = [attempt.attempt_no for attempt in life.attempts if attempt.outcome is None]
    if len(still_open) > 1:
        yield f"I3: attempts {still_open} are open at once"
    if still_open and still_open[-1] != life.row.current_attempt_no:
        yield f"I3: attempt {still_open[-1]} is open, attempt {life.row.current_attempt_no} is the current one"
    if still_open and life.row.state not in HOLDING:
        yield f"I3: attempt {still_open[-1]} is open while the experiment is {life.row.state}"
    if expected.is_clock_steady:
        yield from _commits_in_time(life)


def _commits_in_time(life: Life) -> Iterator[str]:
    """Nothing is committed before an attempt was leased or after it ended, and the next begins after that."""
    by_no = {attempt.attempt_no: attempt for attempt in life.attempts}
    by_id = {attempt.id: attempt for attempt in life.attempts}
    for before, after in pairwise(life.attempts):
        if before.ended_at is None or after.created_at < before.ended_at:
            yield f"I3: attempt {after.attempt_no} was made before attempt {before.attempt_no} had ended"
    committed = [(f"checkpoint of step {c.step}", by_no.get(c.attempt_no), c.committed_at) for c in life.checkpoints]
    committed += [(f"batch at {b.first_offset}", by_id[b.attempt_id], b.received_at) for b in life.batches]
    for what, attempt, at in committed:
        if attempt is None:
            yield f"I3: a {what} belongs to an attempt that does not exist"
        elif attempt.leased_at is None or (attempt.ended_at is not None and at > attempt.ended_at):
            yield f"I3: a {what} was taken from attempt {attempt.attempt_no} when it was not the attempt's to give"


def _one_beginning(life: Life, expected: Expected) -> Iterator[str]:
    """I12: what the server knows of a runner is the one that has begun; there is one such file an attempt."""
    if expected.storage is None:
        return
    for attempt in life.attempts:
        if attempt.started_at is None:
            continue
        path = expected.storage / attempt.storage_path / BEGUN_FILE
        begun = json.loads(path.read_bytes()) if path.exists() else None
        if begun is None:
            yield f"I12: attempt {attempt.attempt_no} has started, and no runner has begun it"
        elif begun.get("node_id", attempt.node_id) != attempt.node_id:
            yield f"I12: attempt {attempt.attempt_no} was begun by another runner than the one that was reported"


# ---- states and events ----------------------------------------------------------------------------------------------


def _events(life: Life, expected: Expected) -> Iterator[str]:
    """I5 and I6."""
    seqs = [event.seq for event in life.events]
    if seqs != list(range(1, life.row.version + 1)):
        yield f"I6: {len(seqs)} events for version {life.row.version}, the last is {seqs[-1:]}"
    state: State | None = None
    for event in life.moves:
        assert event.to_state is not None, "moves have one"
        to = State(event.to_state)
        if event.from_state != state:
            yield f"I6: event {event.seq} starts from {event.from_state}, but it was {state}"
        if state is not None and state.is_final:
            yield f"I5: event {event.seq} moves it from {state}, which is final, to {to}"
        elif to not in (MOVES[state] if state else {State.ACCEPTED}):
            yield f"I6: event {event.seq} moves it from {state} to {to}, which is no move"
        state = to
    if state != life.row.state:
        yield f"I6: its events lead to {state}, its row says {life.row.state}"


def _cancelled_stand_still(life: Life, expected: Expected) -> Iterator[str]:
    """I9."""
    asked = [one.at for one in life.events if one.kind == "desired" and one.payload.get("desired") == "cancel"]
    if not asked or not expected.is_clock_steady:
        return
    until = asked[0] + timedelta(seconds=expected.cancel_bound_s)
    late = [batch for batch in life.batches if batch.received_at > until]
    if late:
        yield f"I9: {len(late)} batches came in more than {expected.cancel_bound_s:g} s after it was cancelled"


def _budgets(life: Life, expected: Expected) -> Iterator[str]:
    """I11: what the events say of attempts are the attempts' outcomes, and no budget is overdrawn."""
    outcomes = {attempt.attempt_no: attempt.outcome for attempt in life.attempts}
    told = [event for event in life.moves if "outcome" in event.payload]
    for event in told:
        if outcomes.get(event.attempt_no or 0) != event.payload["outcome"]:
            yield f"I11: event {event.seq} says that attempt {event.attempt_no} ended {event.payload['outcome']}"
    for attempt_no, count in Counter(event.attempt_no for event in told).items():
        if count > 1:
            yield f"I11: attempt {attempt_no} was charged {count} times"
    unsettled = [one.attempt_no for one in life.attempts if one.outcome is not None and not one.is_settled]
    if unsettled and unsettled != [life.row.current_attempt_no]:
        yield f"I11: attempts {unsettled} have ended and were never charged"
    yield from _overdrawn(life)


def _overdrawn(life: Life) -> Iterator[str]:
    retries = ExperimentSpec.model_validate(life.row.spec).policy.retries
    spent: Counter[str] = Counter()
    best = -1
    for event in life.moves:
        if event.from_state == State.HELD:
            spent.clear()  # a human let it go on
        if "outcome" not in event.payload:
            continue
        steps = [one.step for one in life.checkpoints if one.attempt_no == event.attempt_no]
        if max(steps, default=-1) > best:
            best = max(steps)
            spent["infra"] = 0  # progress forgives
        if event.to_state == State.RETRYING:
            budget = _charged_to(Outcome(event.payload["outcome"]))
            spent[budget] += 1
            if spent[budget] > getattr(retries, budget):
                yield f"I11: event {event.seq} retries once more than the {getattr(retries, budget)} of {budget}"


def _charged_to(outcome: Outcome) -> str:
    return "infra" if outcome in (Outcome.INFRA_ERROR, Outcome.LOST) else outcome.value


# ---- files and streams ----------------------------------------------------------------------------------------------


def _checkpoints(life: Life, expected: Expected) -> Iterator[str]:
    """I7. A checkpoint that retention or a resume has put aside is not expected to verify."""
    if expected.storage is not None:
        from fairlead.run.storage import problem_with

        for one in life.checkpoints:
            if one.state == "committed":
                problem = problem_with(expected.storage / one.path, manifest_sha256=one.manifest_sha256)
                if problem is not None:
                    yield f"I7: the checkpoint of step {one.step} of attempt {one.attempt_no}: {problem}"
    for event in life.events:
        if event.kind == "resumed" and not _has_checkpoint(life, event):
            yield f"I7: attempt {event.attempt_no} resumed from step {event.payload.get('step')}, never committed"


def _has_checkpoint(life: Life, event: EventRow) -> bool:
    """An attempt may go on from one of its own before the server has heard of it; if it is over, the server has."""
    current = event.attempt_no or 0
    is_open = any(one.attempt_no == current and one.outcome is None for one in life.attempts)
    steps = {one.step for one in life.checkpoints if one.attempt_no <= current}
    return is_open or event.payload.get("step") in steps


def _streams(life: Life, expected: Expected) -> Iterator[str]:
    """I13 as far as the database knows."""
    for attempt in life.attempts:
        of_one = [batch for batch in life.batches if batch.attempt_id == attempt.id]
        next_offset = life.offsets.get((attempt.id, "metrics"), 0)
        starts = [batch.first_offset for batch in of_one]
        ends = [batch.next_offset for batch in of_one]
        if expected.keeps_batches and [*starts, next_offset] != [0, *ends]:
            yield f"I13: attempt {attempt.attempt_no} has batches from {starts} to {ends}, and goes on at {next_offset}"
        if any(len(batch.payload) != batch.next_offset - batch.first_offset for batch in of_one):
            yield f"I13: attempt {attempt.attempt_no} has a batch whose points are not as many as its offsets say"
        notes = sum("at_ms" in event.payload for event in life.events if event.attempt_no == attempt.attempt_no)
        if notes != life.offsets.get((attempt.id, "notes"), 0):
            yield f"I13: attempt {attempt.attempt_no} has {notes} notes among its events, not as many as were taken"


CHECKS: tuple[Callable[[Life, Expected], Iterator[str]], ...] = (
    _attempts,
    _one_beginning,
    _events,
    _cancelled_stand_still,
    _budgets,
    _checkpoints,
    _streams,
)


# ---- MLflow ---------------------------------------------------------------------------------------------------------


def points_taken(life: Life) -> Counter[Point]:
    """The points that the server has taken in for an experiment."""
    return Counter((key, step, at_ms) for batch in life.batches for key, _, step, at_ms in batch.payload)


def differences(life: Life, recorded: Counter[Point]) -> Iterator[str]:
    """I13 as far as MLflow shows it: ``recorded`` are the points of its run, of the metrics that batches carry."""
    taken = points_taken(life)
    keys = {key for key, _, _ in taken}
    shown = Counter({point: count for point, count in recorded.items() if point[0] in keys})
    for what, more in (("lacks", taken - shown), ("has in excess", shown - taken)):
        if more:
            yield f"{life.row.id}: I13: MLflow {what} {more.total()} points, such as {next(iter(more))}"

"""Rows for tests of the store and of what stands on it, brought about by the store's own functions."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from sqlalchemy.orm import Session

from fairlead.clock import Clock
from fairlead.lifecycle import State
from fairlead.protocol import AttachRequest, NodeInfo
from fairlead.store import attempts, clusters, events, experiments
from fairlead.store.engine import Store
from fairlead.store.experiments import Candidate
from fairlead.store.tables import AttemptRow, ExperimentRow
from fairlead.testing.builders import a_spec
from fairlead.testing.clock import FakeClock

TOKEN = "attempt-token"
_WAY = (State.ACCEPTED, State.QUEUED, State.PLACED, State.RUNNING, State.EVALUATING, State.SUCCEEDED)


def an_experiment(
    store: Store, key: str = "exp-1", *, state: State = State.ACCEPTED, clock: Clock | None = None, **spec: Any
) -> ExperimentRow:
    """An experiment that took the straight way to ``state``, without attempts. Raises ``ValueError`` off that way."""
    if state not in _WAY:
        raise ValueError(f"{state} is not on the straight way {', '.join(_WAY)}")
    now = (clock or FakeClock()).now()
    with store.write() as session:
        row = experiments.insert(
            session, experiment_id=key, spec=a_spec(**spec), actor="test", now=now, total_steps=None
        )
        for _, to in pairwise(_WAY[: _WAY.index(state) + 1]):
            columns = {"enqueued_at": now} if to is State.QUEUED else {}
            assert experiments.move_if_current(
                session, row, to, reason="for a test", actor="test", now=now, columns=columns
            )
            session.refresh(row)
    return row


def an_attempt(
    store: Store, key: str = "exp-1", *, cluster: str = "local", is_leased: bool = True, clock: Clock | None = None
) -> AttemptRow:
    """The first attempt of a new, placed experiment; leased under ``TOKEN`` unless told otherwise."""
    an_experiment(store, key, state=State.QUEUED, clock=clock)
    return next_attempt(store, key, cluster=cluster, is_leased=is_leased, clock=clock)


def next_attempt(
    store: Store, key: str, *, cluster: str = "local", is_leased: bool = True, clock: Clock | None = None
) -> AttemptRow:
    """One more attempt of a queued experiment, placed on ``cluster``."""
    now = (clock or FakeClock()).now()
    with store.write() as session:
        clusters.ensure(session, cluster)
        candidate = _candidate(experiments.candidates(session), key)
        attempt_no = candidate.current_attempt_no + 1
        assert experiments.move_if_current(
            session,
            candidate,
            State.PLACED,
            reason="for a test",
            actor="test",
            now=now,
            attempt_no=attempt_no,
            columns={"current_attempt_no": attempt_no},
        )
        row = attempts.insert(session, candidate=candidate, attempt_no=attempt_no, cluster=cluster, now=now)
        return attempts.lease(session, row.id, cluster=cluster, token=TOKEN, now=now) if is_leased else row


def an_attach_request(*, ray_session: str = "session-1", nodes: Iterable[NodeInfo] = ()) -> AttachRequest:
    """An agent's first words."""
    return AttachRequest(
        protocol=1, agent_version="0.1.0", ray_version="2.60.0", ray_session=ray_session, nodes=tuple(nodes)
    )


def a_node(node_id: str = "node-1", *, cpus: float = 2, gpus: float = 0) -> NodeInfo:
    """A living node with everything free."""
    return NodeInfo(
        node_id=node_id, address="127.0.0.1", is_alive=True, cpus=cpus, gpus=gpus, free_cpus=cpus, free_gpus=gpus
    )


def replayed_state(session: Session, key: str) -> tuple[State | None, int]:
    """State and version as the event log alone tells them. Raises ``AssertionError`` where it has a gap."""
    state: State | None = None
    log = events.after(session, key, 0, limit=100_000)
    for position, entry in enumerate(log, start=1):
        assert entry.seq == position, f"event {position} of {key} is missing"
        if entry.to_state is not None:
            assert entry.from_state == state, f"event {position} of {key} starts from {entry.from_state}, not {state}"
            state = State(entry.to_state)
    return state, len(log)


def _candidate(waiting: list[Candidate], key: str) -> Candidate:
    return next(candidate for candidate in waiting if candidate.id == key)

"""An attempt that defies its stop: the experiment is held, the attempt keeps its resources, and its end decides."""

from datetime import timedelta

import pytest

from fairlead.control.settle import Settle
from fairlead.lifecycle import Desired, Observation, Outcome, State
from fairlead.protocol import STOP_GRACE_S, AttachRequest, StopMode
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, clusters, experiments
from fairlead.store.experiments import Candidate
from fairlead.store.tables import ExperimentRow
from fairlead.testing import FakeClock, a_spec
from fairlead.testing.scheduling import a_wish

KEY = attempts.attempt_id("e1", 1)
BOUND_S = 60


@pytest.fixture
def settle(store: Store, clock: FakeClock, tmp_path) -> Settle:  # type: ignore[no-untyped-def]
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path, mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    return Settle(store=store, clock=clock, settings=settings, uniform=lambda low, high: high)


def run_and_ask_to_stop(settle: Settle, desired: Desired) -> None:
    """An experiment whose first attempt runs, and whose agent has just been told to stop it."""
    now, store = settle.clock.now(), settle.store
    with store.write() as session:
        request = AttachRequest(protocol=1, agent_version="0", ray_version="0", ray_session="s1")
        clusters.attach(session, "local", request, now=now)
        row = experiments.insert(session, experiment_id="e1", spec=a_spec(), actor="user", now=now, total_steps=None)
        for to in (State.QUEUED, State.PLACED, State.RUNNING):
            columns = {"enqueued_at": now, "current_attempt_no": 1}
            experiments.move_if_current(session, row, to, reason="on its way", actor="test", now=now, columns=columns)
        attempts.insert(session, candidate=candidate_of(row), attempt_no=1, cluster="local", now=now)
        attempts.lease(session, KEY, cluster="local", token="fl_x_y", now=now)
        experiments.set_columns(session, "e1", desired=desired)
        present = {"started_at": now, "ray_session": "s1", "observation": Observation.PRESENT}
        attempts.write_if_open(session, KEY, **present)
        attempts.note_stop(session, KEY, now)
        attempts.note_stop(session, KEY, now + timedelta(hours=1))  # a repeated stop does not give it more time


def candidate_of(row: ExperimentRow) -> Candidate:
    return Candidate(
        id=row.id,
        version=row.version,
        state=State(row.state),
        project=row.project,
        priority=row.priority,
        wishes=(a_wish(),),
        runtime_left_s=86_400,
        current_attempt_no=0,
        enqueued_at=row.created_at,
        waiting=None,
    )


def state(settle: Settle) -> tuple[State, str]:
    with settle.store.read() as session:
        row = experiments.get(session, "e1")
        return State(row.state), row.reason.split(":")[0]


def pass_the_bound(settle: Settle, clock: FakeClock, mode: StopMode) -> None:
    clock.advance(BOUND_S + STOP_GRACE_S[mode])
    settle()
    assert state(settle)[0] is State.RUNNING
    clock.advance(1)
    settle()


def end(settle: Settle, outcome: Outcome, reason: str) -> None:
    with settle.store.write() as session:
        assert attempts.end(session, KEY, outcome=outcome, reason=reason, now=settle.clock.now())
    settle()


def test_what_is_still_there_after_the_bound_makes_its_experiment_held_and_keeps_its_resources(
    settle: Settle, clock: FakeClock
) -> None:
    run_and_ask_to_stop(settle, Desired.CANCEL)
    pass_the_bound(settle, clock, StopMode.CANCEL)
    assert state(settle) == (State.HELD, "cannot_stop")
    settle()
    settle()
    assert state(settle) == (State.HELD, "cannot_stop"), "nothing else may follow while the attempt is open"
    with settle.store.read() as session:
        assert clusters.usage(session)["local"][0] == 1
        assert attempts.get(session, KEY).outcome is None
    end(settle, Outcome.CANCELLED, "cancelled")
    assert state(settle)[0] is State.CANCELLED


@pytest.mark.parametrize(
    ("outcome", "reason", "expected"),
    [
        (Outcome.PREEMPTED, "pause_requested", State.PAUSED),
        (Outcome.INFRA_ERROR, "runner_died", State.PAUSED),
        (Outcome.SUCCEEDED, "completed", State.EVALUATING),
    ],
)
def test_its_end_moves_the_experiment_on_as_desired(
    settle: Settle, clock: FakeClock, outcome: Outcome, reason: str, expected: State
) -> None:
    run_and_ask_to_stop(settle, Desired.PAUSE)
    pass_the_bound(settle, clock, StopMode.PAUSE)
    assert state(settle) == (State.HELD, "cannot_stop")
    end(settle, outcome, reason)
    assert state(settle)[0] is expected


def test_what_merely_cannot_be_seen_is_not_held(settle: Settle, clock: FakeClock) -> None:
    run_and_ask_to_stop(settle, Desired.CANCEL)
    with settle.store.write() as session:
        attempts.write_if_open(session, KEY, observation=Observation.UNKNOWN)
    clock.advance(3600)
    settle()
    assert state(settle)[0] is State.RUNNING

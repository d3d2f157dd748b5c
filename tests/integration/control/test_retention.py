"""Checkpoints that newer or better ones have made superfluous are marked, told to the right agent, and forgotten."""

from datetime import datetime
from pathlib import Path

import pytest

from fairlead.control.reap import Reap
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import AttachRequest
from fairlead.settings import ControlSettings
from fairlead.store import Session, Store, attempts, checkpoints, clusters, experiments
from fairlead.store.experiments import Candidate
from fairlead.testing import FakeClock, a_spec
from fairlead.testing.scheduling import a_wish

POLICY = {"checkpoints": {"keep_last": 2, "keep_best": 1, "metric": "validation/loss"}}


@pytest.fixture
def reap(store: Store, clock: FakeClock, tmp_path: Path) -> Reap:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://", storage=tmp_path, mlflow_url="http://127.0.0.1:1", secret_key_file=key
    )
    now = clock.now()
    with store.write() as session:
        request = AttachRequest(protocol=1, agent_version="0", ray_version="0", ray_session="s1")
        for name in ("local", "other"):
            clusters.attach(session, name, request, now=now)
        experiments.insert(
            session, experiment_id="e1", spec=a_spec(policy=POLICY), actor="user", now=now, total_steps=None
        )
        open_attempt(session, 1, now)
    return Reap(store=store, clock=clock, settings=settings)


def open_attempt(session: Session, attempt_no: int, now: datetime) -> None:
    candidate = Candidate(
        id="e1",
        version=1,
        state=State.QUEUED,
        project="default",
        priority=50,
        wishes=(a_wish(),),
        runtime_left_s=86_400,
        current_attempt_no=attempt_no - 1,
        enqueued_at=now,
        waiting=None,
    )
    attempts.insert(session, candidate=candidate, attempt_no=attempt_no, cluster="local", now=now)


def commit(reap: Reap, step: int, score: float | None = None, *, attempt_no: int = 1) -> None:
    with reap.store.write() as session:
        checkpoints.commit(
            session,
            experiment_id="e1",
            attempt_no=attempt_no,
            step=step,
            path=f"default/e1/a{attempt_no}/ckpt-{step}",
            manifest_sha256="a" * 64,
            score=score,
            now=reap.clock.now(),
        )


def resumable(reap: Reap) -> list[int]:
    with reap.store.read() as session:
        return [row.step for row in checkpoints.newest_first(session, "e1")]


def to_delete(reap: Reap, cluster: str = "local") -> list[str]:
    with reap.store.read() as session:
        return [row.path for row in checkpoints.to_delete(session, cluster, limit=100)]


def test_the_newest_and_the_best_stay_and_the_others_are_told_to_their_own_cluster(reap: Reap) -> None:
    for step, score in enumerate([0.3, 0.1, float("nan"), 0.4, 0.5]):
        commit(reap, step, score)
        reap()
    assert resumable(reap) == [4, 3, 1]
    assert to_delete(reap) == ["default/e1/a1/ckpt-0", "default/e1/a1/ckpt-2"]
    assert to_delete(reap, "other") == []


def test_what_an_agent_made_of_it_is_kept(reap: Reap) -> None:
    for step in range(4):
        commit(reap, step)
    reap()
    with reap.store.write() as session:
        assert checkpoints.collected(session, "other", "default/e1/a1/ckpt-0", is_deleted=True) is None
        assert checkpoints.collected(session, "local", "default/e1/a1/ckpt-3", is_deleted=True) is None, "not asked for"
        assert checkpoints.collected(session, "local", "default/e1/a1/ckpt-0", is_deleted=True) is not None
        assert checkpoints.collected(session, "local", "default/e1/a1/ckpt-1", is_deleted=False) is not None
        assert checkpoints.reject(session, "e1", "default/e1/a1/ckpt-3")
    assert to_delete(reap) == []
    assert resumable(reap) == [2, 1]


def test_nothing_goes_while_a_new_attempt_may_be_reading_an_old_checkpoint(reap: Reap) -> None:
    for step in range(4):
        commit(reap, step)
    with reap.store.write() as session:
        attempts.end(session, "e1-a1", outcome=Outcome.INFRA_ERROR, reason="why", now=reap.clock.now())
        open_attempt(session, 2, reap.clock.now())
    reap()
    assert resumable(reap) == [3, 2, 1, 0]
    commit(reap, 4, attempt_no=2)
    reap()
    assert resumable(reap) == [4, 3]

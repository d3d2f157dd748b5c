"""The benchmarks that kill the control plane, at a small size: their promises hold on every run of the tests."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from benchmarks.control_plane import control_plane
from benchmarks.crash_loop import compare, crash, num_accepted
from benchmarks.places import await_true
from benchmarks.recovery import control, postgres
from sqlalchemy import delete, select, update

from fairlead.store import Store, experiments, idempotency
from fairlead.store.idempotency import StoredAnswer
from fairlead.store.tables import EventRow, ExperimentRow, LeaseRow
from fairlead.testing import FakeClock
from fairlead.testing.stored import an_experiment


@pytest.mark.nightly  # half a minute; by day one server is killed at one place after the other
def test_processes_killed_at_random_lose_and_double_nothing() -> None:
    found = crash("postgresql", submits=200, seed=1)
    assert (found.submits, found.lost, found.doubled, found.event_gaps) == (200, 0, 0, 0)
    assert sum(found.kills.values()) == 4


@pytest.mark.nightly  # minutes: the only server there is must start again after every kill
def test_a_server_on_sqlite_killed_at_random_loses_and_doubles_nothing() -> None:
    found = crash("sqlite", submits=1000, seed=2)
    assert (found.submits, found.lost, found.doubled, found.event_gaps) == (1000, 0, 0, 0)


def test_without_the_leader_the_api_goes_on_and_scheduling_resumes_and_a_killed_database_is_survived(
    tmp_path: Path,
) -> None:
    with control_plane(tmp_path, "postgresql") as plane:
        took_s, watch = control(plane)
        assert took_s < 20
        assert watch.asked >= 10
        assert watch.failed == 0
        assert postgres(plane) < 60


def test_a_killed_server_on_sqlite_is_succeeded_at_once_and_fifty_writers_at_a_time_lose_nothing(
    tmp_path: Path,
) -> None:
    names = [f"writer-{number}" for number in range(50)]
    with control_plane(tmp_path, "sqlite", control_ttl_s="600") as plane:  # nobody could wait for the lease to expire
        (server,) = plane.parts
        with ThreadPoolExecutor(50) as pool:
            made = list(pool.map(lambda name: plane.submit(server, name, timeout_s=60), names))
        assert {answer.status_code for answer in made} == {201}
        server.kill()
        server.start()
        plane.await_ready()
        assert plane.submit(server, "after", timeout_s=60).status_code == 201
        await_true("the new server's loops", lambda: num_accepted(plane.store) == 0, timeout_s=120)
        acknowledged = {name: {answer.json()["id"]} for name, answer in zip(names, made, strict=True)}
        assert compare(plane.store, acknowledged) == (0, 0, 0)
        with plane.store.read() as session:
            assert session.scalar(select(LeaseRow.epoch)) == 2


def acknowledge(store: Store, *names: str) -> dict[str, set[str]]:
    clock = FakeClock()
    for name in names:
        an_experiment(store, f"id-{name}", name=name)
        with store.write() as session:
            answer = StoredAnswer(status=201, headers={}, body="{}")
            scope = {"principal": "p", "route": "r", "key": name, "body_sha256": "0"}
            idempotency.insert(session, **scope, answer=answer, expires_at=clock.now())
    return {name: {f"id-{name}"} for name in names}


def test_the_comparison_sees_what_is_lost_doubled_or_has_a_gap(sqlite_store: Store) -> None:
    acknowledged = acknowledge(sqlite_store, "a", "b")
    assert compare(sqlite_store, acknowledged) == (0, 0, 0)
    assert compare(sqlite_store, {**acknowledged, "c": {"id-c"}}) == (1, 0, 0)
    an_experiment(sqlite_store, "again", name="a")
    assert compare(sqlite_store, acknowledged) == (0, 1, 0)
    with sqlite_store.write() as session:
        experiments.note(session, "id-a", kind="hint", actor="x", now=FakeClock().now())
        session.execute(delete(EventRow).where(EventRow.experiment_id == "id-a", EventRow.seq == 1))
        session.execute(update(ExperimentRow).where(ExperimentRow.id == "id-b").values(state="queued"))
    assert compare(sqlite_store, acknowledged) == (0, 1, 2)

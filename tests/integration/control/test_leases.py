"""Who leads the control loops, and that whoever does not writes nothing: in one process, and with real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select

from fairlead.control.dispatch import Dispatch
from fairlead.control.leader import TTL_S, Leadership, Term, stale_writes_dropped
from fairlead.control.loops import run_until
from fairlead.data import find_manifests
from fairlead.errors import StaleLeader, Unavailable
from fairlead.lifecycle import State
from fairlead.settings import ControlSettings
from fairlead.store import Store, beside, experiments, open_store
from fairlead.store.tables import EventRow, ExperimentRow, LeaseRow
from fairlead.testing import FakeClock, a_spec
from fairlead.testing.postgres import PostgresServer
from fairlead.testing.stored import an_experiment, replayed_state

HOUR_S = 3600.0


def a_leader(store: Store, clock: FakeClock, holder: str, **more: Any) -> Leadership:
    return Leadership(store=store, clock=clock, holder=holder, **more)


def expire(store: Store) -> None:
    """Let the lease's time pass on the database's clock, which no test can move."""
    with store.write() as session:
        session.execute(LeaseRow.__table__.update().values(expires_at=func.now()))


def take_over(store: Store, clock: FakeClock, leader: Leadership) -> None:
    """What a process does whose leader has fallen silent."""
    leader.renew()
    clock.advance(leader.ttl_s)
    if not store.is_sqlite:
        expire(store)
    assert leader.renew()


def a_term(leadership: Leadership) -> Term:
    term = Term(leadership=leadership)
    assert term.begin()
    return term


@pytest.fixture
def postgres_url(postgres: PostgresServer, postgres_template: str) -> Iterator[str]:
    name = postgres.create_database(template=postgres_template)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def postgres_store(postgres_url: str) -> Iterator[Store]:
    opened = open_store(postgres_url)
    yield opened
    opened.close()


# ---- who leads ------------------------------------------------------------------------------------------------------


def test_one_leads_until_it_has_been_silent_for_the_whole_time(store: Store, clock: FakeClock) -> None:
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    assert not second.renew()
    clock.advance(TTL_S - 0.5)
    assert not first.is_held  # it stops a little before another could begin
    assert not second.renew()
    assert first.renew()
    clock.advance(TTL_S - 0.5)
    assert not second.renew()
    take_over(store, clock, second)
    assert (second.epoch, first.renew(), first.epoch) == (2, False, None)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_a_jump_of_the_wall_clock_steals_no_lease_and_ends_none(store: Store, clock: FakeClock, seconds: float) -> None:
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    assert not second.renew()
    clock.jump(seconds)
    assert first.is_held
    for _ in range(6):
        clock.advance(first.renew_s)
        assert first.renew()
        assert not second.renew()
    assert first.epoch == 1


def test_a_lease_that_was_handed_over_is_taken_at_once(store: Store, clock: FakeClock) -> None:
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    first.release()
    assert (first.is_held, second.renew(), second.epoch) == (False, True, 2)


def test_a_file_lock_proves_the_old_leader_dead(sqlite_store: Store, clock: FakeClock) -> None:
    assert a_leader(sqlite_store, clock, "first").renew()
    second = a_leader(sqlite_store, clock, "second", is_sole=True)
    assert (second.renew(), second.epoch) == (True, 2)


def test_a_queue_for_connections_does_not_keep_the_lease_from_being_renewed(
    postgres_store: Store, clock: FakeClock
) -> None:
    leader = a_leader(beside(postgres_store), clock, "first")

    def exhaust(depth: int) -> None:
        with postgres_store.read() as session:
            experiments.find(session, "x")
            if depth:
                exhaust(depth - 1)
            else:
                assert leader.renew()

    exhaust(19)  # all connections there are
    with pytest.raises(Unavailable, match="QueuePool"):
        exhaust(20)
    leader.store.close()


# ---- the fence ------------------------------------------------------------------------------------------------------


def test_a_write_after_another_has_taken_over_is_dropped_and_counted(store: Store, clock: FakeClock) -> None:
    row = an_experiment(store)
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    fenced = store.fenced(a_term(first).check)
    take_over(store, clock, second)
    before = stale_writes_dropped.value
    with pytest.raises(StaleLeader), fenced.write() as session:
        experiments.note(session, row.id, kind="hint", actor="stale", now=clock.now())
    assert stale_writes_dropped.value == before + 1
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 1)
    with store.fenced(a_term(second).check).write() as session:
        experiments.note(session, row.id, kind="hint", actor="second", now=clock.now())


def test_what_a_tick_decided_before_another_led_for_a_while_is_not_written(store: Store, clock: FakeClock) -> None:
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    term = a_term(first)
    take_over(store, clock, second)
    second.release()
    assert first.renew()  # it leads again, but the tick is of its former time
    with pytest.raises(StaleLeader), store.fenced(term.check).write():
        pass
    assert term.begin()
    with store.fenced(term.check).write():
        pass


def test_a_takeover_waits_for_what_the_old_leader_has_begun_to_write(postgres_store: Store, clock: FakeClock) -> None:
    store, row = postgres_store, an_experiment(postgres_store)
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    fenced, took = store.fenced(a_term(first).check), Event()

    def follow() -> None:
        assert second.renew()
        took.set()

    follower = Thread(target=follow)
    with fenced.write() as session:
        experiments.note(session, row.id, kind="hint", actor="first", now=clock.now())
        assert first.renew()  # a renewal passes the loops' own transactions
        expire(store)
        follower.start()
        assert not took.wait(0.5)
    assert took.wait(30)
    follower.join(30)
    with pytest.raises(StaleLeader), fenced.write():
        pass
    with store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 2)


def test_a_tick_of_a_former_leader_ends_quietly_without_blaming_an_experiment(
    store: Store, clock: FakeClock, tmp_path: Path
) -> None:
    for number in range(3):
        an_experiment(store, f"exp-{number}")
    first, second = a_leader(store, clock, "first"), a_leader(store, clock, "second")
    assert first.renew()
    term, settings = a_term(first), some_settings(tmp_path)
    dispatch = Dispatch(store=store.fenced(term.check), clock=clock, settings=settings, manifests=find_manifests())
    take_over(store, clock, second)
    stop, before = Event(), stale_writes_dropped.value

    def tick() -> bool:
        stop.set()
        return dispatch()

    run_until(stop, tick, name="dispatch", idle_s=0, wake=Event(), may_run=lambda: True)
    assert stale_writes_dropped.value == before + 1  # the first write ended it, not the third
    assert written(store) == {f"exp-{number}": 1 for number in range(3)}


def some_settings(directory: Path) -> ControlSettings:
    (directory / "secret").write_bytes(b"k" * 32)
    return ControlSettings(
        database_url="sqlite://",
        storage=directory / "storage",
        mlflow_url="http://127.0.0.1:9",
        secret_key_file=directory / "secret",
    )


def written(store: Store) -> dict[str, int]:
    with store.read() as session:
        return dict(session.execute(select(ExperimentRow.id, ExperimentRow.version)).all())


# ---- real processes -------------------------------------------------------------------------------------------------


@dataclass
class Control:
    """A control process, known to PostgreSQL by its name."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def said(self, *words: str) -> int:
        """How many lines have all of these words."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sum(all(word in line for word in words) for line in lines)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)


@dataclass
class Processes:
    """Control processes over one PostgreSQL, and experiments for them to admit."""

    url: str
    store: Store
    directory: Path
    looking: "psycopg.Connection[Any]"
    begun: list[Control] = field(default_factory=list)

    def start(self, name: str, *, ttl_s: float = TTL_S) -> Control:
        (self.directory / "secret").write_bytes(b"k" * 32)
        own = {key: value for key, value in os.environ.items() if not key.startswith("FAIRLEAD_")}
        environment = own | {
            "FAIRLEAD_DATABASE_URL": f"{self.url}&application_name={name}",
            "FAIRLEAD_STORAGE": str(self.directory / "storage"),
            "FAIRLEAD_MLFLOW_URL": "http://127.0.0.1:9",
            "FAIRLEAD_SECRET_KEY_FILE": str(self.directory / "secret"),
            "FAIRLEAD_CONTROL_TTL_S": str(ttl_s),
            "FAIRLEAD_IDLE_S": "0.2",
            "PYTHONUNBUFFERED": "1",
        }
        log = self.directory / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "fairlead.control"], env=environment, stdout=file, stderr=file
            )
        self.begun.append(Control(name, process, log))
        return self.begun[-1]

    def start_two(self, **more: Any) -> tuple[Control, Control]:
        """The leader, and one that is ready to follow it."""
        first = self.start("first", **more)
        await_true("the first leads", lambda: self.holder_pid() == first.process.pid, 90)
        second = self.start("second", **more)
        await_true("the second follows", lambda: self.is_connected("second"), 90)
        return first, second

    def submit(self, prefix: str, count: int) -> None:
        now = FakeClock().now()
        with self.store.write() as session:
            for number in range(count):
                experiments.insert(
                    session, experiment_id=f"{prefix}-{number}", spec=SPEC, actor="user", now=now, total_steps=None
                )

    def accepted(self) -> int:
        with self.store.read() as session:
            return experiments.count_in(session, (State.ACCEPTED,))

    def holder_pid(self) -> int:
        with self.store.read() as session:
            holder = session.scalar(select(LeaseRow.holder))
        return int(holder.split("-")[-2]) if holder else 0

    def epoch(self) -> int:
        with self.store.read() as session:
            return session.scalar(select(LeaseRow.epoch)) or 0

    def is_connected(self, name: str) -> bool:
        return bool(self.ask("select count(*) from pg_stat_activity where application_name = %s", name))

    def is_writing(self, name: str) -> bool:
        """Whether one of its transactions, which began by asking for the lease, waits for its next line."""
        query = (
            "select count(*) from pg_stat_activity where application_name = %s and state = 'idle in transaction' "
            "and backend_xid is not null"
        )
        return bool(self.ask(query, name))

    def ask(self, query: Any, name: str) -> int:
        row = self.looking.execute(query, (name,)).fetchone()
        assert row is not None
        return int(row[0])

    def everything(self) -> dict[str, Any]:
        with self.store.read() as session:
            rows = session.execute(select(ExperimentRow.id, ExperimentRow.version, ExperimentRow.state)).all()
            return {"rows": sorted(map(tuple, rows)), "events": session.scalar(select(func.count(EventRow.seq)))}


SPEC = a_spec()


def await_true(what: str, holds: Callable[[], object], timeout_s: float, *, every_s: float = 0.05) -> None:
    assert comes_true(holds, timeout_s, every_s=every_s), f"not within {timeout_s:g} s: {what}"


def comes_true(holds: Callable[[], object], timeout_s: float, *, every_s: float = 0.05) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every_s)
    return True


@pytest.fixture
def processes(postgres_url: str, postgres_store: Store, tmp_path: Path) -> Iterator[Processes]:
    address = postgres_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(address, autocommit=True) as looking:
        made = Processes(postgres_url, postgres_store, tmp_path, looking)
        yield made
    for each in made.begun:
        each.send(signal.SIGCONT) if each.process.poll() is None else None
        each.process.kill()
        each.process.wait()


def test_when_the_leader_is_killed_another_goes_on_within_twenty_seconds(processes: Processes) -> None:
    first, second = processes.start_two()
    first.process.kill()
    first.process.wait()
    killed = time.monotonic()
    processes.submit("after", 5)
    await_true("the second schedules", lambda: processes.accepted() == 0, 60)
    took_s = time.monotonic() - killed
    print(f"scheduling resumed after {took_s:.1f} s")
    assert took_s < 20
    assert (processes.holder_pid(), processes.epoch()) == (second.process.pid, 2)
    with processes.store.read() as session:
        assert {replayed_state(session, f"after-{number}") for number in range(5)} == {(State.QUEUED, 2)}


def stopped_writer(processes: Processes, leader: Control, *, is_writing: bool) -> None:
    """Stop the leader inside of a transaction, or between two: of one tick as a rule, for it rests between ticks."""
    await_true("the leader is at work", lambda: processes.accepted() < 390, 60)
    for _ in range(2000):
        leader.send(signal.SIGSTOP)
        time.sleep(0.005)  # what it has sent is answered now
        if processes.is_writing(leader.name) == is_writing:
            assert processes.accepted() > 20, "it is too late: the tick may be over"
            return
        leader.send(signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("it could not be caught")


@pytest.mark.parametrize("is_writing", [True, False], ids=["inside a transaction", "between two"])
def test_a_leader_that_slept_through_its_time_writes_nothing_and_follows(
    processes: Processes, is_writing: bool
) -> None:
    sleep_through_a_takeover(processes, is_writing=is_writing)


@pytest.mark.nightly  # minutes: each try waits out a lease
@pytest.mark.parametrize("number", range(10))
def test_wherever_a_leader_is_stopped_it_writes_nothing_afterwards(processes: Processes, number: int) -> None:
    sleep_through_a_takeover(processes, is_writing=number % 2 == 0)


def sleep_through_a_takeover(processes: Processes, *, is_writing: bool) -> None:
    """Between two transactions of a tick there is something to drop, between two ticks nothing: then once more.

    Once more is with the roles exchanged, since the sleeper follows now.
    """
    leader, follower = processes.start_two(ttl_s=3)
    for number in range(1, 5):
        sleep_once(processes, leader, follower, number=number, is_writing=is_writing)
        if is_writing or comes_true(partial(leader.said, "the tick is given up"), 10):
            return
        leader, follower = follower, leader
    raise AssertionError("nothing that a sleeper was about to write was dropped: is its tick ever given up?")


def sleep_once(processes: Processes, leader: Control, follower: Control, *, number: int, is_writing: bool) -> None:
    processes.submit(f"slow-{number}", 400)
    followed = leader.said("following")
    stopped_writer(processes, leader, is_writing=is_writing)
    await_true("the follower takes over", lambda: processes.holder_pid() == follower.process.pid, 60)
    await_true("the follower has done all", lambda: processes.accepted() == 0, 120)
    await_true("the follower rests", lambda: not processes.is_writing(follower.name), 30)
    before = processes.everything()
    assert before["events"] == 800 * number
    leader.send(signal.SIGCONT)
    await_true("the sleeper follows", lambda: leader.said("following") > followed, 60)
    time.sleep(1)  # it would have gone on by now
    assert processes.everything() == before
    assert not leader.said("tick failed")
    assert not leader.said("a row could not be served")
    assert processes.epoch() == number + 1


def test_a_lease_is_readable_by_people(processes: Processes) -> None:
    first = processes.start("first")
    await_true("it leads", lambda: processes.holder_pid() == first.process.pid, 90)
    await_true("it says so", lambda: first.said("leading", "epoch"), 30)
    first.send(signal.SIGTERM)
    assert first.process.wait(60) == 0
    second = processes.start("second")
    await_true("handed over, it is taken at once", lambda: processes.holder_pid() == second.process.pid, 90)

"""What the store says while its database is away, and that it comes back by itself."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy.orm import Session

from fairlead.errors import Conflict, Unavailable
from fairlead.lifecycle import State
from fairlead.store import Store, check_revision, check_writable, experiments, open_store, ping
from fairlead.store.engine import UNWRITABLE_S, Refusals
from fairlead.store.tables import ExperimentRow
from fairlead.testing import FakeClock
from fairlead.testing.postgres import PostgresServer
from fairlead.testing.stored import an_experiment, replayed_state

ANSWER_WITHIN_S = 5.0


@pytest.fixture
def postgres_store(postgres: PostgresServer, postgres_template: str) -> Iterator[Store]:
    name = postgres.create_database(template=postgres_template)
    opened = open_store(postgres.url(name))
    yield opened
    opened.close()
    postgres.drop_database(name)


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_an_outage_is_said_in_time_and_is_over_when_the_database_is_back(
    postgres: PostgresServer, postgres_store: Store, way: str
) -> None:
    an_experiment(postgres_store)
    getattr(postgres, way)()
    try:
        for ask in (ping, check_revision, an_experiment):
            began = time.monotonic()
            with pytest.raises(Unavailable):
                ask(postgres_store)
            assert time.monotonic() - began < ANSWER_WITHIN_S
    finally:
        postgres.start()
    ping(postgres_store)
    with postgres_store.read() as session:
        assert experiments.get(session, "exp-1").version == 1


def move_and_crash(session: Session, row: ExperimentRow, server: PostgresServer) -> None:
    now = FakeClock().now()
    assert experiments.move_if_current(session, row, State.QUEUED, reason="r", actor="a", now=now)
    server.kill()


def test_a_crash_inside_a_transaction_leaves_nothing_of_it(postgres: PostgresServer, postgres_store: Store) -> None:
    row = an_experiment(postgres_store)
    try:
        with pytest.raises(Unavailable), postgres_store.write() as session:
            move_and_crash(session, row, postgres)
    finally:
        postgres.start()
    with postgres_store.read() as session:
        assert replayed_state(session, row.id) == (State.ACCEPTED, 1)


def test_what_was_acknowledged_survives_a_crash(postgres: PostgresServer, postgres_store: Store) -> None:
    for number in range(20):
        an_experiment(postgres_store, f"exp-{number}")
    postgres.kill()
    postgres.start()
    with postgres_store.read() as session:
        assert len(experiments.page(session, limit=100)) == 20


def test_a_row_that_stays_locked_is_unavailable_not_an_endless_wait(postgres_store: Store) -> None:
    row = an_experiment(postgres_store)
    now = FakeClock().now()
    with postgres_store.write() as holding:
        experiments.note(holding, row.id, kind="hint", actor="a", now=now)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="lock timeout"), postgres_store.write() as waiting:
            experiments.note(waiting, row.id, kind="hint", actor="b", now=now)
        assert time.monotonic() - began < ANSWER_WITHIN_S


def test_an_exhausted_pool_is_unavailable(postgres_store: Store) -> None:
    def exhaust(depth: int) -> None:
        with postgres_store.read() as session:
            experiments.find(session, "x")
            if depth:
                exhaust(depth - 1)

    with pytest.raises(Unavailable, match="QueuePool"):
        exhaust(20)
    ping(postgres_store)


def forbid_writes(store: Store) -> None:
    """A full SQLite; a PostgreSQL that only reads."""
    with store.engine.begin() as connection:
        if store.is_sqlite:
            pages = connection.exec_driver_sql("pragma page_count").scalar_one()
            connection.exec_driver_sql(f"pragma max_page_count = {pages}")
        else:
            name = connection.exec_driver_sql("select current_database()").scalar_one()
            connection.exec_driver_sql(f'alter database "{name}" set default_transaction_read_only = on')
    if not store.is_sqlite:
        store.engine.dispose()


def write_until_refused(store: Store) -> None:
    for number in range(1000):
        an_experiment(store, f"exp-{number}")


def test_a_database_that_keeps_no_writes_is_said_for_a_while_and_can_be_read(store: Store, clock: FakeClock) -> None:
    store.refusals = Refusals(clock)
    check_writable(store)
    forbid_writes(store)
    with pytest.raises(Unavailable, match="takes no writes"):
        write_until_refused(store)
    ping(store)
    clock.advance(UNWRITABLE_S)
    with pytest.raises(Unavailable, match="takes no writes"):
        check_writable(store)
    clock.advance(0.1)
    check_writable(store)


def test_a_key_that_is_taken_is_a_conflict_not_an_outage(store: Store) -> None:
    an_experiment(store)
    with pytest.raises(Conflict):
        an_experiment(store)


def test_writers_of_sqlite_take_turns_without_losing_anything(sqlite_store: Store) -> None:
    an_experiment(sqlite_store)
    now = FakeClock().now()

    def take_notes() -> None:
        for _ in range(3):
            with sqlite_store.write() as session:
                experiments.note(session, "exp-1", kind="hint", actor="a", now=now)

    writers = [Thread(target=take_notes) for _ in range(15)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=60)
    with sqlite_store.read() as session:
        assert replayed_state(session, "exp-1") == (State.ACCEPTED, 46)


def test_readers_of_sqlite_do_not_wait_for_the_writer(sqlite_store: Store) -> None:
    row = an_experiment(sqlite_store)
    with sqlite_store.write() as writing:
        experiments.note(writing, row.id, kind="hint", actor="a", now=FakeClock().now())
        with sqlite_store.read() as reading:
            assert experiments.get(reading, row.id).version == 1


def test_the_directory_of_a_sqlite_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/new/deep/fairlead.db")
    ping(store)
    store.close()
    assert (tmp_path / "new" / "deep").stat().st_mode & 0o777 == 0o700

import threading

import pytest

from fairlead.store import Store
from fairlead.store.bell import Bell

PATIENCE_S = 20


def is_heard(event: threading.Event, bell: Bell) -> bool:
    """Whether a ring arrives; the listener's connection may still be on its way, so it is rung again."""
    for _ in range(PATIENCE_S * 5):
        bell.ring()
        if event.wait(0.2):
            return True
    return False


def test_a_ring_reaches_every_listener_of_the_process_until_it_stops_listening() -> None:
    bell, heard = Bell(), []
    end = bell.subscribe(lambda: heard.append("first"))
    bell.subscribe(lambda: heard.append("second"))
    bell.ring()
    assert sorted(heard) == ["first", "second"]
    end()
    bell.ring()
    assert sorted(heard) == ["first", "second", "second"]


def test_a_soft_ring_reaches_those_who_read_and_nobody_who_works() -> None:
    bell, heard = Bell(), []
    bell.subscribe(lambda: heard.append("work"))
    end = bell.subscribe_reader(lambda: heard.append("read"))
    bell.ring_softly()
    assert heard == ["read"]
    bell.ring()
    assert sorted(heard) == ["read", "read", "work"]
    end()
    bell.ring_softly()
    assert len(heard) == 3


def test_a_soft_ring_stays_soft_in_other_processes(store: Store) -> None:
    if store.is_sqlite:
        pytest.skip("SQLite has one server")
    with Bell(store) as here, Bell(store) as elsewhere:
        work, read, worked = elsewhere.listener(), threading.Event(), list[int]()
        elsewhere.subscribe_reader(read.set)
        assert is_heard(work, here)  # the connection stands
        while work.wait(1):  # rings of before that are still on their way
            work.clear()
        read.clear()
        done = threading.Event()

        def count() -> None:
            worked.append(1)
            done.set()

        elsewhere.subscribe(count)
        here.ring_softly()
        assert read.wait(PATIENCE_S)
        here.ring()  # comes after the soft one, which would have been counted by then
        assert done.wait(PATIENCE_S)
        assert worked == [1]


def test_a_ring_reaches_the_other_processes_of_a_database_that_can_pass_it_on(store: Store) -> None:
    if store.is_sqlite:
        pytest.skip("SQLite has one server")
    with Bell(store) as here, Bell(store) as elsewhere:
        assert is_heard(elsewhere.listener(), here)
        assert is_heard(here.listener(), elsewhere)


def test_a_listener_outlasts_a_lost_connection(store: Store) -> None:
    if store.is_sqlite:
        pytest.skip("SQLite has one server")
    with Bell(store) as here, Bell(store) as elsewhere:
        event = elsewhere.listener()
        assert is_heard(event, here)
        with store.write() as session:
            end_others = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            session.connection().exec_driver_sql(f"{end_others} and datname = current_database()")
        event.clear()
        assert is_heard(event, here)

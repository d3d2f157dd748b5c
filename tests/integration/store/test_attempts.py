from threading import Event, Thread

import pytest

from fairlead.errors import NotFound, StaleAttempt, Unauthorized
from fairlead.lifecycle import Outcome, State
from fairlead.store import Store, attempts, experiments
from fairlead.testing import FakeClock
from fairlead.testing.stored import TOKEN, an_attempt, next_attempt

NOW = FakeClock().now()


def ended(store: Store, key: str, outcome: Outcome = Outcome.LOST) -> bool:
    with store.write() as session:
        return attempts.end(session, key, outcome=outcome, reason="why", now=NOW, result={"a": 1}, result_sha256="s")


def superseded(store: Store) -> None:
    """End the first attempt of exp-1 and place a second one."""
    assert ended(store, "exp-1-a1")
    with store.write() as session:
        for to in (State.RETRYING, State.QUEUED):
            row = experiments.get(session, "exp-1")
            assert experiments.move_if_current(
                session, row, to, reason="r", actor="a", now=NOW, columns={"enqueued_at": NOW}
            )
    assert next_attempt(store, "exp-1").attempt_no == 2


def test_an_offer_names_its_runner_and_its_path(store: Store) -> None:
    row = an_attempt(store, is_leased=False)
    assert (row.id, row.runner_name, row.storage_path) == ("exp-1-a1", "fl-exp-1-a1", "default/exp-1/a1")
    assert (row.outcome, row.leased_at, row.lease_epoch, row.token_sha256) == (None, None, 0, None)
    with store.read() as session:
        assert [open_.id for open_ in attempts.open_on(session, "local")] == ["exp-1-a1"]
        assert attempts.open_on(session, "elsewhere") == []
        assert [open_.id for open_ in attempts.open_everywhere(session)] == ["exp-1-a1"]
        with pytest.raises(NotFound, match="exp-1-a2"):
            attempts.get(session, "exp-1-a2")


def test_a_lease_counts_up_and_only_the_newest_token_counts(store: Store) -> None:
    an_attempt(store, is_leased=False)
    for epoch, token in ((1, "first"), (2, "second")):
        with store.write() as session:
            row = attempts.lease(session, "exp-1-a1", cluster="local", token=token, now=NOW)
            assert (row.lease_epoch, row.leased_at) == (epoch, NOW)
            assert token not in str(vars(row))
    with store.write() as session, pytest.raises(Unauthorized):
        attempts.authenticate(session, "exp-1-a1", "first")
    with store.write() as session:
        assert attempts.authenticate(session, "exp-1-a1", "second").id == "exp-1-a1"


@pytest.mark.parametrize(("key", "cluster"), [("exp-1-a1", "other"), ("exp-1-a9", "local")])
def test_an_attempt_is_leased_to_its_own_cluster_only(store: Store, key: str, cluster: str) -> None:
    an_attempt(store, is_leased=False)
    with store.write() as session, pytest.raises(StaleAttempt, match="not open"):
        attempts.lease(session, key, cluster=cluster, token="t", now=NOW)


def test_an_ended_attempt_is_leased_to_nobody(store: Store) -> None:
    an_attempt(store, is_leased=False)
    assert ended(store, "exp-1-a1")
    with store.write() as session, pytest.raises(StaleAttempt):
        attempts.lease(session, "exp-1-a1", cluster="local", token="t", now=NOW)


def test_leasing_leaves_other_rows_of_the_session_usable(store: Store) -> None:
    an_attempt(store, is_leased=False)
    with store.write() as session:
        experiment = experiments.get(session, "exp-1")
        attempts.lease(session, "exp-1-a1", cluster="local", token="t", now=NOW)
    assert experiment.state == "placed"


@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
def test_a_wrong_token_opens_nothing(store: Store, token: str) -> None:
    an_attempt(store)
    with store.write() as session, pytest.raises(Unauthorized):
        attempts.authenticate(session, "exp-1-a1", token)
    with store.write() as session, pytest.raises(Unauthorized):
        attempts.authenticate(session, "exp-1-a2", TOKEN)


def test_an_offer_that_nobody_leased_has_no_token_at_all(store: Store) -> None:
    an_attempt(store, is_leased=False)
    with store.write() as session, pytest.raises(Unauthorized):
        attempts.authenticate(session, "exp-1-a1", "")


def test_after_its_end_an_attempt_writes_no_more(store: Store) -> None:
    an_attempt(store)
    assert ended(store, "exp-1-a1", Outcome.OOM)
    with store.write() as session, pytest.raises(StaleAttempt, match="oom"):
        attempts.authenticate(session, "exp-1-a1", TOKEN)
    with store.write() as session:
        assert not attempts.write_if_open(session, "exp-1-a1", last_step=7)


def test_a_superseded_attempt_writes_no_more(store: Store) -> None:
    an_attempt(store)
    superseded(store)
    with store.write() as session:  # as a bug elsewhere might leave it
        session.get(attempts.AttemptRow, "exp-1-a1").outcome = None
    with store.write() as session, pytest.raises(StaleAttempt, match="superseded"):
        attempts.authenticate(session, "exp-1-a1", TOKEN)
    with store.write() as session:
        assert attempts.authenticate(session, "exp-1-a2", TOKEN).attempt_no == 2


def test_nobody_ends_an_attempt_between_its_check_and_its_write(store: Store) -> None:
    an_attempt(store)
    checked, results = Event(), []

    def end_it() -> None:
        checked.wait(timeout=30)
        results.append(ended(store, "exp-1-a1"))

    other = Thread(target=end_it)
    other.start()
    with store.write() as session:
        attempts.authenticate(session, "exp-1-a1", TOKEN)
        checked.set()
        other.join(timeout=0.3)
        assert other.is_alive(), "the end did not wait for the writer"
        assert attempts.write_if_open(session, "exp-1-a1", last_step=7)
    other.join(timeout=30)
    assert results == [True]


def test_an_attempt_ends_once(store: Store) -> None:
    an_attempt(store)
    assert ended(store, "exp-1-a1", Outcome.SUCCEEDED)
    assert not ended(store, "exp-1-a1", Outcome.LOST)
    with store.read() as session:
        row = attempts.get(session, "exp-1-a1")
        assert (row.outcome, row.result, row.result_sha256, row.ended_at) == ("succeeded", {"a": 1}, "s", NOW)
        assert attempts.open_everywhere(session) == []


def test_the_session_that_ends_an_attempt_sees_it_ended(store: Store) -> None:
    an_attempt(store)
    with store.write() as session:
        row = attempts.get(session, "exp-1-a1")
        assert attempts.end(session, "exp-1-a1", outcome=Outcome.LOST, reason="why", now=NOW)
        assert row.outcome == "lost"


def test_of_racing_ends_one_counts(store: Store) -> None:
    an_attempt(store)
    results: list[bool] = []
    racers = [Thread(target=lambda: results.append(ended(store, "exp-1-a1"))) for _ in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=30)
    assert sorted(results) == [False] * 5 + [True]


@pytest.mark.parametrize("is_leased", [True, False])
def test_only_an_offer_that_nobody_leased_is_withdrawn(store: Store, is_leased: bool) -> None:
    an_attempt(store, is_leased=is_leased)
    with store.write() as session:
        gone = attempts.withdraw(session, "exp-1-a1", outcome=Outcome.PREEMPTED, reason="offer", now=NOW)
    assert gone is not is_leased


def test_an_ended_attempt_waits_until_its_experiment_has_moved_on(store: Store) -> None:
    an_attempt(store)
    assert ended(store, "exp-1-a1")
    with store.write() as session:
        assert [row.id for row in attempts.unsettled(session)] == ["exp-1-a1"]
        attempts.settle(session, "exp-1-a1")
    with store.read() as session:
        assert attempts.unsettled(session) == []


def test_a_fresh_token_replaces_the_old_one(store: Store) -> None:
    an_attempt(store)
    with store.write() as session:
        attempts.renew_token(session, "exp-1-a1", "fresh")
    with store.write() as session, pytest.raises(Unauthorized):
        attempts.authenticate(session, "exp-1-a1", TOKEN)
    with store.write() as session:
        attempts.authenticate(session, "exp-1-a1", "fresh")


def test_attempts_of_an_experiment_come_oldest_first(store: Store) -> None:
    an_attempt(store)
    superseded(store)
    with store.read() as session:
        assert [row.attempt_no for row in attempts.of_experiment(session, "exp-1")] == [1, 2]

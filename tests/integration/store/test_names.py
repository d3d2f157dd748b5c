"""Clusters, tokens, idempotency keys, bundles and leases: small tables whose fences others rely on."""

from datetime import timedelta
from threading import Barrier, Thread
from typing import Any

import pytest

from fairlead.errors import Conflict, FairleadError, KeyReused, NotFound, StaleAgent, Unauthorized
from fairlead.store import Store, bundles, clusters, idempotency, leases, tokens
from fairlead.store.idempotency import StoredAnswer
from fairlead.testing import FakeClock
from fairlead.testing.stored import a_node, an_attach_request, an_attempt


def all_at_once(count: int, act: Any) -> list[Any]:
    """Results, or the errors we raise on purpose, of ``act`` in so many threads."""
    start, results = Barrier(count), []

    def one() -> None:
        start.wait(timeout=30)
        try:
            results.append(act())
        except FairleadError as error:
            results.append(type(error))

    threads = [Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


# ---- clusters -----------------------------------------------------------------------------------------------------


def test_each_agent_that_attaches_fences_the_older_ones_out(store: Store, clock: FakeClock) -> None:
    for expected in (1, 2):
        with store.write() as session:
            assert clusters.attach(session, "local", an_attach_request(), now=clock.now()) == expected
    with store.write() as session, pytest.raises(StaleAgent, match="epoch 1"):
        clusters.sync(session, "local", agent_epoch=1, ray_session="session-1", nodes=(), now=clock.now())
    with store.write() as session:
        clusters.sync(session, "local", agent_epoch=2, ray_session="session-1", nodes=(a_node(),), now=clock.advance(5))
        row = clusters.get(session, "local")
        assert (row.last_sync_at, len(row.nodes)) == (clock.now(), 1)


def test_a_sync_says_whether_there_is_more_room_than_before_or_another_node(store: Store, clock: FakeClock) -> None:
    full, free = (a_node().model_copy(update={"free_cpus": cpus}) for cpus in (0.0, 2.0))
    dead, other = full.amended(is_alive=False), a_node("node-2").amended(free_cpus=0.0)
    steps: list[tuple[tuple[Any, ...], bool]] = [
        ((full,), False),
        ((free,), True),
        ((free.amended(free_gpus=1.0),), True),
        ((free.amended(free_cpus=1.0, free_gpus=1.0),), False),  # who got it knows
        ((), False),  # Ray does not answer, and nothing is known
        ((full, other), True),
        ((other, full), False),
        ((full, dead.amended(node_id="node-2")), True),
        ((full,), True),
    ]
    with store.write() as session:
        clusters.attach(session, "local", an_attach_request(nodes=[full]), now=clock.now())
    told = []
    for nodes, _ in steps:
        with store.write() as session:
            told.append(
                clusters.sync(session, "local", agent_epoch=1, ray_session="s", nodes=nodes, now=clock.advance(1))
            )
    assert told == [expected for _, expected in steps]


def test_a_stale_agent_changes_nothing(store: Store, clock: FakeClock) -> None:
    with store.write() as session:
        clusters.attach(session, "local", an_attach_request(nodes=[a_node()]), now=clock.now())
        clusters.attach(session, "local", an_attach_request(nodes=[a_node()]), now=clock.now())
    before = clock.now()
    clock.advance(5)
    with pytest.raises(StaleAgent), store.write() as session:
        clusters.sync(session, "local", agent_epoch=1, ray_session="other", nodes=(), now=clock.now())
    with store.read() as session:
        row = clusters.get(session, "local")
        assert (row.last_sync_at, row.ray_session) == (before, "session-1")


def test_the_time_of_a_ray_session_is_that_of_its_first_sight(store: Store, clock: FakeClock) -> None:
    seen = []
    for ray_session in ("s1", "s1", "s2", "", "s2"):
        clock.advance(10)
        with store.write() as session:
            if not seen:
                clusters.attach(session, "local", an_attach_request(ray_session=ray_session), now=clock.now())
            else:
                clusters.sync(session, "local", agent_epoch=1, ray_session=ray_session, nodes=(), now=clock.now())
            row = clusters.get(session, "local")
            seen.append((row.ray_session, row.ray_session_since))
    start = FakeClock().now()
    first, second = start + timedelta(seconds=10), start + timedelta(seconds=30)
    assert seen == [("s1", first), ("s1", first), ("s2", second), ("s2", second), ("s2", second)]


def test_agents_that_attach_at_once_get_different_epochs(store: Store, clock: FakeClock) -> None:
    def attach() -> int:
        with store.write() as session:
            return clusters.attach(session, "new", an_attach_request(), now=clock.now())

    assert sorted(all_at_once(4, attach)) == [1, 2, 3, 4]


def test_clusters_are_listed_by_name_with_what_their_attempts_use(store: Store) -> None:
    an_attempt(store, "exp-1", cluster="b")
    an_attempt(store, "exp-2", cluster="b", is_leased=False)
    with store.write() as session:
        clusters.ensure(session, "a")
        assert [row.name for row in clusters.every(session)] == ["a", "b"]
        assert clusters.usage(session) == {"b": (2.0, 0.0, 2)}
        with pytest.raises(NotFound, match="'c'"):
            clusters.get(session, "c")


# ---- tokens -------------------------------------------------------------------------------------------------------


def a_token(store: Store, *, expires_at: Any = None, revoked_at: Any = None) -> str:
    token_id, token = tokens.new_token()
    with store.write() as session:
        tokens.ensure(
            session,
            token_id=token_id,
            sha256=tokens.hash_token(token),
            kind="agent",
            name="an agent",
            cluster="local",
            now=FakeClock().now(),
        )
        row = session.get(tokens.TokenRow, token_id)
        assert row is not None
        row.expires_at, row.revoked_at = expires_at, revoked_at
    return token


def test_a_token_says_who_calls_and_its_secret_is_not_kept(store: Store, clock: FakeClock) -> None:
    token = a_token(store)
    with store.read() as session:
        caller = tokens.authenticate(session, token, now=clock.now())
        row = session.get(tokens.TokenRow, caller.token_id)
    assert (caller.kind, caller.name, caller.cluster) == ("agent", "an agent", "local")
    assert token.split("_", 2)[2] not in str(vars(row))


@pytest.mark.parametrize(
    "change", [lambda t: t + "x", lambda t: t[:-1], lambda t: "fl_none_" + t, lambda t: "", str.upper]
)
def test_any_other_token_is_refused_without_saying_why(store: Store, clock: FakeClock, change: Any) -> None:
    token = a_token(store)
    with store.read() as session, pytest.raises(Unauthorized) as refusal:
        tokens.authenticate(session, change(token), now=clock.now())
    assert str(refusal.value) == "the token is unknown, expired or revoked"


def test_a_token_ends_at_its_time_or_when_it_is_revoked(store: Store, clock: FakeClock) -> None:
    expiring = a_token(store, expires_at=clock.now() + timedelta(seconds=10))
    revoked = a_token(store, revoked_at=clock.now())
    with store.read() as session:
        tokens.authenticate(session, expiring, now=clock.advance(9))
        for token in (expiring, revoked):
            with pytest.raises(Unauthorized):
                tokens.authenticate(session, token, now=clock.now() + timedelta(seconds=1))


def test_the_first_hash_of_a_token_id_stays(store: Store, clock: FakeClock) -> None:
    token = a_token(store)
    with store.write() as session:
        assert tokens.exists(session)
        tokens.ensure(
            session, token_id=token.split("_")[1], sha256="0" * 64, kind="user", name="x", cluster=None, now=clock.now()
        )
        assert tokens.authenticate(session, token, now=clock.now()).kind == "agent"


# ---- idempotency keys ---------------------------------------------------------------------------------------------

ANSWER = StoredAnswer(status=201, headers={"Location": "/v1/x"}, body='{"id": "x"}')


def keep(store: Store, *, key: str = "k", principal: str = "me", body: str = "b", clock: FakeClock) -> None:
    with store.write() as session:
        idempotency.insert(
            session,
            principal=principal,
            route="POST /v1/experiments",
            key=key,
            body_sha256=body,
            answer=ANSWER,
            expires_at=clock.now() + timedelta(days=1),
        )


def found(store: Store, *, key: str = "k", principal: str = "me", body: str = "b") -> StoredAnswer | None:
    with store.read() as session:
        return idempotency.find(session, principal=principal, route="POST /v1/experiments", key=key, body_sha256=body)


def test_the_same_request_gets_the_first_answer(store: Store, clock: FakeClock) -> None:
    keep(store, clock=clock)
    assert found(store) == ANSWER
    assert found(store, key="other") is None
    assert found(store, principal="you") is None


def test_a_key_with_another_body_is_refused(store: Store, clock: FakeClock) -> None:
    keep(store, clock=clock)
    with pytest.raises(KeyReused, match="new key"):
        found(store, body="c")


def test_of_racing_requests_under_one_key_one_is_answered(store: Store, clock: FakeClock) -> None:
    results = all_at_once(4, lambda: keep(store, clock=clock))
    assert sorted(results, key=str) == sorted([None, Conflict, Conflict, Conflict], key=str)
    assert found(store) == ANSWER


def test_answers_are_forgotten_after_their_day(store: Store, clock: FakeClock) -> None:
    keep(store, clock=clock)
    for seconds, is_known in ((86_399, True), (1, False)):
        with store.write() as session:
            idempotency.forget_expired(session, clock.advance(seconds))
        assert (found(store) is not None) is is_known


# ---- bundles ------------------------------------------------------------------------------------------------------


def test_a_bundle_is_noted_once_even_by_several_at_once(store: Store, clock: FakeClock) -> None:
    def note() -> bool:
        with store.write() as session:
            return bundles.ensure(session, sha256="a" * 64, size=2**40, project="default", actor="me", now=clock.now())

    assert sorted(all_at_once(4, note)) == [False, False, False, True]
    with store.read() as session:
        row = bundles.find(session, "a" * 64)
        assert row is not None
        assert (row.size, row.created_by) == (2**40, "me")
        assert bundles.find(session, "b" * 64) is None


# ---- the lease of the control loops -------------------------------------------------------------------------------


def take(store: Store, holder: str, now: Any, *, ttl_s: float = 15, **more: Any) -> int | None:
    with store.write() as session:
        return leases.take(session, name="control", holder=holder, ttl_s=ttl_s, now=now, **more)


def sight(store: Store) -> leases.Sighting | None:
    with store.read() as session:
        return leases.sight(session, "control")


def test_a_lease_has_one_holder_until_it_is_let_go(store: Store, clock: FakeClock) -> None:
    assert [take(store, "a", clock.now()), take(store, "a", clock.now())] == [1, 1]
    assert take(store, "b", clock.now()) is None
    with store.write() as session:
        leases.release(session, name="control", holder="b")  # not b's to give
    assert take(store, "b", clock.now()) is None
    with store.write() as session:
        leases.release(session, name="control", holder="a")
    assert take(store, "b", clock.now()) == 2
    assert take(store, "a", clock.now()) is None


def test_a_lease_that_is_over_passes_on_under_a_higher_epoch(store: Store, clock: FakeClock) -> None:
    assert take(store, "a", clock.now(), ttl_s=-1) == 1
    assert take(store, "b", clock.advance(1), given_up=sight(store)) == 2


def test_without_a_common_clock_only_silence_ends_a_lease(sqlite_store: Store, clock: FakeClock) -> None:
    assert take(sqlite_store, "a", clock.now(), ttl_s=-1) == 1
    seen = sight(sqlite_store)
    assert take(sqlite_store, "b", clock.jump(3600)) is None
    assert take(sqlite_store, "a", clock.now()) == 1
    assert take(sqlite_store, "b", clock.now(), given_up=seen) is None  # it has been renewed since


def test_a_sole_server_takes_over_at_once(store: Store, clock: FakeClock) -> None:
    assert take(store, "a", clock.now()) == 1
    assert take(store, "b", clock.now(), is_sole=True) == 2


def test_of_racing_servers_one_leads(store: Store, clock: FakeClock) -> None:
    holders = iter("abcd")
    results = all_at_once(4, lambda: take(store, next(holders), clock.now()))
    assert sorted(results, key=str) == [1, None, None, None]

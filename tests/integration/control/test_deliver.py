"""Webhooks from the event to a real HTTPS receiver, on both databases: once if all is well, at least once if not."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fairlead.control.deliver import LOCK_S, MAX_AT_ONCE, MAX_PER_ENDPOINT, Deliver, webhook_failures
from fairlead.control.leader import Leadership, Term
from fairlead.errors import NotFound, StaleLeader
from fairlead.failpoints import FailpointError
from fairlead.lifecycle import State
from fairlead.settings import ControlSettings
from fairlead.store import Store, experiments, outbox, webhooks
from fairlead.store.tables import DeliveryRow, EventRow, OutboxRow, WebhookEndpointRow
from fairlead.testing import FakeClock
from fairlead.testing.failpoints import Crash, armed
from fairlead.testing.history import Expected, violations
from fairlead.testing.stored import an_experiment
from fairlead.testing.webhooks import HOST, Receiver, receiving
from fairlead.webhooks import Sender, secret_of

LOOPBACK = (ip_network("127.0.0.0/8"),)
SECRET = b"k" * 32


@dataclass
class Post:
    """A store, a receiver, and the loop between them."""

    store: Store
    clock: FakeClock
    settings: ControlSettings
    receiver: Receiver

    def __post_init__(self) -> None:
        self.deliver = self.a_loop()

    def a_loop(self, **more: Any) -> Deliver:
        return Deliver(store=self.store, clock=self.clock, settings=self.settings, **more)

    def endpoint(self, key: str = "wh_1", **more: Any) -> str:
        columns = {"project": None, "kinds": (), "description": "", "url": self.receiver.url(), **more}
        with self.store.write() as session:
            webhooks.insert(session, endpoint_id=key, actor="me", now=self.clock.now(), **columns)
        return key

    def run(self, loop: Deliver | None = None) -> None:
        """Tick until nothing is due and nothing is on its way."""
        while (loop or self.deliver)():
            pass

    def row(self, key: str = "wh_1") -> WebhookEndpointRow:
        with self.store.read() as session:
            return webhooks.get(session, key)

    def messages(self, key: str = "wh_1") -> list[OutboxRow]:
        with self.store.read() as session:
            return outbox.page(session, key, limit=500)[::-1]

    def tries(self) -> list[DeliveryRow]:
        with self.store.read() as session:
            return list(session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)))

    def broken(self) -> tuple[str, ...]:
        seen = {key: frozenset(self.receiver.ids) for key in self.endpoints}
        return violations(self.store, Expected(received=seen))

    @property
    def endpoints(self) -> list[str]:
        with self.store.read() as session:
            return [row.id for row in webhooks.every(session)]


@pytest.fixture
def post(store: Store, clock: FakeClock, tmp_path: Path) -> Iterator[Post]:
    (tmp_path / "secret").write_bytes(SECRET)
    with receiving(tmp_path) as receiver:
        settings = ControlSettings(
            database_url="sqlite://",
            storage=tmp_path,
            mlflow_url="http://127.0.0.1:9",
            secret_key_file=tmp_path / "secret",
            webhook_networks=LOOPBACK,
            webhook_ca_file=receiver.ca_file,
        )
        yield Post(store, clock, settings, receiver)


# ---- written with the event -----------------------------------------------------------------------------------------


def test_every_event_is_delivered_once_signed_and_under_one_id(post: Post) -> None:
    post.endpoint()
    row = an_experiment(post.store, state=State.SUCCEEDED, clock=post.clock)
    post.run()
    assert sorted(post.receiver.ids) == [f"evt_{row.id}_{seq}" for seq in range(1, row.version + 1)]
    secret = secret_of(SECRET, "wh_1", 1)
    assert all(message.is_signed_with(secret) for message in post.receiver.received)
    last = max(post.receiver.received, key=lambda message: message.content["data"]["seq"]).content
    assert last["type"] == "experiment.state"
    data = last["data"]
    assert (data["experiment_id"], data["version"], data["to_state"]) == (row.id, row.version, "succeeded")
    assert {one.state for one in post.messages()} == {"delivered"}
    assert [(one.status, one.error) for one in post.tries()] == [(204, "")] * row.version
    assert not post.deliver()
    assert post.broken() == ()


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        ({}, [1, 2, 3, 4]),
        ({"project": "default"}, [1, 2, 3, 4]),
        ({"project": "other"}, []),
        ({"kinds": ("state",)}, [2, 3, 4]),
        ({"kinds": ("accepted", "running")}, [1, 4]),
        ({"kinds": ("nonesuch",)}, []),
    ],
)
def test_an_endpoint_gets_what_it_asked_for(post: Post, wanted: dict[str, Any], seqs: list[int]) -> None:
    post.endpoint(**wanted)
    an_experiment(post.store, state=State.RUNNING, clock=post.clock)
    assert [one.seq for one in post.messages()] == seqs


def test_an_event_that_is_taken_back_leaves_no_message(post: Post) -> None:
    post.endpoint()
    row = an_experiment(post.store, clock=post.clock)

    def broken() -> None:
        with post.store.write() as session:
            experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
            experiments.get(session, "nonesuch")

    with pytest.raises(NotFound):
        broken()
    with armed("outbox.announcing"), pytest.raises(Crash), post.store.write() as session:
        experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
    assert [one.seq for one in post.messages()] == [1]
    post.run()
    assert post.broken() == ()


def test_a_disabled_endpoint_gets_nothing_new_and_a_removed_one_takes_its_messages_along(post: Post) -> None:
    post.endpoint()
    row = an_experiment(post.store, clock=post.clock)
    with post.store.write() as session:
        assert webhooks.disable(session, "wh_1", reason="me", now=post.clock.now())
        experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
    post.run()
    assert (post.receiver.ids, len(post.messages())) == ([], 1)
    with post.store.write() as session:
        webhooks.remove(session, webhooks.get(session, "wh_1"))
        assert session.scalars(select(OutboxRow)).all() == []


# ---- failures -------------------------------------------------------------------------------------------------------


def test_a_receiver_that_fails_and_recovers_gets_the_same_message_again(post: Post) -> None:
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    post.receiver.answers = [500, 503]
    failures = webhook_failures.value
    post.run()
    assert post.row().failing_since == post.clock.now()
    post.clock.advance(4.9)
    assert not post.deliver()
    post.clock.advance(0.1)
    post.run()
    post.clock.advance(300)
    post.run()
    assert post.receiver.ids == ["evt_exp-1_1"] * 3
    assert len({message.body for message in post.receiver.received}) == 1
    stamps = [int(message.headers["webhook-timestamp"]) for message in post.receiver.received]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 5, 305]
    assert [one.status for one in post.tries()] == [500, 503, 204]
    assert (post.row().failing_since, webhook_failures.value) == (None, failures + 2)
    assert post.broken() == ()


def test_a_message_is_given_up_after_a_day_and_comes_again_when_asked_for(post: Post) -> None:
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    post.receiver.answers = [500] * 8
    for seconds in (0, 5, 300, 1800, 7200, 18000, 36000, 36000):
        post.clock.advance(seconds)
        post.run()
    (message,) = post.messages()
    assert (message.state, message.tries, len(post.receiver.ids)) == ("failed", 8, 8)
    post.clock.advance(10**6)
    assert not post.deliver()
    with post.store.write() as session:
        assert outbox.replay_failed(session, "wh_1", now=post.clock.now()) == 1
    post.run()
    assert (post.messages()[0].state, post.receiver.ids) == ("delivered", ["evt_exp-1_1"] * 9)


def test_an_endpoint_that_fails_for_five_days_is_disabled_with_an_event_that_others_hear(post: Post) -> None:
    post.endpoint()
    row = an_experiment(post.store, clock=post.clock)
    post.receiver.answers = [500]
    post.run()
    post.endpoint("wh_2", kinds=("webhook_disabled",))
    post.clock.advance(timedelta(days=5).total_seconds())
    post.receiver.answers = [500]
    post.run()
    endpoint = post.row()
    assert (endpoint.state, endpoint.version) == ("disabled", 2)
    assert endpoint.reason == "it has taken nothing for 5 days; last: it answered 500"
    with post.store.read() as session:
        (noted,) = session.scalars(select(EventRow).where(EventRow.kind == "webhook_disabled"))
    assert noted.reason == "webhook wh_1 is disabled: it has taken nothing for 5 days; last: it answered 500"
    assert post.receiver.ids[-1] == f"evt_{row.id}_{noted.seq}"
    (waiting,) = post.messages()
    assert (waiting.state, waiting.lock_token) == ("pending", None)  # it goes on when somebody enables the endpoint


def test_a_name_that_comes_to_mean_a_private_address_gets_nothing(post: Post) -> None:
    post.endpoint(url=post.receiver.url(HOST))
    an_experiment(post.store, clock=post.clock)
    answers = iter([["10.0.0.7"], ["127.0.0.1"]])
    sender = Sender(allowed=LOOPBACK, ca_file=post.receiver.ca_file, resolve=lambda host, port: next(answers))
    loop = post.a_loop(sender=sender)
    post.run(loop)
    assert post.receiver.num_connections == 0
    assert post.tries()[0].error == "refused: hooks.test means 10.0.0.7: 10.0.0.7 is not a public address"
    post.clock.advance(5)
    post.run(loop)
    assert len(post.receiver.ids) == 1


def test_both_secrets_sign_until_the_old_one_s_time_is_over(post: Post) -> None:
    post.endpoint()
    row = an_experiment(post.store, clock=post.clock)
    with post.store.write() as session:
        until = post.clock.now() + timedelta(hours=1)
        assert webhooks.change_if_current(
            session, webhooks.get(session, "wh_1"), now=post.clock.now(), secret_no=2, old_secret_until=until
        )
    post.run()
    post.clock.advance(3600)
    with post.store.write() as session:
        experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
    post.run()
    old, new = (secret_of(SECRET, "wh_1", number) for number in (1, 2))
    signed = [(message.is_signed_with(old), message.is_signed_with(new)) for message in post.receiver.received]
    assert signed == [(True, True), (False, True)]


# ---- crashes and successors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "expected"), [("deliver.claimed", 1), ("deliver.sent", 2), ("deliver.marking", 2)])
def test_a_process_that_dies_at_any_place_is_followed_by_one_that_sends_under_the_same_id(
    post: Post, place: str, expected: int
) -> None:
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    with armed(place), pytest.raises(Crash):
        post.run()
    successor = post.a_loop()
    assert not successor()  # the lock is not over
    post.clock.advance(LOCK_S)
    post.run(successor)
    assert post.receiver.ids == ["evt_exp-1_1"] * expected
    assert [one.state for one in post.messages()] == ["delivered"]
    assert len(post.tries()) == 1
    assert post.broken() == ()


@pytest.mark.parametrize("place", ["deliver.claimed", "deliver.sent", "deliver.marking"])
def test_an_error_nobody_expected_delays_a_message_and_loses_none(post: Post, place: str) -> None:
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    with armed(place, "raise"), suppress(FailpointError):
        post.run()
    for _ in range(2):
        post.clock.advance(LOCK_S)
        post.run()
    assert set(post.receiver.ids) == {"evt_exp-1_1"}
    assert [one.state for one in post.messages()] == ["delivered"]


def test_one_that_lost_the_lead_while_it_sent_writes_nothing_and_the_next_sends_again(post: Post) -> None:
    first = Leadership(store=post.store, clock=post.clock, holder="first")
    assert first.renew()
    term = Term(leadership=first)
    assert term.begin()
    loop = Deliver(
        store=post.store.fenced(term.check), clock=post.clock, settings=post.settings, require_lead=term.require
    )
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    for message in loop._claim():
        loop._start(message)
    while not loop._unwritten:
        loop._hear()
    second = Leadership(store=post.store, clock=post.clock, holder="second", is_sole=True)
    first.release()
    assert second.renew()
    with pytest.raises(StaleLeader):
        loop()
    assert [one.state for one in post.messages()] == ["pending"]
    post.clock.advance(LOCK_S)
    post.run(post.a_loop())
    assert post.receiver.ids == ["evt_exp-1_1"] * 2
    with pytest.raises(StaleLeader):
        loop()
    assert [(one.state, one.tries) for one in post.messages()] == [("delivered", 1)]


def test_two_that_claim_at_once_get_different_messages(post: Post) -> None:
    post.endpoint()
    an_experiment(post.store, state=State.RUNNING, clock=post.clock)
    now = post.clock.now()
    claim: Callable[..., Any] = outbox.claim
    options = {"limit": 2, "now": now, "until": now + timedelta(seconds=LOCK_S)}
    with post.store.write() as one:
        mine = claim(one, "wh_1", lock_token="a", **options)
        if not post.store.is_sqlite:  # there a second writer waits for the first to end
            with post.store.write() as other:
                theirs = claim(other, "wh_1", lock_token="b", **options)
    if post.store.is_sqlite:
        with post.store.write() as other:
            theirs = claim(other, "wh_1", lock_token="b", **options)
    ids = [each.message_id for each in (*mine, *theirs)]
    assert sorted(ids) == [f"evt_exp-1_{seq}" for seq in range(1, 5)]


def test_a_slow_endpoint_leaves_room_for_the_others(post: Post) -> None:
    post.endpoint("wh_slow")
    an_experiment(post.store, state=State.SUCCEEDED, clock=post.clock)
    slow = post.deliver._claim()
    for message in slow:
        post.deliver._in_flight[message.lock_token, message.id] = message  # as if it did not answer
    assert len(slow) == MAX_PER_ENDPOINT < MAX_AT_ONCE
    post.endpoint("wh_quick")
    with post.store.write() as session:
        experiments.note(session, "exp-1", kind="x", actor="me", now=post.clock.now())
    claimed = post.deliver._claim()
    assert [one.endpoint_id for one in claimed] == ["wh_quick"]


# ---- once more, and no more -----------------------------------------------------------------------------------------


def test_a_range_brings_what_was_missed_and_repeats_the_rest_under_the_old_ids(post: Post) -> None:
    row = an_experiment(post.store, state=State.RUNNING, clock=post.clock)
    post.clock.advance(60)
    post.endpoint(kinds=("state", "x"))
    with post.store.write() as session:
        experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
        experiments.note(session, row.id, kind="y", actor="me", now=post.clock.now())
    post.run()
    assert post.receiver.ids == ["evt_exp-1_5"]
    now = post.clock.now()
    with post.store.write() as session:
        since, until = now - timedelta(hours=1), now + timedelta(seconds=1)
        endpoint = webhooks.get(session, "wh_1")
        assert outbox.replay_range(session, endpoint, since=since, until=until, now=now) == (4, None)
    post.run()
    assert sorted(post.receiver.ids) == ["evt_exp-1_2", "evt_exp-1_3", "evt_exp-1_4", "evt_exp-1_5", "evt_exp-1_5"]
    assert len(post.messages()) == 4


def test_a_long_range_says_where_to_go_on(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_REPLAYED", 2)
    post.endpoint()
    row = an_experiment(post.store, clock=post.clock)
    for _ in range(3):
        post.clock.advance(1)
        with post.store.write() as session:
            experiments.note(session, row.id, kind="x", actor="me", now=post.clock.now())
    post.run()
    since, until, now, rounds = post.clock.now() - timedelta(days=1), post.clock.now(), post.clock.now(), 0
    until += timedelta(seconds=1)
    following: Any = since
    while following is not None:
        with post.store.write() as session:
            endpoint = webhooks.get(session, "wh_1")
            _, following = outbox.replay_range(session, endpoint, since=following, until=until, now=now)
        rounds += 1
    post.run()
    assert rounds == 2
    assert sorted(post.receiver.ids) == sorted([f"evt_exp-1_{seq}" for seq in range(1, 5)] * 2)


def test_what_is_over_is_forgotten_after_a_month_with_its_tries(post: Post) -> None:
    post.endpoint()
    an_experiment(post.store, clock=post.clock)
    post.run()
    post.clock.advance(timedelta(days=31).total_seconds())
    post.deliver()
    assert (post.messages(), post.tries()) == ([], [])

"""Sends webhooks' messages: claims what is due, sends it in threads of its own, and writes down how that went.

At least once, under one id: a crash after a message was taken and before that is written sends it again. Not in order:
a message carries its event's ``seq``. Nothing here touches an experiment but for one event, when an endpoint is
disabled.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import structlog

from fairlead.clock import Clock
from fairlead.control.leader import Tally
from fairlead.errors import Unavailable
from fairlead.failpoints import failpoint
from fairlead.secret_key import read_secret
from fairlead.settings import ControlSettings
from fairlead.store import Session, Store, experiments, outbox, webhooks
from fairlead.store.outbox import Claimed, MessageState
from fairlead.webhooks import GivenUp, Hopeless, Receipt, Retry, Sender, after_failure, secret_of, signed_headers

ACTOR = "deliver"
MAX_AT_ONCE = 8
MAX_PER_ENDPOINT = 2
"""So that one that answers slowly leaves room for the others."""
LOCK_S = 20.0
"""A claim passes on after this long: longer than a try may take."""
LOOK_S = 0.2
"""Between two looks for what is due while something is being sent."""
FORGET_EVERY_S = 3600.0
webhook_failures = Tally()
"""Tries of this process that failed."""
logger = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Deliver:
    """One tick claims what there is room for, and takes in what has been answered. Used by one thread."""

    store: Store
    clock: Clock
    settings: ControlSettings
    sender: Sender | None = None
    require_lead: Callable[[], None] = lambda: None
    """Raises ``StaleLeader`` once another process leads: asked before anything is sent."""
    _in_flight: dict[tuple[str, int], Claimed] = field(default_factory=dict)
    _answers: SimpleQueue[tuple[Claimed, Receipt]] = field(default_factory=SimpleQueue)
    _unwritten: list[tuple[Claimed, Receipt]] = field(default_factory=list)
    _secret: bytes = b""
    _forget_at_s: float = 0.0

    def __call__(self) -> bool:
        self._write_down()
        for message in self._claim():
            self._start(message)
        if not self._in_flight:
            self._forget_old()
            return False
        self._hear()
        self._write_down()
        return True

    # ---- claiming ---------------------------------------------------------------------------------------------------

    def _claim(self) -> list[Claimed]:
        """A few messages of each endpoint that has room."""
        used, now = Counter(one.endpoint_id for one in self._in_flight.values()), self.clock.now()
        room = MAX_AT_ONCE - used.total()
        busy = [endpoint_id for endpoint_id, count in used.items() if count >= MAX_PER_ENDPOINT]
        if room <= 0:
            return []
        with self.store.read() as session:
            due = outbox.endpoints_due(session, now=now, without=busy)
        claimed: list[Claimed] = []
        for endpoint_id in sorted(due, key=lambda one: (used[one], secrets.randbits(16))):
            limit = min(MAX_PER_ENDPOINT - used[endpoint_id], room - len(claimed))
            if limit > 0:
                claimed += self._claim_of(endpoint_id, limit, now)
        if claimed:
            failpoint("deliver.claimed")
        return claimed

    def _claim_of(self, endpoint_id: str, limit: int, now: datetime) -> list[Claimed]:
        until = now + timedelta(seconds=LOCK_S)
        with self.store.write() as session:
            return outbox.claim(
                session, endpoint_id, limit=limit, lock_token=secrets.token_hex(16), now=now, until=until
            )

    # ---- sending ----------------------------------------------------------------------------------------------------

    def _start(self, message: Claimed) -> None:
        self.require_lead()
        headers = signed_headers(message.message_id, message.body, secrets=self._secrets(message), now=self.clock.now())
        sender = self._ready_sender()
        self._in_flight[message.lock_token, message.id] = message

        def send() -> None:
            self._answers.put((message, sender.post(message.url, headers=headers, body=message.body)))

        Thread(target=send, name="deliver-send", daemon=True).start()

    def _ready_sender(self) -> Sender:
        """Made when first needed: reading the trusted certificates takes a tenth of a second."""
        if self.sender is None:
            self.sender = Sender(allowed=self.settings.webhook_networks, ca_file=self.settings.webhook_ca_file)
        return self.sender

    def _secrets(self, message: Claimed) -> list[str]:
        """The newest, and the one before for as long as its receiver may need to change over."""
        self._secret = self._secret or read_secret(self.settings.secret_key_file)
        numbers = [message.secret_no]
        if message.old_secret_until is not None and self.clock.now() < message.old_secret_until:
            numbers.append(message.secret_no - 1)
        return [secret_of(self._secret, message.endpoint_id, number) for number in numbers]

    # ---- what came of it --------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """Wait for an answer, for a moment: meanwhile others may be due."""
        try:
            self._unwritten.append(self._answers.get(timeout=LOOK_S))
            while True:
                self._unwritten.append(self._answers.get_nowait())
        except Empty:
            return

    def _write_down(self) -> None:
        """Each in a transaction of its own. Raises ``Unavailable``: then nothing is lost, and it is tried again."""
        while self._unwritten:
            message, receipt = self._unwritten[0]
            failpoint("deliver.sent")
            try:
                with self.store.write() as session:
                    self._write_one(session, message, receipt)
            except Unavailable:
                raise
            except Exception:  # it is sent again when its lock is over, and stops none of the others
                logger.exception("a delivery could not be written down", message=message.message_id)
            self._unwritten.pop(0)
            self._in_flight.pop((message.lock_token, message.id), None)

    def _write_one(self, session: Session, message: Claimed, receipt: Receipt) -> None:
        now = self.clock.now()
        if receipt.is_taken:
            webhooks.note_success(session, message.endpoint_id)
            is_ours = outbox.write_if_locked(session, message, state=MessageState.DELIVERED, delivered_at=now)
        else:
            is_ours = self._write_failure(session, message, receipt, now)
        failpoint("deliver.marking")
        if is_ours:
            outbox.insert_try(
                session, message.id, at=now, status=receipt.status, error=receipt.error, took_s=receipt.took_s
            )

    def _write_failure(self, session: Session, message: Claimed, receipt: Receipt, now: datetime) -> bool:
        webhook_failures.add_one()
        since = webhooks.note_failure(session, message.endpoint_id, now=now)
        decided = after_failure(num_tries=message.tries + 1, failing_since=since, status=receipt.status, now=now)
        columns: dict[str, Any]
        match decided:
            case Retry(due_at=due_at):
                columns = {"due_at": due_at}
            case GivenUp():
                columns = {"state": MessageState.FAILED}
            case Hopeless(reason=reason):
                columns = {"due_at": now}  # it waits for the endpoint to be enabled
                self._disable(session, message, f"{reason}; last: {receipt.error}", now)
        return outbox.write_if_locked(session, message, **columns)

    def _disable(self, session: Session, message: Claimed, reason: str, now: datetime) -> None:
        if not webhooks.disable(session, message.endpoint_id, reason=reason, now=now):
            return
        logger.warning("a webhook is disabled", webhook=message.endpoint_id, reason=reason)
        if message.experiment_id is not None:
            experiments.note(
                session,
                message.experiment_id,
                kind="webhook_disabled",
                actor=ACTOR,
                now=now,
                reason=f"webhook {message.endpoint_id} is disabled: {reason}",
                payload={"webhook": message.endpoint_id},
            )

    def _forget_old(self) -> None:
        now_s = self.clock.monotonic_s()
        if now_s < self._forget_at_s:
            return
        with self.store.write() as session:
            outbox.forget_old(session, before=self.clock.now() - outbox.KEPT)
        self._forget_at_s = now_s + FORGET_EVERY_S

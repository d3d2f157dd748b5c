"""One process runs the loops: the holder of the lease, for as long as it is sure of it.

Being sure is not enough to write: a process may be stopped for a minute between two lines. So the loops' store is
fenced, and each of their transactions proves the lease again, in the database, under the epoch its tick began with.
"""

import os
import secrets
import socket
from dataclasses import dataclass, field
from threading import Lock

from fairlead.clock import Clock
from fairlead.errors import StaleLeader
from fairlead.store import Session, Store, leases

LEASE = "control"
TTL_S = 15.0
MARGIN = 1 / 15
"""Share of the time to live by which a holder stops trusting its lease before it could pass to another."""


class Tally:
    """A number of this process that only grows."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = Lock()

    def add_one(self) -> None:
        """Count one more."""
        with self._lock:
            self.value += 1


stale_writes_dropped = Tally()
"""Writes of this process that its loops gave up because another process leads."""


@dataclass(kw_only=True, slots=True)
class Leadership:
    """Takes and renews the lease; ``is_held`` is trusted until just before it could pass to another.

    ``is_sole``: a file lock proves that no other server of this database lives.
    """

    store: Store
    clock: Clock
    is_sole: bool = False
    ttl_s: float = TTL_S
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    epoch: int | None = None
    trusted_until_s: float = 0.0
    _seen: leases.Sighting | None = None
    _seen_since_s: float = 0.0

    @property
    def renew_s(self) -> float:
        """How often the lease is renewed: two tries may fail."""
        return self.ttl_s / 3

    def renew(self) -> bool:
        """One try; the time before it began counts, not the time at which the answer came."""
        began_s = self.clock.monotonic_s()
        with self.store.write() as session:
            epoch = leases.take(
                session,
                name=LEASE,
                holder=self.holder,
                ttl_s=self.ttl_s,
                now=self.clock.now(),
                is_sole=self.is_sole,
                given_up=self._given_up(began_s),
            )
            seen = leases.sight(session, LEASE) if epoch is None else None
        if seen != self._seen:
            self._seen, self._seen_since_s = seen, self.clock.monotonic_s()
        self.epoch = epoch
        if epoch is not None:
            self.trusted_until_s = began_s + self.ttl_s * (1 - MARGIN)
        return self.is_held

    def _given_up(self, now_s: float) -> leases.Sighting | None:
        """The other holder, once it has not renewed for a whole time to live of our own monotonic clock."""
        return self._seen if now_s - self._seen_since_s >= self.ttl_s else None

    @property
    def is_held(self) -> bool:
        """Whether this process may run the loops now."""
        return self.epoch is not None and self.clock.monotonic_s() < self.trusted_until_s

    def release(self) -> None:
        """Hand over at once, at an orderly end."""
        if self.is_held:
            with self.store.write() as session:
                leases.release(session, name=LEASE, holder=self.holder)
        self.epoch = None


@dataclass(kw_only=True, slots=True)
class Term:
    """The time for which one loop may write: from the start of a tick, under the epoch held then. Used by one thread.

    A tick that outlived a change of leaders, and one back, is still refused: what it decided is old.
    """

    leadership: Leadership
    epoch: int | None = None

    def begin(self) -> bool:
        """Whether a tick may begin now."""
        self.epoch = self.leadership.epoch if self.leadership.is_held else None
        return self.epoch is not None

    def check(self, session: Session) -> None:
        """The fence of the loop's store. Raises ``StaleLeader``."""
        assert self.epoch is not None, "a tick begins only under a lease"
        try:
            leases.require(session, name=LEASE, holder=self.leadership.holder, epoch=self.epoch)
        except StaleLeader:
            stale_writes_dropped.add_one()
            raise

    def require(self) -> None:
        """Raise ``StaleLeader`` unless the lease is held for all we know: to be asked before effects elsewhere."""
        if not (self.leadership.is_held and self.leadership.epoch == self.epoch):
            raise StaleLeader("this process does not lead the control loops any more")

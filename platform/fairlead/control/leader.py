"""One process runs the loops: the holder of the lease, for as long as it is sure of it."""

import os
import secrets
import socket
from dataclasses import dataclass, field

from fairlead.clock import Clock
from fairlead.store import Store, leases

LEASE = "control"
TTL_S = 15.0
RENEW_S = 5.0


@dataclass(kw_only=True, slots=True)
class Leadership:
    """Takes and renews the lease; ``is_held`` is trusted until just before it could pass to another."""

    store: Store
    clock: Clock
    holder: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}")
    epoch: int | None = None
    trusted_until_s: float = 0.0

    def renew(self) -> bool:
        """One try; the time before it began counts, not the time at which the answer came."""
        began_s = self.clock.monotonic_s()
        with self.store.write() as session:
            self.epoch = leases.take(
                session,
                name=LEASE,
                holder=self.holder,
                ttl_s=TTL_S,
                is_sole=self.store.is_sqlite,
                now=self.clock.now(),
            )
        if self.epoch is not None:
            self.trusted_until_s = began_s + TTL_S - 1
        return self.is_held

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

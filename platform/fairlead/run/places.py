"""Where an attempt finds and leaves things."""

from dataclasses import dataclass
from pathlib import Path

from fairlead.run.virtual.orders import Order


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories of one attempt. ``bookkeeping`` is Ray Train's own, and worth nothing afterwards."""

    storage: Path
    attempt: Path
    code: Path | None
    bookkeeping: Path
    environment: Order | None = None
    """What ranks run in, where that is not what the nodes have."""

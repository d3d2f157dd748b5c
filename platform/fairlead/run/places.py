"""Where an attempt finds and leaves things."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Directories of one attempt. ``bookkeeping`` is Ray Train's own, and worth nothing afterwards."""

    storage: Path
    attempt: Path
    code: Path | None
    bookkeeping: Path

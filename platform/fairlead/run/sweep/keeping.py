"""Checkpoints of a trial: the newest is copied at once and kept for good every few seconds, and at the end.

A sweep has many trials of a minute: bringing every epoch of theirs to disk would cost more than training it again.
"""

import shutil
import time
from pathlib import Path

from fairlead.protocol import CheckpointRef
from fairlead.run.storage import (
    commit_checkpoint,
    complete_checkpoints,
    copy_checkpoint,
    delete_checkpoint,
    relative_name,
    seal_checkpoint,
)

KEEP_EVERY_S = 5.0


class Keeper:
    """Of one trial, in the process of its rank 0. Used by one thread."""

    def __init__(self, directory: Path, *, world_size: int, every_s: float = KEEP_EVERY_S) -> None:
        self._directory = directory
        self._world_size = world_size
        self._every_s = every_s
        self._copied: Path | None = None
        self._step = 0
        self._kept_s = time.monotonic()

    def take(self, checkpoint: Path, *, step: int) -> None:
        """Copy it; the one before is forgotten if it was not kept by now. Raises ``OSError``."""
        copied = copy_checkpoint(checkpoint, self._directory, step=step)
        self._forget()
        self._copied, self._step = copied, step
        if time.monotonic() - self._kept_s >= self._every_s:
            self.keep()

    def keep(self) -> None:
        """Bring the newest to disk, whole; those before it go. Raises ``OSError``."""
        if self._copied is None:
            return
        copied, self._copied, self._kept_s = self._copied, None, time.monotonic()
        files = seal_checkpoint(copied)
        kept = commit_checkpoint(copied, files, step=self._step, world_size=self._world_size)
        for other in complete_checkpoints(self._directory):
            if other.directory != kept.directory:
                delete_checkpoint(other.directory)

    def newest(self, storage: Path) -> CheckpointRef | None:
        """The one that is kept."""
        found = next(iter(complete_checkpoints(self._directory)), None)
        if found is None:
            return None
        path = relative_name(found.directory, storage)
        return CheckpointRef(step=found.step, path=path, manifest_sha256=found.manifest_sha256)

    def _forget(self) -> None:
        if self._copied is not None:
            shutil.rmtree(self._copied, ignore_errors=True)

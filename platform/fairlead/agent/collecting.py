"""Deletes what nobody needs any more: checkpoints the control plane names, and old unpacked code.

In a thread of its own, since a large directory takes time. A checkpoint goes only while a newer one verifies: what the
control plane believes to be a good successor may have been damaged on disk.
"""

import queue
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from fairlead.protocol import MANIFEST_FILE, Collected, Deletion
from fairlead.run.storage import delete_checkpoint, problem_with

_PATH = re.compile(r"[a-z0-9][a-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_-]*/a[1-9][0-9]*/ckpt-[0-9]+")
logger = structlog.get_logger(__name__)


@dataclass
class Collector:
    """Takes deletions and hands back what became of them. Each is worked on once at a time."""

    storage: Path
    _waiting: "queue.Queue[Deletion | None]" = field(default_factory=queue.Queue)
    _known: set[str] = field(default_factory=set)
    _done: dict[str, Collected] = field(default_factory=dict)
    _verified: set[tuple[str, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=self._run, name="fairlead-collect", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop after the deletion under way; the rest will be told again."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join(timeout_s)

    def take(self, deletions: tuple[Deletion, ...]) -> None:
        """Delete these soon. What is told again while it waits changes nothing."""
        with self._lock:
            for deletion in deletions:
                if deletion.path not in self._known:
                    self._known.add(deletion.path)
                    self._waiting.put(deletion)

    def done(self) -> tuple[Collected, ...]:
        """What was done and not yet acknowledged."""
        with self._lock:
            return tuple(self._done.values())

    def acknowledge(self, collected: tuple[Collected, ...]) -> None:
        """The server has heard of it."""
        with self._lock:
            for one in collected:
                self._done.pop(one.path, None)
                self._known.discard(one.path)

    def _run(self) -> None:
        while (deletion := self._waiting.get()) is not None:
            try:
                answer = self.collect(deletion)
            except OSError as error:  # it will be told again
                logger.warning("a checkpoint could not be deleted", path=deletion.path, error=str(error))
                answer = None
            with self._lock:
                if answer is not None:
                    self._done[deletion.path] = answer
                else:
                    self._known.discard(deletion.path)

    def collect(self, deletion: Deletion) -> Collected | None:
        """Delete one checkpoint, or spare it where it is the last that verifies. None: it cannot be decided now."""
        directory = self._place(deletion.path)
        if directory is None:
            logger.error("a path that is no checkpoint's is not deleted", path=deletion.path)
            return None
        broken = []
        for keeper in deletion.keepers:
            problem = self._problem(keeper.path, keeper.manifest_sha256)
            if problem is None:
                delete_checkpoint(directory)
                return Collected(path=deletion.path, is_deleted=True)
            broken.append(keeper.path)
        if not deletion.keepers or problem_with(directory) is not None:
            return None  # nothing verifies: the storage may be away, and nothing is judged by that
        logger.error("the newer checkpoints are damaged; this one is kept", path=deletion.path, damaged=broken)
        return Collected(path=deletion.path, is_deleted=False, damaged=tuple(broken))

    def _place(self, path: str) -> Path | None:
        """The directory of a checkpoint below our storage; None for anything else, links included."""
        if not _PATH.fullmatch(path):
            return None
        directory = self.storage / path
        return directory if directory.resolve() == self.storage.resolve() / path else None

    def _problem(self, path: str, sha256: str) -> str | None:
        if (path, sha256) in self._verified and (self.storage / path / MANIFEST_FILE).exists():
            return None
        place = self._place(path)
        problem = problem_with(place, manifest_sha256=sha256) if place is not None else "this is no checkpoint's path"
        if problem is None:
            self._verified.add((path, sha256))
        return problem

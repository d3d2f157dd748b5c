"""Where a node keeps its environments: a directory for each, a lock beside it, and a marker in what is whole.

The lock of an environment is held alone by whoever builds or deletes it, and together by all who use it; the kernel
lets it go with the last process that has it open. Locks themselves are never deleted: they are empty.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairlead.run.storage import write_atomically
from fairlead.run.virtual.launcher import MARKER, hold

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Of one environment on one node, built or not."""

    directory: Path
    key: str

    @property
    def prefix(self) -> Path:
        """The environment itself; it cannot be moved."""
        return self.directory / self.key

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.prefix / "bin" / "python"

    @property
    def marker(self) -> Path:
        """There if, and only if, the environment is whole."""
        return self.prefix / MARKER

    @property
    def lock(self) -> Path:
        """What is locked."""
        return self.directory / f"{self.key}{_LOCK}"

    def hold(self) -> int | None:
        """An open file that keeps it while it is used; None where it is not ready. Raises ``OSError``."""
        return hold(str(self.directory), self.key)

    def claim(self) -> int | None:
        """An open file by which it belongs to the caller alone; None while others hold it. Raises ``OSError``."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def complete(self) -> int:
        """Mark it as whole, for whoever has claimed it; its size in bytes."""
        size = sum(path.lstat().st_size for path in self.prefix.rglob("*"))
        write_atomically(self.marker, json.dumps({"bytes": size}).encode())
        return size

    def clear(self) -> None:
        """Delete it, for whoever has claimed it. Killed half-way it leaves what is not whole."""
        self.marker.unlink(missing_ok=True)
        if self.prefix.exists():
            shutil.rmtree(self.prefix)

    def size(self) -> int:
        """Bytes of a whole one; 0 where it has just been deleted."""
        try:
            return int(json.loads(self.marker.read_bytes())["bytes"])
        except (FileNotFoundError, ValueError, KeyError):
            return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """All environments of a node."""

    directory: Path

    def prepare(self) -> None:
        """Make the directory. Raises ``OSError`` where it cannot be used or others could write to it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.directory.stat()
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise PermissionError(f"{self.directory} must belong to this user, and nobody else may write to it")

    def all(self) -> list[Place]:
        """Every environment that was ever begun here."""
        return [Place(directory=self.directory, key=lock.stem) for lock in sorted(self.directory.glob(f"*{_LOCK}"))]

    def make_room(self, max_bytes: int, *, keep: Place) -> list[str]:
        """Delete what nobody uses and was used longest ago until ``max_bytes`` are kept, ``keep`` in any case; what
        was never finished goes first. Returns the keys of what was deleted.
        """
        return list(self._deleted(max_bytes, keep))

    def _deleted(self, max_bytes: int, keep: Place) -> Iterator[str]:
        others = [place for place in self.all() if place != keep and place.prefix.exists()]
        ages = {place.key: _used_at(place) for place in others}
        total = keep.size() + sum(place.size() for place in others)
        for place in sorted(others, key=lambda one: ages[one.key]):
            if ages[place.key] and total <= max_bytes:
                return
            size = place.size()
            if _clear_unless_used(place):
                total -= size
                yield place.key


def _used_at(place: Place) -> float:
    """When it was used last, in seconds; 0 for what is not whole."""
    with contextlib.suppress(FileNotFoundError):
        return place.marker.stat().st_mtime
    return 0.0


def _clear_unless_used(place: Place) -> bool:
    claim = place.claim()
    if claim is None:
        return False
    try:
        place.clear()
    finally:
        os.close(claim)
    return True

"""Uploaded code, unpacked once per content hash."""

import hashlib
import threading
import uuid
from pathlib import Path

from fairlead.agent.control_plane import ControlPlane
from fairlead.bundle import unpack
from fairlead.errors import BadBundle


class BundleCache:
    """A directory of unpacked bundles; a name in it is complete. Safe to use from several threads."""

    def __init__(self, directory: Path, control: ControlPlane) -> None:
        self._directory = directory
        self._control = control
        self._lock = threading.Lock()

    def fetch(self, sha256: str, *, token: str) -> Path:
        """The unpacked bundle. Raises ``BadBundle`` for one that must not be used, ``Unavailable``, or ``OSError``."""
        target = self._directory / sha256
        with self._lock:
            if not target.is_dir():
                self._directory.mkdir(parents=True, exist_ok=True)
                archive = self._directory / f".{sha256}.{uuid.uuid4().hex}.zip"
                try:
                    self._control.bundle(sha256, archive, token=token)
                    _require_digest(archive, sha256)
                    unpack(archive, target)
                finally:
                    archive.unlink(missing_ok=True)
        return target


def _require_digest(archive: Path, sha256: str) -> None:
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise BadBundle(f"the code bundle has the digest {found}, not {sha256}; upload it again")

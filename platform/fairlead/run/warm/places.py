"""Where a warm server and its launchers meet: one directory on each node, this user's alone."""

import hashlib
import os
import shlex
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fairlead import __version__
from fairlead.errors import Unavailable

MAX_SOCKET_PATH = 100
"""Bytes: the system allows 107."""
_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """The files of one warm server."""

    directory: Path

    @property
    def socket(self) -> Path:
        """Where launchers come to."""
        return self.directory / "socket"

    @property
    def lock(self) -> Path:
        """Held by the root, so that there is one; touched every second by one that serves."""
        return self.directory / "lock"

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.directory / "log"

    @property
    def launcher(self) -> Path:
        """An executable file that stands for this server's Python."""
        return self.directory / "python"

    def prepare(self) -> None:
        """Make the directory and the launcher. Raises ``Unavailable`` where it cannot be used or is not ours alone."""
        if len(os.fsencode(self.socket)) > MAX_SOCKET_PATH:
            raise Unavailable(f"the path of {self.socket} is too long for a socket; choose a shorter directory")
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.directory.stat()
            self._write_launcher()
        except OSError as error:
            raise Unavailable(f"the directory {self.directory} cannot be used: {error}") from error
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise Unavailable(f"{self.directory} must belong to this user and be closed to others: chmod 700")

    def _write_launcher(self) -> None:
        text = f"#!{sys.executable} -IS\n{_LAUNCHER.read_text()}"
        if self.launcher.exists() and self.launcher.read_text() == text:
            return
        scratch = self.launcher.with_name(f".python.{os.getpid()}")
        scratch.write_text(text)
        scratch.chmod(0o700)
        scratch.replace(self.launcher)


def command_line() -> str:
    """What Ray's ``py_executable`` takes: the launcher of this installation, the same on every node that has it."""
    return f"{shlex.quote(sys.executable)} -IS {shlex.quote(str(_LAUNCHER))}"


def default_directory(name: str) -> Path:
    """A directory for the servers of one cluster, the same on all its nodes."""
    key = hashlib.sha256("\0".join((name, sys.executable, __version__)).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"fairlead-warm-{os.getuid()}-{key}"

"""Small disks, memories and tables of processes: what a machine looks like to a program when it runs out.

They need Linux and root; where one cannot be made, the test that asks for it is skipped and says why.
"""

import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fairlead.testing.ray import wait_for

_GROUPS = Path("/sys/fs/cgroup")
_BLOCK = bytes(64 * 1024)


@contextmanager
def small_disk(directory: Path, *, megabytes: int) -> Iterator[Path]:
    """An empty file system of that size at ``directory``, gone afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=0755"
    command = ["mount", "-t", "tmpfs", "-o", options, "fairlead-test", str(directory)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def grow(directory: Path, *, megabytes: int) -> None:
    """Give a small disk another size, with what is on it."""
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(directory)], check=True)


def fill(directory: Path, *, leaving_kb: int = 0) -> Path:
    """Take the room of a small disk but for ``leaving_kb``; removing the file that is returned gives it back."""
    ballast = directory / f"ballast-{uuid.uuid4().hex[:8]}"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(_BLOCK):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        file.truncate(max(0, file.tell() - leaving_kb * 1024))
    return ballast


class Group:
    """A control group. ``prefix``: what a command line begins with to run in it, its limits seen as the machine's."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory = directory
        script = 'mount --bind "$0" "$1" && echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
        self.prefix = ("unshare", "--mount", "sh", "-c", script, str(directory), str(root))

    def take_in(self, pid: int) -> None:
        """Put a process into it; what it starts from now on follows."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def limit(self, name: str, value: int) -> None:
        """Set one of the files that are named like limits."""
        (self.directory / name).write_text(str(value))


@contextmanager
def control_group(controller: str) -> Iterator[Group]:
    """An empty group of ``memory`` or ``pids`` (cgroup v1 or v2), removed once its processes have ended."""
    root = _GROUPS / controller if (_GROUPS / controller).is_dir() else _GROUPS
    directory = root / f"fairlead-test-{uuid.uuid4().hex[:8]}"
    try:
        directory.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        if not any(directory.glob(f"{controller}.*")):
            pytest.skip(f"control groups have no {controller} controller here")
        yield Group(directory, root)
    finally:
        _give_back(directory, root)


def _give_back(directory: Path, root: Path) -> None:
    """Remove a group; processes that still run go back to where all are."""
    for pid in (directory / "cgroup.procs").read_text().split():
        with suppress(OSError):
            (root / "cgroup.procs").write_text(pid)
    wait_for(lambda: _is_removed(directory), within_s=10, what="the end of a control group")


def _is_removed(directory: Path) -> bool:
    """A process that is ending keeps its group for a moment."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@contextmanager
def small_memory(*, megabytes: int) -> Iterator[Group]:
    """A group whose processes may use that much together; beyond it the kernel kills the largest of them."""
    with control_group("memory") as group:
        name = "memory.max" if (group.directory / "memory.max").exists() else "memory.limit_in_bytes"
        group.limit(name, megabytes * 2**20)
        yield group


def num_killed_for_memory(group: Group) -> int:
    """How many processes of the group the kernel has killed for memory."""
    name = "memory.events" if (group.directory / "memory.events").exists() else "memory.oom_control"
    lines = (line.split() for line in (group.directory / name).read_text().splitlines())
    return int(dict(line for line in lines if len(line) == 2).get("oom_kill", 0))


def num_threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))

"""Whether the kernel has killed for want of memory. Ray says the same of that as of a crash; the kernel keeps count.

Each control group counts its own processes, whoever had used up the memory, so a worker asks for the count of the group
that it is in: inside a container that is the container's. Where groups keep no count the machine's is taken, which any
death on the machine raises. Either way the count says *something* was killed, not which process: a worker that crashes
while a neighbour in its group is killed for memory is taken for killed as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MACHINE = Path("/proc/vmstat")
_NAME = "oom_kill"


@dataclass(frozen=True, kw_only=True, slots=True)
class KillCount:
    """Processes killed for memory so far, and the kernel's file that says so. No file: the kernel does not count."""

    file: str = ""
    num_kills: int = 0


def count_kills(*, groups: Path = _GROUPS, own: Path = _OWN, machine: Path = _MACHINE) -> KillCount:
    """The narrowest count that this process is part of."""
    for file in (*_of_groups(groups, own), machine):
        if (num_kills := _read(file)) is not None:
            return KillCount(file=str(file), num_kills=num_kills)
    return KillCount()


def has_killed_since(_: str, before: KillCount) -> bool:
    """Whether a count has grown: asked on its node, by ``census.on_nodes``."""
    return bool(before.file) and (_read(Path(before.file)) or 0) > before.num_kills


def _of_groups(groups: Path, own: Path) -> Iterator[Path]:
    """Where the counts of this process's memory group may be, in version 2 and in version 1 of control groups."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers == "":
            root, name = groups, "memory.events"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.oom_control"
        else:
            continue
        inside = root / path.lstrip("/")  # a container sees its own group as the root, whatever the host calls it
        yield (inside if inside.is_dir() else root) / name


def _read(file: Path) -> int | None:
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return None
    return next((int(line[1]) for line in lines if line[:1] == [_NAME]), None)

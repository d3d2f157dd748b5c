"""The mark of an attempt on a forked process, whose ``/proc/<pid>/environ`` is for ever that of the warm server.

It is an open descriptor, and a mapping, of an anonymous file with a telling name. Whatever the process forks inherits
both: a daemon closes its descriptors, and keeps what is mapped. What it executes has the variable in its environment.
"""

import mmap
import os
from collections.abc import Mapping

ATTEMPT = "FAIRLEAD_ATTEMPT"
SERVER = "FAIRLEAD_WARM_SERVER"
"""In the environment of a warm server, and so in what the kernel shows of all that it forked."""
_SHOWN_AS = "/memfd:"
_mapped: list[mmap.mmap] = []
"""Kept for as long as the process lives."""


def mark(environment: Mapping[str, str]) -> int | None:
    """Mark this process as one of the attempt that ``environment`` names; returns the descriptor, to be kept open."""
    name = environment.get(ATTEMPT)
    if not name:
        return None
    descriptor = os.memfd_create(f"{ATTEMPT}={name}"[:240], 0)  # inherited by what is executed, too
    os.ftruncate(descriptor, mmap.PAGESIZE)
    _mapped.append(mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ))
    return descriptor


def is_marked(pid: int, environ: list[bytes], runner_name: str) -> bool:
    """Whether a process of this machine belongs to an attempt: ``environ`` is what the kernel shows of it."""
    if f"{ATTEMPT}={runner_name}".encode() in environ:
        return True
    if not any(variable.startswith(f"{SERVER}=".encode()) for variable in environ):
        return False
    file = f"{_SHOWN_AS}{ATTEMPT}={runner_name}"[: len(_SHOWN_AS) + 240]
    return _holds(pid, file) or _maps(pid, file)


def _maps(pid: int, file: str) -> bool:
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
            return any(line.rstrip("\n").removesuffix(" (deleted)").endswith(f" {file}") for line in lines)
    except OSError:  # gone, or another user's
        return False


def _holds(pid: int, file: str) -> bool:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # gone, or another user's
        return False
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.removesuffix(" (deleted)") == file:
            return True
    return False

"""The mark of an attempt on a forked process, whose ``/proc/<pid>/environ`` is for ever that of the warm server.

It is an open descriptor of an anonymous file with a telling name. Whatever the process forks inherits it; what it
executes with its descriptors closed has the variable in its environment instead.
"""

import os
from collections.abc import Mapping

ATTEMPT = "FAIRLEAD_ATTEMPT"
SERVER = "FAIRLEAD_WARM_SERVER"
"""In the environment of a warm server, and so in what the kernel shows of all that it forked."""
_SHOWN_AS = "/memfd:"


def mark(environment: Mapping[str, str]) -> int | None:
    """Mark this process as one of the attempt that ``environment`` names; returns the descriptor, to be kept open."""
    name = environment.get(ATTEMPT)
    if not name:
        return None
    descriptor = os.memfd_create(f"{ATTEMPT}={name}"[:240], 0)  # inherited by what is executed, too
    return descriptor


def is_marked(pid: int, environ: list[bytes], runner_name: str) -> bool:
    """Whether a process of this machine belongs to an attempt: ``environ`` is what the kernel shows of it."""
    if f"{ATTEMPT}={runner_name}".encode() in environ:
        return True
    if not any(variable.startswith(f"{SERVER}=".encode()) for variable in environ):
        return False
    return _holds(pid, f"{_SHOWN_AS}{ATTEMPT}={runner_name}"[: len(_SHOWN_AS) + 240])


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

"""Stands in for the Python executable of a process with an environment: ``python -IS launcher.py DIRECTORY KEY ...``

Where the environment is ready on this node its interpreter is executed, and holds it against being deleted by the open
file it inherits. Where it is not, the process starts as if it had none, warm if that is possible: it will build it.
Only the standard library is imported: this stands between Ray and every worker.
"""

import fcntl
import os
import sys

MARKER = "fairlead-complete.json"
"""Written last, so what has it is whole. Touched whenever it is used."""
COLD = "FAIRLEAD_COLD_START"
"""As in ``fairlead.run.warm.launcher``."""
WHY_COLD = "own environment"
_WARM = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "warm", "launcher.py")


def hold(directory: str, key: str) -> int | None:
    """An open file that keeps a whole environment from being deleted until it is closed; None where there is none.

    Raises ``OSError`` where the directory cannot be used.
    """
    try:
        descriptor = os.open(os.path.join(directory, f"{key}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(os.path.join(directory, key, MARKER))
    except (BlockingIOError, FileNotFoundError):  # it is being built or deleted, or was never finished
        os.close(descriptor)
        return None
    return descriptor


def variables(prefix: str, path: str) -> dict[str, str]:
    """What activating an environment sets, and why its process is cold. ``path``: the search path for programs."""
    programs = os.path.join(prefix, "bin")
    return {"PATH": f"{programs}{os.pathsep}{path}", "VIRTUAL_ENV": prefix}


def main() -> None:
    """Become the program, in its environment or as if it had none."""
    directory, key, *argv = sys.argv[1:]
    prefix = os.path.join(directory, key)
    try:
        held = hold(directory, key)
    except OSError:  # whoever builds it says what is wrong with the directory
        held = None
    if held is None:
        os.execv(sys.executable, [sys.executable, "-IS", _WARM, *argv])
    os.set_inheritable(held, True)
    os.environ.update(variables(prefix, os.environ.get("PATH", os.defpath)))
    os.environ[COLD] = f"{os.getpid()}:{WHY_COLD}"
    python = os.path.join(prefix, "bin", "python")
    os.execv(python, [python, *argv])


if __name__ == "__main__":
    main()

"""Keeps Ray's processes once they run: ``python -I -S keeper.py raylet:PID gcs_server:PID ...``

``ray start --block`` becomes this program when all of Ray is up: a tenth of its memory, and no look every second.
The processes stay children of the same process, so the kernel still ends them with it. One that ends takes the others
along, since a Ray without one of its parts serves nobody, and the supervisor starts Ray again. Only the standard
library is imported.
"""

import os
import signal
import sys
import time

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
GRACE_S = 2.0
"""What each process gets to end by itself: the raylet ends its workers, and goes first."""
_LAST_DESCRIPTOR = 4096


def main(arguments: list[str]) -> int:
    """Wait for a signal or a death, then end what is left. 0: was asked to end, 1: a process ended by itself."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    os.closerange(3, _LAST_DESCRIPTOR)  # connections of the program that this one was
    left = dict(parse(argument) for argument in arguments)
    print(f"keeping {', '.join(arguments)}", flush=True)
    dead = await_end(left)
    if dead:
        print(f"ended by themselves, and all of Ray with them: {', '.join(dead)}", file=sys.stderr, flush=True)
    for pid in sorted(left, key=lambda pid: left[pid] != "raylet"):
        end(pid, left)
    return 1 if dead else 0


def parse(argument: str) -> tuple[int, str]:
    """Number and name of a process from ``name:pid``."""
    name, _, pid = argument.rpartition(":")
    return int(pid), name


def await_end(left: dict[int, str]) -> list[str]:
    """Return when asked to end, or with what ended by itself; that is taken out of ``left``."""
    while True:
        if dead := collect(left):
            return dead
        if signal.sigwait(SIGNALS) != signal.SIGCHLD:
            return []


def collect(left: dict[int, str]) -> list[str]:
    """Take the exit statuses of children that have ended; says which of ``left`` did."""
    dead = []
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if (name := left.pop(ended[0], None)) is not None:
                dead.append(f"{name} (status {os.waitstatus_to_exitcode(ended[1])})")
    except ChildProcessError:  # none is left
        dead += [f"{name} (unknown status)" for name in left.values()]
        left.clear()
    return dead


def end(pid: int, left: dict[int, str]) -> None:
    """Ask one process to end, wait, and kill it if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid in left:
            os.kill(pid, number)  # its status has not been taken, so the number is still its own
        deadline_s = time.monotonic() + GRACE_S
        while pid in left and (wait_s := deadline_s - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, wait_s)
            collect(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

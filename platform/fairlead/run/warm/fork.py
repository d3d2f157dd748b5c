"""Has the warm server of this node fork a process for us, without a launcher in between: we are its launcher.

The kernel kills the process when our connection to the server is closed, so it never outlives us.
"""

import os
import select
import sys
import time
from dataclasses import dataclass

from fairlead.run.warm.launcher import (
    ANSWER_S,
    DIRECTORY,
    START_S,
    SWITCH,
    SWITCHED_OFF,
    Cold,
    Line,
    forked,
    request,
    send,
)

_KILL = 9


@dataclass(kw_only=True, slots=True)
class Forked:
    """A process that the warm server has forked for us and whose program has begun."""

    pid: int
    _pidfd: int
    _line: Line

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status, negative for a signal; None while it runs. 1 where the server cannot tell any more."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(max(0.0, timeout_s) * 1000):
            return None
        try:
            word, status = self._line.next(ANSWER_S)
        except OSError:
            return 1
        return int(status) if word == b"exit" else 1

    def kill(self) -> None:
        """End it, however it is."""
        send(self._pidfd, _KILL)

    def close(self) -> None:
        """Let go of it; it dies with that if it still runs."""
        self._line.socket.close()
        os.close(self._pidfd)


def fork_warm(program: str, standard: tuple[int, int, int]) -> Forked:
    """Fork a process that runs ``program`` with these standard files, and our environment and working directory.

    Raises ``Cold`` with the reason where that is not possible: nothing has begun then.
    """
    directory = os.environ.get(DIRECTORY)
    if os.environ.get(SWITCH) == "0" or not directory:
        raise Cold(SWITCHED_OFF if directory else "this node has no warm server")
    try:
        line = Line(os.path.join(directory, "socket"))
    except OSError as error:
        raise Cold(f"the warm server cannot be reached: {error}") from error
    pidfd = -1
    try:
        line.send_request(request(sys.executable, [program]), standard)
        pid = forked(line)
        pidfd = os.pidfd_open(pid)
        line.socket.sendall(b"go\n")
        word, _ = line.next(START_S)
        if word != b"on":
            raise Cold("the forked process ended before it began")
    except BaseException as error:
        _make_sure_it_ends(line, pidfd)
        raise error if isinstance(error, Cold) else Cold(f"the warm server did not answer: {error}") from error
    return Forked(pid=pid, _pidfd=pidfd, _line=line)


def _make_sure_it_ends(line: Line, pidfd: int) -> None:
    """A child that may have heard "go" must not begin beside the one that is started instead."""
    if pidfd >= 0:
        send(pidfd, _KILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        deadline_s = time.monotonic() + START_S
        while not poll.poll(100) and time.monotonic() < deadline_s:
            send(pidfd, _KILL)
        os.close(pidfd)
    line.socket.close()

"""Stands in for the Python executable: a Ray worker is forked by the warm server, all else is run as ever.

Run it with ``python -IS``. Its imports are builtin or tiny, because it stands between Ray and every worker. Whatever
is not as expected ends in the real interpreter: slow, never wrong. A worker's program begins at most once: the child
waits for ``go``, and a launcher that has not said ``go`` or has not heard ``on`` is free to start it cold.
"""

import _signal  # type: ignore[import-not-found]  # the compiled half of signal, without its enumerations
import _socket
import os
import select
import sys
import time

VERSION = b"FLWARM1"
DIRECTORY = "FAIRLEAD_WARM_DIRECTORY"
SELF_START = "FAIRLEAD_WARM_SELF_START"
SWITCH = "FAIRLEAD_WARM_START"
SWITCHED_OFF = f"{SWITCH}=0 switches warm starts off"
COLD = "FAIRLEAD_COLD_START"
"""Of a process that was started cold: its number, a colon, and why. Without a number it counts for all it starts."""
NOT_FOR_SERVERS = ("FAIRLEAD_ATTEMPT", "RAY_JOB_ID", COLD)
PROGRAMS = ("default_worker.py", "setup_worker.py")
ANSWER_S = 0.8
START_S = 10.0
"""Until a server that is ready has forked; a machine may be busy."""
PREPARE_S = 45.0
"""Until a server that is still importing has forked: waiting is quicker than importing a second time beside it. Ray
gives a worker 60 seconds."""
LAST_WORDS_S = 2.0
RETRY_S = 30.0
IMPORTING, SERVING = "importing", "serving"
STALLED_S = {IMPORTING: 150.0, SERVING: 10.0}
"""A root that has not touched its lock for this long hangs: it does so when it begins to import, and in its rounds."""
CONFIRM_S = 2.0
"""A root hangs if it still looks so after this time: it may be the whole machine that stood still."""
ROOT = "fairlead.run.warm.root"
IDLE = "--idle-s=600"
"""Nobody holds a server that a launcher has started: it must last until the next worker comes."""
FORWARDED = (_signal.SIGTERM, _signal.SIGINT, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)


class Cold(Exception):
    """Why the real interpreter must be used."""


class Line:
    """The connection to the server, read line by line."""

    def __init__(self, path: str) -> None:
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.socket.settimeout(ANSWER_S)
        self.socket.connect(path)
        self._read = b""
        credentials = self.socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if int.from_bytes(credentials[4:8], sys.byteorder) != os.getuid():
            raise Cold("the warm server belongs to another user")

    def send_request(self, body: bytes, standard: tuple[int, int, int] = (0, 1, 2)) -> None:
        """Hand over the request together with what is to be descriptors 0, 1 and 2."""
        data = b"%s start %d\n%s" % (VERSION, len(body), body)
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in standard)
        sent = self.socket.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        if sent < len(data):  # an empty message would be refused by a peer that has answered and gone
            self.socket.sendall(data[sent:])

    def next(self, timeout_s: float) -> tuple[bytes, bytes]:
        """The next word and the rest of its line; an empty word at the end."""
        while b"\n" not in self._read:
            self.socket.settimeout(timeout_s)
            more = self.socket.recv(4096)
            if not more:
                return b"", b""
            self._read += more
        line, self._read = self._read.split(b"\n", 1)
        word, _, rest = line.partition(b" ")
        return word, rest


def main() -> None:
    """Become the program, warm or cold."""
    argv = sys.argv[1:]
    real = sys.executable
    why = "not a worker"
    if argv and os.path.basename(argv[0]) in PROGRAMS:
        try:
            why = SWITCHED_OFF
            if os.environ.get(SWITCH) != "0":
                run_warm(real, argv)
        except Cold as error:
            why = str(error)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        os.environ[COLD] = f"{os.getpid()}:{why}"
    os.execv(real, [real, *argv])


def run_warm(real: str, argv: list[str]) -> None:
    """Have the worker forked and stand for it until its end; returns never, or raises before it has begun."""
    directory = os.environ.get(DIRECTORY) or os.path.dirname(os.path.abspath(sys.argv[0]))
    try:
        line = Line(os.path.join(directory, "socket"))
    except FileNotFoundError:
        replace_server(real, directory)
        raise Cold("this node has no warm server yet") from None
    except ConnectionRefusedError:
        replace_server(real, directory)
        raise Cold("the warm server of this node has ended") from None
    except BlockingIOError:  # so many wait at its door that no more are let in
        raise unanswered(real, directory) from None
    try:
        line.send_request(request(real, argv))
        pidfd = hand_over(line)
    except BaseException as error:
        line.socket.close()  # a child that has not heard "go" ends by itself
        if isinstance(error, TimeoutError):
            raise unanswered(real, directory) from None
        if isinstance(error, ConnectionError):
            raise Cold("the warm server went away") from None
        raise
    stand_in(line, pidfd)


def request(real: str, argv: list[str]) -> bytes:
    """Everything that a new process inherits, as texts that hold no NUL."""
    fields = [os.fsencode(real), os.getcwdb(), b"%d" % len(argv), *map(os.fsencode, argv)]
    fields += [name + b"=" + value for name, value in os.environb.items()]
    return b"\0".join(fields)


def hand_over(line: Line) -> int:
    """From the server's first answer to the child's last word before the program begins; its process descriptor."""
    pidfd = os.pidfd_open(forked(line))
    for number in FORWARDED:
        _signal.signal(number, lambda given, _: send(pidfd, given))
    try:
        line.socket.sendall(b"go\n")
        word, _ = line.next(START_S)
    except OSError:
        word = b""
    if word != b"on":
        end_unbegun(pidfd)
        raise Cold("the forked worker ended before it began")
    return pidfd


def forked(line: Line) -> int:
    """The process that the server has forked for a request; it waits for "go"."""
    word, rest = line.next(ANSWER_S)
    if word not in (b"seen", b"wait"):
        raise Cold(rest.decode(errors="replace") if word == b"no" else "the warm server went away")
    word, rest = line.next(START_S if word == b"seen" else PREPARE_S)
    if word != b"up":
        raise Cold(rest.decode(errors="replace") if word == b"no" else "the warm server went away during the start")
    return int(rest)


def end_unbegun(pidfd: int) -> None:
    """Make sure that a child that may have heard "go" cannot begin any more."""
    send(pidfd, _signal.SIGKILL)
    wait_for_end(pidfd)
    for number in FORWARDED:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def stand_in(line: Line, pidfd: int) -> None:
    """Wait for the child's end and end alike. The child is tied to this process by the connection."""
    wait_for_end(pidfd)
    status = b""
    try:
        word, status = line.next(LAST_WORDS_S)
    except OSError:
        word = b""  # the server died; nobody else knows the status
    code = int(status) if word == b"exit" else 1
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def wait_for_end(pidfd: int, timeout_s: float | None = None) -> None:
    """Wait for a process that is not our child."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(None if timeout_s is None else timeout_s * 1000)


def send(pidfd: int, number: int) -> None:
    """Signal the child, if it still runs."""
    try:
        _signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return


def unanswered(real: str, directory: str) -> Cold:
    """What to say of a root that does not answer. One that hangs is replaced."""
    if stalled_root(directory) is not None:
        replace_server(real, directory)
    return Cold("the warm server did not answer in time")


def replace_server(real: str, directory: str) -> None:
    """See to a server for the next worker, if that is for us to do."""
    if os.environ.get(SELF_START) != "1":
        return
    if stalled_root(directory) is not None:  # it would keep others away
        time.sleep(CONFIRM_S)
        end_stalled(directory)
    start_server(real, directory)


def start_server(real: str, directory: str) -> None:
    """Start a missing server for the next worker, out of reach of whatever ends this one."""
    try:
        os.makedirs(directory, 0o700, exist_ok=True)
        mark = os.path.join(directory, "self-started")
        if os.path.exists(mark) and time_since(mark) < RETRY_S:
            return
        with open(mark, "w"):
            os.utime(mark)
    except OSError:
        return
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        environment = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVERS}
        try:
            os.execve(real, [real, "-m", ROOT, directory, IDLE], environment)
        finally:
            os._exit(127)
    os.waitpid(pid, 0)


def stalled_root(directory: str) -> int | None:
    """The process that holds a directory's lock, if it has shown no sign of life for long."""
    lock = os.path.join(directory, "lock")
    try:
        with open(lock) as file:
            pid, _, phase = file.read().partition(" ")  # before its age: a successor that signs meanwhile is young
            is_old = time_since(lock) > STALLED_S.get(phase, STALLED_S[IMPORTING])
            return int(pid) if is_old and is_root(int(pid)) and is_locked(file.fileno()) else None
    except (OSError, ValueError):
        return None


def end_stalled(directory: str) -> bool:
    """Kill the root of a directory if it hangs; whether it was so. Its workers go on."""
    if (pid := stalled_root(directory)) is None:
        return False
    try:
        pidfd = os.pidfd_open(pid)
        try:
            if not is_root(pid):  # the number has come to another since
                return False
            send(pidfd, _signal.SIGKILL)
            wait_for_end(pidfd, LAST_WORDS_S)
        finally:
            os.close(pidfd)
    except OSError:
        return False
    return True


def is_root(pid: int) -> bool:
    """Whether a process is a warm server's root."""
    with open(f"/proc/{pid}/cmdline") as file:
        return ROOT in file.read().split("\0")


def is_locked(descriptor: int) -> bool:
    """Whether somebody holds this lock. Asked last: a root that tries to take it meanwhile would end."""
    import fcntl  # not builtin, and hardly ever needed

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def time_since(path: str) -> float:
    """Seconds since a file was touched."""
    return time.time() - os.stat(path).st_mtime


if __name__ == "__main__":
    main()

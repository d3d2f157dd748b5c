"""A forked worker before its program begins: it lets go of the server and takes on what the launcher inherited.

It is tied to the launcher by their connection, through the kernel: when the launcher is gone, however it went, the
child is killed. That needs no thread, and no server.
"""

import atexit
import ctypes
import fcntl
import gc
import multiprocessing.process
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, NoReturn

from fairlead.run.warm import life
from fairlead.run.warm.marker import mark
from fairlead.run.warm.preload import SINGLE_THREADED

GO_TIMEOUT_S = 15.0
_F_SETSIG = 10
_COPIED_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS, resource.RLIMIT_NPROC)
MALLOC_PARAMETERS = {
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_MMAP_MAX_": -4,
    "MALLOC_ARENA_MAX": -8,
}
"""Their numbers in glibc's ``malloc.h``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inheritance:
    """What a worker starts with."""

    code: CodeType
    program: str
    argv: list[str]
    cwd: str
    environment: Mapping[str, str]
    descriptors: tuple[int, int, int]
    base_path: tuple[str, ...]
    """The interpreter's own search path, without a program's directory and ``PYTHONPATH``."""
    limit_threads: Callable[[int], None]


def become(make: Callable[[], Inheritance], connection: socket.socket, unwanted: Iterable[int]) -> NoReturn:
    """Run a worker's program to its end; the process is then over."""
    try:
        _let_go(unwanted)
        launcher_pid = peer(connection)
        if not _may_go(connection):
            os._exit(0)  # the launcher has gone its own way
        inheritance = make()
        _tie(connection)
        _take_on(inheritance, launcher_pid)
        connection.sendall(b"on\n")
    except BaseException:  # the launcher has not heard "on": it starts the program itself
        traceback.print_exc()
        os._exit(1)
    os._exit(_run(inheritance))


def peer(connection: socket.socket) -> int:
    """The process at the other end."""
    size = 12  # struct ucred: process, user, group
    return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)[:4], sys.byteorder)


def _let_go(unwanted: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()  # the raylet kills a worker's process group: it must not be the server's
    for descriptor in unwanted:
        os.close(descriptor)


def _may_go(connection: socket.socket) -> bool:
    """Whether the launcher says "go". One that does not may already have started the program cold."""
    connection.settimeout(GO_TIMEOUT_S)
    try:
        connection.sendall(b"up %d\n" % os.getpid())
        return connection.recv(16) == b"go\n"
    except OSError:
        return False


def _tie(connection: socket.socket) -> None:
    """Let the kernel kill this process when the other end is closed."""
    connection.setblocking(True)
    descriptor = connection.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(descriptor, _F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(0):  # it was closed before the tie was made
        os._exit(1)


def _take_on(inheritance: Inheritance, launcher_pid: int) -> None:
    for number, descriptor in enumerate(inheritance.descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _copy_attributes(launcher_pid)
    _replace_environment(inheritance)
    os.chdir(inheritance.cwd)
    sys.argv[:] = inheritance.argv
    sys.path[:] = search_path(inheritance.program, os.environ.get("PYTHONPATH", ""), inheritance.base_path)
    _reopen_streams()
    _be_distinct()
    inheritance.limit_threads(_given_threads())
    _tune_malloc()
    mark(os.environ)
    life.note_fork()


def _copy_attributes(launcher_pid: int) -> None:
    """What the kernel keeps of a process and a new one inherits."""
    for limit in _COPIED_LIMITS:
        resource.setrlimit(limit, resource.prlimit(launcher_pid, limit))
    os.sched_setaffinity(0, os.sched_getaffinity(launcher_pid))
    with open(f"/proc/{launcher_pid}/oom_score_adj") as given, open("/proc/self/oom_score_adj", "w") as own:
        own.write(given.read())
    with open(f"/proc/{launcher_pid}/status") as file:
        umask = next(line for line in file if line.startswith("Umask:"))
    os.umask(int(umask.split()[1], 8))


def _replace_environment(inheritance: Inheritance) -> None:
    timezone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(inheritance.environment)
    if os.environ.get("TZ") != timezone:
        time.tzset()


def _reopen_streams() -> None:
    """Python's own three files, as a new interpreter opens them."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    read, written = sys.__stdin__, sys.__stdout__  # the encoding follows from variables that are the same here
    assert read is not None and written is not None  # noqa: PT018
    stdin: Any = open(0, encoding=read.encoding, errors=read.errors, closefd=False)  # noqa: SIM115  # never closed
    stdout: Any = open(1, "w", encoding=written.encoding, errors=written.errors, closefd=False)  # noqa: SIM115
    stderr: Any = open(2, "w", encoding=written.encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    stdout.reconfigure(line_buffering=os.isatty(1), write_through=is_unbuffered)
    stderr.reconfigure(line_buffering=True, write_through=is_unbuffered)
    for name, file in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
        setattr(sys, name, file)
        setattr(sys, f"__{name}__", file)


def search_path(program: str, python_path: str, base_path: Iterable[str]) -> list[str]:
    """Where a new interpreter would look for modules: beside its program, in ``PYTHONPATH``, in its own places."""
    added = [os.path.abspath(entry) for entry in python_path.split(os.pathsep)] if python_path else []
    return list(dict.fromkeys([os.path.dirname(program), *added, *base_path]))


def _be_distinct() -> None:
    """Nothing random is shared with brothers. torch starts from a fixed seed that the server has never drawn from."""
    random.seed()
    multiprocessing.process.current_process().authkey = os.urandom(32)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


def _given_threads() -> int:
    """Threads for numerical libraries, which a new process would read when it imports them."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if (given := os.environ.get(name, "")).isdigit() and int(given) > 0:
            return int(given)
    return len(os.sched_getaffinity(0))


def _tune_malloc() -> None:
    """Heed the variables that glibc reads when a new process begins; other C libraries have no such function."""
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, parameter in MALLOC_PARAMETERS.items():
        if tune is not None and (given := os.environ.get(name, "")).isdigit():
            tune(parameter, int(given))


def _run(inheritance: Inheritance) -> int:
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=inheritance.program, __builtins__=__builtins__)
    sys.modules["__main__"] = main
    gc.enable()
    code = _exit_code(lambda: exec(inheritance.code, main.__dict__))
    for last in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        code = _exit_code(last) or code
    return code


def _exit_code(call: Callable[[], Any]) -> int:
    """How an interpreter would end that called this last."""
    try:
        call()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def worker_environment(asked: Mapping[str, str], set_by_imports: Mapping[str, str]) -> dict[str, str]:
    """A worker's variables: what it was given, and what the imports have set, which never overrides."""
    return {**{name: value for name, value in set_by_imports.items() if name not in SINGLE_THREADED}, **asked}

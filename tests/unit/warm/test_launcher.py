"""The launcher: warm where it can be, cold on any surprise, and never both."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fairlead.run.warm.launcher import (
    IMPORTING,
    ROOT,
    SELF_START,
    SERVING,
    STALLED_S,
    SWITCH,
    SWITCHED_OFF,
    end_stalled,
)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def read_all(connection: socket.socket) -> None:
    with connection.makefile("rb") as file:
        size = int(file.readline().split()[2])
        assert len(file.read(size)) == size


def say(*lines: bytes):
    def answer(connection: socket.socket) -> None:
        read_all(connection)
        for line in lines:
            connection.sendall(line)

    return answer


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(1 << 20):
        pass


def offer_a_dead_child(connection: socket.socket) -> None:
    read_all(connection)
    child = subprocess.Popen(["/bin/sleep", "30"])
    connection.sendall(b"seen\nup %d\n" % child.pid)
    assert connection.recv(16) == b"go\n"
    child.kill()
    child.wait()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (say(), "the warm server went away"),
        (say(b"no worn out\n"), "worn out"),
        (say(b"seen\n"), "the warm server went away during the start"),
        (say(b"wait\n", b"no two threads\n"), "two threads"),
        (say(b"hello\n"), "the warm server went away"),
        (say(b"seen\n", b"up nonsense\n"), "ValueError"),
        (say(b"seen\n", b"up 999999999\n"), "ProcessLookupError"),
        (say_nothing, "the warm server did not answer in time"),
        (offer_a_dead_child, "the forked worker ended before it began"),
    ],
)
def test_every_surprise_ends_in_a_cold_start_that_says_why(scene, answer, why: str) -> None:
    with scene.answering(answer):
        found = scene.run("a", "b c")
    assert found.stdout.startswith(f"cold, {why}")
    assert found.stdout.endswith(" a b c\n")
    assert found.returncode == 0


def test_no_server_is_a_cold_start(scene) -> None:
    assert scene.run().stdout == "cold, this node has no warm server yet\n"


def test_a_socket_that_nobody_listens_on_is_a_cold_start(scene) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(scene.directory / "socket"))
    assert scene.run().stdout == "cold, the warm server of this node has ended\n"


def test_the_switch_turns_it_off(forking_scene) -> None:
    assert forking_scene.run(**{SWITCH: "0"}).stdout == f"cold, {SWITCHED_OFF}\n"


def test_what_is_no_worker_is_run_as_ever(forking_scene) -> None:
    command = [str(forking_scene.directory / "python"), "-c", "import sys; sys.exit(7)"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 7


def test_a_worker_takes_on_arguments_variables_directory_and_files(forking_scene, tmp_path: Path) -> None:
    more = "print(os.getcwd(), os.environ['MINE'], sys.stdin.read()); print('e', file=sys.stderr)"
    found = subprocess.run(
        forking_scene.command("--x=1", "ä ö", more=more),
        env={**os.environ, "MINE": "y" * 100_000},
        cwd=tmp_path,
        input="given",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout == f"warm --x=1 ä ö\n{tmp_path} {'y' * 100_000} given\n"
    assert found.stderr == "e\n"


ATTRIBUTES = """
import gc, json, resource, signal
print(json.dumps([
    sorted(os.sched_getaffinity(0)), resource.getrlimit(resource.RLIMIT_NOFILE), os.umask(0), sys.path[0],
    [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGCHLD)],
    signal.getsignal(signal.SIGINT) is signal.default_int_handler,
    sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors, sys.argv[0] == __file__, __name__,
    sorted(name for name in ("extra",) if name in sys.path), gc.isenabled(),
]))
"""


def test_a_forked_worker_is_like_an_executed_one(forking_scene) -> None:
    command = ["/bin/bash", "-c", 'ulimit -n 512; umask 027; exec "$@"', "bash"]
    shown = []
    for switch in ("1", "0"):
        arguments = [*command, *forking_scene.command(more=ATTRIBUTES)]
        environment = {**os.environ, "PYTHONPATH": "extra", SWITCH: switch}
        found = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=True)
        shown.append(found.stdout.splitlines())
    (warm, warm_shown), (cold, cold_shown) = shown
    assert (warm, cold) == ("warm", f"cold, {SWITCHED_OFF}")
    assert warm_shown == cold_shown


@pytest.mark.parametrize("status", [0, 3, 255])
def test_the_exit_status_is_the_workers(forking_scene, status: int) -> None:
    assert forking_scene.run(more=f"sys.exit({status})").returncode == status


def test_an_exception_is_status_1_and_shown(forking_scene) -> None:
    found = forking_scene.run(more="raise ValueError('mine')")
    assert found.returncode == 1
    assert "ValueError: mine" in found.stderr


def test_a_worker_killed_by_a_signal_takes_its_launcher_along(forking_scene) -> None:
    assert forking_scene.run(more="os.kill(os.getpid(), 9)").returncode == -9


def test_exit_functions_run_and_threads_are_waited_for(forking_scene) -> None:
    more = (
        "import atexit, threading, time; atexit.register(print, 'last')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()"
    )
    assert forking_scene.run(more=more).stdout == "warm\nthread\nlast\n"


SLEEPER = """
import signal, time
def obey(number, _):
    os.write(1, b"signal %d\\n" % number)
    os._exit(9)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, obey)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_worker(forking_scene, number: signal.Signals) -> None:
    with forking_scene.start(SLEEPER) as launcher:
        assert launcher.stdout.readline() == "warm\n"
        assert int(launcher.stdout.readline()) != launcher.pid
        launcher.send_signal(number)
        assert launcher.stdout.readline() == f"signal {int(number)}\n"
        assert launcher.wait(20) == 9


def test_a_worker_dies_with_its_launcher(forking_scene) -> None:
    with forking_scene.start(SLEEPER) as launcher:
        launcher.stdout.readline()
        worker = int(launcher.stdout.readline())
        assert os.getsid(worker) == worker
        launcher.kill()
        wait_until_gone(worker)


def test_a_worker_outlives_the_server_and_still_dies_with_its_launcher(forking_scene) -> None:
    with forking_scene.start(SLEEPER, DIE="forked") as launcher:
        assert launcher.stdout.readline() == "warm\n"
        worker = int(launcher.stdout.readline())
        time.sleep(0.2)
        assert not gone(worker)
        assert launcher.poll() is None
        launcher.kill()
        wait_until_gone(worker)


def test_a_launcher_ends_with_its_worker_though_the_server_is_dead(forking_scene) -> None:
    with forking_scene.start(SLEEPER, DIE="forked") as launcher:
        launcher.stdout.readline()
        os.kill(int(launcher.stdout.readline()), signal.SIGKILL)
        assert launcher.wait(20) == 1


def test_a_launcher_that_gave_up_leaves_no_second_worker(scene) -> None:
    """The server answers too late: the program must run once, cold."""
    seen = threading.Event()

    def answer_late(connection: socket.socket) -> None:
        read_all(connection)
        assert connection.recv(16) == b""  # the launcher has closed its end before it goes on
        seen.set()

    with scene.answering(answer_late):
        assert scene.run().stdout.startswith("cold, ")
    assert seen.is_set()


@pytest.mark.parametrize(
    ("when", "shown"),
    [
        ({"DIE": "asked"}, "cold, the warm server went away"),
        ({"DIE": "seen"}, "cold, the warm server went away during the start"),
        ({"DIE": "forked"}, "warm"),  # the child is on its own and goes on
        ({"DIE_CHILD": "told to go"}, "cold, the forked worker ended before it began"),
        ({"DIE_CHILD": "about to begin"}, "cold, the forked worker ended before it began"),
    ],
)
def test_whoever_is_killed_in_the_middle_of_a_start_the_program_runs_once(
    forking_scene, when: dict[str, str], shown: str
) -> None:
    found = forking_scene.run("x", more="sys.stderr.write('ran ')", **when)
    assert found.stdout == f"{shown} x\n"
    assert found.stderr == "ran "


def test_a_server_killed_with_launchers_at_its_door_sends_them_the_cold_way(scene) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(scene.directory / "socket"))
        listener.listen()
        with scene.start("") as launcher:
            wait_until_it_has_asked(launcher.pid)
            listener.close()  # as the kernel does for one that is killed: nothing was accepted
            assert launcher.stdout.readline() == "cold, the warm server went away\n"
            assert launcher.wait(20) == 0


def test_a_server_that_lets_nobody_in_is_a_cold_start(scene) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(scene.directory / "socket"))
        listener.listen(0)
        other.connect(str(scene.directory / "socket"))  # fills its queue
        assert scene.run().stdout == "cold, the warm server did not answer in time\n"


def wait_until_it_has_asked(pid: int) -> None:
    """A launcher that has connected, and sleeps, waits for its answer."""
    launcher = psutil.Process(pid)
    deadline = time.monotonic() + 20
    while not (launcher.net_connections("unix") and launcher.status() == psutil.STATUS_SLEEPING):
        assert time.monotonic() < deadline, "the launcher has not asked"


@pytest.fixture
def stalled_root(scene) -> Iterator["subprocess.Popen[str]"]:
    """A root that has taken its lock, is stopped, and shows no sign of life."""
    program = (
        "import fcntl, os, sys, time\n"
        "lock = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o600)\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "os.write(lock, f'{os.getpid()} serving'.encode())\n"
        "print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, ROOT, str(scene.directory / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def age(lock: Path, seconds: float) -> None:
    os.utime(lock, (time.time() - seconds,) * 2)


def test_a_root_that_has_touched_its_lock_lately_is_left_alone(scene, stalled_root) -> None:
    age(scene.directory / "lock", STALLED_S[SERVING] / 2)
    assert not end_stalled(str(scene.directory))
    assert stalled_root.poll() is None


def test_a_root_that_imports_may_take_longer(scene, stalled_root) -> None:
    (scene.directory / "lock").write_text(f"{stalled_root.pid} {IMPORTING}")
    age(scene.directory / "lock", STALLED_S[SERVING] * 2)
    assert not end_stalled(str(scene.directory))
    age(scene.directory / "lock", STALLED_S[IMPORTING] * 2)
    assert end_stalled(str(scene.directory))
    assert stalled_root.wait(20) == -signal.SIGKILL


def test_the_root_that_hangs_is_killed_and_nobody_else(scene, stalled_root) -> None:
    lock = scene.directory / "lock"
    age(lock, STALLED_S[SERVING] * 2)
    with subprocess.Popen(["/bin/sleep", "60"]) as stranger:  # has the number of a root
        lock.write_text(f"{stranger.pid} {SERVING}")
        age(lock, STALLED_S[SERVING] * 2)
        assert not end_stalled(str(scene.directory))
        assert stranger.poll() is None
        stranger.kill()
    lock.write_text(f"{stalled_root.pid} {SERVING}")
    age(lock, STALLED_S[SERVING] * 2)
    assert end_stalled(str(scene.directory))
    assert stalled_root.wait(20) == -signal.SIGKILL
    assert not end_stalled(str(scene.directory))


@pytest.mark.parametrize("may_start", ["1", "0"])
def test_a_launcher_that_may_start_servers_ends_the_root_that_hangs(scene, stalled_root, may_start: str) -> None:
    (scene.directory / "self-started").touch()  # another launcher has started the next one
    age(scene.directory / "lock", STALLED_S[SERVING] * 2)
    with scene.answering(say_nothing):
        found = scene.run(**{SELF_START: may_start})
    assert found.stdout == "cold, the warm server did not answer in time\n"
    if may_start == "1":
        assert stalled_root.wait(20) == -signal.SIGKILL
    else:
        assert stalled_root.poll() is None


def test_a_lock_that_nobody_holds_is_a_sign_of_nothing(scene) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", ROOT]) as other:
        (scene.directory / "lock").write_text(f"{other.pid} {SERVING}")
        age(scene.directory / "lock", STALLED_S[SERVING] * 2)
        assert not end_stalled(str(scene.directory))
        assert other.poll() is None
        other.kill()

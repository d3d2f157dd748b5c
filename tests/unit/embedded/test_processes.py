"""What a stack started is found and ended, wherever it hides; what is a stranger's is left alone."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fairlead.client import StackProcess
from fairlead.embedded.processes import MARKER, describe, end, family, is_alive

SLEEP = "import time; time.sleep(300)"
# A grandchild that leaves its family: its parent exits at once, and it makes a session of its own.
HIDE = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import os, subprocess, sys; os.setsid(); "
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
    "stdout=subprocess.DEVNULL, start_new_session=True).pid)"],
    stdout=subprocess.PIPE)
print(child.communicate()[0].decode().strip(), flush=True)
time.sleep(300)
"""


@pytest.fixture
def marker() -> str:
    return secrets.token_hex(8)


def started(program: str, marker: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", program]
    environment = {**os.environ, MARKER: marker}
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE)


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with started(SLEEP, "other") as process:
        yield process
        process.kill()


def test_a_leader_and_its_hidden_grandchild_are_ended(marker: str, stranger: subprocess.Popen[bytes]) -> None:
    with started(HIDE, marker) as process:
        assert process.stdout is not None
        hidden = psutil.Process(int(process.stdout.readline()))
        leader = describe("x", process.pid)
        assert hidden.pid in {found.pid for found in family([leader], marker)}
        end([leader], marker=marker, grace_s=5)
        process.wait(10)
    assert not psutil.pid_exists(hidden.pid) or hidden.status() == psutil.STATUS_ZOMBIE
    assert stranger.poll() is None


def test_what_ignores_the_request_is_ended_all_the_same(marker: str) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(300)"
    )
    with started(stubborn, marker) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end([describe("x", process.pid)], grace_s=0.5)
        assert process.wait(10) == -9


def test_orphans_of_a_leader_that_was_killed_are_found_by_their_session(marker: str) -> None:
    program = (
        "import subprocess, sys, time\n"
        f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with started(program, marker) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        leader = describe("x", process.pid)
        process.kill()
        process.wait(10)
    end([leader], grace_s=5)
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_a_number_that_is_used_again_is_a_stranger(marker: str, stranger: subprocess.Popen[bytes]) -> None:
    before = replace(describe("x", stranger.pid), created=time.time() - 3600)
    assert not is_alive(before)
    end([before], marker=marker, grace_s=0.5)
    assert stranger.poll() is None


def test_ending_what_has_ended_does_nothing() -> None:
    end([StackProcess(name="x", pid=2**22 + 7, created=1.0)], marker="none", grace_s=0.5)


def test_a_tethered_program_ends_with_its_parent(tmp_path: Path) -> None:
    from fairlead.embedded import tether

    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-I', '-S', {tether.__file__!r}, str(os.getpid()),"
        f" sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    with started(parent, "tether") as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        deadline = time.monotonic() + 20
        while SLEEP not in child.cmdline() and time.monotonic() < deadline:
            time.sleep(0.02)  # until it is tied and has become its program
        process.kill()
        process.wait(10)
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not [found for found in alive if found.status() != psutil.STATUS_ZOMBIE]

"""What ``ray start`` becomes: it ends what it keeps when asked, when one of them dies, and when it is killed itself."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

TIMEOUT_S = 60
# As ray start does: two children that the kernel ends with their parent, then another program in the same process.
PARENT = """
import os, subprocess, sys
from fairlead.embedded.ray_hook import become_keeper_when_up
from ray._private.node import Node
from ray._private.utils import set_kill_on_parent_death_linux
stubborn = "import signal as s, time; s.signal(s.SIGTERM, s.SIG_IGN); print('up', flush=True); time.sleep(600)"
programs = {"raylet": ["sleep", "600"], "gcs_server": [sys.executable, "-c", stubborn]}
class Started:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=set_kill_on_parent_death_linux)
node = Node.__new__(Node)
node.all_processes = {name: [Started(command)] for name, command in programs.items()}
node.all_processes["gcs_server"][0].process.stdout.readline()
print(*(every[0].process.pid for every in node.all_processes.values()), flush=True)
become_keeper_when_up(sys.executable)
node.dead_processes()
"""


@pytest.fixture
def kept() -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    """The keeper, and the raylet and the head that it keeps."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        children = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        try:
            assert process.stdout.readline().startswith("keeping raylet:")
            yield process, children
        finally:
            process.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def test_it_ends_what_it_keeps_when_asked_even_what_ignores_it(
    kept: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    process, children = kept
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    assert not [child for child in children if child.is_running()]


def test_the_death_of_one_ends_the_other_and_says_who_died(
    kept: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    process, (raylet, head) = kept
    raylet.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "raylet (status -9)" in errors
    assert not head.is_running()


def test_the_kernel_ends_what_it_kept_when_it_is_killed(
    kept: tuple["subprocess.Popen[str]", list[psutil.Process]],
) -> None:
    process, children = kept
    process.kill()
    process.wait(TIMEOUT_S)
    _, alive = psutil.wait_procs(children, timeout=TIMEOUT_S)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


NOBODY_S_CHILD = """
import os
from fairlead.embedded import keeper
left = {os.getppid(): "raylet"}
print(keeper.collect(left), left)
"""


def test_a_process_that_is_nobody_s_child_counts_as_ended() -> None:
    # In a process of its own: the tests' process has children, and their statuses are not for a keeper to take.
    done = subprocess.run([sys.executable, "-c", NOBODY_S_CHILD], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.stderr) == ("['raylet (unknown status)'] {}\n", "")

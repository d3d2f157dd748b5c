"""When a process may not fork workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.run.warm.preload import device_files

ASK = "from fairlead.run.warm.preload import problem; print(problem())"


def problem_after(statements: str) -> str:
    """What a process that does this says of itself."""
    command = [sys.executable, "-c", f"{statements}\n{ASK}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


@pytest.fixture
def device() -> Iterator[Path]:
    """A file that is named like a device of the driver."""
    if not os.access("/dev", os.W_OK):
        pytest.skip("only root can make a file in /dev")
    file = Path(f"/dev/nvidia-of-test-{os.getpid()}")
    file.touch()
    yield file
    file.unlink()


def test_a_process_with_one_thread_and_no_device_may_fork() -> None:
    assert problem_after("") == "None"


def test_one_that_has_a_second_thread_may_not() -> None:
    found = problem_after("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()")
    assert found.startswith("the warm server has 2 threads")


def test_one_that_has_opened_a_device_may_not(device: Path) -> None:
    assert problem_after(f"kept = open('{device}')") == (
        f"the warm server has opened {device}, which no forked process could use"
    )


def test_devices_are_told_from_other_files() -> None:
    files = ["/dev/null", "/dev/nvidiactl", "/home/nvidia", "socket:[7]", "/dev/nvidia0", "/dev/nvidia0"]
    assert device_files(files) == ["/dev/nvidia0", "/dev/nvidiactl"]

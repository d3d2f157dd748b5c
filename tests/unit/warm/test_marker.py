"""Forked processes are known by a descriptor, daemons by what they have mapped, executed ones by a variable."""

import os
import subprocess
import sys

from fairlead.run.warm.marker import ATTEMPT, SERVER, is_marked

FORKER = """
import os, sys, time
from fairlead.run.warm.marker import mark
if (pid := os.fork()) == 0:
    mark({"FAIRLEAD_ATTEMPT": "fl-mine-a1"})
    if os.fork() == 0:
        time.sleep(60)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.closerange(0, 4096)
        time.sleep(60)
    os.close(writer)
    os.read(reader, 1)  # ends once the daemon has closed its end
    print(os.getpid(), flush=True)
    time.sleep(60)
os.waitpid(pid, 0)
"""


def shown(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read().split(b"\0")


def test_a_forked_process_its_own_forks_and_daemons_are_found_and_their_server_is_not() -> None:
    environment = {**os.environ, SERVER: "1"}
    environment.pop(ATTEMPT, None)
    with subprocess.Popen([sys.executable, "-c", FORKER], env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        with open(f"/proc/{worker}/task/{worker}/children") as file:
            family = [worker, *map(int, file.read().split())]
        try:
            assert len(family) == 3
            assert all(is_marked(pid, shown(pid), "fl-mine-a1") for pid in family)
            assert not any(is_marked(pid, shown(pid), "fl-mine-a11") for pid in family)
            assert not is_marked(server.pid, shown(server.pid), "fl-mine-a1")
        finally:
            for pid in family:
                os.kill(pid, 9)


def test_an_executed_process_is_found_by_its_variable() -> None:
    assert is_marked(1, [b"A=b", b"FAIRLEAD_ATTEMPT=fl-mine-a1"], "fl-mine-a1")
    assert not is_marked(1, [b"FAIRLEAD_ATTEMPT=fl-mine-a10"], "fl-mine-a1")

"""When the root gives a server no more launchers, replaces it or ends it."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fairlead.run.warm.jobs import HUNG_S, IMPORT_S, PREPARE_S, QUIET_S, Job, Jobs, Limits


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """What passes for a server of the second level."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def a_job(control: socket.socket, *, silent_s: float = 0.0, **changes: Any) -> Job:
    now_s = time.monotonic()
    known = {"pid": 0, "used_s": now_s, "born_s": now_s - silent_s, "heard_s": now_s - silent_s, "is_ready": True}
    return Job(**{"key": "01-a", "control": control, "environment": {}, **known, **changes})


@pytest.fixture
def control() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def jobs(**changes: Any) -> Jobs:
    return Jobs(limits=Limits(), set_by_imports={}, base_path=(), lock=-1, to_close=[], **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"silent_s": QUIET_S + 1}, "the warm server of this job does not answer"),
        ({"is_ready": False, "silent_s": PREPARE_S - 1}, None),
        ({"is_ready": False, "silent_s": PREPARE_S + 1}, "the warm server of this job does not become ready"),
        ({"problem": "two threads"}, "two threads"),
    ],
)
def test_a_server_that_would_not_answer_gets_no_launcher(control: Any, changes: Any, why: str | None) -> None:
    assert a_job(control[0], **changes).objection(time.monotonic()) == why


def report(**changes: Any) -> bytes:
    return json.dumps({"problem": None, "children": 0, "forked": 0, "resident_bytes": 100, **changes}).encode()


@pytest.mark.parametrize(
    ("last", "is_worn"),
    [
        ({}, False),
        ({"forked": 999}, False),
        ({"forked": 1000}, True),
        ({"resident_bytes": 100 + Limits().max_growth_bytes}, False),
        ({"resident_bytes": 101 + Limits().max_growth_bytes}, True),
        ({"problem": "two threads"}, True),  # it had none when it was ready
    ],
)
def test_a_server_is_worn_by_forks_by_growth_or_by_a_problem_that_is_new(
    control: Any, last: Any, is_worn: bool
) -> None:
    ours, theirs = control
    found = a_job(ours, is_ready=False)
    for each in (report(), report(**last)):
        theirs.send(each)
        assert found.hear()
    assert found.is_worn(Limits()) is is_worn


def test_a_problem_from_the_start_is_not_cured_by_another_server(control: Any) -> None:
    ours, theirs = control
    found = a_job(ours, is_ready=False)
    for _ in range(2):
        theirs.send(report(problem="two threads"))
        assert found.hear()
    assert not found.is_worn(Limits())


@pytest.mark.parametrize(
    ("is_ready", "silent_s", "is_killed"),
    [(True, HUNG_S - 1, False), (True, HUNG_S + 1, True), (False, HUNG_S + 1, False), (False, IMPORT_S + 1, True)],
)
def test_a_server_that_says_nothing_for_long_is_killed(
    control: Any, process: Any, is_ready: bool, silent_s: float, is_killed: bool
) -> None:
    found = a_job(control[0], pid=process.pid, is_ready=is_ready, silent_s=silent_s)
    jobs(_current={found.key: found}).tend()
    if is_killed:
        assert process.wait(20) == -signal.SIGKILL
    else:
        assert process.poll() is None


def test_silence_while_the_root_itself_stood_still_is_forgiven(control: Any, process: Any) -> None:
    found = a_job(control[0], pid=process.pid, silent_s=HUNG_S + 1)
    all_of_them = jobs(_current={found.key: found}, _tended_s=time.monotonic() - HUNG_S)
    all_of_them.tend()
    assert found.heard_s <= time.monotonic()
    all_of_them.tend()
    assert process.poll() is None
    found.heard_s -= HUNG_S
    all_of_them.tend()
    assert process.wait(20) == -signal.SIGKILL


def test_a_number_that_was_given_back_is_not_killed(control: Any, process: Any) -> None:
    process.kill()
    process.wait()
    found = a_job(control[0], pid=process.pid, silent_s=HUNG_S + 1)
    jobs(_current={found.key: found}).tend()
    assert process.returncode == -signal.SIGKILL


def test_when_a_server_dies_its_successor_takes_its_place(control: Any) -> None:
    ours, theirs = control
    with socket.socket() as other:
        worn, successor = a_job(ours), a_job(other, is_ready=False)
        all_of_them = jobs(_current={worn.key: worn}, _successors={worn.key: successor})
        descriptor = ours.fileno()
        theirs.close()
        all_of_them.attend(descriptor)
        assert list(all_of_them) == [successor]
        assert all_of_them.num_children == 0

"""Processes without descriptors or threads refuse or wait; they do not crash, and recover when there are some again."""

import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fairlead.lifecycle import State
from fairlead.testing.limits import control_group, num_threads
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import wait_for
from fairlead.testing.servers import Server
from fairlead.testing.sites import last_step, running_site


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.stop()


@contextmanager
def few_descriptors(pid: int, *, spare: int) -> Iterator[None]:
    """Let a process open so many files more than it has open now."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds() + spare, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def assert_serves_again(server: Server, acknowledged: dict[str, str]) -> None:
    wait_for(lambda: server.get("/readyz").status_code == 200, within_s=30, what="readiness")
    assert server.process is not None
    assert (server.process.poll(), server.num_starts) == (None, 1)
    acknowledged["afterwards"] = server.submit("afterwards").json()["id"]
    path = f"/v1/experiments/{acknowledged['afterwards']}"
    wait_for(lambda: server.get(path).json()["state"] == State.QUEUED, within_s=30, what="loops that still work")


def assert_nothing_is_lost(server: Server, acknowledged: dict[str, str]) -> None:
    server.stop()
    assert server.violations(acknowledged) == ()


@pytest.mark.nightly  # waits until the shortage is over
def test_an_api_without_descriptors_lets_callers_wait_and_serves_again(server: Server) -> None:
    assert server.process is not None
    acknowledged = {"before": server.submit("before").json()["id"]}
    with few_descriptors(server.process.pid, spare=10), ExitStack() as idle:
        for _ in range(60):
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        wait_for(lambda: "Too many open files" in server.log, within_s=20, what="an accept that fails")
        time.sleep(3)  # the shortage itself
        idle.close()
        assert_serves_again(server, acknowledged)  # the limit is still there
    assert_nothing_is_lost(server, acknowledged)


def test_an_api_without_threads_refuses_and_serves_again(server: Server) -> None:
    assert server.process is not None
    acknowledged = {"before": server.submit("before").json()["id"]}
    with control_group("pids") as group:
        group.take_in(server.process.pid)
        group.limit("pids.max", num_threads(server.process.pid))
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(server.submit, (f"crowd-{number}" for number in range(80))))
        assert {answer.status_code for answer in answers} <= {201, 503}
        for number, answer in enumerate(answers):
            if answer.status_code == 201:
                acknowledged[f"crowd-{number}"] = answer.json()["id"]
        group.limit("pids.max", 1000)
        assert_serves_again(server, acknowledged)
        assert_nothing_is_lost(server, acknowledged)


@pytest.mark.nightly  # a whole platform with a Ray
@pytest.mark.parametrize("lacking", ["descriptors", "threads"])
def test_an_agent_that_can_open_or_start_nothing_loses_nothing_of_what_runs(
    head: LocalRay, tmp_path: Path, lacking: str
) -> None:
    with running_site(tmp_path, head) as site, site.client() as client:
        site.start_agent()
        experiment = site.submit(client, "goes-on", steps=120, step_s=0.1)
        wait_for(lambda: last_step(experiment) >= 5, within_s=90, what="step 5")
        pid = site.agent_pid
        with out_of(lacking, pid):
            other = site.submit(client, "meanwhile", steps=2)
            time.sleep(6)  # the shortage itself
        for one in (experiment, other):
            assert one.result(timeout=180).state is State.SUCCEEDED
        points = [p for batch in site.life(experiment).batches for p in batch.payload if p[0] == "train/step"]
        assert [step for _, _, step, _ in points] == list(range(120))
        assert len(experiment.attempts()) == 1
        assert site.broken_promises(experiment, other) == ()


@contextmanager
def out_of(what: str, pid: int) -> Iterator[None]:
    """A process that can open, or start, nothing more; it stays as it is otherwise."""
    if what == "descriptors":
        with few_descriptors(pid, spare=0):
            yield
        return
    with control_group("pids") as group:
        group.take_in(pid)
        group.limit("pids.max", num_threads(pid))
        yield

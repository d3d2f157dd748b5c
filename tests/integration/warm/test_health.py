"""A warm server that is unfit, has grown or hangs: starts are cold and say why, another server comes, workers go on."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from fairlead.run.warm import was_forked
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import wait_for

BOUND_S = 60
"""Ray gives up a worker that has not registered within a minute."""
THREADS, CUDA, VERSION = "2 threads", "has initialised CUDA", "tested with Ray 2.60.x, and this is 2.99.0"


class Worker:
    """A worker that runs while something happens to its server."""

    def answer(self) -> tuple[bool, int]:
        return was_forked(), os.getpid()


@pytest.fixture
def worker(moody: Any, asker: Any) -> Iterator[Any]:
    """A warm one, of a server that is up."""
    asker.wait_until_warm(moody.server)
    actor = ray.remote(Worker).options(**asker.options(moody.server)).remote()
    assert ray.get(actor.answer.remote(), timeout=BOUND_S)[0]
    yield actor
    ray.kill(actor)


def pretend_another_ray(library: Path) -> None:
    """What an installation of that version would leave beside the interpreter's other packages."""
    information = library / "ray-2.99.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.99.0\n")


def has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits for somebody to collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("what", "why"), [("version", VERSION), ("initialise_cuda", CUDA), ("start_a_thread", THREADS)]
)
def test_a_server_that_is_unfit_from_the_start_forks_nothing_and_says_why(
    what: str, why: str, moody: Any, asker: Any, local_ray: LocalRay, tmp_path: Path
) -> None:
    library = tmp_path if what == "version" else moody.library
    pretend_another_ray(tmp_path) if what == "version" else moody.give(what)
    with asker.serving(local_ray.directory / f"unfit-{what}", library) as server:
        server.start(timeout_s=240)
        born = asker.born(server)
        assert not born.is_warm
        assert why in born.why
        found = asker.standing(server)
        assert why in (found.problem or "")
        assert not found.jobs


@pytest.mark.parametrize(("what", "why"), [("start_a_thread", THREADS), ("initialise_cuda", CUDA)])
def test_a_server_of_a_job_that_becomes_unfit_forks_no_more_and_is_replaced(
    what: str, why: str, moody: Any, asker: Any, worker: Any
) -> None:
    unfit = asker.forking(moody.server)
    moody.order(unfit, what)
    born = asker.born(moody.server)
    assert not born.is_warm
    assert why in born.why
    wait_for(lambda: asker.forking(moody.server) not in (None, unfit), within_s=180, what="a successor")
    assert asker.born(moody.server).is_warm
    assert ray.get(worker.answer.remote(), timeout=BOUND_S)[0]


def test_a_root_that_becomes_unfit_ends_and_another_takes_its_place(moody: Any, asker: Any, worker: Any) -> None:
    unfit = asker.standing(moody.server).pid
    moody.order(unfit, "start_a_thread")
    born = asker.born(moody.server)
    assert not born.is_warm
    assert THREADS in born.why
    asker.wait_until_warm(moody.server)
    assert asker.standing(moody.server).pid != unfit
    assert ray.get(worker.answer.remote(), timeout=BOUND_S)[0]


def test_a_server_that_has_grown_is_replaced_while_its_workers_go_on(moody: Any, asker: Any, worker: Any) -> None:
    grown = asker.forking(moody.server)
    before = psutil.Process(grown).memory_info().rss
    moody.order(grown, "grow")
    assert psutil.Process(grown).memory_info().rss > before + 128 * 2**20
    wait_for(lambda: asker.forking(moody.server) not in (None, grown), within_s=180, what="a successor")
    assert asker.born(moody.server).is_warm
    assert ray.get(worker.answer.remote(), timeout=BOUND_S)[0]
    assert [job.pid for job in asker.standing(moody.server).jobs if job.is_retired and job.children] == [grown]


@pytest.mark.parametrize(
    "how",
    [
        "stopped",
        pytest.param("hanging", marks=pytest.mark.nightly),  # the same quarter of a minute, with a busy processor
    ],
)
def test_a_server_of_a_job_that_hangs_is_killed_and_replaced(how: str, moody: Any, asker: Any, worker: Any) -> None:
    hanging = psutil.Process(asker.forking(moody.server))
    if how == "stopped":
        hanging.suspend()
    else:
        moody.order(hanging.pid, "hang")
    started_s = time.monotonic()
    born = asker.born(moody.server)
    took_s = time.monotonic() - started_s
    print(f"{how}: {born} after {took_s:.1f} s")
    assert born.is_warm or "answer" in born.why or "went away" in born.why
    assert took_s < BOUND_S
    wait_for(lambda: has_ended(hanging), within_s=60, what="its end")
    asker.wait_until_warm(moody.server)
    assert asker.forking(moody.server) != hanging.pid
    assert ray.get(worker.answer.remote(), timeout=BOUND_S)[0]


def test_a_root_that_hangs_is_killed_and_replaced_by_its_holder(moody: Any, asker: Any, worker: Any) -> None:
    hanging = psutil.Process(asker.standing(moody.server).pid)
    hanging.suspend()
    started_s = time.monotonic()
    born = asker.born(moody.server)
    assert not born.is_warm
    assert born.why == "the warm server did not answer in time"
    assert time.monotonic() - started_s < BOUND_S
    wait_for(lambda: moody.server.ensure() and has_ended(hanging), within_s=120, what="another root")
    asker.wait_until_warm(moody.server)
    assert ray.get(worker.answer.remote(), timeout=BOUND_S)[0]


def test_each_process_of_a_server_has_one_thread_and_no_gpu(moody: Any, asker: Any, worker: Any) -> None:
    found = asker.standing(moody.server)
    assert found.problem is None
    for pid in (found.pid, *(job.pid for job in found.jobs)):
        assert psutil.Process(pid).num_threads() == 1
        opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
        assert opened
        assert not [file for file in opened if file.startswith("/dev/nvidia")]

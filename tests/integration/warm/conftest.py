"""A real Ray, a warm server of its own for a test, and a library in the server that misbehaves when told to."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from fairlead.run.warm import Birth, Status, WarmServer, birth, runtime_env
from fairlead.testing.local_ray import LocalRay
from fairlead.testing.ray import local_ray, wait_for

__all__ = ["local_ray"]

MOODY = """
import os, signal, threading, time

ORDER = os.path.join(os.path.dirname(__file__), "order")
kept = []


def start_a_thread():
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()


def initialise_cuda():  # as far as that goes without a GPU: this is what PyTorch tells everybody who asks
    import torch

    torch.cuda._initialized = True


def grow():
    kept.append(b"x" * 200_000_000)


def hang():
    os.unlink(ORDER)
    while True:
        pass


def obey(*_):
    with open(ORDER) as file:
        order = file.read()
    globals()[order]()
    os.unlink(ORDER)


if "FAIRLEAD_WARM_SERVER" in os.environ:
    signal.signal(signal.SIGUSR2, obey)
    if os.path.exists(ORDER):
        obey()
"""
"""Every Python process imports ``sitecustomize`` first; the server's search path leads to this one."""


def search_path(first: Path) -> str:
    """``PYTHONPATH`` with a directory before all that is on it."""
    return os.pathsep.join(filter(None, [str(first), os.environ.get("PYTHONPATH")]))


@contextmanager
def serving(directory: Path, **variables: str) -> Iterator[WarmServer]:
    """A server with variables of its own; it need not be up yet."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        server = WarmServer(directory)
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Moody:
    """A warm server with a library that does what it is told."""

    server: WarmServer
    library: Path

    def order(self, pid: int, what: str) -> None:
        """Have it done in a process of the server."""
        self.give(what)
        os.kill(pid, signal.SIGUSR2)
        wait_for(lambda: not (self.library / "order").exists(), within_s=60, what=f"the end of {what}")

    def give(self, what: str) -> None:
        """Have it done by the next process of the server, when it starts."""
        scratch = self.library / "scratch"
        scratch.write_text(what)
        scratch.rename(self.library / "order")


@pytest.fixture(scope="module")
def moody(local_ray: LocalRay) -> Iterator[Moody]:
    library = local_ray.directory / "library"
    library.mkdir(exist_ok=True)
    (library / "sitecustomize.py").write_text(MOODY)
    with serving(local_ray.directory / "moody", PYTHONPATH=search_path(library)) as server:
        yield Moody(server=server, library=library)


class Asker:
    """Has processes started through a warm server, a new one for each question."""

    def __init__(self) -> None:
        self._num_asked = 0

    def options(self, server: WarmServer) -> dict[str, Any]:
        """Of a task or an actor that shares its process with no other."""
        self._num_asked += 1
        variables = {"ASKED": f"{id(self)} {self._num_asked}"}
        return {"num_cpus": 0, "runtime_env": runtime_env(variables, directory=server.places.directory)}

    def born(self, server: WarmServer) -> Birth:
        """How a new process was started."""
        found: Birth = ray.get(ray.remote(birth).options(max_retries=0, **self.options(server)).remote(), timeout=240)
        return found

    def wait_until_warm(self, server: WarmServer) -> None:
        """Until a new process is forked."""

        def is_warm() -> bool:
            return server.ensure() and self.born(server).is_warm

        wait_for(is_warm, within_s=180, what="a warm start")

    def serving(self, directory: Path, library: Path) -> AbstractContextManager[WarmServer]:
        """A server of a test's own that finds the modules of a library first."""
        return serving(directory, PYTHONPATH=search_path(library))

    def standing(self, server: WarmServer) -> Status:
        """How a server stands that must be there."""
        found = server.status()
        assert found is not None
        return found

    def forking(self, server: WarmServer) -> int | None:
        """The process that forks for the one job of a test, if it is ready."""
        found = server.status()
        ready = [job.pid for job in found.jobs if job.is_ready and not job.is_retired] if found else []
        return ready[0] if ready else None


@pytest.fixture
def asker() -> Asker:
    return Asker()

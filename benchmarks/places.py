"""What the benchmarks run on: an embedded stack of ours, a plain Ray head, a plain MLflow server; each ended whole."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from fairlead import Client, Experiment
from fairlead.client import StackProcess
from fairlead.client.stack import read_stack
from fairlead.embedded import EmbeddedStack
from fairlead.embedded.processes import MARKER, describe, end
from fairlead.errors import Unavailable
from fairlead.run.warm import status

PROGRAMS = Path(__file__).parent / "programs"
START_S = 120.0
RUN_S = 600.0
_GRACE_S = 15.0
_OWN_PREFIXES = ("FAIRLEAD_", "RAY_", "MLFLOW_", "_MLFLOW_")
_ANSWER = "ANSWER "


def await_true(what: str, holds: Callable[[], bool], *, timeout_s: float, every_s: float = 0.1) -> None:
    """Return when ``holds``. Raises ``Unavailable`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise Unavailable(f"{what} did not come within {timeout_s:g} s")
        time.sleep(every_s)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one benchmark."""
    with tempfile.TemporaryDirectory(prefix="fl-bench-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


# ---- ours -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fairlead_stack(
    home: Path, *, is_warm: bool = True, cpus: int | None = None
) -> Iterator[tuple[EmbeddedStack, Client]]:
    """An embedded stack that is ready. ``is_warm``: whether it may fork its processes; ``cpus``: what Ray may use."""
    environment = {**os.environ, "FAIRLEAD_WARM_START": "1" if is_warm else "0"}
    with EmbeddedStack(home, cpus=cpus, environment=environment) as stack, stack.client() as client:
        yield stack, client


def warm_up(client: Client, home: Path) -> float:
    """Run one experiment, after which the stack has all it keeps; seconds to its first step.

    Raises ``Unavailable`` where the stack then has no server that can fork.
    """
    stamp = home / "warm-up"
    began = time.time()
    submit(client, "warm-up", {"stamp": str(stamp)}).result(timeout=RUN_S)
    await_warm(warm_directory(home))
    return float(stamp.read_text()) - began


def warm_directory(home: Path) -> Path:
    """Where the warm server of the stack that runs in ``home`` is found."""
    stack = read_stack(home)
    if stack is None:
        raise Unavailable(f"no embedded stack runs in {home}")
    return stack.ray_directory / "warm"


def await_warm(directory: Path) -> None:
    """Wait until a server of the second level can fork. Raises ``Unavailable`` with the server's own problem."""

    def is_ready() -> bool:
        found = status(directory)
        if found is not None and found.problem:
            raise Unavailable(f"the warm server forks nothing: {found.problem}")
        return found is not None and any(each.is_ready for each in found.jobs)

    await_true("the warm server", is_ready, timeout_s=START_S)


def spec(name: str, params: Mapping[str, Any], *, workers: int = 1, cpus_per_worker: float = 1) -> dict[str, Any]:
    """An experiment that runs ``programs/training.py``; no row is held back for tests, so nothing is evaluated."""
    return {
        "name": name,
        "workload": "training:train",
        "params": dict(params),
        "data": {"uri": "builtin://diabetes", "split": {"train": 0.9, "validation": 0.1, "test": 0.0}},
        "resources": {"workers": workers, "cpus_per_worker": cpus_per_worker},
    }


def submit(
    client: Client, name: str, params: Mapping[str, Any], *, workers: int = 1, cpus_per_worker: float = 1
) -> Experiment:
    """Submit it."""
    return client.submit(spec(name, params, workers=workers, cpus_per_worker=cpus_per_worker), code=PROGRAMS)


def step_file(stamp: Path, what: str = "steps") -> list[float]:
    """Seconds of every step, or of every report, that a run of ``programs/training.py`` left beside its stamp."""
    seconds: list[float] = json.loads(Path(f"{stamp}.{what}").read_text())
    return seconds


def start_of(experiment: Experiment) -> str:
    """``warm``, or ``cold: `` and why, as the experiment's events say."""
    notes = [event for event in experiment.events(follow=False) if event.kind == "warm_start"]
    return notes[-1].reason if notes else "not said"


# ---- others ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """A program of somebody else that runs for a benchmark."""

    leader: StackProcess
    marker: str
    log: Path

    def end(self) -> None:
        """End it and all it started, by their numbers."""
        end([self.leader], marker=self.marker, grace_s=_GRACE_S)


def plain_environment(marker: str = "") -> dict[str, str]:
    """The caller's environment without settings of Fairlead, Ray and MLflow, and without reports to their makers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIXES)}
    # Ray asks for a token wherever some other use of it has left one in the user's home.
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    return {**kept, **quiet, "PYTHONUNBUFFERED": "1"} | ({MARKER: marker} if marker else {})


def started(command: list[str], directory: Path, name: str) -> Started:
    """Start a program in ``directory``, its words in ``<name>.log``."""
    marker, log = secrets.token_hex(8), directory / f"{name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            env=plain_environment(marker),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=directory,
        )
    return Started(leader=describe(name, process.pid), marker=marker, log=log)


@dataclass(frozen=True, kw_only=True, slots=True)
class RayHead:
    """A plain ``ray start --head``."""

    address: str
    dashboard_url: str
    process: Started


@contextlib.contextmanager
def ray_head(directory: Path) -> Iterator[RayHead]:
    """As its defaults have it, but for ports, which others on this machine may use, and a directory of its own."""
    ray_directory = Path(tempfile.mkdtemp(prefix="fl-plain-", dir="/tmp"))
    port, dashboard, agent, client = free_ports(4)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"),
        f"--temp-dir={ray_directory}",
    ]
    process = started(command, directory, "ray")
    try:
        url = f"http://127.0.0.1:{dashboard}"
        await_true("Ray", lambda: answers(f"{url}/api/version"), timeout_s=START_S)
        await_true("Ray's job server", lambda: answers(f"{url}/api/jobs/"), timeout_s=START_S)
        yield RayHead(address=_address_of(process.log, port), dashboard_url=url, process=process)
    finally:
        process.end()
        shutil.rmtree(ray_directory, ignore_errors=True)


def _address_of(log: Path, port: int) -> str:
    """Ray replaces a loopback address by the machine's; what it says is what drivers need."""
    for word in log.read_text(errors="replace").split():
        if word.strip("'\"").endswith(f":{port}"):
            return word.strip("'\"").removeprefix("--address=").strip("'\"")
    return f"127.0.0.1:{port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowServer:
    """A plain ``mlflow server``."""

    url: str
    process: Started


@contextlib.contextmanager
def mlflow_server(directory: Path) -> Iterator[MlflowServer]:
    """As its defaults have it, but for the port."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    process = started(command, directory, "mlflow")
    url = f"http://127.0.0.1:{port}"
    try:
        await_true("MLflow", lambda: answers(f"{url}/health"), timeout_s=START_S)
        yield MlflowServer(url=url, process=process)
    finally:
        process.end()


@contextlib.contextmanager
def conversation(program: str, *arguments: str) -> Iterator["Conversation"]:
    """A program of ``programs/`` that answers orders until the end of its input."""
    command = [sys.executable, str(PROGRAMS / program), *arguments]
    process = subprocess.Popen(
        command,
        env=plain_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        yield Conversation(process)
    finally:
        assert process.stdin is not None, "a pipe was asked for"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        end([describe(program, process.pid)], grace_s=1.0)
        process.wait()


class Conversation:
    """Orders go in as lines; answers are the lines that say so, since libraries print as well."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def answer(self) -> str:
        """The next answer. Raises ``Unavailable`` when the program has ended."""
        assert self._process.stdout is not None, "a pipe was asked for"
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                return line.removeprefix(_ANSWER).strip()
        raise Unavailable("the program ended without an answer")

    def ask(self, order: Mapping[str, Any]) -> str:
        """Send an order and return the answer."""
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()


def alone(params: Mapping[str, Any], *, workers: int | None = None) -> None:
    """Run ``programs/training.py`` to its end: plainly, or with ``workers`` under torchrun.

    Raises ``Unavailable`` with its last words where it fails.
    """
    launcher = [sys.executable]
    if workers is not None:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    command = [*launcher, str(PROGRAMS / "training.py"), json.dumps(dict(params))]
    done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=RUN_S)
    if done.returncode != 0:
        raise Unavailable(f"the program ended with {done.returncode}: {done.stderr[-2000:]}")


def answers(url: str) -> bool:
    """Whether an address answers 200."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]

"""A Ray of several nodes on this machine, its agent and a real control plane, for what nodes can suffer.

A *node* is a ``ray start`` with a raylet of its own. It may have a *machine* of its own: a network and a process
namespace, which can be cut off from the others or lose its power; that needs root. Without, all nodes share this
machine, as in Ray's own tests. The storage is shared in both cases.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from fairlead import Client, Experiment
from fairlead.embedded.processes import MARKER, describe, end
from fairlead.errors import FairleadError, Unavailable
from fairlead.protocol import BEGUN_FILE, LOG_DIRECTORY, attempt_path
from fairlead.run.census import MARKER as ATTEMPT
from fairlead.run.environment import SILENT_PEER_S
from fairlead.run.warm.launcher import DIRECTORY
from fairlead.store import open_store
from fairlead.testing.history import differences, read
from fairlead.testing.local_ray import free_ports
from fairlead.testing.mlflow import recorded_points
from fairlead.testing.ray import wait_for
from fairlead.testing.servers import Server

HEAD = "head"
RECONNECT_S = 10
"""What Ray's processes wait for a head that is away before they end themselves; Ray's own default is 60."""
GRACE_S = RECONNECT_S + SILENT_PEER_S
"""The same sum as in production."""
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "6",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_S),
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
}
"""Node deaths are seen within seconds, not a minute; not at once either, since two cores carry all of this."""
SHORT_GRACE = {"FAIRLEAD_NODE_GRACE_S": str(GRACE_S)}
START_S = 120.0
_OBJECT_STORE_BYTES = 80 * 2**20
_INIT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"
"""The first process of a machine: it collects what others leave, and is the machine's power switch."""
T = TypeVar("T")


def can_have_machines() -> bool:
    """Whether this user may make namespaces and networks."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("nsenter") is not None


# ---- machines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where the processes of a node run. Without ``power``: this machine, with everything on loopback."""

    address: str = "127.0.0.1"
    power: psutil.Process | None = None
    link: str = ""

    def enter(self, command: list[str]) -> list[str]:
        """The command that runs ``command`` there."""
        if self.power is None:
            return command
        return ["nsenter", f"--target={self.power.pid}", "--net", "--pid", "--mount", "--", *command]

    def cut(self) -> None:
        """Unplug its network."""
        _ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Plug it in again."""
        _ip("link", "set", self.link, "up")


@dataclass
class Network:
    """A bridge of this machine, on which it has an address itself, and the machines at it."""

    number: int = field(default_factory=lambda: secrets.randbelow(250))
    machines: list[Machine] = field(default_factory=list)

    def __post_init__(self) -> None:
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.host}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    @property
    def bridge(self) -> str:
        """Its name."""
        return f"fl{os.getpid() % 10**6}b{self.number}"

    @property
    def host(self) -> str:
        """This machine's own address on it."""
        return f"10.213.{self.number}.254"

    def machine(self) -> Machine:
        """One more."""
        unshare = ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command = [*unshare, sys.executable, "-I", "-S", "-c", _INIT]
        outer = psutil.Process(subprocess.Popen(command, stderr=subprocess.DEVNULL).pid)
        (init,) = wait_for(outer.children, within_s=10, what="a machine")
        number = len(self.machines) + 1
        made = Machine(address=f"10.213.{self.number}.{number}", power=init, link=f"{self.bridge}m{number}")
        self.machines.append(made)
        _ip("link", "add", made.link, "type", "veth", "peer", "name", "eth0", "netns", str(init.pid))
        _ip("link", "set", made.link, "master", self.bridge, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{made.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run(["nsenter", f"--target={init.pid}", "--net", "ip", *words], check=True)
        return made

    def close(self) -> None:
        """Switch everything off; the kernel ends what runs there."""
        for machine in self.machines:
            if machine.power is not None:
                outer = machine.power.parent()
                machine.power.kill()
                if outer is not None:
                    outer.wait(10)
        _ip("link", "delete", self.bridge)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


# ---- nodes ----------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """A program that may be started again: a node or the agent."""

    name: str
    machine: Machine
    command: list[str]
    environment: Mapping[str, str]
    log: Path
    ready: bytes = b""
    """What its log says when it is up."""
    process: "subprocess.Popen[bytes] | None" = None
    _said: int = 0
    """Bytes of its log that are of earlier lives."""

    def start(self, *, is_awaited: bool = True) -> None:
        """Start it, or start it again, and wait until it is up."""
        with self.log.open("ab") as log:
            self._said = log.tell()
            self.process = subprocess.Popen(
                self.machine.enter(self.command),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if is_awaited:
            wait_for(self.is_up, within_s=START_S, what=f"{self.name}, whose log is {self.log},")

    def is_up(self) -> bool:
        """Whether it has said so. Raises ``Unavailable`` once it has ended."""
        assert self.process is not None, "start() comes first"
        if self.process.poll() is not None:
            raise Unavailable(f"{self.name} has ended: {self.log.read_text(errors='replace')[-2000:]}")
        return self.ready in self.log.read_bytes()[self._said :]

    def kill(self) -> None:
        """``kill -9`` to all that it has started, at the same time."""
        if self.process is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_all(psutil.Process(self.process.pid))
        self.process.wait(10)

    def processes(self) -> list[psutil.Process]:
        """All that it has started."""
        assert self.process is not None, "start() comes first"
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, name: str) -> psutil.Process:
        """One of its processes."""
        return next(each for each in self.processes() if each.name() == name)


@dataclass
class Node(Part):
    """One node of Ray."""

    address_file: Path | None = None
    """In which a head says where it is. Its successor would take the raylets of other nodes for its processes."""

    def start(self, *, is_awaited: bool = True) -> None:
        """Start it, or start it again, and wait until it is up."""
        if self.address_file is not None:
            self.address_file.unlink(missing_ok=True)
        super().start(is_awaited=is_awaited)

    @property
    def raylet(self) -> psutil.Process:
        """The process that makes it a node."""
        return self.find("raylet")

    @property
    def node_id(self) -> str:
        """The name under which Ray knows it; another one after every start."""
        (word,) = (word for word in self.raylet.cmdline() if word.startswith("--node_id="))
        return word.partition("=")[2]

    def works_for(self, runner_name: str) -> list[int]:
        """Its processes that were started, cold, on behalf of an attempt."""
        found = []
        for each in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if each.environ().get(ATTEMPT) == runner_name:
                    found.append(each.pid)
        return found


def kill_all(*tops: psutil.Process) -> None:
    """``kill -9`` to processes and all they have started, before any can look after another."""
    family = [each for top in tops for each in (top, *top.children(recursive=True))]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


# ---- the site -------------------------------------------------------------------------------------------------------

WORK = '''
"""Counts steps of a rest each, and keeps a checkpoint every fifth. Every rank says where it is."""
import json, os, pathlib, signal, tempfile, time
import numpy as np
import ray


def train(params, context):
    print("on node", ray.get_runtime_context().get_node_id(), flush=True)
    if params.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    start = 0
    if context.resume_from is not None:
        start = json.loads((context.resume_from / "state.json").read_text())["step"]
    for step in range(start + 1, params["steps"] + 1):
        time.sleep(params["step_s"])
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "state.json").write_text(json.dumps({"step": step}))
            checkpoint = pathlib.Path(directory) if step % 5 == 0 else None
            context.report({"train/step": float(step)}, step=step, checkpoint=checkpoint)
        if context.should_stop():
            return
    test = context.shard("test")
    context.evaluate("test", records=test.records, predictions=np.zeros(len(test), dtype=np.int64))
'''


@dataclass
class HostServer(Server):
    """A server that machines of a network can reach."""

    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        names = {"FAIRLEAD_HOST": self.host, "FAIRLEAD_ALLOWED_HOSTS": f"{self.host},localhost"}
        self.environment = {**names, **self.environment}

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.host}:{self.port}"


@dataclass
class Site:
    """Control plane, nodes and agent. Start nodes and the agent as you need them; ``close`` ends everything.

    Several clusters are several sites: all but the first are given the first one's ``server``, which they do not end.
    """

    directory: Path
    cluster: str = "local"
    shared: HostServer | None = None
    """The server of another site, to be this one's too."""
    clusters: tuple[str, ...] = ("local",)
    """Those that an own server knows."""
    network: Network | None = None
    is_warm: bool = True
    """Machines start cold in any case: a server forks in its own namespaces."""
    server_settings: Mapping[str, str] = field(default_factory=dict)
    agent_settings: Mapping[str, str] = field(default_factory=dict)
    ray_settings: Mapping[str, str] = field(default_factory=lambda: QUICK)
    mlflow_url: str = "http://127.0.0.1:9"
    nodes: dict[str, Node] = field(default_factory=dict)
    agents: list[Part] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.marker = secrets.token_hex(8)
        self.short = Path(tempfile.mkdtemp(prefix="fl-n-", dir="/tmp"))  # Ray puts sockets below it
        (self.short / "token").write_text(secrets.token_hex(32))
        (self.short / "token").chmod(0o600)
        (self.directory / "code").mkdir(parents=True)
        (self.directory / "code" / "work.py").write_text(WORK)
        host = self.network.host if self.network else "127.0.0.1"
        settings = {"FAIRLEAD_RAY_SESSION_GRACE_S": str(GRACE_S), MARKER: self.marker, **self.server_settings}
        self.server = self.shared or HostServer(
            self.directory, mlflow_url=self.mlflow_url, environment=settings, host=host, clusters=self.clusters
        )
        self.client = Client(self.server.url, self.server.user)
        (self.port,) = free_ports(1)

    def close(self) -> None:
        """End every process, here and on the machines; forget the machines."""
        self.client.close()
        parts = [part for part in (*self.nodes.values(), *self.agents) if part.process is not None]
        leaders = [describe(part.name, part.process.pid) for part in parts if part.process is not None]
        for part in parts:
            part.kill()
        if self.shared is None:
            self.server.stop()
        end(leaders, marker=self.marker, grace_s=1)
        if self.network is not None:
            self.network.close()
        shutil.rmtree(self.short, ignore_errors=True)

    # ---- parts ----

    @property
    def head_address(self) -> str:
        """Where the head answers."""
        return f"{self.nodes[HEAD].machine.address}:{self.port}"

    def add_node(self, name: str = HEAD, *, cpus: int) -> Node:
        """A node that is up; the first must be the head."""
        machine = self.network.machine() if self.network else Machine()
        is_head = name == HEAD
        role = ["--head", f"--port={self.port}"] if is_head else [f"--address={self.head_address}"]
        role += ["--include-dashboard=false", "--no-monitor"] if is_head else []
        options = {
            "node-ip-address": machine.address,
            "num-cpus": cpus,
            "object-store-memory": _OBJECT_STORE_BYTES,
            "node-manager-port": 0,
            "object-manager-port": 0,
            "dashboard-agent-listen-port": 0,  # the default of Ray may be the port that the head was given
            "min-worker-port": 0,
            "max-worker-port": 0,
            "temp-dir": self.short / "r",
            "include-log-monitor": "false",
        }
        given = [f"--{key}={value}" for key, value in options.items()]
        ray = str(Path(sys.executable).with_name("ray"))
        node = Node(
            name=name,
            machine=machine,
            command=[ray, "start", *role, "--block", "--disable-usage-stats", *given],
            environment=self._environment() | {"RAY_START_HOOK": "fairlead.embedded.ray_hook.as_embedded"},
            log=self.directory / f"{name}.log",
            ready=b"keeping ",
            address_file=self.short / "r" / "ray_current_cluster" if is_head else None,
        )
        self.nodes[name] = node
        node.start()
        return node

    def add_agent(self, on: str = HEAD) -> Part:
        """An agent with its supervisor, on the machine of a node."""
        token = self.directory / "agent-token"
        token.write_text(self.server.agents[self.cluster])
        settings = {
            "FAIRLEAD_CONTROL_URL": self.server.url,
            "FAIRLEAD_CLUSTER": self.cluster,
            "FAIRLEAD_AGENT_TOKEN_FILE": str(token),
            "FAIRLEAD_RAY_ADDRESS": self.head_address,
            "FAIRLEAD_STORAGE": str(self.server.storage),
            "FAIRLEAD_CACHE": str(self.directory / "cache"),
            "FAIRLEAD_TICK_S": "0.3",
            "FAIRLEAD_SYNC_WAIT_S": "0.5",
            "FAIRLEAD_EVIDENCE_GAP_S": "2",
            "FAIRLEAD_WORKER_START_TIMEOUT_S": "30",
            **self.agent_settings,
        }
        agent = Part(
            name="agent",
            machine=self.nodes[on].machine,
            command=[sys.executable, "-m", "fairlead.agent"],
            environment=self._environment() | settings,
            log=self.directory / f"agent-{len(self.agents)}.log",
            ready=b"attached",
        )
        self.server.start()
        agent.start()
        self.agents.append(agent)
        return agent

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FAIRLEAD_", "RAY_"))}
        is_warm = self.is_warm and self.network is None
        warm = {DIRECTORY: str(self.short / "warm")} if is_warm else {"FAIRLEAD_WARM_START": "0"}
        return {
            **own,
            "PYTHONUNBUFFERED": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.short / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_num_workers_soft_limit": "0",
            MARKER: self.marker,
            **warm,
            **({"GLOO_SOCKET_IFNAME": "eth0"} if self.network else {}),
            **self.ray_settings,
        }

    # ---- experiments ----

    def submit(
        self,
        name: str,
        *,
        workers: int = 1,
        steps: int = 100,
        step_s: float = 0.1,
        dies: bool = False,
        **resources: Any,
    ) -> Experiment:
        """An experiment of the counting workload, acknowledged. ``dies``: every rank at once, and it is tried once.

        ``resources``: more of them than its workers.
        """
        spec: dict[str, Any] = {
            "name": name,
            "workload": "work:train",
            "code": ".",
            "params": {"steps": steps, "step_s": step_s, "dies": dies},
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": workers, "cpus_per_worker": 1, **resources},
            "policy": {"stall_timeout_s": 120, "retries": {"infra": 0 if dies else 5}},
        }
        (self.directory / "code" / "spec.json").write_text(json.dumps(spec))
        key = f"{name}-{len(self.acknowledged)}"
        experiment = self.client.submit(self.directory / "code" / "spec.json", key=key)
        self.acknowledged[key] = experiment.id
        return experiment

    def await_step(self, experiment: Experiment, step: int, *, within_s: float = START_S) -> None:
        """Return once a step has arrived in the books."""
        self.until(
            f"step {step} of {experiment.view.name}",
            lambda: (experiment.refresh().view.last_step or 0) >= step,
            within_s=within_s,
        )

    def until(self, what: str, ask: Callable[[], T], *, within_s: float = START_S) -> T:
        """Ask through outages of the server, which is started again, until there is an answer that is true."""

        def answer() -> T | None:
            self.server.keep_running()
            with contextlib.suppress(FairleadError):
                return ask()
            return None

        return wait_for(answer, within_s=within_s, what=what)

    def attempt(self, experiment: Experiment, attempt_no: int) -> Path:
        """Where the files of an attempt are."""
        return self.server.storage / attempt_path(experiment.view.project, experiment.id, attempt_no)

    def node_of_runner(self, experiment: Experiment, attempt_no: int = 1) -> Node:
        """Where the runner of an attempt has begun."""
        begun = json.loads((self.attempt(experiment, attempt_no) / BEGUN_FILE).read_text())
        return next(node for node in self.nodes.values() if node.node_id == begun["node_id"])

    def nodes_of_ranks(self, experiment: Experiment, *, workers: int, attempt_no: int = 1) -> list[Node]:
        """Where the ranks of an attempt have begun, each by its own word; waits for all of them."""
        logs = [
            self.attempt(experiment, attempt_no) / LOG_DIRECTORY / f"rank-{rank}.000.log" for rank in range(workers)
        ]
        by_id = {node.node_id: node for node in self.nodes.values()}

        def said() -> list[Node]:
            found = [re.search(r"^on node (\w+)$", log.read_text(), re.MULTILINE) for log in logs if log.exists()]
            return [by_id[each[1]] for each in found if each]

        wait_for(lambda: len(said()) == workers, within_s=START_S, what=f"a word of {workers} ranks")
        return said()

    def differences(self, experiment: Experiment) -> list[str]:
        """What MLflow shows of an experiment otherwise than the database has taken it in."""
        store = open_store(self.server.database_url)
        try:
            (life,) = (life for life in read(store).lives if life.row.id == experiment.id)
        finally:
            store.close()
        return list(differences(life, recorded_points(self.mlflow_url, experiment.id)))

    def broken_promises(self) -> tuple[str, ...]:
        """What the history shows."""
        return self.server.violations(self.acknowledged)

    def log(self) -> str:
        """What the agents have said."""
        return "\n".join(agent.log.read_text(errors="replace") for agent in self.agents)


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    """Makes a site, with machines if asked; its logs are shown where a test fails."""
    with ExitStack() as stack:

        def make(name: str = "site", *, has_machines: bool = False, **more: Any) -> Site:
            network = Network() if has_machines else None
            site = Site(tmp_path / name, network=network, **{"agent_settings": SHORT_GRACE, **more})
            stack.callback(site.close)
            stack.callback(lambda: print(site.log()[-6000:]))
            return site

        yield make

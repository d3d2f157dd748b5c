"""The four programs of a stack: command lines and environments, and how one knows that each is ready.

Everything is on loopback. Ray's own switch for that is odd: with ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`` its node
address is 127.0.0.1, and then no part of it listens elsewhere; without it, it replaces 127.0.0.1 by the machine's
address. Every process that speaks to this Ray needs the same value.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from fairlead.embedded.home import CLUSTER, Home
from fairlead.embedded.ports import HOST, StackPorts
from fairlead.embedded.processes import MARKER
from fairlead.failpoints import DIRECTORY_VARIABLE
from fairlead.run.warm.launcher import DIRECTORY, SWITCH
from fairlead.tracking.server import server_command, server_environment

RAY_DASHBOARD = "FAIRLEAD_RAY_DASHBOARD"
"""1 in the caller's environment: start Ray's dashboard as well."""
MAX_OBJECT_STORE_BYTES = 512 * 2**20
"""Data sets do not travel through Ray's object store; what does is small."""
MIN_OBJECT_STORE_BYTES = 80 * 2**20
BOOKKEEPING_NICENESS = 5
_OWN_PREFIXES = ("FAIRLEAD_", "MLFLOW_", "_MLFLOW_", "RAY_")
"""Settings that the caller's shell may hold for other stacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One program: what is run, and where its words go."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    ready_url: str | None = None
    """Answers 200 once it is ready."""
    ready_ports: tuple[int, ...] = ()
    """Accept connections once it is ready."""
    needs: tuple[str, ...] = ()
    """Programs that must be ready before it is started."""
    niceness: int = 0
    """How far it stands back for others, from 0 to 19: on one machine the books can wait a moment, training not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What the programs must agree on."""

    home: Home
    ports: StackPorts
    ray_directory: Path
    marker: str
    cpus: int | None = None
    gpus: int | None = None
    has_ray_dashboard: bool = False
    """Ray's own page, with its state and job APIs: nothing here needs them, and they take 300 MB."""

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://{HOST}:{self.ports.api}"

    @property
    def mlflow_url(self) -> str:
        """Where MLflow answers."""
        return f"http://{HOST}:{self.ports.mlflow}"

    @property
    def ray_address(self) -> str:
        """The head of the local Ray."""
        return f"{HOST}:{self.ports.ray}"


def programs(layout: Layout, environment: Mapping[str, str]) -> tuple[Program, ...]:
    """All programs of a stack. ``environment``: the caller's."""
    base = base_environment(environment, layout.marker)
    return (_mlflow(layout, base), _ray(layout, base), _api(layout, base), _agent(layout, base))


def base_environment(environment: Mapping[str, str], marker: str) -> dict[str, str]:
    """The caller's environment without settings of Fairlead, MLflow and Ray; no proxy between our own parts."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_OWN_PREFIXES)}
    direct = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), HOST, "localhost"]))
    switch = {name: environment[name] for name in (SWITCH, DIRECTORY_VARIABLE) if name in environment}
    return {**kept, **switch, "NO_PROXY": direct, "no_proxy": direct, "PYTHONUNBUFFERED": "1", MARKER: marker}


def _mlflow(layout: Layout, base: Mapping[str, str]) -> Program:
    home, port = layout.home, layout.ports.mlflow
    environment = server_environment(
        base, store=home.mlflow_database, artifacts=home.mlflow_artifacts, host=HOST, port=port
    )
    return Program(
        name="mlflow",
        command=tuple(server_command(host=HOST, port=port)),
        environment=environment,
        log=home.logs / "mlflow.log",
        niceness=BOOKKEEPING_NICENESS,
        ready_url=f"{layout.mlflow_url}/health",
    )


def _ray(layout: Layout, base: Mapping[str, str]) -> Program:
    ports = layout.ports
    options = {
        "node-ip-address": HOST,
        "port": ports.ray,
        "node-manager-port": ports.ray_node,
        "object-manager-port": ports.ray_objects,
        "dashboard-host": HOST,
        "dashboard-port": ports.ray_dashboard,
        "dashboard-agent-listen-port": ports.ray_agent_http,
        "dashboard-agent-grpc-port": ports.ray_agent_grpc,
        "runtime-env-agent-port": ports.ray_environment,
        "metrics-export-port": ports.ray_metrics,
        "min-worker-port": ports.workers[0],
        "max-worker-port": ports.workers[1],
        "include-dashboard": "true" if layout.has_ray_dashboard else "false",
        "include-log-monitor": "false",  # runners write logs of their own
        "temp-dir": layout.ray_directory / "r",  # Ray opens its own directory to everybody; the one around it is ours
        "object-store-memory": object_store_bytes(),
        "num-cpus": layout.cpus,
        "num-gpus": layout.gpus,
    }
    given = (f"--{name}={value}" for name, value in options.items() if value is not None)
    flags = ("--head", "--block", "--no-monitor", "--disable-usage-stats", "--log-style=record", "--log-color=false")
    return Program(
        name="ray",
        command=(sys.executable, "-m", "ray.scripts.scripts", "start", *flags, *given),
        environment={**base, **_ray_environment(layout), "DASHBOARD_METRIC_PORT": str(ports.ray_dashboard_metrics)},
        log=layout.home.logs / "ray.log",
        ready_ports=(ports.ray, ports.ray_node, *([ports.ray_dashboard] if layout.has_ray_dashboard else [])),
    )


_UNREAD = {"RAY_task_events_report_interval_ms": "0", "RAY_event_stats": "0"}
"""What every process of Ray's tells each second, for the dashboard alone."""


def _ray_environment(layout: Layout) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(layout.home.ray_token_file),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_START_HOOK": "fairlead.embedded.ray_hook.as_embedded",
        "RAY_prestart_worker_first_driver": "0",  # none of them would fit a runner
        "RAY_num_workers_soft_limit": "0",  # nor would one that has done its task
        DIRECTORY: f"{layout.ray_directory}/warm",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing to move: all of it ends
        "RAY_memory_usage_threshold": "0.9",
        "RAY_subscriber_timeout_ms": "30000",  # the head keeps the connection of a worker that has ended for as long
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_worker_niceness": "0",  # by default 15: training would wait for every book-keeper on the machine
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **({} if layout.has_ray_dashboard else _UNREAD),
    }


def _api(layout: Layout, base: Mapping[str, str]) -> Program:
    home, port = layout.home, layout.ports.api
    settings = {
        "FAIRLEAD_DATABASE_URL": f"sqlite:///{home.database}",
        "FAIRLEAD_STORAGE": str(home.storage),
        "FAIRLEAD_MLFLOW_URL": layout.mlflow_url,
        "FAIRLEAD_PUBLIC_URL": layout.api_url,
        "FAIRLEAD_HOST": HOST,
        "FAIRLEAD_PORT": str(port),
        "FAIRLEAD_ALLOWED_HOSTS": f"{HOST},localhost,{HOST}:{port},localhost:{port}",
        "FAIRLEAD_SECRET_KEY_FILE": str(home.secret_key_file),
        "FAIRLEAD_TOKENS_FILE": str(home.tokens_file),
        "FAIRLEAD_WITH_CONTROL": "1",
        "FAIRLEAD_WEBHOOK_NETWORKS": "127.0.0.0/8,::1/128",  # whoever may register one sits on this machine
    }
    return Program(
        name="api",
        command=(sys.executable, "-m", "fairlead_api"),
        environment={**base, **settings},
        log=home.logs / "api.log",
        niceness=BOOKKEEPING_NICENESS,
        ready_url=f"{layout.api_url}/readyz",
    )


def _agent(layout: Layout, base: Mapping[str, str]) -> Program:
    home = layout.home
    settings = {
        "FAIRLEAD_CONTROL_URL": layout.api_url,
        "FAIRLEAD_AGENT_TOKEN_FILE": str(home.agent_token_file),
        "FAIRLEAD_CLUSTER": CLUSTER,
        "FAIRLEAD_RAY_ADDRESS": layout.ray_address,
        "FAIRLEAD_STORAGE": str(home.storage),
        "FAIRLEAD_CACHE": str(home.cache),
        "FAIRLEAD_ENVIRONMENTS": str(home.environments),
    }
    return Program(
        name="agent",
        command=(sys.executable, "-m", "fairlead.agent"),
        environment={**base, **_ray_environment(layout), **settings},
        log=home.logs / "agent.log",
        needs=("ray", "api"),
    )


def object_store_bytes() -> int:
    """A small object store: a tenth of the memory, no more than half of what shared memory has left."""
    shared = shutil.disk_usage("/dev/shm").free // 2 if Path("/dev/shm").is_dir() else MAX_OBJECT_STORE_BYTES
    wanted = min(MAX_OBJECT_STORE_BYTES, psutil.virtual_memory().total // 10, shared)
    return max(MIN_OBJECT_STORE_BYTES, wanted)

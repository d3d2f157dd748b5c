"""One embedded stack: start it, use it, end it; no process of it is left behind.

Start is as parallel as the parts allow: MLflow, Ray and the API at once, the agent when Ray and the API are ready. A
stack that was killed before is cleaned up by the next start in the same directory.
"""

import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from fairlead.client import Client, Stack, StackProcess
from fairlead.client.stack import STACK_FILE, read_stack, read_token
from fairlead.embedded.home import held, prepare
from fairlead.embedded.ports import PortLease
from fairlead.embedded.processes import describe, end, is_alive
from fairlead.embedded.programs import RAY_DASHBOARD, Layout, programs
from fairlead.embedded.supervisor import Condition, Supervisor
from fairlead.errors import Unavailable
from fairlead.settings import data_directory

START_TIMEOUT_S = 180.0
STOP_GRACE_S = 10.0
AGENT = "agent attached"
"""A line of progress beside the programs: the API has heard of the agent."""
MAX_RAY_DIRECTORY = 40
"""Characters: Ray adds about 67 for its sockets, and the system allows 107."""
_RAY_PREFIX = "fl-ray-"
_UNATTACHED = ("no_cluster:", "no_agent:")

Progress = Callable[[Mapping[str, str]], None]


class StackFailed(Unavailable):
    """The stack could not be started; the message ends with the log of the part that failed."""


class EmbeddedStack:
    """Everything on this machine, with its data below ``home``. Use it with ``with``; it cannot be started twice.

    ``cpus`` and ``gpus``: what Ray may use, all by default. ``port`` and ``mlflow_port``: 8170 and 8171 where free.
    ``on_progress``: called with the condition of each part at every change, from another thread.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        cpus: int | None = None,
        gpus: int | None = None,
        port: int | None = None,
        mlflow_port: int | None = None,
        environment: Mapping[str, str] | None = None,
        on_progress: Progress | None = None,
    ) -> None:
        self.home = data_directory(home)
        self._resources = {"cpus": cpus, "gpus": gpus}
        self._asked_ports = {"api": port, "mlflow": mlflow_port}
        self._environment = dict(os.environ if environment is None else environment)
        self.on_progress = on_progress
        self._resting = ExitStack()
        self._lock = threading.Lock()
        self._is_attached = False
        self._layout: Layout | None = None
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> Self:
        """Start everything and return when experiments can run.

        Raises ``Conflict`` where a stack already runs in the directory, and ``StackFailed`` when a part does not come
        up; nothing is left running then.
        """
        try:
            self._start(time.monotonic() + timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process, by its number, and give ports and directories back. A second call does nothing."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and self._layout is not None:
            supervisor.stop()
            end(supervisor.identities, marker=self._layout.marker, grace_s=STOP_GRACE_S)
            supervisor.join()
            self._write(supervisor, is_over=True)
        self._resting.close()

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return self._running_layout.api_url

    @property
    def mlflow_url(self) -> str:
        """Where MLflow answers."""
        return self._running_layout.mlflow_url

    @property
    def token(self) -> str:
        """The user token."""
        return read_token(self.home)

    @property
    def description(self) -> Stack:
        """What ``stack.json`` says."""
        return self._describe(self._running_supervisor)

    @property
    def conditions(self) -> dict[str, Condition]:
        """How each program stands."""
        return self._running_supervisor.conditions

    @property
    def failure(self) -> str | None:
        """Why the stack can no longer run, if so."""
        return self._running_supervisor.failure

    def client(self) -> Client:
        """A client of this stack."""
        return Client(self.api_url, self.token)

    def pid_of(self, program: str) -> int:
        """The process of ``api``, ``mlflow``, ``ray`` or ``agent``, as it is now."""
        return self._running_supervisor.pid_of(program)

    def log_tail(self, program: str, *, num_lines: int = 30) -> str:
        """The end of a program's log."""
        path = self.home / "logs" / f"{program}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join(lines[-num_lines:])

    @property
    def _running_layout(self) -> Layout:
        if self._layout is None:
            raise Unavailable("the stack has not been started")
        return self._layout

    @property
    def _running_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise Unavailable("the stack is not running")
        return self._supervisor

    def _start(self, deadline: float) -> None:
        self._resting.enter_context(held(self.home))
        end_stale(self.home)
        home = prepare(self.home)
        ports = self._resting.enter_context(PortLease()).take(**self._asked_ports)
        ray_directory = _ray_directory()
        self._resting.callback(shutil.rmtree, ray_directory, ignore_errors=True)
        marker = secrets.token_hex(8)
        self._layout = Layout(
            home=home,
            ports=ports,
            ray_directory=ray_directory,
            marker=marker,
            has_ray_dashboard=self._environment.get(RAY_DASHBOARD) == "1",
            **self._resources,
        )
        self._supervisor = Supervisor(
            programs(self._layout, self._environment),
            python=sys.executable,
            parent_pid=os.getpid(),
            on_change=self._changed,
        )
        self._supervisor.start()
        self._await_ready(self._supervisor, deadline)

    def _await_ready(self, supervisor: Supervisor, deadline: float) -> None:
        def are_ready() -> bool:
            return all(condition is Condition.READY for condition in supervisor.conditions.values())

        if not supervisor.wait(are_ready, timeout_s=deadline - time.monotonic()):
            raise StackFailed(self._why(supervisor))
        while not self._is_attached:
            self._is_attached = self._has_agent()
            if not self._is_attached:
                if supervisor.failure or time.monotonic() > deadline:
                    raise StackFailed(self._why(supervisor))
                supervisor.wait(lambda: False, timeout_s=0.2)
        self._changed()

    def _has_agent(self) -> bool:
        """Whether placement knows of an agent that answers, by a plan that queues nothing."""
        try:
            with httpx.Client(base_url=self.api_url, timeout=5, trust_env=False) as http:
                spec = {"name": "ready", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}}
                answer = http.post("/v1/plan", json=spec, headers={"Authorization": f"Bearer {self.token}"})
            plan = answer.json() if answer.status_code == 200 else {}
            return bool(plan.get("is_valid")) and not str(plan.get("why", "")).startswith(_UNATTACHED)
        except (httpx.TransportError, ValueError):
            return False

    def _why(self, supervisor: Supervisor) -> str:
        late = [name for name, condition in supervisor.conditions.items() if condition is not Condition.READY]
        name = late[0] if late else "agent"
        reason = supervisor.failure or f"{name} is not ready in time"
        return f"the stack did not start: {reason}. The end of {self.home / 'logs' / name}.log:\n{self.log_tail(name)}"

    def _changed(self) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            return
        self._write(supervisor)
        if self.on_progress is not None:
            attached = Condition.READY if self._is_attached else Condition.WAITING
            self.on_progress({**supervisor.conditions, AGENT: attached})

    def _write(self, supervisor: Supervisor, *, is_over: bool = False) -> None:
        with self._lock:
            if is_over:
                (self.home / STACK_FILE).unlink(missing_ok=True)
            else:
                self._describe(supervisor).write()

    def _describe(self, supervisor: Supervisor) -> Stack:
        layout = self._running_layout
        return Stack(
            home=self.home,
            api_url=layout.api_url,
            mlflow_url=layout.mlflow_url,
            ray_address=layout.ray_address,
            ray_directory=layout.ray_directory,
            marker=layout.marker,
            supervisor=describe("supervisor", os.getpid()),
            processes=supervisor.identities,
            is_ready=self._is_attached,
        )


def end_stale(home: Path) -> tuple[StackProcess, ...]:
    """End what a killed stack of this directory left behind; the caller holds the directory. Returns who was left."""
    stack = read_stack(home)
    if stack is None:
        return ()
    left = tuple(process for process in stack.processes if is_alive(process))
    end(stack.processes, marker=stack.marker, grace_s=STOP_GRACE_S)
    if stack.ray_directory.name.startswith(_RAY_PREFIX):
        shutil.rmtree(stack.ray_directory, ignore_errors=True)
    (home / STACK_FILE).unlink(missing_ok=True)
    return left


def _ray_directory() -> Path:
    """A short directory of Ray's own, mode 0700."""
    path = Path(tempfile.mkdtemp(prefix=_RAY_PREFIX))
    if len(str(path)) > MAX_RAY_DIRECTORY:
        path.rmdir()
        path = Path(tempfile.mkdtemp(prefix=_RAY_PREFIX, dir="/tmp"))
    return path

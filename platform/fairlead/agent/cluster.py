"""The agent's view of its Ray cluster: sightings, launches, stops, and the evidence that nothing is left.

Every question has a time limit; no answer is ``Unavailable``, never a guess. Ray ends a driver whose head has been away
for a minute: the agent's supervisor starts it again.
"""

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import structlog
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fairlead.agent.reconcile import RunnerSeen
from fairlead.errors import Unavailable
from fairlead.protocol import LaunchDocument, NodeInfo, StopCommand, SweepOrders
from fairlead.run.census import (
    NAMESPACE,
    actor_entries,
    end_actors,
    end_marked_processes,
    find_family,
    find_nodes,
    marked_processes,
    remove_groups,
)
from fairlead.run.environment import elsewhere, runner_environment
from fairlead.run.messages import RunnerStatus
from fairlead.run.runner import RUNNER
from fairlead.run.virtual import Order
from fairlead.run.warm import SWITCHED_OFF, WarmServer, cold_env, runtime_env, was_forked

RUNNER_PREFIX = "fl-"
_ANSWER_TIMEOUT_S = 10.0
_LAUNCH_TIMEOUT_S = 120.0
_NODE_TIMEOUT_S = 30.0
_LEAVE_TIMEOUT_S = 4.0
_RECONNECT_S = 2.0
_KNOCK_TIMEOUT_S = 3.0
WATCH_S = 1.0
HURRIED_S = 0.2
"""Between two looks at what is free while somebody may wait for what an attempt has just given back."""
FREED_FOR_S = 1.5
"""Within that time of an attempt's end Ray's head knows that its resources are free."""
_FREED_NAMES = 1000
"""Attempts whose end is remembered, so that what is removed again and again hurries nobody."""
SILENT_AFTER_S = 8.0
"""Without an answer of the head for this long, nothing is known."""
_RAY_TROUBLE = (ray.exceptions.RayError, ConnectionError, RuntimeError)
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """Whether there is a runner, and what it says."""

    runner: RunnerSeen
    status: RunnerStatus | None = None


class Cluster(Protocol):
    """What the agent asks of a cluster. Thread-safe; every call may be repeated; no answer raises ``Unavailable``."""

    @property
    def is_answering(self) -> bool:
        """Whether the head has answered lately; while not, nothing is known of any attempt."""
        ...

    def session(self) -> str:
        """The name of Ray's session; another one means that the head was lost."""
        ...

    def look(self, runner_name: str, *, agent_epoch: int) -> Sighting:
        """Look for a runner; never raises."""
        ...

    def launch(
        self, document: LaunchDocument, *, code: Path | None, environment: Order | None, agent_epoch: int
    ) -> str:
        """Make the runner if there is none and let it begin: ``begun``, ``taken`` or ``stale``."""
        ...

    def stop(self, runner_name: str, command: StopCommand, *, agent_epoch: int) -> None:
        """Pass a stop command on."""
        ...

    def amend(self, runner_name: str, orders: SweepOrders, *, agent_epoch: int) -> None:
        """Tell the runner of a sweep of all amendments."""
        ...

    def remove(self, runner_name: str) -> bool:
        """End everything that belongs to an attempt; whether nothing is left of it on any node that answers."""
        ...

    def lost_nodes(self, runner_name: str) -> Mapping[str, float]:
        """Nodes with a part of an attempt that the head has given up, and the seconds since that was first seen."""
        ...


class RayCluster:
    """A cluster that is really there. Connects in the background, so that the agent can speak before Ray does."""

    def __init__(
        self, *, address: str, storage: Path, worker_start_timeout_s: float, warm: WarmServer | None = None
    ) -> None:
        self._address = address
        self._storage = storage
        self._worker_start_timeout_s = worker_start_timeout_s
        self._warm = warm
        self._why_cold = "" if warm is not None else SWITCHED_OFF
        self._ahead: Any = None
        self._is_connected = threading.Event()
        self._is_closed = threading.Event()
        self._hurry = threading.Event()
        self._freed_s = -math.inf
        self._freed: deque[str] = deque(maxlen=_FREED_NAMES)
        self._session = ""
        self._nodes: tuple[NodeInfo, ...] = ()
        self._given_up_at_s: dict[str, float] = {}
        self._runners: tuple[str, ...] = ()
        self._answered_s = -math.inf
        threading.Thread(target=self._keep_watch, name="fairlead-ray", daemon=True).start()

    def _keep_watch(self) -> None:
        """Ask the head in a thread of its own: while it is away, a question to it may take a minute."""
        self._keep_warm()
        self._connect()
        self._warm_up()
        while not self._is_closed.is_set():
            self._hurry.wait(HURRIED_S if self.is_freeing else WATCH_S)
            self._hurry.clear()
            self._keep_warm()
            try:
                self._survey()
            except (*_RAY_TROUBLE, Unavailable) as error:
                logger.warning("the Ray head does not answer", error=str(error))

    def _survey(self) -> None:
        free = ray._private.state.available_resources_per_node()
        self._nodes = tuple(_node_info(node, free.get(node["NodeID"], {})) for node in ray.nodes())
        self._given_up_at_s = given_up(self._given_up_at_s, self._nodes, now_s=time.monotonic())
        self._runners = tuple(
            entry.name for entry in actor_entries() if entry.is_alive and entry.name.startswith(RUNNER_PREFIX)
        )
        self._answered_s = time.monotonic()

    def _connect(self) -> None:
        while not self._is_closed.is_set():
            try:
                self._knock()
                ray.init(
                    address=self._address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level="ERROR",
                    ignore_reinit_error=True,
                )
                self._session = ray.get_runtime_context().get_session_name()
                self._survey()
            except (*_RAY_TROUBLE, Unavailable, OSError) as error:
                logger.warning("Ray does not answer yet", address=self._address, error=str(error))
                self._is_closed.wait(_RECONNECT_S)
                continue
            self._is_connected.set()
            return

    def _keep_warm(self) -> None:
        """Start this node's warm server where it is missing. Without one, everything starts cold."""
        if self._warm is None:
            return
        try:
            self._warm.ensure()
        except Unavailable as error:
            logger.warning("there is no warm server; processes start cold", error=str(error))
            self._warm, self._why_cold = None, str(error)

    def _warm_up(self) -> None:
        """Let the first runner find a server that has imported Ray for our job already: send a task ahead of it."""
        if self._warm is not None and self._is_connected.is_set():
            ahead = ray.remote(num_cpus=0, max_retries=0)(was_forked)
            self._ahead = ahead.options(runtime_env=self._runtime_env({})).remote()

    def _runtime_env(self, variables: dict[str, str]) -> dict[str, Any]:
        if self._warm is None:
            return cold_env(variables, why=self._why_cold)
        return runtime_env(variables, directory=self._warm.places.directory)

    @property
    def is_freeing(self) -> bool:
        """Whether what is free may be more than it seems: an attempt has just given something back."""
        return time.monotonic() - self._freed_s < FREED_FOR_S

    def wait_until_connected(self, timeout_s: float) -> bool:
        """Whether Ray answered within ``timeout_s``."""
        return self._is_connected.wait(timeout_s)

    def close(self) -> None:
        """Leave the cluster; runners go on."""
        self._is_closed.set()
        self._hurry.set()
        if self._warm is not None:
            self._warm.release()
        if self._is_connected.is_set():
            ray.shutdown()

    def _knock(self) -> None:
        """Raise ``OSError`` where nobody listens: Ray itself takes two minutes to say so."""
        host, _, port = self._address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_KNOCK_TIMEOUT_S):
            return

    @property
    def is_answering(self) -> bool:
        """Whether the head has answered lately."""
        return time.monotonic() - self._answered_s < SILENT_AFTER_S

    def _require(self) -> None:
        if not self.is_answering:
            raise Unavailable("Ray does not answer")

    # ---- looking ----

    def session(self) -> str:
        """The name of Ray's session, or nothing before Ray has answered."""
        return self._session

    def nodes(self) -> tuple[NodeInfo, ...]:
        """Nodes with their resources; none while Ray does not answer."""
        return self._nodes if self.is_answering else ()

    def runners(self) -> tuple[str, ...]:
        """Names of all runners that are alive; none while Ray does not answer."""
        return self._runners if self.is_answering else ()

    def look(self, runner_name: str, *, agent_epoch: int) -> Sighting:
        """Look for a runner; never raises."""
        if not self.is_answering:
            return Sighting(runner=RunnerSeen.RAY_AWAY)
        try:
            runner = ray.get_actor(runner_name, namespace=NAMESPACE)
        except ValueError:
            return Sighting(runner=RunnerSeen.NONE)
        except _RAY_TROUBLE:
            return Sighting(runner=RunnerSeen.RAY_AWAY)
        try:
            status: RunnerStatus = ray.get(runner.status.remote(agent_epoch=agent_epoch), timeout=_ANSWER_TIMEOUT_S)
        except ray.exceptions.ActorDiedError:
            return Sighting(runner=RunnerSeen.NONE)
        except _RAY_TROUBLE:  # also a time-out, and an actor that may come back
            return Sighting(runner=RunnerSeen.SILENT)
        return Sighting(runner=RunnerSeen.FOUND, status=status)

    # ---- acting ----

    def launch(
        self, document: LaunchDocument, *, code: Path | None, environment: Order | None, agent_epoch: int
    ) -> str:
        """Make the runner if there is none and let it begin."""
        self._require()
        variables = runner_environment(
            document.runner_name, document.spec, worker_start_timeout_s=self._worker_start_timeout_s
        )
        options: dict[str, Any] = {
            "name": document.runner_name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "runtime_env": self._runtime_env(variables),
        }
        if document.excluded_nodes:
            options["label_selector"] = elsewhere(document.excluded_nodes)
        text = document.amended(attempt_token="").model_dump_json(by_alias=True)
        runner = RUNNER.options(**options).remote()
        begin = runner.begin.remote(
            text,
            storage=str(self._storage),
            code=str(code) if code else None,
            environment=environment,
            agent_epoch=agent_epoch,
        )
        return _answered(lambda: ray.get(begin, timeout=_LAUNCH_TIMEOUT_S), "the runner did not begin")

    def stop(self, runner_name: str, command: StopCommand, *, agent_epoch: int) -> None:
        """Pass a stop command on."""
        self._require()

        def send() -> None:
            runner = ray.get_actor(runner_name, namespace=NAMESPACE)
            call = runner.stop.remote(
                command.mode, grace_s=command.grace_s, agent_epoch=agent_epoch, detail=command.detail
            )
            ray.get(call, timeout=_ANSWER_TIMEOUT_S)

        _answered(send, "the stop command could not be passed on")

    def amend(self, runner_name: str, orders: SweepOrders, *, agent_epoch: int) -> None:
        """Tell the runner of a sweep of all amendments."""
        self._require()

        def send() -> None:
            runner = ray.get_actor(runner_name, namespace=NAMESPACE)
            call = runner.amend.remote(orders.model_dump_json(), agent_epoch=agent_epoch)
            ray.get(call, timeout=_ANSWER_TIMEOUT_S)

        _answered(send, "the amendments could not be passed on")

    def remove(self, runner_name: str) -> bool:
        """End actors, groups and marked processes of an attempt on every node that lives; whether none is left."""
        self._require()
        deadline_s = time.monotonic() + _LEAVE_TIMEOUT_S
        while not (is_gone := self._end_family(runner_name)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        while marked_processes(runner_name) and time.monotonic() < deadline_s:
            time.sleep(0.1)  # Ray ends them; killing them first would look to it like a crash
        processes = self._on_every_node(end_marked_processes, runner_name)
        if is_gone:
            self._note_freed(runner_name)
        return is_gone and not processes

    def _note_freed(self, runner_name: str) -> None:
        """Look at what is free soon; once for an attempt, however often it is removed."""
        if runner_name not in self._freed:
            self._freed.append(runner_name)
            self._freed_s = time.monotonic()
            self._hurry.set()

    def lost_nodes(self, runner_name: str) -> Mapping[str, float]:
        """Nodes with a part of an attempt that the head has given up, and the seconds since this agent saw it first."""
        self._require()
        nodes = _answered(ray.nodes, "the head does not say which nodes live")
        lost = find_nodes(runner_name) & {node["NodeID"] for node in nodes if not node["Alive"]}
        now_s = time.monotonic()
        since_s = self._given_up_at_s  # as of the last survey, which may not know of the newest
        return {node: now_s - since_s.get(node, now_s) for node in lost}

    def _end_family(self, runner_name: str) -> bool:
        family = find_family(runner_name)
        end_actors(family.actors)
        remove_groups(family.groups)
        return family.is_gone

    def _on_every_node(self, function: Callable[[str], tuple[int, ...]], runner_name: str) -> tuple[int, ...]:
        """Ask this node directly and the others by a task each. Raises ``Unavailable`` if one does not answer."""
        here = ray.get_runtime_context().get_node_id()
        found = function(runner_name)
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
        calls = [
            ray.remote(num_cpus=0, max_retries=0)(function)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(runner_name)
            for node in others
        ]
        answers = _answered(lambda: ray.get(calls, timeout=_NODE_TIMEOUT_S), "a node could not be asked")
        return tuple(pid for pids in (found, *answers) for pid in pids)


def given_up(before: Mapping[str, float], nodes: Iterable[NodeInfo], *, now_s: float) -> dict[str, float]:
    """When each node that is not alive was first seen so; ``before``: the same at the look before.

    Under its id no node comes back. The head forgets the oldest of the dead in time, and so does this.
    """
    return {node.node_id: before.get(node.node_id, now_s) for node in nodes if not node.is_alive}


def _answered(call: Callable[[], Any], what: str) -> Any:
    """The answer of Ray; trouble of any kind says nothing about what happened."""
    try:
        return call()
    except (*_RAY_TROUBLE, ValueError) as error:
        raise Unavailable(f"{what}: {type(error).__name__}: {error}") from error


def _node_info(node: dict[str, Any], free: dict[str, float]) -> NodeInfo:
    resources = node.get("Resources", {})
    return NodeInfo(
        node_id=node["NodeID"],
        address=node["NodeManagerAddress"],
        is_alive=node["Alive"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0),
        free_gpus=free.get("GPU", 0.0),
    )

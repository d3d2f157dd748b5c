"""Which Ray actors, placement groups and processes belong to one attempt: looked up, and ended.

Everything that a runner creates is found through ownership in the head's own tables: the runner's worker owns the
Train controller, whose worker owns the ranks. Entries stay in the tables after a death, so this works for a runner
that is gone. Processes are found by the environment variable ``FAIRLEAD_ATTEMPT``, which children inherit, or, where
they were forked warm, by a descriptor of that name.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray._private.state import state as ray_state
from ray._raylet import ActorID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fairlead.errors import Unavailable
from fairlead.run.warm import is_marked
from fairlead.run.warm.marker import ATTEMPT

NAMESPACE = "fairlead"
MARKER = ATTEMPT


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorEntry:
    """One line of the head's actor table. Ids are hexadecimal."""

    actor_id: str
    name: str
    class_name: str
    is_alive: bool
    """Alive, or still to be: anything but dead."""
    node_id: str
    pid: int
    worker_id: str
    owner_worker_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupEntry:
    """One placement group that holds, or waits for, resources."""

    group_id: str
    creator_actor_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What of an attempt is there, the runner itself included."""

    actors: tuple[ActorEntry, ...]
    groups: tuple[GroupEntry, ...]

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left in Ray's tables."""
        return not self.actors and not self.groups


def actor_entries() -> tuple[ActorEntry, ...]:
    """The head's actor table, the dead included. Raises ``Unavailable`` if the head does not answer."""
    rows = _table("get_actor_table", None, None)
    return tuple(_actor_entry(gcs_pb2.ActorTableData.FromString(row)) for row in rows)


def group_entries() -> tuple[GroupEntry, ...]:
    """Placement groups that were not removed. Raises ``Unavailable`` if the head does not answer."""
    groups = [gcs_pb2.PlacementGroupTableData.FromString(row) for row in _table("get_placement_group_table")]
    removed = gcs_pb2.PlacementGroupTableData.PlacementGroupState.Value("REMOVED")
    return tuple(
        GroupEntry(group_id=group.placement_group_id.hex(), creator_actor_id=group.creator_actor_id.hex())
        for group in groups
        if group.state != removed
    )


def _table(method: str, *arguments: object) -> Iterable[bytes]:
    try:
        accessor = ray_state._connect_and_get_accessor()
        rows: Iterable[bytes] = getattr(accessor, method)(*arguments)
        return rows
    except (ray.exceptions.RaySystemError, ray.exceptions.RpcError, RuntimeError) as error:
        raise Unavailable(f"the Ray head does not answer: {error}") from error


def _actor_entry(row: "gcs_pb2.ActorTableData") -> ActorEntry:
    return ActorEntry(
        actor_id=row.actor_id.hex(),
        name=row.name,
        class_name=row.class_name,
        is_alive=row.state != gcs_pb2.ActorTableData.ActorState.Value("DEAD"),
        node_id=row.address.node_id.hex(),
        pid=row.pid,
        worker_id=row.address.worker_id.hex(),
        owner_worker_id=row.owner_address.worker_id.hex(),
    )


def select_family(
    actors: Iterable[ActorEntry], groups: Iterable[GroupEntry], *, runner_name: str, runner_actor_id: str | None
) -> Family:
    """Those alive among the actors named ``runner_name`` and all they own, and the groups any of them created.

    ``runner_actor_id`` restricts it to that one runner: a runner that is itself superfluous spares its successor.
    """
    everyone = tuple(actors)
    roots = [
        entry
        for entry in everyone
        if entry.name == runner_name and (runner_actor_id is None or entry.actor_id == runner_actor_id)
    ]
    members = _descendants(roots, everyone)
    ids = {entry.actor_id for entry in members}
    return Family(
        actors=tuple(entry for entry in members if entry.is_alive),
        groups=tuple(group for group in groups if group.creator_actor_id in ids),
    )


def _descendants(roots: list[ActorEntry], everyone: tuple[ActorEntry, ...]) -> list[ActorEntry]:
    members, waiting = {entry.actor_id: entry for entry in roots}, list(roots)
    while waiting:
        owner = waiting.pop()
        for entry in everyone:
            if owner.worker_id and entry.owner_worker_id == owner.worker_id and entry.actor_id not in members:
                members[entry.actor_id] = entry
                waiting.append(entry)
    return list(members.values())


def find_family(runner_name: str, *, runner_actor_id: str | None = None) -> Family:
    """What Ray has of an attempt now. Raises ``Unavailable``."""
    return select_family(actor_entries(), group_entries(), runner_name=runner_name, runner_actor_id=runner_actor_id)


def select_nodes(actors: Iterable[ActorEntry], *, runner_name: str) -> frozenset[str]:
    """Nodes on which the actors named ``runner_name`` and all they own are, or were when they died."""
    everyone = tuple(actors)
    roots = [entry for entry in everyone if entry.name == runner_name]
    return frozenset(entry.node_id for entry in _descendants(roots, everyone))


def find_nodes(runner_name: str) -> frozenset[str]:
    """Nodes that have, or had, a part of an attempt. Raises ``Unavailable``."""
    return select_nodes(actor_entries(), runner_name=runner_name)


def end_actors(entries: Iterable[ActorEntry]) -> None:
    """Kill actors by id, without restart; those already gone do not matter."""
    core = ray._private.worker.global_worker.core_worker
    for entry in entries:
        with contextlib.suppress(ray.exceptions.RayError):
            core.kill_actor(ActorID.from_hex(entry.actor_id), True)


def remove_groups(entries: Iterable[GroupEntry]) -> None:
    """Give back the resources of placement groups."""
    for entry in entries:
        with contextlib.suppress(ray.exceptions.RayError):
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(entry.group_id)))


def on_nodes(
    arguments: Mapping[str, Any], function: Callable[[str, Any], Any], runner_name: str, *, timeout_s: float
) -> tuple[Any, ...]:
    """Call ``function(runner_name, argument)`` on the node of each key: here directly, elsewhere by a task each.

    Raises ``Unavailable`` if a node does not answer.
    """
    here = ray.get_runtime_context().get_node_id()
    found = tuple(function(runner_name, argument) for node, argument in arguments.items() if node == here)
    calls = [
        ray.remote(num_cpus=0, max_retries=0)(function)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        .remote(runner_name, argument)
        for node, argument in arguments.items()
        if node != here
    ]
    try:
        return found + tuple(ray.get(calls, timeout=timeout_s))
    except ray.exceptions.RayError as error:
        raise Unavailable(f"a node could not be asked: {error}") from error


def marked_processes(runner_name: str) -> tuple[int, ...]:
    """Ids of this machine's processes that were started on behalf of an attempt."""
    return tuple(pid for pid in psutil.pids() if pid != os.getpid() and is_marked(pid, _environment(pid), runner_name))


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:  # gone, or another user's
        return []


def end_marked_processes(runner_name: str) -> tuple[int, ...]:
    """Kill them; returns their ids."""
    found = marked_processes(runner_name)
    for pid in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    return found

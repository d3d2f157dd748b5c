import os
import subprocess
import sys

from fairlead.run.census import (
    ActorEntry,
    GroupEntry,
    end_marked_processes,
    marked_processes,
    select_family,
    select_nodes,
)


def an_actor(
    actor_id: str,
    *,
    owner: str,
    name: str = "",
    is_alive: bool = True,
    worker: str | None = None,
    node: str = "n",
) -> ActorEntry:
    return ActorEntry(
        actor_id=actor_id,
        name=name,
        class_name="",
        is_alive=is_alive,
        node_id=node,
        pid=1,
        worker_id=f"w-{actor_id}" if worker is None else worker,
        owner_worker_id=owner,
    )


ACTORS = (
    an_actor("runner", owner="driver", name="fl-x-a1", is_alive=False, node="lost"),
    an_actor("controller", owner="w-runner", is_alive=False, node="lost"),
    an_actor("rank", owner="w-controller"),
    an_actor("stranger", owner="driver", name="fl-x-a2", node="of another"),
    an_actor("strangers", owner="w-stranger"),
    an_actor("pending", owner="", name="fl-y-a1", worker=""),
)
GROUPS = (
    GroupEntry(group_id="g1", creator_actor_id="controller"),
    GroupEntry(group_id="g2", creator_actor_id="stranger"),
)


def test_what_a_dead_runner_left_is_found_through_its_dead_controller() -> None:
    family = select_family(ACTORS, GROUPS, runner_name="fl-x-a1", runner_actor_id=None)
    assert [entry.actor_id for entry in family.actors] == ["rank"]
    assert [group.group_id for group in family.groups] == ["g1"]
    assert not family.is_gone


def test_a_part_of_an_attempt_keeps_its_node_when_it_dies() -> None:
    assert select_nodes(ACTORS, runner_name="fl-x-a1") == {"lost", "n"}


def test_an_actor_that_has_no_process_yet_owns_nothing() -> None:
    family = select_family(ACTORS, GROUPS, runner_name="fl-y-a1", runner_actor_id=None)
    assert [entry.actor_id for entry in family.actors] == ["pending"]


def test_a_superfluous_runner_spares_its_namesake() -> None:
    family = select_family(ACTORS, GROUPS, runner_name="fl-x-a1", runner_actor_id="another")
    assert family.is_gone


def test_processes_are_found_by_their_mark_and_ended() -> None:
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    environment = {**os.environ, "FAIRLEAD_ATTEMPT": "fl-marked-a1"}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert marked_processes("fl-marked-a1") == (process.pid,)
        assert marked_processes("fl-marked-a") == ()
        assert end_marked_processes("fl-marked-a1") == (process.pid,)
        assert process.wait(timeout=10) < 0

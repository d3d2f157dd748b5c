"""What ``ray start`` has no option for; it loads this by the name in ``RAY_START_HOOK``.

Much of it is about memory: a head as Ray starts it takes 700 MB before it has done anything.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray._private.utils
from ray._private.node import Node

from fairlead.run.warm import Places
from fairlead.run.warm.launcher import DIRECTORY

Dead = list[tuple[str, "subprocess.Popen[bytes]"]]
_KEEPER = Path(__file__).with_name("keeper.py")


def as_embedded(parameters: Any, is_head: bool) -> None:
    """All of it."""
    without_ray_client(parameters, is_head)
    become_keeper_when_up(sys.executable)
    if not parameters.include_dashboard:
        without_dashboard()
    with_warm_workers()


def with_warm_workers() -> None:
    """Let the launcher of the stack's warm server stand for Python in the commands that Ray makes for its processes."""
    if directory := os.environ.get(DIRECTORY):
        places = Places(directory=Path(directory))
        places.prepare()
        sys.executable = str(places.launcher)


def without_ray_client(parameters: Any, _is_head: bool) -> None:
    """Do not start the Ray Client server: nothing here uses it, and it runs whatever it is sent."""
    parameters.ray_client_server_port = None


def without_dashboard() -> None:
    """Leave out what serves the dashboard alone, as a Ray that was installed without it does.

    ``--include-dashboard=false`` still starts the dashboard's process, for usage statistics, and an agent of it on
    the node that samples every process.
    """
    ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("the embedded stack has no dashboard")
    Node.start_api_server = _start_no_api_server


def _start_no_api_server(_node: Node, **_options: object) -> None:
    return


def become_keeper_when_up(python: str) -> None:
    """Let ``ray start --block`` become the keeper at its first look at its processes, when all of them run."""
    look: Callable[[Node], Dead] = Node.dead_processes

    def become_keeper(node: Node) -> Dead:
        if dead := look(node):
            return dead
        named = [f"{name}:{each.process.pid}" for name, every in node.all_processes.items() for each in every]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(python, [python, "-I", "-S", str(_KEEPER), *named])

    Node.dead_processes = become_keeper

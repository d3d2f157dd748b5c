"""What ``ray start`` has no option for; it loads this by the name in ``RAY_START_HOOK``."""

import os
import sys
from pathlib import Path
from typing import Any

from fairlead.run.warm import Places
from fairlead.run.warm.launcher import DIRECTORY


def as_embedded(parameters: Any, is_head: bool) -> None:
    """All of it."""
    without_ray_client(parameters, is_head)
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

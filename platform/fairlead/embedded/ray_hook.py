"""What ``ray start`` has no option for; it loads this by the name in ``RAY_START_HOOK``."""

from typing import Any


def without_ray_client(parameters: Any, _is_head: bool) -> None:
    """Do not start the Ray Client server: nothing here uses it, and it runs whatever it is sent."""
    parameters.ray_client_server_port = None

"""Ray's random ids must not be alike in brothers: two objects of one id, and a worker waits for ever.

Ray's compiled core seeds its generators from a pool that is filled at the first draw. A server that has drawn before it
forks gives all its children the same pool, so nothing may be drawn while modules are imported. Ray draws one id for
each actor class; these come from the system here. Whether it sufficed is tried, not assumed.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ids_from_the_system() -> Iterator[None]:
    """Ids of actor classes come from the operating system meanwhile."""
    actor: Any = importlib.import_module("ray.actor")
    drawing = actor.ActorClassID

    class SystemDrawn:
        """Stands for the class of ids, of which only this is used where actor classes are made."""

        @staticmethod
        def from_random() -> Any:
            """An id from the system's own entropy."""
            return drawing(os.urandom(drawing.size()))

    actor.ActorClassID = SystemDrawn
    try:
        yield
    finally:
        actor.ActorClassID = drawing


def problem() -> str | None:
    """Why forked workers would draw the same ids, found by forking two and comparing."""
    if _drawn_after_a_fork() == _drawn_after_a_fork():
        return "an imported module has drawn from Ray's random pool, and forked workers would share their ids"
    return None


def _drawn_after_a_fork() -> bytes:
    raylet: Any = importlib.import_module("ray._raylet")
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, raylet.PlacementGroupID.of(raylet.JobID.from_int(1)).binary())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        drawn = answer.read()
    os.waitpid(pid, 0)
    return drawn

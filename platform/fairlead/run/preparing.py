"""A rank that has come up outside its environment: it has that built on its node, and its group begins again in it.

It has not said hello yet, so nothing of this is training: no step is missed, and nobody is idle.
"""

import os
import sys
import threading
import time

import ray
import ray.train

from fairlead.run.logs import drain_output
from fairlead.run.messages import PreparationOrders, Preparing
from fairlead.run.virtual import Contact, Order, Ready, Refused, build

TELL_S = 1.0
_CALL_TIMEOUT_S = 30.0
_UNTIL_ENDED_S = 3660.0
_RUNNER_IS_GONE = 70


class BeginAgain(Exception):
    """For Ray Train: every rank's environment is there, and the group is to be started in it."""


def prepare(order: Order, runner_name: str) -> None:
    """Build it here. Raises ``BeginAgain`` once all ranks have theirs; returns where the attempt is to end."""
    line = PreparationLine(runner_name)
    answer = build(order, Contact(should_stop=line.should_stop, show=_show))
    drain_output(timeout_s=2)
    if isinstance(answer, Refused):
        line.tell(answer)
        threading.Event().wait(_UNTIL_ENDED_S)  # the runner ends the group
    if isinstance(answer, Ready) and line.wait_for_others(answer):
        raise BeginAgain(f"the environment {order.key} is ready on every node: the group begins again in it")


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class PreparationLine:
    """This rank's connection to its runner before it says hello."""

    def __init__(self, runner_name: str) -> None:
        here, train = ray.get_runtime_context(), ray.train.get_context()
        self._runner = ray.get_actor(runner_name, namespace="fairlead")
        self._about = {
            "rank": train.get_world_rank(),
            "world_size": train.get_world_size(),
            "group_id": here.get_placement_group_id() or "",
            "node_id": here.get_node_id(),
        }
        self._told_s = -TELL_S
        self._orders = PreparationOrders(should_stop=False, is_everyone_ready=False)

    def tell(self, answer: Ready | Refused | None) -> PreparationOrders:
        """Say how it stands, and hear what is asked. This process ends with its runner."""
        word = Preparing(**self._about, answer=answer)
        try:
            self._orders = ray.get(self._runner.prepare.remote(word), timeout=_CALL_TIMEOUT_S)
        except ray.exceptions.ActorDiedError:
            os._exit(_RUNNER_IS_GONE)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError) as error:
            print(f"fairlead: the runner does not answer yet: {error}", file=sys.stderr)
        self._told_s = time.monotonic()
        return self._orders

    def should_stop(self) -> bool:
        """Whether the attempt is to end; asks once a second."""
        if time.monotonic() - self._told_s >= TELL_S:
            self.tell(None)
        return self._orders.should_stop

    def wait_for_others(self, answer: Ready) -> bool:
        """Whether all ranks have their environment; False where the attempt is to end."""
        while not (orders := self.tell(answer)).should_stop:
            if orders.is_everyone_ready:
                return True
            time.sleep(TELL_S)
        return False

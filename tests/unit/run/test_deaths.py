"""Which workers Ray Train found dead when it gave up, by Ray's own exceptions, and how Ray is told to avoid nodes."""

import pytest
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from fairlead.run.environment import elsewhere
from fairlead.run.runner import _dead_actors

DEAD, AWAY = b"\1" * 16, b"\2" * 16


def died(actor_id: bytes) -> Exception:
    context = ActorDiedErrorContext(actor_id=actor_id, error_message="it crashed")
    return WorkerHealthCheckFailedError("its health check failed", failure=ActorDiedError(context))


def test_only_workers_that_died_are_named_not_those_that_lost_them_or_do_not_answer() -> None:
    silent = WorkerHealthCheckFailedError("no answer", failure=ActorUnavailableError("away", AWAY))
    failures = {0: died(DEAD), 1: RuntimeError("rank 1 lost another rank"), 2: silent}
    assert _dead_actors(WorkerGroupError("three failed", failures)) == {DEAD.hex()}


@pytest.mark.parametrize("error", [RuntimeError("x"), WorkerGroupError("none", {})])
def test_other_errors_name_nobody(error: Exception) -> None:
    assert _dead_actors(error) == frozenset()


def test_ray_is_told_to_avoid_excluded_nodes_and_nothing_where_there_are_none() -> None:
    assert elsewhere(("a", "b")) == {"ray.io/node-id": "!in(a,b)"}
    assert elsewhere(()) is None

"""Attempts with packages of their own on a real Ray: built on the node, entered cold, and told of."""

from pathlib import Path

import pytest

from fairlead.lifecycle import Outcome
from fairlead.run.virtual import Order, order_for
from fairlead.testing.attempts import Attempts
from fairlead.testing.wheels import lock_of, make_wheel

WORKLOAD = """
import sys, tiny
def train(params, context):
    print("trained in", sys.prefix)
    tiny.train(params, context)
"""
"""What the wheel brings: the workload itself."""


@pytest.fixture
def order(attempts: Attempts, tmp_path: Path) -> Order:
    """What all attempts of a test are to run in."""
    wheels = tmp_path / "wheels"
    attempts.variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    lock = lock_of(tinydep=("1.5", make_wheel(wheels, "tinydep", "1.5", source=WORKLOAD)))
    attempts.environment = order_for(lock, directory=tmp_path / "environments", build_s=100, max_bytes=10**9)
    return attempts.environment


def logs(attempts: Attempts, directory: Path) -> str:
    return "".join(path.read_text() for path in sorted((directory / "logs").glob("rank-*.log")))


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_run_in_what_their_node_has_built_once(attempts: Attempts, order: Order, workers: int) -> None:
    asked = {"workload": "tinydep:train", "resources": {"workers": workers, "cpus_per_worker": 1}}
    first, result = attempts.run("exp-env-1", **asked)
    assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
    assert attempts.notes(first) == ["environment_building", "environment_built"]
    (started,) = attempts.starts(first)
    assert set(started.payload["workers"].values()) == {"cold"}
    assert (started.payload["runner"], started.payload["why"]) == ("warm", "own environment")
    told = logs(attempts, attempts.directory(first))
    assert told.count("Successfully installed tinydep-1.5") == 1
    assert told.count(f"trained in {order.place.prefix}") == workers

    second, result = attempts.run("exp-env-2", **asked)
    assert result.outcome is Outcome.SUCCEEDED
    assert attempts.notes(second) == ["environment_cached"]
    assert "Successfully installed" not in logs(attempts, attempts.directory(second))

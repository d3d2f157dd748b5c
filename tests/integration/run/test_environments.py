"""Attempts with packages of their own on a real Ray: built on the node, entered cold, and told of."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from fairlead.lifecycle import Outcome
from fairlead.protocol import RESULT_FILE, TRIALS_DIRECTORY, LaunchDocument, SweepLaunch
from fairlead.run.virtual import Order, order_for
from fairlead.testing.attempts import Attempts
from fairlead.testing.ray import a_launch, a_spec, wait_for
from fairlead.testing.wheels import lock_of, make_wheel

WORKLOAD = """
import sys, {page}
def train(params, context):
    print("trained in", sys.prefix)
    {page}.train(params, context)
"""
"""What the wheel brings: the workload itself."""


@pytest.fixture
def order(attempts: Attempts, tmp_path: Path) -> Order:
    """What all attempts of a test are to run in."""
    return ordered(attempts, tmp_path, WORKLOAD.format(page="tiny"))


@pytest.fixture
def sweep_order(attempts: Attempts, tmp_path: Path) -> Order:
    """What all trials of a test are to run in."""
    return ordered(attempts, tmp_path, WORKLOAD.format(page="bowl"))


def ordered(attempts: Attempts, directory: Path, source: str) -> Order:
    wheels = directory / "wheels"
    attempts.variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    lock = lock_of(tinydep=("1.5", make_wheel(wheels, "tinydep", "1.5", source=source)))
    attempts.environment = order_for(lock, directory=directory / "environments", build_s=100, max_bytes=10**9)
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


def test_a_lock_that_cannot_be_installed_is_the_users_error(attempts: Attempts, order: Order) -> None:
    attempts.environment = replace(order, lock=lock_of(tinydep=("1.5", "0" * 64)), key="wrong")
    document, result = attempts.run("exp-env-wrong", workload="tinydep:train")
    assert (result.outcome, result.reason) == (
        Outcome.USER_ERROR,
        "bad_environment: pip could not install the lock (exit code 1)",
    )
    words = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    assert words in result.detail
    assert words in logs(attempts, attempts.directory(document))
    assert attempts.starts(document) == []


def test_a_build_is_no_stall_and_ends_with_the_attempt(attempts: Attempts, order: Order) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
        attempts.variables |= {"PIP_INDEX_URL": silent, "PIP_NO_INDEX": "0", "PIP_DEFAULT_TIMEOUT": "100"}
        policy = {"stall_timeout_s": 1, "idle_limit_s": 60}
        document = a_launch("exp-env-slow", spec=a_spec(workload="tinydep:train", policy=policy))
        runner = attempts.start(document)
        listener.settimeout(60)
        with listener.accept()[0]:  # pip asks, and is never answered
            assert attempts.told(document, "environment_building")
            with pytest.raises(AssertionError, match="did not come"):
                wait_for((attempts.directory(document) / RESULT_FILE).exists, within_s=4, what="a verdict")
            ray.get(runner.stop.remote("cancel", grace_s=20, agent_epoch=1), timeout=20)
            result = attempts.result(document, within_s=30)
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "cancelled")
    assert order.place.hold() is None, "what was stopped is no environment"
    claim = order.place.claim()
    assert claim is not None, "pip has ended, and with it the last who held its place"
    os.close(claim)


def a_sweep(key: str) -> LaunchDocument:
    spec = a_spec(
        workload="tinydep:train",
        search={
            "space": {"x": {"uniform": [0, 1]}},
            "objectives": [{"minimize": "validation/loss"}],
            "algorithm": "random",
            "trials": 2,
        },
        data={"uri": "builtin://diabetes", "split": {"train": 0.6, "validation": 0.2, "test": 0.2}},
        resources={"workers": 1, "cpus_per_worker": 1},
    )
    return a_launch(key, spec=spec, sweep=SweepLaunch(slots=2))


def test_trials_run_in_what_their_slots_have_built(attempts: Attempts, sweep_order: Order) -> None:
    document = a_sweep("exp-env-sweep")
    attempts.start(document)
    result = attempts.result(document)
    assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
    kinds = [kind for kind in attempts.notes(document) if kind.startswith("environment")]
    assert kinds == ["environment_building", "environment_built"]
    (started,) = attempts.starts(document)
    assert (set(started.payload["workers"].values()), started.payload["why"]) == ({"cold"}, "own environment")
    directory = attempts.directory(document)
    for no in range(2):
        assert f"trained in {sweep_order.place.prefix}" in logs(attempts, directory / TRIALS_DIRECTORY / str(no))


def test_a_sweep_whose_lock_cannot_be_installed_is_the_users_error(attempts: Attempts, sweep_order: Order) -> None:
    attempts.environment = replace(sweep_order, lock=lock_of(tinydep=("1.5", "0" * 64)), key="wrong")
    document = a_sweep("exp-env-sweep-wrong")
    attempts.start(document)
    result = attempts.result(document)
    assert (result.outcome, result.reason) == (
        Outcome.USER_ERROR,
        "bad_environment: pip could not install the lock (exit code 1)",
    )
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in result.detail
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in logs(attempts, attempts.directory(document))


def test_the_end_of_a_sweep_ends_what_its_slots_install(attempts: Attempts, sweep_order: Order) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = f"http://127.0.0.1:{listener.getsockname()[1]}/simple"
        attempts.variables |= {"PIP_INDEX_URL": silent, "PIP_NO_INDEX": "0", "PIP_DEFAULT_TIMEOUT": "100"}
        document = a_sweep("exp-env-sweep-slow")
        runner = attempts.start(document)
        listener.settimeout(60)
        with listener.accept()[0]:
            ray.get(runner.stop.remote("cancel", grace_s=20, agent_epoch=1), timeout=20)
            result = attempts.result(document, within_s=30)
            claim = wait_for(sweep_order.place.claim, within_s=20, what="the end of pip")
            os.close(claim)
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "cancelled")

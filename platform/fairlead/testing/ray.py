"""A real Ray on this machine for tests, and launch documents for it. One head serves a whole test session."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled, without stubs

from fairlead.protocol import LaunchDocument, attempt_path, runner_name
from fairlead.spec import ExperimentSpec, from_mapping, spec_hash
from fairlead.testing.local_ray import LocalRay, start_local_ray

NUM_CPUS = 2
QUICK_RAY = {
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
}
"""Shorter reactions than Ray's own, so that tests of failures need not wait for minutes."""

T = TypeVar("T")
_started: list[LocalRay] = []


@pytest.fixture(scope="session")
def local_ray() -> Iterator[LocalRay]:
    """A head with two CPUs, this process connected to it as a driver in Fairlead's namespace."""
    if _started:
        yield _started[0]
        return
    head = start_local_ray(num_cpus=NUM_CPUS, environment=QUICK_RAY)
    _started.append(head)
    before = {name: os.environ.get(name) for name in head.environment}
    os.environ.update(head.environment)
    _read_access_again()
    try:
        ray.init(address=head.address, namespace="fairlead", log_to_driver=False, logging_level="ERROR")
        yield head
    finally:
        ray.shutdown()
        head.stop()
        _started.clear()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _read_access_again() -> None:
    """Ray reads how it must identify itself when it is imported, and a test may import it before there is a head."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def wait_for(ask: Callable[[], T | None], *, within_s: float, what: str) -> T:
    """Ask until there is an answer that is true; fail after ``within_s`` naming ``what`` did not come."""
    deadline = time.monotonic() + within_s
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {within_s:g} s")
        time.sleep(0.1)
    return answer


def a_spec(**changes: Any) -> ExperimentSpec:
    """A small experiment on the bundled diabetes data, two ranks that together need two CPUs."""
    content: dict[str, Any] = {
        "name": "tiny",
        "workload": "tiny:train",
        "code": "sha256:" + "0" * 64,
        "data": {"uri": "builtin://diabetes", "sensitive": ["sex"]},
        "resources": {"workers": 2, "cpus_per_worker": 1},
    }
    return from_mapping(ExperimentSpec, content | changes)


def a_launch(experiment_id: str, *, spec: ExperimentSpec | None = None, **changes: Any) -> LaunchDocument:
    """A launch document for a first attempt."""
    the_spec = spec or a_spec()
    attempt_no = changes.pop("attempt_no", 1)
    content: dict[str, Any] = {
        "attempt_id": f"{experiment_id}-{attempt_no}",
        "experiment_id": experiment_id,
        "attempt_no": attempt_no,
        "lease_epoch": 1,
        "runner_name": runner_name(experiment_id, attempt_no),
        "attempt_token": "not-for-runners",
        "spec": the_spec,
        "spec_hash": spec_hash(the_spec),
        "workload_module": the_spec.workload,
        "params": the_spec.params,
        "storage_path": str(attempt_path(the_spec.project, experiment_id, attempt_no)),
        "runtime_left_s": 600,
    }
    return LaunchDocument.model_validate(content | changes)


TINY = Path(__file__).with_name("tiny.py")
"""A workload whose parameters choose how it behaves; its directory can be given as a code directory."""

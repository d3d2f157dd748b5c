"""What an idle stack keeps: a new process, or one that stays, must be somebody's intention."""

import time
from pathlib import Path

import pytest
from benchmarks.memory import footprints

from fairlead.embedded import EmbeddedStack
from fairlead.embedded.processes import family

TIMEOUT_S = 60
IDLE = (
    "fairlead.agent",
    "fairlead.agent.process",
    "fairlead.run.warm.root",
    "fairlead.run.warm.root",
    "fairlead.tracking",
    "fairlead_api",
    "gcs_server",
    "keeper.py",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
    "raylet",
)
"""All that is left of a stack, beside its supervisor, when nothing runs: each costs memory as long as it is up."""


@pytest.mark.nightly  # waits until nothing moves any more
def test_an_idle_stack_is_these_processes_and_no_others(tmp_path: Path) -> None:
    with EmbeddedStack(tmp_path / "home", cpus=2) as stack:
        with stack.client() as client:
            experiment = client.submit({"name": "x", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}})
            experiment.result(timeout=300)

        def names() -> tuple[str, ...]:
            found = family(stack.description.processes, stack.description.marker)
            return tuple(sorted(each.name for each in footprints(found)))

        deadline_s = time.monotonic() + TIMEOUT_S
        while names() != IDLE and time.monotonic() < deadline_s:
            time.sleep(0.2)
        assert names() == IDLE

"""A node without memory: who took it ends as ``oom``, once more and then for good; who trains beside it is unharmed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fairlead.lifecycle import Outcome, State
from fairlead.testing.limits import Group, num_killed_for_memory, small_memory
from fairlead.testing.local_ray import LocalRay, start_local_ray
from fairlead.testing.ray import QUICK_RAY, wait_for
from fairlead.testing.sites import last_step, running_site

MEMORY_MB = 6000
KILLERS = {
    "kernel": {"RAY_memory_monitor_refresh_ms": "0"},
    "ray": {"RAY_memory_monitor_refresh_ms": "100", "RAY_memory_usage_threshold": "0.75"},
}


@pytest.fixture(params=KILLERS)
def small_node(request: pytest.FixtureRequest) -> Iterator[tuple[str, Group, LocalRay]]:
    """A Ray that sees little memory. Its processes start cold: a warm server would fork them outside the group."""
    with small_memory(megabytes=MEMORY_MB) as group:
        environment = {**QUICK_RAY, **KILLERS[request.param]}
        ray = start_local_ray(num_cpus=4, environment=environment, is_warm=False, prefix=group.prefix)
        try:
            yield request.param, group, ray
        finally:
            ray.stop()


@pytest.mark.nightly  # two attempts of four worker groups each, all started cold
def test_a_rank_that_takes_all_memory_is_an_oom_and_its_neighbour_trains_on(
    small_node: tuple[str, Group, LocalRay], tmp_path: Path
) -> None:
    killer, group, ray = small_node
    with running_site(tmp_path, ray) as site, site.client() as client:
        site.start_agent(environment={"FAIRLEAD_WARM_START": "0"})
        calm = site.submit(client, "calm", steps=2000, step_s=0.1)
        wait_for(lambda: last_step(calm) >= 2, within_s=120, what="a neighbour that trains")
        greedy = site.submit(client, "greedy", steps=200, step_s=0.1, hog_from=2, hog_mb=200)
        wait_for(lambda: greedy.done() or greedy.state is State.HELD, within_s=420, what="the end of the greedy one")
        assert [one.outcome for one in greedy.attempts()] == [Outcome.OOM, Outcome.OOM]
        assert greedy.state is State.FAILED
        assert "memory" in greedy.refresh().view.reason
        assert (num_killed_for_memory(group) > 0) == (killer == "kernel")

        before = last_step(calm)
        wait_for(lambda: last_step(calm) > before + 20, within_s=30, what="more steps of the neighbour")
        assert len(calm.attempts()) == 1
        assert not [one for one in calm.events(follow=False) if one.kind == "worker_group_restarted"]
        calm.cancel()
        wait_for(calm.done, within_s=90, what="the neighbour's end")
        assert site.broken_promises(calm, greedy) == ()

"""Two clusters with labels, each a Ray of its own with an agent of its own: who goes where, and what if one is silent.

Real control plane, agents and raylets, all on this machine, at ports that the system has chosen.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from fairlead import Experiment
from fairlead.lifecycle import State
from fairlead.testing.nodes import MakeSite, Site

pytestmark = pytest.mark.timeout(600)
LONG = 100_000
"""Steps that nobody waits for."""
SILENT_AFTER_S = 5
ZONE_A, ZONE_B = {"zone": "a"}, {"zone": "b"}


def _two_clusters(make_site: MakeSite, *, is_warm: bool = True) -> tuple[Site, Site]:
    """One CPU each; the first has a fake GPU's label too."""
    settings = {"FAIRLEAD_AGENT_TTL_S": str(SILENT_AFTER_S)}
    first = make_site("a", cluster="a", clusters=("a", "b"), server_settings=settings, is_warm=is_warm)
    second = make_site("b", cluster="b", shared=first.server, is_warm=is_warm)
    first.server.start()
    with ThreadPoolExecutor() as both:
        list(both.map(_start, (first, second)))
    first.client.label("a", **ZONE_A, gpu="fake-a")
    first.client.label("b", **ZONE_B)
    return first, second


def _start(site: Site) -> None:
    site.add_node(cpus=1)
    site.add_agent()


def _waits(experiment: Experiment, reason: str) -> bool:
    return reason in str(experiment.refresh().view.waiting)


def _await_reason(site: Site, experiment: Experiment, reason: str) -> None:
    site.until(f"{experiment.view.name} to wait since {reason}", partial(_waits, experiment, reason))


def _is(state: State, experiment: Experiment) -> bool:
    return experiment.refresh().view.state is state


def _await_state(site: Site, state: State, *ones: Experiment) -> None:
    for one in ones:
        site.until(f"{one.view.name} to be {state}", partial(_is, state, one), within_s=240)


def _is_taken(experiment: Experiment) -> bool:
    return any(attempt.leased_at for attempt in experiment.detail().attempts)


def _ways(experiment: Experiment) -> list[tuple[str, int]]:
    """The cluster of each attempt, and which of its wishes it got there."""
    told = [event.payload for event in experiment.events(follow=False) if event.to_state is State.PLACED]
    return [(one["cluster"], one["alternative"]) for one in told]


def test_labels_choose_the_cluster_any_of_takes_the_one_with_room_and_a_silent_agent_is_the_reason(
    make_site: MakeSite,
) -> None:
    site, _ = _two_clusters(make_site, is_warm=False)  # nobody waits for a step here
    bound = site.submit("bound", steps=LONG, labels={"gpu": "fake-a"})
    either = site.submit("either", steps=LONG, labels=ZONE_A, any_of=[{"labels": ZONE_B}])
    for one in (bound, either):
        site.until(f"an agent to take {one.view.name}", partial(_is_taken, one))
    assert (_ways(bound), _ways(either)) == ([("a", 0)], [("b", 1)])
    late = site.submit("late", labels=ZONE_A)
    nowhere = site.submit("nowhere", labels={"zone": "c"})
    _await_reason(site, late, "resources_in_use: needs 1 CPUs for 1 workers with zone=a; a has 0 CPUs free now")
    _await_reason(site, nowhere, "no_cluster_fits: needs 1 CPUs for 1 workers with zone=c; a has 1 CPUs")
    site.agents[0].kill()
    _await_reason(site, late, "which no open cluster has: no agent answers for a; is it running?")
    site.until("the same answer to why", lambda: site.client.why(late.id).code == "no_agent")


@pytest.mark.nightly  # four experiments on two Rays, one after the other
def test_with_one_agent_dead_alternatives_go_elsewhere_and_what_is_bound_waits_until_it_is_back(
    make_site: MakeSite,
) -> None:
    site, _ = _two_clusters(make_site)
    bound = site.submit("bound", steps=300, labels=ZONE_A)
    _await_state(site, State.RUNNING, bound)
    site.agents[0].kill()
    site.until("silence", lambda: not next(one for one in site.client.clusters() if one.name == "a").is_agent_fresh)
    holder = site.submit("holder", steps=LONG, labels=ZONE_B)
    _await_state(site, State.RUNNING, holder)
    either = site.submit("either", steps=5, labels=ZONE_A, any_of=[{"labels": ZONE_B}])
    waits = site.submit("waits", steps=5, labels=ZONE_A)
    _await_reason(site, either, "resources_in_use: needs 1 CPUs for 1 workers with zone=b; b has 0 CPUs free now")
    _await_reason(site, waits, "no_agent: ")
    holder.cancel()
    _await_state(site, State.SUCCEEDED, either)
    assert _ways(either) == [("b", 1)]
    assert _ways(waits) == []
    site.agents[0].start()
    _await_state(site, State.SUCCEEDED, bound, waits)
    assert (_ways(bound), _ways(waits)) == ([("a", 0)], [("a", 0)])
    assert site.broken_promises() == ()

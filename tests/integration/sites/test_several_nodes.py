"""A cluster of two and three nodes: all workers of an experiment begin together or none does, whatever is lost.

Real control plane, agent and raylets, all on this machine. What else nodes can suffer is in ``nemesis/test_nodes.py``.
"""

from functools import partial

import pytest

from fairlead import Experiment
from fairlead.lifecycle import Outcome, State
from fairlead.protocol import runner_name
from fairlead.run.census import marked_processes
from fairlead.testing.nodes import HEAD, SHORT_GRACE, MakeSite, Node, Site

pytestmark = pytest.mark.timeout(600)
LONG = 100_000
"""Steps that nobody waits for."""


def _site_of(make_site: MakeSite, *names: str, **more: object) -> Site:
    """One CPU on the head and on each other node, and an agent."""
    site = make_site(**more)
    site.add_node(cpus=1)
    for name in names:
        site.add_node(name, cpus=1)
    site.add_agent()
    return site


def _await_reason(site: Site, experiment: Experiment, code: str) -> str:
    site.until(f"{experiment.view.name} to wait for {code}", lambda: _waits(experiment, code))
    return str(experiment.view.waiting)


def _waits(experiment: Experiment, code: str) -> bool:
    return str(experiment.refresh().view.waiting).startswith(f"{code}:")


def _is(state: State, experiment: Experiment) -> bool:
    return experiment.refresh().view.state is state


def _await_state(site: Site, experiment: Experiment, state: State) -> None:
    site.until(f"{experiment.view.name} to be {state}", partial(_is, state, experiment), within_s=240)


def _names_at_work(site: Site, experiment: Experiment, workers: int) -> set[str]:
    return {node.name for node in site.nodes_of_ranks(experiment, workers=workers)}


def _placements(experiment: Experiment) -> list[tuple[int, list[int]]]:
    """Of each attempt: which of its wishes it got, and how many workers were counted on each node."""
    told = [event.payload for event in experiment.events(follow=False) if event.to_state is State.PLACED]
    return [(one["alternative"], sorted(one["nodes"].values())) for one in told]


def _node_beside_the_runner(site: Site, experiment: Experiment) -> Node:
    """A node at work for the first attempt on which neither its runner nor the agent is."""
    avoided = site.node_of_runner(experiment), site.nodes[HEAD]
    return next(node for node in site.nodes_of_ranks(experiment, workers=3) if node not in avoided)


def _cancel(site: Site, *ones: Experiment) -> None:
    for one in ones:
        one.cancel()
    site.until("the end of all", lambda: all(one.refresh().done() for one in ones))


def test_two_workers_begin_together_on_two_nodes_and_not_before_both_have_room(make_site: MakeSite) -> None:
    site = _site_of(make_site, "b")
    holder = site.submit("holder", steps=LONG)
    _await_state(site, holder, State.RUNNING)
    pair = site.submit("pair", workers=2, steps=LONG)
    wide = site.submit("wide", cpus_per_worker=2)
    assert "local has 1 CPUs free now, room for 1 of 2 workers" in _await_reason(site, pair, "resources_in_use")
    assert "has 2 CPUs and 0 GPUs on 2 nodes, room for 0 of 1 workers" in _await_reason(site, wide, "no_cluster_fits")
    assert pair.detail().attempts == ()
    assert not marked_processes(runner_name(pair.id, 1))
    _cancel(site, holder)
    site.await_step(pair, 3)
    assert _placements(pair) == [(0, [1, 1])]
    assert _names_at_work(site, pair, 2) == {HEAD, "b"}
    _cancel(site, pair, wide)
    assert site.broken_promises() == ()


@pytest.mark.nightly  # three raylets, and three ranks that start on two cores
def test_three_workers_begin_together_on_three_nodes_and_one_that_finds_none_waits(make_site: MakeSite) -> None:
    site = _site_of(make_site, "b", "c")
    holder = site.submit("holder", steps=LONG)
    _await_state(site, holder, State.RUNNING)
    trio = site.submit("trio", workers=3, steps=60)
    four = site.submit("four", workers=4)
    assert "local has 2 CPUs free now, room for 2 of 3 workers" in _await_reason(site, trio, "resources_in_use")
    assert "local has 3 CPUs and 0 GPUs on 3 nodes" in _await_reason(site, four, "no_cluster_fits")
    assert trio.detail().attempts == ()
    holder.cancel()
    site.await_step(trio, 3)
    assert _placements(trio) == [(0, [1, 1, 1])]
    assert _names_at_work(site, trio, 3) == {HEAD, "b", "c"}
    _await_state(site, trio, State.SUCCEEDED)
    site.add_node("d", cpus=1)
    _await_state(site, four, State.SUCCEEDED)
    assert _placements(four) == [(0, [1, 1, 1, 1])]
    assert site.broken_promises() == ()


@pytest.mark.nightly  # Train must give up first
def test_what_loses_one_of_three_nodes_is_tried_again_on_two_if_it_says_that_they_will_do(
    make_site: MakeSite,
) -> None:
    settings = {**SHORT_GRACE, "FAIRLEAD_WORKER_START_TIMEOUT_S": "20"}
    site = _site_of(make_site, "b", "c", agent_settings=settings)
    smaller = site.submit("smaller", workers=3, steps=400, any_of=[{"workers": 2}])
    site.await_step(smaller, 10)
    _node_beside_the_runner(site, smaller).raylet.kill()
    site.until("the end of the attempt", lambda: smaller.detail().attempts[0].outcome, within_s=150)
    stubborn = site.submit("stubborn", workers=3)
    assert "local has 2 CPUs and 0 GPUs on 2 nodes" in _await_reason(site, stubborn, "no_cluster_fits")
    site.until("the second attempt", lambda: len(smaller.detail().attempts) == 2, within_s=150)
    site.await_step(smaller, (smaller.detail().attempts[0].last_step or 0) + 5)
    first, _ = smaller.detail().attempts
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "start_timeout")
    assert _placements(smaller) == [(0, [1, 1, 1]), (1, [1, 1])]
    (resumed,) = [event for event in smaller.events(follow=False) if event.kind == "resumed"]
    assert resumed.attempt_no == 2
    assert resumed.payload["step"] >= 5
    _cancel(site, smaller, stubborn)
    assert site.broken_promises() == ()

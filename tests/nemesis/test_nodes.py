"""What nodes of a Ray cluster can suffer: a death, a sleep, a cut, the loss of the head, a loss of everything.

Real control plane, agent and raylets, all on this machine; where nodes must not see each other, each has a network of
its own, which needs root. Graces are short, and their sum is the same as in production: Ray's reconnect time-out and
15 s. Each test ends with the history checker.
"""

import random
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from fairlead import Experiment
from fairlead.lifecycle import SESSION_ENDED, Observation, Outcome, State
from fairlead.protocol import RESULT_FILE, runner_name
from fairlead.run.census import marked_processes
from fairlead.store import checkpoints, open_store
from fairlead.testing.mlflow import MlflowServer
from fairlead.testing.nodes import (
    GRACE_S,
    HEAD,
    QUICK,
    SHORT_GRACE,
    MakeSite,
    Node,
    Site,
    can_have_machines,
    kill_all,
)
from fairlead.testing.ray import wait_for
from fairlead.tracking.server import client_environment

pytestmark = pytest.mark.timeout(900)
needs_machines = pytest.mark.skipif(not can_have_machines(), reason="namespaces and networks need root")
SLOW = {
    "RAY_health_check_period_ms": "10000",
    "RAY_health_check_timeout_ms": "100000",
    "RAY_health_check_failure_threshold": "10",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "60",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
}
"""Nobody gives anybody up within a minute."""


def _with_runner_on_a_worker_node(site: Site, name: str, *, steps: int, step_s: float) -> tuple[Experiment, Node]:
    """With checkpoints. Ray puts a runner, which needs no CPU, on any node: try until it is not the head."""
    for _ in range(12):
        experiment = site.submit(name, steps=steps, step_s=step_s)
        site.until("the start", partial(_is_running, experiment))
        if (node := site.node_of_runner(experiment)) is not site.nodes[HEAD]:
            site.await_step(experiment, 10)
            return experiment, node
        experiment.cancel()
        _await_end(site, experiment)
    raise AssertionError("Ray has put twelve runners in a row on the head")


def _committed(site: Site, experiment: Experiment, attempt_no: int) -> list[int]:
    """Steps of the checkpoints that the server has taken of an attempt."""
    store = open_store(site.server.database_url)
    try:
        with store.read() as session:
            return sorted(row.step for row in checkpoints.of_attempt(session, experiment.id, attempt_no))
    finally:
        store.close()


def _resumed_at(experiment: Experiment, attempt_no: int) -> list[int]:
    events = (event for event in experiment.events() if event.kind == "resumed" and event.attempt_no == attempt_no)
    return [int(event.payload["step"]) for event in events]


def _await_attempts(site: Site, experiment: Experiment, count: int, *, within_s: float = 150) -> None:
    site.until(f"attempt {count}", lambda: len(experiment.detail().attempts) >= count, within_s=within_s)


def _is_running(experiment: Experiment) -> bool:
    return experiment.refresh().view.state is State.RUNNING


def _await_end(site: Site, experiment: Experiment) -> None:
    site.until(f"the end of {experiment.view.name}", lambda: experiment.refresh().done(), within_s=300)


def _assert_well(site: Site, experiment: Experiment, *, num_attempts: int) -> None:
    """It succeeds without further attempts, nothing is left of them, and the history is sound."""
    _await_end(site, experiment)
    assert experiment.view.state is State.SUCCEEDED, experiment.view.reason
    assert len(experiment.detail().attempts) == num_attempts
    names = [runner_name(experiment.id, number) for number in range(1, num_attempts + 1)]
    wait_for(lambda: not any(map(marked_processes, names)), within_s=60, what="the end of all processes")
    assert site.broken_promises() == ()


# ---- P6: a node dies ------------------------------------------------------------------------------------------------


@pytest.mark.nightly  # four raylets and cold starts
def test_a_lost_node_with_a_rank_costs_the_group_one_restart_where_there_is_room(make_site: MakeSite) -> None:
    site = make_site(is_warm=False)
    site.add_node(cpus=0)
    for name in ("b", "c", "d"):
        site.add_node(name, cpus=1)
    site.add_agent()
    experiment = site.submit("lost-rank", workers=2, steps=120)
    site.await_step(experiment, 20)
    _node_of_a_rank_alone(site, experiment).raylet.kill()
    _assert_well(site, experiment, num_attempts=1)
    assert [event.kind for event in experiment.events()].count("worker_group_restarted") == 1
    (resumed_at,) = _resumed_at(experiment, 1)
    assert resumed_at >= 10


@pytest.mark.nightly  # Train must give up first
def test_a_lost_node_without_another_ends_the_attempt_and_the_next_waits_for_room(make_site: MakeSite) -> None:
    site = make_site(is_warm=False, agent_settings={**SHORT_GRACE, "FAIRLEAD_WORKER_START_TIMEOUT_S": "20"})
    site.add_node(cpus=0)
    for name in ("b", "c"):
        site.add_node(name, cpus=1)
    site.add_agent()
    experiment = site.submit("no-room", workers=2, steps=120)
    site.await_step(experiment, 20)
    _node_of_a_rank_alone(site, experiment).raylet.kill()
    site.until("the end of the attempt", lambda: experiment.detail().attempts[0].outcome, within_s=150)
    first = experiment.detail().attempts[0]
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "start_timeout")
    site.until("its wait for room", lambda: "no_cluster_fits" in str(experiment.refresh().view.waiting))
    site.add_node("d", cpus=1)
    _assert_well(site, experiment, num_attempts=2)
    assert _resumed_at(experiment, 2) == [max(_committed(site, experiment, 1))]


def _node_of_rank_0(experiment: Experiment) -> str:
    """As the workload has printed it last."""
    lines = [line for line in experiment.logs() if line.startswith("on node ")]
    return lines[-1].removeprefix("on node ") if lines else ""


@pytest.mark.nightly  # three attempts whose groups Ray Train restarts three times each
def test_a_node_on_which_three_experiments_die_is_avoided_by_ray_until_it_is_readmitted(make_site: MakeSite) -> None:
    site = make_site()
    site.add_node(cpus=0)
    site.add_node("c", cpus=1)
    site.add_agent()
    holder = site.submit("holder", steps=10_000)
    site.await_step(holder, 5)
    site.add_node("bad", cpus=1)
    for name in ("x", "y", "z"):
        experiment = site.submit(name, dies=True)
        _await_end(site, experiment)
        assert experiment.view.reason.startswith("infra_error: worker_died"), experiment.view.reason
        assert _node_of_rank_0(experiment) == site.nodes["bad"].node_id
    (event,) = [event for event in experiment.events() if event.kind == "node_excluded"]
    assert event.payload == {"cluster": "local", "node": site.nodes["bad"].node_id}
    moved = site.submit("moved", steps=10_000)
    site.until("its reason", lambda: site.client.why(moved.id).code == "nodes_excluded")
    site.add_node("d", cpus=1)
    site.await_step(moved, 5)
    assert _node_of_rank_0(moved) == site.nodes["d"].node_id, "the bad node had a CPU free as well"
    back = site.submit("back", steps=20)
    site.until("its reason", lambda: site.client.why(back.id).code == "nodes_excluded")
    assert not site.client.readmit_node(site.nodes["bad"].node_id[:10]).is_excluded
    _assert_well(site, back, num_attempts=1)
    assert _node_of_rank_0(back) == site.nodes["bad"].node_id
    for one in (holder, moved):
        one.cancel()
        _await_end(site, one)
    assert site.broken_promises() == ()


def _node_of_a_rank_alone(site: Site, experiment: Experiment) -> Node:
    """A node that has a rank, and not the runner."""
    at_runner = site.node_of_runner(experiment)
    name = runner_name(experiment.id, 1)
    return next(
        node for node in site.nodes.values() if node not in (at_runner, site.nodes[HEAD]) and node.works_for(name)
    )


@pytest.mark.nightly  # waits out a node's grace
def test_the_loss_of_the_runners_node_is_said_so_and_the_next_attempt_goes_on_elsewhere(make_site: MakeSite) -> None:
    site = make_site()
    site.add_node(cpus=0)
    for name in ("b", "c"):
        site.add_node(name, cpus=1)
    site.add_agent()
    experiment, node = _with_runner_on_a_worker_node(site, "lost-runner", steps=120, step_s=0.1)
    site.await_step(experiment, 20)
    node.raylet.kill()
    _await_attempts(site, experiment, 2)
    first = experiment.detail().attempts[0]
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "node_lost")
    _assert_well(site, experiment, num_attempts=2)
    assert _resumed_at(experiment, 2) == [max(_committed(site, experiment, 1))]


# ---- P7: a node sleeps ----------------------------------------------------------------------------------------------


@needs_machines
@pytest.mark.nightly  # three machines, cold starts, and a node's grace
def test_what_a_sleeping_node_writes_after_its_work_was_moved_counts_for_nothing(make_site: MakeSite) -> None:
    site = make_site(has_machines=True)
    site.add_node(cpus=0)
    for name in ("b", "c"):
        site.add_node(name, cpus=1)
    site.add_agent()
    experiment, node = _with_runner_on_a_worker_node(site, "sleeper", steps=100, step_s=0.2)
    name = runner_name(experiment.id, 1)
    asleep = [process for process in node.processes() if process.name() != "nsenter"]
    for process in asleep:
        process.suspend()
    _await_attempts(site, experiment, 2)
    moved_at = _committed(site, experiment, 1)
    first = experiment.detail().attempts[0]
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, "node_lost")
    site.await_step(experiment, moved_at[-1] + 5)
    for process in (psutil.Process(pid) for pid in marked_processes(name)):
        process.resume()  # before the raylet, which would end them
    late = site.attempt(experiment, 1) / RESULT_FILE
    wait_for(late.exists, within_s=60, what="the result of a runner that does not know that it was given up")
    for process in asleep:
        process.resume()
    wait_for(lambda: not marked_processes(name), within_s=60, what="the end of what slept")
    _assert_well(site, experiment, num_attempts=2)
    assert experiment.detail().attempts[0] == first
    assert _committed(site, experiment, 1) == moved_at
    assert _resumed_at(experiment, 2) == [moved_at[-1]]


# ---- P4, A4: the head dies ------------------------------------------------------------------------------------------


@pytest.mark.nightly  # waits out the grace of a Ray session
def test_a_killed_head_is_another_session_and_after_its_grace_the_next_attempt_goes_on(make_site: MakeSite) -> None:
    site = make_site()
    head = site.add_node(cpus=1)
    site.add_agent()
    experiment = site.submit("lost-head", steps=120)
    site.await_step(experiment, 20)
    head.kill()
    killed_s = time.monotonic()
    site.until("the word unknown", lambda: experiment.detail().attempts[0].observation == Observation.UNKNOWN)
    head.start()
    _await_attempts(site, experiment, 2)
    assert time.monotonic() - killed_s >= GRACE_S
    first = experiment.detail().attempts[0]
    assert (first.outcome, first.reason) == (Outcome.INFRA_ERROR, SESSION_ENDED)
    _assert_well(site, experiment, num_attempts=2)
    assert _resumed_at(experiment, 2) == [max(_committed(site, experiment, 1))]


@needs_machines
@pytest.mark.nightly  # two machines, cold starts, and the grace of a Ray session
def test_an_agent_that_ray_ends_for_its_dead_head_is_started_again_and_says_unknown_meanwhile(
    make_site: MakeSite,
) -> None:
    site = make_site(has_machines=True)
    head, other = site.add_node(cpus=0), site.add_node("b", cpus=1)
    site.add_agent(on="b")
    experiment = site.submit("ended-agent", steps=200)
    site.await_step(experiment, 10)
    head.kill()
    killed_s = time.monotonic()
    name = runner_name(experiment.id, 1)
    site.until("the word unknown", lambda: experiment.detail().attempts[0].observation == Observation.UNKNOWN)
    wait_for(lambda: not marked_processes(name), within_s=60, what="the end of the attempt's processes")
    assert time.monotonic() - killed_s < GRACE_S, "the grace is meant to outlast everything of the old session"
    wait_for(lambda: "the agent has ended" in site.log(), within_s=GRACE_S + 30, what="the end of the agent")
    assert experiment.detail().attempts[0].outcome is None
    head.start()
    other.kill()
    other.start()
    _await_attempts(site, experiment, 2)
    assert experiment.detail().attempts[0].reason == SESSION_ENDED
    _assert_well(site, experiment, num_attempts=2)
    assert _resumed_at(experiment, 2) == [max(_committed(site, experiment, 1))]


# ---- P5: a head that keeps its tables -------------------------------------------------------------------------------


@pytest.mark.nightly  # a head that opens its tables again
def test_a_runner_outlives_a_head_that_keeps_its_tables(make_site: MakeSite, tmp_path: Path) -> None:
    kept = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(tmp_path / "tables")}
    site = make_site(ray_settings={**QUICK, **kept, "RAY_gcs_rpc_server_reconnect_timeout_s": "60"})
    head = site.add_node(cpus=0)
    site.add_node("b", cpus=1)
    site.add_agent()
    experiment, _ = _with_runner_on_a_worker_node(site, "kept-tables", steps=300, step_s=0.2)
    before = experiment.refresh().view.last_step or 0
    head.kill()
    site.until("the word unknown", lambda: experiment.detail().attempts[0].observation == Observation.UNKNOWN)
    head.start()
    site.until("the word present", lambda: experiment.detail().attempts[0].observation == Observation.PRESENT)
    site.await_step(experiment, before + 20)
    _assert_well(site, experiment, num_attempts=1)
    assert "worker_group_restarted" not in [event.kind for event in experiment.events()]


# ---- P19: a cut between nodes ---------------------------------------------------------------------------------------


@needs_machines
@pytest.mark.nightly  # three machines, cold starts, and a node's grace
def test_a_node_that_is_cut_off_is_followed_by_one_attempt_once_all_on_it_has_ended(make_site: MakeSite) -> None:
    patient = {**QUICK, "RAY_health_check_failure_threshold": "10"}  # 15 s until a node is given up, as by default
    site = make_site(has_machines=True, ray_settings=patient)
    site.add_node(cpus=0)
    for name in ("b", "c"):
        site.add_node(name, cpus=1)
    site.add_agent()
    experiment, node = _with_runner_on_a_worker_node(site, "cut-off", steps=150, step_s=0.2)
    first = runner_name(experiment.id, 1)
    node.machine.cut()
    wait_for(lambda: not marked_processes(first), within_s=120, what="the end of what was cut off")
    assert experiment.detail().attempts[0].outcome is None, "it counted as dead while it still ran"
    _await_attempts(site, experiment, 2)
    assert experiment.detail().attempts[0].reason == "node_lost"
    node.machine.heal()
    node.kill()
    node.start()
    _assert_well(site, experiment, num_attempts=2)
    assert _resumed_at(experiment, 2) == [max(_committed(site, experiment, 1))]


@needs_machines
@pytest.mark.nightly  # two machines and cold starts
def test_a_cut_that_heals_before_anybody_gives_up_ends_nothing(make_site: MakeSite) -> None:
    site = make_site(has_machines=True, ray_settings=SLOW)
    site.add_node(cpus=0)
    site.add_node("b", cpus=1)
    site.add_agent()
    experiment, node = _with_runner_on_a_worker_node(site, "short-cut", steps=200, step_s=0.2)
    node.machine.cut()
    site.until("the word unknown", lambda: experiment.detail().attempts[0].observation == Observation.UNKNOWN)
    node.machine.heal()
    site.until("the word present", lambda: experiment.detail().attempts[0].observation == Observation.PRESENT)
    _assert_well(site, experiment, num_attempts=1)
    assert "worker_group_restarted" not in [event.kind for event in experiment.events()]


# ---- P22: everything dies -------------------------------------------------------------------------------------------


@pytest.mark.nightly  # four programs that die and come back for each seed
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_killed_at_once_and_started_in_any_order_resumes(
    make_site: MakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    for name, value in client_environment().items():
        monkeypatch.setenv(name, value)
    mlflow = MlflowServer(tmp_path)
    mlflow.start()
    site = make_site(mlflow_url=mlflow.url)
    try:
        head = site.add_node(cpus=2)
        agent = site.add_agent()
        experiments = [site.submit(f"everything-{number}", steps=60 + 20 * number) for number in range(3)]
        site.await_step(experiments[0], 10)
        parts = [site.server.process, head.process, agent.process]
        kill_all(*(psutil.Process(part.pid) for part in parts if part is not None))
        mlflow.kill()
        starts = [mlflow.start, site.server.keep_running]
        starts += [partial(part.start, is_awaited=False) for part in (head, agent)]
        chance = random.Random(seed)
        chance.shuffle(starts)
        for start in starts:
            start()
            time.sleep(chance.uniform(0, 4))  # the pace of the schedule, not a wait for anything
        for experiment in experiments:
            _await_end(site, experiment)
            assert experiment.view.state is State.SUCCEEDED, experiment.view.reason
        assert site.broken_promises() == ()
        for experiment in experiments:
            site.until("all points in MLflow", partial(_is_recorded, site, experiment), within_s=90)
    finally:
        mlflow.stop()


def _is_recorded(site: Site, experiment: Experiment) -> bool:
    return not site.differences(experiment)

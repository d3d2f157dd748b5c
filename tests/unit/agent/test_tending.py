import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fairlead.agent.bundles import BundleCache
from fairlead.agent.cluster import Sighting
from fairlead.agent.control_plane import ControlPlane
from fairlead.agent.files import result_without_a_run
from fairlead.agent.reconcile import RunnerSeen
from fairlead.agent.shipping import MAX_BATCHES_A_TURN
from fairlead.agent.tending import LAUNCH_LIMIT_S, Lease, Surroundings, Tending
from fairlead.bundle import pack
from fairlead.errors import Unavailable
from fairlead.lifecycle import Observation, Outcome
from fairlead.protocol import (
    MAX_BATCH_POINTS,
    TRIALS_FILE,
    Amendment,
    LaunchDocument,
    StopCommand,
    StopMode,
    SweepLaunch,
    SweepOrders,
    TrialDocument,
)
from fairlead.run.messages import RunnerStatus
from fairlead.run.spool import SpoolWriter
from fairlead.run.storage import write_atomically
from fairlead.run.virtual import Conditions, Order
from fairlead.testing.control import AGENT_TOKEN, FakeAttempt, FakeControlPlane
from fairlead.testing.ray import a_launch, a_spec, wait_for

GAP_S = 10.0
NODE_GRACE_S = 75.0


@dataclass
class HandClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic_s(self) -> float:
        return self.seconds


@dataclass
class FakeCluster:
    """Ray in memory: whether there is a runner, what was asked of it, and what can be removed."""

    runner: RunnerSeen = RunnerSeen.NONE
    has_leftovers: bool = False
    given_up_s: dict[str, float] = field(default_factory=dict)
    can_launch: bool = True
    current_session: str = "session"
    is_answering: bool = True
    launched: list[Path | None] = field(default_factory=list)
    environments: list[Order | None] = field(default_factory=list)
    stops: list[StopMode] = field(default_factory=list)
    amended: list[SweepOrders] = field(default_factory=list)
    num_removals: int = 0
    during_a_look: Callable[[], None] | None = None
    """What happens once, when an agent has asked for a result and goes on with its look."""

    def session(self) -> str:
        happens, self.during_a_look = self.during_a_look, None
        if happens:
            happens()
        return self.current_session

    def look(self, runner_name: str, *, agent_epoch: int) -> Sighting:
        return Sighting(runner=self.runner, status=self.status() if self.runner is RunnerSeen.FOUND else None)

    def launch(
        self, document: LaunchDocument, *, code: Path | None, environment: Order | None, agent_epoch: int
    ) -> str:
        if not self.can_launch:
            raise Unavailable("no answer")
        self.launched.append(code)
        self.environments.append(environment)
        self.runner = RunnerSeen.FOUND
        return "begun"

    def stop(self, runner_name: str, command: StopCommand, *, agent_epoch: int) -> None:
        self.stops.append(command.mode)

    def amend(self, runner_name: str, orders: SweepOrders, *, agent_epoch: int) -> None:
        self.amended.append(orders)

    def remove(self, runner_name: str) -> bool:
        self.num_removals += 1
        self.runner = RunnerSeen.NONE
        return not self.has_leftovers

    def lost_nodes(self, runner_name: str) -> dict[str, float]:
        return self.given_up_s

    def status(self) -> RunnerStatus:
        heard = self.amended[-1] if self.amended else None
        told_no = heard.amendments[-1].no if heard and heard.amendments else 0
        return replace(a_status(), amendment_no=told_no, slots=heard.slots if heard else 0)


def a_status() -> RunnerStatus:
    return RunnerStatus(
        has_begun=True,
        is_finished=False,
        last_step=4,
        progress_age_s=1.0,
        node_id="node",
        pid=7,
        worker_pids={},
        ray_session="session",
        highest_agent_epoch=1,
    )


@dataclass
class Scene:
    tending: Tending
    cluster: FakeCluster
    clock: HandClock
    attempt: FakeAttempt
    directory: Path

    def begin(self, session: str = "session") -> None:
        self.directory.mkdir(parents=True)
        content = {"ray_session": session, "node_id": "node", "stall_timeout_s": 600}
        (self.directory / "BEGUN").write_text(json.dumps(content))

    def finish(self) -> None:
        document = self.attempt.document
        result = result_without_a_run(
            experiment_id=document.experiment_id,
            attempt_no=1,
            outcome=Outcome.SUCCEEDED,
            reason="completed",
            detail="",
            now=self.clock.now(),
        )
        write_atomically(self.directory / "result.json", result.model_dump_json().encode())

    def tick(self, seconds: float = 0.0) -> Any:
        self.clock.seconds += seconds
        self.tending.tick()
        return self.tending.observation()


@pytest.fixture
def plane() -> Iterator[FakeControlPlane]:
    made = FakeControlPlane()
    yield made
    made.close()


@pytest.fixture
def scene(plane: FakeControlPlane, tmp_path: Path) -> Iterator[Scene]:
    control = ControlPlane(plane.url, agent_token=AGENT_TOKEN)
    attempt = plane.offer(a_launch("exp", spec=a_spec(code=None)))
    attempt.token = "token"
    cluster, clock = FakeCluster(), HandClock()
    around = Surroundings(
        control=control,
        cluster=cluster,
        bundles=BundleCache(tmp_path / "cache", control),
        environments=Conditions(directory=tmp_path / "environments", build_s=900, max_bytes=10**9),
        clock=clock,
        storage=tmp_path,
        agent_epoch=1,
        evidence_gap_s=GAP_S,
        node_grace_s=NODE_GRACE_S,
        tick_s=3600,
    )
    document = attempt.document
    lease = Lease(
        attempt_id=document.attempt_id,
        experiment_id=document.experiment_id,
        attempt_no=1,
        runner_name=document.runner_name,
        token="token",
        storage_path=document.storage_path,
        document=document,
    )
    yield Scene(Tending(lease, around), cluster, clock, attempt, tmp_path / document.storage_path)
    control.close()


@pytest.mark.parametrize("files", [{"requirements.lock": b"lock"}, {"requirements.lock": b"lock", "more": b""}])
def test_the_lock_of_an_attempt_is_fetched_and_must_be_one_file(
    plane: FakeControlPlane, scene: Scene, tmp_path: Path, files: dict[str, bytes]
) -> None:
    (tmp_path / "lock").mkdir()
    for name, content in files.items():
        (tmp_path / "lock" / name).write_bytes(content)
    packed = pack(tmp_path / "lock")
    plane.bundles[packed.sha256] = packed.content
    spec = a_spec(code=None, environment={"requirements": f"sha256:{packed.sha256}"})
    document = scene.attempt.document.amended(spec=spec)
    scene.tending.lease = replace(scene.tending.lease, document=document)
    scene.tick()
    if len(files) == 1:
        (order,) = scene.cluster.environments
        assert order is not None
        assert (order.lock, order.directory) == (b"lock", str(tmp_path / "environments"))
    else:
        assert scene.cluster.environments == []
        result = json.loads((scene.directory / "result.json").read_text())
        assert (result["outcome"], result["reason"]) == (
            "user_error",
            "bad_bundle: the bundle of the lock holds 2 files, and must hold one",
        )


def test_a_leased_attempt_is_launched_once_and_its_start_reported(scene: Scene) -> None:
    scene.tick()
    scene.begin()
    seen = scene.tick()
    scene.tick()
    assert scene.cluster.launched == [None]
    assert (seen.observation, seen.last_step) == (Observation.PRESENT, 4)
    assert scene.attempt.started is not None
    assert scene.attempt.started.pid == 7


def test_a_lease_that_this_release_cannot_carry_out_is_given_back_with_the_reason(scene: Scene) -> None:
    scene.tending.lease = replace(scene.tending.lease, document=None, refusal="no such key")
    scene.tick()
    scene.tick()
    assert scene.cluster.launched == []
    assert scene.attempt.claim is not None
    result = scene.attempt.claim.result
    assert (result.outcome, result.reason, result.detail) == (Outcome.INFRA_ERROR, "environment", "no such key")


def test_a_launch_that_never_works_ends_as_an_infrastructure_error(scene: Scene) -> None:
    scene.cluster.can_launch = False
    scene.tick()
    assert scene.tick(LAUNCH_LIMIT_S - 1).observation is Observation.ABSENT
    scene.tick(2)
    scene.tick()
    assert scene.attempt.claim is not None
    result = scene.attempt.claim.result
    assert (result.outcome, result.reason) == (Outcome.INFRA_ERROR, "environment")


def test_an_attempt_cancelled_before_it_began_is_never_launched(scene: Scene) -> None:
    scene.tending.obey(StopCommand(attempt_id="exp-1", mode=StopMode.CANCEL, grace_s=10))
    scene.tick()
    scene.tick()
    assert scene.cluster.launched == []
    assert scene.attempt.claim is not None
    assert scene.attempt.claim.result.outcome is Outcome.CANCELLED


def test_a_death_is_proven_by_two_sightings_with_a_gap_and_after_the_harvest(scene: Scene) -> None:
    scene.begin()
    spool = SpoolWriter(scene.directory)
    spool.metrics({"loss": 1.0}, step=0, at_ms=0)
    spool.close()
    first, early, late = scene.tick(), scene.tick(GAP_S - 1), scene.tick(2)
    assert [seen.has_evidence_of_death for seen in (first, early, late)] == [False, False, True]
    assert (late.observation, late.death_reason) == (Observation.ABSENT, "runner_died")
    assert scene.attempt.steps("loss") == [0]


def test_leftovers_put_the_proof_off(scene: Scene) -> None:
    scene.begin()
    scene.tick()
    scene.cluster.has_leftovers = True
    assert scene.tick(GAP_S).observation is Observation.PRESENT  # a stop that it defies must be seen to be defied
    scene.cluster.has_leftovers = False
    assert not scene.tick().has_evidence_of_death
    assert scene.tick(GAP_S).has_evidence_of_death


@pytest.mark.parametrize(("node", "reason"), [("node", "node_lost"), ("that of a rank", "runner_died")])
def test_what_ran_on_a_node_that_cannot_be_asked_counts_as_dead_only_after_the_grace_of_nodes(
    scene: Scene, node: str, reason: str
) -> None:
    scene.begin()
    scene.cluster.given_up_s = {node: 1.0, "one lost hours ago": 10_000.0}
    scene.tick()
    early = scene.tick(GAP_S)
    assert (early.observation, early.has_evidence_of_death) == (Observation.UNKNOWN, False)
    scene.cluster.given_up_s[node] = NODE_GRACE_S
    seen = scene.tick()
    assert (seen.observation, seen.has_evidence_of_death, seen.death_reason) == (Observation.ABSENT, True, reason)


def test_the_loss_of_a_ray_session_is_for_the_control_plane_to_wait_out(scene: Scene) -> None:
    scene.begin(session="the one before")
    scene.tick()
    seen = scene.tick(10 * GAP_S)
    assert (seen.observation, seen.has_evidence_of_death) == (Observation.UNKNOWN, False)
    assert scene.attempt.started is not None  # it may have died before anyone was told in which session it began
    assert scene.attempt.started.ray_session == "the one before"


def test_a_death_is_not_proven_while_records_wait_to_be_shipped(scene: Scene) -> None:
    scene.begin()
    spool = SpoolWriter(scene.directory)
    num_records = (MAX_BATCHES_A_TURN + 1) * MAX_BATCH_POINTS
    for step in range(num_records):
        spool.metrics({"loss": 1.0}, step=step, at_ms=0)
    spool.close()
    first, second = scene.tick(), scene.tick(GAP_S)
    assert [seen.has_evidence_of_death for seen in (first, second)] == [False, False]
    assert scene.tick(GAP_S).has_evidence_of_death
    assert len(scene.attempt.steps("loss")) == num_records


def test_a_result_counts_whatever_ray_says(scene: Scene) -> None:
    scene.begin()
    scene.finish()
    scene.cluster.runner = RunnerSeen.RAY_AWAY
    scene.tick()
    assert scene.attempt.claim is not None
    scene.cluster.has_leftovers = True
    scene.tick()
    assert (scene.tending.is_done, scene.tending.is_leaving) == (False, True)
    scene.cluster.has_leftovers = False
    scene.tick()
    assert (scene.tending.is_done, scene.tending.is_leaving) == (True, False)


def test_what_never_ends_hurries_others_for_ten_seconds_only(scene: Scene) -> None:
    scene.cluster.has_leftovers = True
    scene.tending.end()
    hurries = []
    for seconds in (1, 8, 2, 600):
        scene.tick(seconds)
        scene.tending.end()  # the server repeats it in every answer
        hurries.append(scene.tending.is_leaving)
    assert hurries == [True, True, False, False]
    assert not scene.tending.is_done


@pytest.mark.parametrize("comes", ["between looks", "during a look"])
def test_a_result_is_claimed_long_before_the_next_look_is_due(scene: Scene, comes: str) -> None:
    scene.begin()
    scene.cluster.runner = RunnerSeen.FOUND
    if comes == "during a look":
        scene.cluster.during_a_look = scene.finish
    scene.tending.start()
    try:
        wait_for(lambda: scene.tending.observation().observation is Observation.PRESENT, within_s=20, what="a look")
        if comes == "between looks":
            scene.finish()
        claim = wait_for(lambda: scene.attempt.claim, within_s=20, what="a claim")
        assert claim.result.outcome is Outcome.SUCCEEDED
    finally:
        scene.tending.leave()
        scene.tending.join(20)


def test_a_result_that_the_server_refuses_ends_the_attempt_all_the_same(scene: Scene) -> None:
    scene.begin()
    scene.finish()
    scene.attempt.refuses_success = True
    scene.tick()
    assert scene.attempt.claim is not None
    result = scene.attempt.claim.result
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "bad_result")
    assert "refused" in result.detail


def test_a_refused_token_kills_nothing(scene: Scene) -> None:
    scene.begin()
    scene.cluster.runner = RunnerSeen.FOUND
    scene.attempt.token = "that of a newer agent"
    scene.tick()
    scene.tick()
    assert scene.cluster.num_removals == 0
    scene.tending.end()
    scene.tick()
    assert scene.cluster.num_removals == 1


def test_a_runner_that_does_not_stop_is_killed_after_grace_and_more(scene: Scene) -> None:
    scene.begin()
    scene.cluster.runner = RunnerSeen.FOUND
    scene.tending.obey(StopCommand(attempt_id="exp-1", mode=StopMode.CANCEL, grace_s=10))
    scene.tick(39)
    assert (scene.cluster.stops, scene.cluster.num_removals) == ([StopMode.CANCEL], 0)
    scene.tick(2)
    assert scene.cluster.num_removals == 1


def test_an_outage_of_the_control_plane_changes_nothing_here(scene: Scene, plane: FakeControlPlane) -> None:
    scene.begin()
    scene.cluster.runner = RunnerSeen.FOUND
    plane.is_away = True
    assert scene.tick(3600).observation is Observation.PRESENT
    assert scene.cluster.num_removals == 0


def test_the_trials_of_a_sweep_are_laid_down_before_its_runner_is_started(scene: Scene) -> None:
    scene.attempt.earlier_trials = [
        TrialDocument(no=no, state="succeeded", params={"lr": 0.1}, values={"loss": float("nan")}) for no in range(5)
    ]
    document = scene.attempt.document.amended(sweep=SweepLaunch(slots=2, num_trials=5))
    scene.tending.lease = replace(scene.tending.lease, document=document)
    scene.tick()
    lines = (scene.directory / TRIALS_FILE).read_text().splitlines()
    assert [TrialDocument.model_validate_json(line).no for line in lines] == [0, 1, 2, 3, 4]
    assert scene.cluster.launched == [None]


def test_a_sweep_whose_trials_cannot_be_fetched_is_not_started_yet(plane: FakeControlPlane, scene: Scene) -> None:
    document = scene.attempt.document.amended(sweep=SweepLaunch(slots=2, num_trials=5))
    scene.tending.lease = replace(scene.tending.lease, document=document)
    plane.is_away = True
    scene.tick()
    assert scene.cluster.launched == []
    plane.is_away = False
    scene.tick()
    assert scene.cluster.launched == [None]


def test_amendments_reach_the_runner_once_and_the_server_hears_that_they_did(scene: Scene) -> None:
    scene.cluster.runner = RunnerSeen.FOUND
    scene.begin()
    orders = SweepOrders(attempt_id="exp-1", slots=2, amendments=(Amendment(no=1, kind="finish"),))
    scene.tending.amend(orders)
    seen = [scene.tick() for _ in range(3)]
    assert [(one.amendment_no, one.slots) for one in seen] == [(0, 0), (1, 2), (1, 2)]
    assert scene.cluster.amended == [orders]

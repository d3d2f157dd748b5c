"""Quota, shares, preemption and budgets on both databases, ticked by hand; agents write as the api writes for them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fairlead.control.dispatch import Dispatch
from fairlead.control.leader import Leadership, Term
from fairlead.control.settle import Settle
from fairlead.control.situation import look
from fairlead.data import find_manifests
from fairlead.forecast import forecast
from fairlead.lifecycle import Outcome, State
from fairlead.placement import place_in_order
from fairlead.protocol import StopMode
from fairlead.search.trials import TrialState
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, clusters, events, exclusions, experiments, projects
from fairlead.store.projects import Held, Quota
from fairlead.store.tables import AmendmentRow, AttemptRow, ExperimentRow, TrialRow
from fairlead.testing import FakeClock, a_spec
from fairlead.testing.failpoints import Crash, armed
from fairlead.testing.stored import a_node, an_attach_request

MANIFESTS = find_manifests()


@dataclass
class Plane:
    """Dispatch and settle, whose time and ticks are the test's."""

    store: Store
    clock: FakeClock
    settings: ControlSettings

    def __post_init__(self) -> None:
        common: dict[str, Any] = {"store": self.store, "clock": self.clock, "settings": self.settings}
        self.dispatch = Dispatch(**common, manifests=MANIFESTS)
        self.settle = Settle(**common, uniform=lambda low, high: high)

    def submit(self, key: str, **changes: Any) -> None:
        with self.store.write() as session:
            experiments.insert(
                session, experiment_id=key, spec=a_spec(**changes), actor="u", now=self.clock.now(), total_steps=None
            )
        self.clock.advance(1)

    def attach(self, *cpus: float, name: str = "local", labels: dict[str, str] | None = None, gpus: float = 0) -> None:
        nodes = [a_node(f"{name}-{i}", cpus=each, gpus=gpus) for i, each in enumerate(cpus)]
        with self.store.write() as session:
            clusters.attach(session, name, an_attach_request(nodes=nodes), now=self.clock.now())
            clusters.get(session, name).labels = labels

    def ray_calls_free(self, cpus: float) -> None:
        """On the only node, in the agent's last words."""
        with self.store.write() as session:
            row = clusters.get(session, "local")
            row.nodes = [{**row.nodes[0], "free_cpus": cpus}]

    def begin(self, key: str, attempt_no: int = 1) -> None:
        """The agent takes it, and its runner begins."""
        with self.store.write() as session:
            row = attempts.get(session, attempts.attempt_id(key, attempt_no))
            attempts.lease(session, row.id, cluster=row.cluster, token="fl_x_y", now=self.clock.now())
            attempts.write_if_open(session, row.id, started_at=self.clock.now(), ray_session="session-1")
        self.settle()

    def end(self, key: str, outcome: Outcome, *, attempt_no: int = 1, reason: str = "because") -> None:
        with self.store.write() as session:
            attempt_id = attempts.attempt_id(key, attempt_no)
            attempts.end(session, attempt_id, outcome=outcome, reason=reason, now=self.clock.now(), result={})
        self.settle()

    def quota(self, project: str, **limits: Any) -> None:
        with self.store.write() as session:
            projects.ensure(session, project, now=self.clock.now())
            projects.amend(session, project, quota=Quota(**limits), weight=1)

    def row(self, key: str) -> ExperimentRow:
        with self.store.read() as session:
            return experiments.get(session, key)

    def attempt(self, key: str, attempt_no: int = 1) -> AttemptRow:
        with self.store.read() as session:
            return attempts.get(session, attempts.attempt_id(key, attempt_no))

    def held(self, project: str) -> Held:
        with self.store.read() as session:
            return projects.held(session).get(project, Held())

    def used(self, project: str) -> float:
        with self.store.read() as session:
            return look(session, self.settings, self.clock.now()).accounts[project].used

    def states(self, *keys: str) -> list[str]:
        return [self.row(key).state for key in keys]


@pytest.fixture
def plane(store: Store, clock: FakeClock, tmp_path: Path) -> Plane:
    key = tmp_path / "secret.key"
    key.write_bytes(b"k" * 32)
    settings = ControlSettings(
        database_url="sqlite://",
        storage=tmp_path / "storage",
        mlflow_url="http://127.0.0.1:1",
        secret_key_file=key,
        launches_per_cluster=100,
        agent_ttl_s=1e9,
    )
    return Plane(store, clock, settings)


@pytest.mark.parametrize("free", [2, 1], ids=["Ray does not show it yet", "Ray shows it"])
def test_what_began_a_moment_ago_is_counted_once(plane: Plane, free: float) -> None:
    plane.attach(2)
    plane.submit("holder")
    plane.dispatch()
    plane.begin("holder")
    plane.ray_calls_free(free)
    plane.submit("head", resources={"workers": 2})
    plane.dispatch()
    assert "local has 1 CPUs free now, room for 1 of 2 workers" in str(plane.row("head").waiting)
    with plane.store.read() as session:
        here = look(session, plane.settings, plane.clock.now())
        found = forecast(experiments.candidates(session), here.clusters, here.accounts)
    assert found["head"].in_s is not None
    assert found["head"].in_s > 0, "when the holder is over"


def test_what_others_use_in_ray_is_not_given_away(plane: Plane) -> None:
    plane.attach(4)
    plane.submit("holder")
    plane.dispatch()
    plane.begin("holder")
    plane.clock.advance(60)
    plane.ray_calls_free(1)  # the holder's CPU, and two of somebody else's
    plane.submit("pair", resources={"workers": 2})
    plane.dispatch()
    assert "local has 1 CPUs free now" in str(plane.row("pair").waiting)


def test_a_quota_holds_whatever_crashes_and_frees_with_the_attempt(plane: Plane) -> None:
    plane.attach(8)
    plane.quota("p", cpus=2)
    for i in range(3):
        plane.submit(f"e{i}", project="p")
    with armed("dispatch.placed", "crash"), pytest.raises(Crash):
        plane.dispatch()
    assert plane.held("p") == Held(workers=1, cpus=1, experiments=1)
    plane.dispatch()
    assert plane.states("e0", "e1", "e2") == ["placed", "placed", "queued"]
    assert plane.row("e2").waiting == "quota_in_use: needs 1 CPUs; the project may hold 2, 2 of which are in use"
    plane.begin("e0")
    plane.end("e0", Outcome.USER_ERROR)
    plane.dispatch()
    assert plane.row("e2").state == State.PLACED
    assert plane.held("p").cpus == 2


def test_a_quota_made_smaller_during_a_round_is_kept(plane: Plane) -> None:
    """The round has decided already: the placement itself looks again."""
    plane.attach(8)
    plane.submit("e", project="p")
    plane.dispatch()
    plane.submit("f", project="p")
    plane.dispatch._admit_accepted()
    with plane.store.read() as session:
        (candidate,) = experiments.candidates(session)
        here = look(session, plane.settings, plane.clock.now())
    decided = place_in_order([candidate], here.clusters, launches_per_cluster=None, accounts=here.accounts)
    plane.quota("p", experiments=1)
    assert not plane.dispatch._open_attempt(*decided.placed[0])
    assert plane.row("f").state == State.QUEUED


def test_use_is_charged_once_and_decides_who_is_next(plane: Plane) -> None:
    plane.attach(1)
    plane.submit("p1", project="p")
    plane.dispatch()
    plane.begin("p1")
    plane.clock.advance(1000)
    assert plane.used("p") == pytest.approx(1000, rel=0.01)
    plane.end("p1", Outcome.USER_ERROR)
    plane.settle()
    assert plane.used("p") == pytest.approx(1000, rel=0.01)
    assert plane.row("p1").spent_s == pytest.approx(1000, rel=0.01)
    plane.submit("p2", project="p")
    plane.submit("q1", project="q")
    plane.dispatch()
    assert plane.states("p2", "q1") == ["queued", "placed"]
    plane.clock.advance(plane.settings.half_life_s)
    assert plane.used("p") == pytest.approx(500, rel=0.01)


def test_a_more_urgent_one_has_a_preemptible_one_stopped_which_keeps_its_place(plane: Plane) -> None:
    plane.attach(2)
    plane.submit("low", resources={"workers": 2}, policy={"priority": 10, "preemptible": True})
    plane.dispatch()
    plane.begin("low")
    place_before = plane.row("low").enqueued_at
    plane.submit("high", resources={"workers": 1}, policy={"priority": 90})
    plane.dispatch()
    assert plane.attempt("low").stop_mode == StopMode.PREEMPT
    assert str(plane.row("high").waiting).startswith("preempting: attempts on local are being stopped")
    plane.dispatch()
    with plane.store.read() as session:
        assert len(events.of_kind(session, "low", "preempting")) == 1
    plane.end("low", Outcome.PREEMPTED, reason="preempted")
    assert plane.row("low").state == State.QUEUED
    assert plane.row("low").reason == "preempted: room for priority 90, experiment high"
    assert plane.row("low").enqueued_at == place_before
    plane.dispatch()
    assert plane.states("high", "low") == ["placed", "queued"]


def test_nobody_is_preempted_more_often_than_the_bound(plane: Plane) -> None:
    plane.attach(1)
    plane.submit("low", policy={"priority": 10, "preemptible": True})
    for number in range(1, plane.settings.max_preemptions + 2):
        plane.dispatch()
        plane.begin("low", number)
        plane.submit(f"high{number}", policy={"priority": 90})
        plane.dispatch()
        is_last = number > plane.settings.max_preemptions
        assert (plane.attempt("low", number).stop_mode is None) is is_last
        if is_last:
            assert str(plane.row(f"high{number}").waiting).startswith("resources_in_use")
            return
        plane.end("low", Outcome.PREEMPTED, attempt_no=number, reason="preempted")
        plane.dispatch()
        plane.begin(f"high{number}")
        plane.end(f"high{number}", Outcome.USER_ERROR)


def test_an_offer_nobody_has_taken_is_taken_back_for_a_more_urgent_one(plane: Plane) -> None:
    plane.attach(1)
    plane.submit("low", policy={"priority": 10, "preemptible": True})
    plane.dispatch()
    plane.submit("high", policy={"priority": 90})
    plane.dispatch()
    plane.settle()
    assert plane.row("low").state == State.QUEUED
    plane.dispatch()
    assert plane.states("high", "low") == ["placed", "queued"]


def test_a_spent_budget_stops_it_and_nothing_begins_again(plane: Plane) -> None:
    plane.attach(2)
    plane.submit("e", resources={"workers": 2}, budget={"cpu_hours": 1})
    plane.dispatch()
    plane.begin("e")
    plane.clock.advance(1790)
    plane.settle()
    assert plane.attempt("e").stop_mode is None
    plane.clock.advance(20)
    plane.settle()
    assert plane.attempt("e").stop_mode == StopMode.BUDGET
    plane.end("e", Outcome.OVER_BUDGET, reason="budget spent")
    assert plane.row("e").state == State.FAILED
    assert plane.row("e").reason == "over_budget: 1.01 of 1 CPU hours are spent"


def test_idle_workers_end_the_experiment_whatever_retries_are_left(plane: Plane) -> None:
    plane.attach(2)
    plane.submit("e", policy={"idle_limit_s": 600, "retries": {"infra": 9}})
    plane.dispatch()
    plane.begin("e")
    plane.end("e", Outcome.OVER_BUDGET, reason="idle: the workers used 0.2 CPU seconds in 600 s")
    assert plane.states("e") == ["failed"]
    assert plane.row("e").reason == "over_budget: idle: the workers used 0.2 CPU seconds in 600 s"


def test_gpu_hours_are_counted_over_all_attempts(plane: Plane) -> None:
    plane.attach(4, gpus=4)
    plane.submit("e", resources={"workers": 2, "gpus_per_worker": 2}, budget={"gpu_hours": 4})
    plane.dispatch()
    plane.begin("e")
    plane.clock.advance(1800)
    plane.end("e", Outcome.PREEMPTED, reason="preempted")
    plane.dispatch()
    plane.begin("e", 2)
    plane.clock.advance(1700)
    plane.settle()
    assert plane.attempt("e", 2).stop_mode is None
    plane.clock.advance(200)
    plane.settle()
    assert plane.attempt("e", 2).stop_mode == StopMode.BUDGET
    assert plane.attempt("e", 2).stop_reason == "4.11 of 4 GPU hours are spent"


def test_a_retry_without_any_budget_left_is_over_before_it_is_offered(plane: Plane) -> None:
    plane.attach(1)
    plane.submit("e", budget={"cpu_hours": 0.1})
    plane.dispatch()
    plane.begin("e")
    plane.clock.advance(400)
    plane.end("e", Outcome.INFRA_ERROR, reason="node_lost")
    plane.clock.advance(600)
    plane.dispatch()
    plane.settle()
    assert plane.attempt("e", 2).outcome == Outcome.OVER_BUDGET
    assert plane.row("e").state == State.FAILED


def test_labels_and_alternatives_choose_cluster_and_size(plane: Plane) -> None:
    plane.attach(8, name="a", labels={"kind": "old"})
    plane.attach(1, name="b", labels={"kind": "new"})
    wish = {"workers": 2, "labels": {"kind": "new"}, "any_of": [{"workers": 3, "labels": {"kind": "old"}}]}
    plane.submit("e", resources=wish)
    plane.submit("only-new", resources={"workers": 2, "labels": {"kind": "new"}})
    plane.dispatch()
    attempt = plane.attempt("e")
    assert (attempt.cluster, attempt.workers, attempt.alternative, attempt.plan) == ("a", 3, 1, {"a-0": 3})
    assert "with kind=new; a has 8 CPUs" in str(plane.row("only-new").waiting)


def test_an_excluded_node_gets_nothing(plane: Plane) -> None:
    plane.attach(2, 2)
    with plane.store.write() as session:
        exclusions.exclude(session, "local", "local-0", reason="it burns", by="ada", now=plane.clock.now())
    plane.submit("e", resources={"workers": 2})
    plane.submit("f", resources={"workers": 3})
    plane.dispatch()
    assert plane.attempt("e").plan == {"local-1": 2}
    assert str(plane.row("f").waiting).startswith("nodes_excluded: needs 3 CPUs for 3 workers; local has 2 CPUs")
    with plane.store.write() as session:
        assert exclusions.readmit(session, "local", "local-0", now=plane.clock.now())
    plane.end("e", Outcome.SUCCEEDED)
    plane.submit("g", resources={"workers": 5})
    plane.dispatch()
    assert plane.states("f") == ["placed"]
    assert str(plane.row("g").waiting).startswith("no_cluster_fits:")


# ---- nodes on which one experiment after the other dies -------------------------------------------------------------


def excluded(plane: Plane) -> list[str]:
    with plane.store.read() as session:
        return [one.node_id for one in exclusions.on(session, "local")]


def dies(plane: Plane, key: str, *nodes: str, reason: str = "worker_died", outcome: str = "infra_error") -> None:
    """A new experiment, of which ranks die there, or whose runner does."""
    plane.submit(key)
    plane.dispatch()
    plane.begin(key)
    with plane.store.write() as session:
        attempt_id = attempts.attempt_id(key, 1)
        result = None if reason == "runner_died" else {"died_on": list(nodes)}
        attempts.write_if_open(session, attempt_id, node_id=nodes[0] if reason == "runner_died" else "local-2")
        attempts.end(session, attempt_id, outcome=Outcome(outcome), reason=reason, now=plane.clock.now(), result=result)
    plane.settle()


def told(plane: Plane, key: str) -> list[tuple[str, str, dict[str, Any]]]:
    with plane.store.read() as session:
        found = events.after(session, key, 0, limit=100)
    return [(one.actor, one.reason, one.payload) for one in found if one.kind == "node_excluded"]


def test_a_node_on_which_three_experiments_die_gets_no_more_workers(plane: Plane) -> None:
    plane.attach(8, 8, 8)
    dies(plane, "a", "local-0")
    dies(plane, "b", "local-0", reason="runner_died")
    dies(plane, "elsewhere", "local-1")
    dies(plane, "unnamed")
    assert excluded(plane) == []
    dies(plane, "c", "local-0")
    assert excluded(plane) == ["local-0"]
    why = "attempts of 3 experiments have died there within a day (worker_died, runner_died, worker_died)"
    reason = f"node local-0 of cluster local gets no more workers until it is readmitted: {why}"
    assert told(plane, "c") == [("settle", reason, {"cluster": "local", "node": "local-0"})]
    with plane.store.read() as session:
        (row,) = exclusions.on(session, "local")
    assert (row.reason, row.created_by, row.created_at) == (why, "settle", plane.clock.now())
    plane.submit("next", resources={"workers": 8})
    plane.dispatch()
    assert "local-0" not in (plane.attempt("next").plan or {})
    dies(plane, "d", "local-0")
    assert told(plane, "d") == [], "it is excluded already"


def test_a_node_that_was_readmitted_needs_three_new_deaths(plane: Plane) -> None:
    plane.attach(8, 8)
    for key in "abc":
        dies(plane, key, "local-0")
    plane.clock.advance(10)
    with plane.store.write() as session:
        assert exclusions.readmit(session, "local", "local-0", now=plane.clock.now())
        assert not exclusions.readmit(session, "local", "local-0", now=plane.clock.now())
    for key in "de":
        dies(plane, key, "local-0")
    assert excluded(plane) == []
    dies(plane, "f", "local-0")
    assert excluded(plane) == ["local-0"]


def test_old_deaths_and_those_that_follow_an_experiment_do_not_count(plane: Plane) -> None:
    plane.attach(8, 8, 8)
    dies(plane, "a", "local-0")
    plane.clock.advance(86_400)
    dies(plane, "b", "local-0")
    dies(plane, "c", "local-0", "local-1")
    dies(plane, "d", "local-0", outcome="oom")
    dies(plane, "e", "local-0")
    assert excluded(plane) == []
    dies(plane, "f", "local-0")
    assert excluded(plane) == ["local-0"]


def test_the_last_node_is_not_excluded_by_the_platform(plane: Plane) -> None:
    plane.attach(8, 8, 0)  # the last is a head without CPUs
    with plane.store.write() as session:
        exclusions.exclude(session, "local", "local-1", reason="it burns", by="ada", now=plane.clock.now())
    for key in "abcd":
        dies(plane, key, "local-0")
    assert excluded(plane) == ["local-1"]


def test_a_crash_after_an_exclusion_repeats_all_of_it_or_nothing(plane: Plane) -> None:
    plane.attach(8, 8)
    for key in "ab":
        dies(plane, key, "local-0")
    with pytest.raises(Crash), armed("settle.moving"):
        dies(plane, "c", "local-0")
    assert (excluded(plane), told(plane, "c")) == ([], [])
    plane.settle()
    assert (excluded(plane), len(told(plane, "c"))) == (["local-0"], 1)


def test_a_new_term_forgets_the_reasons_of_the_one_before(plane: Plane) -> None:
    """Another leader wrote others meanwhile, and a reason has no version."""
    plane.attach(2)
    plane.submit("e", resources={"workers": 4})
    term = Term(leadership=Leadership(store=plane.store, clock=plane.clock, is_sole=True, ttl_s=15), epoch=1)
    dispatch = replace(plane.dispatch, term=term)
    dispatch()
    reason = plane.row("e").waiting
    with plane.store.write() as session:
        experiments.explain(session, {"e": "what another leader saw"})
    dispatch()
    assert plane.row("e").waiting == "what another leader saw", "it is not read again: nobody else writes it"
    term.epoch = 3
    dispatch()
    assert plane.row("e").waiting == reason


def test_reasons_are_written_when_they_change_and_only_then(plane: Plane) -> None:
    plane.submit("e", resources={"workers": 4})
    plane.dispatch()
    assert str(plane.row("e").waiting).startswith("no_cluster:")
    plane.attach(2)
    plane.dispatch()
    assert str(plane.row("e").waiting).startswith("no_cluster_fits:")
    before = plane.row("e")
    plane.clock.advance(60)
    plane.dispatch()
    assert (plane.row("e").version, plane.row("e").updated_at) == (before.version, before.updated_at)
    plane.attach(4)
    plane.dispatch()
    assert plane.row("e").waiting is None


def test_a_spec_that_nobody_can_read_waits_and_those_admitted_with_it_do_not(plane: Plane) -> None:
    for key in ("e1", "e2", "e3"):
        plane.submit(key)
    with plane.store.write() as session:
        experiments.get(session, "e2").spec = {"workload": 7}
    plane.dispatch()
    assert [plane.row(key).state for key in ("e1", "e2", "e3")] == [State.QUEUED, State.ACCEPTED, State.QUEUED]
    with plane.store.read() as session:
        assert [len(events.after(session, key, 0)) for key in ("e1", "e2", "e3")] == [2, 1, 2]


# ---- sweeps ---------------------------------------------------------------------------------------------------------

SWEEP: dict[str, Any] = {
    "params": {},
    "search": {"space": {"lr": {"log_uniform": [1e-4, 1e-1]}}, "objectives": [{"minimize": "validation/loss"}]},
}


def a_sweep(trials: int = 100, **changes: Any) -> dict[str, Any]:
    return {**SWEEP, **changes, "search": {**SWEEP["search"], "trials": trials, **changes.get("search", {})}}


def slots(plane: Plane, key: str) -> int:
    attempt = plane.attempt(key)
    assert attempt.trial_workers is not None
    return attempt.workers // attempt.trial_workers


def told_of_sizes(plane: Plane, key: str) -> list[tuple[str, int]]:
    with plane.store.read() as session:
        log = events.after(session, key, 0, limit=1000)
    return [(one.kind, one.payload["slots"]) for one in log if one.kind in ("grown", "shrunk")]


def amend(plane: Plane, key: str, no: int, kind: str, **payload: Any) -> None:
    with plane.store.write() as session:
        session.add(
            AmendmentRow(
                experiment_id=key, no=no, kind=kind, payload=payload, actor="ada", created_at=plane.clock.now()
            )
        )


def a_trial(key: str, no: int, *, state: TrialState) -> TrialRow:
    empty: dict[str, Any] = {"params": {}, "values": {}, "metrics": {}, "curves": {}}
    return TrialRow(
        experiment_id=key, no=no, attempt_no=no, state=state, origin="proposed", reason="", detail="", tries=1, **empty
    )


def test_a_sweep_grows_once_the_room_beside_it_is_free(plane: Plane) -> None:
    plane.attach(4)
    plane.submit("holder", resources={"workers": 3})
    plane.dispatch()
    plane.begin("holder")
    plane.submit("sweep", **a_sweep())
    plane.dispatch()
    assert slots(plane, "sweep") == 1
    plane.begin("sweep")
    plane.end("holder", Outcome.SUCCEEDED)
    assert plane.dispatch(), "agents are to hear of it at once"
    attempt = plane.attempt("sweep")
    assert (slots(plane, "sweep"), attempt.cpus, attempt.plan) == (4, 4, {"local-0": 4})
    assert told_of_sizes(plane, "sweep") == [("grown", 4)]
    assert plane.held("default") == Held(workers=4, cpus=4, experiments=1)
    assert not plane.dispatch()


def test_a_sweep_is_stored_with_all_its_wishes_and_begins_with_what_fits(plane: Plane) -> None:
    plane.attach(5)
    plane.submit("sweep", **a_sweep(resources={"workers": 2}))
    plane.submit("one", **a_sweep(trials=1))
    plane.dispatch()
    assert (plane.attempt("sweep").workers, plane.attempt("sweep").trial_workers, slots(plane, "one")) == (4, 2, 1)


def test_a_sweep_gives_a_slot_to_who_waits_who_begins_when_ray_shows_the_room(plane: Plane) -> None:
    plane.attach(4)
    plane.submit("sweep", **a_sweep())
    plane.dispatch()
    plane.begin("sweep")
    plane.ray_calls_free(0)
    plane.clock.advance(60)
    plane.submit("late")
    plane.dispatch()
    assert (slots(plane, "sweep"), told_of_sizes(plane, "sweep")) == (3, [("shrunk", 3)])
    assert str(plane.row("late").waiting) == "preempting: sweeps on local give slots back to make room"
    plane.dispatch()
    assert (slots(plane, "sweep"), plane.row("late").state) == (3, State.QUEUED), "its room is on its way"
    plane.ray_calls_free(1)
    plane.dispatch()
    assert plane.row("late").state == State.PLACED


def test_amendments_say_how_many_trials_at_a_time_there_are(plane: Plane) -> None:
    plane.attach(8)
    plane.submit("sweep", **a_sweep(search={"concurrency": 2}))
    plane.dispatch()
    plane.begin("sweep")
    plane.dispatch()
    assert slots(plane, "sweep") == 2
    amend(plane, "sweep", 1, "concurrency", concurrency=5)
    plane.dispatch()
    assert slots(plane, "sweep") == 5
    amend(plane, "sweep", 2, "concurrency", concurrency=1)
    plane.dispatch()
    assert slots(plane, "sweep") == 1
    amend(plane, "sweep", 3, "finish")
    amend(plane, "sweep", 4, "concurrency", concurrency=8)
    plane.clock.advance(100)
    plane.dispatch()
    assert slots(plane, "sweep") == 1


def test_a_sweep_wants_no_more_slots_than_trials_are_left_and_more_with_those_that_are_added(plane: Plane) -> None:
    plane.attach(8)
    plane.submit("sweep", **a_sweep(trials=4, search={"concurrency": 6}))
    plane.dispatch()
    plane.begin("sweep")
    assert slots(plane, "sweep") == 4
    amend(plane, "sweep", 1, "add_trials", trials=4)
    plane.dispatch()
    assert slots(plane, "sweep") == 6
    with plane.store.write() as session:
        experiments.set_columns(session, "sweep", sweep={"finished": 7})
    plane.submit("late", resources={"workers": 6}, policy={"priority": 1})
    plane.dispatch()
    assert slots(plane, "sweep") == 2, "what it has no trials for anybody may have"


def test_a_sweep_that_goes_on_is_given_slots_for_what_is_left_of_it(plane: Plane) -> None:
    plane.attach(8)
    plane.submit("sweep", **a_sweep(trials=20))
    plane.dispatch()
    plane.begin("sweep")
    assert slots(plane, "sweep") == 8
    with plane.store.write() as session:
        experiments.set_columns(session, "sweep", sweep={"finished": 17})
    plane.end("sweep", Outcome.PREEMPTED)
    plane.dispatch()
    assert plane.attempt("sweep", 2).workers == 3


def test_a_sweep_pays_for_what_it_held_and_only_while_it_held_it(plane: Plane) -> None:
    plane.attach(8)
    plane.submit("holder", resources={"workers": 6})
    plane.dispatch()
    plane.begin("holder")
    plane.submit("sweep", **a_sweep(budget={"cpu_hours": 6}))
    plane.dispatch()
    plane.begin("sweep")
    plane.clock.advance(3600)
    plane.end("holder", Outcome.SUCCEEDED)
    plane.dispatch()
    assert slots(plane, "sweep") == 8
    plane.settle()
    assert plane.attempt("sweep").stop_mode is None, "two CPU hours are spent, not eight"
    with plane.store.read() as session:
        assert attempts.held_s(plane.attempt("sweep"), plane.clock.now())[0] == pytest.approx(2 * 3600, rel=0.01)
        accounts = look(session, plane.settings, plane.clock.now()).accounts
    assert accounts["default"].held.cpus == 8
    plane.clock.advance(1800)
    plane.settle()
    assert plane.attempt("sweep").stop_mode == StopMode.BUDGET


def test_a_sweep_grows_as_far_as_its_quota(plane: Plane) -> None:
    plane.attach(4)
    plane.quota("default", cpus=2)
    plane.submit("sweep", **a_sweep())
    plane.dispatch()
    plane.begin("sweep")
    plane.dispatch()
    assert slots(plane, "sweep") == 2
    plane.quota("default", cpus=3)
    plane.dispatch()
    assert slots(plane, "sweep") == 3


@pytest.mark.parametrize("state", [TrialState.SUCCEEDED, TrialState.FAILED])
def test_a_finished_trial_is_progress_that_forgives_deaths_and_a_failed_one_is_none(
    plane: Plane, state: TrialState
) -> None:
    plane.attach(2)
    plane.submit("sweep", **a_sweep())
    for attempt_no in (1, 2, 3):
        plane.dispatch()
        plane.begin("sweep", attempt_no)
        with plane.store.write() as session:
            session.add(a_trial("sweep", attempt_no, state=state))
        plane.end("sweep", Outcome.INFRA_ERROR, attempt_no=attempt_no, reason="runner_died")
        plane.clock.advance(1000)
    is_progress = state == TrialState.SUCCEEDED
    assert plane.row("sweep").state == (State.RETRYING if is_progress else State.HELD)


def test_a_sweep_whose_runner_died_while_its_budget_was_spent_says_what_it_leaves(plane: Plane) -> None:
    plane.attach(2)
    plane.submit("sweep", **a_sweep(budget={"cpu_hours": 1}))
    plane.dispatch()
    plane.begin("sweep")
    plane.clock.advance(3600)
    plane.settle()
    with plane.store.write() as session:
        experiments.set_columns(session, "sweep", sweep={"finished": 40, "best": 12})
        death = {"death_since": plane.clock.now(), "death_reason": "runner_died"}
        attempts.write_if_open(session, plane.attempt("sweep").id, **death)
    plane.settle()
    row = plane.row("sweep")
    assert row.state == State.FAILED
    assert row.reason.startswith("over_budget: ")
    assert row.reason.endswith("; its 40 finished trials stay, trial 12 is the best")

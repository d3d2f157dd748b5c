"""Sweeps on a real Ray: slots, a process for every trial, and what is left of them on disk."""

import json
import math
import os
import signal
from collections import Counter
from typing import Any

import pytest
import ray

from fairlead.failpoints import VARIABLE
from fairlead.lifecycle import Outcome
from fairlead.protocol import (
    TRIALS_DIRECTORY,
    TRIALS_FILE,
    Amendment,
    LaunchDocument,
    ResultDocument,
    SweepLaunch,
    SweepOrders,
    TrialDocument,
    TrialRecord,
)
from fairlead.run.census import marked_processes
from fairlead.run.spool import SpoolReader
from fairlead.run.warm.launcher import SWITCH
from fairlead.search.trials import TrialState
from fairlead.testing.attempts import Attempts
from fairlead.testing.ray import a_launch, a_spec, wait_for

SPLIT = {"train": 0.6, "validation": 0.2, "test": 0.2}


def a_sweep(attempts: Attempts, key: str, *, slots: int = 2, workers: int = 1, **changes: Any) -> LaunchDocument:
    search = {
        "space": {"x": {"uniform": [0, 1]}},
        "objectives": [{"minimize": "validation/loss"}],
        "algorithm": "random",
        "trials": 6,
        **changes.pop("search", {}),
    }
    spec = a_spec(
        workload="bowl:train",
        search=search,
        params=changes.pop("params", {}),
        data={"uri": "builtin://diabetes", "split": SPLIT, **changes.pop("data", {})},
        resources={"workers": workers, "cpus_per_worker": changes.pop("cpus", 1 / workers)},
        **changes,
    )
    return a_launch(key, spec=spec, sweep=SweepLaunch(slots=slots))


def run(attempts: Attempts, key: str, **given: Any) -> tuple[LaunchDocument, ResultDocument, list[TrialRecord]]:
    document = a_sweep(attempts, key, **given)
    attempts.start(document)
    result = attempts.result(document)
    return document, result, records(attempts, document)


def records(attempts: Attempts, document: LaunchDocument) -> list[TrialRecord]:
    found = SpoolReader(attempts.directory(document), "trials").read(0, 10_000)
    return [record for record in found if isinstance(record, TrialRecord)]


def ends(found: list[TrialRecord]) -> dict[int, TrialRecord]:
    return {one.no: one for one in found if one.state is not TrialState.RUNNING and not one.has_lost_checkpoint}


def test_every_trial_is_run_once_and_the_best_is_named(attempts: Attempts) -> None:
    document, result, found = run(attempts, "exp-sweep")
    assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
    begun = {one.no: one for one in found if one.params is not None}
    last = ends(found)
    assert sorted(begun) == sorted(last) == list(range(6))
    assert {one.state for one in last.values()} == {TrialState.SUCCEEDED}
    for no, one in last.items():
        assert one.values["validation/loss"] == pytest.approx((begun[no].params["x"] - 0.3) ** 2 + 1 / 3)
        assert one.last_step == 3
    assert len({one.metrics["other/pid"] for one in last.values()}) == 6
    assert result.sweep is not None
    best = min(last.values(), key=lambda one: one.values["validation/loss"])
    assert (result.sweep.best, result.sweep.ended_because) == (best.no, "trials")
    assert result.sweep.counts == {TrialState.SUCCEEDED: 6}
    assert attempts.steps(document, "search/ended") == [1, 2, 3, 4, 5, 6]
    assert result.last_step == 6
    assert result.environment["torch"].startswith("2.")
    assert len(attempts.starts(document)) == 1


def test_a_trial_of_two_ranks_is_judged_by_the_counts_of_both(attempts: Attempts) -> None:
    search = {"trials": 3, "objectives": [{"maximize": "rai/accuracy_score/overall"}]}
    _, result, found = run(attempts, "exp-pairs", slots=1, workers=2, search=search)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    begun = {one.no: one for one in found if one.params is not None}
    for no, one in ends(found).items():
        assert one.metrics["validation/ranks"] == 2
        wrong = math.ceil(8 * (1 - begun[no].params["x"])) / 10
        assert one.values["rai/accuracy_score/overall"] == pytest.approx(1 - wrong, abs=0.08)
        assert "rai/accuracy_score/overall.lower95" in one.metrics


@pytest.mark.parametrize(
    ("misbehave", "words"),
    [
        ("raise", "ValueError: x is too large on rank 0"),
        ("exit", "exit_code_7"),
        ("killed", "was killed by SIGKILL"),
        ("nan", "validation/loss is not a number"),
    ],
)
def test_a_trial_that_fails_ends_no_sweep_and_says_why(attempts: Attempts, misbehave: str, words: str) -> None:
    params = {"misbehave": misbehave, "above": 0.75}
    grid = {"algorithm": "grid", "space": {"x": {"choice": [0.1, 0.9, 0.4]}}, "trials": 3}
    _, result, found = run(attempts, f"exp-{misbehave}", search=grid, params=params)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    last = ends(found)
    assert [last[no].state for no in range(3)] == [TrialState.SUCCEEDED, TrialState.FAILED, TrialState.SUCCEEDED]
    assert words in last[1].reason
    assert result.sweep is not None
    assert result.sweep.best == 2
    assert len([one for one in found if one.no == 1 and one.params]) == (3 if misbehave == "killed" else 1)


def test_a_rank_that_dies_takes_its_trial_along_and_not_the_sweep(attempts: Attempts) -> None:
    params = {"misbehave": "rank_killed", "above": 0.75}
    grid = {"algorithm": "grid", "space": {"x": {"choice": [0.9, 0.4]}}, "trials": 2}
    _, result, found = run(attempts, "exp-rank", slots=1, workers=2, search=grid, params=params)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    assert (ends(found)[0].state, ends(found)[1].state) == (TrialState.FAILED, TrialState.SUCCEEDED)
    assert "rank 1 was killed by SIGKILL" in ends(found)[0].reason


def test_too_many_failures_are_the_end(attempts: Attempts) -> None:
    params = {"misbehave": "raise", "above": 0.2}
    grid = {"algorithm": "grid", "space": {"x": {"choice": [0.1, 0.9, 0.4, 0.5]}}, "trials": 4}
    _, result, _ = run(attempts, "exp-many", search=grid, params=params)
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason.startswith("too_many_failed: 3 of 4 trials failed; the last of them: ValueError")
    assert result.sweep is not None
    assert result.sweep.best == 0


def test_successive_halving_stops_the_worse_ones_early(attempts: Attempts) -> None:
    asha = {"asha": {"grace": 2, "max_resource": 18, "reduction_factor": 3}}
    xs = [0.3, 0.9, 0.8, 0.31, 1.0, 0.7]
    search = {"algorithm": "grid", "space": {"x": {"choice": xs}}, "trials": 6, "early_stopping": asha}
    params = {"steps": 18, "epochs": 18, "step_s": 0.05}
    _, result, found = run(attempts, "exp-asha", slots=1, search=search, params=params)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    last = ends(found)
    assert result.sweep is not None
    assert result.sweep.best == 0
    assert last[0].last_step == 18
    assert last[4].state is TrialState.PRUNED
    assert last[4].reason.startswith("pruned_at_2: it is 5th of 5")
    assert last[4].last_step < 18


def test_a_process_is_used_again_where_the_spec_allows_it(attempts: Attempts) -> None:
    search = {"trials": 8, "reuse_processes": True}
    _, result, found = run(attempts, "exp-reuse", search=search)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    assert Counter(one.state for one in ends(found).values()) == {TrialState.SUCCEEDED: 8}
    assert len({one.metrics["other/pid"] for one in ends(found).values()}) <= 2


def test_checkpoints_of_the_best_are_kept_and_of_no_others(attempts: Attempts) -> None:
    document, result, found = run(attempts, "exp-keep", search={"trials": 9}, params={"keeps": True})
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    last = ends(found)
    best = sorted(last, key=lambda no: last[no].values["validation/loss"])[:5]
    trials = attempts.directory(document) / TRIALS_DIRECTORY
    assert sorted(int(path.parent.name) for path in trials.glob("*/ckpt-*")) == sorted(best)
    checkpoint = last[best[0]].checkpoint
    assert checkpoint is not None
    state = json.loads((attempts.storage / checkpoint.path / "state.json").read_text())
    assert state == {"step": 3, "first": 1}


def again(attempts: Attempts, first: LaunchDocument, found: list[TrialRecord], **changes: Any) -> LaunchDocument:
    """The next attempt at the same sweep, with the rows that the store would have made of ``found``."""
    rows = rows_of(found)
    second = a_launch(
        first.experiment_id,
        spec=first.spec,
        attempt_no=first.attempt_no + 1,
        sweep=SweepLaunch(slots=2, num_trials=len(rows), spent_s=1.0, **changes),
    )
    directory = attempts.directory(second)
    directory.mkdir(parents=True)
    (directory / TRIALS_FILE).write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
    return second


def rows_of(found: list[TrialRecord]) -> list[TrialDocument]:
    rows: dict[int, dict[str, Any]] = {}
    for one in found:
        row = rows.setdefault(one.no, {"no": one.no, "tries": 0, "params": {}, "curve": [], "values": {}})
        if one.params is not None:
            row["params"], row["tries"] = one.params, row["tries"] + 1
        row["curve"] += [(point.step, point.value) for point in one.points if point.key == "validation/loss"]
        row |= {"state": one.state, "values": one.values, "last_step": one.last_step, "reason": one.reason}
    return [TrialDocument.model_validate(row) for row in rows.values()]


def test_a_killed_runner_costs_no_finished_trial_and_those_under_way_go_on(attempts: Attempts) -> None:
    params = {"keeps": True, "steps": 40, "step_s": 0.25}
    first = a_sweep(attempts, "exp-killed", search={"trials": 4}, params=params)
    runner = attempts.start(first)

    def are_under_way() -> bool:
        return len(list((attempts.directory(first) / TRIALS_DIRECTORY).glob("*/ckpt-*/MANIFEST.json"))) == 2

    wait_for(are_under_way, within_s=60, what="checkpoints of two trials")
    os.kill(ray.get(runner.status.remote()).pid, signal.SIGKILL)
    wait_for(lambda: not marked_processes(first.runner_name), within_s=30, what="the end of all that it ran")
    before = records(attempts, first)
    second = again(attempts, first, before)
    attempts.start(second)
    result = attempts.result(second)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    last = ends(records(attempts, second))
    assert sorted(last) == [0, 1, 2, 3]
    kept = [last[no].checkpoint for no in (0, 1)]
    assert all(one is not None and one.path.startswith(second.storage_path) for one in kept)
    firsts = [json.loads((attempts.storage / one.path / "state.json").read_text())["first"] for one in kept if one]
    assert all(first > 1 for first in firsts)


@pytest.mark.parametrize("place", ["sweep.begun", "sweep.ended"])
def test_a_runner_that_dies_between_a_trial_and_what_follows_from_it_repeats_nothing(
    attempts: Attempts, place: str
) -> None:
    attempts.variables = {VARIABLE: f"{place}:kill", SWITCH: "0"}  # a forked process has read them before
    first = a_sweep(attempts, f"exp-{place.replace('.', '-')}", search={"trials": 3})
    attempts.start(first)
    wait_for(lambda: records(attempts, first), within_s=60, what="the first trial")
    wait_for(lambda: not marked_processes(first.runner_name), within_s=60, what="the end of the runner")
    before = records(attempts, first)
    attempts.variables = {}
    second = again(attempts, first, before)
    attempts.start(second)
    assert attempts.result(second).outcome is Outcome.SUCCEEDED
    found = [*before, *records(attempts, second)]
    assert sorted(one.no for one in found if one.state is TrialState.SUCCEEDED) == [0, 1, 2]
    assert len({str(one.params) for one in found if one.params and one.no == 0}) == 1


def test_the_next_attempt_runs_what_the_one_before_has_not_ended(attempts: Attempts) -> None:
    first, result, found = run(attempts, "exp-next", search={"trials": 8, "algorithm": "tpe"})
    assert result.outcome is Outcome.SUCCEEDED
    half = [one for one in found if one.no < 5 and not (one.no == 4 and one.state is TrialState.SUCCEEDED)]
    second = again(attempts, first, half)
    attempts.start(second)
    assert attempts.result(second).outcome is Outcome.SUCCEEDED
    later = records(attempts, second)
    assert sorted(one.no for one in later if one.params) == [4, 5, 6, 7]
    point = next(one.params for one in half if one.no == 4)
    assert next(one.params for one in later if one.no == 4) == point
    sweep = attempts.result(second).sweep
    assert sweep is not None
    assert sweep.counts == {TrialState.SUCCEEDED: 8}


@pytest.mark.parametrize("mode", ["pause", "cancel", "timeout"])
def test_a_sweep_that_is_stopped_keeps_what_has_ended(attempts: Attempts, mode: str) -> None:
    params = {"keeps": True, "step_s": 0.05}
    search = {"trials": 50, "algorithm": "grid", "space": {"x": {"choice": [0.1, 0.2]}, "steps": {"choice": [2, 400]}}}
    document = a_sweep(attempts, f"exp-{mode}", search=search, params=params)
    runner = attempts.start(document)
    wait_for(lambda: len(ends(records(attempts, document))) == 1, within_s=60, what="the first end")
    ray.get(runner.stop.remote(mode, grace_s=20.0, agent_epoch=1))
    result = attempts.result(document)
    found = records(attempts, document)
    running = {one.no for one in found} - set(ends(found))
    if mode == "pause":
        assert (result.outcome, result.reason) == (Outcome.PREEMPTED, "pause_requested")
        assert running
        return
    assert running == set()
    assert {one.state for one in ends(found).values()} <= {TrialState.SUCCEEDED, TrialState.PRUNED}
    if mode == "cancel":
        assert result.outcome is Outcome.CANCELLED
    else:
        assert result.outcome is Outcome.SUCCEEDED
        assert result.sweep is not None
        assert (result.sweep.best in (0, 2), result.sweep.ended_because) == (True, "budget")


def test_amendments_reach_a_sweep_that_runs(attempts: Attempts) -> None:
    params = {"steps": 400, "step_s": 0.05, "keeps": True}
    document = a_sweep(attempts, "exp-amended", search={"trials": 2}, params=params)
    runner = attempts.start(document)
    wait_for(lambda: len(records(attempts, document)) >= 2, within_s=60, what="two trials")
    orders = SweepOrders(
        attempt_id=document.attempt_id,
        slots=3,
        amendments=(
            Amendment(no=1, kind="add_trials", trials=1),
            Amendment(no=2, kind="enqueue", params={"x": 0.5}),
            Amendment(no=3, kind="stop_trial", trial=0, by="ada"),
            Amendment(no=4, kind="stop_trial", trial=1, by="ada"),
        ),
    )
    assert ray.get(runner.amend.remote(orders.model_dump_json(), agent_epoch=1))
    wait_for(lambda: ray.get(runner.status.remote()).amendment_no == 4, within_s=30, what="the amendments")
    wait_for(lambda: 2 in {one.no for one in records(attempts, document)}, within_s=30, what="the enqueued one")
    assert ray.get(runner.status.remote()).slots == 3
    stop = orders.amended(amendments=(*orders.amendments, Amendment(no=5, kind="stop_trial", trial=2)))
    ray.get(runner.amend.remote(stop.model_dump_json(), agent_epoch=1))
    result = attempts.result(document)
    found = records(attempts, document)
    begun = next(one for one in found if one.no == 2)
    assert (begun.params, begun.origin) == ({"x": 0.5}, "enqueued")
    assert {(one.state, one.reason) for one in ends(found).values()} == {
        (TrialState.PRUNED, "stopped by ada"),
        (TrialState.PRUNED, "stopped by a user"),
    }
    assert result.reason == "no_trial: none ran to its end (3 pruned)"


def test_a_population_goes_on_from_the_checkpoints_of_its_best(attempts: Attempts) -> None:
    search = {"trials": 4, "early_stopping": {"pbt": {"interval": 4, "quantile": 0.5, "population": 4}}}
    params = {"steps": 24, "step_s": 0.05, "keeps": True}
    _, result, found = run(attempts, "exp-pbt", slots=4, cpus=0.5, search=search, params=params)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    begun = {one.no: one for one in found if one.params is not None}
    continued = [no for no, one in begun.items() if one.parent is not None]
    assert continued
    assert all(begun[no].params != begun[begun[no].parent].params for no in continued)
    last = ends(found)
    assert {one.state for one in last.values()} == {TrialState.SUCCEEDED, TrialState.PRUNED}
    assert [last[no].reason for no in continued if last[no].state is TrialState.FAILED] == []
    done = [no for no in continued if last[no].checkpoint is not None]
    assert done
    for no in done:
        path = attempts.storage / last[no].checkpoint.path / "state.json"
        if path.exists():  # those of the best are kept
            assert json.loads(path.read_text())["first"] > 1


def test_a_searcher_of_ray_tune_proposes_trials(attempts: Attempts) -> None:
    search = {"algorithm": {"name": "ray:ray.tune.search.optuna:OptunaSearch"}, "trials": 5}
    _, result, found = run(attempts, "exp-searcher", search=search)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    assert sorted(ends(found)) == [0, 1, 2, 3, 4]
    assert len({one.params["x"] for one in found if one.params}) == 5


def test_a_sampler_of_the_users_that_raises_is_an_error_of_the_spec(attempts: Attempts) -> None:
    search = {"algorithm": {"name": "optuna:tiring:Tiring", "options": {"after": 2}}, "trials": 5}
    _, result, found = run(attempts, "exp-tiring", slots=1, search=search)
    assert (result.outcome, result.reason) == (
        Outcome.USER_ERROR,
        "bad_search: optuna:tiring:Tiring failed: RuntimeError: tired after 2",
    )
    assert {one.state for one in ends(found).values()} == {TrialState.SUCCEEDED}


def test_a_sampler_that_cannot_be_made_is_an_error_of_the_spec(attempts: Attempts) -> None:
    search = {"algorithm": {"name": "optuna:tiring:Missing"}}
    _, result, _ = run(attempts, "exp-missing", search=search)
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason.startswith("bad_search: tiring.Missing cannot be made: AttributeError")


def test_the_books_name_no_checkpoint_that_is_gone(attempts: Attempts) -> None:
    xs = [0.9 - 0.05 * no for no in range(9)]  # each is better than the one before
    search = {"algorithm": "grid", "space": {"x": {"choice": xs}}, "trials": 9}
    document, result, found = run(attempts, "exp-gone", slots=1, search=search, params={"keeps": True})
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    named: dict[int, bool] = {}
    for one in found:
        if one.state is TrialState.SUCCEEDED:
            named[one.no] = one.checkpoint is not None and not one.has_lost_checkpoint
    there = {int(path.parent.name) for path in (attempts.directory(document) / TRIALS_DIRECTORY).glob("*/ckpt-*")}
    assert {no for no, is_named in named.items() if is_named} == there == {4, 5, 6, 7, 8}

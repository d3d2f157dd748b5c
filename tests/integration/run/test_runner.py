import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from fairlead.evaluation import read_measurements
from fairlead.evaluation.energy import energy_section
from fairlead.lifecycle import Outcome
from fairlead.protocol import RESULT_FILE, CheckpointRef, LaunchDocument, NoteRecord
from fairlead.run.census import find_family
from fairlead.run.environment import runner_environment
from fairlead.run.idleness import IDLE_SHARE
from fairlead.run.runner import RUNNER
from fairlead.run.spool import SpoolReader
from fairlead.run.storage import complete_checkpoints, problem_with, relative_name
from fairlead.run.warm import SWITCHED_OFF, Birth, WarmServer, birth, runtime_env
from fairlead.run.warm.launcher import SWITCH
from fairlead.spec import EnergySpec
from fairlead.testing.attempts import Attempts
from fairlead.testing.ray import a_launch, a_spec, wait_for


def test_two_ranks_train_evaluate_and_export(attempts: Attempts) -> None:
    started = time.monotonic()
    document, result = attempts.run("exp-good", params={"misbehave": "nan", "at": 1, "steps": 4})
    print(f"a whole attempt took {time.monotonic() - started:.1f} s")
    assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
    assert result.last_step == 3
    assert result.metrics == {"train/loss": 0.25, "train/world": 2.0}
    assert result.evaluation is not None
    assert result.evaluation.expected_rows == 133
    assert result.model is not None
    assert {entry.path for entry in result.model.files} == {"model.json", "weights.safetensors"}
    assert result.dataset is not None
    assert result.dataset["num_rows"] == 442
    assert attempts.steps(document, "train/loss") == [0, 1, 2, 3]
    found = complete_checkpoints(attempts.directory(document))
    assert [checkpoint.step for checkpoint in found] == [3, 2, 1, 0]
    assert all(problem_with(checkpoint.directory) is None for checkpoint in found)
    spool = attempts.directory(document) / "spool" / "metrics.jsonl"
    losses = [json.loads(line) for line in spool.read_text().splitlines() if "train/loss" in line]
    assert losses[1]["value"] == "NaN"


def test_energy_is_measured_once_a_node_and_adds_up_over_worker_groups(attempts: Attempts) -> None:
    params = {"misbehave": "die_once", "at": 2, "steps": 4, "step_s": 0.3}
    document, result = attempts.run("exp-energy", energy={"intensity_g_per_kwh": 400}, params=params)
    assert result.outcome is Outcome.SUCCEEDED, result.detail
    assert result.evaluation is not None
    assert result.evaluation.measurements_file is not None
    path = attempts.directory(document) / result.evaluation.measurements_file.path
    found = read_measurements(path.read_bytes())["energy"]
    assert [(entry["group"], entry["ranks"]) for entry in found] == [(1, 2), (2, 2)]
    section = energy_section(EnergySpec(intensity_g_per_kwh=400), found)
    assert section["why_not_measured"] is None
    assert section["metrics"]["energy_kwh"]["value"] == pytest.approx(sum(node["kwh"] for node in section["nodes"]))
    assert section["metrics"]["co2e_kg"]["value"] > 0
    assert len(section["nodes"]) == 1
    wait_for(lambda: not meters_of(document), within_s=30, what="the end of the meters")


def meters_of(document: LaunchDocument) -> list[str]:
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "energy_meter" in line and f"/{document.experiment_id}/" in line]


ALONE = {"resources": {"workers": 1, "cpus_per_worker": 1}}


def wait_until_warm(directory: Path) -> None:
    """Until the node's server has imported Ray for the job of this test."""
    server = WarmServer(directory).start()

    def is_warm() -> bool:
        variables = {"ASKED": str(time.monotonic())}  # no process that is there already will do
        asked = ray.remote(num_cpus=0, max_retries=0)(birth).options(
            runtime_env=runtime_env(variables, directory=directory)
        )
        born: Birth = ray.get(asked.remote(), timeout=120)
        return born.is_warm

    wait_for(is_warm, within_s=120, what="a warm start")
    server.release()


def test_an_attempt_with_code_of_its_own_says_that_all_of_it_started_warm(attempts: Attempts) -> None:
    wait_until_warm(attempts.warm_directory)
    document, result = attempts.run("exp-warm", params={"steps": 1})
    assert result.outcome is Outcome.SUCCEEDED
    [start] = attempts.starts(document)
    assert start.detail == "warm"
    assert start.payload == {"runner": "warm", "workers": {"0": "warm", "1": "warm"}, "why": ""}


def test_an_attempt_that_starts_cold_says_why(attempts: Attempts) -> None:
    attempts.variables[SWITCH] = "0"
    document, result = attempts.run("exp-cold", params={"steps": 1}, **ALONE)
    assert result.outcome is Outcome.SUCCEEDED
    [start] = attempts.starts(document)
    assert start.detail == f"cold: {SWITCHED_OFF}"
    assert start.payload == {"runner": "cold", "workers": {"0": "cold"}, "why": SWITCHED_OFF}


@pytest.mark.parametrize(
    ("misbehave", "reason", "words"),
    [
        ("exit_zero", "no_result", "exit code 0"),
        ("sys_exit", "no_result", "sys.exit()"),
        ("no_evaluation", "no_result", "evaluate('test')"),
        ("evaluate_twice", "rows counted twice or not at all", "266 rows were counted, the split has 133"),
    ],
)
def test_a_workload_that_ends_without_a_result_is_a_user_error(
    attempts: Attempts, misbehave: str, reason: str, words: str
) -> None:
    name = f"exp-{misbehave.replace('_', '-')}"
    document = a_launch(name, spec=a_spec(params={"misbehave": misbehave}, **ALONE), keeps_answers=True)
    attempts.start(document)
    result = attempts.result(document)
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, reason)
    assert words in result.detail
    assert result.model is None
    assert not list(attempts.directory(document).glob("answers-*"))


@pytest.mark.parametrize(
    ("misbehave", "rule", "outcome", "reason"),
    [
        (
            "print_and_exit",
            {"log": "licence*busy", "then": "retry", "note": "later"},
            Outcome.INFRA_ERROR,
            "rule: retry: log 'licence*busy' (later)",
        ),
        ("segfault", {"exit_code": "SIGSEGV", "then": "fail"}, Outcome.USER_ERROR, "rule: fail: exit code SIGSEGV"),
    ],
)
def test_a_rule_of_the_spec_decides_what_an_exit_means(
    attempts: Attempts, misbehave: str, rule: dict[str, Any], outcome: Outcome, reason: str
) -> None:
    rules = [{"exit_code": 3, "then": "oom"}, rule]
    name = f"exp-rule-{misbehave.replace('_', '-')}"
    _, result = attempts.run(name, params={"misbehave": misbehave}, policy={"rules": rules}, **ALONE)
    assert (result.outcome, result.reason) == (outcome, reason)
    assert "rule 2 of the spec decides" in result.detail


def test_what_one_rank_raises_ends_the_attempt_while_the_other_waits_in_a_collective(attempts: Attempts) -> None:
    document, result = attempts.run("exp-raise", params={"misbehave": "raise", "rank": 1})
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason == "ValueError: the loss exploded on rank 1"
    assert "in _raise" in result.detail
    points = SpoolReader(attempts.directory(document), "metrics").read(0, 10_000)
    raised_ms = max(point.at_ms for point in points if point.key == "train/loss")
    took_s = result.ended_at.timestamp() - raised_ms / 1000
    print(f"the attempt was over {took_s:.1f} s after the error")
    assert took_s < 10


def test_data_that_lack_a_column_are_a_user_error_before_training(attempts: Attempts) -> None:
    data = {"uri": "builtin://diabetes", "sensitive": ["religion"]}
    document, result = attempts.run("exp-data", data=data, **ALONE)
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason.startswith("bad_data: ")
    assert "religion" in result.reason
    assert attempts.steps(document, "train/loss") == []


def test_printing_100_mb_keeps_the_first_and_the_last_words(attempts: Attempts) -> None:
    document, result = attempts.run("exp-print", params={"misbehave": "print"}, **ALONE)
    assert result.outcome is Outcome.SUCCEEDED
    segments = sorted((attempts.directory(document) / "logs").glob("rank-0.0*.log"))
    assert len(segments) == 4
    assert sum(segment.stat().st_size for segment in segments) <= 16 * 1024 * 1024
    assert segments[0].read_text().startswith("first words")
    assert "last words" in segments[-1].read_text()[-100:]


def test_a_killed_rank_goes_on_from_the_last_checkpoint_in_the_same_attempt(attempts: Attempts) -> None:
    params = {"misbehave": "die_once", "rank": 1, "at": 3, "steps": 6}
    document, result = attempts.run("exp-kill", params=params, within_s=240)
    assert (result.outcome, result.reason) == (Outcome.SUCCEEDED, "completed")
    assert attempts.notes(document) == ["worker_group_restarted", "resumed"]
    assert attempts.steps(document, "train/loss") == [0, 1, 2, 3, 4, 5]


def test_a_stall_leaves_the_stacks_of_all_ranks_even_of_one_whose_interpreter_is_blocked(attempts: Attempts) -> None:
    params = {"misbehave": "block", "rank": 1}
    document, result = attempts.run("exp-stall", params=params, policy={"stall_timeout_s": 12})
    assert (result.outcome, result.last_step) == (Outcome.STALLED, 1)
    logs = attempts.directory(document) / "logs"
    stacks = [(logs / f"rank-{rank}.stacks.log").read_text() for rank in (0, 1)]
    assert "all_reduce" in stacks[0], "rank 0 waits for the other"
    assert "_block" in stacks[1]
    assert all("tiny.py" in each for each in stacks)
    assert "stacks_incomplete" not in attempts.notes(document)


@pytest.mark.nightly  # no limit is shorter than a minute
def test_who_sleeps_past_the_idle_limit_is_ended_and_whose_child_works_is_not(attempts: Attempts) -> None:
    policy = {"idle_limit_s": 60}
    asleep, working = (
        a_launch(key, spec=a_spec(params={"misbehave": what, "steps": 3}, policy=policy, **ALONE))
        for key, what in (("exp-asleep", "hang"), ("exp-work", "work"))
    )
    for document in (asleep, working):
        attempts.start(document)
    result = attempts.result(asleep)
    print(result.reason)
    told = re.fullmatch(
        r"idle: the workers used (\d\.\d) CPU seconds in (6\d) s; policy.idle_limit_s .*", result.reason
    )
    assert told is not None, result.reason
    assert float(told[1]) < IDLE_SHARE * 60
    assert (result.outcome, result.last_step) == (Outcome.OVER_BUDGET, 0)
    (kept,) = complete_checkpoints(attempts.directory(asleep))
    assert (kept.step, problem_with(kept.directory)) == (0, None)
    assert "kept_alive" not in attempts.notes(asleep)
    ended = attempts.result(working)
    assert (ended.outcome, ended.reason) == (Outcome.SUCCEEDED, "completed")


def test_run_time_is_limited_by_the_runner_itself_whatever_the_workload_ignores(attempts: Attempts) -> None:
    params = {"misbehave": "defy_or_block", "rank": "every", "at": 1}
    document = a_launch("exp-long", spec=a_spec(params=params), runtime_left_s=15)
    attempts.start(document)
    result = attempts.result(document)
    assert (result.outcome, result.reason, result.last_step) == (Outcome.TIMEOUT, "run time spent", 0)


def test_a_failed_attempt_stays_for_a_look_until_it_is_cancelled(attempts: Attempts) -> None:
    params = {"misbehave": "raise", "rank": 1}
    document = a_launch("exp-look", spec=a_spec(params=params, policy={"keep_alive_s": 600}))
    runner = attempts.start(document)
    wait_for(lambda: "kept_alive" in attempts.notes(document), within_s=180, what="the word that it is kept")
    (note,) = [
        each
        for each in SpoolReader(attempts.directory(document), "notes").read(0, 100)
        if isinstance(each, NoteRecord) and each.kind == "kept_alive"
    ]
    pids = [note.payload["runner"]["pid"], *(worker["pid"] for worker in note.payload["workers"].values())]
    assert len(set(pids)) == 3
    assert ray.get(runner.status.remote()).is_kept_alive
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert not (attempts.directory(document) / RESULT_FILE).exists()
    assert ray.get(runner.stop.remote("cancel", grace_s=600, agent_epoch=1))
    result = attempts.result(document, within_s=60)
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "ValueError: the loss exploded on rank 1")
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids[1:]), within_s=30, what="the end of the ranks")


def test_a_look_ends_by_itself(attempts: Attempts) -> None:
    started = time.monotonic()
    document, result = attempts.run(
        "exp-glance", params={"misbehave": "exit_zero"}, policy={"keep_alive_s": 3}, **ALONE
    )
    assert (result.outcome, result.reason) == (Outcome.USER_ERROR, "no_result")
    assert "kept_alive" in attempts.notes(document)
    assert time.monotonic() - started > 3


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_rejected_and_the_one_before_is_used(attempts: Attempts, damage: str) -> None:
    first, result = attempts.run(f"exp-{damage}", params={"steps": 3}, **ALONE)
    assert result.outcome is Outcome.SUCCEEDED
    made = complete_checkpoints(attempts.directory(first))
    state = made[0].directory / "state.json"
    content = state.read_bytes()
    state.write_bytes(content[:-1] if damage == "truncated" else bytes([content[0] ^ 1]) + content[1:])
    resume = tuple(
        CheckpointRef(
            step=one.step, path=relative_name(one.directory, attempts.storage), manifest_sha256=one.manifest_sha256
        )
        for one in made
    )
    second = a_launch(f"exp-{damage}", spec=a_spec(params={"steps": 5}, **ALONE), attempt_no=2, resume=resume)
    attempts.start(second)
    assert attempts.result(second).outcome is Outcome.SUCCEEDED
    assert attempts.notes(second) == ["checkpoint_rejected", "resumed"]
    assert attempts.steps(second, "train/loss") == [2, 3, 4]


def test_a_killed_train_controller_is_an_infrastructure_error_and_leaves_nothing(attempts: Attempts) -> None:
    document = a_launch("exp-controller", spec=a_spec(params={"steps": 10_000, "step_s": 0.05}, **ALONE))
    attempts.start(document)
    wait_for(lambda: attempts.steps(document, "train/loss"), within_s=180, what="the first step")
    (controller,) = [
        entry for entry in find_family(document.runner_name).actors if entry.class_name == "TrainController"
    ]
    os.kill(controller.pid, signal.SIGKILL)
    result = attempts.result(document, within_s=120)
    assert (result.outcome, result.reason) == (Outcome.INFRA_ERROR, "worker_died")
    assert [entry.class_name for entry in find_family(document.runner_name).actors] == ["Runner"]


def test_a_storage_that_takes_no_checkpoint_is_given_up_after_three_and_keeps_the_earlier_ones(
    attempts: Attempts,
) -> None:
    params = {"misbehave": "fill_disk", "at": 2, "steps": 10_000, "step_s": 0.05}
    document, result = attempts.run("exp-full", params=params, **ALONE)
    assert (result.outcome, result.reason) == (Outcome.INFRA_ERROR, "storage")
    assert attempts.notes(document)[:3] == ["checkpoint_failed"] * 3
    found = complete_checkpoints(attempts.directory(document))
    assert [one.step for one in found] == [1, 0]
    assert all(problem_with(one.directory) is None for one in found)


def test_a_cancelled_workload_may_return_by_itself_and_needs_five_actors(attempts: Attempts) -> None:
    document = a_launch("exp-cancel", spec=a_spec(params={"steps": 10_000, "step_s": 0.05}))
    runner = attempts.start(document)
    wait_for(lambda: attempts.steps(document, "train/loss"), within_s=180, what="the first step")
    actors = sorted(entry.class_name for entry in find_family(document.runner_name).actors)
    assert actors == ["RayTrainWorker", "RayTrainWorker", "Runner", "SynchronizationActor", "TrainController"]
    assert not ray.get(runner.stop.remote("cancel", grace_s=20, agent_epoch=0)), "an older agent commands nothing"
    assert ray.get(runner.stop.remote("cancel", grace_s=20, agent_epoch=1))
    result = attempts.result(document, within_s=60)
    assert (result.outcome, result.reason) == (Outcome.CANCELLED, "cancelled")


def test_an_attempt_begins_once_whoever_asks(attempts: Attempts) -> None:
    document = a_launch("exp-once", spec=a_spec(params={"steps": 2}, **ALONE))
    attempts.directory(document).mkdir(parents=True)
    (attempts.directory(document) / "BEGUN").write_text("{}")
    environment = runner_environment(document.runner_name, document.spec, worker_start_timeout_s=120)
    runner = RUNNER.options(
        name=document.runner_name, lifetime="detached", runtime_env={"env_vars": environment}
    ).remote()
    attempts.names.append(document.runner_name)
    begin = runner.begin.remote(document.model_dump_json(), storage=str(attempts.storage), code=None, agent_epoch=1)
    assert ray.get(begin, timeout=60) == "taken"

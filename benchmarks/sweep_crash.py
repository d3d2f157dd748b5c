"""A sweep whose runner, agent and API are killed again and again (``kill -9``, at random), and what is left of it.

The API of the embedded stack holds the control loops as well, so that with it both are killed. ``rerun_finished``:
trials that were begun once more after their end was written down. ``complete``: 1 where the sweep succeeded, and the
store and MLflow have every trial once. ``TRIALS``, ``KILLS``, ``SEED``.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.chart import numbers
from benchmarks.harness import Measurement, size
from benchmarks.places import PROGRAMS, await_true, fairlead_stack, scratch, warm_up
from benchmarks.sweep_10k import child_runs, runner_pid
from benchmarks.sweep_overhead import sweep
from fairlead import Client, Experiment
from fairlead.embedded import EmbeddedStack
from fairlead.errors import FairleadError
from fairlead.lifecycle import State

NAME = "sweep_crash"
TRIALS, KILLS, WORK_S = 200, 10, 1.0
VICTIMS = ("runner", "agent", "api")
END_S = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepCrash:
    """``seed``: of whom is killed, and when; another run with it kills the same."""

    rerun_finished: int
    complete: int
    seed: int


def measure() -> Measurement:
    """One sweep through all kills."""
    trials, kills = size("TRIALS", TRIALS), size("KILLS", KILLS)
    seed = size("SEED", random.SystemRandom().randrange(1, 2**31))
    chance = random.Random(seed)
    with scratch() as directory, fairlead_stack(directory / "home") as (stack, client):
        warm_up(client, directory / "home")
        spec = sweep("crashed", {"sleep_s": WORK_S}, trials=trials, slots=2, reuse=False, algorithm="tpe")
        experiment = client.submit(spec, code=PROGRAMS)
        began_s = time.monotonic()
        killed = _kill(stack, client, experiment, chance, kills, trials)
        state = _outcome(client, experiment)
        took_s = time.monotonic() - began_s
        found = _until_it_answers(lambda: list(client.get(experiment.id).trials()))
        database = next((directory / "home").rglob("mlflow.db"))
        await_true("all runs in MLflow", lambda: child_runs(database) >= trials, timeout_s=END_S, every_s=1.0)
        recorded = child_runs(database)
        rerun, attempts = reruns(directory / "home", experiment.id)
    states = Counter(one.state for one in found)
    is_complete = state == "succeeded" and states == {"succeeded": trials} and recorded == trials
    details = {
        "state": state,
        "trials_by_state": dict(states),
        "runs_in_mlflow": recorded,
        "killed": dict(Counter(killed)),
        "attempts": attempts,
        "trials_begun_more_than_once": sum(one.tries > 1 for one in found),
        "took_s": round(took_s, 1),
        "ideal_s": trials * WORK_S / 2,
    }
    result = SweepCrash(rerun_finished=rerun, complete=int(is_complete), seed=seed)
    return Measurement(result=result, sizes={"trials": trials, "kills": kills}, details=details)


def draw(document: Mapping[str, Any], directory: Path) -> None:
    """The chart of a kept result."""
    details = document["details"]
    told = {
        "seconds without any kill, at least": details["ideal_s"],
        f"seconds with {document['sizes']['kills']} kills": details["took_s"],
    }
    (directory / f"{NAME}.svg").write_text(numbers("A sweep whose parts are killed", told))


def _kill(
    stack: EmbeddedStack, client: Client, experiment: Experiment, chance: random.Random, kills: int, trials: int
) -> list[str]:
    """Kill one part after the other, spread over the sweep by the trials that have ended."""
    killed: list[str] = []
    places = sorted(chance.randrange(1, max(2, int(0.9 * trials))) for _ in range(kills))
    for place in places:
        wanted = chance.choice(VICTIMS)
        deadline_s = time.monotonic() + END_S
        while _ended(client, experiment) < place and time.monotonic() < deadline_s:
            time.sleep(0.2)
        pid = _pid_of(stack, wanted)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(wanted)
            print(f"{wanted} killed after {place} trials", file=sys.stderr)
    return killed


def _pid_of(stack: EmbeddedStack, part: str) -> int | None:
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        try:
            pid = runner_pid() if part == "runner" else stack.pid_of(part)
        except FairleadError:
            pid = None
        if pid is not None:
            return pid
        time.sleep(0.2)
    return None


def _ended(client: Client, experiment: Experiment) -> int:
    try:
        sweep = client.get(experiment.id).view.sweep
    except FairleadError:
        return 0
    return sweep.ended if sweep else 0


def _outcome(client: Client, experiment: Experiment) -> str:
    deadline_s = time.monotonic() + END_S
    while time.monotonic() < deadline_s:
        try:
            view = client.get(experiment.id).view
        except FairleadError:
            view = None
        if view is not None and State(view.state).is_final:
            return str(view.state)
        time.sleep(0.5)
    return "not over"


def _until_it_answers(ask: Any) -> Any:
    deadline_s = time.monotonic() + 120
    while True:
        try:
            return ask()
        except FairleadError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def reruns(home: Path, experiment_id: str) -> tuple[int, int]:
    """Trials that were begun after their end had been written down, and attempts, by what the runners wrote."""
    ended: set[int] = set()
    again = 0
    spools = sorted(home.rglob(f"{experiment_id}/a*/spool/trials.jsonl"), key=lambda path: int(path.parts[-3][1:]))
    for spool in spools:
        for line in spool.read_text().splitlines():
            record = json.loads(line)
            again += record["params"] is not None and record["no"] in ended
            if record["state"] != "running":
                ended.add(record["no"])
    return again, len(spools)

"""The nemesis: a seeded schedule of deaths, stops and changes of mind against one embedded stack, then a reckoning.

``SEED=7 DURATION=600 python tests/nemesis/test_nemesis.py`` runs one by hand. The seed fixes what is done and when; how
the processes interleave is the machine's. Every failure names its seed and its deeds.
"""

import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairlead import Client
from fairlead.embedded import EmbeddedStack
from fairlead.embedded.processes import family
from fairlead.errors import FairleadError
from fairlead.lifecycle import State
from fairlead.run.census import marked_processes
from fairlead.store import open_store
from fairlead.testing.history import Expected, Life, Point, broken, differences, is_at_rest, read
from fairlead.tracking.server import client_environment

WORK = """
import json, pathlib, tempfile, time
import numpy as np


def train(params, context):
    start = 0
    if context.resume_from is not None:
        start = json.loads((context.resume_from / "state.json").read_text())["step"]
    for step in range(start + 1, params["steps"] + 1):
        time.sleep(0.1)  # the work of a step
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / "state.json").write_text(json.dumps({"step": step}))
            checkpoint = pathlib.Path(directory) if step % 5 == 0 else None
            context.report({"loss": 1.0 / step}, step=step, checkpoint=checkpoint)
        if context.should_stop():
            return
    test = context.shard("test")
    context.evaluate("test", records=test.records, predictions=np.zeros(len(test), dtype=np.int64))
"""
Choices = list[tuple[int, Callable[[], None]]]
CALM_LIMIT_S = 420.0
CLEAN_LIMIT_S = 60.0
LIVE_AT_ONCE = 4


@dataclass
class Nemesis:
    """What is done to the stack, and by whom."""

    stack: EmbeddedStack
    seed: int
    code: Path
    longest_stop_s: float = 6.0
    deeds: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    _timers: list[threading.Timer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random, self._whims = random.Random(self.seed), random.Random(self.seed + 2)
        self._began_s = time.monotonic()
        self._client: Client = self.stack.client()
        (self.code / "work.py").write_text(WORK)

    # ---- the schedule ----

    def rage(self, duration_s: float) -> None:
        """Do one thing after the other until the time is over, then let everything that sleeps go on.

        Users have a thread and a schedule of their own: their calls may wait for what was just killed.
        """
        users = threading.Thread(target=self._act, args=(self._users(), random.Random(self.seed + 1), duration_s))
        users.start()
        self._act(self._deaths(), self._random, duration_s)
        users.join()
        for timer in self._timers:
            timer.join()

    def _act(self, choices: Choices, own: random.Random, duration_s: float) -> None:
        weights, acts = [weight for weight, _ in choices], [act for _, act in choices]
        while time.monotonic() - self._began_s < duration_s:
            own.choices(acts, weights)[0]()
            time.sleep(own.uniform(0.2, 3.0))  # the pace of the schedule, not a wait for anything

    def _users(self) -> Choices:
        wishes: Choices = [
            (2, lambda: self._wish("cancel")),
            (2, lambda: self._wish("pause")),
            (3, lambda: self._wish("resume")),
        ]
        return [(8, self._submit), *wishes]

    def _deaths(self) -> Choices:
        return [
            (2, lambda: self._kill("api")),
            (2, lambda: self._kill("agent")),
            (1, lambda: self._kill("mlflow")),
            (2, lambda: self._kill_found("runner", self._runners())),
            (2, lambda: self._kill_found("rank", self._ranks())),
            (1, lambda: self._kill_found("fork server", self._fork_servers())),
            (1, lambda: self._stop("api")),
            (1, lambda: self._stop("agent")),
            (1, lambda: self._stop("mlflow")),
        ]

    def _say(self, deed: str) -> None:
        self.deeds.append(f"{time.monotonic() - self._began_s:.1f} s: {deed}")

    # ---- users ----

    def _submit(self) -> None:
        if len(self._unfinished()) >= LIVE_AT_ONCE:
            return
        key = f"key-{len(self.acknowledged)}-{self._whims.randrange(10**6)}"
        spec: dict[str, Any] = {
            "name": "nemesis",
            "workload": "work:train",
            "code": ".",
            "params": {"steps": self._whims.choice((10, 30, 60))},
            "data": {"uri": "builtin://diabetes"},
            "resources": {"workers": self._whims.choice((1, 1, 2))},
            "policy": {"stall_timeout_s": 120, "retries": {"infra": 20}},
        }
        path = self.code / "spec.json"
        path.write_text(json.dumps(spec))
        with suppress(FairleadError):
            self.acknowledged[key] = self._client.submit(path, key=key).id
            self._say(f"submit {self.acknowledged[key]}")

    def _unfinished(self) -> list[str]:
        with suppress(FairleadError):
            return sorted(one.id for one in self._client.list() if not one.state.is_final)
        return []

    def _wish(self, wish: str) -> None:
        if found := self._unfinished():
            experiment_id = self._whims.choice(found)
            with suppress(FairleadError):
                getattr(self._client.get(experiment_id), wish)()
                self._say(f"{wish} {experiment_id}")

    # ---- processes ----

    def _kill(self, program: str) -> None:
        with suppress(KeyError, ProcessLookupError):
            os.kill(self.stack.pid_of(program), signal.SIGKILL)
            self.kills[program] += 1
            self._say(f"kill {program}")

    def _kill_found(self, what: str, pids: list[int]) -> None:
        if pids:
            pid = self._random.choice(pids)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.kills[what] += 1
                self._say(f"kill {what} {pid}")

    def _stop(self, program: str) -> None:
        """Let a process sleep for a while, with all of its threads and connections."""
        seconds = self._random.uniform(0.5, self.longest_stop_s)
        with suppress(KeyError, ProcessLookupError, psutil.NoSuchProcess):
            process = psutil.Process(self.stack.pid_of(program))
            sleepers = [process, *process.children(recursive=True)] if program == "agent" else [process]
            for one in sleepers:
                one.suspend()
            self._timers.append(threading.Timer(seconds, _wake, (sleepers,)))
            self._timers[-1].start()
            self._say(f"stop {program} for {seconds:.1f} s")

    def _begun(self) -> list[tuple[str, int]]:
        """Name and process of every runner that has begun and has no result yet."""
        found = []
        for path in sorted((self.stack.home / "storage").glob("*/*/a*/BEGUN")):
            with suppress(ValueError):
                begun = json.loads(path.read_text())
                if not (path.parent / "result.json").exists() and "pid" in begun:
                    found.append((f"fl-{path.parent.parent.name}-{path.parent.name}", int(begun["pid"])))
        return found

    def _runners(self) -> list[int]:
        return [pid for name, pid in self._begun() if pid in marked_processes(name)]

    def _ranks(self) -> list[int]:
        return [other for name, pid in self._begun() for other in marked_processes(name) if other != pid]

    def _fork_servers(self) -> list[int]:
        description = self.stack.description
        everybody = family(description.processes, description.marker)
        return [one.pid for one in everybody if _is_fork_server(one)]

    # ---- afterwards ----

    def calm(self) -> None:
        """Nobody disturbs any more: every experiment must come to its end."""
        deadline = time.monotonic() + CALM_LIMIT_S
        while unfinished := self._to_finish():
            assert time.monotonic() < deadline, self._report(f"these never end: {unfinished}")
            for experiment_id, state in unfinished.items():
                with suppress(FairleadError):
                    experiment = self._client.get(experiment_id)
                    if state in (State.PAUSED, State.HELD):
                        experiment.resume() if state is State.PAUSED else experiment.cancel()
            time.sleep(1)

    def _to_finish(self) -> dict[str, str]:
        try:
            found = {one.id: one for one in self._client.list()}
        except FairleadError as error:
            return {"the api does not answer": str(error)}
        return {one.id: f"{one.state}" for one in found.values() if not one.state.is_final}

    def reckon(self) -> None:
        """Hold the history, the files, MLflow and the process table against what was promised."""
        store = open_store(f"sqlite:///{self.stack.home / 'fairlead.db'}")
        try:
            _await(lambda: not self._leftovers(store), self._report("processes of ended attempts are left"))
            history = read(store)
            expected = Expected(acknowledged=self.acknowledged, storage=self.stack.home / "storage")
            found = broken(history, expected)
            assert found == (), self._report("; ".join(found))
            assert is_at_rest(history), self._report("an attempt is open")
            lives = [life for life in history.lives if life.row.current_attempt_no]
            _await(lambda: not self._unrecorded(lives), self._report("MLflow differs from what was taken in"))
        finally:
            store.close()
            self._client.close()

    def _leftovers(self, store: Any) -> list[int]:
        names = [attempt.runner_name for life in read(store).lives for attempt in life.attempts]
        return [pid for name in names for pid in marked_processes(name)]

    def _unrecorded(self, lives: list[Life]) -> list[str]:
        return [said for life in lives for said in differences(life, self._recorded(life.row.id))]

    def _recorded(self, experiment_id: str) -> Counter[Point]:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self.stack.mlflow_url)
        with suppress(MlflowException):
            runs = client.search_runs(
                [each.experiment_id for each in client.search_experiments()],
                f"tags.`fairlead.experiment_id` = '{experiment_id}'",
            )
            assert len(runs) <= 1, self._report(f"{len(runs)} runs of {experiment_id}")
            points = [
                point
                for run in runs
                for key in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, key)
            ]
            return Counter((point.key, point.step, point.timestamp) for point in points)
        return Counter()

    def _report(self, trouble: str) -> str:
        deeds = "\n".join(self.deeds)
        return f"seed {self.seed}: {trouble}\n{deeds}\nlogs: {self.stack.home / 'logs'}"


def _wake(sleepers: list[psutil.Process]) -> None:
    for one in sleepers:
        with suppress(psutil.NoSuchProcess):
            one.resume()


def _is_fork_server(process: psutil.Process) -> bool:
    try:
        return any("fairlead.run.warm.root" in word or word.endswith("warm/root.py") for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def _await(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + CLEAN_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.5)


@contextmanager
def _mlflow_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in client_environment().items():
            patch.setenv(name, value)
        yield


def _run(directory: Path, *, seed: int, duration_s: float, longest_stop_s: float = 6.0) -> Nemesis:
    print(f"nemesis: SEED={seed} DURATION={duration_s:g}", flush=True)
    code = directory / "code"
    code.mkdir()
    with _mlflow_environment(), EmbeddedStack(directory / "home", cpus=2) as stack:
        nemesis = Nemesis(stack, seed, code, longest_stop_s=longest_stop_s)
        nemesis.rage(duration_s)
        nemesis.calm()
        nemesis.reckon()
    print(f"nemesis: {len(nemesis.acknowledged)} experiments, kills {dict(nemesis.kills)}: nothing broken", flush=True)
    return nemesis


def test_half_a_minute_of_deaths_stops_and_changes_of_mind_breaks_no_promise(tmp_path: Path) -> None:
    nemesis = _run(tmp_path, seed=20261123, duration_s=30)
    assert nemesis.acknowledged
    assert nemesis.kills.total() >= 2


@pytest.mark.nightly  # ten minutes and what they have stirred up, from a seed of its own each night
@pytest.mark.timeout(2400)
def test_ten_minutes_of_them_from_a_random_seed_break_no_promise(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**9))
    _run(tmp_path, seed=seed, duration_s=float(os.environ.get("DURATION") or 600), longest_stop_s=40)


if __name__ == "__main__":
    given = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**9))
    place = Path(tempfile.mkdtemp(prefix="fl-nemesis-"))
    _run(place, seed=given, duration_s=float(os.environ.get("DURATION") or 600), longest_stop_s=40)

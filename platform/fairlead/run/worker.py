"""One data-parallel rank: prepares its process, calls the workload, and tells the runner how it went.

What the workload raises goes to the runner as text and never to Ray Train, which would charge it like a crash. Every
second a thread shows the runner that the rank lives, and ends the process when the runner is gone.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import ray
import ray.train
import ray.train.torch

from fairlead.data.context import LocalContext
from fairlead.data.dataset import Dataset, open_dataset
from fairlead.data.export import Origin
from fairlead.data.torch import any_rank, seed_all, share_cores
from fairlead.errors import StorageAway
from fairlead.evaluation.answers import MAX_ANSWERS
from fairlead.evaluation.energy import NodeEnergy
from fairlead.protocol import (
    ANSWERS_FILES,
    EVALUATED_SPLIT,
    MODEL_DIRECTORY,
    SAMPLES_DIRECTORY,
    FileEntry,
    LaunchDocument,
)
from fairlead.run.counting import Report as Tell
from fairlead.run.counting import count_predictions
from fairlead.run.energy import EnergyMeter, NoMeter
from fairlead.run.idleness import Load
from fairlead.run.kills import count_kills
from fairlead.run.logs import drain_output, redirect_output
from fairlead.run.messages import Finished, Hello, Orders, Report, Welcome, WrittenCheckpoint
from fairlead.run.preparing import prepare
from fairlead.run.rank import describe_environment, describe_failure, find_code, load_workload
from fairlead.run.reports import ReportQueue
from fairlead.run.sampling import Sampler, processor_seconds
from fairlead.run.spool import now_ms
from fairlead.run.stacks import dump_stacks, listen_for_stacks
from fairlead.run.storage import copy_checkpoint, seal_checkpoint, shared_checkpoint, write_atomically
from fairlead.run.virtual import Order
from fairlead.run.warm import birth

HEARTBEAT_S = 1.0
SAMPLE_EVERY = 5
"""Heartbeats between two samples of memory and processor time."""
_CALL_TIMEOUT_S = 60.0
_LONG_CALL_TIMEOUT_S = 600.0
_UNTIL_ENDED_S = 3660.0
"""The longest ``keep_alive_s``, and more: the runner ends a rank that has failed."""
_RUNNER_IS_GONE = 70
_GROUP_IS_OLD = 71


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What every rank is given: the launch document as JSON and the places it needs."""

    document: str
    attempt: str
    code: str | None
    environment: Order | None = None


def work(config: Mapping[str, Any]) -> None:
    """Ray Train's loop function: one rank from its first words to its last."""
    assignment: Assignment = config["assignment"]
    document = LaunchDocument.model_validate_json(assignment.document)
    attempt = Path(assignment.attempt)
    rank = ray.train.get_context().get_world_rank()
    redirect_output(attempt, rank=rank)
    listen_for_stacks(attempt, rank)
    if assignment.environment is not None and not assignment.environment.is_entered:
        prepare(assignment.environment, document.runner_name)
        return
    line = RunnerLine.open(document.runner_name)
    line.start_heartbeat(attempt, tells_load=document.spec.policy.idle_limit_s is not None)
    _report_own_exit(line)
    try:
        _run(document, assignment, line)
    except BaseException as error:  # SystemExit included: whatever the workload does is an answer
        drain_output(timeout_s=2)
        line.fail(error)
    drain_output(timeout_s=2)


def _run(document: LaunchDocument, assignment: Assignment, line: "RunnerLine") -> None:
    if document.spec.is_evaluation:
        _evaluate(document, assignment, line)
        return
    meter = _energy_meter(document, Path(assignment.attempt), line)
    try:
        with line.excused():
            meter.start()
            _prepare_process(document, assignment)
            dataset = open_dataset(document.spec.data) if document.spec.data.is_there else None
            workload = load_workload(document.workload_module)
            context = _context(document, Path(assignment.attempt), dataset, line)
            meter.wait()
        workload(document.params, context)
    finally:
        with line.excused():
            meter.end()
    with line.excused():
        states = {split: state.to_bytes() for split, state in context.states.items()}
        line.finish(
            states,
            asdict(dataset.info) if dataset else {},
            has_exported=context.has_exported,
            device=context.device,
            measurements=context.measurements,
            answers=_write_answers(context, Path(assignment.attempt), line),
            num_reports=context.num_reports,
            was_told_to_stop=context.was_told_to_stop,
        )


def _write_answers(context: LocalContext, attempt: Path, line: "RunnerLine") -> FileEntry | None:
    """This rank's answers to the test rows, if they are kept, straight to the storage: they may be large.

    Raises ``StorageAway``, since a storage that is full or away says nothing about the workload.
    """
    if context.answers is None:
        return None
    path = attempt / ANSWERS_FILES.format(generation=line.welcome.generation, rank=context.rank)
    try:
        sha256 = write_atomically(path, content := context.answers.to_bytes())
    except OSError as error:
        raise StorageAway(f"the answers to the test rows cannot be written: {error}") from error
    return FileEntry(path=path.name, size=len(content), sha256=sha256)


def _evaluate(document: LaunchDocument, assignment: Assignment, line: "RunnerLine") -> None:
    """Count predictions instead of training. It waits for its storage, not for nothing: that is no idleness."""
    here = ray.train.get_context()
    rank = here.get_world_rank()
    with line.excused():
        _prepare_process(document, assignment)
        counted = count_predictions(
            document.spec,
            rank=rank,
            world_size=here.get_world_size(),
            should_stop=lambda: line.should_stop,
            report=_progress_of(line, rank),
        )
        if counted is None:
            line.finish({}, {}, has_exported=False, device="cpu")
        else:
            line.finish(counted.states, counted.dataset, has_exported=False, device="cpu")


def _progress_of(line: "RunnerLine", rank: int) -> Tell:
    """Rank 0's metrics are those of the attempt; of the others it counts that they go on."""
    if rank == 0:
        return lambda metrics, step: line.report(metrics, step=step)
    return lambda metrics, step: line.touch()


def _energy_meter(document: LaunchDocument, attempt: Path, line: "RunnerLine") -> NoMeter | EnergyMeter:
    """What measures this node, in the rank that comes first on it. Others may use what is left of the node."""
    context, asked, resources = ray.train.get_context(), document.spec.energy, document.spec.resources
    if asked is None or context.get_local_rank() != 0:
        return NoMeter()
    here = ray.get_runtime_context().get_node_id()
    node = next((one for one in ray.nodes() if one["NodeID"] == here), None)
    ranks = context.get_local_world_size()
    entry = NodeEnergy(
        node=str(node["NodeManagerHostname"]) if node else here,
        attempt=document.attempt_no,
        group=line.welcome.generation,
        ranks=ranks,
        duration_s=0,
        is_shared=node is None or node["Resources"].get("CPU", 0) > ranks * resources.cpus_per_worker,
    )
    rank = context.get_world_rank()
    return EnergyMeter(attempt, asked, entry, rank=rank, has_gpus=resources.gpus_per_worker > 0)


def _prepare_process(document: LaunchDocument, assignment: Assignment) -> None:
    find_code(assignment.code)
    share_cores(ray.train.get_context().get_local_world_size())
    seed_all(document.spec.seed)


def _context(document: LaunchDocument, attempt: Path, dataset: Dataset | None, line: "RunnerLine") -> "RankContext":
    context = ray.train.get_context()
    spec = document.spec
    code_hash = f"sha256:{document.code_sha256}" if document.code_sha256 else None
    return RankContext(
        line,
        dataset=dataset,
        origin=Origin(
            workload=spec.workload,
            module=document.workload_module.partition(":")[0],
            params=document.params,
            code_hash=code_hash,
        ),
        outlet=RunnerOutlet(line, attempt, rank=context.get_world_rank(), world_size=context.get_world_size()),
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        exact_auc=spec.evaluation.exact_auc,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=str(ray.train.torch.get_device()),
        resume_from=line.welcome.resume_from,
        export_to=attempt / MODEL_DIRECTORY,
        samples_to=attempt / SAMPLES_DIRECTORY,
        mitigation=spec.mitigation,
        privacy=spec.privacy,
        probes=spec.probes,
        keep_answers=_keeps_answers(document, dataset),
        agree=any_rank,
    )


def _keeps_answers(document: LaunchDocument, dataset: Dataset | None) -> bool:
    if dataset is None:
        return False
    return document.keeps_answers and dataset.info.num_by_split[EVALUATED_SPLIT] <= MAX_ANSWERS


class RankContext(LocalContext):
    """A rank's context: it is not idle while it counts or exports, whatever that waits for."""

    def __init__(self, line: "RunnerLine", **given: Any) -> None:
        super().__init__(**given)
        self._line = line

    def evaluate(self, *given: Any, **named: Any) -> None:
        """Count predictions of this rank's rows."""
        with self._line.excused():
            super().evaluate(*given, **named)

    def export(self, *given: Any, **named: Any) -> None:
        """Write the model where the platform wants it."""
        with self._line.excused():
            super().export(*given, **named)


class RunnerOutlet:
    """Rank 0's reports, straight to the runner. Other ranks' reports count nothing and cost nothing."""

    def __init__(self, line: "RunnerLine", attempt: Path, *, rank: int, world_size: int) -> None:
        self._line = line
        self._attempt = attempt
        self._rank = rank
        self._world_size = world_size

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Send the metrics on. A checkpoint is copied at once; the rest of its way goes on beside the training."""
        if self._rank != 0:
            return
        if metrics:
            self._line.report(metrics, step=step)
        if checkpoint is not None:
            with self._line.excused():
                self._keep(checkpoint, step)

    def shared_directory(self, step: int) -> Path:
        """Beside the final place of that checkpoint, under a name that all ranks of this group make out alike."""
        return shared_checkpoint(self._attempt, step=step, generation=self._line.welcome.generation)

    def _keep(self, checkpoint: Path, step: int) -> None:
        try:
            copied = copy_checkpoint(checkpoint, self._attempt, step=step)
        except OSError as error:
            self._line.checkpoint_failed(f"step {step}: {error}")
            return
        self._line.checkpoint(copied, step=step, world_size=self._world_size)

    def should_stop(self) -> bool:
        """What the last heartbeat brought."""
        return self._line.should_stop


class RunnerLine:
    """A rank's connection to its runner."""

    def __init__(self, runner: Any, hello: Hello, welcome: Welcome) -> None:
        self.welcome = welcome
        self.should_stop = False
        self._runner = runner
        self._hello = hello
        self._reports = ReportQueue(self._deliver)
        self._sampler = Sampler(hello.rank)
        self._excuse_lock = threading.Lock()
        self._num_excused = 0
        self._num_excuses = 0
        self._has_progressed = threading.Event()

    @classmethod
    def open(cls, runner_name: str) -> "RunnerLine":
        """Find the runner and say hello. A rank of a superseded group ends here."""
        runner = ray.get_actor(runner_name, namespace="fairlead")
        here, train = ray.get_runtime_context(), ray.train.get_context()
        hello = Hello(
            rank=train.get_world_rank(),
            world_size=train.get_world_size(),
            group_id=here.get_placement_group_id() or "",
            actor_id=here.get_actor_id() or "",
            node_id=here.get_node_id(),
            pid=os.getpid(),
            is_warm=(born := birth()).is_warm,
            why_cold=born.why,
            kills=count_kills(),
        )
        welcome: Welcome = ray.get(runner.hello.remote(hello), timeout=_LONG_CALL_TIMEOUT_S)
        if not welcome.is_current:
            os._exit(_GROUP_IS_OLD)
        return cls(runner, hello, welcome)

    # ---- life ----

    def start_heartbeat(self, attempt: Path, *, tells_load: bool) -> None:
        """Keep in touch from a thread of its own. ``tells_load``: and say how much this rank does."""
        arguments = attempt, tells_load
        threading.Thread(target=self._beat, args=arguments, name="fairlead-heartbeat", daemon=True).start()

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """What is done meanwhile may wait for a disk, and is no idleness."""
        with self._excuse_lock:
            self._num_excused += 1
            self._num_excuses += 1
        try:
            yield
        finally:
            with self._excuse_lock:
                self._num_excused -= 1

    def _load(self) -> Load:
        with self._excuse_lock:
            is_excused, num_excuses = self._num_excused > 0, self._num_excuses
        return Load(cpu_s=processor_seconds(), is_excused=is_excused, num_excuses=num_excuses)

    def _beat(self, attempt: Path, tells_load: bool) -> None:
        count, has_dumped = 0, False
        while True:
            is_due = count % SAMPLE_EVERY == 0
            sample = self._sampler.sample() if is_due else {}
            orders = self._poll(sample, self._load() if tells_load and is_due else None)
            if orders is not None:
                self.should_stop = orders.should_stop
                if orders.should_dump_stacks and not has_dumped:
                    has_dumped = True
                    dump_stacks(attempt, self._hello.rank)
                if not orders.is_current:
                    os._exit(_GROUP_IS_OLD)
            count += 1
            time.sleep(HEARTBEAT_S)

    def _poll(self, sample: Mapping[str, float], load: Load | None) -> Orders | None:
        has_progressed = self._has_progressed.is_set()
        self._has_progressed.clear()
        try:
            polled = self._runner.poll.remote(
                self._hello.rank, self.welcome.generation, dict(sample), load, has_progressed=has_progressed
            )
            orders: Orders = ray.get(polled, timeout=10)
            return orders
        except ray.exceptions.ActorDiedError:
            os._exit(_RUNNER_IS_GONE)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
            return None

    # ---- work ----

    def touch(self) -> None:
        """Let the next heartbeat say that this rank goes on: it counts as a new step does."""
        self._has_progressed.set()

    def report(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Send soon, without waiting, unless too much is on its way."""
        self._reports.put(Report(generation=self.welcome.generation, step=step, metrics=dict(metrics), at_ms=now_ms()))

    def _deliver(self, reports: Sequence[Report]) -> None:
        ray.get(self._runner.reports_from_worker.remote(tuple(reports)), timeout=_CALL_TIMEOUT_S)

    def checkpoint(self, copied: Path, *, step: int, world_size: int) -> None:
        """Have copied files sealed and given their final name, after the reports before them. One at a time."""
        self._reports.then(lambda: self._hand_over(copied, step=step, world_size=world_size))

    def _hand_over(self, copied: Path, *, step: int, world_size: int) -> None:
        with self.excused():
            self._seal_and_tell(copied, step=step, world_size=world_size)

    def _seal_and_tell(self, copied: Path, *, step: int, world_size: int) -> None:
        try:
            files = seal_checkpoint(copied)
        except OSError as error:
            self._tell_checkpoint_failed(f"step {step}: {error}")
            return
        written = WrittenCheckpoint(
            generation=self.welcome.generation, step=step, world_size=world_size, directory=copied, files=files
        )
        ray.get(self._runner.checkpoint_from_worker.remote(written), timeout=_LONG_CALL_TIMEOUT_S)

    def checkpoint_failed(self, message: str) -> None:
        """Say that a checkpoint could not be written; training goes on."""
        self._reports.then(lambda: self._tell_checkpoint_failed(message))

    def _tell_checkpoint_failed(self, message: str) -> None:
        ray.get(self._runner.checkpoint_failed.remote(self.welcome.generation, message), timeout=_CALL_TIMEOUT_S)

    def finish(
        self,
        states: Mapping[str, bytes],
        dataset: Mapping[str, Any],
        *,
        has_exported: bool,
        device: str,
        measurements: Mapping[str, Any] | None = None,
        answers: FileEntry | None = None,
        num_reports: int = 0,
        was_told_to_stop: bool = False,
    ) -> None:
        """Hand over this rank's counts by split."""
        self._reports.flush()
        finished = Finished(
            generation=self.welcome.generation,
            rank=self._hello.rank,
            states=states,
            dataset=dataset if self._hello.rank == 0 else {},
            has_exported=has_exported,
            environment=describe_environment(device) if self._hello.rank == 0 else {},
            measurements=(measurements or {}) if self._hello.rank == 0 else {},
            answers=answers,
            num_reports=num_reports,
            was_told_to_stop=was_told_to_stop,
        )
        ray.get(self._runner.finished.remote(finished), timeout=_LONG_CALL_TIMEOUT_S)

    def fail(self, error: BaseException) -> None:
        """Tell what was raised, and wait to be ended; raise where the death of another rank explains it."""
        self._reports.flush()
        failure = describe_failure(error, generation=self.welcome.generation, rank=self._hello.rank)
        should_retry: bool = ray.get(self._runner.failed.remote(failure), timeout=_CALL_TIMEOUT_S)
        if should_retry:
            raise RuntimeError(f"rank {self._hello.rank} lost another rank: {failure.message[:500]}")
        threading.Event().wait(_UNTIL_ENDED_S)

    def exiting(self, code: int) -> None:
        """Say that the program is ending this process on its own, and wait to be ended where it may be looked at."""
        self._reports.flush()
        if ray.get(self._runner.exiting.remote(self.welcome.generation, self._hello.rank, code), timeout=5):
            threading.Event().wait(_UNTIL_ENDED_S)


def _report_own_exit(line: RunnerLine) -> None:
    """Let the runner know of ``os._exit`` in this process: Ray cannot tell it from a crash."""
    own_pid, really_exit = os.getpid(), os._exit

    def exit_after_report(status: int) -> NoReturn:
        is_own = status not in (_RUNNER_IS_GONE, _GROUP_IS_OLD)
        if os.getpid() == own_pid and is_own:
            _quietly(lambda: line.exiting(status))
            drain_output(timeout_s=2)
        really_exit(status)

    os._exit = exit_after_report


def _quietly(call: Callable[[], None]) -> None:
    try:
        call()
    except ray.exceptions.RayError as error:
        print(f"fairlead: the runner could not be told: {error}", file=sys.stderr)

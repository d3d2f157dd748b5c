"""One rank of a trial, in a process that knows neither Ray nor the runner: its seat tells it what to do.

It is given a task, trains, counts the validation split, says what came of it, and ends; or takes the next task where
the spec lets processes be used again. When its seat is gone it ends at once.
"""

import atexit
import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed

from fairlead.data.context import LocalContext
from fairlead.data.dataset import Dataset, open_dataset
from fairlead.data.export import Origin
from fairlead.data.torch import any_rank, choose_device, gather_objects, seed_all, share_cores
from fairlead.evaluation.quantities import read_state
from fairlead.protocol import EVALUATED_SPLIT
from fairlead.run.meeting import join_store, open_store
from fairlead.run.outputs import describe_dataset
from fairlead.run.rank import describe_environment, describe_failure, find_code, load_workload
from fairlead.run.spool import now_ms
from fairlead.run.storage import shared_checkpoint
from fairlead.run.sweep.channel import Channel, Message
from fairlead.run.sweep.judging import counted_values, without_test_rows
from fairlead.run.sweep.keeping import Keeper
from fairlead.run.warm import birth
from fairlead.spec import ExperimentSpec

SEND_EVERY_S = 0.05
_SEAT_IS_GONE = 72
_MEET_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What one rank of one trial is to do. Paths are those of the shared storage, as this node sees it."""

    key: str
    """Names this try of this trial in all that is said."""
    spec: str
    """``ExperimentSpec`` of the trial, as JSON."""
    module: str
    """``package.module:function``."""
    params: dict[str, Any]
    rank: int
    world_size: int
    address: str
    """Of the node, for the ranks to meet."""
    directory: str
    """Where the trial writes."""
    storage: str
    code: str | None
    resume_from: str | None
    counts: bool
    """Whether ``rai/...`` is to be measured."""
    wanted: tuple[str, ...]
    """Metrics of the report that are asked for beside the headlines."""
    is_alone: bool
    """Whether the process is for this task only."""
    timeout_s: float
    """For collectives."""
    keeps_every_s: float
    """How often a checkpoint is brought to disk while it trains."""
    describes: bool
    """Whether it is to tell of the data and of its surroundings."""

    @classmethod
    def of(cls, message: Message) -> "Task":
        """As it came over the channel."""
        return cls(**{**message["task"], "wanted": tuple(message["task"]["wanted"])})


def main() -> NoReturn:
    """Serve one seat."""
    process = Process(Channel.from_standard_input())
    code = process.serve()
    for last in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            last()
        except Exception:  # the workload's own; the trial has said all it had to say
            traceback.print_exc()
    os._exit(code)


class Process:
    """Reads what the seat says in a thread, and works in this one."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._key = ""
        self._stopped: set[str] = set()
        self._tasks: queue.Queue[Task] = queue.Queue()
        self._stores: queue.Queue[tuple[str, int]] = queue.Queue()
        self._datasets: dict[str, Dataset] = {}
        born = birth()
        self.say("up", pid=os.getpid(), is_warm=born.is_warm, why_cold=born.why)
        threading.Thread(target=self._listen, name="fairlead-seat", daemon=True).start()

    def say(self, kind: str, **content: Any) -> None:
        """To the seat; when it is gone this process ends."""
        try:
            self.channel.send({"kind": kind, "key": self._key, **content})
        except OSError:
            os._exit(_SEAT_IS_GONE)

    @property
    def should_stop(self) -> bool:
        """Whether the trial under way is to end."""
        return self._key in self._stopped

    def _listen(self) -> None:
        while (message := self.channel.next()) is not None:
            if message["kind"] == "task":
                self._tasks.put(Task.of(message))
            elif message["kind"] == "store":
                self._stores.put((message["address"], message["port"]))
            elif message["kind"] == "stop":
                self._stopped.add(message["key"])
        os._exit(_SEAT_IS_GONE)

    def serve(self) -> int:
        """Work until a task was for this process alone."""
        while True:
            task = self._tasks.get()
            self._key = task.key
            try:
                self._work(task)
            except BaseException as error:  # SystemExit included: whatever the workload does is an answer
                failure = describe_failure(error, generation=1, rank=task.rank)
                self.say("failed", failure=asdict(failure))
                return 1
            if task.is_alone:
                return 0

    def _work(self, task: Task) -> None:
        spec = ExperimentSpec.model_validate_json(task.spec)
        find_code(task.code)
        share_cores(task.world_size)
        seed_all(spec.seed)
        dataset = self._open(spec)
        workload = load_workload(task.module)
        with self._joined(task, spec):
            outlet = TrialOutlet(self, task)
            context = _context(task, spec, dataset, outlet)
            workload(task.params, context)
            values = _values(task, spec, context)
        outlet.finish()
        self.say(
            "done",
            has_evaluated=EVALUATED_SPLIT in context.states,
            values=values,
            checkpoint=outlet.kept,
            environment=describe_environment(context.device) if task.describes else {},
            dataset=describe_dataset(asdict(self._info)) if task.describes else None,
        )

    def _open(self, spec: ExperimentSpec) -> Dataset:
        """Read once a process: the data of all trials are the same."""
        key = spec.data.model_dump_json()
        if key not in self._datasets:
            opened = open_dataset(spec.data)
            self._info, self._datasets[key] = opened.info, without_test_rows(opened)
        return self._datasets[key]

    @contextlib.contextmanager
    def _joined(self, task: Task, spec: ExperimentSpec) -> Iterator[None]:
        """Collectives among the ranks of the trial; alone there are none."""
        if task.world_size == 1:
            yield
            return
        if task.rank == 0:
            store = open_store(task.address, world_size=task.world_size, timeout_s=_MEET_S)
            self.say("store", address=task.address, port=store.port)
        else:
            address, port = self._stores.get(timeout=_MEET_S)
            store = join_store(address, port, world_size=task.world_size, timeout_s=_MEET_S)
        torch.distributed.init_process_group(
            "nccl" if spec.resources.gpus_per_worker else "gloo",
            store=store,
            rank=task.rank,
            world_size=task.world_size,
            timeout=timedelta(seconds=task.timeout_s),
        )
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


class TrialOutlet:
    """Rank 0's reports, to its seat, a few together where they come quickly; other ranks' count nothing."""

    def __init__(self, process: Process, task: Task) -> None:
        self._process = process
        self._is_first = task.rank == 0
        self._storage = Path(task.storage)
        self._directory = Path(task.directory)
        self._keeper = Keeper(Path(task.directory), world_size=task.world_size, every_s=task.keeps_every_s)
        self._waiting: list[tuple[int, int, Mapping[str, float]]] = []
        self._sent_s = 0.0
        self.kept: dict[str, Any] | None = None
        """``CheckpointRef`` of the last checkpoint, after ``finish``."""

    def report(self, metrics: Mapping[str, float], *, step: int, checkpoint: Path | None) -> None:
        """Send the metrics on, and copy a checkpoint. One that cannot be copied is left out, and said so."""
        if not self._is_first:
            return
        if metrics:
            self._waiting.append((step, now_ms(), dict(metrics)))
        if time.monotonic() - self._sent_s >= SEND_EVERY_S:
            self._send()
        if checkpoint is not None:
            self._told(lambda: self._keeper.take(checkpoint, step=step))

    def shared_directory(self, step: int) -> Path:
        """In the trial's directory, where all its ranks find it; the trial of a name has one group at a time."""
        return shared_checkpoint(self._directory, step=step, generation=0)

    def should_stop(self) -> bool:
        """What the seat has said."""
        return self._process.should_stop

    def finish(self) -> None:
        """Send the rest, and keep the last checkpoint."""
        if self._is_first:
            self._send()
            self._told(self._keeper.keep)
            newest = self._keeper.newest(self._storage)
            self.kept = newest.model_dump() if newest else None

    def _send(self) -> None:
        if self._waiting:
            self._process.say("reports", reports=self._waiting)
            self._waiting = []
        self._sent_s = time.monotonic()

    def _told(self, keep: Callable[[], None]) -> None:
        try:
            keep()
        except OSError as error:
            self._process.say("checkpoint_failed", message=str(error))


def _context(task: Task, spec: ExperimentSpec, dataset: Dataset, outlet: TrialOutlet) -> LocalContext:
    origin = Origin(
        workload=spec.workload, module=task.module.partition(":")[0], params=task.params, code_hash=spec.code
    )
    return LocalContext(
        dataset=dataset,
        origin=origin,
        outlet=outlet,
        seed=spec.seed,
        threshold=spec.evaluation.threshold,
        exact_auc=spec.evaluation.exact_auc,
        rank=task.rank,
        world_size=task.world_size,
        device=choose_device() if spec.resources.gpus_per_worker else "cpu",
        resume_from=Path(task.resume_from) if task.resume_from else None,
        mitigation=spec.mitigation,
        agree=any_rank,
    )


def _values(task: Task, spec: ExperimentSpec, context: LocalContext) -> dict[str, float]:
    """``rai/...`` where it is asked for and the workload has counted; collective. The same on all ranks."""
    own = context.states.get(EVALUATED_SPLIT)
    if not task.counts:
        return {}
    told = gather_objects(None if own is None else own.to_bytes())
    if any(content is None for content in told):
        return {}
    if task.rank != 0:
        return {}
    states = [read_state(content) for content in told]
    return counted_values(spec, context.dataset, states, task.wanted)

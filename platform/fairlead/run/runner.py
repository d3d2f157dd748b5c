"""The runner: a detached actor, one per attempt, that drives Ray Train and writes down how it ended.

It outlives the agent that made it and needs nobody to end an attempt properly: limits are watched here, the result is
on disk before anyone is told. It answers while ``fit()`` runs, since that has a thread of its own.
"""

import contextlib
import json
import os
import shutil
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from fairlead.clock import SystemClock
from fairlead.errors import Unavailable
from fairlead.failpoints import failpoint
from fairlead.lifecycle import Outcome
from fairlead.protocol import (
    BEGUN_FILE,
    MAX_RESULT_BYTES,
    RESULT_FILE,
    LaunchDocument,
    ResultDocument,
    StopMode,
    SweepOrders,
)
from fairlead.run.census import end_actors, find_family, on_nodes, remove_groups
from fairlead.run.environment import WORKER_START_TIMEOUT
from fairlead.run.idleness import Idle, Load, Span, look
from fairlead.run.kills import has_killed_since
from fairlead.run.messages import (
    Failure,
    Finished,
    Hello,
    Orders,
    PreparationOrders,
    Preparing,
    Report,
    RunnerStatus,
    Welcome,
    WrittenCheckpoint,
)
from fairlead.run.meter import BURST, MAX_KEYS, POINTS_PER_S
from fairlead.run.outputs import Outputs, collect, forget_answers
from fairlead.run.places import Places
from fairlead.run.preparation import Preparation, refusal
from fairlead.run.progress import SYSTEM_PREFIX, Group, Progress
from fairlead.run.spool import SpoolWriter, now_ms
from fairlead.run.stacks import ask_for_stacks, forget_empty_stacks, stack_sizes
from fairlead.run.storage import (
    commit_checkpoint,
    create_exclusively,
    newest_verified,
    unfinished_checkpoints,
    write_atomically,
)
from fairlead.run.tails import last_lines
from fairlead.run.verdict import (
    MAX_DETAIL,
    Ending,
    Verdict,
    decide,
    from_exit,
    from_failure,
    idle,
    judge,
    plain,
    stalled,
    storage_failed,
)
from fairlead.run.virtual import Order, Refused
from fairlead.run.warm import Birth, birth, describe

if TYPE_CHECKING:
    from fairlead.run.sweep.drive import Drive

WATCH_S = 0.25
SPOOL_FSYNC_S = 5.0
TIMEOUT_GRACE_S = 10.0
STACKS_WAIT_S = 3.0
STACKS_NODE_TIMEOUT_S = 20.0
KILLS_NODE_TIMEOUT_S = 20.0
PEER_DEATH_WAIT_S = 8.0
"""How long a broken collective may wait for the death that explains it."""
GROUP_END_WAIT_S = 30.0
NICENESS = 5
"""How far a runner stands back for the ranks on its node, at least."""
KEPT_ALIVE_AFTER = (Outcome.USER_ERROR, Outcome.OOM, Outcome.STALLED)
RESULT_RETRY_S = 5.0
RESULT_PATIENCE_S = 600.0
"""How long a storage that takes no result may take to come back."""


class Runner:
    """See the module. Methods called by the agent are in the concurrency group ``control``, so that they always answer.

    ``begin`` takes effect once per attempt, whoever calls it and how often.
    """

    def __init__(self) -> None:
        _stand_back()
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._progress = Progress(self._clock)
        self._epoch = 0
        self._document: LaunchDocument | None = None
        self._places: Places | None = None
        self._spool: SpoolWriter | None = None
        self._began_s = 0.0
        self._started_at: datetime = self._clock.now()
        self._dump_stacks = False
        self._kept_until_s: float | None = None
        self._span: Span | None = None
        self._sweep: Drive | None = None
        self._preparation: Preparation | None = None
        self._fit_is_over = threading.Event()
        self._is_finished = threading.Event()

    # ---- from the agent ----

    @ray.method(concurrency_group="control")
    def begin(
        self, document_json: str, *, storage: str, code: str | None, agent_epoch: int, environment: Order | None = None
    ) -> str:
        """Start the attempt: ``begun``, ``stale`` for an older agent, ``taken`` if another runner has begun it."""
        with self._lock:
            if not self._accepts(agent_epoch):
                return "stale"
            if self._document is not None:
                return "begun"
            document = LaunchDocument.model_validate_json(document_json)
            attempt = Path(storage) / document.storage_path
            attempt.mkdir(parents=True, exist_ok=True)
            failpoint("runner.beginning")
            try:
                places = Places(
                    storage=Path(storage),
                    attempt=attempt,
                    code=Path(code) if code else None,
                    bookkeeping=attempt / "ray",
                    environment=environment,
                )
                return self._begin(document, places)
            except Exception:  # a full disk, say: nobody else may begin it any more, so the end of this one must show
                traceback.print_exc()
                os._exit(1)

    def _begin(self, document: LaunchDocument, places: Places) -> str:
        if not create_exclusively(places.attempt / BEGUN_FILE, _identity(document)):
            return "taken"
        failpoint("runner.begun")
        self._places = places
        self._preparation = Preparation(places.environment.key) if places.environment else None
        self._spool = SpoolWriter(places.attempt)
        self._document = document
        self._began_s = self._clock.monotonic_s()
        self._started_at = self._clock.now()
        threading.Thread(target=self._drive, name="fairlead-drive").start()
        return "begun"

    @ray.method(concurrency_group="control")
    def stop(self, mode: str, *, grace_s: float, agent_epoch: int, detail: str = "") -> bool:
        """Ask the workload to return, and end it after ``grace_s``. False for an older agent. May be repeated."""
        if not self._accepts(agent_epoch):
            return False
        if self._progress.request_stop(StopMode(mode), grace_s=grace_s):
            self._note("stop_requested", f"{mode}: {detail}" if detail else mode)
        return True

    @ray.method(concurrency_group="control")
    def status(self, *, agent_epoch: int = 0) -> RunnerStatus:
        """Where the attempt stands."""
        self._accepts(agent_epoch)
        here = ray.get_runtime_context()
        return RunnerStatus(
            has_begun=self._document is not None,
            is_finished=self._is_finished.is_set(),
            last_step=self._progress.last_step,
            progress_age_s=self._progress.age_s(),
            node_id=here.get_node_id(),
            pid=os.getpid(),
            worker_pids=self._progress.worker_pids(),
            ray_session=here.get_session_name(),
            highest_agent_epoch=self._epoch,
            is_kept_alive=self._kept_until_s is not None and self._progress.stop is None,
            amendment_no=self._sweep.amendment_no if self._sweep else 0,
            slots=self._sweep.slots_told if self._sweep else 0,
        )

    @ray.method(concurrency_group="control")
    def amend(self, orders_json: str, *, agent_epoch: int) -> bool:
        """Let a sweep know of its amendments and slots. False for an older agent. May be repeated."""
        if not self._accepts(agent_epoch) or self._sweep is None:
            return False
        self._sweep.order(SweepOrders.model_validate_json(orders_json))
        return True

    def _accepts(self, agent_epoch: int) -> bool:
        if agent_epoch < self._epoch:
            return False
        self._epoch = agent_epoch
        return True

    # ---- from workers ----

    @ray.method(concurrency_group="control")
    def prepare(self, word: Preparing) -> PreparationOrders:
        """A rank that is not in its environment says how the build goes. It counts as progress, and is none."""
        preparation, group = self._preparation, self._progress.group
        assert preparation is not None, "only ranks with an environment prepare"
        self._progress.touch()
        if (news := preparation.hear(word)) is not None:
            self._note(news.kind, news.detail, news.payload)
        if isinstance(word.answer, Refused):
            self._progress.end(refusal(word.answer, node_id=word.node_id))
        entered = group.hellos.keys() if group is not None and group.group_id == word.group_id else ()
        return PreparationOrders(
            should_stop=self._progress.stop is not None,
            is_everyone_ready=preparation.is_everyone_ready(word, entered=tuple(entered)),
        )

    @ray.method(concurrency_group="workers")
    def hello(self, hello: Hello) -> Welcome:
        """A worker has come up: its group's number and the checkpoint to go on from, the same for all its ranks."""
        group, is_new = self._progress.greet(hello)
        if is_new and group.generation > 1:
            payload = {"restarts": group.generation - 1, "last_step": self._progress.last_step}
            self._note("worker_group_restarted", f"restart {group.generation - 1}", payload)
        with self._lock:  # one rank verifies, the others wait for its answer
            resume_from = self._resume_of(group.generation)
            self._note_start(group)
        return Welcome(
            generation=group.generation,
            is_current=self._progress.is_current(group.generation),
            resume_from=resume_from,
        )

    @ray.method(concurrency_group="control")
    def poll(
        self,
        rank: int,
        generation: int,
        sample: dict[str, float],
        load: Load | None = None,
        *,
        has_progressed: bool = False,
    ) -> Orders:
        """A worker shows that it lives, and learns what is asked of it."""
        is_current = self._progress.is_current(generation)
        if is_current and sample:
            seconds = int(self._clock.monotonic_s() - self._began_s)
            self._require_spool().metrics(sample, step=seconds, at_ms=now_ms())
        if is_current and has_progressed:
            self._progress.touch()
        if load is not None:
            self._progress.note_load(rank, generation, load)
        return Orders(
            is_current=is_current,
            should_stop=self._progress.stop is not None,
            should_dump_stacks=self._dump_stacks,
        )

    @ray.method(concurrency_group="workers")
    def reports_from_worker(self, reports: Sequence[Report]) -> None:
        """Put the new metrics of some steps on the spool."""
        points = [(report, fresh) for report in reports if (fresh := self._progress.take(report))]
        self._require_spool().reports(points)

    @ray.method(concurrency_group="workers")
    def checkpoint_from_worker(self, written: WrittenCheckpoint) -> bool:
        """Give copied files their manifest and final name; False if that failed or the group is an old one."""
        if not self._progress.is_current(written.generation):
            shutil.rmtree(written.directory, ignore_errors=True)
            return False
        try:
            commit_checkpoint(
                written.directory,
                written.files,
                step=written.step,
                world_size=written.world_size,
                score=self._score(),
            )
        except OSError as error:
            shutil.rmtree(written.directory, ignore_errors=True)
            self._count_failed_write(f"step {written.step}: {error}")
            return False
        self._progress.count_storage(failed=False)
        self._progress.touch()
        return True

    def _score(self) -> float | None:
        """The metric by which the best checkpoints are kept, as the current group has last reported it."""
        metric, group = self._require_document().spec.policy.checkpoints.metric, self._progress.group
        return None if metric is None or group is None else group.last_values.get(metric)

    @ray.method(concurrency_group="workers")
    def checkpoint_failed(self, generation: int, message: str) -> None:
        """A worker could not copy a checkpoint."""
        if self._progress.is_current(generation):
            self._count_failed_write(message)

    def _count_failed_write(self, message: str) -> None:
        self._note("checkpoint_failed", message)
        if self._progress.count_storage(failed=True):
            self._progress.end(storage_failed(message))

    @ray.method(concurrency_group="workers")
    def failed(self, failure: Failure) -> bool:
        """A rank raised. True: another rank died, let Ray Train restart the group. Else the attempt is over."""
        if not self._progress.is_current(failure.generation):
            return True
        if failure.is_collective and self._has_lost_rank(failure.generation):
            return True
        self._progress.end(from_failure(failure))
        return False

    def _has_lost_rank(self, generation: int) -> bool:
        """Whether a rank of the group is dead, giving Ray a moment to notice."""
        group = self._progress.group
        ids = {hello.actor_id for hello in group.hellos.values()} if group else set()
        deadline = time.monotonic() + PEER_DEATH_WAIT_S
        while self._progress.is_current(generation) and time.monotonic() < deadline:
            if self._progress.cause is not None:
                return False
            with contextlib.suppress(Unavailable):
                alive = {entry.actor_id for entry in find_family(self._name()).actors}
                if not ids <= alive:
                    return True
            time.sleep(WATCH_S)
        return not self._progress.is_current(generation)

    @ray.method(concurrency_group="workers")
    def finished(self, finished: Finished) -> None:
        """A rank has returned from the workload."""
        self._progress.finish(finished)
        self._progress.touch()

    @ray.method(concurrency_group="workers")
    def exiting(self, generation: int, rank: int, code: int) -> bool:
        """The program of a rank ends its own process. Whether it must wait to be ended, to be looked at before."""
        group = self._progress.group
        if self._progress.is_current(generation) and group is not None and rank not in group.finished:
            self._progress.end(from_exit(rank, code))
            return self._require_document().spec.policy.keep_alive_s > 0
        return False

    # ---- the drive ----

    def _drive(self) -> None:
        """From the first worker to the result on disk. Whatever goes wrong here is our own error, and said so."""
        trouble: str | None = None
        died_on: tuple[str, ...] = ()
        swept: Verdict | None = None
        watch = threading.Thread(target=self._watch, name="fairlead-watch")
        watch.start()
        try:
            if self._require_document().spec.search is not None:
                swept = self._run_sweep()
            else:
                from fairlead.run.training import fit  # loads torch: seconds in which begin() has already answered

                fit(self._require_document(), self._require_places())
        except Exception as error:  # Ray Train raises what it likes; the verdict reads it
            trouble = f"{type(error).__name__}: {error}"
            died_on = self._progress.nodes_of(_dead_actors(error))
        self._fit_is_over.set()
        watch.join()
        try:
            self._end_group(timeout_s=GROUP_END_WAIT_S)
            failpoint("runner.ended_group")
            if swept is not None:
                assert self._sweep is not None, "it has just been driven"
                verdict = swept
                outputs = Outputs(environment=self._sweep.environment, dataset=self._sweep.dataset)
            else:
                verdict, outputs = self._conclude(trouble, died_on)
        except Exception:  # a result that says so is better than none
            detail = traceback.format_exc()[-MAX_DETAIL:]
            verdict = Verdict(outcome=Outcome.INFRA_ERROR, reason="runner_error", detail=detail)
            outputs = Outputs()
        try:
            self._close_spool()
            failpoint("runner.concluded")
            self._write_result(self._encoded(verdict, outputs))
        except Exception:  # without a result only the end of this process tells anybody
            traceback.print_exc()
            os._exit(1)
        failpoint("runner.result")
        self._is_finished.set()

    def _run_sweep(self) -> Verdict:
        from fairlead.run.sweep.drive import Drive  # loads Optuna

        self._sweep = Drive(
            document=self._require_document(),
            places=self._require_places(),
            spool=self._require_spool(),
            progress=self._progress,
            clock=self._clock,
            note=self._note,
            start_timeout_s=float(os.environ.get(WORKER_START_TIMEOUT, "300")),
            preparation=self._preparation,
        )
        try:
            return self._sweep.run()
        except ray.exceptions.RayError:
            raise  # Ray's own trouble is judged as that of a worker group
        except OSError as error:
            return storage_failed(str(error))
        except Exception:  # our own error: no trial and no node is to blame
            detail = traceback.format_exc()[-MAX_DETAIL:]
            return Verdict(outcome=Outcome.INFRA_ERROR, reason="runner_error", detail=detail)

    def _conclude(self, trouble: str | None, died_on: tuple[str, ...]) -> tuple[Verdict, Outputs]:
        progress, group = self._progress, self._progress.group
        has_finished = group is not None and group.has_finished
        outputs = Outputs()
        if group is not None and has_finished and progress.cause is None:
            outputs = collect(self._require_document(), self._require_places().attempt, tuple(group.finished.values()))
        if outputs.evaluation is None:
            self._forget_answers()
        ending = Ending(
            cause=progress.cause,
            stop=progress.stop,
            has_finished=has_finished,
            incomplete=outputs.incomplete,
            trouble=trouble,
            was_killed_for_memory=trouble is not None and not has_finished and self._was_killed_for_memory(),
            died_on=died_on,
        )
        document = self._require_document()
        verdict = judge(decide(ending), document.spec.policy.rules, last_lines(self._require_places().attempt))
        if progress.stop is StopMode.CANCEL and has_finished and outputs.incomplete is None:
            self._note("completed_after_cancel", "the work was complete when the cancellation took effect")
        return verdict, outputs

    def _was_killed_for_memory(self) -> bool:
        """By the kernel, around a rank of the last group: Ray cannot tell that from a crash."""
        group = self._progress.group
        hellos = sorted(group.hellos.values(), key=lambda hello: -hello.kills.num_kills) if group else ()
        before = {hello.node_id: hello.kills for hello in hellos}  # of a node's ranks, what the first one saw
        try:
            return any(on_nodes(before, has_killed_since, self._name(), timeout_s=KILLS_NODE_TIMEOUT_S))
        except Unavailable:
            return False

    def _close_spool(self) -> None:
        places, spool = self._require_places(), self._require_spool()
        self._note_dropped(spool)
        spool.close()
        for leftover in (places.bookkeeping, *unfinished_checkpoints(places.attempt)):
            shutil.rmtree(leftover, ignore_errors=True)
        forget_empty_stacks(places.attempt)

    def _note_dropped(self, spool: SpoolWriter) -> None:
        progress, too_fast = self._progress, f"points were too many: more than {BURST} and {POINTS_PER_S:g} a second"
        counts = {
            "beyond_keys": (progress.num_beyond_keys, f"points were of metrics beyond the first {MAX_KEYS}"),
            "beyond_rate": (progress.meter.num_dropped, f"{too_fast}; the last values are kept"),
            "no_room": (spool.num_dropped, "records did not fit into the spool"),
        }
        told = {cause: (count, why) for cause, (count, why) in counts.items() if count}
        if told:
            detail = "; ".join(f"{count} {why}" for count, why in told.values())
            self._note("metrics_dropped", detail, {cause: count for cause, (count, _) in told.items()})

    def _encoded(self, verdict: Verdict, outputs: Outputs) -> bytes:
        """The result as JSON; where it is too long, or a name in it cannot be written so, a result that says that."""
        try:
            content = self._result(verdict, outputs).model_dump_json(indent=1).encode()
            if len(content) <= MAX_RESULT_BYTES:
                return content
            detail = f"metrics, data description and model config have {len(content)} bytes as JSON; "
            detail += f"at most {MAX_RESULT_BYTES} are accepted: put what is large into tensors"
        except ValueError as error:
            detail = f"the result cannot be written as JSON: {error!a}"
        unfit = Verdict(outcome=Outcome.USER_ERROR, reason="bad_result", detail=detail[:MAX_DETAIL])
        self._progress.last_values.clear()
        return self._result(unfit, Outputs()).model_dump_json(indent=1).encode()

    def _write_result(self, content: bytes) -> None:
        """Bring the result to disk. A full disk is waited out; then this process ends, so that its death is seen."""
        deadline_s = self._clock.monotonic_s() + RESULT_PATIENCE_S
        while True:
            try:
                write_atomically(self._require_places().attempt / RESULT_FILE, content)
                return
            except OSError:
                traceback.print_exc()
            if self._clock.monotonic_s() > deadline_s:
                os._exit(1)
            time.sleep(RESULT_RETRY_S)

    def _result(self, verdict: Verdict, outputs: Outputs) -> ResultDocument:
        document, values = self._require_document(), self._progress.last_values
        return ResultDocument(
            experiment_id=document.experiment_id,
            attempt_no=document.attempt_no,
            outcome=verdict.outcome,
            reason=plain(verdict.reason),
            detail=plain(verdict.detail),
            died_on=verdict.died_on,
            last_step=self._progress.last_step,
            metrics={key: value for key, value in values.items() if not key.startswith(SYSTEM_PREFIX)},
            evaluation=outputs.evaluation,
            model=outputs.model if verdict.outcome is Outcome.SUCCEEDED else None,
            dataset=outputs.dataset,
            environment=outputs.environment,
            sweep=self._sweep.summary if self._sweep else None,
            started_at=self._started_at,
            ended_at=self._clock.now(),
        )

    # ---- the watch ----

    def _watch(self) -> None:
        """Enforce limits until ``fit()`` is over: the control plane may be away for hours."""
        flushed_s = self._clock.monotonic_s()
        while not self._fit_is_over.wait(WATCH_S):
            try:
                self._enforce_limits()
                is_over = self._progress.cause is not None or self._progress.is_past_grace
                if is_over and not self._is_kept_alive():
                    self._end_group(timeout_s=GROUP_END_WAIT_S)
                if self._clock.monotonic_s() - flushed_s > SPOOL_FSYNC_S:
                    flushed_s = self._clock.monotonic_s()
                    self._require_spool().flush()
            except Exception:  # a full disk, a table of Ray that cannot be read: limits must hold afterwards too
                traceback.print_exc()

    def _enforce_limits(self) -> None:
        document = self._require_document()
        if self._progress.stop is None and self._clock.monotonic_s() - self._began_s > document.runtime_left_s:
            self._progress.request_stop(StopMode.TIMEOUT, grace_s=TIMEOUT_GRACE_S)
            self._note("stop_requested", "timeout")
        age_s = self._progress.age_s()
        if age_s is not None and age_s > document.spec.policy.stall_timeout_s and self._progress.cause is None:
            self._collect_stacks()
            self._progress.end(stalled(age_s, self._progress.last_step))
        self._watch_idleness(document.spec.policy.idle_limit_s)

    def _watch_idleness(self, limit_s: float | None) -> None:
        if limit_s is None or self._progress.cause is not None or self._progress.stop is not None:
            return
        seen = look(self._span, self._progress.loads(), now_s=self._clock.monotonic_s(), limit_s=limit_s)
        if isinstance(seen, Idle):
            self._progress.end(idle(seen))
        else:
            self._span = seen

    def _collect_stacks(self) -> None:
        """Have every rank write down what it is doing; those whose interpreter is blocked are asked by a signal."""
        group, attempt = self._progress.group, self._require_places().attempt
        if group is None:
            return
        before = stack_sizes(attempt, group.hellos)
        self._dump_stacks = True
        silent = self._ranks_without_stacks(before, within_s=STACKS_WAIT_S)
        by_node: dict[str, list[int]] = {}
        for rank in silent:
            by_node.setdefault(group.hellos[rank].node_id, []).append(group.hellos[rank].pid)
        try:
            on_nodes(by_node, ask_for_stacks, self._name(), timeout_s=STACKS_NODE_TIMEOUT_S)
        except Unavailable as error:
            self._note("stacks_incomplete", str(error))
        if missing := self._ranks_without_stacks(before, within_s=STACKS_WAIT_S) if silent else ():
            self._note("stacks_incomplete", f"ranks {list(missing)} did not show what they are doing")

    def _ranks_without_stacks(self, before: dict[int, int], *, within_s: float) -> tuple[int, ...]:
        """Those that have written nothing new, after at most ``within_s``."""
        deadline_s = self._clock.monotonic_s() + within_s
        while True:
            now = stack_sizes(self._require_places().attempt, before)
            silent = tuple(rank for rank, size in now.items() if size <= before[rank])
            if not silent or self._clock.monotonic_s() > deadline_s or self._fit_is_over.wait(0.1):
                return silent

    def _is_kept_alive(self) -> bool:
        """Whether a failed attempt's processes stay for a look; any stop ends that, and so does the run time."""
        cause, keep_s = self._progress.cause, self._require_document().spec.policy.keep_alive_s
        if cause is None or cause.outcome not in KEPT_ALIVE_AFTER or self._progress.stop is not None:
            return False
        now_s = self._clock.monotonic_s()
        if self._kept_until_s is None and keep_s > 0:
            self._kept_until_s = now_s + keep_s
            self._note_kept_alive(cause, keep_s)
        return self._kept_until_s is not None and now_s < self._kept_until_s

    def _note_kept_alive(self, cause: Verdict, keep_s: float) -> None:
        until = self._clock.now() + timedelta(seconds=keep_s)
        hellos = self._progress.group.hellos if self._progress.group else {}
        payload = {
            "runner": {"node": ray.get_runtime_context().get_node_id(), "pid": os.getpid()},
            "workers": {str(rank): {"node": one.node_id, "pid": one.pid} for rank, one in sorted(hellos.items())},
            "until": until.isoformat(timespec="seconds"),
        }
        self._note("kept_alive", f"{cause.outcome}: {cause.reason}; processes stay for {keep_s:g} s", payload)

    def _end_group(self, *, timeout_s: float) -> None:
        """Kill the Train controller and all it owns, and give their resources back; returns when they are gone."""
        deadline = self._clock.monotonic_s() + timeout_s
        own = ray.get_runtime_context().get_actor_id()
        while self._clock.monotonic_s() < deadline:
            with contextlib.suppress(Unavailable):  # the head is away: ask again
                family = find_family(self._name(), runner_actor_id=own)
                children = [entry for entry in family.actors if entry.actor_id != own]
                if not children and not family.groups:
                    return
                end_actors(children)
                remove_groups(family.groups)
            time.sleep(0.1)

    # ---- small things ----

    def _resume_of(self, generation: int) -> Path | None:
        """The checkpoint of a group, chosen once."""
        group = self._progress.group
        if group is None or group.generation != generation:
            return None
        if not group.has_resume:
            document, places = self._require_document(), self._require_places()
            newest = newest_verified(places.attempt, document.resume, storage=places.storage)
            for rejected in newest.rejected:
                payload = {"path": rejected.path, "problem": rejected.problem}
                self._note("checkpoint_rejected", f"{rejected.path}: {rejected.problem}", payload)
            group.resume_from = newest.checkpoint.directory if newest.checkpoint else None
            group.has_resume = True
            self._note_resume(newest.checkpoint.step if newest.checkpoint else None, generation, document)
        return group.resume_from

    def _note_resume(self, step: int | None, generation: int, document: LaunchDocument) -> None:
        if step is not None:
            self._note("resumed", f"from step {step}", {"step": step})
        elif generation > 1 or document.resume:
            self._note("restarted_from_zero", "no checkpoint can be used")

    def _forget_answers(self) -> None:
        """Of no use to anybody without a report. A storage that cannot delete them costs the attempt nothing."""
        try:
            forget_answers(self._require_places().attempt)
        except OSError as error:
            self._note("answers_left", f"answers to single rows could not be deleted: {error}")

    def _note(self, kind: str, detail: str = "", payload: dict[str, Any] | None = None) -> None:
        if self._spool is not None:
            self._spool.note(kind, at_ms=now_ms(), detail=detail, payload=payload)

    def _note_start(self, group: Group) -> None:
        """Once all ranks are up: whether the attempt's processes were forked warm, and if not, why."""
        if group.has_noted_start or not group.is_complete:
            return
        group.has_noted_start = True
        own = birth()
        ranks = {rank: group.hellos[rank] for rank in sorted(group.hellos)}
        births = {f"rank {rank}": Birth(is_warm=hello.is_warm, why=hello.why_cold) for rank, hello in ranks.items()}
        payload = {
            "runner": "warm" if own.is_warm else "cold",
            "workers": {str(rank): "warm" if hello.is_warm else "cold" for rank, hello in ranks.items()},
            "why": "; ".join(dict.fromkeys(each.why for each in (own, *births.values()) if not each.is_warm)),
        }
        self._note("warm_start", describe({"runner": own, **births}), payload)
        nodes = {hello.node_id for hello in group.hellos.values()}
        if self._preparation is not None and (news := self._preparation.found_on(nodes)) is not None:
            self._note(news.kind, news.detail, news.payload)

    def _name(self) -> str:
        return self._require_document().runner_name

    def _require_document(self) -> LaunchDocument:
        assert self._document is not None, "begin() comes first"
        return self._document

    def _require_places(self) -> Places:
        assert self._places is not None, "begin() comes first"
        return self._places

    def _require_spool(self) -> SpoolWriter:
        assert self._spool is not None, "begin() comes first"
        return self._spool


def _dead_actors(error: Exception) -> frozenset[str]:
    """Ids of the workers whose death made Ray Train give up; others of the group it ends itself."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = (getattr(failure, "health_check_failure", None) for failure in failures)
    return frozenset(cause.actor_id for cause in causes if isinstance(cause, ray.exceptions.ActorDiedError))


def _stand_back() -> None:
    """Let ranks go first, in all threads of this process. Ray may have set it so already."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpriority(os.PRIO_PROCESS, int(thread)) < NICENESS:
                os.setpriority(os.PRIO_PROCESS, int(thread), NICENESS)


def _identity(document: LaunchDocument) -> bytes:
    """Who has begun: what an agent that did not launch the runner needs to judge it."""
    here = ray.get_runtime_context()
    identity = {
        "actor_id": here.get_actor_id(),
        "worker_id": here.get_worker_id(),
        "node_id": here.get_node_id(),
        "pid": os.getpid(),
        "ray_session": here.get_session_name(),
        "stall_timeout_s": document.spec.policy.stall_timeout_s,
    }
    return json.dumps(identity).encode()


RUNNER = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"control": 16, "workers": 64})(Runner)
"""The actor class: give it the runner's name and ``lifetime="detached"``."""

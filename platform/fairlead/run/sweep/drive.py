"""Runs a sweep to its end, in one thread of its runner: gives slots trials, writes down and judges what they say."""

import contextlib
import queue
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from fairlead.clock import Clock
from fairlead.errors import BadSpec
from fairlead.evaluation.tracked import is_tracked, metrics_in
from fairlead.failpoints import failpoint
from fairlead.lifecycle import WORKER_DIED, Outcome
from fairlead.protocol import (
    LOG_DIRECTORY,
    TRIALS_DIRECTORY,
    TRIALS_FILE,
    CheckpointRef,
    LaunchDocument,
    StopMode,
    SweepLaunch,
    SweepOrders,
    SweepSummary,
    TrialDocument,
    TrialRecord,
)
from fairlead.run.messages import Preparing
from fairlead.run.places import Places
from fairlead.run.preparation import Preparation, refusal
from fairlead.run.progress import Progress
from fairlead.run.rank import find_code
from fairlead.run.spool import SpoolWriter, now_ms
from fairlead.run.storage import borrow_checkpoint, complete_checkpoints, problem_with
from fairlead.run.sweep.conductor import Begin, Conductor, Entry, Proposer
from fairlead.run.sweep.course import Course, Trouble
from fairlead.run.sweep.foreign import Foreign
from fairlead.run.sweep.keeping import KEEP_EVERY_S
from fairlead.run.sweep.slots import EnvironmentRefused, Slot, SlotLost, Word
from fairlead.run.sweep.trial import Task
from fairlead.run.verdict import MAX_DETAIL, STOPPED, Verdict, plain
from fairlead.run.virtual import Ready
from fairlead.run.warm import Birth, birth, describe
from fairlead.search.importance import importance_of
from fairlead.search.proposals import Proposals
from fairlead.search.space import Point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec import SearchSpec
from fairlead.spec.search import ALGORITHMS

LISTEN_S = 0.25
RECORD_EVERY_S = 2.0
"""How often the points of a trial under way are told."""
MAX_LOST = 3
"""Times that a slot may be lost, for each slot, without a trial that ends: then the cluster is at fault."""
MAX_DEATHS = 3
"""Tries of a trial whose process is killed each time."""
KEPT_CHECKPOINTS = 5
MAX_COLD_TOLD = 5
"""Trials that are told to have started cold; where one does, others do."""
BORROWED = "borrowed"
"""Below a trial's directory: the checkpoint of another that it has begun from, until it ends."""
MAX_METRICS = 200
MAX_TRIAL_REASON = 1000


@dataclass(kw_only=True)
class Drive:
    """One attempt at a sweep. ``run`` is for one thread; ``order`` may be called from any."""

    document: LaunchDocument
    places: Places
    spool: SpoolWriter
    progress: Progress
    clock: Clock
    note: Callable[[str, str, dict[str, Any] | None], None]
    start_timeout_s: float
    preparation: Preparation | None = None
    """Where trials have an environment of their own."""
    environment: dict[str, str] = field(default_factory=dict)
    dataset: dict[str, Any] | None = None
    """As a result describes it, once a trial has."""
    amendment_no: int = 0
    slots_told: int = 0
    summary: SweepSummary | None = None
    died_on: tuple[str, ...] = ()
    _orders: "queue.Queue[SweepOrders]" = field(default_factory=queue.Queue)
    _slots: list[Slot] = field(default_factory=list)
    _courses: dict[int, Course] = field(default_factory=dict)
    """By the number of the slot."""
    _wanted: int = 0
    _numbers: int = 0
    _num_lost: int = 0
    _kept: frozenset[int] = frozenset()
    _has_checkpoints: bool = False
    _began_s: float = 0.0
    _has_noted_start: bool = False
    _num_cold: int = 0
    _refused: Verdict | None = None
    """Why the environment of the trials cannot be built."""

    def order(self, orders: SweepOrders) -> None:
        """Let the thread that drives know of more slots, or amendments."""
        self._orders.put(orders)

    # ---- from the first trial to the last ---------------------------------------------------------------------------

    def run(self) -> Verdict:
        """How the sweep ended."""
        self._began_s = self.clock.monotonic_s()
        try:
            self._conductor = self._conduct()
            self._tell_settled()
            self._want(self._launch.slots)
            return self._run()
        except BadSpec as error:  # of a sampler of the user's own: trying again would not help
            detail = f"{error.__cause__!r}" if error.__cause__ else ""
            return Verdict(outcome=Outcome.USER_ERROR, reason=f"bad_search: {plain(str(error))}"[:1000], detail=detail)
        finally:
            for slot in self._slots:
                slot.close()

    def _run(self) -> Verdict:
        while self.progress.stop is None:
            self._take_orders()
            self._fill()
            over = self._conductor.over_because(self._elapsed_s)
            if over is not None and not self._courses:
                return self._conclude(over)
            if (broken := self._why_broken()) is not None:
                return broken
            self._listen()
        return self._wind_down(self.progress.stop)

    @property
    def _search(self) -> SearchSpec:
        assert self.document.spec.search is not None, "only sweeps are driven"
        return self.document.spec.search

    @property
    def _launch(self) -> SweepLaunch:
        assert self.document.sweep is not None, "only sweeps are driven"
        return self.document.sweep

    @property
    def _elapsed_s(self) -> float:
        return self._launch.spent_s + self.clock.monotonic_s() - self._began_s

    def _conduct(self) -> Conductor:
        trials = _read_trials(self.places.attempt)
        if len(trials) != self._launch.num_trials:
            raise OSError(f"{TRIALS_FILE} holds {len(trials)} trials, and there are {self._launch.num_trials}")
        conductor = Conductor(
            self._search,
            self._proposer,
            seed=self.document.spec.seed,
            trials=trials,
            amendments=self._launch.amendments,
            steps_of=self._steps_of,
        )
        self.amendment_no = conductor.amendment_no
        self._has_checkpoints = any(self.places.attempt.parent.glob(f"a*/{TRIALS_DIRECTORY}/*/ckpt-*"))
        self._kept = conductor.kept(KEPT_CHECKPOINTS) if self._has_checkpoints else frozenset()
        return conductor

    def _proposer(self, trials: Sequence[Trial]) -> Proposer:
        if self.places.code is not None:  # a sampler of the user's own may be in it
            find_code(str(self.places.code))
        name = self._search.chosen.name
        if name.startswith("ray:"):
            from fairlead.run.sweep.searchers import Searchers  # loads Ray Tune

            return Foreign(name, Searchers(self._search, seed=self.document.spec.seed, trials=trials))
        ours = Proposals(self._search, seed=self.document.spec.seed, trials=trials)
        return ours if name in ALGORITHMS else Foreign(name, ours)

    def _steps_of(self, point: Point) -> int | None:
        steps = {**self.document.params, **point}.get("epochs")
        return steps if isinstance(steps, int) else None

    # ---- slots ------------------------------------------------------------------------------------------------------

    def _want(self, slots: int) -> None:
        """Have so many slots: those without a trial go first, and a trial that loses its slot is begun again."""
        self._wanted = self.slots_told = slots
        while len(self._slots) < slots:
            slot = Slot(
                number=self._numbers,
                resources=self.document.spec.resources,
                excluded=self.document.excluded_nodes,
                environment=self.places.environment,
                logs=str(self.places.attempt / LOG_DIRECTORY),
                tell_news=self._note_environment,
            )
            self._numbers += 1
            slot.open()
            self._slots.append(slot)
        for slot in sorted(self._slots, key=lambda one: one.number in self._courses)[: len(self._slots) - slots]:
            self._release(slot)

    def _release(self, slot: Slot) -> None:
        self._slots.remove(slot)
        slot.close()
        course = self._courses.pop(slot.number, None)
        if course is not None:
            self._conductor.interrupted(course.begin.no, is_counted=False)

    def _note_environment(self, node_id: str, answer: Ready | None) -> None:
        assert self.preparation is not None, "else no slot prepares an environment"
        word = Preparing(rank=0, world_size=1, group_id="", node_id=node_id, answer=answer)
        news = self.preparation.hear(word)
        if news is None and answer is not None:
            news = self.preparation.found_on({node_id})
        if news is not None:
            self.note(news.kind, news.detail, news.payload)

    def _take_orders(self) -> None:
        while not self._orders.empty():
            orders = self._orders.get()
            if orders.slots != self._wanted:
                told = f"{orders.slots} trial{'s' if orders.slots != 1 else ''} at a time, {self._wanted} before"
                self.note("slots_changed", told, None)
                self._want(orders.slots)
            for no in self._conductor.amend(orders.amendments):
                self._stop_trial(no)
            self.amendment_no = self._conductor.amendment_no
        self._tell_settled()

    def _stop_trial(self, no: int) -> None:
        for slot in self._slots:
            course = self._courses.get(slot.number)
            if course is not None and course.begin.no == no:
                slot.tell({"kind": "stop"})

    def _fill(self) -> None:
        most = self._conductor.concurrency or self._wanted
        for slot in self._slots:
            if len(self._courses) >= most:
                return
            if slot.is_ready and not slot.key:
                begin = self._conductor.next(elapsed_s=self._elapsed_s)
                if begin is None:
                    return
                self._begin(slot, begin)

    def _why_broken(self) -> Verdict | None:
        """No node can have the environment; Ray gives no slot, or takes one after the other."""
        if self._refused is not None:
            return self._refused
        if self._num_lost > MAX_LOST * max(1, self._wanted):
            detail = f"slots were lost {self._num_lost} times without a trial that ended"
            return Verdict(outcome=Outcome.INFRA_ERROR, reason=WORKER_DIED, detail=detail, died_on=self.died_on)
        if not self._slots or any(slot.is_ready or slot.is_preparing for slot in self._slots):
            return None
        waited_s = time.monotonic() - min(slot.began_s for slot in self._slots)
        if waited_s <= self.start_timeout_s:
            return None
        detail = f"Ray has given no resources for a trial within {waited_s:.0f} s"
        return Verdict(outcome=Outcome.INFRA_ERROR, reason="start_timeout", detail=detail)

    # ---- one trial --------------------------------------------------------------------------------------------------

    def _begin(self, slot: Slot, begin: Begin) -> None:
        key = f"{begin.no}.{begin.tries}.{slot.number}"
        directory = self.places.attempt / TRIALS_DIRECTORY / str(begin.no)
        course = Course(
            begin=begin,
            key=key,
            directory=directory,
            world_size=self.document.spec.resources.workers,
            looked_at=self._search.metrics,
            heard_s=self.clock.monotonic_s(),
            recorded_s=self.clock.monotonic_s(),
        )
        self._courses[slot.number] = course
        self.spool.trial(
            TrialRecord(
                no=begin.no,
                state=TrialState.RUNNING,
                params=dict(begin.point),
                origin="enqueued" if begin.origin == "enqueued" else "proposed",
                parent=begin.parent,
                at_ms=now_ms(),
            )
        )
        failpoint("sweep.begun")
        slot.begin(key, self._tasks(course))

    def _tasks(self, course: Course) -> list[Task]:
        spec = self.document.spec.of_trial(course.begin.point)
        wanted = frozenset(metrics_in(self._search.metrics))
        resume = self._resume_of(course)
        text = spec.model_dump_json(by_alias=True)
        return [
            Task(
                key=course.key,
                spec=text,
                module=self.document.workload_module,
                params={**self.document.params, **course.begin.point},
                rank=rank,
                world_size=course.world_size,
                address="",
                directory=str(course.directory),
                storage=str(self.places.storage),
                code=str(self.places.code) if self.places.code else None,
                resume_from=str(resume) if resume else None,
                counts=bool(spec.sensitive) or any(is_tracked(name) for name in self._search.metrics),
                wanted=tuple(sorted(wanted)),
                is_alone=not self._search.reuse_processes,
                timeout_s=spec.policy.stall_timeout_s,
                keeps_every_s=0.0 if self._search.is_population else KEEP_EVERY_S,
                describes=rank == 0 and self.dataset is None,
            )
            for rank in range(course.world_size)
        ]

    def _resume_of(self, course: Course) -> Path | None:
        """The newest whole checkpoint of this trial, or, for one that begins now, of the one it goes on from."""
        begin = course.begin
        if begin.tries > 1:
            return next(self._whole_checkpoints(begin.no), None)
        if begin.parent is None:
            return None
        for found in self._whole_checkpoints(begin.parent):
            # Its own trial goes on and deletes it once there is a newer one.
            with contextlib.suppress(FileNotFoundError):
                return borrow_checkpoint(found, course.directory / BORROWED)
        return None

    def _whole_checkpoints(self, no: int) -> Iterator[Path]:
        """Of a trial, in this attempt and those before it, the newest first."""
        number = self.document.attempt_no
        for attempt in (self.places.attempt.parent / f"a{earlier}" for earlier in range(number, 0, -1)):
            for found in complete_checkpoints(attempt / TRIALS_DIRECTORY / str(no)):
                if problem_with(found.directory) is None:
                    yield found.directory

    # ---- what trials say --------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        by_call = {call: slot for slot in self._slots for call in slot.calls}
        if not by_call:
            time.sleep(LISTEN_S)
            return
        calls = list(by_call)
        ready, _ = ray.wait(calls, num_returns=1, timeout=0)
        if not ready:
            self._conductor.prefetch(elapsed_s=self._elapsed_s)
            ready, _ = ray.wait(calls, num_returns=1, timeout=LISTEN_S)
        if ready:
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in ready:
            self._hear(by_call[call], call)
        self._look_at_courses()

    def _hear(self, slot: Slot, call: Any) -> None:
        if slot not in self._slots:
            return
        try:
            words = slot.take(call)
        except SlotLost as error:
            self._lose(slot, error)
            return
        except EnvironmentRefused as error:
            self._refused = refusal(error.answer, node_id=error.node_id)
            return
        for word in words:
            course = self._courses.get(slot.number)
            if course is not None and word.message["key"] == course.key:
                self._heed(slot, course, word)

    def _lose(self, slot: Slot, error: SlotLost) -> None:
        """A seat is gone: another slot takes its place, and its trial is begun again."""
        self._num_lost += 1
        if error.node_id is not None:
            self.died_on = tuple(dict.fromkeys((*self.died_on, error.node_id)))
        course = self._courses.pop(slot.number, None)
        told = f"; trial {course.begin.no} is begun again" if course else ""
        self.note("slot_lost", f"slot {slot.number}: {str(error)[:300]}{told}", None)
        self._slots.remove(slot)
        slot.close()
        if course is not None:
            self._conductor.interrupted(course.begin.no, is_counted=True)
        if self.progress.stop is None:
            self._want(self._wanted)

    def _heed(self, slot: Slot, course: Course, word: Word) -> None:
        message = word.message
        match message["kind"]:
            case "up":
                self._note_start(course, word)
            case "reports" if word.rank == 0:
                for step, at_ms, metrics in message["reports"]:
                    self._report(slot, course, step, at_ms, metrics)
            case "store":
                slot.tell({"kind": "store", "address": message["address"], "port": message["port"]}, but=word.rank)
            case "checkpoint_failed":
                self.note("checkpoint_failed", f"trial {course.begin.no}: {message['message']}", None)
        course.hear(word, now_s=self.clock.monotonic_s())
        if course.is_done:
            self._finish(slot, course)

    def _note_start(self, course: Course, word: Word) -> None:
        """How the first process was started, and of later ones those that had to start cold."""
        told, own = word.message, birth()
        if not self._has_noted_start:
            self._has_noted_start = True
            first = Birth(is_warm=told["is_warm"], why=told["why_cold"])
            payload = {
                "runner": "warm" if own.is_warm else "cold",
                "workers": {str(word.rank): "warm" if first.is_warm else "cold"},
                "why": "; ".join(dict.fromkeys(each.why for each in (own, first) if not each.is_warm)),
            }
            self.note("warm_start", describe({"runner": own, f"trial {course.begin.no}": first}), payload)
        elif not told["is_warm"] and self._num_cold < MAX_COLD_TOLD:
            self._num_cold += 1
            self.note("cold_trial", f"trial {course.begin.no} started cold: {told['why_cold']}", None)

    def _report(self, slot: Slot, course: Course, step: int, at_ms: int, metrics: Mapping[str, float]) -> None:
        course.heard_s = self.clock.monotonic_s()
        course.keep(metrics, step=step, at_ms=at_ms)
        if self._conductor.reported(course.begin.no, step, metrics) is not None:
            slot.tell({"kind": "stop"})

    def _finish(self, slot: Slot, course: Course) -> None:
        if course.done[0]["dataset"] and self.dataset is None:
            self.dataset, self.environment = course.done[0]["dataset"], dict(course.done[0]["environment"])
        is_cut = self.progress.stop is not None and not course.has_evaluated
        if is_cut and self._conductor.entry(course.begin.no).stop_reason is None:
            self._interrupt(slot, course)
            return
        entry = self._conductor.finished(course.begin.no, course.values, has_evaluated=course.has_evaluated)
        slot.free()
        self._ended(slot, course, entry)

    def _interrupt(self, slot: Slot, course: Course) -> None:
        """It has returned because the attempt ends: it goes on in another one."""
        slot.free()
        del self._courses[slot.number]
        self._conductor.interrupted(course.begin.no, is_counted=False)

    def _look_at_courses(self) -> None:
        now_s = self.clock.monotonic_s()
        for slot in list(self._slots):
            course = self._courses.get(slot.number)
            if course is None:
                continue
            stall_s = self.document.spec.policy.stall_timeout_s
            if course.is_broken(now_s):
                assert course.trouble is not None, "broken by it"
                self._fail(slot, course, course.trouble)
            elif now_s - course.heard_s > stall_s:
                self._fail(slot, course, Trouble(reason=f"stalled: no new step for {stall_s:g} s"))
            elif course.points and now_s - course.recorded_s > RECORD_EVERY_S:
                self._record_points(course, now_s)

    def _fail(self, slot: Slot, course: Course, trouble: Trouble) -> None:
        slot.end_processes()
        if trouble.is_death and course.begin.tries < MAX_DEATHS:
            del self._courses[slot.number]
            self.note("trial_died", f"trial {course.begin.no}: {trouble.reason}; it is begun again", None)
            self._conductor.interrupted(course.begin.no, is_counted=True)
            return
        entry = self._conductor.failed(course.begin.no, trouble.reason)
        self._ended(slot, course, entry, detail=trouble.detail)

    # ---- what is written down ---------------------------------------------------------------------------------------

    def _record_points(self, course: Course, now_s: float) -> None:
        course.recorded_s = now_s
        entry = self._conductor.entry(course.begin.no)
        self.spool.trial(
            TrialRecord(
                no=entry.no,
                state=TrialState.RUNNING,
                points=course.take_points(),
                values={name: entry.last[name] for name in self._search.metrics if name in entry.last},
                last_step=entry.last_step,
                at_ms=now_ms(),
            )
        )

    def _ended(self, slot: Slot, course: Course, entry: Entry, *, detail: str = "") -> None:
        del self._courses[slot.number]
        if course.begin.parent is not None:
            shutil.rmtree(course.directory / BORROWED, ignore_errors=True)
        self._num_lost = 0
        self._has_checkpoints |= course.checkpoint is not None
        kept = self._conductor.kept(KEPT_CHECKPOINTS) if self._has_checkpoints else frozenset()
        self._record_end(
            entry, course=course, detail=detail, checkpoint=course.checkpoint if entry.no in kept else None
        )
        failpoint("sweep.ended")
        self._note_progress()
        if self._has_checkpoints:
            self._collect_checkpoints(entry.no, kept)

    def _record_end(
        self, entry: Entry, *, course: Course | None = None, detail: str = "", checkpoint: CheckpointRef | None = None
    ) -> None:
        self.spool.trial(
            TrialRecord(
                no=entry.no,
                state=entry.state,
                reason=plain(entry.reason)[:MAX_TRIAL_REASON],
                detail=plain(detail)[:MAX_DETAIL],
                points=course.take_points() if course else (),
                values=entry.values,
                metrics=dict(list(entry.last.items())[:MAX_METRICS]),
                last_step=entry.last_step,
                checkpoint=checkpoint,
                at_ms=now_ms(),
            )
        )

    def _tell_settled(self) -> None:
        for entry in self._conductor.take_settled():
            self._record_end(entry)

    def _note_progress(self) -> None:
        ended = len(self._conductor.ended)
        self.progress.last_step = ended
        self.progress.touch()
        values = {"search/ended": float(ended)}
        if (best := self._conductor.best_value) is not None:
            values["search/best"] = best
        self.spool.metrics(values, step=ended, at_ms=now_ms())

    def _collect_checkpoints(self, ended: int, kept: frozenset[int]) -> None:
        """Those of the best stay; a trial that is begun again needs its own, and it has not ended.

        The books hear of a checkpoint that goes before it does: they must not name what is not there.
        """
        for no in self._kept - kept:
            entry = self._conductor.entry(no)
            self.spool.trial(TrialRecord(no=no, state=entry.state, has_lost_checkpoint=True, at_ms=now_ms()))
        for no in {ended, *self._kept} - kept:
            for directory in self.places.attempt.parent.glob(f"a*/{TRIALS_DIRECTORY}/{no}/ckpt-*"):
                shutil.rmtree(directory, ignore_errors=True)
        self._kept = kept

    # ---- the end ----------------------------------------------------------------------------------------------------

    def _wind_down(self, stop: StopMode) -> Verdict:
        """Trials are asked to return at a checkpoint; what has not by the end of the grace is begun again later."""
        for slot in self._slots:
            if slot.key:
                slot.tell({"kind": "stop"})
        while self._courses and not self.progress.is_past_grace:
            try:
                self._listen()
            except ray.exceptions.RayError as error:  # nothing more can be heard of them
                self.note("trials_unheard", f"Ray does not answer while the sweep is stopped: {error}"[:500], None)
                break
        outcome, reason = STOPPED[stop]
        if stop in (StopMode.PAUSE, StopMode.PREEMPT):
            return Verdict(outcome=outcome, reason=reason)
        self._cut_short(f"the sweep was stopped: {reason}")
        has_some = any(trial.state is TrialState.SUCCEEDED for trial in self._conductor.ended)
        if stop is StopMode.CANCEL or not has_some:
            return Verdict(outcome=outcome, reason=reason)
        return self._conclude("budget")

    def _cut_short(self, why: str) -> None:
        """No attempt follows: what still runs has ended with this one."""
        for no in self._conductor.unfinished:
            self._record_end(self._conductor.cut(no, why))
        self._courses.clear()

    def _conclude(self, over: str) -> Verdict:
        importance = importance_of(self._search, self._conductor.ended)
        self.summary = self._conductor.summary(over).amended(importance=importance)
        if (why := self._conductor.too_many_failed) is not None:
            return Verdict(outcome=Outcome.USER_ERROR, reason=f"too_many_failed: {why}"[:1000])
        if not self.summary.counts.get(TrialState.SUCCEEDED):
            told = ", ".join(f"{count} {state}" for state, count in self.summary.counts.items() if count)
            reason = f"no_trial: none ran to its end ({told or 'none was begun'})"
            return Verdict(outcome=Outcome.USER_ERROR, reason=reason)
        return Verdict(outcome=Outcome.SUCCEEDED, reason="completed")


def _read_trials(attempt: Path) -> list[TrialDocument]:
    try:
        with open(attempt / TRIALS_FILE, encoding="utf-8") as lines:
            return [TrialDocument.model_validate_json(line) for line in lines]
    except FileNotFoundError:
        return []

"""Writes to MLflow what the database has fenced: runs, points in batches, reports, models. Its only writer.

Everything here may lag and be repeated; no state waits for it. MLflow away means: wait, nothing is lost.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from fairlead.admission import CODE_PREFIX
from fairlead.clock import Clock
from fairlead.control.child_runs import best_points, child_run
from fairlead.control.evaluate import report_directory
from fairlead.control.sweeps import files_of
from fairlead.data.samples import found_samples
from fairlead.errors import BadInput, FairleadError, NotFound, Unavailable
from fairlead.evaluation import flat_metrics, report_bytes
from fairlead.failpoints import failpoint
from fairlead.lifecycle import State
from fairlead.protocol import MAX_BATCH_POINTS, MODEL_DIRECTORY, SAMPLES_DIRECTORY, MetricPoint, ResultDocument
from fairlead.settings import ControlSettings
from fairlead.store import Store, attempts, batches, experiments, model_versions, recorded_trials, series, trials
from fairlead.store.recorded_trials import WaitingSweep
from fairlead.store.tables import AttemptRow, BatchRow, ExperimentRow, TrialRow
from fairlead.tracking import server
from fairlead.tracking.documents import OUTCOME_TAG, REPORT_TAG, RegisteredVersion, RunDocument, RunStatus

if TYPE_CHECKING:
    from fairlead.tracking.recorder import Recorder

ACTOR = "record"
GIT_COMMIT_LABEL = "git-commit"
RETRY_AFTER_S = 30.0
FOLD_AFTER = timedelta(seconds=10)
"""How long a batch waits at most until the down-sampled series have its points."""
TRIALS_S = 1.0
"""After so long a tick turns from trials to what else waits, such as others' points; it goes on with the next sweep."""
MOST_TRIALS, MOST_TRIAL_POINTS = 50, 5_000
"""Trials, and points of them, in one call."""
MOST_REFUSED = 1_000
"""Trials of a sweep that MLflow refuses; where it refuses more, the sweep waits as a whole."""
STATUS: dict[State, RunStatus] = {
    State.SUCCEEDED: "FINISHED",
    State.FAILED: "FAILED",
    State.CANCELLED: "KILLED",
}
logger = structlog.get_logger(__name__)


def connect(settings: ControlSettings) -> "Recorder":
    """The recorder of these settings; loading MLflow's client takes seconds, so it is done when first needed."""
    os.environ.update(server.client_environment())
    from fairlead.tracking.recorder import Recorder

    return Recorder(settings.mlflow_url, public_url=settings.mlflow_public_url)


@dataclass(kw_only=True, slots=True)
class Record:
    """One tick creates runs, ships batches, writes runs of trials and completes runs of ended experiments.

    Each in bounded portions.
    """

    store: Store
    clock: Clock
    settings: ControlSettings
    connect: Callable[[ControlSettings], "Recorder"] = connect
    require_lead: Callable[[], None] = lambda: None
    """Raises ``StaleLeader`` once another process leads: asked before whatever is written to MLflow."""
    _recorder: "Recorder | None" = None
    _not_before_s: dict[str, float] = field(default_factory=dict)
    """Experiments whose last try failed for a reason of their own, and when they may be tried again."""
    _refused: dict[str, dict[int, float]] = field(default_factory=dict)
    """The same of trials, by sweep."""
    _last_sweep: str = ""
    """Whose trials were recorded last: the next one in turn comes after it."""

    def __call__(self) -> bool:
        self._fold_series()
        created = self._create_runs()
        shipped = self._ship_batches()
        recorded = self._record_trials()
        completed = self._complete_runs()
        return created or shipped or recorded or completed

    def _fold_series(self) -> None:
        """Our own down-sampled series: MLflow being away does not keep them back."""
        now = self.clock.now()
        with self.store.read() as session:
            due = series.due(session, before=now - FOLD_AFTER)
        for experiment_id in due:
            with self.store.write() as session:
                series.fold(session, experiment_id, now=now)

    @property
    def recorder(self) -> "Recorder":
        """The connection, made once."""
        if self._recorder is None:
            self._recorder = self.connect(self.settings)
        return self._recorder

    # ---- runs -------------------------------------------------------------------------------------------------------

    def _create_runs(self) -> bool:
        with self.store.read() as session:
            rows = experiments.without_run(session, without=self._resting())
        return sum(self._guarded(row.id, partial(self._create_run, row)) for row in rows) > 0

    def _create_run(self, row: ExperimentRow) -> None:
        run_id = self.recorder.ensure_run(self._document(row, None))
        failpoint("record.run_made")
        url = self.recorder.run_url(run_id)
        with self.store.write() as session:
            experiments.set_columns(session, row.id, mlflow_run_id=run_id, mlflow_url=url)

    def _document(self, row: ExperimentRow, result: ResultDocument | None) -> RunDocument:
        spec = experiments.spec_of(row)
        return RunDocument(
            experiment_id=row.id,
            spec=spec,
            spec_hash=row.spec_hash,
            created_at_ms=int(row.created_at.timestamp() * 1000),
            user=row.created_by,
            params=result.model.params if result and result.model else None,
            code_sha256=spec.code.removeprefix(CODE_PREFIX) if spec.code else None,
            git_commit=spec.labels.get(GIT_COMMIT_LABEL),
            attempts=row.current_attempt_no,
            dataset=result.dataset if result else None,
            environment=result.environment if result else {},
        )

    # ---- points -----------------------------------------------------------------------------------------------------

    def _ship_batches(self) -> bool:
        with self.store.read() as session:
            waiting = batches.unrecorded(session, without=self._resting())
            ids = {batch.experiment_id for batch in waiting}
            run_of = {key: experiments.get(session, key).mlflow_run_id for key in ids}
        ready = [batch for batch in waiting if run_of[batch.experiment_id]]
        ready.sort(key=lambda batch: (batch.experiment_id, batch.id))
        shipped = 0
        for experiment_id, group in groupby(ready, key=lambda batch: batch.experiment_id):
            run_id, of_one = run_of[experiment_id], list(group)
            assert run_id is not None, "only experiments with a run are ready"
            shipped += self._guarded(experiment_id, partial(self._ship, run_id, of_one))
        return shipped > 0

    def _ship(self, run_id: str, of_one: list[BatchRow]) -> None:
        """Small batches are joined: MLflow's price is the call, not the point."""
        for portion in _portions(of_one):
            self.require_lead()
            self.recorder.log_points(run_id, [point for batch in portion for point in _points(batch)])
            failpoint("record.logged")
            with self.store.write() as session:
                batches.mark_recorded(session, [batch.id for batch in portion], now=self.clock.now())

    # ---- trials -----------------------------------------------------------------------------------------------------

    def _record_trials(self) -> bool:
        """Portions of sweeps in turn: neither points nor a short sweep may wait for a long one."""
        until_s = self.clock.monotonic_s() + TRIALS_S
        with self.store.read() as session:
            sweeps = recorded_trials.sweeps_waiting(session, without=self._resting())
        sweeps.sort(key=lambda sweep: (sweep.experiment_id <= self._last_sweep, sweep.experiment_id))
        recorded = 0
        for sweep in sweeps:
            self._last_sweep = sweep.experiment_id
            if portion := self._portion(sweep.experiment_id):
                recorded += self._guarded(sweep.experiment_id, partial(self._record_portion, sweep, portion))
            if self.clock.monotonic_s() >= until_s:
                break
        return recorded > 0

    def _portion(self, experiment_id: str) -> list[TrialRow]:
        """Trials that fit into one call, but for those that were refused a moment ago."""
        now_s = self.clock.monotonic_s()
        refused = {no: until_s for no, until_s in self._refused.get(experiment_id, {}).items() if now_s < until_s}
        self._refused[experiment_id] = refused
        if not refused:
            del self._refused[experiment_id]
        if len(refused) >= MOST_REFUSED:
            return []
        with self.store.read() as session:
            rows = recorded_trials.unrecorded(session, experiment_id, without=frozenset(refused), limit=MOST_TRIALS)
        sums = accumulate(sum(len(curve) for curve in row.curves.values()) + len(row.metrics) for row in rows)
        return [row for row, points in zip(rows, sums, strict=True) if row is rows[0] or points <= MOST_TRIAL_POINTS]

    def _record_portion(self, sweep: WaitingSweep, rows: list[TrialRow]) -> None:
        """Those of which MLflow refuses one are written one by one."""
        try:
            run_ids = self.recorder.record_trials(sweep.run_id, [child_run(sweep, row) for row in rows])
        except (BadInput, ValueError) as error:
            if len(rows) == 1:
                self._refuse(sweep.experiment_id, rows[0].no, error)
            else:
                for row in rows:
                    self.require_lead()
                    self._record_portion(sweep, [row])
            return
        failpoint("record.children_made")
        made = {row.no: run_id for row, run_id in zip(rows, run_ids, strict=False)}
        with self.store.write() as session:
            recorded_trials.mark_recorded(session, sweep.experiment_id, made, now=self.clock.now())

    def _refuse(self, experiment_id: str, no: int, error: Exception) -> None:
        logger.warning("a trial is not recorded", experiment_id=experiment_id, trial=no, reason=str(error))
        self._refused.setdefault(experiment_id, {})[no] = self.clock.monotonic_s() + RETRY_AFTER_S

    # ---- ends -------------------------------------------------------------------------------------------------------

    def _complete_runs(self) -> bool:
        with self.store.read() as session:
            ended = experiments.ended_unrecorded(session, without=self._resting())
            rows = [row for row in ended if not batches.has_unrecorded(session, row.id)]
        return sum(self._guarded(row.id, partial(self._complete, row)) for row in rows) > 0

    def _complete(self, row: ExperimentRow) -> None:
        """Tags, report, model, end: each may be repeated, and the version written last says that all were done."""
        run_id = row.mlflow_run_id
        assert run_id is not None, "asked for by the query"
        attempt, result = self._last_attempt(row)
        self.recorder.ensure_run(self._document(row, result))
        tags = {"fairlead.state": row.state, "fairlead.reason": row.reason}
        if row.sweep is not None:
            tags |= self._log_sweep(row, run_id, row.sweep)
        self._log_samples(row, run_id)
        report = self._log_report(row, run_id, attempt) if row.report_sha256 else {}
        self.recorder.set_tags(run_id, tags | report)
        seen, registration = row.version, row.registration or {}
        if registration.get("is_pending") and attempt and result:
            written = self._register(row, run_id, attempt, result)
            # Whatever was written in between, such as an override, has not been recorded: look once more.
            seen = written if written == row.version + 1 else row.version
        elif registration.get("is_registered"):
            self.recorder.tag_version(registration["name"], registration["version"], _tags_of_report(row))
        ended = (attempt.ended_at if attempt else None) or row.updated_at  # no override days later
        self.recorder.finish(run_id, STATUS[State(row.state)], ended_at_ms=int(ended.timestamp() * 1000))
        failpoint("record.finished")
        with self.store.write() as session:
            experiments.set_columns(session, row.id, mlflow_version=seen)

    def _last_attempt(self, row: ExperimentRow) -> tuple[AttemptRow | None, ResultDocument | None]:
        if row.current_attempt_no == 0:
            return None, None
        with self.store.read() as session:
            attempt = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
        return attempt, ResultDocument.model_validate(attempt.result) if attempt.result else None

    def _log_samples(self, row: ExperimentRow, run_id: str) -> None:
        """What the workload has shown, of all attempts: of two under one name the later one's."""
        with self.store.read() as session:
            tries = attempts.of_experiment(session, row.id)
        found: dict[str, Path] = {}
        for attempt in tries:
            directory = self.settings.storage / attempt.storage_path / SAMPLES_DIRECTORY
            found |= {f"{SAMPLES_DIRECTORY}/{name}": path for name, path in found_samples(directory)}
        if found:
            self.recorder.log_files(run_id, found)

    def _log_report(self, row: ExperimentRow, run_id: str, attempt: AttemptRow | None) -> dict[str, str]:
        if row.spec.get("search"):
            return {REPORT_TAG: row.report_sha256 or ""}
        directory = report_directory(self.settings.storage, row.project, row.id)
        report = json.loads((directory / "report.json").read_bytes())
        files: dict[str, bytes | Path] = {
            f"responsible_ai/{name}": directory / name for name in ("report.json", "report.html")
        }
        from fairlead.evaluation.profiles import render_profile  # loads jinja2, which nothing else here needs

        files["responsible_ai/model_card.md"] = render_profile(report, "model_card")[0]
        files["responsible_ai/model_card.cdx.json"] = render_profile(report, "cyclonedx")[0]
        for one in _overrides(row):
            files[f"responsible_ai/overrides/{one['gate']}.json"] = report_bytes(one)
        self.recorder.log_files(run_id, files)
        flat = flat_metrics(report)
        ended = (attempt.ended_at if attempt else None) or row.updated_at
        at_ms, step = int(ended.timestamp() * 1000), row.last_step or 0
        points = [MetricPoint(key=key, value=value, step=step, at_ms=at_ms) for key, value in flat.values.items()]
        self.recorder.log_points(run_id, points)
        tags = {**_tags_of_report(row), "rai.state_sha256": str(report["state"]["digest"])}
        return tags | ({"rai.undefined": ", ".join(flat.undefined)} if flat.undefined else {})

    def _log_sweep(self, row: ExperimentRow, run_id: str, sweep: Mapping[str, Any]) -> dict[str, str]:
        """The sweep's files, and what its best trial has reached; returns tags that name the trial."""
        directory = report_directory(self.settings.storage, row.project, row.id)
        if found := {f"sweep/{name}": path for name, path in files_of(directory).items() if path.exists()}:
            self.recorder.log_files(run_id, found)
        best, front, nearest = sweep.get("best"), sweep.get("front"), sweep.get("nearest")
        if best is not None:
            with self.store.read() as session:
                trial = trials.find(session, row.id, best)
            self.recorder.log_points(run_id, best_points(trial) if trial else [])
        told = {
            "fairlead.best_trial": best,
            "fairlead.pareto_front": ", ".join(map(str, front or ())) or None,
            "fairlead.nearest_trial": nearest,
        }
        return {name: str(value) for name, value in told.items() if value is not None}

    def _register(self, row: ExperimentRow, run_id: str, attempt: AttemptRow, result: ResultDocument) -> int:
        assert row.registration is not None, "pending, so it is there"
        assert result.model is not None, "promotion asks for a model"
        name, alias = row.registration["name"], row.registration["alias"]
        sha256 = result.model.code_sha256
        version = self.recorder.register_model(
            run_id,
            experiment_id=row.id,
            model_dir=self.settings.storage / attempt.storage_path / MODEL_DIRECTORY,
            document=result.model,
            name=name,
            alias=alias,
            code_bundle=self.settings.storage / "bundles" / f"{sha256}.zip" if sha256 else None,
            tags=_tags_of_report(row),
        )
        registration = {
            "is_registered": True,
            "is_pending": False,
            "name": name,
            "version": version.version,
            "alias": alias,
            "reason": "",
            "url": version.url,
        }
        return self._note_registration(row, run_id, registration, version)

    def _note_registration(
        self, row: ExperimentRow, run_id: str, registration: dict[str, Any], version: RegisteredVersion
    ) -> int:
        """The version that is kept here is what ``verify`` holds MLflow against."""
        now = self.clock.now()
        with self.store.write() as session:
            model_versions.insert(
                session,
                row,
                name=version.name,
                version=version.version,
                alias=registration["alias"],
                model_id=version.model_id,
                run_id=run_id,
                now=now,
            )
            return experiments.note(
                session,
                row.id,
                kind="registered",
                actor=ACTOR,
                now=now,
                reason=f"{version.name} version {version.version}",
                payload=registration,
                columns={"registration": registration},
            )

    # ---- when something is wrong ------------------------------------------------------------------------------------

    def _guarded(self, experiment_id: str, act: Callable[[], None]) -> bool:
        """Whether ``act`` was done. A fault of one experiment makes only that one wait; MLflow away makes all wait."""
        if self.clock.monotonic_s() < self._not_before_s.get(experiment_id, 0):
            return False
        try:
            self.require_lead()
            act()
        except Unavailable:
            raise
        except NotFound as error:
            logger.warning("the run is gone; it is made again", experiment_id=experiment_id, reason=str(error))
            self._forget_run(experiment_id)
        except (FairleadError, OSError, ValueError) as error:
            logger.exception("not recorded", experiment_id=experiment_id, reason=str(error))
            self._not_before_s[experiment_id] = self.clock.monotonic_s() + RETRY_AFTER_S
            self._explain(experiment_id, str(error))
            return False
        self._not_before_s.pop(experiment_id, None)
        return True

    def _resting(self) -> frozenset[str]:
        """Experiments that wait for their next try: they must not keep the others from their turn."""
        now_s = self.clock.monotonic_s()
        return frozenset(key for key, until_s in self._not_before_s.items() if now_s < until_s)

    def _explain(self, experiment_id: str, why: str) -> None:
        """Who waits for a registration learns why there is none yet."""
        with self.store.write() as session:
            registration = experiments.get(session, experiment_id).registration
            if registration and registration.get("is_pending"):
                told = registration | {"reason": f"not registered yet, it is tried again: {why[:500]}"}
                experiments.set_columns(session, experiment_id, registration=told)

    def _forget_run(self, experiment_id: str) -> None:
        with self.store.write() as session:
            experiments.set_columns(session, experiment_id, mlflow_run_id=None, mlflow_url=None)


def _points(batch: BatchRow) -> list[MetricPoint]:
    return [MetricPoint(key=key, value=value, step=step, at_ms=at_ms) for key, value, step, at_ms in batch.payload]


def _portions(rows: Iterable[BatchRow]) -> Iterable[list[BatchRow]]:
    """Consecutive batches whose points fit into one call."""
    portion: list[BatchRow] = []
    points = 0
    for row in rows:
        if portion and points + len(row.payload) > MAX_BATCH_POINTS:
            yield portion
            portion, points = [], 0
        portion.append(row)
        points += len(row.payload)
    if portion:
        yield portion


def _tags_of_report(row: ExperimentRow) -> dict[str, str]:
    """What a run and a model version say of the report. An override never changes the outcome: it stands beside it."""
    tags = {OUTCOME_TAG: row.report_outcome or "", REPORT_TAG: row.report_sha256 or ""}
    told = ", ".join(f"{one['gate']} by {one['by']}" for one in _overrides(row))
    return tags | ({"rai.overridden": told} if told else {})


def _overrides(row: ExperimentRow) -> list[dict[str, Any]]:
    """The signed records of all gates that somebody has overridden."""
    return [gate["override"] for gate in row.gates or () if gate.get("override")]

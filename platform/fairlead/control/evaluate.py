"""From evaluating to succeeded: the report, its gates, and whether a model may be registered. Pure over saved counts.

Nothing here runs user code or looks at data: the workers counted, the counts lie on the storage under their digest.
Repeating it after a crash gives the same report, but for the time stamp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from fairlead.clock import Clock
from fairlead.control.champions import Champions
from fairlead.control.results import EvaluationBroken, content_of
from fairlead.control.rows import ids_of
from fairlead.control.sweeps import Sweeps, write_whole
from fairlead.errors import BadInput, Unavailable
from fairlead.evaluation import (
    AnyState,
    Baseline,
    CountState,
    Measurements,
    Provenance,
    build_report,
    read_measurements,
    read_state,
    report_bytes,
    report_sha256,
)
from fairlead.evaluation.signing import signed
from fairlead.failpoints import failpoint
from fairlead.lifecycle import State
from fairlead.protocol import FileEntry, ResultDocument
from fairlead.registry import Promoted, outcome_of, promote
from fairlead.secret_key import read_secret, report_seed
from fairlead.settings import ControlSettings
from fairlead.spec import ExperimentSpec
from fairlead.store import Store, attempts, experiments
from fairlead.store.tables import AttemptRow, ExperimentRow

ACTOR = "evaluate"
REPORT_DIRECTORY = "report"
PENDING = "waiting for MLflow to register it"
logger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """One tick evaluates every experiment whose result is in."""

    store: Store
    clock: Clock
    settings: ControlSettings

    def __call__(self) -> bool:
        with self.store.read() as session:
            rows = experiments.in_states(session, (State.EVALUATING,))
        return sum(self._evaluate(row) for row in rows) > 0

    def _evaluate(self, row: ExperimentRow) -> bool:
        with self.store.read() as session:
            attempt = attempts.get(session, attempts.attempt_id(row.id, row.current_attempt_no))
        try:
            seed = report_seed(read_secret(self.settings.secret_key_file))
        except BadInput as error:  # an operator's to mend: stay and try again
            self._explain(row, f"the report cannot be signed: {error}; it is tried again")
            return False
        try:
            return self._succeed(row, attempt, seed)
        except OSError as error:  # the storage may come back: stay and try again
            logger.warning("storage is not readable", error=str(error), **ids_of(row))
            self._explain(row, f"the storage cannot be used: {error.strerror or error}; it is tried again")
            return False
        except EvaluationBroken as error:
            return self._hold(row, f"evaluation_error: {error}")
        except Unavailable:
            raise  # the database is away, or another process leads: nothing is wrong with this evaluation
        except Exception as error:  # a report that cannot be built must not block the others, nor be repeated for ever
            logger.exception("evaluation failed", **ids_of(row))
            return self._hold(row, f"evaluation_error: {type(error).__name__}: {error}")

    def _succeed(self, row: ExperimentRow, attempt: AttemptRow, seed: bytes) -> bool:
        spec = experiments.spec_of(row)
        result = ResultDocument.model_validate(attempt.result)
        if spec.search is not None:
            return self._succeed_sweep(row, attempt, spec, result, seed)
        report = signed(self._report(spec, attempt, result), seed) if result.evaluation else None
        columns: dict[str, Any] = {
            "registration": registration_of(spec, result, report["gates"] if report else None),
            "register_name": spec.register_as.name if spec.register_as else None,  # a server of before leaves it out
        }
        if report is not None:
            self._publish(spec, row.id, report)
            sha256 = f"sha256:{report_sha256(report)}"
            columns |= {"report_sha256": sha256, "report_outcome": report["outcome"], "gates": report["gates"]}
        gates = f"gates: {report['outcome']}" if report and spec.gates else "no gates"
        reason = f"{'evaluated' if spec.is_evaluation else 'trained and evaluated'}; {gates}"
        return self._move(row, attempt, reason=reason, columns=columns)

    def _succeed_sweep(
        self, row: ExperimentRow, attempt: AttemptRow, spec: ExperimentSpec, result: ResultDocument, seed: bytes
    ) -> bool:
        """No gates are judged and nothing is registered: that is for the trial that is promoted."""
        directory = report_directory(self.settings.storage, spec.project, row.id)
        sweeps = Sweeps(store=self.store, clock=self.clock)
        report = sweeps.publish(spec, attempt, result, directory=directory, seed=seed)
        why = f"sweep: a trial is registered by promoting it, as 'fairlead promote {row.id}' does"
        columns = {
            "registration": {"is_registered": False, "is_pending": False, "reason": why},
            "register_name": None,
            "report_sha256": f"sha256:{report_sha256(report)}",
        }
        return self._move(row, attempt, reason=report["headline"], columns=columns)

    def _move(self, row: ExperimentRow, attempt: AttemptRow, *, reason: str, columns: dict[str, Any]) -> bool:
        failpoint("evaluate.reported")
        with self.store.write() as session:
            return experiments.move_if_current(
                session,
                row,
                State.SUCCEEDED,
                reason=reason,
                actor=ACTOR,
                now=self.clock.now(),
                attempt_no=attempt.attempt_no,
                payload={"report_sha256": columns.get("report_sha256"), "registration": columns["registration"]},
                columns=columns,
            )

    def _report(self, spec: ExperimentSpec, attempt: AttemptRow, result: ResultDocument) -> dict[str, Any]:
        assert result.evaluation is not None, "asked by the caller"
        state = self._read(attempt, result, result.evaluation.state_file)
        conditions = {name: self._counted(attempt, result, file) for name, file in result.evaluation.conditions.items()}
        dataset = result.dataset or {}
        provenance = Provenance(
            experiment=attempt.experiment_id,
            attempt=attempt.attempt_no,
            created=attempt.ended_at or self.clock.now(),
            data_uri=spec.data.uri,
            data_digest=str(dataset.get("digest", "")),
            n_expected=result.evaluation.expected_rows,
            split=result.evaluation.split,
            target=dataset.get("target"),
            model_digest=_weights_digest(result),
            code_digest=spec.code,
            remarks=tuple(dataset.get("remarks", ())),
        )
        return build_report(
            state,
            provenance=provenance,
            evaluation=spec.evaluation,
            gates=spec.gates,
            mitigation=spec.mitigation,
            baseline=self._baseline(spec),
            measurements=self._measurements(spec, attempt, result),
            probes=spec.probes,
            conditions=conditions,
            champion=Champions(store=self.store, storage=self.settings.storage).of(spec, attempt, result, state),
        )

    def _measurements(self, spec: ExperimentSpec, attempt: AttemptRow, result: ResultDocument) -> Measurements:
        """What the workers measured beside the counts, as far as the spec asks for it."""
        file = result.evaluation.measurements_file if result.evaluation else None
        if not spec.measured or file is None:
            return Measurements(asked=spec.measured)
        try:
            found = read_measurements(content_of(self.settings.storage, attempt, file))
        except ValueError as error:
            raise EvaluationBroken(str(error)) from error
        return Measurements(asked=spec.measured, found=found)

    def _baseline(self, spec: ExperimentSpec) -> Baseline | None:
        """The counts of the experiment that ``mitigation.compare_with`` names, as far as they are still there."""
        named = spec.mitigation.compare_with if spec.mitigation else None
        if named is None:
            return None
        with self.store.read() as session:
            row = experiments.find(session, named)
            if row is None or row.project != spec.project:
                return Baseline(experiment=named, why_not="there is no such experiment in this project")
            tries = {one.attempt_no: one for one in attempts.of_experiment(session, row.id)}
        attempt = tries.get(row.current_attempt_no)
        if attempt is None or attempt.result is None:
            return Baseline(experiment=named, why_not=f"it is {row.state} and has counted nothing yet")
        result = ResultDocument.model_validate(attempt.result)
        if result.evaluation is None:
            return Baseline(experiment=named, why_not="it has counted nothing")
        try:
            return Baseline(experiment=named, state=self._counts(attempt, result))
        except FileNotFoundError:
            return Baseline(experiment=named, why_not="its counts have been deleted")
        except EvaluationBroken as error:
            return Baseline(experiment=named, why_not=str(error))

    def _counts(self, attempt: AttemptRow, result: ResultDocument) -> CountState:
        """The workers' counts of the rows as they are."""
        assert result.evaluation is not None, "asked by the caller"
        return self._counted(attempt, result, result.evaluation.state_file)

    def _counted(self, attempt: AttemptRow, result: ResultDocument, file: FileEntry) -> CountState:
        """Counts of classes in ``file``."""
        state = self._read(attempt, result, file)
        if not isinstance(state, CountState):
            raise EvaluationBroken(f"{file.path} holds no counts of classes")
        return state

    def _read(self, attempt: AttemptRow, result: ResultDocument, file: FileEntry) -> AnyState:
        """Counts in ``file``, once more held against digest and expectation."""
        evaluation = result.evaluation
        assert evaluation is not None, "asked by the caller"
        state = read_state(content_of(self.settings.storage, attempt, file))
        incomplete = state.check_complete(
            expected_n=evaluation.expected_rows,
            expected_sum=evaluation.expected_sum,
            expected_xor=evaluation.expected_xor,
        )
        if incomplete is not None:
            raise EvaluationBroken(str(incomplete))
        return state

    def _publish(self, spec: ExperimentSpec, experiment_id: str, report: dict[str, Any]) -> None:
        from fairlead.evaluation.page import render_page  # loads jinja2, which nothing else here needs

        directory = report_directory(self.settings.storage, spec.project, experiment_id)
        directory.mkdir(parents=True, exist_ok=True)
        write_whole(directory / "report.json", report_bytes(report))
        failpoint("evaluate.half_report")
        write_whole(directory / "report.html", render_page(report).encode())

    def _explain(self, row: ExperimentRow, why: str) -> None:
        """Say what it waits for, where that is new; the next move takes it away."""
        if row.waiting != why:
            with self.store.write() as session:
                experiments.set_columns(session, row.id, waiting=why)

    def _hold(self, row: ExperimentRow, reason: str) -> bool:
        with self.store.write() as session:
            return experiments.move_if_current(
                session, row, State.HELD, reason=reason, actor=ACTOR, now=self.clock.now()
            )


def report_directory(storage: Path, project: str, experiment_id: str) -> Path:
    """Where an experiment's report lies."""
    return storage / project / experiment_id / REPORT_DIRECTORY


def registration_of(
    spec: ExperimentSpec, result: ResultDocument, gates: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """What becomes of the model, as the experiment's ``registration``. ``gates``: None without a report."""
    undecided = [gate["id"] for gate in gates or () if gate["outcome"] != "pass" and not gate.get("override")]
    decision = promote(
        report_outcome=None if gates is None else outcome_of(gates),
        undecided_gates=tuple(undecided),
        on_inconclusive=spec.evaluation.on_inconclusive,
        register=spec.register_as,
        has_model=result.model is not None,
    )
    if isinstance(decision, Promoted):
        return {
            "is_registered": False,
            "is_pending": True,
            "name": decision.name,
            "alias": decision.alias,
            "reason": PENDING,
        }
    return {"is_registered": False, "is_pending": False, "reason": f"{decision.reason}: {decision.detail}"}


def _weights_digest(result: ResultDocument) -> str | None:
    files = result.model.files if result.model else ()
    return next((f"sha256:{file.sha256}" for file in files if file.path.endswith(".safetensors")), None)

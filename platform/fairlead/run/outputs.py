"""What the ranks of a finished group leave: merged counts, measurements, the exported model, a description of the data.

Of measurements beside the counts rank 0's word counts: those are about the one model that all ranks have. Energy is one
a node and adds up over attempts: it comes from files that lie beside.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.data.context import state_name
from fairlead.data.export import read_model
from fairlead.evaluation.measured import measurements_bytes
from fairlead.evaluation.quantities import AnyState, merged, read_state
from fairlead.lifecycle import Outcome
from fairlead.protocol import (
    ANSWERS_FILES,
    EVALUATED_SPLIT,
    MEASUREMENTS_FILE,
    MODEL_DIRECTORY,
    PREDICTIONS_SPLIT,
    STATE_FILE,
    EvaluationSummary,
    FileEntry,
    LaunchDocument,
    ModelDocument,
)
from fairlead.run.energy import energy_entries
from fairlead.run.messages import Finished
from fairlead.run.storage import describe_file, files_below, write_atomically
from fairlead.run.verdict import Verdict
from fairlead.spec import ExperimentSpec
from fairlead.spec.manifest import Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The parts of a result. ``incomplete``: why they do not make a valid one."""

    incomplete: Verdict | None = None
    evaluation: EvaluationSummary | None = None
    model: ModelDocument | None = None
    dataset: dict[str, Any] | None = None
    environment: dict[str, str] = field(default_factory=dict)


def collect(document: LaunchDocument, attempt: Path, finished: Sequence[Finished]) -> Outputs:
    """Merge the counts of all ranks, write them beside the result, and check that every row is in them once."""
    first = next((each for each in finished if each.rank == 0), None)
    if first is None:
        return Outputs(incomplete=_user_error("no_result", "rank 0 did not return from the workload"))
    spec = document.spec
    if spec.is_evaluation and not first.states:
        return Outputs(incomplete=_user_error("no_result", "the predictions were not counted to their end"))
    if not spec.data.is_there:
        return _without_rows(first)
    split = PREDICTIONS_SPLIT if spec.is_evaluation else EVALUATED_SPLIT
    names = {split: split} | {condition: state_name(split, condition) for condition in spec.conditions}
    try:
        states = {condition: _merged(finished, name) for condition, name in names.items()}
    except ValueError as error:
        return Outputs(incomplete=_user_error("evaluation", f"the counts of the ranks do not fit together: {error}"))
    state = states.pop(split)
    measurements = dict(first.measurements)
    try:
        if document.spec.energy is not None:
            measurements["energy"] = energy_entries(attempt)
        measured = measurements_bytes(measurements) if measurements else None
    except ValueError as error:
        return Outputs(incomplete=_user_error("measurements", str(error)))
    incomplete = _why_incomplete(first.dataset, state, split, has_gates=bool(spec.gates) or spec.probes is not None)
    if state is None and incomplete is None:
        incomplete = _why_unfinished(first)
    incomplete = incomplete or _why_probes_incomplete(first.dataset, states, split)
    incomplete = incomplete or _why_unmeasured(spec, first.measurements)
    there = {condition: found for condition, found in states.items() if found is not None}
    return Outputs(
        incomplete=incomplete,
        evaluation=(
            _summary(attempt, state, split, there, measured, first.dataset, _answers(attempt, finished))
            if state is not None and incomplete is None
            else None
        ),
        model=_model(document, attempt, first.dataset) if first.has_exported else None,
        dataset=describe_dataset(first.dataset),
        environment=dict(first.environment),
    )


def _without_rows(first: Finished) -> Outputs:
    """Of a workload that read data of its own: it must have reported something, and not have been asked to stop."""
    incomplete = _why_unfinished(first)
    if incomplete is None and first.num_reports == 0:
        incomplete = _user_error("no_result", "the workload returned without a call of report, so it has shown nothing")
    return Outputs(incomplete=incomplete, environment=dict(first.environment))


def _why_unfinished(first: Finished) -> Verdict | None:
    """Where nothing is counted only this tells a workload that has stopped from one that has come to its end."""
    if not first.was_told_to_stop:
        return None
    return _user_error("no_result", "the workload returned because should_stop() had said so")


def _user_error(reason: str, detail: str) -> Verdict:
    return Verdict(outcome=Outcome.USER_ERROR, reason=reason, detail=detail)


def _merged(finished: Sequence[Finished], name: str) -> AnyState | None:
    states = [read_state(each.states[name]) for each in finished if name in each.states]
    return merged(states) if states else None


def _why_incomplete(
    dataset: Mapping[str, Any], state: AnyState | None, split: str, *, has_gates: bool
) -> Verdict | None:
    expected = dataset["num_by_split"][split]
    if state is None:
        if expected == 0 and not has_gates:
            return None
        return _user_error("no_result", f"the workload returned without a call of evaluate({split!r})")
    problem = state.check_complete(
        expected_n=expected,
        expected_sum=dataset["record_sum_by_split"][split],
        expected_xor=dataset["record_xor_by_split"][split],
    )
    return None if problem is None else _user_error(problem.reason, problem.detail)


def _why_probes_incomplete(
    dataset: Mapping[str, Any], states: Mapping[str, AnyState | None], split: str
) -> Verdict | None:
    """The first condition that was not counted, or not once a row."""
    for condition, state in states.items():
        if state is None:
            detail = f"the spec asks for the probe {condition}, and the workload never counted it: "
            return _user_error("no_result", f"{detail}call fairlead.probes.run_probes, or take the probe out")
        if problem := _why_incomplete(dataset, state, split, has_gates=True):
            return _user_error(problem.reason, f"probe {condition}: {problem.detail}")
    return None


def _why_unmeasured(spec: ExperimentSpec, measurements: Mapping[str, Any]) -> Verdict | None:
    """The first probe beside the counts that left nothing."""
    missing = [name for name in (spec.probes.measured if spec.probes else ()) if name not in measurements]
    if not missing:
        return None
    detail = f"the spec asks for the probe {missing[0]}, and the workload never made it: "
    return _user_error("no_result", f"{detail}call fairlead.probes.run_probes, or take the probe out")


def _summary(
    attempt: Path,
    state: AnyState,
    split: str,
    conditions: Mapping[str, AnyState],
    measured: bytes | None,
    dataset: Mapping[str, Any],
    answers: tuple[FileEntry, ...],
) -> EvaluationSummary:
    counted = {name: _written(attempt, f"{STATE_FILE}.{name}", found.to_bytes()) for name, found in conditions.items()}
    return EvaluationSummary(
        split=split,
        state_file=_written(attempt, STATE_FILE, state.to_bytes()),
        measurements_file=None if measured is None else _written(attempt, MEASUREMENTS_FILE, measured),
        conditions=counted,
        answers=answers,
        expected_rows=dataset["num_by_split"][split],
        expected_sum=dataset["record_sum_by_split"][split],
        expected_xor=dataset["record_xor_by_split"][split],
    )


def _answers(attempt: Path, finished: Sequence[Finished]) -> tuple[FileEntry, ...]:
    """The files of all ranks, if each has left one; else none. All others of the experiment go: they do not count."""
    files = tuple(each.answers for each in sorted(finished, key=lambda one: one.rank) if each.answers is not None)
    files = files if len(files) == len(finished) else ()
    forget_answers(attempt, but=[attempt / file.path for file in files])
    return files


def forget_answers(attempt: Path, *, but: Collection[Path] = ()) -> None:
    """Delete what ranks of ``attempt`` and of those before it have said of single rows, except ``but``."""
    for path in attempt.parent.glob(f"a[0-9]*/{ANSWERS_FILES.format(generation='*', rank='*')}"):
        if path not in but:
            path.unlink(missing_ok=True)


def _written(attempt: Path, name: str, content: bytes) -> FileEntry:
    write_atomically(attempt / name, content)
    return describe_file(attempt / name, root=attempt)


def _model(document: LaunchDocument, attempt: Path, dataset: Mapping[str, Any]) -> ModelDocument:
    directory = attempt / MODEL_DIRECTORY
    exported = read_model(directory)
    return ModelDocument(
        workload=document.workload_module,
        params=document.params,
        config=dict(exported.config),
        features=tuple((column["name"], column["dtype"]) for column in dataset["features"]),
        feature_shape=tuple(dataset["feature_shape"]),
        classes=tuple(dataset["classes"]),
        task=document.task or _task_of(len(dataset["classes"])),
        dataset_digest=dataset["digest"],
        code_sha256=document.code_sha256,
        files=tuple(describe_file(path, root=directory) for path in files_below(directory)),
    )


def _task_of(num_classes: int) -> Task:
    if num_classes == 0:
        return "regression"
    return "binary" if num_classes == 2 else "multiclass"


def describe_dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``DatasetInfo`` as a mapping, what a result says."""
    return {
        "uri": dataset["uri"],
        "digest": dataset["digest"],
        "num_rows": dataset["num_rows"],
        "num_by_split": dict(dataset["num_by_split"]),
        "target": dataset["target"],
        "classes": list(dataset["classes"]),
        "attributes": [
            {"name": attribute["name"], "levels": list(attribute["levels"])} for attribute in dataset["attributes"]
        ],
        **({"remarks": list(dataset["remarks"])} if dataset.get("remarks") else {}),
    }

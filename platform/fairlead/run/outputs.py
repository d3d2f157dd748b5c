"""What the ranks of a finished group leave: merged counts, measurements, the exported model, a description of the data.

Of measurements beside the counts rank 0's word counts: those are about the one model that all ranks have. What is
one a node does not come this way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairlead.data.export import read_model
from fairlead.evaluation.measured import measurements_bytes
from fairlead.evaluation.state import CountState
from fairlead.lifecycle import Outcome
from fairlead.protocol import (
    MEASUREMENTS_FILE,
    MODEL_DIRECTORY,
    PREDICTIONS_SPLIT,
    STATE_FILE,
    EvaluationSummary,
    FileEntry,
    LaunchDocument,
    ModelDocument,
)
from fairlead.run.messages import Finished
from fairlead.run.storage import describe_file, files_below, write_atomically
from fairlead.run.verdict import Verdict

EVALUATED_SPLIT = "test"


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
    if document.spec.is_evaluation and not first.states:
        return Outputs(incomplete=_user_error("no_result", "the predictions were not counted to their end"))
    split = PREDICTIONS_SPLIT if document.spec.is_evaluation else EVALUATED_SPLIT
    try:
        state = _merged(finished, split)
    except ValueError as error:
        return Outputs(incomplete=_user_error("evaluation", f"the counts of the ranks do not fit together: {error}"))
    try:
        measured = measurements_bytes(first.measurements) if first.measurements else None
    except ValueError as error:
        return Outputs(incomplete=_user_error("measurements", str(error)))
    incomplete = _why_incomplete(first.dataset, state, split, has_gates=bool(document.spec.gates))
    return Outputs(
        incomplete=incomplete,
        evaluation=(
            _summary(attempt, state, split, measured, first.dataset)
            if state is not None and incomplete is None
            else None
        ),
        model=_model(document, attempt, first.dataset) if first.has_exported else None,
        dataset=_description(first.dataset),
        environment=dict(first.environment),
    )


def _user_error(reason: str, detail: str) -> Verdict:
    return Verdict(outcome=Outcome.USER_ERROR, reason=reason, detail=detail)


def _merged(finished: Sequence[Finished], split: str) -> CountState | None:
    states = [CountState.from_bytes(each.states[split]) for each in finished if split in each.states]
    if not states:
        return None
    total = states[0]
    for state in states[1:]:
        total = total.merge(state)
    return total


def _why_incomplete(
    dataset: Mapping[str, Any], state: CountState | None, split: str, *, has_gates: bool
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


def _summary(
    attempt: Path, state: CountState, split: str, measured: bytes | None, dataset: Mapping[str, Any]
) -> EvaluationSummary:
    return EvaluationSummary(
        split=split,
        state_file=_written(attempt, STATE_FILE, state.to_bytes()),
        measurements_file=None if measured is None else _written(attempt, MEASUREMENTS_FILE, measured),
        expected_rows=dataset["num_by_split"][split],
        expected_sum=dataset["record_sum_by_split"][split],
        expected_xor=dataset["record_xor_by_split"][split],
    )


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
        task=document.task or ("binary" if len(dataset["classes"]) == 2 else "multiclass"),
        dataset_digest=dataset["digest"],
        code_sha256=document.code_sha256,
        files=tuple(describe_file(path, root=directory) for path in files_below(directory)),
    )


def _description(dataset: Mapping[str, Any]) -> dict[str, Any]:
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

"""What a trial is judged by: the validation split in the test split's place, counted as a report counts."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from fairlead.data.context import check_complete
from fairlead.data.dataset import Dataset
from fairlead.errors import BadInput
from fairlead.evaluation import HEADLINES, AnyState, Provenance, build_report, flat_metrics
from fairlead.evaluation.quantities import merged
from fairlead.protocol import EVALUATED_SPLIT
from fairlead.spec import ExperimentSpec
from fairlead.workload import DatasetInfo

T = TypeVar("T")
JUDGED_SPLIT = "validation"
_AT_ANY_TIME = datetime.fromtimestamp(0, UTC)
"""Numbers do not depend on when they were counted."""


def without_test_rows(dataset: Dataset) -> Dataset:
    """The data as a trial sees them: under the test split's name the validation rows, and nowhere the test rows.

    So a search of ten thousand trials has looked at the test split as little as one that was never begun.
    """

    def hidden(by_split: Mapping[str, T]) -> dict[str, T]:
        return {**by_split, EVALUATED_SPLIT: by_split[JUDGED_SPLIT]}

    info = replace(
        dataset.info,
        num_by_split=hidden(dataset.info.num_by_split),
        record_sum_by_split=hidden(dataset.info.record_sum_by_split),
        record_xor_by_split=hidden(dataset.info.record_xor_by_split),
    )
    return replace(dataset, info=info, by_split=hidden(dataset.by_split))


def counted_values(
    spec: ExperimentSpec, info: DatasetInfo, states: Sequence[AnyState], wanted: Collection[str]
) -> dict[str, float]:
    """``rai/...`` of the judged split, from the counts of all ranks. ``wanted``: metrics beside the headlines.

    Raises ``BadInput`` where rows were counted twice or not at all.
    """
    state = merged(states)
    if (problem := check_complete(info, EVALUATED_SPLIT, state)) is not None:
        raise BadInput(f"{problem.reason}: {problem.detail}")
    provenance = Provenance(
        experiment="",
        attempt=1,
        created=_AT_ANY_TIME,
        data_uri=info.uri,
        data_digest=info.digest,
        n_expected=info.num_by_split[EVALUATED_SPLIT],
        split=JUDGED_SPLIT,
    )
    report = build_report(state, provenance=provenance, evaluation=spec.evaluation)
    return dict(flat_metrics(report, metrics=frozenset(HEADLINES) | frozenset(wanted)).values)

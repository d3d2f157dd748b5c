"""An evaluation on a rank: no workload is called; the predictions at the spec's address are counted.

The very functions that ``fairlead evaluate`` calls, so that both find the same counts. There is no checkpoint: what is
stopped or dies begins again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairlead.data.predictions import Predictions, Ranks, Survey, count, refuse_hopeless_gates, survey
from fairlead.data.torch import gather_objects
from fairlead.protocol import PREDICTIONS_SPLIT
from fairlead.spec import ExperimentSpec

REPORT_EVERY_S = 1.0
SURVEYED, COUNTED = "evaluation/rows_surveyed", "evaluation/rows_counted"
Report = Callable[[Mapping[str, float], int], None]
"""Takes metrics and their step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """What a rank hands over: its share of the counts, and what is known of all rows together."""

    states: Mapping[str, bytes]
    dataset: Mapping[str, Any]


class _Stopped(Exception):
    """Some rank was asked to stop."""


def count_predictions(
    spec: ExperimentSpec,
    *,
    rank: int,
    world_size: int,
    should_stop: Callable[[], bool],
    report: Report,
    gather: Callable[[Any], Sequence[Any]] = gather_objects,
) -> Counted | None:
    """Count this rank's share of an evaluation; None where it was stopped. Collective.

    Every rank reports: one that waits for the others says nothing, and they are all that goes on.

    Raises ``BadData`` for what cannot be counted, and ``BadSpec`` for gates that no number of such rows could decide.
    """
    stops = _Stops(should_stop, gather)
    told = _Told(stops, report)
    ranks = Ranks(number=rank, of=world_size, gather=stops.gather)
    try:
        found = survey([spec.data.uri], spec.of_predictions, ranks=ranks, seen=told.rows_of(SURVEYED))
        refuse_hopeless_gates(found)
        counted = count(found, seen=told.rows_of(COUNTED))
    except _Stopped:
        stops.tell_others()
        return None
    told.now({SURVEYED: found.num_rows, COUNTED: counted.book.num_records})
    return Counted(states={PREDICTIONS_SPLIT: counted.state.to_bytes()}, dataset=_described(spec, found, counted))


def _described(spec: ExperimentSpec, found: Survey, counted: Predictions) -> Mapping[str, Any]:
    """As of a data set of which all rows are one split."""
    book = counted.book
    return {
        "uri": spec.data.uri,
        "digest": counted.digest,
        "num_rows": book.num_records,
        "num_by_split": {PREDICTIONS_SPLIT: book.num_records},
        "record_sum_by_split": {PREDICTIONS_SPLIT: book.hash_sum},
        "record_xor_by_split": {PREDICTIONS_SPLIT: book.hash_xor},
        "target": found.spec.columns.target,
        "classes": found.classes,
        "attributes": [asdict(attribute) for attribute in found.attributes],
        "remarks": counted.remarks,
    }


class _Stops:
    """Makes all ranks stop together: whoever hears that it should says so at the next gathering."""

    def __init__(self, should_stop: Callable[[], bool], gather: Callable[[Any], Sequence[Any]]) -> None:
        self._should_stop, self._gather = should_stop, gather
        self._is_known = False

    def gather(self, value: Any) -> Sequence[Any]:
        """The values of all ranks. Raises ``_Stopped`` on all of them where one was asked to stop."""
        answers = self._gather((self._should_stop(), value))
        if any(is_stopped for is_stopped, _ in answers):
            self._is_known = True
            raise _Stopped
        return [given for _, given in answers]

    def look(self) -> None:
        """Raise ``_Stopped`` where this rank was asked to stop."""
        if self._should_stop():
            raise _Stopped

    def tell_others(self) -> None:
        """Those that wait at a gathering, unless it was there that all have heard of it."""
        if not self._is_known:
            self._gather((True, None))


class _Told:
    """Progress, at once and then now and then: a step is a batch of rows that this rank has read, or a file opened."""

    def __init__(self, stops: _Stops, report: Report) -> None:
        self._stops, self._report = stops, report
        self._step = 0
        self._told_s = time.monotonic() - REPORT_EVERY_S

    def rows_of(self, name: str) -> Callable[[int], None]:
        """Hears of rows, under the name of a metric."""
        total = 0

        def seen(rows: int) -> None:
            nonlocal total
            total += rows
            self._step += 1
            self._stops.look()
            if time.monotonic() - self._told_s >= REPORT_EVERY_S:
                self.now({name: total})

        return seen

    def now(self, metrics: Mapping[str, float]) -> None:
        """Report at once."""
        self._told_s = time.monotonic()
        self._report(metrics, self._step)

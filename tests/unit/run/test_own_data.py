"""What a workload that reads data of its own must leave, and what it cannot ask for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.data.context import KeepingOutlet
from fairlead.errors import BadInput
from fairlead.lifecycle import Outcome
from fairlead.protocol import StopMode
from fairlead.run.messages import Finished
from fairlead.run.outputs import collect
from fairlead.run.verdict import Ending, decide
from fairlead.spec import NO_DATA, ExperimentSpec, from_mapping
from fairlead.testing.context import a_context
from fairlead.testing.ray import a_launch
from fairlead.workload import Context

SPEC = from_mapping(ExperimentSpec, {"name": "a", "workload": "mine:train"})
NO_ROWS = np.zeros(0, dtype=np.int64)


@pytest.mark.parametrize(
    "ask",
    [
        lambda context: context.dataset,
        lambda context: context.all_rows("train"),
        lambda context: context.shard("test"),
        lambda context: context.groups(NO_ROWS),
        lambda context: context.evaluate("test", records=NO_ROWS, predictions=NO_ROWS),
        lambda context: context.export({}, config={}),
    ],
    ids=["dataset", "all_rows", "shard", "groups", "evaluate", "export"],
)
def test_who_names_no_data_gets_no_rows(ask: Callable[[Context], Any]) -> None:
    with pytest.raises(BadInput, match=r"names no data.*under data\.uri"):
        ask(a_context(SPEC))


def finished(**changes: Any) -> Finished:
    return Finished(generation=1, rank=0, states={}, dataset={}, has_exported=False, **{"num_reports": 3, **changes})


def ended(tmp_path: Path, finished: Finished, *, stop: StopMode | None = None) -> tuple[Outcome, str]:
    outputs = collect(a_launch("e1", spec=SPEC), tmp_path, [finished])
    ending = Ending(cause=None, stop=stop, has_finished=True, incomplete=outputs.incomplete, trouble=None)
    verdict = decide(ending)
    return verdict.outcome, verdict.detail


def test_it_succeeds_without_an_evaluation(tmp_path: Path) -> None:
    assert ended(tmp_path, finished())[0] is Outcome.SUCCEEDED


def test_who_reports_nothing_has_shown_nothing(tmp_path: Path) -> None:
    outcome, detail = ended(tmp_path, finished(num_reports=0))
    assert (outcome, "without a call of report" in detail) == (Outcome.USER_ERROR, True)


@pytest.mark.parametrize(
    ("was_told", "stop", "outcome"),
    [
        (True, StopMode.PAUSE, Outcome.PREEMPTED),
        (True, StopMode.CANCEL, Outcome.CANCELLED),
        (False, StopMode.PAUSE, Outcome.SUCCEEDED),  # it came to its end before it asked
    ],
)
def test_who_returns_because_of_a_stop_has_not_finished(
    tmp_path: Path, was_told: bool, stop: StopMode, outcome: Outcome
) -> None:
    assert ended(tmp_path, finished(was_told_to_stop=was_told), stop=stop)[0] is outcome


def test_nor_has_who_returns_because_of_a_stop_where_there_is_no_test_split(tmp_path: Path) -> None:
    info = {"num_by_split": {"test": 0}, "uri": "u", "digest": "d", "num_rows": 1, "target": "y"}
    dataset = {**info, "classes": (), "attributes": ()}
    spec = SPEC.amended(data={"uri": "u", "split": {"train": 0.9, "validation": 0.1, "test": 0}})
    for was_told in (False, True):
        told = Finished(generation=1, rank=0, states={}, dataset=dataset, has_exported=False, was_told_to_stop=was_told)
        assert (collect(a_launch("e1", spec=spec), tmp_path, [told]).incomplete is not None) is was_told


def test_a_context_remembers_what_it_has_answered() -> None:
    context = a_context(SPEC, outlet=KeepingOutlet(stop_after=2))
    answers = []
    for step in (1, 2):
        context.report({"loss": 1.0}, step=step)
        answers.append((context.should_stop(), context.was_told_to_stop))
    assert answers == [(False, False), (True, True)]
    assert context.num_reports == 2
    assert SPEC.data is NO_DATA

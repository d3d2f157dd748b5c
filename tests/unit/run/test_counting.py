"""An evaluation's signs of life: what no rank says for ten minutes is ended as stalled."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import ray

from fairlead.data import prediction_rows
from fairlead.data.predictions import Ranks
from fairlead.errors import BadData
from fairlead.run import counting, worker
from fairlead.run.counting import Counted, count_predictions
from fairlead.run.messages import Hello
from fairlead.run.progress import Progress
from fairlead.run.runner import Runner
from fairlead.run.worker import RunnerLine
from fairlead.spec import EvaluationRequest
from fairlead.testing import FakeClock
from fairlead.testing.ranks import together

NUM_FILES = 6


@pytest.fixture
def address(tmp_path: Path) -> str:
    for number in range(NUM_FILES):
        ids = np.arange(number * 10, number * 10 + 10)
        pyarrow.parquet.write_table(
            pa.table({"id": ids, "label": ids % 2, "prediction": ids % 3 % 2}), path_of(tmp_path, number)
        )
    return f"file://{tmp_path}"


def path_of(directory: Path, number: int) -> Path:
    return directory / f"{number}.parquet"


def evaluated(address: str, own: Ranks, told: list[int], *, stop_after: float = float("inf")) -> Counted | None:
    looks = 0

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        return looks > stop_after

    def report(metrics: Mapping[str, float], step: int) -> None:
        told.append(step)

    request = EvaluationRequest.model_validate({"uri": address, "columns": {"record_id": "id"}})
    spec = request.experiment
    return count_predictions(
        spec, rank=own.number, world_size=own.of, should_stop=should_stop, report=report, gather=own.gather
    )


def test_every_rank_says_that_it_goes_on_with_every_file_and_portion(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(prediction_rows, "PORTION_ROWS", 10)
    steps: list[list[int]] = [[], []]
    together(2, lambda own: evaluated(address, own, steps[own.number]))
    for told in steps:
        assert len(told) >= 3 * NUM_FILES + 6  # opened, stamped twice, and 6 portions
        assert told == sorted(told)


def test_a_stop_is_heard_between_files_by_all_ranks(address: str) -> None:
    for stop_after in range(1, 4 * NUM_FILES):

        def work(own: Ranks, last: float = stop_after) -> Counted | None:
            return evaluated(address, own, [], stop_after=last if own.number == 1 else float("inf"))

        assert together(2, work) == [None, None]


def test_a_repeated_id_is_looked_up_by_one_rank_while_it_says_that_it_goes_on(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "REPORT_EVERY_S", 0.0)
    pyarrow.parquet.write_table(pa.table({"id": [59], "label": [1], "prediction": [1]}), path_of(tmp_path, NUM_FILES))
    with pytest.raises(BadData, match=r"'59' \(.*5\.parquet, row 10\) occurs more than once"):
        together(2, lambda own: evaluated(address, own, []))


def test_a_rank_that_goes_on_is_progress_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bool] = []
    runner: Any = SimpleNamespace(
        poll=SimpleNamespace(remote=lambda *given, has_progressed: said.append(has_progressed))
    )
    monkeypatch.setattr(ray, "get", lambda answer, timeout: answer)
    hello, welcome = SimpleNamespace(rank=1), SimpleNamespace(generation=1)
    line = RunnerLine(runner, hello, welcome)  # type: ignore[arg-type]  # all that is asked of them
    line._poll({}, None)
    worker._progress_of(line, 1)({"evaluation/rows_counted": 1.0}, 7)
    line._poll({}, None)
    line._poll({}, None)
    assert said == [False, True, False]


def test_what_a_rank_of_the_newest_group_says_of_itself_makes_the_runner_wait_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fairlead.run.runner._stand_back", lambda: None)  # it would be this process that does
    runner, clock = Runner(), FakeClock()
    runner._progress = Progress(clock)
    hello = Hello(rank=1, world_size=2, group_id="g", actor_id="a", node_id="n", pid=1)
    runner._progress.greet(hello)
    ages = []
    for generation, has_progressed in ((1, False), (7, True), (1, True)):
        clock.advance(400)
        runner.poll(1, generation, {}, has_progressed=has_progressed)
        ages.append(runner._progress.age_s())
    assert ages == [400, 800, 0]

"""What the ranks of a group leave together: here, what they measured beside the counts."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from fairlead.data.context import keep_measurement
from fairlead.data.predictions import Ranks, count, survey
from fairlead.evaluation import CountState, MomentState, RankState, read_state
from fairlead.evaluation.answers import AnswerFile, pair
from fairlead.lifecycle import Outcome
from fairlead.protocol import FileEntry
from fairlead.run.counting import Counted, count_predictions
from fairlead.run.messages import Finished
from fairlead.run.outputs import Outputs, collect, forget_answers
from fairlead.spec import evaluation_request
from fairlead.testing.context import a_context
from fairlead.testing.ranks import together
from fairlead.testing.ray import a_launch, a_spec


def finish(attempt: Path, measured: list[dict[str, Any]]) -> Outputs:
    """Two ranks that have counted the test split."""
    spec = a_spec()
    finished = []
    for rank, measurements in enumerate(measured):
        context = a_context(spec, rank=rank, world_size=len(measured))
        rows = context.shard("test")
        context.evaluate("test", records=rows.records, predictions=rows.labels)
        finished.append(
            Finished(
                generation=1,
                rank=rank,
                states={"test": context.states["test"].to_bytes()},
                dataset=asdict(context.dataset) if rank == 0 else {},
                has_exported=False,
                measurements=measurements,
            )
        )
    return collect(a_launch("e1", spec=spec), attempt, finished)


def test_measurements_of_rank_0_lie_beside_the_counts_under_their_digest(tmp_path: Path) -> None:
    outputs = finish(tmp_path, [{"energy": ["first"]}, {"energy": ["second"]}])
    assert outputs.evaluation is not None
    file = outputs.evaluation.measurements_file
    assert file is not None
    content = (tmp_path / file.path).read_bytes()
    assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert json.loads(content)["sections"] == {"energy": ["first"]}


def test_without_measurements_a_result_is_as_it_was_before_there_were_any(tmp_path: Path) -> None:
    outputs = finish(tmp_path, [{}, {}])
    assert outputs.evaluation is not None
    assert "measurements_file" not in outputs.evaluation.model_dump(mode="json")
    assert not (tmp_path / "measurements.json").exists()


def test_measurements_that_cannot_be_kept_make_no_valid_result(tmp_path: Path) -> None:
    outputs = finish(tmp_path, [{"weather": 1}])
    assert outputs.evaluation is None
    assert outputs.incomplete is not None
    assert outputs.incomplete.reason == "measurements"


def probed(attempt: Path, *, ranks_that_probe: int) -> Outputs:
    """Two ranks, of which some count what the spec's probe asks for."""
    spec = a_spec(probes={"robustness": [{"method": "noise", "eps": 0.5}]})
    finished = []
    for rank in range(2):
        context = a_context(spec, rank=rank, world_size=2)
        rows = context.shard("test")
        context.evaluate("test", records=rows.records, predictions=rows.labels)
        if rank < ranks_that_probe:
            context.evaluate(
                "test", records=rows.records, predictions=1 - rows.labels, condition="noise_0.5", clean=rows.labels
            )
        states = {name: state.to_bytes() for name, state in context.states.items()}
        dataset = asdict(context.dataset) if rank == 0 else {}
        finished.append(Finished(generation=1, rank=rank, states=states, dataset=dataset, has_exported=False))
    return collect(a_launch("e1", spec=spec), attempt, finished)


def test_counts_under_a_condition_lie_beside_the_main_ones_merged(tmp_path: Path) -> None:
    outputs = probed(tmp_path, ranks_that_probe=2)
    assert outputs.incomplete is None
    assert outputs.evaluation is not None
    (file,) = outputs.evaluation.conditions.values()
    assert file.path == "evaluation.state.noise_0.5"
    main, state = (
        CountState.from_bytes((tmp_path / path).read_bytes())
        for path in (outputs.evaluation.state_file.path, file.path)
    )
    assert state.n == main.n == outputs.evaluation.expected_rows
    assert state.record_xor == main.record_xor
    assert state.counts[:, 0, 0].sum() == state.counts[:, 1, 1].sum() == 0


@pytest.mark.parametrize(("ranks", "words"), [(0, "the workload never counted it"), (1, "probe noise_0.5: ")])
def test_a_probe_that_was_asked_for_and_not_made_ends_as_a_user_error(ranks: int, words: str, tmp_path: Path) -> None:
    outputs = probed(tmp_path, ranks_that_probe=ranks)
    assert outputs.evaluation is None
    assert outputs.incomplete is not None
    assert outputs.incomplete.outcome is Outcome.USER_ERROR
    assert words in outputs.incomplete.detail


def test_what_is_measured_twice_counts_once() -> None:
    context = a_context(a_spec())
    keep_measurement(context, "energy", [1])
    keep_measurement(context, "energy", (2,))
    assert context.measurements == {"energy": [2]}
    with pytest.raises(ValueError, match="no section 'magic'"):
        keep_measurement(context, "magic", [3])


LEFT_OVER = ("a1/answers-3-0.npy", "a2/answers-1-0.npy")
"""Of an attempt before, and of a group before."""


def answered(experiment: Path, *, ranks_that_kept: int, is_whole: bool = True) -> Outputs:
    """Two ranks of the second group of a second attempt, of which some have kept their answers."""
    spec, attempt = a_spec(), experiment / "a2"
    for name in LEFT_OVER:
        (experiment / name).parent.mkdir()
        (experiment / name).write_bytes(b"of nobody any more")
    finished = []
    for rank in range(2):
        context = a_context(spec, rank=rank, world_size=2, keep_answers=True)
        rows = context.shard("test")
        part = slice(None if is_whole else 1)
        context.evaluate("test", records=rows.records[part], predictions=1 - rows.labels[part])
        assert context.answers is not None
        content, path = context.answers.to_bytes(), attempt / f"answers-2-{rank}.npy"
        path.write_bytes(content)
        file = FileEntry(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        finished.append(
            Finished(
                generation=2,
                rank=rank,
                states={"test": context.states["test"].to_bytes()},
                dataset=asdict(context.dataset) if rank == 0 else {},
                has_exported=False,
                answers=file if rank < ranks_that_kept else None,
            )
        )
    return collect(a_launch("e1", spec=spec), attempt, finished[::-1])


def test_answers_of_all_ranks_are_those_that_were_counted(tmp_path: Path) -> None:
    outputs = answered(tmp_path, ranks_that_kept=2)
    assert outputs.evaluation is not None
    assert [file.path for file in outputs.evaluation.answers] == ["answers-2-0.npy", "answers-2-1.npy"]
    attempt = tmp_path / "a2"
    files = [AnswerFile((attempt / file.path).open("rb")) for file in outputs.evaluation.answers]
    state = CountState.from_bytes((attempt / outputs.evaluation.state_file.path).read_bytes())
    found = pair(state, files, files)
    assert found.state is not None
    assert found.num_same == outputs.evaluation.expected_rows
    assert not any((tmp_path / name).exists() for name in LEFT_OVER)


def test_without_the_answers_of_one_rank_there_are_none(tmp_path: Path) -> None:
    outputs = answered(tmp_path, ranks_that_kept=1)
    assert outputs.evaluation is not None
    assert "answers" not in outputs.evaluation.model_dump(mode="json")
    assert not list(tmp_path.rglob("answers-*"))


def test_answers_of_an_attempt_that_proves_nothing_can_be_forgotten(tmp_path: Path) -> None:
    outputs = answered(tmp_path, ranks_that_kept=2, is_whole=False)
    assert (outputs.evaluation, outputs.incomplete is None) == (None, False)
    forget_answers(tmp_path / "a2")
    assert not list(tmp_path.rglob("answers-*"))


@pytest.mark.parametrize("task", ["regression", "ranking"])
def test_ranks_that_count_numbers_or_lists_leave_one_state(tmp_path: Path, task: str) -> None:
    rows = np.arange(600)
    table = {"q": rows // 5, "y": rows % 3, "p": np.sin(rows), "sex": np.where(rows % 2, "F", "M")}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "p.parquet", row_group_size=100)
    columns = {"target": "y", **({"query": "q", "score": "p"} if task == "ranking" else {"prediction": "p"})}
    evaluation = {"task": task, "groupings": [["sex"]]}
    request = {"uri": f"file://{tmp_path}/p.parquet", "columns": columns, "evaluation": evaluation}
    spec = evaluation_request(request).experiment

    def work(own: Ranks) -> Counted | None:
        return count_predictions(
            spec,
            rank=own.number,
            world_size=own.of,
            should_stop=lambda: False,
            report=lambda metrics, step: None,
            gather=own.gather,
        )

    finished = [
        Finished(generation=1, rank=rank, states=part.states, dataset=part.dataset, has_exported=False)
        for rank, part in enumerate(together(3, work))
        if part is not None
    ]
    outputs = collect(a_launch("e1", spec=spec), tmp_path, finished)
    assert outputs.incomplete is None
    assert outputs.evaluation is not None
    state = read_state((tmp_path / outputs.evaluation.state_file.path).read_bytes())
    assert isinstance(state, RankState if task == "ranking" else MomentState)
    assert state.to_bytes() == count(survey([tmp_path / "p.parquet"], spec.of_predictions)).state.to_bytes()
    missing = collect(a_launch("e1", spec=spec), tmp_path, finished[:2])
    assert missing.incomplete is not None

"""Evaluations of predictions on a real Ray: the bytes that the command line finds, and a word for bad data."""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import ray
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.lifecycle import Outcome
from fairlead.protocol import STATE_FILE, LaunchDocument, ResultDocument
from fairlead.run.counting import SURVEYED
from fairlead.spec import EvaluationRequest
from fairlead.testing.attempts import Attempts
from fairlead.testing.ray import a_launch, wait_for

EVALUATE = "{columns: {record_id: id}, evaluation: {groupings: [[sex]]}}"


def a_table(rows: int = 20_000) -> dict[str, Any]:
    random = np.random.default_rng(11)
    label = (random.random(rows) < 0.4).astype(np.int64)
    score = np.clip(0.2 + 0.4 * label + 0.2 * random.normal(size=rows), 0, 1)
    prediction = (score >= 0.5).astype(np.int64)
    return {
        "id": np.arange(rows),
        "label": label,
        "prediction": prediction,
        "score": score,
        "sex": random.choice(["F", "M"], rows),
    }


def written(path: Path, table: dict[str, Any], *, group: int = 3000) -> Path:
    content = pa.table(table)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(content, path)
    else:
        pyarrow.parquet.write_table(content, path, row_group_size=group)
    return path


def a_document(experiment_id: str, uri: str | Path, *, workers: int, **columns: Any) -> LaunchDocument:
    request = EvaluationRequest.model_validate(
        {
            "uri": str(uri),
            "columns": {"record_id": "id", **columns},
            "evaluation": {"groupings": [["sex"]]},
            "resources": {"workers": workers},
        }
    )
    return a_launch(experiment_id, spec=request.experiment)


def run(attempts: Attempts, document: LaunchDocument) -> ResultDocument:
    attempts.start(document)
    return attempts.result(document)


def locally(path: Path, directory: Path) -> bytes:
    spec, state = directory / "spec.yaml", directory / "state"
    spec.write_text(EVALUATE)
    output = str(directory / "report")
    done = CliRunner().invoke(app, ["evaluate", str(path), "--spec", str(spec), "--state", str(state), "-o", output])
    assert done.exit_code == 0, done.output
    return state.read_bytes()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_one_and_two_workers_leave_the_state_of_the_command_line(
    attempts: Attempts, tmp_path: Path, ending: str
) -> None:
    path = written(tmp_path / f"p.{ending}", a_table())
    expected = locally(path, tmp_path)
    for workers in (1, 2):
        document = a_document(f"count-{ending}-{workers}", f"file://{path}", workers=workers)
        result = run(attempts, document)
        assert (result.outcome, result.reason, result.detail) == (Outcome.SUCCEEDED, "completed", "")
        assert (attempts.directory(document) / STATE_FILE).read_bytes() == expected
        assert result.evaluation is not None
        assert (result.evaluation.split, result.evaluation.expected_rows) == ("predictions", 20_000)
        assert result.metrics == {"evaluation/rows_surveyed": 20_000, "evaluation/rows_counted": 20_000}
        assert result.dataset is not None
        assert result.dataset["remarks"][0].startswith("Predictions were made elsewhere")
        assert (result.model, result.dataset["num_by_split"]) == (None, {"predictions": 20_000})


TWICE = np.r_[np.arange(19_999), 5]


@pytest.mark.parametrize(
    ("change", "columns", "named"),
    [
        ({"id": TWICE}, {}, r"'5' \(.*, row 6\) occurs more than once"),
        (
            {"label": np.r_[np.zeros(10_000, int), np.ones(9_999, int), 7]},
            {"classes": ["0", "1"]},
            "is 7, which is none",
        ),
        ({"score": np.r_[np.full(19_999, 0.5), 1.5]}, {}, "row 20000 of 'score' is 1.5"),
        ({}, {"target": "labl"}, "there is no column 'labl'"),
    ],
)
def test_bad_predictions_end_the_attempt_with_their_reason(
    attempts: Attempts, tmp_path: Path, change: dict[str, Any], columns: dict[str, Any], named: str
) -> None:
    path = written(tmp_path / "p.parquet", a_table() | change)
    experiment_id = f"bad-{'-'.join([*change, *columns])}"
    result = run(attempts, a_document(experiment_id, path, workers=2, **columns))
    assert (result.outcome, result.evaluation) == (Outcome.USER_ERROR, None)
    assert result.reason.startswith("bad_data: ")
    assert re.search(named, result.detail)


@pytest.mark.parametrize("content", [None, b""])
def test_a_file_that_is_not_there_or_empty_is_bad_data(
    attempts: Attempts, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "p.parquet"
    if content is not None:
        path.write_bytes(content)
    result = run(attempts, a_document(f"none-{content is None}", path, workers=2))
    assert result.outcome is Outcome.USER_ERROR
    assert result.reason.startswith(
        f"bad_data: {path}: {'nothing is there' if content is None else 'the file is empty'}"
    )


def test_a_worker_that_is_killed_is_started_again_and_the_counts_are_the_same(
    attempts: Attempts, tmp_path: Path
) -> None:
    path = written(tmp_path / "p.csv", a_table(3_000_000))
    document = a_document("killed", path, workers=2)
    runner = attempts.start(document)
    with in_the_middle(attempts, document, runner) as held:
        os.kill(held, signal.SIGKILL)
    result = attempts.result(document, within_s=300)
    assert (result.outcome, result.reason) == (Outcome.SUCCEEDED, "completed")
    assert "worker_group_restarted" in attempts.notes(document)
    assert (attempts.directory(document) / STATE_FILE).read_bytes() == locally(path, tmp_path)


@contextmanager
def in_the_middle(attempts: Attempts, document: LaunchDocument, runner: Any) -> Iterator[int]:
    """Rank 0 has read some rows and cannot end without rank 1, which does nothing meanwhile; the process of rank 1.

    However quick the machine is, not everything is counted before the pause or the death that a test is about.
    """

    def ranks() -> Mapping[int, int] | None:
        pids: Mapping[int, int] = ray.get(runner.status.remote(), timeout=30).worker_pids
        return pids if len(pids) == 2 else None

    pid = wait_for(ranks, within_s=120, what="two ranks")[1]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: attempts.steps(document, SURVEYED), within_s=60, what="a first report")
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_pause_ends_all_ranks_long_before_their_grace(attempts: Attempts, tmp_path: Path) -> None:
    path = written(tmp_path / "p.csv", a_table(3_000_000))
    document = a_document("paused", path, workers=2)
    runner = attempts.start(document)
    with in_the_middle(attempts, document, runner):
        began = time.monotonic()
        assert ray.get(runner.stop.remote("pause", grace_s=300, agent_epoch=1), timeout=30)
    result = attempts.result(document, within_s=200)
    assert (result.outcome, result.reason, result.evaluation) == (Outcome.PREEMPTED, "pause_requested", None)
    assert time.monotonic() - began < 100

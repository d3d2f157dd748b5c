"""What a context counts besides classes: numbers, lists and graded answers; and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from fairlead.data import check, open_dataset
from fairlead.data.context import LocalContext, check_complete
from fairlead.data.samples import MAX_SAMPLE_BYTES, MAX_SAMPLES, Samples, found_samples
from fairlead.errors import BadData, BadInput
from fairlead.evaluation.quantities import merged, number_estimates, number_grouping
from fairlead.spec import DataSpec, ExperimentSpec, MeasureSpec
from fairlead.testing.context import a_context

OVERLAP = MeasureSpec(name="overlap", low=0, high=1)


def spec_of(**data: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"name": "a", "workload": "m:train", "data": data})


@pytest.fixture
def numbers(tmp_path: Path) -> ExperimentSpec:
    random = np.random.RandomState(0)
    frame = pandas.DataFrame({"x": random.normal(size=60), "part": ["a", "b"] * 30})
    frame["y"] = 3 * frame["x"] + 10
    frame.to_csv(tmp_path / "t.csv", index=False)
    return spec_of(uri=str(tmp_path / "t.csv"), target="y", predict="number", features=["x"], sensitive=["part"])


def overall(context: LocalContext, metric: str) -> float:
    return float(number_estimates(metric, number_grouping(context.states["test"])).values[0])  # type: ignore[arg-type]


def test_a_number_is_predicted_and_counted_exactly(numbers: ExperimentSpec) -> None:
    context = a_context(numbers)
    rows = context.shard("test")
    assert (context.dataset.classes, rows.labels.dtype) == ((), np.float64)
    context.evaluate("test", records=rows.records, predictions=rows.labels + 0.5)
    assert check_complete(context.dataset, "test", context.states["test"]) is None
    assert overall(context, "mean_absolute_error") == pytest.approx(0.5)


@pytest.mark.parametrize("world_size", [2, 5])
def test_ranks_grade_together_what_one_grades(numbers: ExperimentSpec, world_size: int) -> None:
    def grade(rank: int, size: int) -> LocalContext:
        context = a_context(numbers, rank=rank, world_size=size)
        rows = context.shard("test")
        context.grade("test", records=rows.records, values=rows.records / 60, measure=OVERLAP)
        return context

    parts = [grade(rank, world_size).states["test"] for rank in range(world_size)]
    assert merged(parts).to_bytes() == grade(0, 1).states["test"].to_bytes()
    assert 0 < overall(grade(0, 1), "mean_quality") < 1


def test_rows_are_ranked_by_query_and_every_row_is_counted_once(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"x": np.arange(40.0), "clicked": ["no", "yes"] * 20})
    frame.to_csv(tmp_path / "t.csv", index=False)
    context = a_context(spec_of(uri=str(tmp_path / "t.csv"), target="clicked"))
    rows = context.shard("test")
    context.rank_rows("test", records=rows.records, queries=rows.records % 2, scores=rows.labels.astype(float))
    assert check_complete(context.dataset, "test", context.states["test"]) is None
    assert overall(context, "ndcg_score") == 1


REFUSED: dict[str, tuple[Callable[[LocalContext, Any], None], str]] = {
    "a value out of range": (
        lambda context, rows: context.grade("test", records=rows.records, values=rows.labels, measure=OVERLAP),
        "must lie between 0 and 1",
    ),
    "an unknown split": (
        lambda context, rows: context.grade("exam", records=rows.records, values=rows.labels, measure=OVERLAP),
        "no split 'exam'",
    ),
    "a prediction far off": (
        lambda context, rows: context.evaluate("test", records=rows.records, predictions=rows.labels + 1e6),
        "must lie between",
    ),
    "a score that is no number": (
        lambda context, rows: context.rank_rows(
            "test", records=rows.records, queries=rows.records, scores=rows.labels * np.nan
        ),
        "finite score",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_counted_is_refused(numbers: ExperimentSpec, case: str) -> None:
    act, words = REFUSED[case]
    context = a_context(numbers)
    with pytest.raises(BadInput, match=words):
        act(context, context.shard("test"))


def test_one_split_is_counted_in_one_way(numbers: ExperimentSpec) -> None:
    context = a_context(numbers)
    rows = context.shard("test")
    context.evaluate("test", records=rows.records[:1], predictions=rows.labels[:1])
    with pytest.raises(BadInput, match="another way"):
        context.grade("test", records=rows.records[1:], values=np.zeros(len(rows) - 1), measure=OVERLAP)


@pytest.mark.parametrize(
    ("values", "words"),
    [(["1", "2", "much"], r"row 3 .*'much', which is no number"), ([1.0, np.inf, 2.0], "row 2 .*not finite")],
)
def test_a_target_that_is_no_number_is_refused_with_its_row(tmp_path: Path, values: list[Any], words: str) -> None:
    pandas.DataFrame({"x": [1.0, 2.0, 3.0], "y": values}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadData, match=words):
        open_dataset(DataSpec(uri=str(tmp_path / "t.csv"), target="y", predict="number"))


@pytest.mark.parametrize(
    ("predict", "task", "words"),
    [("number", "multiclass", "is a number"), ("classes", "regression", "is no number"), ("number", "binary", "two")],
)
def test_a_target_that_does_not_fit_the_task_is_found_before_training(predict: Any, task: Any, words: str) -> None:
    found = check(
        DataSpec(uri="builtin://diabetes", target="s5" if predict == "number" else None, predict=predict), task=task
    )
    assert [problem.pointer for problem in found] == ["/data/predict"]
    assert words in found[0].message


def test_samples_are_kept_under_their_names_and_found_again(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "s")
    samples.keep("epoch-1/a.png", b"1")
    samples.keep("epoch-1/a.png", b"2")
    samples.keep("text.txt", "ä")
    found = {name: path.read_bytes() for name, path in found_samples(tmp_path / "s")}
    assert found == {"epoch-1/a.png": b"2", "text.txt": "ä".encode()}
    assert list(found_samples(tmp_path / "none")) == []


@pytest.mark.parametrize(
    "name", ["/etc/a.png", "../a.png", "a/../b.png", ".hidden.png", "a.exe", "a\n.png", "", "a//b.png", "a\\b.png"]
)
def test_a_sample_whose_name_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="show"):
        Samples(tmp_path).keep(name, b"")
    assert list(tmp_path.iterdir()) == []


def test_samples_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    samples = Samples(None)
    with pytest.raises(BadInput, match="more than"):
        samples.keep("a.wav", bytes(MAX_SAMPLE_BYTES + 1))
    for number in range(MAX_SAMPLES):
        samples.keep(f"{number}.txt", "")
    samples.keep("0.txt", "again")
    with pytest.raises(BadInput, match=f"more than {MAX_SAMPLES}"):
        samples.keep("one-more.txt", "")

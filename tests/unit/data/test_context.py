import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairlead.data.context import KeepingOutlet, check_complete
from fairlead.data.export import read_model
from fairlead.errors import BadInput, NotFound
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context
from fairlead.workload import Context

SPEC = ExperimentSpec.model_validate(
    {
        "name": "a",
        "workload": "tabular_mlp",
        "params": {"epochs": 2},
        "data": {"uri": "builtin://diabetes", "sensitive": ["sex", "age_band"]},
    }
)


def count(context: Context, rows: Any, **changes: Any) -> None:
    given = {"predictions": 1 - rows.labels, "scores": np.full(len(rows), 0.25)} | changes
    context.evaluate("test", records=rows.records, **given)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 133, 140])
def test_any_number_of_ranks_counts_every_row_once_and_the_same(world_size: int) -> None:
    alone = a_context(SPEC)
    count(alone, alone.shard("test"))
    merged = None
    for rank in range(world_size):
        context = a_context(SPEC, rank=rank, world_size=world_size)
        count(context, context.shard("test"))
        state = context.states["test"]
        merged = state if merged is None else merged.merge(state)
    assert merged is not None
    assert check_complete(alone.dataset, "test", merged) is None
    assert merged.to_bytes() == alone.states["test"].to_bytes()


def test_labels_and_groups_are_those_of_the_data_not_of_the_workload() -> None:
    context = a_context(SPEC)
    rows = context.shard("test")
    count(context, rows)
    table = context.states["test"].counts.sum(axis=0)
    assert table[0, 0] == table[1, 1] == 0  # every prediction was wrong on purpose
    assert table[0, 1] == (rows.labels == 0).sum()


@pytest.mark.parametrize("name", ["", "x" * 251, "a\nb", "a\x00", "caf\udce9", 7])
def test_a_metric_that_no_page_could_show_is_refused_where_it_is_reported(name: Any) -> None:
    with pytest.raises(BadInput, match="printable"):
        a_context(SPEC).report({name: 1.0}, step=0)


def test_a_step_beyond_64_bits_is_refused_where_it_is_reported() -> None:
    with pytest.raises(BadInput, match="larger than"):
        a_context(SPEC).report({"loss": 1.0}, step=2**70)


def test_rows_may_be_counted_in_batches() -> None:
    whole, parts = a_context(SPEC), a_context(SPEC)
    rows = whole.shard("test")
    count(whole, rows)
    for start in range(0, len(rows), 50):
        part = type(rows)(*(array[start : start + 50] for array in (rows.records, rows.features, rows.labels)))
        count(parts, part)
    assert whole.states["test"].to_bytes() == parts.states["test"].to_bytes()


@pytest.mark.parametrize("rows", [slice(0, 132), slice(1, 133), [*range(133), 0], [*range(132), 0]])
def test_rows_left_out_or_counted_twice_are_noticed(rows: Any) -> None:
    context = a_context(SPEC)
    records = context.shard("test").records[rows]
    context.evaluate("test", records=records, predictions=np.zeros(len(records), dtype=np.int64))
    incomplete = check_complete(context.dataset, "test", context.states["test"])
    assert incomplete is not None
    assert incomplete.reason == "rows counted twice or not at all"


def test_rows_of_another_split_are_noticed() -> None:
    context = a_context(SPEC)
    records = context.all_rows("train").records[:133]
    context.evaluate("test", records=records, predictions=np.zeros(133, dtype=np.int64))
    assert check_complete(context.dataset, "test", context.states["test"]) is not None


def test_a_workload_that_never_evaluates_is_noticed() -> None:
    incomplete = check_complete(a_context(SPEC).dataset, "test", None)
    assert incomplete is not None
    assert "never called evaluate('test')" in incomplete.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"predictions": np.full(133, 2)},
        {"predictions": np.zeros(132, dtype=np.int64)},
        {"scores": np.full(133, 1.5)},
        {"scores": np.zeros((133, 3))},
    ],
)
def test_predictions_that_cannot_be_counted_are_refused(changes: dict[str, Any]) -> None:
    context = a_context(SPEC)
    with pytest.raises(BadInput, match=r"evaluate\('test'\) cannot count this"):
        count(context, context.shard("test"), **changes)


def test_an_unknown_split_is_refused() -> None:
    context = a_context(SPEC)
    with pytest.raises(BadInput, match="no split 'dev'"):
        context.evaluate("dev", records=np.array([0]), predictions=np.array([0]))


def test_reports_pass_nan_on_and_copy_the_checkpoint(tmp_path: Path) -> None:
    outlet = KeepingOutlet(directory=tmp_path / "kept")
    context = a_context(SPEC, outlet=outlet)
    for step in (1, 2):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "weights").write_text(str(step))
        context.report({"loss": np.float32("nan")}, step=step, checkpoint=tmp_path / "new")
    assert [step for step, _ in outlet.reports] == [1, 2]
    assert np.isnan(outlet.reports[0][1]["loss"])
    assert (tmp_path / "kept" / "weights").read_text() == "2"


@pytest.mark.parametrize("value", ["high", None, [1, 2]])
def test_a_metric_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="metric 'loss' must be a number"):
        a_context(SPEC).report({"loss": value}, step=1)


def test_a_checkpoint_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="must be a directory"):
        a_context(SPEC).report({}, step=1, checkpoint=tmp_path / "file")


def test_ranks_stop_together() -> None:
    heard: list[bool] = []

    def another_rank_was_told(flag: bool) -> bool:
        heard.append(flag)
        return True

    assert a_context(SPEC, agree=another_rank_was_told).should_stop()
    assert heard == [False]


def test_an_exported_model_says_all_that_is_needed_to_use_it(tmp_path: Path) -> None:
    context = a_context(SPEC, export_to=tmp_path / "model")
    context.export({"weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}, config={"mean": [0.1]})
    model = read_model(tmp_path / "model")
    assert model.tensors["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert model.config == {"mean": [0.1]}
    assert model.document["classes"] == ["below", "above"]
    assert model.document["dataset"]["digest"] == context.dataset.digest
    assert [feature["name"] for feature in model.document["features"]][:2] == ["age", "bmi"]
    assert model.document["params"] == {"epochs": 2}


def test_only_rank_zero_writes_the_model(tmp_path: Path) -> None:
    context = a_context(SPEC, rank=1, world_size=2, export_to=tmp_path / "model")
    context.export({}, config={})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("config", [{"x": np.zeros(2)}, {"x": float("nan")}, {"x": {1, 2}}])
def test_a_config_that_is_not_json_leaves_nothing_half_written(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="not JSON"):
        a_context(SPEC, export_to=tmp_path / "model").export({"w": np.zeros(1)}, config=config)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no exported model"):
        read_model(tmp_path)


def test_a_model_of_another_format_is_refused(tmp_path: Path) -> None:
    a_context(SPEC, export_to=tmp_path / "model").export({"w": np.zeros(1)}, config={})
    (tmp_path / "model" / "model.json").write_text(json.dumps({"format": "fairlead-model/9"}))
    with pytest.raises(BadInput, match="format 'fairlead-model/9'"):
        read_model(tmp_path / "model")

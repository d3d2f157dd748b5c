"""What holds for every page: its manifest, its determinism, its checkpoints, its ranks, its exported model."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from fairlead.data import find_manifests, find_specs, open_dataset
from fairlead.data.context import KeepingOutlet, check_complete
from fairlead.data.torch import any_rank, sum_over_ranks
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec, from_yaml
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead_workloads import image_cnn, tabular_mlp

PAGES: dict[str, Any] = {"tabular_mlp": tabular_mlp, "image_cnn": image_cnn}
QUICK: dict[str, dict[str, Any]] = {
    "tabular_mlp": {"epochs": 4},
    "image_cnn": {"epochs": 2, "width": 8, "batch_size": 256},
}
DATA = {"tabular_mlp": {"uri": "builtin://diabetes", "sensitive": ["sex"]}, "image_cnn": {"uri": "builtin://digits"}}


def spec_of(page: str, *, data: dict[str, Any] | None = None, **params: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "name": "a",
            "workload": page,
            "params": QUICK[page] | params,
            "data": data or DATA[page],
            "seed": 3,
        }
    )


@pytest.fixture(params=list(PAGES))
def page(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_manifest_says_what_the_page_reads(page: str) -> None:
    manifest = find_manifests()[page]
    defaults = {field.name: field.default for field in dataclasses.fields(PAGES[page].Settings)}
    declared = {name: parameter.default for name, parameter in manifest.parameters.items()}
    assert declared == {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    assert list(declared) == list(defaults)
    assert manifest.module == f"fairlead_workloads.{page}:train"
    assert manifest.steps == "epochs"


def test_a_page_reports_the_metrics_of_its_manifest_once_an_epoch(page: str) -> None:
    trained = train_here(PAGES[page].train, spec_of(page))
    assert [step for step, _ in trained.reports] == list(range(1, QUICK[page]["epochs"] + 1))
    for _, metrics in trained.reports:
        assert tuple(metrics) == find_manifests()[page].metrics
        assert all(map(math.isfinite, metrics.values()))


def test_every_row_of_the_test_split_is_counted_once_with_scores(page: str) -> None:
    context = a_context(spec_of(page))
    PAGES[page].train(QUICK[page], context)
    state = context.states["test"]
    assert check_complete(context.dataset, "test", state) is None
    assert state.has_scores


def files_of(page: str, directory: Path, **options: Any) -> bytes:
    train_here(PAGES[page].train, spec_of(page), export_to=directory, **options)
    return (directory / "weights.safetensors").read_bytes()


def test_a_seed_gives_the_same_weights_bit_by_bit(page: str, tmp_path: Path) -> None:
    assert files_of(page, tmp_path / "first") == files_of(page, tmp_path / "second")


def test_a_resumed_run_ends_bit_by_bit_like_an_uninterrupted_one(page: str, tmp_path: Path) -> None:
    whole = files_of(page, tmp_path / "whole")
    stopping = KeepingOutlet(directory=tmp_path / "kept", stop_after=1)
    stopped = a_context(spec_of(page), outlet=stopping, export_to=tmp_path / "none")
    PAGES[page].train(QUICK[page], stopped)
    assert not stopped.has_exported
    assert stopped.states == {}
    rest = KeepingOutlet()
    assert files_of(page, tmp_path / "resumed", resume_from=tmp_path / "kept", outlet=rest) == whole
    assert [step for step, _ in rest.reports] == list(range(2, QUICK[page]["epochs"] + 1))


def test_a_run_that_ended_before_its_evaluation_only_evaluates(page: str, tmp_path: Path) -> None:
    outlet = KeepingOutlet(directory=tmp_path / "kept")
    whole = train_here(PAGES[page].train, spec_of(page), outlet=outlet)
    again = train_here(PAGES[page].train, spec_of(page), resume_from=tmp_path / "kept")
    assert again.reports == ()
    assert again.states["test"].to_bytes() == whole.states["test"].to_bytes()


@pytest.mark.parametrize("split", [(0.7, 0.0, 0.3), (1.0, 0.0, 0.0), (0.9, 0.1, 0.0)])
def test_a_page_does_without_a_validation_or_a_test_split(page: str, split: tuple[float, float, float]) -> None:
    shares = dict(zip(("train", "validation", "test"), split, strict=True))
    trained = train_here(PAGES[page].train, spec_of(page, data={**DATA[page], "split": shares}, epochs=1))
    assert ("validation/loss" in trained.reports[0][1]) == (split[1] > 0)
    assert (trained.states["test"].n > 0) == (split[2] > 0)


def test_without_a_validation_split_the_last_epoch_is_exported(page: str, tmp_path: Path) -> None:
    data = {**DATA[page], "split": {"train": 0.7, "validation": 0.0, "test": 0.3}}
    for directory, resume in (("kept", None), ("again", tmp_path / "kept")):
        outlet = KeepingOutlet(directory=tmp_path / directory)
        train_here(PAGES[page].train, spec_of(page, data=data), outlet=outlet, resume_from=resume)
        saved = torch.load(tmp_path / "kept" / "checkpoint.pt", weights_only=True)
        assert all(torch.equal(saved["best"][name], saved["model"][name]) for name in saved["model"])


def test_data_of_the_wrong_kind_are_refused(page: str) -> None:
    other = next(name for name in PAGES if name != page)
    with pytest.raises(BadData, match=f"use {other}"):
        train_here(PAGES[page].train, spec_of(page, data=DATA[other]))


def test_two_ranks_train_the_model_that_one_trains(page: str) -> None:
    # 265 rows in batches of 88 leave one row for the last batch: one rank has none there. Dropout differs between
    # ranks by design, so it is off; what is left is the order of floating-point additions.
    params = {"dropout": 0.0, "batch_size": 88} if page == "tabular_mlp" else {"batch_size": 359}
    spec = spec_of(page, **params)
    one = train_here(PAGES[page].train, spec)
    two = train_on_ranks(f"fairlead_workloads.{page}:train", [spec], ranks=2)[0]
    for (_, alone), (_, together) in zip(one.reports, two.reports, strict=True):
        assert alone == pytest.approx(together, rel=2e-3)
    info = open_dataset(spec.data).info
    assert check_complete(info, "test", two.states["test"]) is None
    assert np.abs(one.states["test"].counts - two.states["test"].counts).sum() <= 0.02 * two.states["test"].n


def test_an_exported_table_model_predicts_from_raw_columns(tmp_path: Path) -> None:
    rows = [(20 + row % 40, "north" if row % 3 else "south", "abc"[row % 3]) for row in range(90)]
    frame = pandas.DataFrame(rows, columns=["age", "city", "kind"])
    frame.to_csv(tmp_path / "t.csv", index=False)
    spec = spec_of("tabular_mlp", data={"uri": str(tmp_path / "t.csv"), "target": "kind"})
    trained = train_here(tabular_mlp.train, spec, export_to=tmp_path / "model")
    predict = tabular_mlp.load(tmp_path / "model")
    test = frame.iloc[open_dataset(spec.data).rows("test").records]
    scores = predict(test[["city", "age"]])
    assert scores.shape == (27, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-9)
    predicted = np.bincount(scores.argmax(axis=1), minlength=3)
    assert predicted.tolist() == trained.states["test"].counts.sum(axis=(0, 1))[:3].tolist()


def test_an_exported_picture_model_predicts_from_raw_pictures(tmp_path: Path) -> None:
    spec = spec_of("image_cnn")
    trained = train_here(image_cnn.train, spec, export_to=tmp_path / "model")
    scores = image_cnn.load(tmp_path / "model")(open_dataset(spec.data).rows("test").features)
    predicted = np.bincount(scores.argmax(axis=1), minlength=10)
    assert predicted.tolist() == trained.states["test"].counts.sum(axis=(0, 1))[:10].tolist()
    assert image_cnn.load(tmp_path / "model")(np.empty((0, 1, 8, 8))).shape == (0, 10)


@pytest.mark.parametrize("hidden", [[], [5], [7, 3]])
def test_any_number_of_hidden_layers_will_do(hidden: list[int]) -> None:
    assert train_here(tabular_mlp.train, spec_of("tabular_mlp", hidden=hidden, epochs=1)).states["test"].n == 133


@pytest.mark.parametrize(("width", "blocks"), [(6, 1), (5, 4)])
def test_any_width_and_number_of_blocks_will_do(width: int, blocks: int) -> None:
    spec = spec_of("image_cnn", width=width, blocks=blocks, epochs=1, batch_size=1078)
    assert train_here(image_cnn.train, spec).states["test"].n == 539


def test_a_shifted_picture_moves_by_whole_pixels_and_repeats_its_edge() -> None:
    picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    moved = image_cnn.shift(picture, np.array([[1, -1]]), 1)
    assert moved.tolist() == [[[[1, 2, 2], [1, 2, 2], [4, 5, 5]]]]
    assert torch.equal(image_cnn.shift(picture, np.array([[0, 0]]), 2), picture)


def test_alone_a_rank_agrees_with_itself() -> None:
    assert (any_rank(True), any_rank(False), sum_over_ranks(1.5, 2)) == (True, False, (1.5, 2))


def test_every_ready_spec_names_a_page() -> None:
    named = {from_yaml(ExperimentSpec, path.read_text()).workload for path in find_specs().values()}
    assert named <= {*find_manifests()}

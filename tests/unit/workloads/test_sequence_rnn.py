"""What is special about the page for series: both tasks, its scaling of windows, its error, its bad input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairlead.data import open_dataset
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead_workloads import sequence_rnn
from fairlead_workloads.checks.sequence_rnn import foretold_by, scaled_error

SIZE: dict[str, Any] = {"outputs": 4, "hidden": 5, "layers": 1}


def spec_of(data: dict[str, Any], **params: Any) -> ExperimentSpec:
    quick = {"hidden": 8, "epochs": 2, "batch_size": 64, **params}
    return ExperimentSpec.model_validate({"name": "a", "workload": "sequence_rnn", "params": quick, "data": data})


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_what_is_foretold_follows_the_level_and_the_size_of_a_window(cell: str) -> None:
    torch.manual_seed(0)
    model = sequence_rnn.RecurrentNet(mean=[3.0], std=[2.0], cell=cell, foretells=True, **SIZE)
    window = np.random.RandomState(0).standard_normal((2, 20, 1)).astype(np.float32)
    raised = sequence_rnn.answer(model, window + 100)
    assert raised == pytest.approx(sequence_rnn.answer(model, window) + 100, abs=1e-3)
    flat = sequence_rnn.answer(model, np.full((1, 20, 1), 7.0, np.float32))
    assert np.abs(flat - 7).max() < 0.1, "a window without a change goes on without one"


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_rank_without_rows_takes_part_with_a_gradient_of_zero(cell: str) -> None:
    model = sequence_rnn.RecurrentNet(mean=[0.0], std=[1.0], cell=cell, foretells=True, **SIZE)
    model(torch.zeros(0, 20, 1)).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_the_error_of_a_window_is_a_multiple_of_the_error_of_repeating() -> None:
    wanted = {"future": torch.tensor([[1.0, 2.0], [0.0, 0.0]]), "scale": torch.tensor([2.0, 0.5])}
    losses = sequence_rnn.losses_of(torch.tensor([[2.0, 5.0], [0.0, 1.0]]), wanted)
    assert losses.tolist() == [1.0, 1.0]  # means of (1, 3) and of (0, 1), over 2 and over a half


def test_classes_are_counted_with_probabilities_and_a_saved_model_gives_them_again(tmp_path: Path) -> None:
    spec = spec_of({"uri": "builtin://cylinder_bell_funnel?rows=300"}, epochs=12, hidden=16, lr=0.02, batch_size=32)
    trained = train_here(sequence_rnn.train, spec, export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    table = trained.states["test"].counts.sum(axis=0)  # type: ignore[union-attr]
    assert np.trace(table) / table.sum() > 0.6, "a third would be chance"
    rows = open_dataset(spec.data).rows("test")
    scores = sequence_rnn.load(tmp_path / "model")(rows.features)
    assert (scores.argmax(axis=1) == rows.labels).sum() == np.trace(table)
    assert "taken for" in (tmp_path / "samples" / "test.svg").read_text()


def test_a_saved_model_foretells(tmp_path: Path) -> None:
    windows = {"time": "month", "series": "station", "steps": 24, "horizon": 6, "season": 12}
    spec = spec_of({"uri": "builtin://cycles?stations=2&months=300", "windows": windows}, cell="lstm")
    trained = train_here(sequence_rnn.train, spec, export_to=tmp_path / "model")
    rows = open_dataset(spec.data).rows("test")
    future = sequence_rnn.load(tmp_path / "model")(rows.features)
    errors = np.abs(future - rows.targets["future"]).mean(axis=1) / rows.targets["scale"]
    assert trained.states["test"].book.n == len(errors)  # type: ignore[union-attr]
    assert errors.mean() < 1.5


def test_forms_are_learnt_alike_on_two_ranks() -> None:
    spec = spec_of({"uri": "builtin://cylinder_bell_funnel?rows=150"})
    one = train_here(sequence_rnn.train, spec)
    two = train_on_ranks("fairlead_workloads.sequence_rnn:train", [spec], ranks=2)[0]
    assert one.reports[-1][1] == pytest.approx(two.reports[-1][1], rel=2e-3)


def test_fewer_rows_than_a_batch_are_refused() -> None:
    spec = spec_of({"uri": "builtin://cylinder_bell_funnel?rows=100"}, batch_size=61)
    with pytest.raises(BadData, match="60 rows of the train split are fewer than one batch of 61 over 1 ranks"):
        sequence_rnn.train(spec.params | {"cell": "gru"}, a_context(spec))


def test_the_autoregression_of_the_check_is_that_of_statsmodels() -> None:
    from statsmodels.tsa.ar_model import AutoReg

    from fairlead.data.builtin.series import cycles

    windows = {"time": "month", "series": "station", "steps": 48, "horizon": 12, "season": 12}
    data = {"uri": "builtin://cycles?stations=3&months=300", "windows": windows}
    dataset = open_dataset(spec_of(data).data)
    records = dataset.rows("test").records[[0, -1]]
    values = cycles(stations=3, months=300).columns["value"].reshape(3, 300)
    known = int((dataset.by_split["train"] % 241).max()) + 60
    for record, foretold in zip(records, foretold_by(12, dataset, records), strict=True):
        station, month = record // 241, record % 241 + 48
        fitted = AutoReg(values[station, :known], lags=12, trend="ct").fit()
        extended = AutoReg(values[station, :month], lags=12, trend="ct").predict(fitted.params, month, month + 11)
        assert foretold == pytest.approx(extended, rel=1e-4)
    perfect = dataset.rows("test").targets["future"].astype(np.float64)
    assert scaled_error(perfect, dataset) == 0.0

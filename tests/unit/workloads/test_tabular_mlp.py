"""What ``tabular_mlp`` offers beside its defaults: losses, optimizers, schedules, rare classes, numbers, early ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.metrics import log_loss

from fairlead.data.context import KeepingOutlet
from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context, train_here
from fairlead_workloads import tabular_mlp

NO_VALIDATION = {"uri": "builtin://diabetes", "split": {"train": 0.7, "validation": 0, "test": 0.3}}
NUMBER = {"uri": "builtin://diabetes", "target": "progression", "predict": "number"}


def spec_of(data: dict[str, Any] | None = None, **params: Any) -> ExperimentSpec:
    data = data or {"uri": "builtin://diabetes"}
    return ExperimentSpec.model_validate(
        {"name": "a", "workload": "tabular_mlp", "params": {"epochs": 3, **params}, "data": data, "seed": 1}
    )


CHOICES: list[dict[str, Any]] = [
    *({"activation": name} for name in tabular_mlp.ACTIVATIONS),
    *({"optimizer": name, "weight_decay": 0.01} for name in ("sgd", "momentum", "adam", "adamw")),
    *({"schedule": name} for name in ("constant", "cosine", "warmup_cosine", "one_cycle")),
    *({"imbalance": name} for name in ("weights", "oversample")),
    {"loss": "focal"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_choice_learns_something_of_its_own(choice: dict[str, Any]) -> None:
    trained, plain = (train_here(tabular_mlp.train, spec_of(**params)) for params in (choice, {}))
    losses = [metrics["train/loss"] for _, metrics in trained.reports]
    assert losses[-1] < losses[0]
    defaults = ({"activation": "gelu"}, {"schedule": "constant"}, {"optimizer": "adamw", "weight_decay": 0.01})
    if choice not in defaults:
        assert losses != [metrics["train/loss"] for _, metrics in plain.reports]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_number_is_learnt_exported_and_predicted(loss: str, tmp_path: Path) -> None:
    spec = spec_of(NUMBER, loss=loss, epochs=20)
    trained = train_here(tabular_mlp.train, spec, export_to=tmp_path)
    errors = [metrics["validation/mean_absolute_error"] for _, metrics in trained.reports]
    assert errors[-1] < errors[0]
    rows = a_context(spec).all_rows("test")
    predicted = tabular_mlp.load(tmp_path)(rows.features)
    assert predicted.shape == (len(rows),)
    assert np.corrcoef(predicted, rows.labels)[0, 1] > 0.6


def test_losses_are_those_of_the_books() -> None:
    logits, labels = torch.randn(50, 3, dtype=torch.float64), torch.arange(50) % 3
    chances = torch.softmax(logits, dim=1)
    plain = tabular_mlp.losses_of(logits, labels, "auto", (0, 1))
    assert float(plain.mean()) == pytest.approx(log_loss(labels.numpy(), chances.numpy()))
    right = chances[torch.arange(50), labels]
    focal = tabular_mlp.losses_of(logits, labels, "focal", (0, 1))
    torch.testing.assert_close(focal, -((1 - right) ** 2) * torch.log(right))


def test_rare_classes_weigh_and_are_drawn_as_much_as_others() -> None:
    rows = a_context(spec_of({"uri": "builtin://fraud?rows=5000"})).all_rows("train")
    settings = tabular_mlp.Settings(imbalance="weights")
    weights = tabular_mlp.class_weights(rows, 2, settings).numpy()
    assert weights[rows.labels == 1].sum() == pytest.approx(weights[rows.labels == 0].sum(), rel=1e-5)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    drawn = tabular_mlp.draw_rows(rows, 2, tabular_mlp.Settings(imbalance="oversample"), seed=0, epoch=1)
    assert 0.45 < rows.labels[drawn].mean() < 0.55


def test_it_ends_early_where_nothing_gets_better_and_resumed_it_ends_there_as_well(tmp_path: Path) -> None:
    spec = spec_of(lr=0.5, patience=2, epochs=50)
    whole = train_here(tabular_mlp.train, spec, export_to=tmp_path / "whole")
    steps = [step for step, _ in whole.reports]
    losses = [metrics["validation/loss"] for _, metrics in whole.reports]
    assert len(steps) < 50
    assert steps[-1] - steps[int(np.argmin(losses))] == 2
    outlet = KeepingOutlet(directory=tmp_path / "kept", stop_after=len(steps) - 1)
    train_here(tabular_mlp.train, spec, outlet=outlet)
    rest = KeepingOutlet()
    train_here(tabular_mlp.train, spec, outlet=rest, resume_from=tmp_path / "kept", export_to=tmp_path / "rest")
    assert [step for step, _ in rest.reports] == steps[-1:]
    weights = [(tmp_path / place / "weights.safetensors").read_bytes() for place in ("whole", "rest")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("data", "params", "words"),
    [
        (None, {"loss": "mse"}, "has classes; take cross_entropy or focal"),
        (NUMBER, {"loss": "focal"}, "is a number; take mse or huber"),
        (NUMBER, {"imbalance": "weights"}, "about classes"),
        (
            {"uri": "builtin://diabetes", "split": {"train": 0.7, "validation": 0, "test": 0.3}},
            {"patience": 3},
            "when to stop",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(data: Any, params: dict[str, Any], words: str) -> None:
    outlet = KeepingOutlet()
    with pytest.raises(BadInput, match=words):
        train_here(tabular_mlp.train, spec_of(data, **params), outlet=outlet)
    assert outlet.reports == []


def test_a_column_that_is_missing_while_predicting_is_named(tmp_path: Path) -> None:
    train_here(tabular_mlp.train, spec_of(NUMBER, epochs=1), export_to=tmp_path)
    with pytest.raises(ValueError, match="bmi"):
        tabular_mlp.load(tmp_path)(pandas.DataFrame({"age": [50.0]}))

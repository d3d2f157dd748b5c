"""Where a network may begin, what then learns, and starts that are none."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fairlead.checking import ready_spec
from fairlead.data import open_dataset
from fairlead.data.export import read_model
from fairlead.data.manifests import find_manifest
from fairlead.errors import BadData, BadInput, FairleadError
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import Trained, a_context, train_here
from fairlead_workloads import image_cnn, transfer

QUICK: dict[str, Any] = {"epochs": 3, "thaw_epoch": 2, "source_epochs": 1, "width": 4}


def quick(**params: Any) -> ExperimentSpec:
    chosen = find_manifest("transfer").with_defaults(QUICK | params)
    data = ready_spec("digits_transfer").data.model_dump()
    return ExperimentSpec.model_validate({"name": "a", "workload": "transfer", "params": chosen, "data": data})


def trained_cnn(directory: Path) -> Path:
    data = {"uri": "builtin://digits?first=0&last=4"}
    params = find_manifest("image_cnn").with_defaults({"epochs": 1, "width": 4, "batch_size": 256})
    spec = ExperimentSpec.model_validate({"name": "a", "workload": "image_cnn", "params": params, "data": data})
    train_here(image_cnn.train, spec, export_to=directory)
    return directory


def bodies(one: Path, other: Path, prefix: str = "maps.") -> list[bool]:
    first, second = read_model(one).tensors, read_model(other).tensors
    return [np.array_equal(first[name], second[name]) for name in first if name.startswith(prefix)]


def test_a_frozen_body_is_that_of_the_start_and_a_thawed_one_has_moved_on(tmp_path: Path) -> None:
    start = trained_cnn(tmp_path / "start")
    for method in ("freeze", "thaw"):
        train_here(transfer.train, quick(start=str(start), method=method), export_to=tmp_path / method)
    assert all(bodies(start, tmp_path / "freeze"))
    assert not any(bodies(start, tmp_path / "thaw"))


def weights_that_learn(trained: Trained) -> list[float]:
    return [metrics["train/weights"] for _, metrics in trained.reports]


def test_lora_learns_few_weights_and_exports_a_plain_network(tmp_path: Path) -> None:
    start = trained_cnn(tmp_path / "start")
    spec = quick(start=str(start), method="lora", lora_rank=1, lr=1e-2)
    lora = train_here(transfer.train, spec, export_to=tmp_path / "lora")
    thaw = train_here(transfer.train, quick(start=str(start)))
    assert weights_that_learn(lora)[0] < weights_that_learn(thaw)[-1]
    assert weights_that_learn(thaw)[0] < weights_that_learn(lora)[0]  # the head alone
    before, after = read_model(start).tensors, read_model(tmp_path / "lora").tensors
    assert set(before) == set(after)
    kernel = "maps.2.body.0.weight"
    change = (after[kernel] - before[kernel]).reshape(len(after[kernel]), -1)
    assert np.abs(change).max() > 0
    assert np.linalg.matrix_rank(change, tol=1e-6) <= 3  # one a row of a kernel of 3 x 3, as convolutions go
    test = open_dataset(spec.data).rows("test")
    predicted = np.bincount(transfer.load(tmp_path / "lora")(test.features).argmax(axis=1), minlength=5)
    assert predicted.tolist() == lora.states["test"].counts.sum(axis=(0, 1))[:5].tolist()


def a_vision_transformer(directory: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    ViTForImageClassification(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("method", ["freeze", "lora"])
def test_a_model_of_hugging_face_is_a_start_wherever_it_lies(tmp_path: Path, method: str) -> None:
    start = a_vision_transformer(tmp_path / "vit")
    spec = quick(start=str(start), method=method, epochs=1)
    trained = train_here(transfer.train, spec, export_to=tmp_path / "model")
    predict = transfer.load(tmp_path / "model")  # needs nothing of the start any more
    scores = predict(open_dataset(spec.data).rows("test").features)
    predicted = np.bincount(scores.argmax(axis=1), minlength=5)
    assert predicted.tolist() == trained.states["test"].counts.sum(axis=(0, 1))[:5].tolist()


def test_the_head_begins_as_the_logistic_regression_of_the_features() -> None:
    context = a_context(quick())
    rows = context.all_rows("train")
    mean, std = image_cnn.scale_of(rows.features)
    torch.manual_seed(0)
    model = image_cnn.ConvolutionalNet(mean=mean, std=std, width=4, blocks=2, classes=5)
    with torch.no_grad():
        scaled = (torch.from_numpy(rows.features) - model.mean) / model.std
        features = model.maps(scaled).mean(dim=(2, 3)).double().numpy()
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    theirs = LogisticRegression(max_iter=1000).fit(features, rows.labels).predict_proba(features)
    transfer.fit_head(model, rows)
    assert np.allclose(transfer.probabilities(model, rows.features), theirs, atol=1e-3)


def test_as_many_labels_a_class_are_used_as_asked_for() -> None:
    context = a_context(quick())
    rows = transfer.some_of(context.all_rows("train"), 7, context)
    assert np.bincount(rows.labels).tolist() == [7] * 5
    assert len(transfer.some_of(context.all_rows("train"), 0, context)) == context.dataset.num_by_split["train"]


def not_a_model(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "no such"}))
    return directory


def of_another_workload(directory: Path) -> Path:
    trained_cnn(directory)
    document = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps(document | {"workload": "tabular_mlp"}))
    return directory


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ({"labels_per_class": 5000}, BadData, r"has \d+ of class '5', and labels_per_class asks for 5000"),
        ({"start": "nowhere"}, FairleadError, "nowhere holds no exported model"),
        ({"start": not_a_model}, BadInput, "holds no image classifier that transformers can read"),
        ({"start": of_another_workload}, BadInput, "is a model of tabular_mlp"),
        ({"source": "builtin://diabetes"}, BadData, "this workload needs images"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_training(
    tmp_path: Path, params: dict[str, Any], kind: type[FairleadError], words: str
) -> None:
    made = {name: str(value(tmp_path / "m")) if callable(value) else value for name, value in params.items()}
    with pytest.raises(kind, match=words):
        train_here(transfer.train, quick(**made))

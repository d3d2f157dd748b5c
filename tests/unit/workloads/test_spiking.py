"""Spiking neurons against the equation they come from, and codes that no rank and no run changes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fairlead.checking import ready_spec
from fairlead.data import open_dataset
from fairlead.data.manifests import find_manifest
from fairlead.errors import BadData
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import train_here
from fairlead_workloads import spiking

QUICK = {"epochs": 1, "time_steps": 6, "hidden": 16, "batch_size": 256}


def quick(**data: object) -> ExperimentSpec:
    given = data or ready_spec("digits_spiking").data.model_dump()
    params = find_manifest("spiking").with_defaults(QUICK)
    return ExperimentSpec.model_validate({"name": "a", "workload": "spiking", "params": params, "data": given})


def test_neurons_leak_add_up_fire_above_one_and_lose_one() -> None:
    """The same by hand. snntorch takes the 1 off in the step after the spike."""
    leak, currents = 0.8, np.random.RandomState(0).uniform(-0.2, 0.9, size=(30, 2, 3)).astype(np.float32)
    model = spiking.SpikingNet(inputs=1, hidden=3, classes=2, leak=leak, slope=10.0)
    sent = spiking.fire(model.neurons[0], torch.from_numpy(currents)).numpy()
    potential = np.zeros((2, 3), np.float32)
    for moment, current in enumerate(currents):
        potential = leak * potential + current - (potential > 1)
        assert np.array_equal(sent[moment], potential > 1), moment
    assert 0 < sent.mean() < 1


def test_a_spike_has_the_gradient_of_a_fast_sigmoid() -> None:
    model = spiking.SpikingNet(inputs=1, hidden=4, classes=2, leak=0.5, slope=10.0)
    current = torch.tensor([[[0.2, 0.9, 1.0, 1.7]]], requires_grad=True)
    spiking.fire(model.neurons[0], current).sum().backward()
    assert current.grad is not None
    assert torch.allclose(current.grad, 1 / (1 + 10 * (current - 1).abs()) ** 2)


def test_rates_of_spikes_are_the_brightness_of_pixels() -> None:
    chances = spiking.draw_chances(200, (500, 3), (1, 2, 3))
    rates = (np.array([0.0, 0.25, 1.0]) > chances).mean(axis=(0, 1))
    assert rates == pytest.approx([0, 0.25, 1], abs=0.01)
    assert np.array_equal(chances, spiking.draw_chances(200, (500, 3), (1, 2, 3)))


def test_an_exported_model_answers_what_was_counted_and_shows_its_spikes(tmp_path: Path) -> None:
    trained = train_here(spiking.train, quick(), export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    predict = spiking.load(tmp_path / "model")
    scores = predict(open_dataset(quick().data).rows("test").features)
    predicted = np.bincount(scores.argmax(axis=1), minlength=10)
    assert predicted.tolist() == trained.states["test"].counts.sum(axis=(0, 1))[:10].tolist()
    assert predict(np.empty((0, 1, 8, 8))).shape == (0, 10)
    shown = {path.name for path in (tmp_path / "samples").iterdir()}
    assert shown == {"mistakes.png", "spikes_per_inference.json", "raster-1.png", "raster-2.png", "raster-3.png"}


def test_spikes_that_cost_become_fewer() -> None:
    few, many = (
        train_here(spiking.train, spec.amended(params={**spec.params, "epochs": 3, "spike_cost": cost}))
        for spec, cost in ((quick(), 0.2), (quick(), 0.0))
    )
    assert few.reports[-1][1]["train/spikes"] < 0.7 * many.reports[-1][1]["train/spikes"]


def test_pictures_without_any_ink_are_refused_before_training(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            Image.new("L", (4, 4), 0).save(tmp_path / name / f"{number}.png")
    with pytest.raises(BadData, match=r"coded by rates of spikes, and every pixel of the train split is 0"):
        train_here(spiking.train, quick(uri=str(tmp_path)))

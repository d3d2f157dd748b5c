"""What is special about ``autoencoder``: its formulas, its variants, what it may learn from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fairlead.checking import ready_spec, train_once
from fairlead.errors import BadData
from fairlead_workloads import autoencoder

QUICK = {"epochs": 5, "width": 32}


def test_the_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.randn(7, 3), torch.randn(7, 3)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(3), torch.ones(3))).sum(dim=1)
    torch.testing.assert_close(autoencoder.divergence(mean, log_variance), expected)


def test_suspicion_keeps_the_order_of_errors_and_is_a_half_at_a_suspect() -> None:
    scores = autoencoder.suspicion(np.array([0.0, 0.1, 0.2, 5.0]), 0.2)
    assert scores[2] == 0.5
    assert (np.diff(scores) > 0).all()
    assert scores.max() < 1


@pytest.mark.parametrize("variant", ["plain", "denoising", "variational"])
def test_every_variant_learns_and_predicts_what_was_counted(variant: str, tmp_path: Path) -> None:
    spec = ready_spec("digit_anomalies", params={**QUICK, "variant": variant})
    trained = train_once(autoencoder.train, spec, export_to=tmp_path / "model", samples_to=tmp_path / "samples")
    errors = [metrics["validation/reconstruction"] for _, metrics in trained.reports]
    assert errors[-1] < errors[0]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"codes.png", "reconstructions.png"}
    rows = trained.context.all_rows("test")
    scores = autoencoder.load(tmp_path / "model")(rows.features)
    state: Any = trained.test
    said = np.bincount(2 * rows.labels + (scores >= 0.5), minlength=4)
    assert said.tolist() == state.counts.sum(axis=0)[:, :2].ravel().tolist()


def test_noise_and_draws_are_of_their_variant_alone() -> None:
    pixels = torch.zeros(4, 6)
    for variant, noisy, drawn in (("plain", False, False), ("denoising", True, False), ("variational", False, True)):
        settings = autoencoder.Settings(variant=variant)
        noise, codes = (autoencoder.draw_for(settings, kind, pixels, seed=0, epoch=1) for kind in ("noise", "code"))
        assert (noise.any().item(), codes.any().item()) == (noisy, drawn)


@pytest.mark.parametrize(
    ("data", "params", "words"),
    [
        ({"uri": "builtin://digits", "target": None}, {}, "10 classes"),
        ({"split": {"train": 0.01, "validation": 0.0, "test": 0.99}}, {"code": 20}, "fewer than code"),
    ],
)
def test_what_it_cannot_learn_from_is_refused_before_training(data: Any, params: Any, words: str) -> None:
    with pytest.raises(BadData, match=words):
        train_once(autoencoder.train, ready_spec("digit_anomalies", params=QUICK | params, data=data))

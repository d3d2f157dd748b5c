"""The contrastive loss against the published equation, exact on any number of ranks; and who keeps a label."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec
from fairlead.data import Batch
from fairlead.data.manifests import find_manifest
from fairlead.errors import BadInput
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context, train_here, train_on_ranks
from fairlead_workloads import contrastive

QUICK: dict[str, Any] = {"epochs": 2, "tuning_epochs": 1, "width": 4, "blocks": 2, "batch_size": 359}


def quick(**params: Any) -> ExperimentSpec:
    chosen = find_manifest("contrastive").with_defaults(QUICK | params)
    data = ready_spec("digits_few_labels").data.model_dump()
    return ExperimentSpec.model_validate({"name": "a", "workload": "contrastive", "params": chosen, "data": data})


def test_the_loss_is_that_of_the_paper() -> None:
    """Equation 1 of Chen et al. 2020, term by term."""
    torch.manual_seed(0)
    rows, temperature = 5, 0.3
    directions = torch.nn.functional.normalize(torch.randn(2 * rows, 4), dim=1)
    terms = []
    for one in range(2 * rows):
        other = (one + rows) % (2 * rows)
        likeness = [math.exp(float(directions[one] @ directions[each]) / temperature) for each in range(2 * rows)]
        terms.append(-math.log(likeness[other] / (sum(likeness) - likeness[one])))
    batch = Batch(positions=np.arange(rows), num_global=rows, world_size=1)
    found = contrastive.contrast(directions, batch, rank=0, temperature=temperature)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_each_class_keeps_its_share_of_labels_and_one_at_least() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 3])
    keeps = contrastive.draw_labelled(labels, 0.05, seed=1)
    assert np.bincount(labels[keeps]).tolist() == [5, 2, 1]
    assert not np.array_equal(keeps, contrastive.draw_labelled(labels, 0.05, seed=2))


def test_an_epoch_has_as_many_rows_whatever_the_network_is_sure_of() -> None:
    labelled = np.arange(100) < 5
    for sure in (0, 30, 95):
        usable = labelled | (np.arange(100) >= 100 - sure)
        used = contrastive.as_many(labelled, usable, seed=(1, 2))
        assert len(used) == 100
        assert (used >= 5).sum() == min(sure, 75)
        assert set(range(5)) <= set(used.tolist())


def test_views_differ_in_light_and_noise_and_not_by_whose_they_are() -> None:
    settings = contrastive.Settings(light=0.5, noise=0.8)
    views, std = torch.ones(2, 300, 1, 4, 4), torch.tensor([[[2.0]]])
    whole = Batch(positions=np.arange(300), num_global=300, world_size=1)
    found = contrastive.lit(views, whole, settings, std=std, seed=(1, 2), rank=0)
    light = found.mean(dim=(2, 3, 4))
    assert float(found.var(dim=(2, 3, 4)).mean()) == pytest.approx((0.8 * 2) ** 2, rel=0.05)
    assert float(light.mean()) == pytest.approx(1, abs=0.05)
    assert float(light.var()) == pytest.approx(1 / 12 + 1.6**2 / 16, rel=0.2)  # of a uniform, and of 16 pixels' noise
    assert not torch.equal(found[0], found[1])
    parts = [
        contrastive.lit(views[:, first:last], Batch(positions=np.arange(first, last), num_global=300, world_size=2),
                        settings, std=std, seed=(1, 2), rank=rank)
        for rank, (first, last) in enumerate([(0, 150), (150, 300)])
    ]  # fmt: skip
    assert torch.equal(torch.cat(parts, dim=1), found)
    alone = contrastive.lit(views, whole, contrastive.Settings(light=0.0, noise=0.0), std=std, seed=(1, 2), rank=0)
    assert torch.equal(alone, views)


@pytest.mark.parametrize("method", ["pseudo_labels", "both", "supervised"])
def test_every_other_method_too_is_the_same_on_two_ranks(method: str) -> None:
    spec = quick(method=method, sure=0.2)
    one = train_here(contrastive.train, spec)
    two = train_on_ranks("fairlead_workloads.contrastive:train", [spec], ranks=2)[0]
    for (_, alone), (_, together) in zip(one.reports, two.reports, strict=True):
        assert alone == pytest.approx(together, rel=5e-3, abs=5e-3)


def test_the_true_labels_of_the_other_rows_are_never_learnt_from() -> None:
    context = a_context(quick())
    rows = context.all_rows("train")
    labelled = contrastive.draw_labelled(rows.labels, 0.05, seed=0)
    mean, std = contrastive.scale_of(rows.features)
    net = contrastive.ConvolutionalNet(mean=mean, std=std, width=4, blocks=2, classes=10)
    settings = contrastive.Settings(sure=0.0)
    labels, usable = contrastive.with_own_labels(net, rows, labelled, settings, context, epoch=1)
    assert usable.all()
    assert np.array_equal(labels[labelled], rows.labels[labelled])
    assert (labels[~labelled] == rows.labels[~labelled]).mean() < 0.5  # an untrained network guesses


def test_more_tuning_than_epochs_is_refused() -> None:
    with pytest.raises(BadInput, match="tuning_epochs are the last of 2 epochs, not 3"):
        train_here(contrastive.train, quick(tuning_epochs=3))

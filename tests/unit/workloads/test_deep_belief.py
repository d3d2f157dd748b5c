"""What is special about ``deep_belief``: its machines against their definition, labels that are few, its samples."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from fairlead.checking import ready_spec, train_once
from fairlead.errors import BadData
from fairlead_workloads import deep_belief

QUICK = {"hidden": [16, 8], "pretrain_epochs": 3, "epochs": 2, "batch_size": 256}


def test_units_are_as_likely_as_the_energy_says() -> None:
    """Every pair of visible and hidden units of a small machine, weighed by exp(-energy)."""
    torch.manual_seed(0)
    machine = deep_belief.Machine(3, 2)
    for part in machine.parameters():
        torch.nn.init.normal_(part)
    shown = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    hidden = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
    likely = torch.exp(
        shown @ machine.weights @ hidden.T + (shown @ machine.visible_bias)[:, None] + hidden @ machine.hidden_bias
    )
    given_shown = (likely @ hidden) / likely.sum(dim=1, keepdim=True)
    given_hidden = (likely.T @ shown) / likely.T.sum(dim=1, keepdim=True)
    torch.testing.assert_close(machine.up(shown), given_shown)
    torch.testing.assert_close(machine.down(hidden), given_hidden)


def test_pre_training_brings_each_machine_nearer_to_what_lies_below_it(tmp_path: Path) -> None:
    spec = ready_spec("digits_deep_belief", params=QUICK)
    trained = train_once(deep_belief.train, spec, samples_to=tmp_path)
    for layer in (1, 2):
        key = f"pretrain/reconstruction_{layer}"
        found = [metrics[key] for _, metrics in trained.reports if key in metrics]
        assert len(found) == 3
        assert found[-1] < found[0]
    assert {path.name for path in tmp_path.iterdir()} == {"dreams.png", "filters.png", "mistakes.png"}


def test_few_labels_are_so_many_of_each_class_and_go_with_the_seed() -> None:
    spec = ready_spec("digits_deep_belief", params=QUICK)
    context = train_once(deep_belief.train, spec.amended(params={**QUICK, "labels_per_class": 3})).context
    rows, settings = context.all_rows("train"), deep_belief.Settings(labels_per_class=3)
    chosen = deep_belief.labelled(rows, settings, context)
    assert np.bincount(rows.labels[chosen]).tolist() == [3] * 10
    assert np.array_equal(chosen, deep_belief.labelled(rows, settings, context))
    with pytest.raises(BadData, match="lower labels_per_class"):
        deep_belief.labelled(rows, deep_belief.Settings(labels_per_class=1000), context)

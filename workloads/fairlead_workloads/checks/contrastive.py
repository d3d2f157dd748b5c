"""What unlabelled digits must be worth to ``contrastive``, against training with the few labels alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import contrastive

METHODS = ("simclr", "pseudo_labels", "supervised")


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split by method: the same split, the same labels, as many steps."""
    methods = ("simclr", "supervised") if is_short else METHODS
    short = {"epochs": 10, "tuning_epochs": 4} if is_short else {}
    return {method: accuracy(seed, method=method, **short) for method in methods}


def accuracy(seed: int, **params: object) -> float:
    """Share of hits of one training."""
    state = train_once(contrastive.train, ready_spec("digits_few_labels", seed=seed, params=params)).test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="simclr", baseline="supervised", require=">= 0.05"),
        Bar(value="pseudo_labels", baseline="supervised", require=">= 0.05"),
    ),
    short_bars=(Bar(value="simclr", require=">= 0.6"),),
    quick={"params": {"epochs": 3, "tuning_epochs": 1, "width": 8, "batch_size": 256}},
)

"""What unlabelled digits must be worth to ``contrastive``, against training with the few labels alone.

Twice: against the labelled pictures as they are, and against the same moved and turned anew in every epoch, as the two
methods move them. The second knows from outside what a digit may look like, which is most of what can be known.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import contrastive

WAYS: Mapping[str, Mapping[str, object]] = {
    "simclr": {"method": "simclr"},
    "pseudo_labels": {"method": "pseudo_labels", "tuning_epochs": 24},
    "as_they_are": {"method": "supervised", "shift": 0.0, "turn": 0.0, "stretch": 0.0},
    "moved": {"method": "supervised"},
}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split by way of training: the same split, the same labels, as many steps."""
    if is_short:
        return {"simclr": accuracy(seed, method="simclr", epochs=10, tuning_epochs=4)}
    return {way: accuracy(seed, **params) for way, params in WAYS.items()}


def accuracy(seed: int, **params: object) -> float:
    """Share of hits of one training."""
    state = train_once(contrastive.train, ready_spec("digits_few_labels", seed=seed, params=params)).test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="simclr", baseline="as_they_are", require=">= 0.05"),
        Bar(value="pseudo_labels", baseline="as_they_are", require=">= 0.05"),
        Bar(value="simclr", baseline="moved", require=">= 0"),
        Bar(value="pseudo_labels", baseline="moved", require=">= 0"),
    ),
    short_bars=(Bar(value="simclr", require=">= 0.6"),),
    quick={"params": {"epochs": 3, "tuning_epochs": 1, "width": 8, "batch_size": 256}},
)

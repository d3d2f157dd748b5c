"""How good ``deep_belief`` must be: with all labels, and with ten of each class, beside the same without a past."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import deep_belief

FEW = {"labels_per_class": 10, "epochs": 60, "batch_size": 20}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Test accuracy with all labels; with ten of each class, pre-trained and not."""
    if is_short:
        return {"accuracy": accuracy(seed, pretrain_epochs=5, epochs=25)}
    return {
        "accuracy": accuracy(seed),
        "few_labels": accuracy(seed, **FEW),
        "few_labels_untrained": accuracy(seed, **FEW, pretrain_epochs=0),
    }


def accuracy(seed: int, **params: Any) -> float:
    """Of one training on the test split."""
    state = train_once(deep_belief.train, ready_spec("digits_deep_belief", seed=seed, params=params)).test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


CHECK = Check(
    measure=measure,
    bars=(
        Bar(value="accuracy", require=">= 0.96"),
        Bar(value="few_labels", baseline="few_labels_untrained", require="> 0"),
    ),
    short_bars=(Bar(value="accuracy", require=">= 0.88"),),
    quick={"params": {"hidden": [16, 8], "pretrain_epochs": 1, "epochs": 2, "dropout": 0.0, "batch_size": 256}},
)

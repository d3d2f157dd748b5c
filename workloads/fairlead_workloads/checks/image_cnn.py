"""How good ``image_cnn`` must be on handwritten digits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import image_cnn


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split."""
    trained = train_once(image_cnn.train, ready_spec("digits", seed=seed, params={"epochs": 5} if is_short else {}))
    state = trained.test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return {"accuracy": float(np.trace(table) / table.sum())}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="accuracy", require=">= 0.985"),),
    short_bars=(Bar(value="accuracy", require=">= 0.93"),),
    quick={"params": {"epochs": 2, "width": 8, "batch_size": 256}},
)

"""How good ``spiking`` must be on handwritten digits."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import spiking


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split, and the spikes that one inference takes on the validation split."""
    spec = ready_spec("digits_spiking", seed=seed, params={"epochs": 5, "time_steps": 10} if is_short else {})
    trained = train_once(spiking.train, spec)
    state = trained.test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return {"accuracy": float(np.trace(table) / table.sum()), "spikes": trained.last["validation/spikes"]}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="accuracy", require=">= 0.95"), Bar(value="spikes", require="> 0")),
    short_bars=(Bar(value="accuracy", require=">= 0.85"),),
    quick={"params": {"epochs": 2, "time_steps": 6, "hidden": 32, "batch_size": 128}},
)

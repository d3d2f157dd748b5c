"""How well ``speech_commands`` must understand ten words."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import speech_commands


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split; ``seed`` draws the noise as well as split and weights."""
    spec = ready_spec(
        "spoken_words",
        seed=seed,
        params={"epochs": 4} if is_short else {},
        data={"uri": f"builtin://spoken_words?seed={seed}"},
    )
    state = train_once(speech_commands.train, spec).test
    assert isinstance(state, CountState), "words are classes"
    table = state.counts.sum(axis=0)
    return {"accuracy": float(np.trace(table) / table.sum())}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="accuracy", require=">= 0.95"),),
    short_bars=(Bar(value="accuracy", require=">= 0.80"),),
    quick={"params": {"epochs": 2, "width": 4, "hidden": 8, "bands": 16, "batch_size": 128}},
)

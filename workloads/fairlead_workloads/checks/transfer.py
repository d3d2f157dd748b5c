"""What another task learnt before must be worth to ``transfer``, against training from scratch with as many steps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.state import CountState
from fairlead_workloads import transfer

SCRATCH_LR = 4e-3
"""From scratch a network learns most at this rate, in few epochs as in many."""
EARLY = {"epochs": 6}
LATE = {"epochs": 100}
"""By then a network from scratch has learnt what ten labels a class can teach it."""


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Accuracy on the test split: the same split, the same labels, early and late.

    The bar is on early ones, after as many steps. What is late has no bar: it says how much of the gain is time saved.
    """
    if is_short:
        return {"thaw": accuracy(seed, source_epochs=1, **EARLY)}
    return {
        "thaw": accuracy(seed, **EARLY),
        "scratch": accuracy(seed, method="scratch", lr=SCRATCH_LR, **EARLY),
        "late_thaw": accuracy(seed, **LATE),
        "late_scratch": accuracy(seed, method="scratch", lr=SCRATCH_LR, **LATE),
    }


def accuracy(seed: int, **params: object) -> float:
    """Share of hits of one training."""
    state = train_once(transfer.train, ready_spec("digits_transfer", seed=seed, params=params)).test
    assert isinstance(state, CountState), "digits have classes"
    table = state.counts.sum(axis=0)
    return float(np.trace(table) / table.sum())


CHECK = Check(
    measure=measure,
    bars=(Bar(value="thaw", baseline="scratch", require=">= 0.1"),),
    short_bars=(Bar(value="thaw", require=">= 0.6"),),
    quick={"params": {"epochs": 4, "thaw_epoch": 2, "source_epochs": 1, "width": 4}},
)

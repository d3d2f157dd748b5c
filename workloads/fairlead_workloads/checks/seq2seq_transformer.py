"""How good ``seq2seq_transformer`` must be at rewriting dates and numbers."""

from collections.abc import Mapping
from pathlib import Path

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import seq2seq_transformer

SHORT = {"epochs": 2}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """The share of test sources whose answer is right to the last character."""
    spec = ready_spec("rewriting", seed=seed, params=SHORT if is_short else {})
    state = train_once(seq2seq_transformer.train, spec).test
    assert isinstance(state, MomentState), "answers are graded"
    return {"exact_match": float(number_estimates("mean_quality", number_grouping(state, ())).values[0])}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="exact_match", require=">= 0.95"),),
    short_bars=(Bar(value="exact_match", require=">= 0.3"),),
    quick={
        "params": {"epochs": 2, "width": 16, "heads": 2, "layers": 1, "beams": 2, "batch_size": 128},
        "data": {"uri": "builtin://rewriting?rows=500"},
    },
)

"""How good ``object_detection`` must be on boxes of composed digits."""

from collections.abc import Mapping
from pathlib import Path

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import object_detection

SHORT = {"epochs": 6}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """AP50 over the test split, and the mean F1 of its pictures."""
    spec = ready_spec("digit_boxes", seed=seed, params=SHORT if is_short else {})
    trained = train_once(object_detection.train, spec)
    assert isinstance(trained.test, MomentState), "pictures are graded"
    graded = number_estimates("mean_quality", number_grouping(trained.test)).values[0]
    return {"ap50": trained.last["test/ap50"], "picture_f1": float(graded)}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="ap50", require=">= 0.85"), Bar(value="picture_f1", require=">= 0.85")),
    short_bars=(Bar(value="ap50", require=">= 0.5"),),
    quick={"params": {"epochs": 2, "width": 12, "levels": 2}, "data": {"uri": "builtin://digit_scenes?rows=100"}},
)

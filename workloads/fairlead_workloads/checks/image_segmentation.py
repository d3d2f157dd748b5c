"""How good ``image_segmentation`` must be on masks of composed digits."""

from collections.abc import Mapping
from pathlib import Path

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import image_segmentation

SHORT = {"epochs": 8}


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean IoU over the classes of the whole test split, and over those of each picture."""
    trained = train_once(
        image_segmentation.train, ready_spec("digit_masks", seed=seed, params=SHORT if is_short else {})
    )
    assert isinstance(trained.test, MomentState), "pictures are graded"
    graded = number_estimates("mean_quality", number_grouping(trained.test)).values[0]
    return {"mean_iou": trained.last["test/mean_iou"], "picture_iou": float(graded)}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="mean_iou", require=">= 0.85"), Bar(value="picture_iou", require=">= 0.85")),
    short_bars=(Bar(value="mean_iou", require=">= 0.2"),),
    quick={"params": {"epochs": 2, "width": 12, "levels": 2}, "data": {"uri": "builtin://digit_scenes?rows=100"}},
)

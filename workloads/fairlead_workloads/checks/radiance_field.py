"""How well ``radiance_field`` must show a known scene from places that it was not shown from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fairlead.checking import Bar, Check, ready_spec, train_once
from fairlead.data import open_dataset
from fairlead.evaluation.quantities import number_estimates, number_grouping
from fairlead.evaluation.regression import MomentState
from fairlead_workloads import radiance_field


def measure(seed: int, *, is_short: bool, scratch: Path) -> Mapping[str, float]:
    """Mean PSNR of held-out views, and what the mean of the train split's pictures, which is blind to places, gets."""
    spec = ready_spec("ray_traced_scene", seed=seed, params={"epochs": 3} if is_short else {})
    dataset = open_dataset(spec.data)
    mean = dataset.rows("train").features.mean(axis=0)
    squares = np.square((dataset.rows("test").features - mean) / 255).mean(axis=(1, 2, 3))
    state = train_once(radiance_field.train, spec).test
    assert isinstance(state, MomentState), "views are graded"
    psnr = number_estimates("mean_quality", number_grouping(state, ())).values[0]
    return {"psnr": float(psnr), "mean_picture_psnr": float(np.mean([radiance_field.decibels(one) for one in squares]))}


CHECK = Check(
    measure=measure,
    bars=(Bar(value="psnr", require=">= 25"),),
    short_bars=(Bar(value="psnr", require=">= 19"),),
    quick={"params": {"epochs": 2, "width": 8, "coarse_samples": 4, "fine_samples": 4, "batch_size": 8192}},
)

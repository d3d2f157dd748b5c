"""What a temperature changed: calibration on the test split from counts before it and after it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fairlead.evaluation.entries import values_of
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.metrics import group_estimates, metric_names
from fairlead.evaluation.scores import CALIBRATION_METRICS, calibration
from fairlead.evaluation.state import CountState
from fairlead.spec import EvaluationSpec, TemperatureSpec

METRICS = ("expected_calibration_error", "squared_calibration_error_debiased", "log_loss", "brier_score_loss")


def before_and_after(
    state: CountState,
    other: CountState | None,
    asked: TemperatureSpec,
    groupings: Sequence[tuple[str, ...]],
    evaluation: EvaluationSpec,
) -> dict[str, Any]:
    """Calibration on the test split without the temperature and with it, over all rows and for each group.

    ``state``: as exported; ``other``: counted beside it. None: nothing can be compared.
    """
    if other is None:
        return {"comparison": [], "reliability": None}
    sides = {"before": other, "after": state} if asked.apply else {"before": state, "after": other}
    return {
        "comparison": [entry for by in ((), *groupings) for entry in _compared(sides, by, evaluation)],
        "reliability": {side: _bins(grouping(counted)) for side, counted in sides.items()},
    }


def _compared(sides: Mapping[str, CountState], by: tuple[str, ...], evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    groups = {side: grouping(counted, by) for side, counted in sides.items()}
    first = groups["before"]
    known = (*CALIBRATION_METRICS, *metric_names(first.counts.task, has_scores=True, has_losses=True))
    names = [name for name in METRICS if name in known]
    values = {
        side: {name: values_of(group_estimates(name, one.counts), evaluation) for name in names}
        for side, one in groups.items()
    }
    return [
        {
            "by": list(by),
            "key": first.key(index),
            "n": int(size),
            "metrics": {name: {side: values[side][name][index] for side in sides} for name in names},
        }
        for index, size in enumerate(first.sizes)
    ]


def _bins(overall: Grouping) -> list[dict[str, Any]]:
    """Mean score and share of hits a bin that has rows."""
    if overall.calibration is None or overall.score_sums is None:
        return []
    found = calibration(overall.calibration[0], overall.score_sums[0])
    return [
        {"n": int(found.rows[at]), "mean_score": float(found.mean_score[at]), "rate": float(found.hit_rate[at])}
        for at in np.flatnonzero(found.rows)
    ]

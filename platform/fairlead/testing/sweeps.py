"""Sweeps that have run: a spec, trials drawn from its space, and the summary of their runner."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fairlead.evaluation.sweep_report import SweepProvenance, SweepTrial, build_sweep_report, standing
from fairlead.protocol import SweepSummary
from fairlead.search.best import excesses_of
from fairlead.search.space import draw
from fairlead.search.trials import TrialState
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.spec.search import DimensionSpec, SearchSpec

BEGUN = datetime(2026, 11, 30, 8, tzinfo=UTC)
ACCURACY, LOSS, GAP = "validation/accuracy", "validation/loss", "rai/demographic_parity_difference/sex"
SPACE: Mapping[str, Any] = {
    "lr": {"log_uniform": [1e-4, 1e-1]},
    "width": {"int": [16, 256]},
    "optimizer": {"choice": ["adam", "sgd"]},
    "momentum": {"uniform": [0, 0.99], "when": {"optimizer": ["sgd"]}},
}
TWO_OBJECTIVES = [{"maximize": ACCURACY}, {"minimize": GAP}]
Run = Callable[[Mapping[str, Any], random.Random], tuple[TrialState, Mapping[str, float], str]]


def a_sweep(**search: Any) -> ExperimentSpec:
    """A spec with a search: small loss, unless told otherwise."""
    given = {"space": SPACE, "objectives": [{"minimize": LOSS}], "trials": 40, **search}
    content = {"name": "diabetes", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}, "search": given}
    return from_mapping(ExperimentSpec, content)


def run_trial(point: Mapping[str, Any], random_: random.Random) -> tuple[TrialState, Mapping[str, float], str]:
    """What becomes of a trial: some fail and some are stopped early, and a learning rate of 0.003 is best."""
    chance = random_.random()
    if chance < 0.08:
        return TrialState.FAILED, {}, "ValueError: loss is not finite"
    loss = 0.3 + 0.1 * math.log10(point.get("lr", 0.1) / 3e-3) ** 2 + random_.gauss(0, 0.01)
    gap = max(0.0, random_.gauss(0.1, 0.05))
    values = {LOSS: loss, ACCURACY: 1 - loss, GAP: gap, f"{GAP}.lower95": gap / 2, f"{GAP}.upper95": gap + 0.05}
    if chance < 0.2:
        return TrialState.PRUNED, values, "asha: worse than the best third at step 3"
    return TrialState.SUCCEEDED, values, ""


def sweep_trials(search: SearchSpec, count: int, *, run: Run = run_trial, seed: int = 0) -> list[SweepTrial]:
    """Trials at random points, two at a time, four seconds each."""
    random_ = random.Random(seed)

    def suggest(_: str, dimension: DimensionSpec) -> Any:
        if dimension.choice is not None:
            return random_.choice(dimension.choice)
        low, high = dimension.bounds
        share = random_.random()
        value = low * (high / low) ** share if dimension.is_log else low + share * (high - low)
        return round(value) if dimension.is_whole else value

    found = []
    for no in range(count):
        point = draw(search, suggest)
        state, values, reason = run(point, random_)
        begun = BEGUN + timedelta(seconds=4 * (no // 2))
        found.append(
            SweepTrial(
                no=no,
                state=state,
                params=point,
                values={name: value for name, value in values.items() if name in search.metrics},
                metrics={name: value for name, value in values.items() if name not in search.metrics},
                excesses=excesses_of(search, values),
                started_at=begun,
                ended_at=begun + timedelta(seconds=3 + random_.random()),
                reason=reason,
            )
        )
    return found


def summary_of(search: SearchSpec, trials: Sequence[SweepTrial], **changes: Any) -> SweepSummary:
    """What the sweep's runner says at its end."""
    found = standing(search, trials)
    given: dict[str, Any] = {
        "counts": {state: sum(trial.state is state for trial in trials) for state in TrialState},
        "best": found.best.no if found.best else None,
        "front": tuple(trial.no for trial in found.front),
        "nearest": found.nearest.no if found.nearest else None,
        "ended_because": "trials",
        "importance": {"lr": 0.7, "width": 0.2},
    }
    return SweepSummary(**{**given, **changes})


def a_sweep_report(spec: ExperimentSpec, trials: Sequence[SweepTrial], **summary: Any) -> dict[str, Any]:
    """The report on them."""
    assert spec.search is not None, "of a sweep"
    provenance = SweepProvenance(experiment="3f9c0a1b2c4d", attempt=1, created=BEGUN)
    return build_sweep_report(spec, summary_of(spec.search, trials, **summary), trials, provenance=provenance)

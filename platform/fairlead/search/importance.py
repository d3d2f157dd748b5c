"""Which parameters made the difference: the share of each in the first objective's spread. Pure."""

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
import optuna

from fairlead.search.proposals import directions_of, frozen
from fairlead.search.space import problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec.search import SearchSpec

FEWEST_TRIALS = 10
MOST_TRIALS = 2_000
"""More are drawn from: the shares no longer change, and the end of a sweep waits for them."""
_BEST = 5


def importance_of(search: SearchSpec, trials: Sequence[Trial]) -> dict[str, float]:
    """By parameter its share, together 1, the largest first; empty where there are too few trials to tell.

    Optuna's PED-ANOVA (Watanabe et al., 2023): how much a parameter's values among the best tenth of the trials, and
    among the best five at least, differ from those among all. It knows parameters that are not looked for at every
    point, which its fANOVA leaves out, and takes a second where that takes minutes (1 s and 99 s for 2,000 trials).
    What differs by chance has a share too: of few trials a large one.
    """
    told = [trial for trial in trials if _says_something(search, trial)]
    if len(told) < FEWEST_TRIALS or len({trial.values[0] for trial in told}) == 1:
        return {}
    if len(told) > MOST_TRIALS:
        drawn = np.random.default_rng(0).choice(len(told), size=MOST_TRIALS, replace=False)
        told = [told[number] for number in sorted(drawn)]
    study = optuna.create_study(direction=directions_of(search)[0])
    ours = (dataclasses.replace(trial, values=trial.values[:1], excesses={}) for trial in told)
    study.add_trials([frozen(search, trial) for trial in ours])
    with warnings.catch_warnings():  # what Optuna calls experimental is pinned and tested here
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(0.5, _BEST / len(told))))
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: share for name, share in found.items() if math.isfinite(share)}


def _says_something(search: SearchSpec, trial: Trial) -> bool:
    """It ran to its end from a beginning of its own, somewhere in this space."""
    is_whole = trial.state is TrialState.SUCCEEDED and trial.parent is None and trial.is_usable
    return is_whole and math.isfinite(trial.values[0]) and not problems_with_point(search, trial.point)

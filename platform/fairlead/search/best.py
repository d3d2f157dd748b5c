"""Which trials are the best: one, or the Pareto front of several objectives. Pure."""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from fairlead.search.trials import Trial, TrialState
from fairlead.spec.search import SearchSpec


def values_of(search: SearchSpec, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
    """The objectives' values; None where one was never reported."""
    found = [metrics.get(one.metric) for one in search.objectives]
    return None if any(value is None for value in found) else tuple(value for value in found if value is not None)


def excesses_of(search: SearchSpec, metrics: Mapping[str, float]) -> dict[str, float]:
    """By constraint: how far the value is beyond the limit, 0 or less where it keeps it.

    A metric that was never reported, or is not a number, keeps nothing: infinitely far.
    """
    found = {}
    for text, (metric, required) in zip(search.constraints, search.requirements, strict=True):
        value = metrics.get(metric)
        if value is None or not math.isfinite(value):
            found[text] = math.inf
            continue
        beyond = Fraction(value) - required.limit
        found[text] = float(beyond if required.is_upper else -beyond)
    return found


def best(search: SearchSpec, trials: Sequence[Trial]) -> Trial | None:
    """Of one objective, the best of those that ran to their end and keep all constraints; the first among equals."""
    able = [trial for trial in _finished(trials) if trial.is_feasible]
    return min(able, key=lambda trial: costs_of(search, trial)[0], default=None)


def front(search: SearchSpec, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Those that keep all constraints and that no other beats in one objective without losing in another.

    In the order of their numbers. Of trials with the same values all stay.
    """
    able = sorted((trial for trial in _finished(trials) if trial.is_feasible), key=lambda trial: trial.no)
    if not able:
        return ()
    costs = np.array([costs_of(search, trial) for trial in able])
    is_kept = np.ones(len(able), dtype=bool)
    for number, cost in enumerate(costs):
        if is_kept[number]:
            is_beaten = (costs >= cost).all(axis=1) & (costs > cost).any(axis=1)
            is_kept &= ~is_beaten
    return tuple(trial for trial, is_on in zip(able, is_kept, strict=True) if is_on)


def nearest_miss(search: SearchSpec, trials: Sequence[Trial]) -> Trial | None:
    """Where no trial keeps all constraints: the one that is least far beyond them, all of them added up."""
    ended = _finished(trials)
    return min(ended, key=lambda trial: (_beyond(trial), costs_of(search, trial)[0]), default=None)


def is_on_plateau(search: SearchSpec, trials: Sequence[Trial]) -> bool:
    """Whether the last ``plateau.trials`` that ended, in the order given, have not made the best value better."""
    if search.plateau is None:
        return False
    ended = [trial for trial in trials if trial.state is not TrialState.RUNNING]
    last, before = ended[-search.plateau.trials :], ended[: -search.plateau.trials]
    was = best(search, before)
    if was is None or len(last) < search.plateau.trials:
        return False
    now = best(search, last)
    if now is None:
        return True
    return costs_of(search, was)[0] - costs_of(search, now)[0] <= search.plateau.min_improvement


def _finished(trials: Sequence[Trial]) -> list[Trial]:
    """A trial that was stopped early has no value that could be compared with those of others.

    Nor has one whose value is infinite: a loss of minus infinity is an accident, not the best of all.
    """
    ended = [trial for trial in trials if trial.state is TrialState.SUCCEEDED and trial.is_usable]
    return [trial for trial in ended if all(math.isfinite(value) for value in trial.values)]


def costs_of(search: SearchSpec, trial: Trial) -> tuple[float, ...]:
    """The values of a trial that has them, such that small is good."""
    signed = zip(search.objectives, trial.values, strict=True)
    return tuple(-value if one.is_maximized else value for one, value in signed)


def _beyond(trial: Trial) -> float:
    return sum(max(0.0, excess) for excess in trial.excesses.values())

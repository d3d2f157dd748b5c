"""Searchers of Ray Tune's (``ray:package.module:Class``) with the interface of ``search.proposals.Proposals``.

A searcher sees numbers and the places of values in their lists, and one cost under the objective's name. It is told of
ends, not of constraints: which trial is the best is not its business. After a stop it is given what has been found, as
points if its class takes them (``add_evaluated_point``), else by asking it for all trials once more: one that then says
what it said before arrives where it was.
"""

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.result import DONE, TRAINING_ITERATION
from ray.tune.search.searcher import Searcher

from fairlead.errors import BadSpec, Problem
from fairlead.search.best import costs_of
from fairlead.search.chance import at_random
from fairlead.search.space import Point, problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec.search import AlgorithmSpec, DimensionSpec, SearchSpec


class Searchers:
    """Proposes what a searcher suggests, and tells it how that did. Not for several threads."""

    def __init__(self, search: SearchSpec, *, seed: int, trials: Sequence[Trial] = ()) -> None:
        """``trials``: those there are, in the order of their numbers, the running ones included.

        Raises ``BadSpec`` where the searcher cannot be made or cannot look through this space.
        """
        self._search, self._random = search, np.random.default_rng((seed, len(trials)))
        self._searcher = searcher_of(search)
        self._takes_points = type(self._searcher).add_evaluated_point is not Searcher.add_evaluated_point
        self._asked: dict[int, str] = {}
        """By number of the trial: what the searcher knows it as. One that was made by hand it does not know."""
        self._open: set[int] = set()
        ours = [each for each in trials if each.parent is None and not problems_with_point(search, each.point)]
        self._tried = [dict(trial.point) for trial in ours]
        self._passes = len(ours) if self._takes_points else 0
        """How often it may say again what it said before the stop: it began its random numbers anew."""
        for trial in ours:
            self._take_in(trial)

    def propose(self, no: int) -> Point | None:
        """The point of trial ``no``; None once the searcher has nothing more.

        One that wants to wait for others to end gets a point tried that was drawn at random: no slot waits for it.
        """
        suggested = self._suggested(str(no))
        while isinstance(suggested, Mapping) and self._passes and suggested in self._tried:
            self._searcher.on_trial_complete(self._asked.pop(no, str(no)), error=True)
            self._passes -= 1
            suggested = self._suggested(f"{no}-{self._passes}", no)
        if suggested == Searcher.FINISHED:
            return None
        self._open.add(no)
        if isinstance(suggested, Mapping):
            return suggested
        return at_random(self._search, self._random)

    def enter(self, no: int, point: Point) -> None:
        """Take in a trial whose point was not proposed."""
        self._open.add(no)

    def report(self, no: int, step: int, value: float) -> None:
        """What a running trial has reported of the objective."""
        if no in self._asked:
            self._searcher.on_trial_result(self._asked[no], self._result(step, value, is_done=False))

    def tell(self, trial: Trial) -> None:
        """How a trial that was asked for has ended. Raises ``KeyError`` for one that was not."""
        if trial.parent is not None:
            return
        self._open.remove(trial.no)
        known = self._asked.pop(trial.no, None)
        if known is None:
            self._add(trial)
        elif _says_something(self._search, trial):
            self._searcher.on_trial_complete(known, self._result(trial.step, trial.values[0], is_done=True))
        else:
            self._searcher.on_trial_complete(known, error=True)

    def _suggested(self, name: str, no: int | None = None) -> Point | str | None:
        """What it says when asked for a trial of this name; it is remembered by its number."""
        found = self._searcher.suggest(name)
        if found is None or found == Searcher.FINISHED:
            return found
        self._asked[int(name) if no is None else no] = name
        return {key: _value(self._search.space[key], found[key]) for key in self._search.order()}

    def _take_in(self, trial: Trial) -> None:
        """A trial of before the stop."""
        self._open.add(trial.no)
        if not self._takes_points and self._suggested(str(trial.no)) != trial.point:
            self._forget(trial.no)
        if trial.state is not TrialState.RUNNING:
            self.tell(trial)

    def _forget(self, no: int) -> None:
        """It suggests something else than it did then: nobody will try that."""
        if (known := self._asked.pop(no, None)) is not None:
            self._searcher.on_trial_complete(known, error=True)

    def _add(self, trial: Trial) -> None:
        if self._takes_points and _says_something(self._search, trial):
            coded = {key: _code(self._search.space[key], value) for key, value in trial.point.items()}
            is_pruned = trial.state is TrialState.PRUNED
            reported = [trial.values[0]] if is_pruned else None
            self._searcher.add_evaluated_point(coded, trial.values[0], pruned=is_pruned, intermediate_values=reported)

    def _result(self, step: int, value: float, *, is_done: bool) -> dict[str, Any]:
        return {self._search.objectives[0].metric: value, TRAINING_ITERATION: max(1, step), DONE: is_done}


def searcher_of(search: SearchSpec) -> Searcher:
    """The class that the spec names, made and set to the space. Raises ``BadSpec``."""
    algorithm, objective = search.chosen, search.objectives[0]
    searcher = _imported(algorithm)
    domains = {name: _domain(search.space[name]) for name in search.order()}
    try:
        is_set = searcher.set_search_properties(objective.metric, "max" if objective.is_maximized else "min", domains)
    except Exception as error:  # the user's own code: whatever it raises is the answer
        raise _refused(algorithm, f"cannot look through this space: {type(error).__name__}: {error}") from error
    if not is_set:
        raise _refused(algorithm, "takes no space: leave what says another one out of options")
    return searcher


def _imported(algorithm: AlgorithmSpec) -> Searcher:
    _, module, name = algorithm.name.split(":")
    try:
        made = getattr(importlib.import_module(module), name)(**algorithm.options)
    except Exception as error:  # the user's own code: whatever it raises is the answer
        raise _refused(algorithm, f"cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(made, Searcher):
        raise _refused(algorithm, "is no ray.tune.search.Searcher")
    return made


def _refused(algorithm: AlgorithmSpec, why: str) -> BadSpec:
    message = f"{algorithm.name.removeprefix('ray:').replace(':', '.')} {why}"
    return BadSpec(message, problems=(Problem(pointer="/search/algorithm/name", message=message),))


def _domain(dimension: DimensionSpec) -> Any:
    """Tune's words for a parameter. Of a choice, and of whatever has a step, the place in the list is looked for."""
    if dimension.choice is not None:
        return tune.choice(list(range(len(dimension.choice))))
    if dimension.step is not None:
        assert dimension.values is not None, "whoever has a step can be listed"
        return tune.randint(0, len(dimension.values))
    low, high = dimension.bounds
    if dimension.is_whole:  # its upper end is not included
        return (tune.lograndint if dimension.is_log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if dimension.is_log else tune.uniform)(low, high)


def _value(dimension: DimensionSpec, code: Any) -> Any:
    if dimension.choice is not None or dimension.step is not None:
        assert dimension.values is not None, "both can be listed"
        return dimension.values[int(code)]
    low, high = dimension.bounds
    if dimension.is_whole:
        return int(min(high, max(low, int(code))))
    return min(high, max(low, float(code)))


def _code(dimension: DimensionSpec, value: Any) -> Any:
    if dimension.choice is not None:
        return next(i for i, one in enumerate(dimension.choice) if one == value and type(one) is type(value))
    if dimension.step is not None:
        return round((value - dimension.bounds[0]) / dimension.step)
    return value


def _says_something(search: SearchSpec, trial: Trial) -> bool:
    return trial.is_usable and all(math.isfinite(cost) for cost in costs_of(search, trial))

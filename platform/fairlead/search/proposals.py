"""What is tried next: Optuna's samplers, rebuilt from rows whenever a sweep goes on elsewhere. The only door to Optuna.

Nothing of Optuna's is kept: no storage, no pickle. A sampler that goes by the finished trials alone is told them; one
that carries something from trial to trial (the covariance of CMA-ES, the generations of NSGA-II, the place in a
sequence of QMC) is led through them once more, so that it arrives where it was.
"""

import importlib
import json
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState as OptunaState

from fairlead.errors import BadSpec, Problem
from fairlead.search.space import Point, draw, grid
from fairlead.search.trials import Trial, TrialState
from fairlead.spec.search import AlgorithmSpec, DimensionSpec, SearchSpec

STARTUP_TRIALS = 10
_LED = frozenset({"cma_es", "nsga2", "qmc"})
"""Algorithms that carry something from trial to trial."""
optuna.logging.set_verbosity(optuna.logging.WARNING)


class Proposals:
    """Proposes points and is told how they did. Not for several threads."""

    def __init__(self, search: SearchSpec, *, seed: int, trials: Sequence[Trial] = ()) -> None:
        """``trials``: those there are, in the order of their numbers.

        Those that still run are known by their numbers as before. Raises ``BadSpec`` where a sampler of the user's
        cannot be made.
        """
        self._search, self._seed = search, seed
        self._algorithm = search.chosen
        self._open: dict[int, optuna.trial.Trial] = {}
        self._finished: list[Trial] = []
        self._points = grid(search) if self._algorithm.name == "grid" else None
        if self._points is not None:
            self._skip([trial.point for trial in trials])
        self._begin(trials)

    @property
    def is_led(self) -> bool:
        """Whether the sampler carries something from trial to trial."""
        return self._algorithm.name in _LED

    def propose(self, no: int) -> Point | None:
        """The point of trial ``no``; None once a grid has been tried in full."""
        point = None
        if self._points is not None and (point := next(self._points, None)) is None:
            return None
        self._forget_some()
        return self._ask(no, point)

    def enter(self, no: int, point: Point) -> None:
        """Take in a trial whose point was not proposed: made by hand, or begun before."""
        self._ask(no, point)

    def tell(self, trial: Trial) -> None:
        """How a trial that was asked for has ended. Raises ``KeyError`` for one that was not."""
        asked = self._open.pop(trial.no)
        self._finished.append(trial)
        _tell(self._study, asked, trial)

    # ---- the study --------------------------------------------------------------------------------------------------

    def _begin(self, trials: Sequence[Trial]) -> None:
        """A fresh study that knows of ``trials`` what there is to know."""
        finished = [trial for trial in trials if trial.state is not TrialState.RUNNING]
        self._finished = list(finished)
        # A sampler that is led draws again what it drew then; another one must not propose the same points once more.
        seed = self._seed if self.is_led or not trials else _mixed(self._seed, len(trials))
        self._study = self._new_study(seed)
        if self.is_led:
            for trial in trials:
                self._ask(trial.no, trial.point)
                if trial.state is not TrialState.RUNNING:
                    _tell(self._study, self._open.pop(trial.no), trial)
            return
        self._study.add_trials(
            [_frozen(self._search, trial) for trial in _remembered(self._search, finished) if trial.is_usable]
        )
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._ask(trial.no, trial.point)

    def _new_study(self, seed: int) -> optuna.Study:
        directions: list[Literal["minimize", "maximize"]] = [
            "maximize" if one.is_maximized else "minimize" for one in self._search.objectives
        ]
        return optuna.create_study(sampler=sampler_of(self._algorithm, self._search, seed), directions=directions)

    def _ask(self, no: int, point: Point | None) -> Point:
        """Make it a trial of the study's: at ``point``, or where the sampler wants it."""
        if point is not None:
            self._study.enqueue_trial(_coded(self._search, point))
        self._open[no] = asked = self._study.ask()
        if self.is_led:
            _ = asked.relative_params  # lets the sampler make its step even where the point is given
        return draw(self._search, partial(_suggested, asked))

    def _forget_some(self) -> None:
        """TPE looks at all trials for each proposal: once it knows twice what it may, begin anew with the best part."""
        if self._algorithm.name != "tpe" or len(self._study.get_trials(deepcopy=False)) < 2 * self._algorithm.history:
            return
        running = [
            Trial(no=no, point=draw(self._search, partial(_suggested, asked))) for no, asked in self._open.items()
        ]
        self._open = {}
        self._begin([*self._finished, *running])

    def _skip(self, points: Sequence[Point]) -> None:
        """Of a grid, leave out what has been tried; a point made by hand may lie anywhere in it."""
        assert self._points is not None, "only called for a grid"
        tried = {_key(point) for point in points}
        self._points = (point for point in self._points if _key(point) not in tried)


def _key(point: Point) -> str:
    """The same for the same point, also where somebody wrote 2 for 2.0. Values may be lists, which no set holds."""
    numbers = {name: float(value) for name, value in point.items() if type(value) is int}
    return json.dumps({**point, **numbers}, sort_keys=True)


def _mixed(seed: int, count: int) -> int:
    return int(np.random.SeedSequence((seed, count)).generate_state(1)[0])


def _remembered(search: SearchSpec, finished: Sequence[Trial]) -> Sequence[Trial]:
    """Of TPE's history the best quarter and the newest; of others all."""
    most = search.chosen.history
    if search.chosen.name != "tpe" or len(finished) <= most:
        return finished
    usable = [trial for trial in finished if trial.is_usable]
    best = {trial.no for trial in sorted(usable, key=lambda trial: _rank(search, trial))[: most // 4]}
    newest = [trial for trial in reversed(usable) if trial.no not in best][: most - len(best)]
    kept = best | {trial.no for trial in newest}
    return [trial for trial in usable if trial.no in kept]


def _rank(search: SearchSpec, trial: Trial) -> tuple[bool, float]:
    """Small is good: feasible before infeasible, then by the first objective."""
    value = trial.values[0]
    return not trial.is_feasible, -value if search.objectives[0].is_maximized else value


# ---- Optuna's words -------------------------------------------------------------------------------------------------


def sampler_of(algorithm: AlgorithmSpec, search: SearchSpec, seed: int) -> BaseSampler:
    """Optuna's sampler. Raises ``BadSpec`` where one of the user's cannot be made."""
    with warnings.catch_warnings():  # what Optuna calls experimental is pinned and tested here
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(algorithm, search, seed)


def _sampler(algorithm: AlgorithmSpec, search: SearchSpec, seed: int) -> BaseSampler:
    startup = algorithm.startup_trials or STARTUP_TRIALS
    conditional = any(dimension.when for dimension in search.space.values())
    match algorithm.name:
        case "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=conditional or None, group=conditional
            )
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        case "cma_es":
            return optuna.samplers.CmaEsSampler(
                seed=seed, popsize=algorithm.population, warn_independent_sampling=False
            )
        case "qmc":
            return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=algorithm.population or 50)
        case "grid" | "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case _:
            return _imported(algorithm)


def _imported(algorithm: AlgorithmSpec) -> BaseSampler:
    _, module, name = algorithm.name.split(":")
    try:
        made = getattr(importlib.import_module(module), name)(**algorithm.options)
    except Exception as error:  # the user's own code: whatever it raises is the answer
        message = f"{module}.{name} cannot be made: {type(error).__name__}: {error}"
        problem = Problem(pointer="/search/algorithm/name", message=message)
        raise BadSpec(message, problems=(problem,)) from error
    if not isinstance(made, BaseSampler):
        message = f"{module}.{name} is no optuna.samplers.BaseSampler"
        raise BadSpec(message, problems=(Problem(pointer="/search/algorithm/name", message=message),))
    return made


def _distribution(dimension: DimensionSpec) -> BaseDistribution:
    """A choice by the number of its value: Optuna's categories hold no lists."""
    if dimension.choice is not None:
        return CategoricalDistribution(tuple(range(len(dimension.choice))))
    low, high = dimension.bounds
    if dimension.is_whole:
        step = int(dimension.step or 1)
        return IntDistribution(int(low), int(high) - (int(high) - int(low)) % step, log=dimension.is_log, step=step)
    if dimension.step is not None:
        listed = dimension.values
        assert listed is not None, "whoever has a step can be listed"
        return FloatDistribution(low, listed[-1], step=dimension.step)
    return FloatDistribution(low, high, log=dimension.is_log)


def _suggested(asked: optuna.trial.Trial, name: str, dimension: DimensionSpec) -> Any:
    distribution = _distribution(dimension)
    if isinstance(distribution, CategoricalDistribution):
        assert dimension.choice is not None, "made from one"
        return dimension.choice[asked.suggest_categorical(name, range(len(dimension.choice)))]
    if isinstance(distribution, IntDistribution):
        return asked.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution), "there are three kinds"
    return asked.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _coded(search: SearchSpec, point: Point) -> dict[str, Any]:
    """A point as Optuna has it."""
    coded = {}
    for name, value in point.items():
        choices = search.space[name].choice
        coded[name] = value if choices is None else _index(choices, value)
    return coded


def _index(choices: Sequence[Any], value: Any) -> int:
    return next(i for i, one in enumerate(choices) if one == value and type(one) is type(value))


def _frozen(search: SearchSpec, trial: Trial) -> optuna.trial.FrozenTrial:
    is_pruned = trial.state is TrialState.PRUNED
    return optuna.trial.create_trial(
        state=OptunaState.PRUNED if is_pruned else OptunaState.COMPLETE,
        params=_coded(search, trial.point),
        distributions={name: _distribution(search.space[name]) for name in trial.point},
        values=list(trial.values),
        intermediate_values={0: trial.values[0]} if is_pruned else {},
        constraints=dict(trial.excesses),
    )


def _tell(study: optuna.Study, asked: optuna.trial.Trial, trial: Trial) -> None:
    """A failure counts for nothing: the algorithm is not to believe that it was bad, and will try elsewhere anyway."""
    if not trial.is_usable:
        study.tell(asked, state=OptunaState.FAIL)
        return
    for name, excess in trial.excesses.items():
        asked.set_constraint(name, excess)
    if trial.state is TrialState.PRUNED:
        asked.report(trial.values[0], 0)
        study.tell(asked, state=OptunaState.PRUNED)
    else:
        study.tell(asked, list(trial.values))

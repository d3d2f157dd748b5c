"""What is tried next: Optuna's samplers, rebuilt from rows whenever a sweep goes on elsewhere.

Nothing of Optuna's is kept: no storage, no pickle. A sampler that goes by the finished trials alone is told them; one
that carries something from trial to trial (its random numbers, the covariance of CMA-ES, the generations of NSGA-II,
the place in a sequence of QMC, whatever one of the user's has) is led through them once more, so that it arrives where
it was.

Of several trials at a time the algorithm knows those that run: TPE counts them as bad ones (Optuna's constant liar),
so that it does not propose the same place again.
"""

import importlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState as OptunaState

from fairlead.errors import BadSpec, Problem
from fairlead.search.best import costs_of, front
from fairlead.search.space import Point, draw, grid, problems_with_point
from fairlead.search.trials import Trial, TrialState
from fairlead.spec.search import ALGORITHMS, AlgorithmSpec, DimensionSpec, SearchSpec

STARTUP_TRIALS = 10
_LED = frozenset({"random", "cma_es", "nsga2", "qmc"})
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
        # Those that an earlier sweep of another space has left, or another's checkpoint, are none of the algorithm's.
        self._begin([t for t in trials if t.parent is None and not problems_with_point(search, t.point)])

    @property
    def is_led(self) -> bool:
        """Whether the sampler carries something from trial to trial."""
        return self._algorithm.name in _LED or self._algorithm.name not in ALGORITHMS

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

    def report(self, no: int, step: int, value: float) -> None:
        """What a running trial has reported: Optuna's samplers go by what has ended."""

    def tell(self, trial: Trial) -> None:
        """How a trial that was asked for has ended. Raises ``KeyError`` for one that was not.

        One that began from another's checkpoint never is, and says nothing.
        """
        if trial.parent is not None:
            return
        asked = self._open.pop(trial.no)
        self._finished.append(trial)
        _tell(self._study, self._search, asked, trial)

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
                    _tell(self._study, self._search, self._open.pop(trial.no), trial)
            return
        told = [trial for trial in finished if says_something(self._search, trial)]
        self._study.add_trials([frozen(self._search, trial) for trial in _remembered(self._search, told)])
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._ask(trial.no, trial.point)

    def _new_study(self, seed: int) -> optuna.Study:
        sampler = sampler_of(self._algorithm, self._search, seed)
        return optuna.create_study(sampler=sampler, directions=directions_of(self._search))

    def _ask(self, no: int, point: Point | None) -> Point:
        """Make it a trial of the study's: at ``point``, or where the sampler wants it."""
        if point is not None:
            self._study.enqueue_trial(_coded(self._search, point))
        with _quiet():
            self._open[no] = asked = self._study.ask()
            if self.is_led and point is not None:
                return draw(self._search, partial(self._led, asked))
            return draw(self._search, partial(_suggested, asked))

    def _led(self, asked: optuna.trial.Trial, name: str, dimension: DimensionSpec) -> Any:
        """The value that is given, after the sampler has drawn its own as it did, or would have done, at the time."""
        if name not in asked.relative_params:
            kept = self._study.get_trials(deepcopy=False)[asked.number]
            self._study.sampler.sample_independent(self._study, kept, name, _distribution(dimension))
        return _suggested(asked, name, dimension)

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


def _remembered(search: SearchSpec, told: Sequence[Trial]) -> Sequence[Trial]:
    """Of TPE's history the best quarter and the newest; of others all."""
    most = search.chosen.history
    if search.chosen.name != "tpe" or len(told) <= most:
        return told
    best = {trial.no for trial in _best(search, told, most // 4)}
    newest = [trial for trial in reversed(told) if trial.no not in best][: most - len(best)]
    kept = best | {trial.no for trial in newest}
    return [trial for trial in told if trial.no in kept]


def _best(search: SearchSpec, told: Sequence[Trial], count: int) -> list[Trial]:
    """Of one objective the smallest costs; of several front behind front. Those that keep no constraint come last."""
    ordered = sorted(told, key=lambda trial: (not trial.is_feasible, costs_of(search, trial)[0]))
    if len(search.objectives) == 1:
        return ordered[:count]
    found: dict[int, Trial] = {}
    while len(found) < count and (next_ones := front(search, [trial for trial in ordered if trial.no not in found])):
        found |= {trial.no: trial for trial in next_ones}
    rest = (trial for trial in ordered if trial.no not in found)
    return [*found.values(), *rest][:count]


def says_something(search: SearchSpec, trial: Trial) -> bool:
    """Whether an algorithm can go by it.

    An infinite cost is a bad one and says so; minus infinity is an accident. Where several objectives are looked at,
    Optuna has no place for a trial that was stopped.
    """
    if not trial.is_usable or (trial.state is TrialState.PRUNED and len(search.objectives) > 1):
        return False
    return all(cost > -math.inf for cost in costs_of(search, trial))


# ---- Optuna's words -------------------------------------------------------------------------------------------------


def directions_of(search: SearchSpec) -> list[Literal["minimize", "maximize"]]:
    """Of the objectives."""
    return ["maximize" if one.is_maximized else "minimize" for one in search.objectives]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Optuna says of infinities that are clipped, and of constraints that CMA-ES passes by."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Clip non-finite values")
        warnings.filterwarnings("ignore", message="Constraints have been set")
        yield


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


def frozen(search: SearchSpec, trial: Trial) -> optuna.trial.FrozenTrial:
    """An ended trial that says something, as Optuna has it."""
    is_pruned = trial.state is TrialState.PRUNED
    return optuna.trial.create_trial(
        state=OptunaState.PRUNED if is_pruned else OptunaState.COMPLETE,
        params=_coded(search, trial.point),
        distributions={name: _distribution(search.space[name]) for name in trial.point},
        values=list(trial.values),
        intermediate_values={trial.step: trial.values[0]} if is_pruned else {},
        constraints=dict(trial.excesses),
    )


def _tell(study: optuna.Study, search: SearchSpec, asked: optuna.trial.Trial, trial: Trial) -> None:
    """A failure counts for nothing: the algorithm is not to believe that it was bad, and will try elsewhere anyway."""
    if not says_something(search, trial):
        study.tell(asked, state=OptunaState.FAIL)
        return
    for name, excess in trial.excesses.items():
        asked.set_constraint(name, excess)
    if trial.state is TrialState.PRUNED:
        asked.report(trial.values[0], trial.step)
        study.tell(asked, state=OptunaState.PRUNED)
    else:
        with _quiet():
            study.tell(asked, list(trial.values))

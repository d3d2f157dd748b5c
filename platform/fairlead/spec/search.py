"""What a sweep looks for, where, how, and for how long."""

from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from fairlead.spec.document import Document, Name, ParameterName
from fairlead.spec.evaluation import Requirement, required

MOST_TRIALS = 100_000
MOST_CHOICES = 1_000
MOST_SLOTS = 256
"""Trials at a time, where the spec does not say."""
MetricName = Annotated[str, StringConstraints(min_length=1, max_length=250, pattern=r"^\S+$")]
Number = Annotated[float, Field(ge=-1e300, le=1e300)]
Count = Annotated[int, Field(ge=-(2**53), le=2**53)]
AlgorithmName = Literal["grid", "random", "tpe", "gp", "cma_es", "qmc", "nsga2"]
ALGORITHMS: tuple[AlgorithmName, ...] = ("grid", "random", "tpe", "gp", "cma_es", "qmc", "nsga2")
OF_ONE_OBJECTIVE: frozenset[AlgorithmName] = frozenset({"cma_es"})
_IMPORTED = r"^(optuna|ray):[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$"


class DimensionSpec(Document):
    """Where one parameter is looked for: exactly one of the ranges, both ends included, in the parameter's own unit."""

    uniform: tuple[Number, Number] | None = None
    log_uniform: tuple[Number, Number] | None = None
    """As likely between 0.001 and 0.01 as between 0.01 and 0.1."""
    whole: tuple[Count, Count] | None = Field(default=None, alias="int")
    log_whole: tuple[Count, Count] | None = Field(default=None, alias="log_int")
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, max_length=MOST_CHOICES)
    """Values without an order, lists included: ``[[16], [32, 32]]``."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Of ``uniform`` and ``int``: only the lower end and whole steps from it."""
    when: dict[ParameterName, tuple[Any, ...]] = Field(default_factory=dict, max_length=10)
    """Looked for only where other parameters, each of them a ``choice``, have one of these values; else it keeps the
    workload's default: ``{optimizer: [sgd, momentum]}``."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    @model_validator(mode="after")
    def _is_one_range(self) -> Self:
        given = [name for name, value in self._forms if value is not None]
        if len(given) != 1:
            names = ", ".join(name for name, _ in self._forms)
            raise ValueError(f"give exactly one of {names}" + (f", not {' and '.join(given)}" if given else ""))
        if self.choice is not None:
            if any(self.choice.count(value) > 1 or _is_twin(value, self.choice) for value in self.choice):
                raise ValueError("choice lists a value twice")
            if self.step is not None:
                raise ValueError("a choice has no step")
            return self
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"{given[0]} begins at {low:g} and ends at {high:g}: the first must be the smaller one")
        if self.is_log and low <= 0:
            raise ValueError(f"{given[0]} must begin above 0")
        if self.is_log and self.step is not None:
            raise ValueError(f"{given[0]} has no step")
        if self.step is not None and self.step > high - low:
            raise ValueError(f"a step of {self.step:g} leaves one value only between {low:g} and {high:g}")
        if self.is_whole and self.step is not None and not float(self.step).is_integer():
            raise ValueError("the step of whole numbers is a whole number")
        return self

    @property
    def _forms(self) -> tuple[tuple[str, Any], ...]:
        return (
            ("uniform", self.uniform),
            ("log_uniform", self.log_uniform),
            ("int", self.whole),
            ("log_int", self.log_whole),
            ("choice", self.choice),
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends of a range of numbers. Raises ``ValueError`` for a choice."""
        for one in (self.uniform, self.log_uniform, self.whole, self.log_whole):
            if one is not None:
                return one
        raise ValueError("a choice has no ends")

    @property
    def is_log(self) -> bool:
        """Whether ratios count, not differences."""
        return self.log_uniform is not None or self.log_whole is not None

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.whole is not None or self.log_whole is not None

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All of them, in order, where they can be listed; None for a continuous range."""
        if self.choice is not None:
            return self.choice
        if not self.is_whole and self.step is None:
            return None
        low, high = self.bounds
        step = Fraction(str(self.step or 1))
        count = int((Fraction(str(high)) - Fraction(str(low))) / step) + 1
        numbers = (Fraction(str(low)) + number * step for number in range(min(count, MOST_TRIALS + 1)))
        return tuple(int(number) if self.is_whole else float(number) for number in numbers)


def _is_twin(value: Any, among: tuple[Any, ...]) -> bool:
    """Whether another value only looks the same to Python: 1, 1.0 and true are equal, and only one of them is meant."""
    return any(other == value and type(other) is not type(value) for other in among)


class ObjectiveSpec(Document):
    """A metric to make large or small: one that the workload reports, or one of the report on the validation split."""

    maximize: MetricName | None = None
    minimize: MetricName | None = None

    @model_validator(mode="after")
    def _has_one_direction(self) -> Self:
        if (self.maximize is None) is (self.minimize is None):
            raise ValueError("an objective is either maximize or minimize, and a metric")
        return self

    @property
    def metric(self) -> str:
        """What is looked at."""
        return self.maximize or self.minimize or ""

    @property
    def is_maximized(self) -> bool:
        """Whether large values are good."""
        return self.maximize is not None


class AlgorithmSpec(Document):
    """Who proposes the next trial."""

    name: AlgorithmName | Annotated[str, StringConstraints(max_length=200, pattern=_IMPORTED)] = "tpe"
    """Or the import path of one of your own: of a sampler, ``optuna:package.module:Class``, or of a searcher of Ray
    Tune's, ``ray:package.module:Class``."""
    startup_trials: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    """Of ``tpe`` and ``gp``: drawn at random before the algorithm has something to go by. Absent: 10."""
    history: int = Field(default=1_000, ge=20, le=MOST_TRIALS)
    """Of ``tpe``: how many finished trials it looks at, the best quarter and the newest. A proposal costs time in
    proportion."""
    population: int | None = Field(default=None, ge=2, le=10_000)
    """Of ``cma_es`` and ``nsga2``: trials in a generation."""
    options: dict[ParameterName, Any] = Field(default_factory=dict, max_length=50)
    """Of an import path: arguments of the class."""

    @field_validator("options")
    @classmethod
    def _are_for_strangers(cls, options: dict[str, Any], known: ValidationInfo) -> dict[str, Any]:
        if options and known.data.get("name") in ALGORITHMS:
            raise ValueError(f"these are arguments of a class that an import path names; {known.data['name']} has none")
        return options


class AshaSpec(Document):
    """Asynchronous successive halving (Li et al., 2020): at each rung the best ``1/reduction_factor`` go on."""

    grace: int = Field(default=1, ge=1)
    """Steps that every trial is given."""
    max_resource: int = Field(ge=2)
    """Steps of a trial that is never stopped."""
    reduction_factor: int = Field(default=3, ge=2, le=100)


class HyperbandSpec(AshaSpec):
    """Several ASHA brackets that trade the number of trials for their length (Li et al., 2018)."""


class MedianSpec(Document):
    """A trial is stopped that is worse than the median of the others at the same step (Golovin et al., 2017)."""

    grace: int = Field(default=5, ge=1)
    min_trials: int = Field(default=5, ge=2)
    """Trials to compare with before any is stopped."""


class PbtSpec(Document):
    """Population based training (Jaderberg et al., 2017): good trials are continued in the place of bad ones.

    Every ``interval`` steps a trial that is among the worst of its population is stopped, and a new one begins from the
    checkpoint of one of the best, with that one's parameters a little changed. The workload must write checkpoints, and
    parameters that a model cannot change in the middle of its training (its width, say) have no place in the space:
    nothing can know which these are.
    """

    interval: int = Field(ge=1)
    """Steps between two comparisons, and those that a continuation is given before it is compared."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the population that is replaced at each comparison, and of which one is continued."""
    resample: float = Field(default=0.25, ge=0, le=1)
    """How likely a parameter is drawn anew; a choice changes in no other way."""
    factors: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(default=(0.8, 1.2), min_length=1, max_length=20)
    """By one of these a number is multiplied otherwise."""
    population: int | None = Field(default=None, ge=2, le=MOST_TRIALS)
    """Trials to compare with: so many that were the last to come as far. Absent: ``concurrency``, else all."""
    continuations: int | None = Field(default=None, ge=1, le=MOST_TRIALS)
    """Trials that may begin from another's checkpoint, beside those asked for; then all go on. Absent: five for each
    trial that is asked for."""


class EarlyStoppingSpec(Document):
    """Exactly one way to stop trials that will not be good. A trial that is stopped counts as ``pruned``."""

    asha: AshaSpec | None = None
    hyperband: HyperbandSpec | None = None
    median: MedianSpec | None = None
    pbt: PbtSpec | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        names = list(type(self).model_fields)
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)}")
        return self


class PlateauSpec(Document):
    """The sweep ends when this many trials in a row have not made the best value better."""

    trials: int = Field(ge=2, le=MOST_TRIALS)
    min_improvement: float = Field(default=0.0, ge=0)
    """In the objective's own unit."""


class SearchSpec(Document):
    """A sweep: one experiment that trains many times, a trial each, and keeps the best."""

    space: dict[ParameterName, DimensionSpec] = Field(min_length=1, max_length=200)
    algorithm: AlgorithmName | AlgorithmSpec = "tpe"
    objectives: tuple[ObjectiveSpec, ...] = Field(min_length=1, max_length=4)
    """Several of them have no best trial but a Pareto front."""
    constraints: tuple[Annotated[str, StringConstraints(max_length=320)], ...] = Field(default=(), max_length=20)
    """What a trial must keep to be among the best: a metric, ``<=`` or ``>=``, and a number."""
    value: Literal["last", "best"] = "last"
    """Which of the values that a trial has reported for an objective counts."""
    trials: int = Field(default=20, ge=1, le=MOST_TRIALS)
    concurrency: int | None = Field(default=None, ge=1, le=4096)
    """Trials at a time, at most. Absent: as many as there is room for."""
    early_stopping: EarlyStoppingSpec | None = None
    hours: float | None = Field(default=None, gt=0, le=1e6)
    """Time after which no trial is begun, over all attempts together."""
    plateau: PlateauSpec | None = None
    max_failed_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of the trials that may fail; with more the sweep fails, and says which trial was best."""
    reuse_processes: bool = False
    """Whether a process takes one trial after the other: quicker for trials of a second, and what one leaves behind
    in the process the next one finds."""
    inherit: Name | None = None
    """An earlier sweep of the project whose finished trials the algorithm may go by."""

    @property
    def chosen(self) -> AlgorithmSpec:
        """The algorithm, whichever way it was written."""
        return self.algorithm if isinstance(self.algorithm, AlgorithmSpec) else AlgorithmSpec(name=self.algorithm)

    @property
    def is_population(self) -> bool:
        """Whether trials take the places of others, and begin from their checkpoints."""
        return self.early_stopping is not None and self.early_stopping.pbt is not None

    @property
    def population(self) -> int:
        """Of ``pbt``: how many trials one is compared with."""
        pbt = self.early_stopping.pbt if self.early_stopping else None
        return (pbt.population if pbt else None) or min(self.trials, self.concurrency or self.trials)

    @property
    def slot_counts(self) -> tuple[int, ...]:
        """Trials at a time, the most first: the ways in which a sweep may be placed. Few, however many those are."""
        slots = min(self.trials, self.concurrency or MOST_SLOTS)
        counts = [slots]
        while counts[-1] > 1:
            counts.append(min(counts[-1] - 1, max(8, counts[-1] * 4 // 5)))
        return tuple(counts)

    @property
    def requirements(self) -> tuple[tuple[str, Requirement], ...]:
        """Metrics and what is required of them, in the order given."""
        return tuple(_constraint(text) for text in self.constraints)

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that objectives and constraints look at, each once."""
        named = [*(one.metric for one in self.objectives), *(metric for metric, _ in self.requirements)]
        return tuple(dict.fromkeys(named))

    @model_validator(mode="after")
    def _constraints_read(self) -> Self:
        metrics = [metric for metric, _ in self.requirements]
        names = [one.metric for one in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError("two objectives name one metric")
        bounds = [(metric, required.operator) for metric, required in self.requirements]
        if len(set(bounds)) != len(bounds):
            raise ValueError("two constraints bound one metric on the same side")
        for metric in metrics:
            uppers = [r.limit for name, r in self.requirements if name == metric and r.is_upper]
            lowers = [r.limit for name, r in self.requirements if name == metric and not r.is_upper]
            if uppers and lowers and lowers[0] > uppers[0]:
                raise ValueError(
                    f"no value of {metric} is at least {float(lowers[0]):g} and at most {float(uppers[0]):g}"
                )
        return self

    @model_validator(mode="after")
    def _conditions_lead_somewhere(self) -> Self:
        for name, dimension in self.space.items():
            for other, values in dimension.when.items():
                choices = self.space[other].choice if other in self.space else None
                if choices is None:
                    raise ValueError(f"space.{name}.when names {other!r}, which is no choice of this space")
                if missing := [value for value in values if value not in choices]:
                    raise ValueError(f"space.{name}.when: {other} is never {missing[0]!r}")
                if not values:
                    raise ValueError(f"space.{name}.when lists no value of {other}: it would never be looked for")
        self.order()
        return self

    @model_validator(mode="after")
    def _algorithm_can_do_it(self) -> Self:
        algorithm = self.chosen.name
        if algorithm in OF_ONE_OBJECTIVE and len(self.objectives) > 1:
            raise ValueError(f"{algorithm} knows one objective; with several take tpe, gp, nsga2 or random")
        if self.early_stopping is not None and len(self.objectives) > 1:
            raise ValueError("early_stopping compares one value, and there are several objectives: leave it out")
        if self.plateau is not None and len(self.objectives) > 1:
            raise ValueError("plateau looks at one best value, and there are several objectives: leave it out")
        if algorithm == "grid":
            endless = [name for name, dimension in self.space.items() if dimension.values is None]
            if endless:
                raise ValueError(f"a grid needs values that can be listed: give space.{endless[0]} a step, or choice")
        if algorithm.startswith("ray:"):
            if len(self.objectives) > 1:
                raise ValueError("a searcher of Ray Tune's knows one objective; with several take tpe, gp or nsga2")
            if conditional := [name for name, dimension in self.space.items() if dimension.when]:
                raise ValueError(f"a searcher of Ray Tune's knows no conditions: leave space.{conditional[0]}.when out")
        return self

    @model_validator(mode="after")
    def _population_can_be_trained(self) -> Self:
        pbt = self.early_stopping.pbt if self.early_stopping else None
        if pbt is None:
            return self
        if self.chosen.name == "grid":
            raise ValueError("early_stopping.pbt changes points, and a grid has its own: take random or tpe")
        if self.population > self.trials:
            raise ValueError(f"a population of {self.population} is never reached with trials: {self.trials}")
        if self.population * pbt.quantile < 1:
            hint = f"{pbt.quantile:g} of a population of {self.population} is less than one trial"
            raise ValueError(f"early_stopping.pbt would replace nobody: {hint}")
        return self

    def order(self) -> tuple[str, ...]:
        """Parameters such that each comes after those its ``when`` names. Raises ``ValueError`` for a circle."""
        placed: dict[str, None] = {}
        waiting = list(self.space)
        while waiting:
            ready = [name for name in waiting if all(other in placed for other in self.space[name].when)]
            if not ready:
                raise ValueError(f"space.{waiting[0]}.when leads in a circle")
            placed.update(dict.fromkeys(ready))
            waiting = [name for name in waiting if name not in placed]
        return tuple(placed)


def _constraint(text: str) -> tuple[str, Requirement]:
    metric, _, rest = text.strip().partition(" ")
    found = required(rest)
    if found is None or found.is_relative or found.operator not in ("<=", ">="):
        raise ValueError(
            f"a constraint is a metric, <= or >=, and a number, like 'validation/loss <= 0.5', not {text!r}"
        )
    return metric, found

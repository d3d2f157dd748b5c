"""A workload's manifest: its parameters, task and metrics, readable without importing any code."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.errors import Problem
from fairlead.spec.data import DataSpec
from fairlead.spec.document import Document, Name, ParameterName
from fairlead.spec.mitigation import Method
from fairlead.spec.search import DimensionSpec

Task = Literal["binary", "multiclass", "regression", "ranking", "quality"]
"""What is counted of a test row: its class, a number, its place in a list, or how good the answer to it is."""
DataKind = Literal[
    "table",
    "images",
    "scenes",
    "views",
    "sequences",
    "audio",
    "text",
    "pairs",
    "interactions",
    "episodes",
]
"""What a row is: a line of numbers, a picture with a class, a picture with masks and boxes, a picture from a known
place, some steps of a series, a sound, a text, a text with another, a user with an item, a play of an environment."""


class MeasureSpec(Document):
    """How the answer to one record is graded: in which unit, between which ends, and which end is good."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    """For people: ``intersection over union``, ``bits per byte``."""
    low: float
    high: float
    better: Literal["higher", "lower"] = "higher"

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self


class Parameter(Document):
    """One parameter of a workload: its type, default and range."""

    type: Literal["int", "float", "bool", "str", "ints"]
    """``ints`` is a list of whole numbers, such as the widths of layers."""
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    help: str = ""

    def problem_with(self, value: Any) -> str | None:
        """Why ``value`` cannot be used, or None."""
        if not self._has_type(value):
            return f"must be {self._type_name}, not {value!r}"
        if self.choices is not None and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {value!r}"
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and (problem := self._range_problem(number)):
                return problem
        return None

    def _range_problem(self, number: float) -> str | None:
        if self.minimum is not None and number < self.minimum:
            return f"must be at least {self.minimum:g}, not {number!r}"
        if self.maximum is not None and number > self.maximum:
            return f"must be at most {self.maximum:g}, not {number!r}"
        return None

    @property
    def _type_name(self) -> str:
        names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
        return names.get(self.type, "a list of whole numbers")

    def _has_type(self, value: Any) -> bool:
        match self.type:
            case "int":
                return isinstance(value, int) and not isinstance(value, bool)
            case "float":
                return isinstance(value, int | float) and not isinstance(value, bool)
            case "bool":
                return isinstance(value, bool)
            case "str":
                return isinstance(value, str)
            case "ints":
                return isinstance(value, list | tuple) and all(
                    isinstance(item, int) and not isinstance(item, bool) for item in value
                )


class Manifest(Document):
    """What the control plane must know of a workload before anything runs."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    title: str
    task: Task | None = None
    """What it learns to say of a row; None: the data decide between two classes, several and a number."""
    data: DataKind | Literal["own"] = "table"
    """What a row must be. ``own``: it reads or makes its data itself, and a spec may leave ``data`` out."""
    measure: MeasureSpec | None = None
    """Of the task ``quality``: how answers are graded. Of no task: how they are where rows have no label."""
    metrics: tuple[str, ...] = ()
    """Metric keys that ``report`` may be given, such as ``validation/accuracy``."""
    module: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")]
    """``package.module:function``."""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    mitigation: tuple[Method, ...] = ()
    """Methods of ``mitigation`` that it carries out."""
    privacy: bool = False
    """Whether it trains with differential privacy where a spec asks for it."""
    probes: tuple[str, ...] = ()
    """Fields of ``probes`` whose looks at the model it lets the platform take."""
    streaming: bool = False
    """Whether it only indexes features, so that they may stay on disk: what ``data.streaming`` needs."""
    steps: str | None = None
    """The parameter that says how many steps will be reported, such as ``epochs``; lets progress have an end."""
    check: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """``package.module:CHECK``, a ``fairlead.checking.Check``: what ``fairlead workloads check`` holds it against."""
    example: Name | None = None
    """The ready spec to begin with, and the one its check and its tests train."""
    space: dict[ParameterName, DimensionSpec] = Field(default_factory=dict)
    """A suggestion of where a sweep should look."""

    @model_validator(mode="after")
    def _defaults_are_legal(self) -> Self:
        for name, parameter in self.parameters.items():
            if problem := parameter.problem_with(parameter.default):
                raise ValueError(f"the default of {name} {problem}")
        return self

    @model_validator(mode="after")
    def _measure_is_of_quality(self) -> Self:
        if self.task == "quality" and self.measure is None:
            raise ValueError("the task quality needs a measure")
        if self.task not in ("quality", None) and self.measure is not None:
            raise ValueError(f"answers of the task {self.task} are counted, not graded: it has no measure")
        return self

    @model_validator(mode="after")
    def _space_is_legal(self) -> Self:
        for name, dimension in self.space.items():
            if name not in self.parameters:
                raise ValueError(f"space names {name}, which is no parameter")
            for value in dimension.choice if dimension.choice is not None else dimension.bounds:
                if problem := self.parameters[name].problem_with(value):
                    raise ValueError(f"space: {name} {problem}")
        return self

    def with_defaults(self, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` over the manifest's defaults."""
        return {name: parameter.default for name, parameter in self.parameters.items()} | params

    def problems_with_streaming(self, data: DataSpec) -> tuple[Problem, ...]:
        """That rows are to stay on disk, and it needs them in memory."""
        if not data.streaming or self.streaming:
            return ()
        hint = "leave data.streaming out, or take a workload that streams, such as tabular_mlp"
        message = f"{self.name} needs its rows in memory"
        return (Problem(pointer="/data/streaming", message=message, suggestion=hint),)

    def problems_with(self, params: dict[str, Any]) -> tuple[Problem, ...]:
        """Unknown names, wrong types and values out of range, each with its pointer."""
        found = []
        for name, value in params.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                known = f"known: {', '.join(self.parameters)}"
                found.append(Problem(pointer=f"/params/{name}", message="unknown parameter", suggestion=known))
            elif message := parameter.problem_with(value):
                found.append(Problem(pointer=f"/params/{name}", message=message))
        return tuple(found)

"""A workload's manifest: its parameters, task and metrics, readable without importing any code."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.errors import Problem
from fairlead.spec.document import Document
from fairlead.spec.mitigation import Method

Task = Literal["binary", "multiclass"]


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
    """How many classes it can tell apart: two, or any number; None: the data decide."""
    data: Literal["table", "images", "own"] = "table"
    """What the features are: columns of a table, or pictures. ``own``: it reads or makes its data itself, and a spec
    may leave ``data`` out."""
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
    steps: str | None = None
    """The parameter that says how many steps will be reported, such as ``epochs``; lets progress have an end."""

    @model_validator(mode="after")
    def _defaults_are_legal(self) -> Self:
        for name, parameter in self.parameters.items():
            if problem := parameter.problem_with(parameter.default):
                raise ValueError(f"the default of {name} {problem}")
        return self

    def with_defaults(self, params: dict[str, Any]) -> dict[str, Any]:
        """``params`` over the manifest's defaults."""
        return {name: parameter.default for name, parameter in self.parameters.items()} | params

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

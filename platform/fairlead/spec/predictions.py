"""What columns of predictions that were made elsewhere mean, whom they are compared for, and what they must prove."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from fairlead.spec.data import BinSpec, Column
from fairlead.spec.document import Document, Name, from_mapping
from fairlead.spec.evaluation import EvaluationSpec, GateSpec

COLUMN_ROLES = ("target", "prediction", "champion", "score", "weight", "record_id")
"""What ``amended_columns`` may give another column."""


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"write it in quotes: YAML reads yes, no, true and false without quotes as {value}")
    return str(value) if isinstance(value, int) else value


Level = Annotated[str, StringConstraints(max_length=200), BeforeValidator(_as_text)]


class ColumnsSpec(Document):
    """Which column is what. Columns that are not named here are never read."""

    target: Column = "label"
    """The true class. Rows without one are counted and reported, and take part in no metric."""
    prediction: Column | None = "prediction"
    """The predicted class; empty where the model abstained. Absent: found from the scores and the threshold."""
    champion: Column | None = None
    """The class that the present champion predicted for the same row, for gates that are held against it."""
    score: Column | dict[Level, Column] | None = "score"
    """The probability of the positive class, or a column for each class: ``{cat: p_cat, dog: p_dog, cow: p_cow}``."""
    weight: Column | None = None
    """From 0 to 1024; rates are then weighted."""
    record_id: Column | None = None
    """A name of each row; one that occurs twice is refused."""
    classes: tuple[Level, ...] | None = Field(default=None, min_length=2, max_length=1000)
    """All classes there may be. Absent: those that the target has."""
    positive: Level | None = None
    """The class that counts as selected, for two classes. Absent: the last one."""
    sensitive: tuple[Column, ...] | None = Field(default=None, max_length=8)
    """Columns, or names in ``bins``, whose values are compared. Absent: those that groupings, control, gates name."""
    bins: dict[Column, BinSpec] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_do_not_collide(self) -> Self:
        for what, names in (("sensitive", self.sensitive or ()), ("classes", self.classes or ())):
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name is listed twice")
        if self.positive is not None and self.classes is not None and self.positive not in self.classes:
            raise ValueError(f"positive is {self.positive!r}, which classes does not list")
        return self

    @model_serializer(mode="wrap")
    def _leave_unsaid(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What was not said stays unsaid: a column that is named must be there, one called so by default may be."""
        return {name: value for name, value in write(self).items() if name in self.model_fields_set}

    def is_named(self, role: str) -> bool:
        """Whether the document itself says what ``role`` is: a default column need not be there."""
        return role in self.model_fields_set and getattr(self, role) is not None


class PredictionsSpec(Document):
    """What is read beside the predictions, here or on a cluster: the evaluation part of a spec, and the columns."""

    name: Name = "predictions"
    """Of the report."""
    columns: ColumnsSpec = ColumnsSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    gates: tuple[GateSpec, ...] = Field(default=(), max_length=100)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        refuse_strangers(self.columns, self.evaluation, self.gates)
        return self

    @property
    def sensitive(self) -> tuple[str, ...]:
        """The attributes whose values are compared, in the order given."""
        return compared(self.columns, self.evaluation, self.gates)

    def amended_columns(self, changes: Mapping[str, str]) -> Self:
        """With other columns in some of ``COLUMN_ROLES``. Raises ``BadSpec``."""
        columns = {**self.columns.model_dump(exclude_unset=True), **changes}
        return from_mapping(type(self), {**self.model_dump(exclude_unset=True), "columns": columns})


def compared(columns: ColumnsSpec, evaluation: EvaluationSpec, gates: Sequence[GateSpec]) -> tuple[str, ...]:
    """The attributes whose values are compared, in the order given."""
    if columns.sensitive is not None:
        return columns.sensitive
    return tuple(dict.fromkeys([*_named(evaluation, gates), *columns.bins]))


def _named(evaluation: EvaluationSpec, gates: Sequence[GateSpec]) -> tuple[str, ...]:
    groupings = () if evaluation.groupings == "all" else evaluation.groupings
    asked = [*groupings, *(gate.by for gate in gates), evaluation.control]
    return tuple(dict.fromkeys(name for by in asked for name in by))


def refuse_strangers(columns: ColumnsSpec, evaluation: EvaluationSpec, gates: Sequence[GateSpec]) -> None:
    """Raise ``ValueError`` where columns, groupings and gates do not fit together."""
    known = set(compared(columns, evaluation, gates))
    if strangers := set(_named(evaluation, gates)) - known:
        raise ValueError(f"groupings, control or gates name {sorted(strangers)}, which columns.sensitive does not list")
    if unused := set(columns.bins) - known:
        raise ValueError(f"columns.bins names {sorted(unused)}, which columns.sensitive does not list")
    if conditional := [gate.name for gate in gates if gate.condition is not None]:
        raise ValueError(f"gate {conditional[0]} names a condition; predictions that are made already have none")
    gate_names = [gate.name for gate in gates]
    if len(set(gate_names)) != len(gate_names):
        raise ValueError("two gates have one name; give each an id")
    if evaluation.groupings == "all" and columns.sensitive is None:
        raise ValueError("groupings: all needs columns.sensitive to say all of what")
    if len(known) > 8:
        raise ValueError(f"groupings and gates name {len(known)} columns; at most 8 are compared at once")

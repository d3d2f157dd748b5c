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
from fairlead.spec.evaluation import EvaluationSpec, GateSpec, PredictedTask, refuse_undeclared

COLUMN_ROLES = ("target", "prediction", "champion", "score", "rank", "query", "weight", "record_id")
"""What ``amended_columns`` may give another column."""


def _as_text(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"write it in quotes: YAML reads yes, no, true and false without quotes as {value}")
    return str(value) if isinstance(value, int) else value


Level = Annotated[str, StringConstraints(max_length=200), BeforeValidator(_as_text)]


class ColumnsSpec(Document):
    """Which column is what. Columns that are not named here are never read."""

    target: Column = "label"
    """The true class; in regression the true number; in ranking the relevance, from 0 to 1024. Rows without one are
    counted and reported, and take part in no metric."""
    prediction: Column | None = "prediction"
    """The predicted class; empty where the model abstained. Absent: found from the scores and the threshold. In
    regression the predicted number; not used in ranking."""
    champion: Column | None = None
    """The class that the present champion predicted for the same row, for gates that are held against it. Of classes
    only."""
    score: Column | dict[Level, Column] | None = "score"
    """The probability of the positive class, or a column for each class: ``{cat: p_cat, dog: p_dog, cow: p_cow}``. In
    ranking any finite number, the highest first; rows of one score share their places. Not used in regression."""
    rank: Column | None = None
    """Ranking: the place of a row in its list, 1 for the first, in the place of a score."""
    query: Column | None = None
    """Ranking: which rows make one list. A document that names it is about a ranking."""
    target_range: tuple[float, float] | None = None
    """Regression: the least and the largest number that targets and predictions may be, so that counts of other rows
    can be added. Absent: what the files hold. A document that gives it is about a regression."""
    weight: Column | None = None
    """From 0 to 1024; rates are then weighted. Of classes only."""
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
        if self.target_range is not None and self.target_range[0] >= self.target_range[1]:
            raise ValueError("target_range: the first number must be below the second")
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

    @property
    def task(self) -> PredictedTask:
        """What the predictions are: what ``evaluation.task`` says, else what the columns can only mean."""
        return predicted_task(self.columns, self.evaluation)

    def amended_columns(self, changes: Mapping[str, str]) -> Self:
        """With other columns in some of ``COLUMN_ROLES``. Raises ``BadSpec``."""
        columns = {**self.columns.model_dump(exclude_unset=True), **changes}
        return from_mapping(type(self), {**self.model_dump(exclude_unset=True), "columns": columns})


def predicted_task(columns: ColumnsSpec, evaluation: EvaluationSpec) -> PredictedTask:
    """What the predictions are. Only a ranking has queries, and only a regression a range."""
    if evaluation.task is not None:
        return evaluation.task
    if columns.query is not None:
        return "ranking"
    return "regression" if columns.target_range is not None else "classification"


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
    _refuse_misplaced(columns, evaluation)
    refuse_undeclared(evaluation, gates)
    if columns.weight is not None and (counting := [gate.name for gate in gates if gate.within]):
        raise ValueError(f"gate {counting[0]}: gaps within strata count rows, and columns.weight weighs them")
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


_MISPLACED: Mapping[PredictedTask, Mapping[str, str]] = {
    "classification": {
        "query": "only a ranking has queries: set evaluation.task to ranking",
        "rank": "only a ranking has ranks: name its queries as columns.query",
        "target_range": "only a regression has a range: set evaluation.task to regression",
    },
    "regression": {
        "score": "a regression has predictions and no scores: name the numbers as columns.prediction",
        "query": "a regression has no queries: set evaluation.task to ranking",
        "rank": "a regression has no ranks: set evaluation.task to ranking",
        "classes": "a regression has no classes",
        "positive": "a regression has no classes",
        "weight": "every row of a regression counts once",
        "champion": "gates of a regression are held against numbers",
    },
    "ranking": {
        "prediction": "a ranking has scores or ranks: name them as columns.score or columns.rank",
        "target_range": "relevances lie between 0 and 1024: there is no range to give",
        "classes": "a ranking has no classes",
        "positive": "a ranking has no classes",
        "weight": "every query of a ranking counts once",
        "champion": "gates of a ranking are held against numbers",
    },
}
"""What columns a task has no use for, and what to do about them."""


def _refuse_misplaced(columns: ColumnsSpec, evaluation: EvaluationSpec) -> None:
    task = predicted_task(columns, evaluation)
    for role, why in _MISPLACED[task].items():
        if columns.is_named(role):
            raise ValueError(f"columns.{role} has no place in a {task}: {why}")
    if evaluation.exact_auc and task != "classification":
        raise ValueError(f"evaluation.exact_auc has no place in a {task}: there is no ROC curve")
    if task != "ranking":
        return
    if columns.query is None:
        raise ValueError("a ranking needs columns.query: which rows make one list")
    if columns.rank is not None and columns.is_named("score"):
        raise ValueError("a ranking is by columns.score or by columns.rank, not by both")
    if isinstance(columns.score, Mapping):
        raise ValueError("columns.score: a ranking has one column of scores")

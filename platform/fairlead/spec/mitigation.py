"""What is done against gaps between groups: while training, or afterwards by the place of the decision threshold."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.spec.data import Column
from fairlead.spec.document import Document

Method = Literal["reweighing", "group_dro", "lagrangian", "adversarial", "thresholds"]
Goal = Literal["demographic_parity", "equal_opportunity"]
OPTIONS: Mapping[Method, tuple[str, ...]] = {
    "reweighing": (),
    "group_dro": ("step_size",),
    "lagrangian": ("goal", "allowed_gap", "step_size"),
    "adversarial": ("goal", "strength"),
    "thresholds": ("goal",),
}
"""Which options each method has, beside ``by`` and ``compare_with``."""


class MitigationSpec(Document):
    """One method, and the groups it is to bring closer together. ``fairlead.mitigation`` has formulas and sources."""

    method: Method
    by: tuple[Column, ...] = Field(min_length=1, max_length=8)
    """Sensitive attributes; several stand for their intersections."""
    goal: Goal | None = None
    """What is to be alike: selection rates (by default), or true positive rates."""
    allowed_gap: float | None = Field(default=None, ge=0, lt=1)
    """lagrangian: the gap on training rows that costs nothing. Keep it well below a gate's limit. Default 0."""
    step_size: float | None = Field(default=None, gt=0, le=100)
    """lagrangian, group_dro: how far multipliers or weights of groups move in one optimizer step."""
    strength: float | None = Field(default=None, gt=0, le=1000)
    """adversarial: what the adversary's loss counts beside the model's. Default 20."""
    compare_with: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None
    """Id of an experiment of this project on the same data, without mitigation: the report's "before"."""

    @model_validator(mode="after")
    def _has_its_own_options(self) -> Self:
        for option in dict.fromkeys(name for names in OPTIONS.values() for name in names):
            if getattr(self, option) is not None and option not in OPTIONS[self.method]:
                owners = ", ".join(method for method, names in OPTIONS.items() if option in names)
                raise ValueError(f"{option} is an option of {owners}, not of {self.method}")
        if len(set(self.by)) != len(self.by):
            raise ValueError("by names an attribute twice")
        return self

    @property
    def goal_used(self) -> Goal:
        """What is to be alike."""
        return self.goal or "demographic_parity"

    @property
    def is_in_training(self) -> bool:
        """Whether it changes what the model learns, rather than how its scores are read."""
        return self.method != "thresholds"

    @property
    def needs_two_classes(self) -> bool:
        """Whether it is about the one positive class."""
        return self.method not in ("reweighing", "group_dro")

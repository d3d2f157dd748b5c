"""What is looked at beyond accuracy and groups: how the model stands up to changed inputs, and more. All optional."""

from typing import Literal, Self

from pydantic import Field, model_validator

from fairlead.spec.data import Column
from fairlead.spec.document import Document
from fairlead.spec.evaluation import Correction

Method = Literal["fgsm", "pgd", "noise"]
Norm = Literal["linf", "l2"]
DEFAULT_STEPS = 20
DEFAULT_RESTARTS = 2
MOST_EXPLAINED = 100_000


class PerturbationSpec(Document):
    """One way to change the inputs of the test split. ``fairlead.probes`` has formulas and sources."""

    method: Method
    """``fgsm``: one step along the gradient's signs; ``pgd``: many steps, the worst of several starts; ``noise``:
    normal noise, with nobody behind it."""
    eps: float = Field(ge=0, le=1000)
    """How far: in standard deviations of each input over the train split; for pictures as a share of the range of
    their values there. Inputs made of texts, and constant ones, are left as they are."""
    norm: Norm | None = None
    """fgsm, pgd: how the distance of a row is measured: its largest change (``linf``, the default), or the root of the
    sum of squares (``l2``)."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """pgd: default 20."""
    restarts: int | None = Field(default=None, ge=1, le=100)
    """pgd: starts, the first of which is the row itself. Default 2."""

    @model_validator(mode="after")
    def _has_its_own_options(self) -> Self:
        owners = {"norm": ("fgsm", "pgd"), "steps": ("pgd",), "restarts": ("pgd",)}
        for option, methods in owners.items():
            if getattr(self, option) is not None and self.method not in methods:
                raise ValueError(f"{option} is an option of {', '.join(methods)}, not of {self.method}")
        return self

    @property
    def norm_used(self) -> Norm:
        """How the distance is measured."""
        return self.norm or "linf"

    @property
    def steps_used(self) -> int:
        """Steps of each start."""
        return (self.steps or DEFAULT_STEPS) if self.method == "pgd" else 1

    @property
    def restarts_used(self) -> int:
        """Starts."""
        return (self.restarts or DEFAULT_RESTARTS) if self.method == "pgd" else 1

    @property
    def condition(self) -> str:
        """What counts under it are called, such as ``pgd_linf_0.1`` or ``noise_0.5``."""
        parts = (self.method,) if self.method == "noise" else (self.method, self.norm_used)
        return "_".join((*parts, f"{self.eps:g}"))


class DriftSpec(Document):
    """Whether rows of the test split look like those of the train split, column by column."""

    correction: Correction = "holm"
    """How the columns' tests are judged together; see ``evaluation.correction``."""
    level: float = Field(default=0.05, gt=0, lt=0.5)
    """Of the tests. Bounds of the index belong to ``evaluation.confidence``, like all others."""


class TemperatureSpec(Document):
    """One number by which logits are divided. It moves probabilities, and for several classes no decision."""

    apply: bool = True
    """Whether the model that is counted and exported uses it; else the report only says what it would change."""

    @property
    def condition(self) -> str:
        """What is counted beside the model as it is exported."""
        return "uncalibrated" if self.apply else "calibrated"


class ExplanationsSpec(Document):
    """What the model goes by, for tables."""

    method: Literal["permutation"] = "permutation"
    """``permutation``: the accuracy that is lost when a column's values are dealt out anew among the test rows."""


class AttributionsSpec(Document):
    """What each answer is made of: how far each input moves it. Tables and pictures; needs ``fairlead[explain]``."""

    method: Literal["integrated_gradients"] = "integrated_gradients"
    """``integrated_gradients``: the gradients of the answer, added up on the way from a baseline to the row."""
    steps: int = Field(default=50, ge=1, le=1000)
    """Points on the way. More of them make smaller errors, which the report gives."""
    baseline: Literal["zero", "mean"] = "zero"
    """Where the way begins: ``zero``: all inputs 0, as raw as they are in the data; ``mean``: their means over the
    train split."""
    rows: int = Field(default=1000, ge=1, le=MOST_EXPLAINED)
    """Of the test split, at most: drawn by the seed, the same for any number of workers."""
    target: Literal["predicted", "positive"] = "predicted"
    """The answer that is explained: the logit of the predicted class, or of the positive one (two classes only). Of
    two classes it is the log-odds."""
    share_of: tuple[Column, ...] = Field(default=(), max_length=100)
    """Columns whose share of all attribution is measured, for the gate ``attribution_share``; absent: those sensitive
    attributes that are among the inputs."""

    @model_validator(mode="after")
    def _names_columns_once(self) -> Self:
        if len(set(self.share_of)) != len(self.share_of):
            raise ValueError("share_of lists a column twice")
        return self


class ProbesSpec(Document):
    """Each probe is left out unless it is asked for; its results stand in the report, and gates may require them."""

    robustness: tuple[PerturbationSpec, ...] = Field(default=(), max_length=20)
    """Predictions on changed inputs are counted like any others, each way under its own condition."""

    temperature: TemperatureSpec | None = None
    """Probabilities made as sure as they are right, on the validation split; before and after on the test split."""
    drift: DriftSpec | None = None
    """Features, sensitive attributes and the target, between train and test split."""

    explanations: ExplanationsSpec | None = None
    """What accuracy each column is worth to the model, over all rows and by sensitive attribute."""
    # Left out where it is absent: specs with other probes keep their hashes, and older agents can read them.
    attributions: AttributionsSpec | None = Field(default=None, exclude_if=lambda value: value is None)
    """How much of each answer each input is responsible for, over all rows and by sensitive attribute."""

    @model_validator(mode="after")
    def _asks_for_something_once(self) -> Self:
        names = self.conditions
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two ways to change the inputs are both called {twice[0]}")
        if not self.asked:
            raise ValueError("probes asks for nothing: leave it out, or name a probe")
        return self

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names under which the test split is counted beside the main counts."""
        other = (self.temperature.condition,) if self.temperature else ()
        return (*(one.condition for one in self.robustness), *other)

    @property
    def asked(self) -> tuple[str, ...]:
        """The probes it asks for, by the names of the fields."""
        return tuple(name for name in type(self).model_fields if getattr(self, name))

    @property
    def measured(self) -> dict[str, Document]:
        """Those whose results are no counts of predictions, by section of the report."""
        sections: dict[str, Document | None] = {
            "attributions": self.attributions,
            "drift": self.drift,
            "explanations": self.explanations,
            "temperature": self.temperature,
        }
        return {name: asked for name, asked in sections.items() if asked is not None}

"""What is measured on the test split, for whom, and what the result must prove."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.spec.document import Document

Evidence = Literal["point", "upper_bound", "lower_bound"]
PredictedTask = Literal["classification", "regression", "ranking"]
"""What predictions that were made elsewhere are."""
Correction = Literal["none", "holm", "benjamini_hochberg"]
DEFAULT_CORRECTION: Correction = "benjamini_hochberg"
"""Of the list of gaps, which decides nothing."""
_NAME_CHARS = 63
_STRANGE = re.compile(r"[^a-z0-9_-]")
_REQUIRE = re.compile(
    r"\s*(?P<operator><=|>=|<|>)\s*"
    r"(?:(?P<limit>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)"
    r"|champion(?:\s*(?P<sign>[+-])\s*(?P<margin>\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?))?)\s*"
)


class EvaluationSpec(Document):
    """Groups to compare, and how careful to be with small ones."""

    groupings: tuple[tuple[str, ...], ...] | Literal["all"] = ()
    """Subsets of the sensitive attributes; several in one are an intersection; ``all`` is every subset."""
    # Left out where they are as without them: specs keep their hashes, and agents of older releases can read them.
    task: PredictedTask | None = Field(default=None, exclude_if=lambda value: value is None)
    """What predictions made elsewhere are. Absent: a ranking where columns name queries, a regression where they give
    a range, else classes. Of what is trained the workload and the data say it."""
    control: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Attributes within whose strata (all combinations of their levels) gaps are compared as well, such as department
    or credit band: attributes like the sensitive ones, but with ``groupings: all`` they are not compared themselves."""
    min_support: int = Field(default=30, ge=1)
    """Rows in a rate's denominator below which a group is of low support."""
    min_display: int = Field(default=10, ge=0)
    """Rows below which the page hides a group's values, to protect the few people in it."""
    low_support: Literal["inconclusive", "exclude"] = "inconclusive"
    on_inconclusive: Literal["block", "warn"] = "block"
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    correction: Correction = Field(default="none", exclude_if=lambda value: value == "none")
    """How gates on bounds are judged together. ``none``: each for itself. With ``holm`` the probability that any of
    them passes wrongly is at most 1 - confidence; with ``benjamini_hochberg`` the expected share of wrong ones among
    those that pass is. Either makes passing harder; what fails without it fails with it."""
    disparity_correction: Correction = Field(
        default=DEFAULT_CORRECTION, exclude_if=lambda value: value == DEFAULT_CORRECTION
    )
    """How the report counts the gaps that chance alone does not explain; it decides no gate."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Score at and above which a binary workload predicts the positive class."""
    exact_auc: bool = Field(default=False, exclude_if=lambda value: value is False)
    """Keep every different score of two classes, so that areas under the ROC curve have no error of binning: at most
    four million by group and label, 16 bytes each. With more they come from 1,024 bins, and the report says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """A comparison with an exact limit: ``0.30`` is three tenths, not the nearest float."""

    operator: Literal["<=", "<", ">=", ">"]
    limit: Fraction
    """What the value is compared with; where ``is_relative``, what its distance to the champion's value is."""
    is_relative: bool = False
    """Whether the model's value less the present champion's is meant."""

    @property
    def is_upper(self) -> bool:
        """Whether small values are good."""
        return self.operator in ("<=", "<")

    def admits(self, value: Fraction) -> bool:
        """Whether ``value`` meets the limit."""
        match self.operator:
            case "<=":
                return value <= self.limit
            case "<":
                return value < self.limit
            case ">=":
                return value >= self.limit
            case ">":
                return value > self.limit


class GateSpec(Document):
    """One requirement on the report. Without ``evidence`` the bound that must be proven decides."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None
    metric: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,100}$")]
    by: tuple[str, ...] = ()
    """A grouping of the evaluation; empty: the metric over all rows."""
    within: tuple[str, ...] = Field(default=(), exclude_if=lambda value: value == ())
    """Of ``evaluation.control``: groups are compared within strata of these, and the strata combined."""
    condition: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,100}$")] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    """Counts of a probe to look at, such as ``pgd_linf_0.1``; absent: those of the rows as they are."""
    require: Annotated[str, StringConstraints(max_length=60)]
    """``<=``, ``<``, ``>=`` or ``>`` and a decimal, e.g. ``"<= 0.30"``; or, held against the present champion on the
    same rows, ``champion`` and a margin, e.g. ``">= champion - 0.02"``."""
    evidence: Evidence | None = None

    @model_validator(mode="after")
    def _reads(self) -> Self:
        if _REQUIRE.fullmatch(self.require) is None:
            raise ValueError(
                "require must be <=, <, >= or > and a number, like '<= 0.30', or the champion and a margin, like "
                f"'>= champion - 0.02', not {self.require!r}"
            )
        return self

    @property
    def requirement(self) -> Requirement:
        """``require``, parsed exactly."""
        found = required(self.require)
        assert found is not None, "validated above"
        return found

    @property
    def limit_text(self) -> str:
        """The number that ``require`` names, as it was written; a margin with its sign, 0 where there is none."""
        match = _REQUIRE.fullmatch(self.require)
        assert match is not None, "validated above"
        return match["limit"] or _margin(match)

    @property
    def evidence_used(self) -> Evidence:
        """What is compared with the limit."""
        return self.evidence or ("upper_bound" if self.requirement.is_upper else "lower_bound")

    @property
    def name(self) -> str:
        """``id``, or one made of the metric and the grouping, which an address and a file's name can hold."""
        within = ("within", *self.within) if self.within else ()
        condition = (self.condition.replace(".", "_"),) if self.condition else ()
        against = ("champion",) if self.requirement.is_relative else ()
        return self.id or _slug((self.metric, *self.by, *within, *condition, *against))


def required(text: str) -> Requirement | None:
    """What a text such as ``<= 0.30`` requires, read exactly; None where it is none."""
    match = _REQUIRE.fullmatch(text)
    if match is None:
        return None
    operator: Literal["<=", "<", ">=", ">"] = match["operator"]  # type: ignore[assignment]  # the pattern says so
    if match["limit"] is not None:
        return Requirement(operator=operator, limit=Fraction(match["limit"]))
    return Requirement(operator=operator, limit=Fraction(_margin(match)), is_relative=True)


def _margin(match: re.Match[str]) -> str:
    return f"{match['sign'].replace('+', '')}{match['margin']}" if match["margin"] else "0"


def refuse_undeclared(evaluation: EvaluationSpec, gates: Sequence[GateSpec]) -> None:
    """Raise ``ValueError`` where a gate looks within strata of what ``evaluation.control`` does not list."""
    for gate in gates:
        if strangers := [name for name in gate.within if name not in evaluation.control]:
            raise ValueError(
                f"gate {gate.name} looks within {strangers[0]!r}, which evaluation.control does not list: add it there"
            )


def _slug(parts: tuple[str, ...]) -> str:
    """At most 63 characters; columns that differ in strange ones only are told apart by a hash."""
    wanted = "-".join(parts).replace(" ", "_").lower()
    plain = _STRANGE.sub("_", wanted)
    if plain == wanted:
        return wanted[:_NAME_CHARS]
    digest = hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{plain[: _NAME_CHARS - 9]}-{digest}"

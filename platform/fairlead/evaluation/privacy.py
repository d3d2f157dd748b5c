"""Privacy in the report: what training with differential privacy says of itself, in words that others can check.

*(ε, δ)*: adding or removing one record of the train split makes no outcome of the training more than e^ε times as
likely, but for a probability of δ. Dwork, Roth 2014, The algorithmic foundations of differential privacy.
"""

from typing import Any, Literal

from pydantic import Field

from fairlead.spec import Document, PrivacySpec


class PrivacyMeasurement(Document):
    """``measurements["privacy"]`` of rank 0."""

    epsilon: float = Field(ge=0, allow_inf_nan=False)
    """Of all optimizer steps together, those before a resume included."""
    delta: float = Field(gt=0, lt=1)
    noise_multiplier: float = Field(gt=0)
    max_grad_norm: float = Field(gt=0)
    sample_rate: float = Field(gt=0, le=1)
    """Probability with which a record is part of one batch."""
    steps: int = Field(ge=0)
    records: int = Field(ge=1)
    """Of the train split."""
    sampling: Literal["poisson"] = "poisson"
    """Each record is in each batch or not, on its own: the way of drawing that the accountant presumes."""
    accountant: Literal["rdp"] = "rdp"
    """Rényi differential privacy: Mironov 2017 (arXiv 1702.07476); an upper bound."""
    unit: Literal["record"] = "record"
    """What is protected: somebody with two records is protected half as well."""
    library: str


def privacy_section(asked: PrivacySpec, found: Any) -> dict[str, Any]:
    """The report's ``privacy``. Raises ``ValueError`` for what is none, or was not trained as ``asked``."""
    measured = PrivacyMeasurement.model_validate(found)
    if (measured.delta, measured.max_grad_norm) != (asked.delta, asked.max_grad_norm):
        raise ValueError("delta or max_grad_norm is not what the spec asks for")
    if asked.noise_multiplier is not None and measured.noise_multiplier != asked.noise_multiplier:
        raise ValueError("noise_multiplier is not what the spec asks for")
    epsilon = {"value": measured.epsilon, "lower95": None, "upper95": None, "reason": None}
    return {
        "why_not_measured": None,
        "metrics": {"epsilon": epsilon},
        "target_epsilon": asked.target_epsilon,
        **measured.model_dump(mode="json", exclude={"epsilon"}),
    }

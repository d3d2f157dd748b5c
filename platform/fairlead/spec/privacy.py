"""How much training may tell of any single row: differential privacy."""

from typing import Self

from pydantic import Field, model_validator

from fairlead.spec.document import Document


class PrivacySpec(Document):
    """Train by DP-SGD: gradients of single rows are clipped, and noise is added to their sum."""

    noise_multiplier: float | None = Field(default=None, gt=0, le=1000)
    """Standard deviation of the noise over ``max_grad_norm``. More is more private, and less accurate."""
    target_epsilon: float | None = Field(default=None, gt=0, le=1000)
    """Or the loss of privacy that all epochs together may reach: the noise follows from it."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6)
    """Norm to which the gradient of each row is clipped: the most that one row can move a step."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """Probability with which the bound may not hold: well below one over the rows of the train split."""

    @model_validator(mode="after")
    def _has_one_amount_of_noise(self) -> Self:
        if (self.noise_multiplier is None) is (self.target_epsilon is None):
            raise ValueError("give either noise_multiplier or target_epsilon: the one follows from the other")
        return self

"""The number by which logits are divided, as ranks found it together: the first half of the report's ``temperature``.

Guo, Pleiss, Sun, Weinberger 2017, On calibration of modern neural networks (arXiv 1706.04599): it is fitted on
validation rows by their log loss. ``recalibration`` has the other half, what it changed on the test split.
"""

from typing import Any

from pydantic import Field

from fairlead.spec import Document, TemperatureSpec


class FittedTemperature(Document):
    """What ranks found together."""

    temperature: float = Field(gt=0)
    """Above 1 the model was too sure of itself, below 1 not sure enough."""
    n_validation: int = Field(ge=1)
    log_loss_before: float = Field(ge=0)
    """Of the validation rows."""
    log_loss_after: float = Field(ge=0)
    reason: str | None = None
    """Why no temperature has the lowest loss, so that it stays 1; None where one has."""


def temperature_section(asked: TemperatureSpec, found: Any) -> dict[str, Any]:
    """What was fitted. Raises ``ValueError`` for what is no ``FittedTemperature``."""
    fitted = FittedTemperature.model_validate(found)
    return {"why_not_measured": None, "metrics": {}, "applied": asked.apply, **fitted.model_dump(mode="json")}

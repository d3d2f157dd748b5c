"""Whether the electricity that training uses is to be measured, and by what it becomes CO2e."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from fairlead.spec.document import Document


class EnergySpec(Document):
    """Measure energy. Without ``country`` or ``intensity_g_per_kwh`` the report says kWh and no CO2e."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    """Where the cluster stands, in three letters (ISO 3166-1): ``DEU``. Its mean intensity of electricity is used."""
    intensity_g_per_kwh: float | None = Field(default=None, ge=0, le=5000)
    """Grams of CO2e of one kWh where it is used, if you know better than a country's mean."""

    @model_validator(mode="after")
    def _has_one_intensity(self) -> Self:
        if self.country is not None and self.intensity_g_per_kwh is not None:
            raise ValueError("give either country or intensity_g_per_kwh: both say what a kWh emits")
        return self

    @property
    def has_intensity(self) -> bool:
        """Whether CO2e can be said."""
        return self.country is not None or self.intensity_g_per_kwh is not None

"""Packages of an experiment's own, beside those that its cluster has."""

from typing import Annotated

from pydantic import Field, StringConstraints

from fairlead.spec.document import Document

Requirements = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class EnvironmentSpec(Document):
    """A virtual environment for the workload. Each node that trains builds it once and keeps it."""

    requirements: Requirements = Field()
    """A lock file beside the spec, every package pinned and hashed, that is uploaded; stored as ``sha256:<hex>``."""

"""Fairlead: train deep-learning models on Ray clusters, and keep honest books about them.

``from fairlead import Client`` is the SDK; it loads neither Ray nor torch nor MLflow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fairlead.client import Client, Experiment

__all__ = ["Client", "Experiment", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the SDK when it is asked for: workers import ``fairlead`` too and need no HTTP client."""
    if name in {"Client", "Experiment"}:
        from fairlead import client

        return getattr(client, name)
    raise AttributeError(f"module 'fairlead' has no attribute {name!r}")

"""Everything on one machine: API with its control loops, MLflow, a local Ray and its agent, all on loopback.

``EmbeddedStack`` starts and ends them; ``fairlead up`` and ``fairlead demo`` stand on it.
"""

from fairlead.embedded.stack import EmbeddedStack, StackFailed

__all__ = ["EmbeddedStack", "StackFailed"]

from fairlead.testing.agents import stack
from fairlead.testing.ray import local_ray

__all__ = ["local_ray", "stack"]

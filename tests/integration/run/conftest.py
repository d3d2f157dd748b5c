from fairlead.testing.attempts import attempts
from fairlead.testing.ray import local_ray

__all__ = ["attempts", "local_ray"]

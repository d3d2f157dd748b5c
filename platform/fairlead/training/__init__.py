"""What several workloads would otherwise repeat: parallel models, precision, schedules, checkpoints and their resume.

Everything here is a thin word for what torch does. A page that reads better without it does without it.
"""

from fairlead.training.keeping import Best, keep, restore
from fairlead.training.models import autocast, clip, compiled, micro_batches, parallel
from fairlead.training.schedules import warmup_cosine
from fairlead.training.validation import validate_classes

__all__ = [
    "Best",
    "autocast",
    "clip",
    "compiled",
    "keep",
    "micro_batches",
    "parallel",
    "restore",
    "validate_classes",
    "warmup_cosine",
]

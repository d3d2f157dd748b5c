"""A busy machine is no reason to fail: hypothesis must not judge by the clock."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

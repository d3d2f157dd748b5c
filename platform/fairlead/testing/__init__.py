"""Fakes and conformance suites for tests, ours and yours."""

from fairlead.testing.builders import a_spec
from fairlead.testing.clock import FakeClock

__all__ = ["FakeClock", "a_spec"]

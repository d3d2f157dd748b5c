from collections.abc import Iterator

import pytest

from fairlead.testing.local_ray import LocalRay, start_local_ray
from fairlead.testing.ray import QUICK_RAY


@pytest.fixture(scope="session")
def head() -> Iterator[LocalRay]:
    """A Ray of four CPUs for tests whose subject is not Ray itself."""
    running = start_local_ray(num_cpus=4, environment=QUICK_RAY)
    yield running
    running.stop()

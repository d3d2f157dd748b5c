"""Unit tests, and what else starts no stack, share all cores.

What takes longest goes first, so that no core is left with it at the end.
"""

import pytest

LONGEST = ("model", "workloads")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in LONGEST)

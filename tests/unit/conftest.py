"""Unit tests share all cores. What takes longest goes first, so that no core is left with it at the end."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name != "workloads")

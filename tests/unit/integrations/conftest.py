"""The page of the documentation that every test here runs."""

from pathlib import Path

import pytest

from fairlead.testing.pages import Page, read_page


@pytest.fixture(scope="session")
def page() -> Page:
    return read_page(Path(__file__).parents[3] / "docs" / "your-own-workload.md")

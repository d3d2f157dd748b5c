"""One embedded stack for the session: what a user gets from ``fairlead up``, driven from outside."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairlead import Client
from fairlead.embedded import EmbeddedStack

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]
SPECS = Path(__file__).parents[2] / "workloads" / "specs"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip finds packages on the stack's node, and nowhere else: no test reaches an index."""
    return tmp_path_factory.mktemp("wheels")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[EmbeddedStack]:
    """A whole stack with two CPUs; its logs are in its directory when a test fails."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    with EmbeddedStack(tmp_path_factory.mktemp("home"), cpus=2, environment=environment) as stack:
        yield stack


@pytest.fixture
def client(stack: EmbeddedStack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def fairlead(stack: EmbeddedStack, tmp_path: Path) -> Fairlead:
    """The command line as a user runs it, from a directory of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FAIRLEAD_")}
    environment["FAIRLEAD_HOME"] = str(stack.home)

    def run(*arguments: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "fairlead.cli", *arguments],
            capture_output=True,
            text=True,
            input=text,
            env=environment,
            cwd=tmp_path,
            timeout=400,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def specs() -> Path:
    """The specs that ship with the workloads."""
    return SPECS

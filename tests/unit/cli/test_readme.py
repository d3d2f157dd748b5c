"""What the README shows exists: its links, its specs and its commands."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fairlead.cli import app
from fairlead.spec import ExperimentSpec, from_yaml

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_relative_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README, re.DOTALL), ids=lambda text: text.split()[1])
def test_specs_are_accepted(text: str) -> None:
    from_yaml(ExperimentSpec, text)


def test_commands_exist() -> None:
    known = CliRunner().invoke(app, ["--help"]).stdout
    commands = set(re.findall(r"[`$] ?fairlead ([a-z]+)", README))
    assert commands
    assert [command for command in sorted(commands) if f" {command} " not in known] == []

"""What the README shows exists: its links, its specs and its commands."""

import re
from pathlib import Path

import pytest
import typer.main
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


def test_what_messages_advise_can_be_typed() -> None:
    """Commands in quotes in the messages of platform and api: their words and options."""
    sources = [path.read_text(encoding="utf-8") for part in ("platform", "api") for path in (ROOT / part).rglob("*.py")]
    advised = {words for text in sources for words in re.findall(r"'fairlead ([a-z][^'\n]*)'", text)}
    assert len(advised) > 10
    assert {words: problem for words in sorted(advised) if (problem := cannot_be_typed(words.split()))} == {}


def cannot_be_typed(words: list[str]) -> str:
    """What of a command does not exist; empty where all does."""
    command = typer.main.get_command(app)
    options = [word for word in words if word.startswith("--")]
    for word in words:
        if not hasattr(command, "commands") or word.startswith("-"):
            break
        if word not in command.commands:
            return f"there is no command {word}"
        command = command.commands[word]
    known = {name for parameter in command.params for name in parameter.opts}
    known |= {"--home"}  # of fairlead itself
    return "" if set(options) <= known else f"there is no option {sorted(set(options) - known)}"

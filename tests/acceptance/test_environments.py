"""What docs/environments.md shows, with a package made here: built once, used again, and refused with pip's words."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairlead import Client
from fairlead.testing.wheels import lock_of, make_wheel

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]
PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
EINOPS = "def rearrange(tensor, pattern):\n    return tensor[..., None]\n"
"""As much of it as the page needs."""


def block(beginning: str) -> str:
    """The page's block that begins so."""
    return next(text for text in re.findall(r"```\w*\n(.*?)```", PAGE, re.DOTALL) if text.startswith(beginning))


@pytest.fixture
def folded(tmp_path: Path, wheels: Path) -> Path:
    """The page's files, the lock with the hash of our package."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "folded.py").write_text(block("# mine/folded.py"))
    (tmp_path / "folded.yaml").write_text(block("# folded.yaml"))
    sha256 = make_wheel(wheels, "einops", "0.8.1", source=EINOPS)
    (tmp_path / "requirements.lock").write_bytes(lock_of(einops=("0.8.1", sha256)))
    return tmp_path


def submitted(fairlead: Fairlead) -> dict[str, Any]:
    answer = fairlead("submit", "--watch", "--json", "folded.yaml")
    last: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return last


def environment_events(client: Client, experiment_id: str) -> list[str]:
    kinds = [event.kind for event in client.get(experiment_id).events(follow=False)]
    return [kind for kind in kinds if kind.startswith("environment")]


def test_an_environment_is_built_once_and_used_again(fairlead: Fairlead, client: Client, folded: Path) -> None:
    planned = json.loads(fairlead("plan", "--json", "folded.yaml").stdout)
    assert planned["is_valid"]
    assert any("builds that once" in warning for warning in planned["warnings"])
    first = submitted(fairlead)
    assert first["state"] == "succeeded", first
    assert environment_events(client, first["id"]) == ["environment_building", "environment_built"]
    assert "Successfully installed einops-0.8.1" in fairlead("logs", first["id"]).stdout
    second = submitted(fairlead)
    assert second["state"] == "succeeded", second
    assert environment_events(client, second["id"]) == ["environment_cached"]
    (started,) = [event for event in client.get(second["id"]).events(follow=False) if event.kind == "warm_start"]
    assert started.payload["why"] == "own environment"


def test_a_wrong_hash_fails_with_pips_last_lines(fairlead: Fairlead, client: Client, folded: Path) -> None:
    (folded / "requirements.lock").write_bytes(lock_of(einops=("0.8.1", "0" * 64)))
    last = submitted(fairlead)
    assert (last["state"], "bad_environment: pip could not install the lock" in last["reason"]) == ("failed", True)
    (attempt,) = client.get(last["id"]).attempts()
    assert attempt.outcome == "user_error"
    words = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    assert words in attempt.detail
    assert words in fairlead("logs", last["id"]).stdout


def test_a_lock_that_pins_nothing_is_refused_with_its_line(fairlead: Fairlead, folded: Path) -> None:
    (folded / "requirements.lock").write_text("# mine\neinops>=0.8\n")
    answer = fairlead("submit", "folded.yaml")
    assert answer.returncode != 0
    told = " ".join(answer.stderr.split())
    assert "requirements.lock, line 2: einops is not pinned to one version with ==" in told
    assert "uv pip compile --generate-hashes" in told

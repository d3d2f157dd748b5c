"""What the README shows can be copied and run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fairlead.embedded import EmbeddedStack

Fairlead = Callable[..., "subprocess.CompletedProcess[str]"]
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def block(kind: str, beginning: str) -> str:
    """The README's block of a kind that contains ``beginning``."""
    return next(text for text in re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL) if beginning in text)


def test_own_code_trains_on_two_ranks(fairlead: Fairlead, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nearest.py").write_text(block("python", "# mine/nearest.py"))
    (tmp_path / "own.yaml").write_text(block("yaml", "# own.yaml"))
    answer = fairlead("submit", "--watch", "--json", "own.yaml")
    assert answer.returncode == 0, answer.stderr + answer.stdout
    last = json.loads(answer.stdout.splitlines()[-1])
    assert (last["state"], last["last_step"]) == ("succeeded", 1)
    assert "rank 1 of 2 judges 67 rows" in fairlead("logs", last["id"], "--rank", "1").stdout


def test_the_rest_calls_create_show_follow_and_report(stack: EmbeddedStack, tmp_path: Path) -> None:
    script = block("sh", "curl").replace("http://127.0.0.1:8170", stack.api_url)
    environment = {
        **os.environ,
        "FAIRLEAD_HOME": str(stack.home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "event: end" in answer.stdout
    assert '"schema": "rai-report/1"' in answer.stdout.replace('"schema":"', '"schema": "')
    assert "<html" in (tmp_path / "report.html").read_text()

"""``docs/your-own-workload.md`` does what it says, block by block, without Ray."""

import difflib
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fairlead.testing.pages import Page

MOST_CHANGED = 10
_MODULES = {"python": (), "torchrun": ("-m", "torch.distributed.run")}


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def changed(before: str, after: str) -> int:
    """Lines added, removed or rewritten; one that was rewritten counts once."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal")


@pytest.mark.parametrize("name", ["digits.py", "pictures.py", "strokes.py"])
def test_ten_lines_make_a_workload_of_a_script(page: Page, name: str) -> None:
    assert 0 < changed(page.files[f"plain/{name}"], page.files[f"own/{name}"]) <= MOST_CHANGED


COUNTING = """
from torch.optim.optimizer import register_optimizer_step_post_hook
steps = []
register_optimizer_step_post_hook(lambda *_: steps.append(1))
import {script} as script
script.main(epochs=1)
print()
print(len(steps))
"""


@pytest.mark.parametrize(("script", "rows"), [("pictures", 1400), ("strokes", 1438)])
def test_plain_scripts_of_other_libraries_train_as_they_are(page: Page, script: str, rows: int, tmp_path: Path) -> None:
    said = run("-c", COUNTING.format(script=script), cwd=page.write("plain", tmp_path))
    assert int(said.split()[-1]) == math.ceil(rows / 32), "an epoch of batches of 32"


def test_the_plain_script_runs_as_it_is(page: Page, tmp_path: Path) -> None:
    said = run("digits.py", cwd=page.write("plain", tmp_path))
    assert float(re.findall(r"accuracy ([\d.]+)", said)[-1]) > 0.9
    assert (tmp_path / "digits.pt").is_file()


def test_the_workload_runs_alone_is_saved_and_goes_on(page: Page, tmp_path: Path) -> None:
    page.write("own", tmp_path)
    lines = page.commands["own"]
    first, second, third = (run(*_MODULES[line.split()[0]], *shlex.split(line)[1:], cwd=tmp_path) for line in lines)
    assert third.count("epoch 2:") == 2, "both ranks print"
    assert len(re.findall(r"step +2", third)) == 1, "one reports"
    assert [int(step) for step in re.findall(r"step +(\d+)", first + second)] == [1, 2, 3, 4, 5]

"""``docs/data.md`` says what is true: its files are made, its blocks opened, its lists are complete."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from fairlead.data import open_dataset
from fairlead.data.builtin import BUILTIN
from fairlead.data.storage import EXTRAS
from fairlead.spec import DataKind, DataSpec

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)# gives: (.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's script has made its files."""
    folder = tmp_path_factory.mktemp("page")
    (script,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("block", "promised"), BLOCKS, ids=[block.splitlines()[0] for block, _ in BLOCKS])
def test_every_block_gives_what_it_says(
    files: Path, monkeypatch: pytest.MonkeyPatch, block: str, promised: str
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("FAIRLEAD_DATA_CACHE", str(files / "cache"))
    info = open_dataset(DataSpec.model_validate(yaml.safe_load(block))).info
    kind = "a table" if info.kind == "table" else info.kind
    learns = f"classes {', '.join(info.classes)}" if info.classes else info.target
    learns = "a number" if info.kind == "table" and not info.classes else learns
    assert f"{info.num_rows} rows of {kind}, each {info.feature_shape}, {learns}" == promised


def test_there_is_a_block_for_every_yaml() -> None:
    assert len(BLOCKS) == PAGE.count("```yaml")


@pytest.mark.parametrize("kind", get_args(DataKind))
def test_every_kind_is_told(kind: str) -> None:
    assert f"| `{kind}` | " in PAGE.partition("## Kinds")[2].partition("###")[0]


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_set_is_told_with_its_kind(name: str) -> None:
    table = PAGE.partition("## Built-in sets")[2]
    (kind,) = re.findall(rf"^\| `{name}` \| `(\w+)` \|", table, re.MULTILINE)
    assert kind in get_args(DataKind)


@pytest.mark.parametrize("extra", sorted(set(EXTRAS.values())))
def test_every_storage_that_needs_an_extra_is_told(extra: str) -> None:
    assert f"fairlead[{extra}]" in PAGE

"""A data directory has its keys and tokens once, readable by its owner alone, and belongs to one stack at a time."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from fairlead.embedded.home import held, prepare
from fairlead.errors import Conflict, Unavailable


def test_keys_and_tokens_are_private_and_stay_the_same(tmp_path: Path) -> None:
    first = prepare(tmp_path / "home")
    files = [first.user_token_file, first.agent_token_file, first.secret_key_file, first.ray_token_file]
    before = [file.read_text() for file in files]
    assert [stat.S_IMODE(file.stat().st_mode) for file in (*files, first.tokens_file)] == [0o600] * 5
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    prepare(tmp_path / "home")
    assert [file.read_text() for file in files] == before


def test_the_api_is_given_hashes_only(tmp_path: Path) -> None:
    home = prepare(tmp_path / "home")
    user, agent = (file.read_text() for file in (home.user_token_file, home.agent_token_file))
    entries = json.loads(home.tokens_file.read_text())["tokens"]
    assert [(entry["kind"], entry.get("cluster")) for entry in entries] == [("user", None), ("agent", "local")]
    assert [entry["sha256"] for entry in entries] == [hashlib.sha256(t.encode()).hexdigest() for t in (user, agent)]
    assert [f"fl_{entry['id']}_" for entry in entries] == [token[:14] for token in (user, agent)]
    assert user not in home.tokens_file.read_text()


def test_an_open_directory_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    assert stat.S_IMODE(prepare(tmp_path / "home").path.stat().st_mode) == 0o700


def test_a_second_stack_in_one_directory_is_refused(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(Conflict, match="a stack already runs in"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be used: Not a directory"):
        prepare(tmp_path / "file" / "home")

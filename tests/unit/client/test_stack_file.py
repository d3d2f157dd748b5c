"""A client without an address finds the stack of its home, or is told how to start one."""

import os
import stat
from pathlib import Path

import pytest

from fairlead import Client
from fairlead.client import Stack, StackProcess
from fairlead.client.stack import read_stack
from fairlead.errors import Unavailable
from fairlead.testing.api import TOKEN, FakeApi


def a_stack(home: Path, *, api_url: str = "http://127.0.0.1:8170", pid: int | None = None) -> Stack:
    return Stack(
        home=home,
        api_url=api_url,
        mlflow_url="http://127.0.0.1:8171",
        ray_address="127.0.0.1:6400",
        ray_directory=Path("/tmp/ray"),
        marker="abc",
        supervisor=StackProcess(name="supervisor", pid=pid or os.getpid(), created=1.0),
        processes=(StackProcess(name="api", pid=1, created=2.0),),
        is_ready=True,
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stack = a_stack(tmp_path)
    stack.write()
    assert read_stack(tmp_path) == stack
    assert stat.S_IMODE((tmp_path / "stack.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"supervisor": 1}'])
def test_a_damaged_file_is_no_stack(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    assert read_stack(tmp_path) is None


def test_a_client_finds_the_stack_of_its_home(tmp_path: Path) -> None:
    with FakeApi() as api:
        a_stack(tmp_path, api_url=api.url).write()
        (tmp_path / "token").write_text(TOKEN + "\n")
        with Client(home=tmp_path) as client:
            assert client.whoami().name == "local"


def test_the_environment_names_another_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeApi() as api:
        monkeypatch.setenv("FAIRLEAD_URL", api.url)
        monkeypatch.setenv("FAIRLEAD_TOKEN", TOKEN)
        with Client() as client:
            assert client.url == api.url
            assert client.whoami().name == "local"


def test_without_a_stack_the_way_to_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start one with 'fairlead up --home"):
        Client(home=tmp_path)


def test_a_stack_that_has_died_is_no_stack(tmp_path: Path) -> None:
    a_stack(tmp_path, pid=2**22 + 1).write()
    with pytest.raises(Unavailable, match="no embedded stack runs"):
        Client(home=tmp_path)

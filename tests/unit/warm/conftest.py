"""Launchers, servers that answer what a test wants, and one that forks."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fairlead.run.warm import Places

PROGRAM = """
import os, sys
from fairlead.run.warm import birth
found = birth()
print("warm" if found.is_warm else "cold, " + found.why, *sys.argv[1:], flush=True)
"""


@dataclass(frozen=True)
class Scene:
    """A directory with a launcher and a program that passes for a Ray worker."""

    directory: Path

    def program(self, more: str = "") -> str:
        file = self.directory / "default_worker.py"
        file.write_text(PROGRAM + more)
        return str(file)

    def command(self, *arguments: str, more: str = "") -> list[str]:
        return [str(self.directory / "python"), self.program(more), *arguments]

    def run(self, *arguments: str, more: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, more=more),
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, more: str, **variables: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(more=more), env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
        )

    @contextmanager
    def answering(self, answer: Callable[[socket.socket], None]) -> Iterator[None]:
        """A server that treats one launcher as it likes."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.directory / "socket"))
            listener.listen()
            listener.settimeout(30)

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(30)
                    answer(connection)

            thread = threading.Thread(target=serve)
            thread.start()
            yield
            thread.join()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of other tests in this session may have left where its own launchers meet its server."""
    for name in [name for name in os.environ if name.startswith("FAIRLEAD_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def scene() -> Iterator[Scene]:
    directory = Path(tempfile.mkdtemp(prefix="fl-warm-"))  # a test's own path is too long for a socket
    Places(directory=directory).prepare()
    yield Scene(directory=directory)
    shutil.rmtree(directory)


@pytest.fixture
def forking_scene(scene: Scene) -> Iterator[Scene]:
    """A scene with a server that forks."""
    script = Path(__file__).with_name("small_server.py")
    server = subprocess.Popen([sys.executable, str(script), str(scene.directory)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    yield scene
    server.kill()
    server.wait()
    server.stdout.close()

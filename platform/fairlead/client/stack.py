"""``stack.json``: where the embedded stack of a data directory answers, and which processes it is made of."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairlead.errors import Unavailable

STACK_FILE = "stack.json"
TOKEN_FILE = "token"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackProcess:
    """A process and when it began, which together name it: numbers are used again."""

    name: str
    pid: int
    created: float
    """Seconds since 1970, as psutil tells them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """A running embedded stack."""

    home: Path
    api_url: str
    mlflow_url: str
    ray_address: str
    ray_directory: Path
    """Ray's own temporary directory."""
    marker: str
    """In the environment of every process of the stack."""
    supervisor: StackProcess
    processes: tuple[StackProcess, ...] = ()
    is_ready: bool = False

    @property
    def docs_url(self) -> str:
        """The API's page for people."""
        return f"{self.api_url}/docs"

    def write(self) -> None:
        """Replace the file at once, readable by its owner only."""
        path = self.home / STACK_FILE
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(asdict(self), default=str, indent=1) + "\n")
        scratch.replace(path)


def read_stack(home: Path) -> Stack | None:
    """The stack that last ran in ``home``, alive or not; None: none did, or its file makes no sense."""
    try:
        content: dict[str, Any] = json.loads((home / STACK_FILE).read_text())
        content["home"], content["ray_directory"] = home, Path(content["ray_directory"])
        content["supervisor"] = StackProcess(**content["supervisor"])
        content["processes"] = tuple(StackProcess(**process) for process in content["processes"])
        return Stack(**content)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def find_stack(home: Path) -> Stack:
    """The running stack of ``home``. Raises ``Unavailable`` where none runs, and says how to start one."""
    stack = read_stack(home)
    if stack is None or not _is_running(stack.supervisor.pid):
        advice = f"start one with 'fairlead up --home {home}', or set FAIRLEAD_URL and FAIRLEAD_TOKEN"
        raise Unavailable(f"no embedded stack runs in {home}; {advice}")
    return stack


def read_token(home: Path) -> str:
    """The user token that ``fairlead up`` made. Raises ``Unavailable`` where it cannot be read."""
    try:
        return (home / TOKEN_FILE).read_text().strip()
    except OSError as error:
        raise Unavailable(f"the token of the stack in {home} cannot be read: {error.strerror}") from error


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

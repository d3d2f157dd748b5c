"""The data directory of one stack: its keys and tokens, its files, and the lock that makes it one stack's.

Only hashes of tokens are given to the API; the texts lie in files that their owner alone can read.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fairlead.client.stack import TOKEN_FILE, read_stack
from fairlead.errors import Conflict, Unavailable

CLUSTER = "local"


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where everything of a stack lies."""

    path: Path

    @property
    def database(self) -> Path:
        """Our own SQLite file."""
        return self.path / "fairlead.db"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's: never the same file, since both number their migrations in one table."""
        return self.path / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """What MLflow serves."""
        return self.path / "mlflow-artifacts"

    @property
    def storage(self) -> Path:
        """The shared storage of control plane and cluster."""
        return self.path / "storage"

    @property
    def cache(self) -> Path:
        """The agent's unpacked bundles."""
        return self.path / "cache"

    @property
    def environments(self) -> Path:
        """What experiments with packages of their own run in; it may be deleted while nothing runs."""
        return self.path / "environments"

    @property
    def logs(self) -> Path:
        """One file for each program."""
        return self.path / "logs"

    @property
    def secret_key_file(self) -> Path:
        """Signs links and cursors."""
        return self.path / "secret.key"

    @property
    def tokens_file(self) -> Path:
        """Hashes for the API."""
        return self.path / "tokens.json"

    @property
    def user_token_file(self) -> Path:
        """For ``Client()`` and the command line."""
        return self.path / TOKEN_FILE

    @property
    def agent_token_file(self) -> Path:
        """For the agent of the local cluster."""
        return self.path / "agent.token"

    @property
    def ray_token_file(self) -> Path:
        """What every process of the local Ray shows the others."""
        return self.path / "ray.token"


def prepare(path: Path) -> Home:
    """Make what is missing: directories, keys, tokens. What is there stays. Raises ``Unavailable``."""
    home = Home(path=path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        for directory in (home.mlflow_artifacts, home.storage, home.cache, home.logs):
            directory.mkdir(mode=0o700, exist_ok=True)
        _write_once(home.secret_key_file, secrets.token_urlsafe(48))
        _write_once(home.ray_token_file, secrets.token_urlsafe(32))
        for file in (home.user_token_file, home.agent_token_file):
            _write_once(file, f"fl_{secrets.token_hex(5)}_{secrets.token_urlsafe(32)}")
        _write_private(home.tokens_file, json.dumps(_hashes(home), indent=1) + "\n")
    except OSError as error:
        raise Unavailable(f"the data directory {path} cannot be used: {error.strerror}") from error
    return home


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the directory for this process. Raises ``Conflict`` where another stack runs in it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (path / "lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(_taken(path)) from None
        yield


def _taken(path: Path) -> str:
    stack = read_stack(path)
    who = f" (process {stack.supervisor.pid}, API {stack.api_url})" if stack else ""
    return f"a stack already runs in {path}{who}; use that one, end it with Ctrl-C, or choose another --home"


def _hashes(home: Home) -> dict[str, list[dict[str, str]]]:
    user, agent = (file.read_text().strip() for file in (home.user_token_file, home.agent_token_file))
    return {
        "tokens": [
            {"id": _id(user), "kind": "user", "name": "local", "sha256": _sha256(user)},
            {"id": _id(agent), "kind": "agent", "name": "local agent", "cluster": CLUSTER, "sha256": _sha256(agent)},
        ]
    }


def _id(token: str) -> str:
    return token.split("_")[1]


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _write_once(path: Path, text: str) -> None:
    if not path.exists():
        _write_private(path, text)


def _write_private(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)

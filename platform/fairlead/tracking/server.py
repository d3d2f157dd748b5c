"""How the MLflow server is started, in one place: its command line and its environment.

The server is one process, ``python -m fairlead.tracking``: MLflow's own ASGI application under uvicorn, without the
parent process of ``mlflow server`` (half the memory, half the time to the first answer). Addresses of databases and
buckets travel in the environment, since command lines are readable by every user of a machine.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

STORE = "_MLFLOW_SERVER_FILE_STORE"
REGISTRY_STORE = "_MLFLOW_SERVER_REGISTRY_STORE"
ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
ARTIFACT_DESTINATION = "_MLFLOW_SERVER_ARTIFACT_DESTINATION"
SERVE_ARTIFACTS = "_MLFLOW_SERVER_SERVE_ARTIFACTS"
"""Names by which ``mlflow server`` hands its options to its own worker (``mlflow.server.constants``)."""

_FIXED = {
    SERVE_ARTIFACTS: "true",
    ARTIFACT_ROOT: "mlflow-artifacts:/",
    "_MLFLOW_SGI_NAME": "uvicorn",
    "_MLFLOW_IN_JOB_EXECUTOR": "false",
    "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES": "",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MALLOC_ARENA_MAX": "2",  # one heap a thread would add tens of megabytes
}


def server_command(*, host: str, port: int, python: str = sys.executable) -> list[str]:
    """The command that serves MLflow at ``host:port``; give it ``server_environment``. It never forks or daemonises."""
    return [python, "-m", "fairlead.tracking", "--host", host, "--port", str(port)]


def server_environment(
    base: Mapping[str, str],
    *,
    store: Path | str,
    artifacts: Path | str,
    host: str,
    port: int,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
) -> dict[str, str]:
    """The server's whole environment: ``base`` without any MLflow setting it may hold, then ours.

    ``store``: path of a SQLite file, or a database URL; never our own database, since both use alembic's default
    version table. ``artifacts``: a directory or a bucket. ``allowed_hosts``: exact values of the Host header beyond
    ``host`` and localhost, each with its port if it has one. Raises ``ValueError`` for a pattern: wildcards are no
    protection against DNS rebinding.
    """
    store_url = sqlite_url(store) if isinstance(store, Path) else store
    ours = {
        STORE: store_url,
        REGISTRY_STORE: store_url,
        ARTIFACT_DESTINATION: str(artifacts),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(_hosts(host, port, allowed_hosts)),
    }
    if origins := ",".join(_exact(allowed_origins)):
        ours["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = origins
    kept = {name: value for name, value in base.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return {**kept, **_FIXED, **ours}


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy address of a SQLite file."""
    return f"sqlite:///{path.absolute()}"


def _hosts(host: str, port: int, more: Iterable[str]) -> list[str]:
    """Exact Host headers, with and without port: browsers leave out a scheme's usual port."""
    names = dict.fromkeys(name for name in (host, "localhost", "127.0.0.1") if name not in ("0.0.0.0", "::"))
    return list(dict.fromkeys([*(f"{name}{end}" for name in names for end in ("", f":{port}")), *_exact(more)]))


def _exact(values: Iterable[str]) -> list[str]:
    kept = [value.strip() for value in values]
    if odd := [value for value in kept if not value or any(sign in value for sign in "*?[,")]:
        raise ValueError(f"hosts and origins must be written out, without patterns: {odd}")
    return kept


def client_environment() -> dict[str, str]:
    """Settings of MLflow's client for the one process that records; apply them before the recorder is imported.

    Three tries of 5 s: a server that is away is known to be within about 20 s, where the defaults take minutes.
    """
    return {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_UV_AUTO_DETECT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fairlead.tracking.server import client_environment, server_command, server_environment, sqlite_url


def environment(base: dict[str, str] | None = None, **changes: Any) -> dict[str, str]:
    plain: dict[str, Any] = {
        "store": Path("/data/mlflow.db"),
        "artifacts": "/data/a",
        "host": "127.0.0.1",
        "port": 5000,
    }
    return server_environment(base or {}, **{**plain, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),
        ("MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS", "false"),
        ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false"),
        ("MLFLOW_SERVER_X_FRAME_OPTIONS", "DENY"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("MLFLOW_SERVER_ALLOWED_HOSTS", "127.0.0.1,127.0.0.1:5000,localhost,localhost:5000"),
        ("_MLFLOW_SERVER_FILE_STORE", "sqlite:////data/mlflow.db"),
    ],
)
def test_the_server_is_closed_and_quiet(name: str, value: str) -> None:
    assert environment()[name] == value


def test_settings_of_whoever_starts_the_server_do_not_reach_it() -> None:
    base = {"PATH": "/bin", "MLFLOW_TRACKING_URI": "http://elsewhere", "_MLFLOW_SERVER_SERVE_ARTIFACTS": ""}
    given = environment(base)
    assert given["PATH"] == "/bin"
    assert "MLFLOW_TRACKING_URI" not in given
    assert given["_MLFLOW_SERVER_SERVE_ARTIFACTS"] == "true"


@pytest.mark.parametrize("host", ["*", "*.example", "10.0.0.?", "", "a,b"])
def test_patterns_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="written out"):
        environment(allowed_hosts=[host])
    with pytest.raises(ValueError, match="written out"):
        environment(allowed_origins=[host])


def test_a_database_url_goes_through_the_environment_only() -> None:
    url = "postgresql://mlflow:secret@db/mlflow"
    assert environment(store=url)["_MLFLOW_SERVER_REGISTRY_STORE"] == url
    assert "secret" not in " ".join(server_command(host="0.0.0.0", port=5000))


def test_all_addresses_is_no_host_name() -> None:
    hosts = environment(host="0.0.0.0", allowed_hosts=["mlflow:5000"])["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert hosts == ["localhost", "localhost:5000", "127.0.0.1", "127.0.0.1:5000", "mlflow:5000"]


def test_a_relative_file_is_made_absolute() -> None:
    assert sqlite_url(Path("mlflow.db")) == f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def test_the_client_gives_up_within_seconds() -> None:
    given = client_environment()
    assert (given["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], given["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("2", "5")


def test_knowing_how_to_start_the_server_does_not_load_mlflow() -> None:
    program = "import sys, fairlead.tracking.server; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0

import sqlite3
import urllib.error
import urllib.request

import pytest

from fairlead.testing.mlflow import MlflowServer


def status(server: MlflowServer, path: str, **headers: str) -> int:
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", 200),
        ("/health", 200),
        ("/ajax-api/3.0/mlflow/server-info", 200),
        ("/ajax-api/3.0/mlflow/assistant/config", 404),
        ("/ajax-api//3.0/mlflow/assistant/config", 404),
        ("/api/3.0/mlflow/scorers/list?experiment_id=0", 404),
        ("/api/2.0/mlflow/webhooks", 404),
        ("/ajax-api/3.0/jobs/search", 404),
        ("/api/3.0/mlflow/gateway/endpoints/list", 404),
        ("/gateway/proxy/x/y", 404),
    ],
)
def test_only_what_we_use_is_open(mlflow_server: MlflowServer, path: str, expected: int) -> None:
    assert status(mlflow_server, path) == expected


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "10.0.0.1", "localhost.evil.example"])
def test_other_names_for_the_server_are_refused(mlflow_server: MlflowServer, host: str) -> None:
    assert status(mlflow_server, "/", Host=host) == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_its_own_names_are_accepted_with_and_without_port(mlflow_server: MlflowServer, host: str) -> None:
    assert status(mlflow_server, "/", Host=host) == 200
    assert status(mlflow_server, "/", Host=f"{host}:{mlflow_server.port}") == 200


def test_the_database_writes_ahead(mlflow_server: MlflowServer) -> None:
    with sqlite3.connect(mlflow_server.directory / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_server_that_cannot_start_shows_its_log(mlflow_server: MlflowServer) -> None:
    second = MlflowServer(mlflow_server.directory / "second")
    second.port = mlflow_server.port
    second.url = "http://127.0.0.1:1"
    with pytest.raises(RuntimeError, match="address already in use"):
        second.start()

"""A real MLflow server on a free loopback port, which a test may kill and start again, and a model to give it."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fairlead.protocol import FileEntry, ModelDocument
from fairlead.testing.history import Point
from fairlead.tracking.server import server_command, server_environment

HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05

_WORKLOAD = '''
"""A workload whose import leaves a trace."""
import json
from pathlib import Path

import numpy as np

Path("{trace}").write_text("imported")


def train(params, context):
    """Not called here."""


def load(directory):
    weight = json.loads((Path(directory) / "weight.json").read_text())
    def predict(rows):
        score = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1).sum(axis=1) * weight
        chance = 1 / (1 + np.exp(-score))
        return np.column_stack([1 - chance, chance])
    return predict
'''


class MlflowServer:
    """One MLflow server: its files in ``directory``, its address the same after every restart. Not thread-safe."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allowed_hosts: tuple[str, ...] = ()
        """Names that it answers to beside its own, such as that of a link; read by ``start``."""
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers. Raises ``RuntimeError`` with the end of its log if it does not."""
        assert self._process is None, "already started"
        self.directory.mkdir(parents=True, exist_ok=True)
        store, artifacts = self.directory / "mlflow.db", self.directory / "artifacts"
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                server_command(host=HOST, port=self.port),
                env=server_environment(
                    os.environ,
                    store=store,
                    artifacts=artifacts,
                    host=HOST,
                    port=self.port,
                    allowed_hosts=self.allowed_hosts,
                ),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_healthy(self._process)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end, and make sure that it has."""
        self._end(signal.SIGTERM)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it accept connections and never answer."""
        assert self._process is not None, "not started"
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        """The last lines of its log."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for step in (sign, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, step)
            try:
                process.wait(STOP_TIMEOUT_S)
                return
            except subprocess.TimeoutExpired:
                continue
        raise RuntimeError(f"MLflow's process {process.pid} does not end")

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(f"{self.url}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise RuntimeError(f"MLflow did not start on port {self.port}:\n{self.log_tail()}")
            time.sleep(POLL_S)


@contextmanager
def serving_mlflow(directory: Path) -> Iterator[MlflowServer]:
    """A started server that is gone afterwards. Use it in a session-scoped fixture: a start takes seconds."""
    server = MlflowServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def recorded_points(url: str, experiment_id: str) -> Counter[Point]:
    """Points that a server shows in the one run of an experiment; none while it is away."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=url)
    with suppress(MlflowException):
        runs = client.search_runs(
            [each.experiment_id for each in client.search_experiments()],
            f"tags.`fairlead.experiment_id` = '{experiment_id}'",
        )
        assert len(runs) <= 1, f"{len(runs)} runs of {experiment_id}"
        keys = [(run.info.run_id, key) for run in runs for key in run.data.metrics]
        points = [point for run_id, key in keys for point in client.get_metric_history(run_id, key)]
        return Counter((point.key, point.step, point.timestamp) for point in points)
    return Counter()


def free_port() -> int:
    """A port of the loopback interface that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a GET of ``url`` is answered with 200 within a second."""
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class ExportedModel:
    """What a run leaves for the registry, made without one.

    ``directory`` and ``document``: the export. ``code``: a directory with the user's code, which needs only numpy and
    writes the file ``trace`` when it is imported. Its model predicts ``high`` where the features' sum is large.
    """

    def __init__(self, root: Path, *, feature_shape: tuple[int, ...] = (2,)) -> None:
        self.trace, self.code, self.directory = root / "trace", root / "code", root / "model"
        module = f"workload_{uuid.uuid4().hex[:8]}"
        (self.code / module).mkdir(parents=True)
        (self.code / module / "__init__.py").touch()
        (self.code / module / "page.py").write_text(_WORKLOAD.replace("{trace}", str(self.trace)))
        self.module = f"{module}.page"
        self.directory.mkdir()
        self._write(feature_shape)

    def _write(self, feature_shape: tuple[int, ...]) -> None:
        features = (("age", "float32"), ("weight", "float32")) if len(feature_shape) == 1 else (("image", "float32"),)
        plain: dict[str, Any] = {
            "workload": f"{self.module}:train",
            "params": {},
            "config": {},
            "features": features,
            "feature_shape": feature_shape,
            "classes": ("low", "high"),
            "task": "binary",
            "dataset_digest": "sha256:" + "a" * 64,
        }
        (self.directory / "weight.json").write_text("1.5")
        (self.directory / "model.json").write_text(json.dumps({**plain, "module": self.module, "threshold": 0.6}))
        self.document = ModelDocument(**plain, files=file_entries(self.directory))


def file_entries(directory: Path) -> tuple[FileEntry, ...]:
    """The files directly in ``directory``, as an exported model lists them."""
    contents = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
    return tuple(
        FileEntry(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    )

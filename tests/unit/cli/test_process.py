"""The command line as a process: how soon it speaks, and what Ctrl-C does."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from fairlead.testing.api import TOKEN, FakeApi

FAIRLEAD = [sys.executable, "-m", "fairlead.cli"]


def test_help_appears_within_half_a_second_of_processor_time() -> None:
    assert min(processor_time_of_help() for _ in range(3)) < 0.5  # the first may have to read all files from disk


def processor_time_of_help() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*FAIRLEAD, "--help"], capture_output=True, check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_an_interrupted_watch_leaves_the_experiment_running(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"name": "x", "workload": "tabular_mlp", "data": {"uri": "builtin://diabetes"}}))
    with FakeApi() as api:
        environment = {**os.environ, "FAIRLEAD_URL": api.url, "FAIRLEAD_TOKEN": TOKEN}
        command = [*FAIRLEAD, "submit", "--watch", str(spec)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"exp0001 queued")
            assert b"queued" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=20)
        assert process.returncode == 130
        assert b"exp0001 goes on without you" in told
        assert api.experiments["exp0001"].view.state == "queued"
        assert not api.sent("POST", "/v1/experiments/exp0001/cancel")


def test_colours_can_be_turned_off() -> None:
    answer = subprocess.run(
        [*FAIRLEAD, "--help"], capture_output=True, check=True, timeout=60, env={**os.environ, "NO_COLOR": "1"}
    )
    assert b"\x1b[3" not in answer.stdout

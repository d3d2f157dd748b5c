"""A cluster that Fairlead has not started: a runtime environment is all that leads workers to a server."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairlead.run.warm import WarmServer


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, for sockets. A server in it that a launcher has started is stopped."""
    directory = Path(tempfile.mkdtemp(prefix="fl-plain-"))
    yield directory
    WarmServer(directory / "warm").stop()
    shutil.rmtree(directory, ignore_errors=True)  # the server takes its socket away when it ends


@pytest.mark.nightly  # a Ray of two nodes of its own, and a root that must look hung first: most of a minute
def test_on_a_cluster_of_others_the_first_worker_is_cold_and_brings_a_server_that_serves_both_nodes(
    directory: Path,
) -> None:
    ours = ("RAY_", "FAIRLEAD_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    script = Path(__file__).with_name("plain_cluster.py")
    run = subprocess.run(
        [sys.executable, str(script), str(directory / "warm"), str(directory / "ray")],
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    seen: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    (first, *rest), other = seen["births"]
    print(f"births {seen['births']}, after the root hung {seen['after']}")
    assert first["why"] == "this node has no warm server yet"
    assert [each["is_warm"] for each in rest[-2:]] == [True, True]
    assert [each["is_warm"] for each in other[-2:]] == [True, True]
    # Two raylets of one machine share a root, and each has its own server of the second level.
    assert len(seen["jobs"]) == 2
    assert rest[-1]["parent"] != other[-1]["parent"]
    assert {str(each[-1]["parent"]) for each in (rest, other)} == set(seen["jobs"])
    assert len({job.partition("-")[0] for job in seen["jobs"].values()}) == 1
    assert seen["after"][0]["why"] == "the warm server did not answer in time"
    assert [each["is_warm"] for each in seen["after"][-2:]] == [True, True]
    assert seen["roots"][0] != seen["roots"][1]

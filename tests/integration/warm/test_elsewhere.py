"""Clusters that Fairlead has not started, and Ray Tune: a runtime environment is all that leads workers to a server."""

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
import ray
from ray import tune

from fairlead.run.warm import WarmServer, birth, runtime_env
from fairlead.testing.local_ray import LocalRay


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, for sockets. A server in it that a launcher has started is stopped."""
    directory = Path(tempfile.mkdtemp(prefix="fl-plain-"))
    yield directory
    WarmServer(directory / "warm").stop()
    shutil.rmtree(directory)


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
    assert first["why"] == "no warm server (FileNotFoundError)"
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


def sweep(storage: str) -> list[dict[str, Any]]:
    """Four trials of a small search; what each says of its process."""

    def trial(config: dict[str, int]) -> None:
        tune.report({"is_warm": birth().is_warm, "why": birth().why, "pid": os.getpid(), "number": config["number"]})

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.5}),
        param_space={"number": tune.grid_search([1, 2, 3, 4])},
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    )
    return [dict(result.metrics or {}) for result in tuner.fit()]


def test_trials_of_ray_tune_are_forked(local_ray: LocalRay, tmp_path: Path) -> None:
    server = WarmServer(local_ray.warm_directory).start()
    try:
        environment = runtime_env({}, directory=server.places.directory)
        driver = ray.remote(sweep).options(num_cpus=0, max_retries=0, runtime_env=environment)
        trials = ray.get(driver.remote(str(tmp_path)), timeout=400)
    finally:
        server.release()
    assert sorted(trial["number"] for trial in trials) == [1, 2, 3, 4]
    assert [(trial["is_warm"], trial["why"]) for trial in trials] == [(True, "")] * 4
    assert len({trial["pid"] for trial in trials}) == 4

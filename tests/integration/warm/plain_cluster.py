"""A Ray of two nodes that knows nothing of Fairlead, and workers led to a warm server by their runtime environment.

Run it with the server's directory and Ray's; it prints what it has seen as JSON.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fairlead.run.warm import birth, runtime_env, status

PATIENCE_S = 240.0


def start(temporary: str) -> Cluster:
    """The two nodes are two raylets of this machine."""
    Path("/tmp/ray").mkdir(exist_ok=True)  # Ray writes the address of a cluster there, whatever its own directory is
    small = {"num_cpus": 1, "object_store_memory": 10**8}
    head = {**small, "temp_dir": temporary, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    return cluster


def tell() -> dict[str, Any]:
    """In a worker: how it was started, and by whom."""
    found = birth()
    return {"is_warm": found.is_warm, "why": found.why, "parent": os.getppid()}


def births(node: str, directory: Path) -> list[dict[str, Any]]:
    """New workers of a node, up to the first warm one and another."""
    told: list[dict[str, Any]] = []
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and sum(each["is_warm"] for each in told) < 2:
        variables = {"ASKED": f"{time.monotonic()}"}  # no worker that is there already will do
        task = ray.remote(num_cpus=0, max_retries=0)(tell).options(
            runtime_env=runtime_env(variables, directory=directory),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        told.append(ray.get(task.remote(), timeout=PATIENCE_S))
    return told


def main(directory: Path, temporary: str) -> None:
    cluster = start(temporary)
    try:
        nodes = [node["NodeID"] for node in ray.nodes()]
        told = [births(node, directory) for node in nodes]
        found = status(directory)
        assert found is not None
        os.kill(found.pid, signal.SIGSTOP)  # nobody holds this server: only a launcher can find out
        after = births(nodes[0], directory)
        successor = status(directory)
        assert successor is not None
    finally:
        ray.shutdown()
        cluster.shutdown()
    jobs = {job.pid: job.job for job in found.jobs}
    print(json.dumps({"births": told, "jobs": jobs, "after": after, "roots": [found.pid, successor.pid]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

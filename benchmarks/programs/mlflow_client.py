"""MLflow's own client, logging as fast as it can for some seconds in three ways. Arguments: address, seconds, metrics.

Prints points a second for ``log_metric`` (a call a point), for ``log_batch`` with one step's metrics a call, and for
``log_batch`` with as many as a call takes.
"""

import json
import sys
import time
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Metric

FULL = 1000
"""Metrics that MLflow takes in a call."""


def rate(seconds: float, points_a_call: int, call: Callable[[int], None]) -> float:
    """Points a second of calls that return when the server has written."""
    began, count = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began) < seconds:
        call(count)
        count += 1
    return count * points_a_call / passed_s


def main() -> None:
    """Measure each way on a run of its own."""
    url, seconds, metrics = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    client = MlflowClient(url)
    experiment = client.create_experiment("rate")
    run_ids = [client.create_run(experiment).info.run_id for _ in range(3)]

    def one(step: int) -> None:
        client.log_metric(run_ids[0], "train/value", 0.5, step=step)

    def batch(run_id: str, step: int, count: int) -> None:
        now_ms = int(time.time() * 1000)
        values = [Metric(f"train/value_{number}", 0.5, now_ms, step) for number in range(count)]
        client.log_batch(run_id, values, synchronous=True)

    rates = {
        "log_metric_points_per_s": rate(seconds, 1, one),
        "log_batch_a_step_points_per_s": rate(seconds, metrics, lambda step: batch(run_ids[1], step, metrics)),
        "log_batch_full_points_per_s": rate(seconds, FULL, lambda step: batch(run_ids[2], step, FULL)),
    }
    print("ANSWER", json.dumps(rates), flush=True)


if __name__ == "__main__":
    main()

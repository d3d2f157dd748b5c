"""A driver that stays connected to Ray and runs one ``TorchTrainer`` a line of standard input.

Argument: Ray's address. It prints ``ready`` once, then for each order the times at which ``fit`` began and returned.
"""

import json
import sys
import time

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from training import loop

if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    print("ANSWER ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.time()
        TorchTrainer(
            loop,
            train_loop_config=order["params"],
            scaling_config=ScalingConfig(num_workers=order["workers"]),
            run_config=RunConfig(storage_path=order["storage"]),
        ).fit()
        print("ANSWER", json.dumps({"began": began, "ended": time.time()}), flush=True)

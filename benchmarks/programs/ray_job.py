"""What a user of Ray submits as a job: a script that runs one ``TorchTrainer``. Argument: the order, as JSON."""

import json
import sys

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from training import loop

if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    TorchTrainer(
        loop,
        train_loop_config=order["params"],
        scaling_config=ScalingConfig(num_workers=order["workers"]),
        run_config=RunConfig(storage_path=order["storage"]),
    ).fit()

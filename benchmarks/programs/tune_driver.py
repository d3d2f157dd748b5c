"""A driver that stays connected to Ray and runs one sweep of Ray Tune, or one of Optuna's, a line of standard input.

Argument: Ray's address. It prints ``ready`` once, then for each order the seconds that the sweep took.
"""

import json
import os
import sys
import time

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # as quick as it gets
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "3600"

import optuna
import ray
from ray import tune
from trial import learn


def objective(config: dict[str, float]) -> None:
    """A trial of Ray Tune's."""
    tune.report({"loss": learn(config)})


def with_tune(order: dict[str, object]) -> float:
    """Seconds of ``fit``."""
    params, slots = order["params"], order["slots"]
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        param_space={**params, "x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            num_samples=order["trials"],
            max_concurrent_trials=slots,
            reuse_actors=order["reuse"],
            metric="loss",
            mode="min",
        ),
        run_config=tune.RunConfig(storage_path=order["storage"], verbose=0),
    )
    began = time.monotonic()
    results = tuner.fit()
    took = time.monotonic() - began
    assert (results.num_errors, len(results)) == (0, order["trials"]), "every trial must count"
    return took


def with_optuna(order: dict[str, object]) -> float:
    """Seconds of ``optimize`` in this process, one trial after the other."""
    params = order["params"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    began = time.monotonic()
    study.optimize(lambda trial: learn({**params, "x": trial.suggest_float("x", 0, 1)}), n_trials=order["trials"])
    return time.monotonic() - began


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    print("ANSWER ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print("ANSWER", json.dumps(with_optuna(asked) if asked["who"] == "optuna" else with_tune(asked)), flush=True)

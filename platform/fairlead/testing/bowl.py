"""A workload for tests of sweeps: a bowl whose lowest point is at x = 0.3, reached in ``steps`` steps of ``step_s``.

``misbehave`` says what goes wrong with trials whose x is above ``above``.
"""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed

from fairlead.workload import Context, Params


def train(params: Params, context: Context) -> None:
    """Report the distance from the lowest point, a little nearer with every step, and count the judged rows."""
    first = 1
    if context.resume_from is not None:
        first = json.loads((context.resume_from / "state.json").read_text())["step"] + 1
    depth = (params["x"] - 0.3) ** 2
    steps = params.get("steps", 3)
    for step in range(first, steps + 1):
        time.sleep(params.get("step_s", 0.0))
        if params["x"] > params.get("above", 2):
            _misbehave(params["misbehave"], context)
        is_lost = params.get("misbehave") == "nan" and params["x"] > params.get("above", 2)
        loss = float("nan") if is_lost else depth + 1.0 / step
        total = torch.ones(1)
        if context.world_size > 1:
            torch.distributed.all_reduce(total)
        metrics = {
            "validation/loss": loss,
            "validation/ranks": float(total),
            "other/step": float(step),
            "other/pid": os.getpid(),
        }
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state.json").write_text(json.dumps({"step": step, "first": first}))
            context.report(metrics, step=step, checkpoint=Path(directory) if params.get("keeps") else None)
        if context.should_stop():
            return
    if params.get("evaluates", True):
        _evaluate(params, context)


def _misbehave(how: str, context: Context) -> None:
    if how == "raise":
        raise ValueError(f"x is too large on rank {context.rank}")
    if how == "exit":
        os._exit(7)
    if how == "killed" or (how == "killed_once" and context.resume_from is None):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "rank_killed" and context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "sleeps":
        time.sleep(3600)


def _evaluate(params: Params, context: Context) -> None:
    """Right for all of the first group, and for a share of the others that grows with x."""
    shard = context.shard("test")
    wrong = np.arange(len(shard)) % 10 < 8 * (1 - params["x"])
    predictions = np.where(wrong, 1 - shard.labels, shard.labels)
    context.evaluate("test", records=shard.records, predictions=predictions, scores=predictions.astype(float))

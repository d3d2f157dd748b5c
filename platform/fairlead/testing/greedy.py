"""A workload for tests that takes more than there is: room, memory, points.

``steps``, ``step_s``: as the name says. ``checkpoint_kb``: size of each checkpoint; those of the steps in ``large_at``
have ``large_kb``. ``keys``: metrics a step beside ``train/step``. ``hog_mb``: memory that rank ``rank`` takes and keeps
at each step from ``hog_from`` on, in the first ``hog_groups`` worker groups of an attempt.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from fairlead.workload import Context, Params


def train(params: Params, context: Context) -> None:
    """Train for ``steps`` steps and evaluate."""
    print(f"pid {os.getpid()} of rank {context.rank}", flush=True)
    taken: list[bytes] = []
    for step in range(_first_step(context), params["steps"]):
        time.sleep(params.get("step_s", 0.05))
        if step >= params.get("hog_from", 2**31) and context.rank == params.get("rank", 0):
            taken.append(os.urandom(2**10) * 2**10 * params["hog_mb"])
        metrics = {f"key/{number}": float(number) for number in range(params.get("keys", 0))}
        _report(params, context, step, {"train/step": float(step), **metrics})
        if context.should_stop():
            return
    print(f"all steps are done after {time.monotonic():.1f}", flush=True)
    test = context.shard("test")
    context.evaluate("test", records=test.records, predictions=np.zeros(len(test), dtype=np.int64))


def _first_step(context: Context) -> int:
    if context.resume_from is None:
        return 0
    done: int = json.loads((context.resume_from / "state.json").read_text())["step"]
    return done + 1


def _report(params: Params, context: Context, step: int, metrics: dict[str, float]) -> None:
    if "checkpoint_kb" not in params:
        context.report(metrics, step=step)
        return
    size_kb = params["large_kb"] if step in params.get("large_at", ()) else params["checkpoint_kb"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "state.json").write_text(json.dumps({"step": step}))
        Path(directory, "weights").write_bytes(bytes(size_kb * 1024))
        context.report(metrics, step=step, checkpoint=Path(directory))

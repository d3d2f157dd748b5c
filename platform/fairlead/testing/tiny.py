"""A workload for tests: counts steps, keeps checkpoints, and misbehaves as its parameters say.

``steps``: how many; ``step_s``: how long each takes; ``misbehave``: what goes wrong, at step ``at``; ``rank``: where.
"""

import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from fairlead.workload import Context, Params

HUNDRED_MB = 100 * 1024 * 1024


def train(params: Params, context: Context) -> None:
    """Train for ``steps`` steps, evaluate and export."""
    steps = params.get("steps", 3)
    for step in range(_first_step(context), steps):
        time.sleep(params.get("step_s", 0.01))
        total = torch.ones(1)
        if context.world_size > 1:
            torch.distributed.all_reduce(total)
        if step == params.get("at", 1) and context.rank == params.get("rank", 0):
            MISBEHAVIOURS[params.get("misbehave", "not")](context)
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state.json").write_text(json.dumps({"step": step}))
            loss = float("nan") if params.get("misbehave") == "nan" and step == params.get("at", 1) else 1 / (step + 1)
            context.report({"train/loss": loss, "train/world": float(total)}, step=step, checkpoint=Path(directory))
        if context.should_stop():
            return
    if params.get("misbehave") != "no_evaluation":
        _evaluate(context, twice=params.get("misbehave") == "evaluate_twice")
        context.export({"weight": torch.zeros(2, 3)}, config={"width": 3})


def _first_step(context: Context) -> int:
    if context.resume_from is None:
        return 0
    done: int = json.loads((context.resume_from / "state.json").read_text())["step"]
    return done + 1


def _evaluate(context: Context, *, twice: bool) -> None:
    shard = context.shard("test")
    for _ in range(1 + twice):
        scores = np.full(len(shard), 0.75)
        context.evaluate("test", records=shard.records, predictions=np.ones(len(shard), dtype=np.int64), scores=scores)


def _raise(context: Context) -> None:
    raise ValueError(f"the loss exploded on rank {context.rank}")


def _print_much(context: Context) -> None:
    print("first words")
    line = "x" * 1023 + "\n"
    for _ in range(HUNDRED_MB // len(line) // 64):
        sys.stdout.write(line * 64)
    print("last words")


def _die_once(context: Context) -> None:
    """Only a group that starts from nothing dies: the next one goes on from a checkpoint."""
    if context.resume_from is None:
        os.kill(os.getpid(), signal.SIGKILL)


def _nothing(context: Context) -> None:
    """Behave."""


MISBEHAVIOURS: Mapping[str, Callable[[Context], Any]] = {
    "not": _nothing,
    "nan": _nothing,
    "no_evaluation": _nothing,
    "evaluate_twice": _nothing,
    "raise": _raise,
    "exit_zero": lambda _: os._exit(0),
    "sys_exit": lambda _: sys.exit(0),
    "print": _print_much,
    "die_once": _die_once,
    "hang": lambda _: time.sleep(3600),
    "crash": lambda _: ctypes.string_at(0),
}

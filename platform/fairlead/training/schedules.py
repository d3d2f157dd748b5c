"""How the learning rate goes over the steps of a training."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: torch.optim.Optimizer, *, steps: int, warmup: int = 0, least: float = 0.0
) -> torch.optim.lr_scheduler.LRScheduler:
    """Rise in ``warmup`` steps to the optimizer's rate, then fall along half a cosine to ``least`` of it.

    Source: Loshchilov, Hutter 2017, SGDR, without restarts.
    """

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, share)

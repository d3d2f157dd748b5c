"""One model on all ranks, in the precision that its device is fast in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairlead.data import Batch
from fairlead.workload import Context


def parallel(model: nn.Module, context: Context, **options: Any) -> nn.Module:
    """``model`` with gradients averaged over all ranks while they are computed; alone: ``model`` itself.

    ``options``: those of ``DistributedDataParallel``, such as ``find_unused_parameters``.
    """
    if context.world_size == 1:
        return model
    devices = [torch.device(context.device)] if context.device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=devices, **options)


def autocast(context: Context) -> contextlib.AbstractContextManager[Any]:
    """On CUDA, matrix products in bfloat16 with float32 sums; on a CPU nothing, where bfloat16 is mostly slower."""
    if context.device.startswith("cuda"):
        precision: contextlib.AbstractContextManager[Any] = torch.autocast("cuda", dtype=torch.bfloat16)
        return precision
    return contextlib.nullcontext()


def compiled(model: nn.Module, context: Context) -> nn.Module:
    """``torch.compile`` on CUDA; on a CPU the model as it is: compiling takes longer there than short trainings do."""
    if context.device.startswith("cuda"):
        compiled_model: nn.Module = torch.compile(model)
        return compiled_model
    return model


def clip(model: nn.Module, most: float) -> float:
    """Scale all gradients so that their norm is at most ``most``; returns the norm before. 0: leave them."""
    if most <= 0:
        return 0.0
    return float(nn.utils.clip_grad_norm_(model.parameters(), most))


def micro_batches(model: nn.Module, batch: Batch, *, size: int) -> Iterator[NDArray[np.int64]]:
    """The rows of ``batch`` in portions of ``size``, for gradients that are added up before one step; 0: all at once.

    Ranks talk only in the last portion. A rank whose rows are fewer takes part with an empty one.
    """
    positions = batch.positions
    portions = [positions[at : at + size] for at in range(0, len(positions), size)] if size > 0 else [positions]
    portions = portions or [positions]
    is_shared = isinstance(model, DistributedDataParallel)
    for portion in portions[:-1]:
        with model.no_sync() if is_shared else contextlib.nullcontext():
            yield portion
    yield portions[-1]

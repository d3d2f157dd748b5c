"""Models whose weights are spread over all ranks, and their checkpoints, which all ranks write together.

*Replicas* hold all weights on every rank and average gradients. *Shards* hold a part of each weight a rank, and gather
those of a block while it computes: FSDP2, ``torch.distributed.fsdp.fully_shard``. Both compute the same thing.
"""

import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as shared_checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from fairlead.errors import BadInput
from fairlead.training.keeping import CHECKPOINT, keep, restore
from fairlead.training.models import parallel
from fairlead.workload import Context

STRATEGIES = ("replicas", "shards")
_STEP = "step"


def spread(model: nn.Module, context: Context, *, strategy: str, parts: Iterable[nn.Module] = ()) -> nn.Module:
    """``model`` on all ranks by ``strategy``; alone: ``model`` itself.

    ``parts``: blocks whose weights are gathered one after another, so that a rank holds all of one block at a time. Of
    shards the model itself is changed: make the optimizer afterwards, and call the model on all ranks equally often,
    also to evaluate. Raises ``BadInput`` for another strategy.
    """
    if strategy not in STRATEGIES:
        raise BadInput(f"strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    if context.world_size == 1 or strategy == "replicas":
        return parallel(model, context)
    mesh = init_device_mesh(context.device.partition(":")[0], (context.world_size,))
    for part in parts:
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole_weights(model: nn.Module) -> Mapping[str, Any]:
    """All weights, on rank 0 and its processor; shards leave the other ranks with none. Collective."""
    if not isinstance(model, FSDPModule):
        weights: Mapping[str, Any] = model.state_dict()
        return weights
    gathered: Mapping[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return gathered


@dataclass(slots=True)
class _Running:
    """A checkpoint that is being written."""

    step: int
    directory: Path
    written: Future[Any]


class Keeper:
    """Checkpoints of a model, its optimizer and its schedule, whichever way the model is spread.

    Those of replicas are one file, as ``keep`` writes it. Those of shards are written by all ranks, each its part,
    while the training goes on; any number of ranks can go on from them. The last one is reported when the next one
    begins, or by ``finish``. Every method is collective.
    """

    def __init__(
        self,
        context: Context,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self._context = context
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._running: _Running | None = None
        # The writing thread talks to the other ranks while they train: not over the same line.
        self._line = torch.distributed.new_group(backend="gloo") if isinstance(model, FSDPModule) else None

    def restore(self) -> int:
        """Go on from the checkpoint there is; returns its step, 0 where the training begins."""
        place = self._context.resume_from
        if place is None or (place / CHECKPOINT).is_file():
            if place is not None and self._line is not None:
                raise BadInput("the checkpoint is one of replicas; go on with the strategy replicas")
            return restore(self._context, self._parts())
        state = self._state()
        with warnings.catch_warnings():
            # A single rank reads the parts of all: what torch takes for a mistake is meant.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            shared_checkpoint.load(state, checkpoint_id=place, no_dist=self._context.world_size == 1)
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self._schedule.load_state_dict(state["schedule"])
        return int(state[_STEP])

    def keep(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Report ``metrics`` at ``step``, and begin a checkpoint."""
        if self._line is None:
            keep(self._context, metrics, step=step, parts=self._parts())
            return
        self.finish()
        self._context.report(metrics, step=step)
        directory = self._context.shared_directory(step)
        # Weights and sums are copied before this returns: the next step may change them.
        written = shared_checkpoint.async_save(
            {**self._state(), _STEP: step}, checkpoint_id=directory, process_group=self._line
        )
        self._running = _Running(step=step, directory=directory, written=written)

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is complete, and report it."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.written.result()  # on rank 0 after the parts of all ranks: it writes what ties them together
        self._context.report({}, step=running.step, checkpoint=running.directory if self._context.rank == 0 else None)

    def _parts(self) -> dict[str, Any]:
        return {"model": self._model, "optimizer": self._optimizer, "schedule": self._schedule}

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer, "schedule": self._schedule.state_dict(), _STEP: 0}

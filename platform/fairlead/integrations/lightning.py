"""For Lightning's ``Trainer``: a strategy that knows the ranks of a workload's context, and a callback that reports.

The script stays what it is; ``devices`` and ``num_nodes`` need not be said. At the end of each epoch what the module
has logged is reported with a checkpoint, and training ends there where a stop is asked for.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from fairlead.data.alone import run_alone
from fairlead.data.torch import random_state, set_random_state
from fairlead.workload import Context

__all__ = ["ContextCallback", "ContextStrategy", "checkpoint_of", "run_alone", "strategy"]
FILE = "checkpoint.ckpt"


def strategy(context: Context, **options: Any) -> Strategy:
    """For ``Trainer(strategy=...)``: one device, or ``DistributedDataParallel`` over the ranks that are there.

    ``options``: of ``DDPStrategy``, such as ``find_unused_parameters``.
    """
    accelerator = CPUAccelerator() if context.device == "cpu" else CUDAAccelerator()
    if context.world_size == 1:
        return SingleDeviceStrategy(device=torch.device(context.device), accelerator=accelerator)
    return ContextStrategy(context, accelerator=accelerator, **options)


def checkpoint_of(context: Context) -> Path | None:
    """For ``trainer.fit(..., ckpt_path=...)``: where to go on from, or None."""
    return None if context.resume_from is None else context.resume_from / FILE


class ContextCallback(Callback):
    """Reports at the end of each epoch, with the number of epochs as step.

    Return after ``trainer.fit`` if ``context.should_stop()``: a training that was stopped has not come to its end.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what was logged, and a checkpoint. Every rank is here: saving is collective."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with tempfile.TemporaryDirectory() as directory:
            trainer.save_checkpoint(Path(directory, FILE), weights_only=False)
            kept = Path(directory) if self._context.rank == 0 else None
            self._context.report(metrics, step=trainer.current_epoch + 1, checkpoint=kept)
        if self._context.should_stop():
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Where the random numbers stand: Lightning keeps everything else."""
        return {"random": random_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        set_random_state(state_dict["random"])


class ContextStrategy(DDPStrategy):
    """Over the process group that the platform has made, one device for each rank."""

    def __init__(self, context: Context, **options: Any) -> None:
        super().__init__(cluster_environment=ContextEnvironment(context), **options)
        self._context = context

    @property
    def root_device(self) -> torch.device:
        """This rank's."""
        return torch.device(self._context.device)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """By the ranks that there are, not by ``devices`` and ``num_nodes``."""
        return {"num_replicas": self._context.world_size, "rank": self._context.rank}


class ContextEnvironment(ClusterEnvironment):
    """Who the ranks are. They are there already, and so is their group: nobody asks for its address."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    @property
    def creates_processes_externally(self) -> bool:
        """The platform makes them."""
        return True

    @property
    def main_address(self) -> str:
        """Unused."""
        return ""

    @property
    def main_port(self) -> int:
        """Unused."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Never found by itself: a strategy brings it along."""
        return False

    def world_size(self) -> int:
        """All of them."""
        return self._context.world_size

    def set_world_size(self, size: int) -> None:
        """Lightning's own count, from ``devices`` and ``num_nodes``, means nothing here."""

    def global_rank(self) -> int:
        """This one."""
        return self._context.rank

    def set_global_rank(self, rank: int) -> None:
        """As ``set_world_size``."""

    def local_rank(self) -> int:
        """Among those of this machine; who is first there prepares the data."""
        return int(os.environ.get("LOCAL_RANK", self._context.rank))

    def node_rank(self) -> int:
        """Of this machine."""
        return int(os.environ.get("NODE_RANK", "0"))

"""Checkpoints of the parts of a training, and how it goes on from one."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from fairlead.workload import Context

CHECKPOINT = "checkpoint.pt"


class Stateful(Protocol):
    """What has a state: models, optimizers, schedules, ``Best``."""

    def state_dict(self) -> Any:
        """Tensors, numbers and texts, in dictionaries and lists."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take over what ``state_dict`` gave."""
        ...


def restore(context: Context, parts: Mapping[str, Stateful]) -> int:
    """Load ``parts`` from the checkpoint to go on from; returns its step, 0 where the training begins.

    The parts are those that ``keep`` was given. Raises ``KeyError`` naming a part that the checkpoint lacks.
    """
    if context.resume_from is None:
        return 0
    saved = torch.load(context.resume_from / CHECKPOINT, map_location=context.device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved["parts"][name])
    step: int = saved["step"]
    return step


def keep(context: Context, metrics: Mapping[str, float], *, step: int, parts: Mapping[str, Stateful]) -> None:
    """Report ``metrics`` at ``step``, with a checkpoint of ``parts``; rank 0 writes it.

    Files are written to a scratch directory, which the platform has copied when this returns.
    """
    if context.rank != 0:
        context.report(metrics, step=step)
        return
    with tempfile.TemporaryDirectory() as directory:
        states = {name: part.state_dict() for name, part in parts.items()}
        torch.save({"parts": states, "step": step}, Path(directory) / CHECKPOINT)
        context.report(metrics, step=step, checkpoint=Path(directory))


class Best:
    """The weights of ``model`` at the step with the lowest merit so far. Of equal merits the earlier step counts."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._merit = float("inf")
        self._weights = copy.deepcopy(model.state_dict())

    def offer(self, merit: float) -> bool:
        """Keep the model's present weights if ``merit`` is lower than any before; whether it was. NaN never is."""
        if not merit < self._merit:
            return False
        self._merit, self._weights = merit, copy.deepcopy(self._model.state_dict())
        return True

    def put_back(self) -> None:
        """Give the model the best weights."""
        self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"merit": self._merit, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._merit, self._weights = state["merit"], state["weights"]

"""For a plain PyTorch loop: two calls that keep a training in a checkpoint and take it up again.

A checkpoint is one file, ``training.pt``: the state dicts of the parts by name, the step, and the state of the random
numbers of Python, numpy and torch. So a program that is resumed goes on as if it had never been interrupted, bit by bit
on one rank, and on several where all draw alike.
"""

import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from fairlead.data.alone import run_alone
from fairlead.data.torch import random_state, set_random_state
from fairlead.errors import BadInput
from fairlead.workload import Context

__all__ = ["report", "resume", "run_alone"]
FILE = "training.pt"


class Part(Protocol):
    """A model, an optimizer, a schedule, a scaler: whatever can say its state and take it back."""

    def state_dict(self) -> Any:
        """All of it."""
        ...

    def load_state_dict(self, state_dict: Any) -> Any:
        """Become what another one was."""
        ...


def resume(context: Context, **parts: Part) -> int:
    """Give ``parts`` the state that ``report`` kept of them; returns the step after it, or 1 where nothing was kept.

    Names are those given to ``report``. It may be called before a model is wrapped in ``DistributedDataParallel`` or
    after. Raises ``BadInput`` for a checkpoint that was not made by ``report``, lacks a part, or does not fit one.
    """
    if context.resume_from is None:
        return 1
    saved = _read(context.resume_from / FILE)
    if missing := parts.keys() - saved["parts"].keys():
        raise BadInput(f"the checkpoint {context.resume_from} has no {sorted(missing)[0]}, only {_names(saved)}")
    for name, part in parts.items():
        try:
            _bare(part).load_state_dict(saved["parts"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise BadInput(f"the checkpoint's {name} does not fit what this program has built: {error}") from error
    set_random_state(saved["random"])
    return int(saved["step"]) + 1


def report(context: Context, metrics: Mapping[str, float], *, step: int, **parts: Part) -> None:
    """Report ``metrics`` at ``step`` with a checkpoint of ``parts``, from which ``resume`` goes on.

    Every rank may call it; rank 0's counts. No collective.
    """
    if context.rank != 0:
        context.report(metrics, step=step)
        return
    states = {name: _bare(part).state_dict() for name, part in parts.items()}
    with tempfile.TemporaryDirectory() as directory:
        torch.save({"step": step, "parts": states, "random": random_state()}, Path(directory, FILE))
        context.report(metrics, step=step, checkpoint=Path(directory))


def _bare(part: Part) -> Part:
    """The model inside, so that a checkpoint is the same for any number of ranks."""
    return part.module if isinstance(part, DistributedDataParallel) else part


def _names(saved: Mapping[str, Any]) -> str:
    return ", ".join(saved["parts"]) or "nothing"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        saved: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadInput(f"{path} is not there: this checkpoint was not made by report()") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    return saved

"""For the ``Trainer`` of Hugging Face's transformers: one call that joins it to a workload's context.

The script stays what it is. What the trainer logs is reported under the names that its own trackers use
(``train/loss``, ``eval/accuracy``), each checkpoint that it saves is kept, and where a stop is asked for it saves once
more and ends.
"""

import tempfile
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fairlead.data.alone import run_alone
from fairlead.data.torch import gather_objects
from fairlead.errors import BadInput
from fairlead.workload import Context

__all__ = ["ContextCallback", "prepare", "run_alone"]


def prepare(trainer: Trainer, context: Context, *, look_every: int = 10) -> Trainer:
    """``trainer`` itself, joined to ``context``: reports, checkpoints, an end where one is asked for. Collective.

    Its checkpoints go to a directory of this machine, the newest alone unless ``save_total_limit`` says otherwise: the
    platform copies each. Go on with ``trainer.train(resume_from_checkpoint=context.resume_from)``, and return after it
    if ``context.should_stop()``. ``look_every``: steps between two looks whether to stop, an exchange among ranks.
    Raises ``BadInput`` for a trainer that would train each rank for itself, or that saves nothing.
    """
    arguments = trainer.args
    if arguments.world_size != context.world_size:
        raise BadInput(
            f"the trainer knows {arguments.world_size} rank(s), and there are {context.world_size}: each would train "
            "for itself; make TrainingArguments inside the workload, where RANK, WORLD_SIZE and LOCAL_RANK are set"
        )
    if str(getattr(arguments.save_strategy, "value", arguments.save_strategy)) == "no":
        raise BadInput("TrainingArguments.save_strategy is 'no': there would be no checkpoint to resume from")
    scratch = tempfile.TemporaryDirectory(prefix="fairlead-trainer-")
    shared = Path(gather_objects(scratch.name)[0])  # ranks of one machine write into one checkpoint
    shared.mkdir(parents=True, exist_ok=True)
    arguments.output_dir = str(shared)
    arguments.save_total_limit = arguments.save_total_limit or 1
    trainer.add_callback(ContextCallback(context, look_every=look_every, scratch=scratch))
    return trainer


class ContextCallback(TrainerCallback):
    """What ``prepare`` gives a trainer."""

    def __init__(self, context: Context, *, look_every: int, scratch: Any = None) -> None:
        self._context = context
        self._look_every = look_every
        self._scratch = scratch  # lives as long as the trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Read the weights to go on from once more, as the library itself reads a model.

        The trainer reads them by the names under which they are saved, and of families that it saves under other names
        than it trains under (vision transformers, for one) it takes none, with no more than a warning: transformers
        5.24, https://github.com/huggingface/transformers/issues/43701.
        """
        found = self._context.resume_from
        bare = getattr(model, "module", model)
        if found is not None and isinstance(bare, PreTrainedModel) and any(found.glob("model*.safetensors")):
            bare.load_state_dict(type(bare).from_pretrained(found).state_dict())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Report numbers."""
        numbers = {renamed(name): float(value) for name, value in (logs or {}).items() if isinstance(value, Real)}
        if numbers:
            self._context.report(numbers, step=state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep what has just been saved, once every rank has written its part."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self._context.report({}, step=state.global_step, checkpoint=directory if self._context.rank == 0 else None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look whether to stop, now and then."""
        if state.global_step % self._look_every == 0:
            self._look(control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Look whether to stop."""
        self._look(control)

    def _look(self, control: TrainerControl) -> None:
        if self._context.should_stop():
            control.should_save = True
            control.should_training_stop = True


def renamed(name: str) -> str:
    """``eval_loss`` as ``eval/loss``, all that has no such prefix below ``train/``: what its own trackers do."""
    for split in ("eval", "test"):
        if name.startswith(f"{split}_"):
            return f"{split}/{name.removeprefix(f'{split}_')}"
    return f"train/{name}"

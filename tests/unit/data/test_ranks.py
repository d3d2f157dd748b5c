"""Ranks that were joined leave nothing of torch's behind for the interpreter's end."""

import gc
import weakref
from pathlib import Path

import torch

from fairlead.data.torch import joined_ranks


def test_what_holds_the_group_is_gone_when_ranks_have_left(tmp_path: Path) -> None:
    gc.disable()
    try:
        with joined_ranks(tmp_path / "meeting", rank=0, world_size=1):
            model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
            model.myself = [model]  # a cycle, as DistributedDataParallel makes once it has trained
            alive = weakref.ref(model)
            del model
            assert alive() is not None
        assert alive() is None
    finally:
        gc.enable()

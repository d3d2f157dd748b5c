"""Two pages of the catalogue, run by Fairlead as they are, and the same models and batches as plain PyTorch scripts.

``params``: ``page`` (``image_cnn`` or ``transformer_lm``), ``given`` (the page's parameters, all of them), ``data`` (as
in a spec), ``stamp`` (a path: rank 0 writes there, as JSON, the seconds of every epoch and of a step in each, and on a
GPU the peak memory).
Run by torchrun the one argument is ``params`` as JSON.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

from fairlead.data import open_dataset
from fairlead.spec import DataSpec
from fairlead_workloads import image_cnn, transformer_lm


def train(params: Mapping[str, Any], context: Any) -> None:
    """Run by Fairlead: the page itself, whose reports are timed."""
    times = Times()
    told = context.report

    def report(*given: Any, **named: Any) -> None:
        told(*given, **named)
        times.end_epoch()

    context.report = report
    importlib.import_module(f"fairlead_workloads.{params['page']}").train(params["given"], context)
    if context.rank == 0:
        times.leave(params["stamp"])


class Times:
    """When steps and epochs have ended, of whatever optimizer this process has."""

    def __init__(self) -> None:
        self._steps: list[list[float]] = [[]]
        self._epochs = [time.perf_counter()]
        register_optimizer_step_post_hook(lambda *_: self._steps[-1].append(time.perf_counter()))

    def end_epoch(self) -> None:
        """Everything an epoch ends with is done: validation, checkpoint, report."""
        self._epochs.append(time.perf_counter())
        self._steps.append([])

    def leave(self, stamp: str) -> None:
        """Write them down. A step lasts from the end of the one before; the first of an epoch does not count."""
        spans = [(steps[-1] - steps[0]) / (len(steps) - 1) for steps in self._steps if len(steps) > 1]
        found: dict[str, Any] = {"epochs_s": np.diff(self._epochs).tolist(), "steps_s": spans}
        if torch.cuda.is_available():
            found["peak_bytes"] = torch.cuda.max_memory_allocated()
        Path(stamp).write_text(json.dumps(found))


def main() -> None:
    """Run by torchrun."""
    params = json.loads(sys.argv[1])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if is_cuda else torch.device("cpu")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if world_size > 1:
        torch.distributed.init_process_group("nccl" if is_cuda else "gloo")
    rows = open_dataset(DataSpec.model_validate(params["data"])).rows("train")
    work = {"image_cnn": plain_image_cnn, "transformer_lm": plain_transformer_lm}[params["page"]]
    times = Times()
    for model, optimizer, epoch in work(params["given"], rows, device, rank, world_size):
        if rank == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, f"{params['stamp']}.pt")
        times.end_epoch()
    if rank == 0:
        times.leave(params["stamp"])
    if world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


Epoch = tuple[nn.Module, torch.optim.Optimizer, int]


def shares(count: int, batch: int, epoch: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, float]]:
    """This rank's rows of every batch of an epoch, and what a summed loss is multiplied by."""
    order = np.random.RandomState((0, epoch)).permutation(count)
    for start in range(0, count, batch):
        rows = order[start : start + batch]
        mine = rows[len(rows) * rank // world_size : len(rows) * (rank + 1) // world_size]
        yield torch.from_numpy(mine), world_size / len(rows)


def plain_image_cnn(given: Mapping[str, Any], rows: Any, device: Any, rank: int, world_size: int) -> Iterator[Epoch]:
    """The small residual network, with the page's augmentation; on a GPU in bfloat16 as the page does it."""
    mean, std = image_cnn.scale_of(rows.features)
    model: nn.Module = image_cnn.ConvolutionalNet(
        mean=mean, std=std, classes=int(rows.labels.max()) + 1, width=given["width"], blocks=given["blocks"]
    ).to(device)
    ranks = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=given["lr"], weight_decay=given["weight_decay"])
    steps = given["epochs"] * -(-len(rows) // given["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, given["lr"], total_steps=steps)
    pictures = torch.from_numpy(rows.features).to(device)
    labels = torch.from_numpy(rows.labels).to(device)
    most = {name: given[name] for name in ("shift", "turn", "stretch")}
    for epoch in range(1, given["epochs"] + 1):
        moves = image_cnn.draw_moves(len(rows), seed=(0, epoch, 1))
        for chosen, scale in shares(len(rows), given["batch_size"], epoch, rank, world_size):
            moved = image_cnn.move(pictures[chosen.to(device)], moves[chosen.numpy()], **most)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = ranks(moved)
            loss = functional.cross_entropy(logits.float(), labels[chosen.to(device)], reduction="sum")
            optimizer.zero_grad()
            (loss * scale).backward()
            optimizer.step()
            schedule.step()
        yield model, optimizer, epoch


def plain_transformer_lm(
    given: Mapping[str, Any], rows: Any, device: Any, rank: int, world_size: int
) -> Iterator[Epoch]:
    """The decoder; on a GPU compiled, and in bfloat16 as the page does it."""
    settings = transformer_lm.Settings(**given)
    alphabet = transformer_lm.Alphabet.of(list(rows.features), settings)
    stream = torch.from_numpy(transformer_lm.packed(alphabet.encode(rows.features), alphabet.mark)).to(device)
    shape = {"width": settings.width, "heads": settings.heads, "layers": settings.layers}
    model: nn.Module = transformer_lm.LanguageModel(symbols=alphabet.mark + 1, **shape).to(device)
    ranks = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model
    step = torch.compile(ranks) if device.type == "cuda" else ranks
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay
    )
    count = (len(stream) - 1) // settings.context
    steps = settings.epochs * -(-count // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    reach = torch.arange(settings.context + 1, device=device)
    for epoch in range(1, settings.epochs + 1):
        offset = np.random.RandomState((0, epoch, 1)).randint(len(stream) - count * settings.context)
        for chosen, scale in shares(count, settings.batch_size, epoch, rank, world_size):
            windows = stream[offset + chosen.to(device)[:, None] * settings.context + reach]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = step(windows[:, :-1])
            loss = functional.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="sum")
            optimizer.zero_grad()
            (loss / settings.context * scale).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        yield model, optimizer, epoch


if __name__ == "__main__":
    main()

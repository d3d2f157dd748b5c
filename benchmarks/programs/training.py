"""One small training program, run in every way that is compared: by Fairlead, by Ray Train, by torchrun, alone.

``params``: ``steps``, ``width`` and ``batch`` (the work), ``metrics`` (values reported a step), ``checkpoint_every``
(steps; 0: never), ``seconds`` (end after so long, one worker only; 0: never), ``rest`` (seconds slept each step),
``stamp`` (a path: rank 0 writes the time there in the first line of its loop; beside it each rank writes its process
number, and rank 0 at the end the duration of every step and of every report).
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEFAULTS: Mapping[str, Any] = {
    "steps": 1,
    "width": 32,
    "batch": 64,
    "metrics": 1,
    "checkpoint_every": 0,
    "seconds": 0.0,
    "rest": 0.0,
    "stamp": "",
}
Report = Callable[[int, float, nn.Module], None]


def learn(params: Mapping[str, Any], *, rank: int, world_size: int, report: Report) -> None:
    """Train. The first line of the loop is what all first steps are measured to."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    width, batch = params["width"], max(1, params["batch"] // world_size)
    model: nn.Module = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    if world_size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows, labels = torch.randn(batch, width), torch.randn(batch, 1)
    durations: list[float] = []
    reports: list[float] = []
    for step in range(params["steps"]):
        began_s = time.perf_counter()
        if step == 0 and rank == 0:
            leave(Path(params["stamp"]), repr(time.time()))
        if step == 0:
            leave(Path(f"{params['stamp']}.rank-{rank}"), str(os.getpid()))
        loss = nn.functional.mse_loss(model(rows), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reported_s = time.perf_counter()
        report(step, float(loss), model)
        reports.append(time.perf_counter() - reported_s)
        if params["rest"]:
            time.sleep(params["rest"])
        durations.append(time.perf_counter() - began_s)
        if params["seconds"] and sum(durations) > params["seconds"]:
            break
    if rank == 0:
        leave(Path(f"{params['stamp']}.reports"), json.dumps(reports))
        leave(Path(f"{params['stamp']}.steps"), json.dumps(durations))


def leave(path: Path, text: str) -> None:
    """Write a file that somebody waits for: it is there whole, or not at all."""
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(text)
    unfinished.replace(path)


def is_due(params: Mapping[str, Any], step: int) -> bool:
    """Whether a checkpoint is kept after this step."""
    every: int = params["checkpoint_every"]
    return every > 0 and (step + 1) % every == 0


def train(given: Mapping[str, Any], context: Any) -> None:
    """Run by Fairlead: every value goes to the platform, every checkpoint too."""
    params = {**DEFAULTS, **given}

    def report(step: int, loss: float, model: nn.Module) -> None:
        values = {f"train/value_{number}": loss + number for number in range(params["metrics"])}
        if context.rank == 0 and is_due(params, step):
            with tempfile.TemporaryDirectory() as directory:
                torch.save(model.state_dict(), Path(directory, "model.pt"))
                context.report(values, step=step, checkpoint=Path(directory))
        elif values:
            context.report(values, step=step)

    learn(params, rank=context.rank, world_size=context.world_size, report=report)


def loop(config: Mapping[str, Any]) -> None:
    """Run by Ray Train, which is told nothing: the fastest it can be."""
    import ray.train

    context = ray.train.get_context()
    params = {**DEFAULTS, **config}
    learn(params, rank=context.get_world_rank(), world_size=context.get_world_size(), report=lambda *_: None)


def main() -> None:
    """Run by torchrun, or alone: checkpoints are saved, values go nowhere. The one argument is ``params`` as JSON."""
    params = {**DEFAULTS, **json.loads(sys.argv[1])}
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        torch.distributed.init_process_group("gloo")

    def report(step: int, _loss: float, model: nn.Module) -> None:
        if rank == 0 and is_due(params, step):
            torch.save(model.state_dict(), f"{params['stamp']}.model.pt")

    learn(params, rank=rank, world_size=world_size, report=report)
    if world_size > 1:
        leave_together(Path(params["stamp"]), rank, world_size)


def leave_together(stamp: Path, rank: int, world_size: int) -> None:
    """End this process once all ranks are about to: gloo aborts a rank whose peer leaves during its last words."""
    leave(Path(f"{stamp}.leaving-{rank}"), "")
    others = [Path(f"{stamp}.leaving-{other}") for other in range(world_size)]
    while not all(path.exists() for path in others):
        time.sleep(0.01)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

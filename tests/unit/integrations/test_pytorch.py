"""A plain loop that is resumed goes on as if nothing had happened; a checkpoint that does not fit is said so."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairlead.data.context import KeepingOutlet
from fairlead.data.torch import joined_ranks, seed_all
from fairlead.errors import BadInput
from fairlead.integrations.pytorch import report, resume
from fairlead.spec import ExperimentSpec, from_mapping
from fairlead.testing.context import a_context
from fairlead.workload import Context

SPEC = from_mapping(ExperimentSpec, {"name": "a", "workload": "mine:train"})


def train(context: Context, *, epochs: int) -> list[torch.Tensor]:
    """Draws from all three sources of random numbers, in dropout and beside it."""
    seed_all(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    for epoch in range(resume(context, model=model, optimizer=optimizer, schedule=schedule), epochs + 1):
        loss = model(torch.randn(16, 4)).square().mean() * (1 + random.random()) + np.random.normal()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        report(context, {"loss": loss.item()}, step=epoch, model=model, optimizer=optimizer, schedule=schedule)
    return [weight.detach().clone() for weight in model.parameters()]


def test_a_resumed_loop_repeats_an_uninterrupted_one_bit_by_bit(tmp_path: Path) -> None:
    whole, halves = KeepingOutlet(), KeepingOutlet(directory=tmp_path / "kept")
    expected = train(a_context(SPEC, outlet=whole), epochs=4)
    train(a_context(SPEC, outlet=halves), epochs=2)
    found = train(a_context(SPEC, outlet=halves, resume_from=tmp_path / "kept"), epochs=4)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert halves.reports == whole.reports


def test_a_checkpoint_of_wrapped_models_is_that_of_the_models_inside(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    with joined_ranks(tmp_path / "meeting", rank=0, world_size=1):
        outlet = KeepingOutlet(directory=tmp_path / "kept")
        report(a_context(SPEC, outlet=outlet), {"loss": 1.0}, step=7, model=DistributedDataParallel(model))
        other = DistributedDataParallel(nn.Linear(2, 1))
        assert resume(a_context(SPEC, resume_from=tmp_path / "kept"), model=other) == 8
    assert torch.equal(other.module.weight, model.weight)


def test_only_rank_0_writes_files(tmp_path: Path) -> None:
    outlet = KeepingOutlet(directory=tmp_path / "kept")
    report(a_context(SPEC, outlet=outlet, rank=1, world_size=2), {"loss": 1.0}, step=1, model=nn.Linear(2, 1))
    assert (outlet.reports, (tmp_path / "kept").exists()) == ([(1, {"loss": 1.0})], False)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"net": nn.Linear(2, 1)}, "has no net, only model"),
        ({"model": nn.Linear(3, 1)}, "model does not fit"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    outlet = KeepingOutlet(directory=tmp_path / "kept")
    report(a_context(SPEC, outlet=outlet), {}, step=1, model=nn.Linear(2, 1))
    with pytest.raises(BadInput, match=message):
        resume(a_context(SPEC, resume_from=tmp_path / "kept"), **parts)


@pytest.mark.parametrize(("content", "message"), [(None, "not made by report"), (b"no checkpoint", "cannot be read")])
def test_what_report_did_not_write_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "training.pt").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        resume(a_context(SPEC, resume_from=tmp_path), model=nn.Linear(2, 1))

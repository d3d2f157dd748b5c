"""The helpers of training: what is kept comes back, and portions of a batch add up to it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fairlead.data import Batch
from fairlead.data.context import KeepingOutlet
from fairlead.spec import ExperimentSpec
from fairlead.testing.context import a_context
from fairlead.training import Best, autocast, clip, compiled, keep, micro_batches, parallel, restore, warmup_cosine

SPEC = ExperimentSpec.model_validate({"name": "a", "workload": "m:train", "data": {"uri": "builtin://diabetes"}})


def parts_of(model: nn.Module) -> dict[str, Any]:
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "best": Best(model)}


def test_what_was_kept_is_restored(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    context = a_context(SPEC, outlet=KeepingOutlet(directory=tmp_path / "kept"))
    parts = parts_of(model)
    assert restore(context, parts) == 0
    parts["best"].offer(0.5)
    keep(context, {"loss": 0.5}, step=3, parts=parts)
    other = nn.Linear(2, 1)
    again = parts_of(other)
    assert restore(a_context(SPEC, resume_from=tmp_path / "kept"), again) == 3
    assert torch.equal(other.weight, model.weight)
    assert not again["best"].offer(0.5), "the merit came back as well"
    with pytest.raises(KeyError, match="schedule"):
        restore(a_context(SPEC, resume_from=tmp_path / "kept"), {"schedule": parts["optimizer"]})


def test_the_best_weights_are_put_back_and_later_equals_do_not_count() -> None:
    model = nn.Linear(1, 1)
    best, first = Best(model), model.weight.detach().clone()
    assert best.offer(1.0)
    nn.init.zeros_(model.weight)
    assert not best.offer(1.0)
    assert not best.offer(float("nan"))
    best.put_back()
    assert torch.equal(model.weight, first)


@pytest.mark.parametrize(("rows", "size", "portions"), [(10, 4, [4, 4, 2]), (3, 4, [3]), (0, 4, [0]), (10, 0, [10])])
def test_portions_of_a_batch_are_its_rows_in_order(rows: int, size: int, portions: list[int]) -> None:
    batch = Batch(positions=np.arange(rows), num_global=max(1, rows), world_size=1)
    found = list(micro_batches(nn.Linear(1, 1), batch, size=size))
    assert [len(one) for one in found] == portions
    assert np.array_equal(np.concatenate(found), batch.positions)


def test_the_rate_rises_and_falls_as_the_formula_says() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = warmup_cosine(optimizer, steps=10, warmup=2, least=0.1)
    rates = []
    for _ in range(11):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.1 + 0.9 * 0.5)
    assert rates[10] == pytest.approx(0.1)


def test_on_one_processor_helpers_leave_the_model_as_it_is() -> None:
    model, context = nn.Linear(2, 1), a_context(SPEC)
    assert parallel(model, context) is model
    assert compiled(model, context) is model
    with autocast(context):
        assert model(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(("most", "norm"), [(1.0, 1.0), (0.0, 5.0), (10.0, 5.0)])
def test_gradients_are_scaled_to_the_norm_that_is_allowed(most: float, norm: float) -> None:
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    clip(model, most)
    assert float(model.weight.grad.norm()) == pytest.approx(norm, abs=1e-4)

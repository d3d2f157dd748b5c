"""A deep belief network: restricted Boltzmann machines on top of each other, then trained to tell classes apart.

python -m fairlead_workloads.deep_belief                                        trains here, alone, on digits
python -m fairlead_workloads.deep_belief --labels_per_class=10 --pretrain_epochs=0   ... from ten labels, without a past

First each layer learns, without any label, to make up pictures like those below it (contrastive divergence); then all
layers together learn the labels. Source: Hinton, Osindero, Teh 2006, A fast learning algorithm for deep belief nets.
Units are 0 or 1, so pictures are binarised: each pixel is drawn anew in every epoch, the likelier 1 the more ink it has
(Salakhutdinov, Murray 2008). To predict, the chances themselves are passed on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import mistakes_sheet, sheet
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks, sum_tensor
from fairlead.errors import BadData
from fairlead.training import Best, keep, parallel, restore, validate_classes, warmup_cosine
from fairlead.workload import Context, Params, Predictor, Rows

STEPS_OF_A_DREAM = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``deep_belief.toml`` says the same to the platform, and a test compares the two."""

    hidden: Sequence[int] = (512, 256)
    pretrain_epochs: int = 30
    pretrain_lr: float = 0.1
    gibbs_steps: int = 1
    labels_per_class: int = 0
    lr: float = 5e-3
    weight_decay: float = 1e-3
    dropout: float = 0.4
    epochs: int = 60
    batch_size: int = 64


class Machine(nn.Module):
    """A restricted Boltzmann machine: visible and hidden units that are 0 or 1, joined by weights.

    ``energy(v, h) = -v W h - a v - b h``; a pair is the likelier the lower its energy.
    """

    def __init__(self, visible: int, hidden: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(0.01 * torch.randn(visible, hidden))
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def up(self, visible: Tensor) -> Tensor:
        """Probability that each hidden unit is 1, shape (rows, hidden)."""
        return torch.sigmoid(visible @ self.weights + self.hidden_bias)

    def down(self, hidden: Tensor) -> Tensor:
        """Probability that each visible unit is 1, shape (rows, visible)."""
        return torch.sigmoid(hidden @ self.weights.T + self.visible_bias)


class DeepBeliefNet(nn.Module):
    """The machines' upward halves as layers, with a layer of classes on top."""

    def __init__(
        self, *, low: float, high: float, inputs: int, hidden: Sequence[int], classes: int, dropout: float
    ) -> None:
        super().__init__()
        # Pictures arrive raw; their scale is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        self.machines = nn.ModuleList(Machine(below, above) for below, above in pairwise((inputs, *hidden)))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden[-1], classes)

    def chances(self, pictures: Tensor) -> Tensor:
        """Probability of ink for each pixel, shape (rows, pixels)."""
        return ((pictures.flatten(1) - self.low) / (self.high - self.low)).clamp(0, 1)

    def forward(self, units: Tensor) -> Tensor:
        """Logits of the lowest units, drawn ones or their chances; shape (rows, classes)."""
        for machine in self.machines:
            units = self.dropout(machine.up(units))
        return self.head(units)


def train(params: Params, context: Context) -> None:
    """Pre-train layer by layer, fine-tune, report once an epoch of either, count the test split, export the best."""
    require_kind(context.dataset, "images")
    settings = Settings(**params)
    share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    known = labelled(rows, settings, context)
    classes = len(context.dataset.classes)
    low = float(rows.features.min())
    config: dict[str, Any] = {"low": low, "high": max(float(rows.features.max()), low + 1e-6)}
    config |= {"inputs": int(np.prod(rows.features.shape[1:])), "hidden": list(settings.hidden)}
    config |= {"dropout": settings.dropout}
    model = DeepBeliefNet(**config, classes=classes).to(context.device)
    # The backward halves (visible biases) take no part in telling classes apart.
    shared = parallel(model, context, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(known), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    done = restore(context, parts)
    dreams = settings.pretrain_epochs * len(settings.hidden)
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} pictures, {len(known)} of them with labels, {size} weights, {steps} steps an epoch")

    ink = model.chances(torch.from_numpy(rows.features).to(context.device))
    labels = torch.from_numpy(rows.labels).to(context.device)
    for epoch in range(done + 1, dreams + settings.epochs + 1):
        units = (ink > drawn(ink.shape, context, epoch, what=0)).float()
        if epoch <= dreams:
            metrics = pretrain(model, (epoch - 1) // settings.pretrain_epochs, units, settings, context, epoch)
            if epoch == dreams:
                show_dreams(model, context)
        else:
            shared.train()
            # Dropout differs between ranks, and resumes.
            seed_epoch(context.seed, epoch=epoch, rank=context.rank)
            local = 0.0
            for batch in shared_batches(len(known), settings, context, epoch):
                chosen = torch.from_numpy(known[batch.positions]).to(context.device)
                losses = functional.cross_entropy(shared(units[chosen]), labels[chosen], reduction="none")
                optimizer.zero_grad()
                (losses.sum() * batch.loss_scale).backward()
                optimizer.step()
                schedule.step()
                local += losses.sum().item()
            (total,) = sum_over_ranks(local)
            metrics = {"train/loss": total / len(known), **validate_classes(context, partial(probabilities, model))}
            best.offer(metrics.get("validation/loss", -epoch))
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    scores = probabilities(model, test.features)
    decided = scores[:, 1] if classes == 2 else scores
    predictions = (decided >= context.threshold).astype(np.int64) if classes == 2 else scores.argmax(axis=1)
    context.evaluate("test", records=test.records, predictions=predictions, scores=decided)
    show_mistakes(model, context)
    context.export(model.state_dict(), config=config)


def labelled(rows: Rows, settings: Settings, context: Context) -> np.ndarray:
    """Positions of the train rows whose labels may be used: all, or so many of each class, drawn by the seed."""
    if settings.labels_per_class == 0:
        return np.arange(len(rows))
    order = np.random.RandomState(context.seed).permutation(len(rows))
    chosen = []
    for label, name in enumerate(context.dataset.classes):
        own = order[rows.labels[order] == label][: settings.labels_per_class]
        if len(own) < settings.labels_per_class:
            text = f"class {name!r} has {len(own)} rows in the train split, fewer than {settings.labels_per_class}"
            raise BadData(f"{context.dataset.uri}: {text}; lower labels_per_class")
        chosen.append(own)
    return np.sort(np.concatenate(chosen))


def shared_batches(num_rows: int, settings: Settings, context: Context, epoch: int) -> Any:
    """This rank's parts of the batches of one epoch."""
    return batches(
        num_rows,
        global_batch=settings.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=context.seed,
        epoch=epoch,
    )


def drawn(shape: Sequence[int], context: Context, epoch: int, *, what: int) -> Tensor:
    """Numbers from 0 to 1 for all rows of an epoch, on every rank alike: what is drawn does not depend on the ranks."""
    numbers = np.random.RandomState((context.seed, epoch, 1 + what)).random_sample(tuple(shape))
    return torch.from_numpy(numbers.astype(np.float32)).to(context.device)


@torch.no_grad()
def pretrain(
    model: DeepBeliefNet, layer: int, units: Tensor, settings: Settings, context: Context, epoch: int
) -> dict[str, float]:
    """One epoch of contrastive divergence of one machine, on what the machines below it make of the lowest units.

    The gradient of the likelihood is what holds of data less what holds of the machine's own dreams; a dream of
    ``gibbs_steps`` steps that begins at the data is near enough. Source: Hinton 2002, Training products of experts by
    minimizing contrastive divergence.
    """
    machine: Any = model.machines[layer]
    below = units
    for lower in model.machines[:layer]:
        below = lower.up(below)
    draws = drawn((len(units), machine.weights.shape[1]), context, epoch, what=1)
    error = 0.0
    for batch in shared_batches(len(units), settings, context, epoch):
        chosen = torch.from_numpy(batch.positions).to(units.device)
        data = below[chosen]
        awake = machine.up(data)
        hidden = (awake > draws[chosen]).float()
        for _ in range(settings.gibbs_steps):
            dream = machine.down(hidden)
            asleep = machine.up(dream)
            hidden = (asleep > draws[chosen].flip(1)).float()
        rate = settings.pretrain_lr / batch.num_global
        # The sums of all ranks are those of the whole batch.
        machine.weights += rate * sum_tensor(data.T @ awake - dream.T @ asleep)
        machine.visible_bias += rate * sum_tensor((data - dream).sum(dim=0))
        machine.hidden_bias += rate * sum_tensor((awake - asleep).sum(dim=0))
        error += float((data - dream).square().mean(dim=1).sum())
    (total,) = sum_over_ranks(error)
    return {f"pretrain/reconstruction_{layer + 1}": total / len(units)}


def probabilities(model: Any, pictures: np.ndarray) -> np.ndarray:
    """Class probabilities of raw pictures, shape (rows, classes), float64."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        logits = model(model.chances(torch.from_numpy(pictures).float().to(device))) if len(pictures) else None
    if logits is None:
        return np.empty((0, model.head.out_features))
    return functional.softmax(logits.double(), dim=1).cpu().numpy()


@torch.no_grad()
def dreams_of(model: Any, shape: tuple[int, ...], *, num: int, seed: int) -> np.ndarray:
    """Pictures that the lowest machine makes up when left alone: probability of ink, shape (num, 1, height, width)."""
    machine = model.machines[0]
    generator = torch.Generator().manual_seed(seed)
    visible = torch.rand(num, machine.weights.shape[0], generator=generator).round().to(machine.weights.device)
    for _ in range(STEPS_OF_A_DREAM):
        chances = machine.up(visible)
        hidden = (torch.rand(chances.shape, generator=generator).to(chances.device) < chances).float()
        visible = machine.down(hidden)
    return visible.cpu().numpy().reshape(num, *shape)


def show_dreams(model: DeepBeliefNet, context: Context) -> None:
    """What the lowest machine looks at and what it dreams, before labels change it."""
    if context.rank != 0:
        return
    shape = context.dataset.feature_shape
    filters = model.machines[0].weights.detach().T[:30].cpu().numpy().reshape(-1, *shape)
    context.show("filters.png", sheet(filters, [""] * len(filters), columns=10))
    context.show("dreams.png", sheet(dreams_of(model, shape, num=20, seed=context.seed), [""] * 20, columns=10))


def show_mistakes(model: DeepBeliefNet, context: Context) -> None:
    """The surest mistakes on the test split."""
    if context.rank != 0:
        return
    test = context.all_rows("test")
    scores = probabilities(model, test.features)
    context.show("mistakes.png", mistakes_sheet(test.features, scores, test.labels, context.dataset.classes))


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    model = DeepBeliefNet(**exported.config, classes=len(exported.document["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    return lambda pictures: probabilities(model, np.asarray(pictures, dtype=np.float32))


if __name__ == "__main__":
    run_alone(train, workload="deep_belief", example="digits_deep_belief")

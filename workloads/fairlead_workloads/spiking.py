"""A spiking network for pictures: leaky neurons that add up spikes over time and now and then send one of their own.

python -m fairlead_workloads.spiking --epochs=5                          trains here, alone, on scikit-learn's digits
python -m fairlead_workloads.spiking --spike_cost=0.002 --save=trained   ... with few spikes, and keeps what it shows

Pictures are coded by rates: in every time step a pixel sends a spike with a probability of its brightness. The class
whose neuron has sent most spikes at the end is the answer. A spike is a step, which has no gradient; in its place
learning takes that of a fast sigmoid around the threshold (Neftci, Mostafa, Zenke 2019, Surrogate gradient learning
in spiking neural networks). Neurons and surrogate are snntorch's.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import snntorch
import torch
from PIL import Image, ImageDraw
from snntorch import surrogate
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import Batch, batches, num_batches, require_kind, shard_range
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import enlarged, mistakes_sheet
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.training import Best, keep, parallel, restore
from fairlead.workload import Context, Params, Predictor, Rows

CHUNK = 512
"""Pictures that are looked at together outside training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``spiking.toml`` says the same to the platform, and a test compares the two."""

    hidden: int = 128
    time_steps: int = 16
    leak: float = 0.9
    slope: float = 10.0
    spike_cost: float = 0.0
    lr: float = 4e-3
    epochs: int = 20
    batch_size: int = 64


class SpikingNet(nn.Module):
    """Two layers of leaky integrate-and-fire neurons.

    A neuron's potential is ``leak`` of what it was, plus what comes in; above 1 it sends a spike and loses 1.
    """

    def __init__(self, *, inputs: int, hidden: int, classes: int, leak: float, slope: float) -> None:
        super().__init__()
        self.weights = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, classes)])
        self.neurons = [snntorch.Leaky(beta=leak, spike_grad=surrogate.fast_sigmoid(slope=slope)) for _ in self.weights]

    def forward(self, spikes: Tensor) -> tuple[Tensor, Tensor]:
        """What the neurons send, for input ``spikes`` of shape (time steps, rows, inputs).

        Returns the hidden neurons' spikes, shape (time steps, rows, hidden), and those of the classes, shape
        (time steps, rows, classes).
        """
        # All time steps go through the first weights at once: they do not depend on each other yet.
        hidden = fire(self.neurons[0], self.weights[0](spikes))
        return hidden, fire(self.neurons[1], self.weights[1](hidden))


def fire(neurons: nn.Module, currents: Tensor) -> Tensor:
    """The spikes of neurons for their inputs over time; both of shape (time steps, rows, neurons)."""
    potential = torch.zeros_like(currents[0])
    sent = []
    for current in currents:
        spike, potential = neurons(current, potential)
        sent.append(spike)
    return torch.stack(sent)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "images")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    brightest = brightest_of(rows, context)
    classes = context.dataset.classes
    inputs = int(np.prod(context.dataset.feature_shape))
    config: dict[str, Any] = {
        "inputs": inputs,
        "hidden": settings.hidden,
        "leak": settings.leak,
        "slope": settings.slope,
    }
    model = SpikingNet(**config, classes=len(classes)).to(context.device)
    for neurons in model.neurons:  # they have nothing to learn, so they are no part of the model's state
        neurons.to(context.device)
    ranks = parallel(model, context)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.epochs * steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    # Spikes of validation, test and whoever calls the exported model: the same for the same picture, for ever.
    thresholds = np.random.RandomState(context.seed).random_sample((settings.time_steps, inputs)).astype(np.float32)
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} pictures of {inputs} pixels, {settings.time_steps} time steps, {size} weights")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    brightness = torch.from_numpy(rows.features).flatten(1).to(context.device) / brightest
    labels = torch.from_numpy(rows.labels).to(context.device)
    for epoch in range(first_epoch, settings.epochs + 1):
        local_loss = local_spikes = 0.0
        for number, batch in enumerate(drawn(len(rows), settings.batch_size, epoch, context)):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            chances = draw_chances(batch.num_global, (settings.time_steps, inputs), (context.seed, epoch, number))
            first, last = shard_range(batch.num_global, rank=context.rank, world_size=context.world_size)
            spikes = (brightness[chosen] > torch.from_numpy(chances[:, first:last]).to(context.device)).float()
            # Float32 on every device: in bfloat16 small inputs to a potential near the threshold would be lost.
            hidden, votes = ranks(spikes)
            losses = functional.cross_entropy(votes.sum(dim=0), labels[chosen], reduction="none")
            sent = hidden.sum(dim=(0, 2)) + votes.sum(dim=(0, 2))
            loss = (losses + settings.spike_cost * sent).sum() * batch.loss_scale
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            local_loss += losses.sum().item()
            local_spikes += sent.sum().item()
        total_loss, total_spikes = sum_over_ranks(local_loss, local_spikes)
        metrics = {"train/loss": total_loss / len(rows), "train/spikes": total_spikes / len(rows)}
        metrics |= validate(model, context, thresholds * brightest)
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    answers = look(model, test.features, thresholds * brightest)
    scores = answers.scores if len(classes) > 2 else answers.scores[:, 1]
    context.evaluate("test", records=test.records, predictions=answers.scores.argmax(axis=1), scores=scores)
    show(model, test, answers, thresholds * brightest, context)
    config |= {"seed": context.seed, "time_steps": settings.time_steps, "brightest": brightest}
    context.export(model.weights.state_dict(), config=config)


def brightest_of(rows: Rows, context: Context) -> float:
    """The highest value of any training pixel, which spikes in every time step. Raises ``BadData`` for values below 0.

    Brightness is a rate here, and no rate is negative.
    """
    where = f"{context.dataset.uri}: pictures are coded by rates of spikes"
    negative = rows.features.reshape(len(rows), -1).min(axis=1) < 0
    if negative.any():
        record = int(rows.records[np.argmax(negative)])
        raise BadData(f"{where}, and row {record + 1} has values below 0; shift them up first")
    if rows.features.max() <= 0:
        raise BadData(f"{where}, and every pixel of the train split is 0")
    return float(rows.features.max())


def drawn(num_rows: int, batch_size: int, epoch: int, context: Context) -> Iterator[Batch]:
    """This rank's parts of the batches of an epoch."""
    return batches(
        num_rows,
        global_batch=batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=context.seed,
        epoch=epoch,
    )


def draw_chances(num_rows: int, shape: tuple[int, int], seed: tuple[int, int, int]) -> np.ndarray:
    """Numbers from 0 to 1 for a whole global batch, shape (time steps, rows, inputs), float32.

    A pixel spikes where it is brighter. Drawn on every rank alike: it does not depend on which rank has a row.
    """
    time_steps, inputs = shape
    return np.random.default_rng(seed).random((time_steps, num_rows, inputs), dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What the network makes of n pictures."""

    scores: np.ndarray
    """Class probabilities, shape (n, classes), float64: the softmax of each class's spikes."""
    hidden: np.ndarray
    """Spikes of the hidden neurons together, shape (n,)."""
    votes: np.ndarray
    """Spikes of the classes' neurons together, shape (n,)."""


@torch.no_grad()
def look(model: nn.Module, pictures: np.ndarray, thresholds: np.ndarray) -> Answers:
    """Answers to raw pictures, first dimension n. ``thresholds``: shape (time steps, inputs), in units of pixels."""
    device = next(model.parameters()).device
    limits = torch.from_numpy(thresholds).to(device)[:, None]
    found = []
    for at in range(0, max(1, len(pictures)), CHUNK):
        chunk = torch.from_numpy(pictures[at : at + CHUNK]).to(device).flatten(1)
        hidden, votes = model((chunk > limits).float())
        found.append((votes.sum(dim=0).double().softmax(dim=1), hidden.sum(dim=(0, 2)), votes.sum(dim=(0, 2))))
    scores, of_hidden, of_classes = (torch.cat(parts).double().cpu().numpy() for parts in zip(*found, strict=True))
    return Answers(scores=scores, hidden=of_hidden, votes=of_classes)


def validate(model: nn.Module, context: Context, thresholds: np.ndarray) -> Mapping[str, float]:
    """Loss, accuracy and spikes an inference over the validation split; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    answers = look(model, rows.features, thresholds)
    loss = -np.log(np.clip(answers.scores[np.arange(len(rows)), rows.labels], 1e-12, 1)).sum()
    hits = (answers.scores.argmax(axis=1) == rows.labels).sum()
    sent = answers.hidden.sum() + answers.votes.sum()
    totals = sum_over_ranks(float(loss), float(hits), float(sent))
    names = ("validation/loss", "validation/accuracy", "validation/spikes")
    return {name: total / num_rows for name, total in zip(names, totals, strict=True)}


def show(model: nn.Module, test: Rows, answers: Answers, thresholds: np.ndarray, context: Context) -> None:
    """Show the surest mistakes, the spikes an inference takes, and all spikes of one inference for three pictures."""
    if len(test) == 0:
        return
    classes = context.dataset.classes
    context.show("mistakes.png", mistakes_sheet(test.features, answers.scores, test.labels, classes))
    per_class = {
        name: float((answers.hidden + answers.votes)[test.labels == place].mean())
        for place, name in enumerate(classes)
        if (test.labels == place).any()
    }
    spikes = {"hidden": float(answers.hidden.mean()), "classes": float(answers.votes.mean()), "by class": per_class}
    context.show("spikes_per_inference.json", json.dumps(spikes, indent=2))
    for place in range(min(3, len(test))):
        name = classes[test.labels[place]]
        context.show(f"raster-{place + 1}.png", raster(model, test.features[place], thresholds, name, classes))


@torch.no_grad()
def raster(
    model: nn.Module, picture: np.ndarray, thresholds: np.ndarray, label: str, classes: tuple[str, ...]
) -> bytes:
    """One inference as PNG: the picture, then a dot for each spike, time to the right, one line a neuron."""
    device = next(model.parameters()).device
    spikes = (torch.from_numpy(picture).flatten()[None, None] > torch.from_numpy(thresholds)[:, None]).float()
    hidden, votes = (part[:, 0].cpu().numpy() for part in model(spikes.to(device)))
    across, margin, line = 14, 110, 12
    bands = (("pixels", spikes[:, 0].numpy(), 2), ("hidden neurons", hidden, 2), ("classes", votes, line))
    height = sum(sent.shape[1] * size + 26 for _, sent, size in bands) + 6
    page = Image.new("RGB", (margin + len(spikes) * across + 60, height), "white")
    draw = ImageDraw.Draw(page)
    shade = (picture * (255 / max(float(picture.max()), 1e-12))).clip(0, 255).astype(np.uint8)
    page.paste(enlarged(shade, max(1, 80 // max(shade.shape[1:]))), (12, 24))
    draw.text((12, 6), f"picture of {label}", fill="black")
    top = 6
    for title, sent, size in bands:
        draw.text((margin, top), f"{title}: {int(sent.sum())} spikes in {len(sent)} time steps", fill="black")
        top += 16
        edge = (margin - 2, top - 2, margin + len(sent) * across, top + sent.shape[1] * size + 1)
        draw.rectangle(edge, outline=(200, 200, 200))
        for moment, neuron in np.argwhere(sent > 0).tolist():
            left, upper = margin + moment * across, top + neuron * size
            draw.rectangle((left, upper, left + 8, upper + max(1, size - 4)), fill=(30, 60, 140))
        if size == line:
            for place, name in enumerate(classes):
                draw.text((margin - 4 - 7 * len(name[:12]), top + place * line - 2), name[:12], fill="black")
        top += sent.shape[1] * size + 10
    content = io.BytesIO()
    page.save(content, format="PNG", optimize=True)
    return content.getvalue()


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    config = exported.config
    built_from = {name: config[name] for name in ("inputs", "hidden", "leak", "slope")}
    model = SpikingNet(**built_from, classes=len(exported.document["classes"]))
    model.weights.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    chances = np.random.RandomState(config["seed"]).random_sample((config["time_steps"], config["inputs"]))
    thresholds = chances.astype(np.float32) * config["brightest"]

    def predict(pictures: Any) -> np.ndarray:
        return look(model, np.asarray(pictures, dtype=np.float32), thresholds).scores

    return predict


if __name__ == "__main__":
    run_alone(train, workload="spiking", example="digits_spiking")

"""Learning from pictures of which hardly any has a label: by contrast (SimCLR), or by labels of the network's own.

python -m fairlead_workloads.contrastive                                 trains here, alone, on digits with 5 % labels
python -m fairlead_workloads.contrastive --method=pseudo_labels          ... in the other way

Four methods, with as many steps each, of which ``tuning_epochs`` are the last:

- ``simclr``: first the network learns without labels that two views of one picture, moved, turned, lit otherwise and
  with noise upon it, are one thing, and views of other pictures other things (Chen et al. 2020, A simple framework for
  contrastive learning of visual representations). Then it learns from the rows with labels.
- ``pseudo_labels``: first it learns from the rows with labels. Then it also takes its own answer for the label wherever
  it is sure enough, anew in each epoch (Lee 2013, Pseudo-label).
- ``both``: by contrast, and then as pseudo-labels go on.
- ``supervised``: from the rows with labels alone. What the others are to be held against.

Which rows keep their labels the seed decides. Validation rows choose nothing: whoever has few labels has none to spare.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import Batch, batches, num_batches, require_kind, shard_range
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import mistakes_sheet, points
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks, sum_tensor
from fairlead.errors import BadInput
from fairlead.training import autocast, keep, parallel, restore, validate_classes
from fairlead.workload import Context, Params, Predictor, Rows
from fairlead_workloads.image_cnn import ConvolutionalNet, draw_moves, move, scale_of

OWN = 2**31
"""A number of no batch, for what is drawn to make labels of the network's own."""
OWN_VIEWS = 4
"""Views of a picture that it must be sure of on average."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``contrastive.toml`` says the same to the platform, and a test compares the two."""

    method: str = "simclr"
    labelled_share: float = 0.05
    width: int = 16
    blocks: int = 3
    projection: int = 32
    temperature: float = 0.2
    sure: float = 0.95
    shift: float = 0.8
    turn: float = 12.0
    stretch: float = 0.1
    light: float = 0.5
    noise: float = 0.8
    lr: float = 4e-3
    weight_decay: float = 0.05
    epochs: int = 40
    tuning_epochs: int = 8
    batch_size: int = 64


class Learner(nn.Module):
    """A network with two ends: classes of pictures, and a projection in which pictures are compared."""

    def __init__(self, *, classes: int, projection: int, **config: Any) -> None:
        super().__init__()
        self.net = ConvolutionalNet(**config, classes=classes)
        features = self.net.head.in_features
        self.projection = nn.Sequential(nn.Linear(features, features), nn.GELU(), nn.Linear(features, projection))

    def features(self, pictures: Tensor) -> Tensor:
        """What both ends look at, shape (rows, features)."""
        return self.net.maps((pictures - self.net.mean) / self.net.std).mean(dim=(2, 3))

    def forward(self, pictures: Tensor, *, is_compared: bool) -> Tensor:
        """Logits, shape (rows, classes), or directions of length 1, shape (rows, projection)."""
        if is_compared:
            return functional.normalize(self.projection(self.features(pictures)), dim=1)
        return self.net(pictures)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the last epoch."""
    require_kind(context.dataset, "images")
    settings = Settings(**params)
    if settings.tuning_epochs > settings.epochs:
        raise BadInput(f"tuning_epochs are the last of {settings.epochs} epochs, not {settings.tuning_epochs}")
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    classes = len(context.dataset.classes)
    labelled = draw_labelled(rows.labels, settings.labelled_share, seed=context.seed)
    mean, std = scale_of(rows.features)  # without labels, so over all rows
    config: dict[str, Any] = {"mean": mean, "std": std, "width": settings.width, "blocks": settings.blocks}
    model = Learner(**config, classes=classes, projection=settings.projection).to(context.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    first_steps = steps * (settings.epochs - settings.tuning_epochs)
    schedule = rise_and_fall_twice(optimizer, first_steps, steps * settings.tuning_epochs)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.net.parameters())
        print(f"{len(rows)} pictures, {labelled.sum()} of them with labels, {classes} classes, {size} weights")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    pictures = torch.from_numpy(rows.features).to(context.device)
    ranks, was_compared = None, False
    for epoch in range(first_epoch, settings.epochs + 1):
        is_tuned = epoch > settings.epochs - settings.tuning_epochs
        is_compared = settings.method in ("simclr", "both") and not is_tuned
        if ranks is None or is_compared != was_compared:
            model.projection.requires_grad_(is_compared)
            model.net.head.requires_grad_(not is_compared)
            ranks, was_compared = parallel(model, context), is_compared  # anew: another end of it learns now
        labels, is_usable = rows.labels, labelled
        if settings.method in ("pseudo_labels", "both") and is_tuned:
            labels, is_usable = with_own_labels(model.net, rows, labelled, settings, context, epoch=epoch)
        used = np.arange(len(rows)) if is_compared else as_many(labelled, is_usable, seed=(context.seed, epoch))
        targets = torch.from_numpy(labels).to(context.device)
        ranks.train()
        local_loss = torch.zeros((), device=context.device)
        for number, batch in enumerate(epoch_of(len(used), settings.batch_size, context, epoch)):
            chosen = torch.from_numpy(used[batch.positions]).to(context.device)
            first, second = (
                view(pictures[chosen], batch, settings, seed=(context.seed, epoch, number, one), rank=context.rank)
                for one in (0, 1)
            )
            if is_compared:
                both = torch.stack([first, second])
                seed = (context.seed, epoch, number, 2)
                first, second = lit(both, batch, settings, std=model.net.std, seed=seed, rank=context.rank)
            with autocast(context):
                found = ranks(torch.cat([first, second]) if is_compared else first, is_compared=is_compared).float()
            if is_compared:
                loss = contrast(found, batch, rank=context.rank, temperature=settings.temperature)
                local_loss += loss.detach() * batch.num_global / batch.world_size  # it is everybody's: a share of it
                loss = loss * batch.world_size  # ranks average gradients, and these are parts of one sum
            else:
                losses = functional.cross_entropy(found, targets[chosen], reduction="none")
                local_loss += losses.detach().sum()
                loss = losses.sum() * batch.loss_scale
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        (total_loss,) = sum_over_ranks(local_loss.item())
        metrics = {"train/contrastive_loss" if is_compared else "train/loss": total_loss / len(used)}
        if not is_compared:
            metrics |= {
                "train/usable": float(is_usable.mean()),
                **validate_classes(context, partial(probabilities, model.net)),
            }
        keep(context, metrics, step=epoch, parts=parts)
        if is_compared and epoch == settings.epochs - settings.tuning_epochs:
            show_features(model, "features-without-labels.png", context)
        if context.should_stop():
            return  # the last checkpoint is already safe

    test = context.shard("test")
    answers = probabilities(model.net, test.features)
    scores = answers if classes > 2 else answers[:, 1]
    context.evaluate("test", records=test.records, predictions=answers.argmax(axis=1), scores=scores)
    context.show("mistakes.png", mistakes_sheet(test.features, answers, test.labels, context.dataset.classes))
    show_features(model, "features.png", context)
    context.export(model.net.state_dict(), config=config)


# ---- which rows, and how they look -----------------------------------------------------------------------------------


def draw_labelled(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Which rows keep their labels, shape (rows,), bool: ``share`` of each class, to the nearest, and one at least."""
    order = np.random.RandomState(seed).permutation(len(labels))
    keeps = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        keeps[of_class[: max(1, round(share * len(of_class)))]] = True
    return keeps


def with_own_labels(
    net: nn.Module, rows: Rows, labelled: np.ndarray, settings: Settings, context: Context, *, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and which of them to use: the true ones where there are, else the network's where it is sure. Collective.

    Its answer is the mean of those to several views: after a few labels a network is sure of nearly everything, but
    what it takes for one thing from all sides it is mostly right about. Each rank answers a part, and all take the same
    whole: else they might not agree on how many rows there are.
    """
    first, last = shard_range(len(rows), rank=context.rank, world_size=context.world_size)
    part = Batch(positions=np.arange(first, last), num_global=len(rows), world_size=context.world_size)
    pictures = torch.from_numpy(rows.features[first:last])
    views = [
        view(pictures, part, settings, seed=(context.seed, epoch, OWN, one), rank=context.rank).numpy()
        for one in range(OWN_VIEWS)
    ]
    scores = torch.zeros(len(rows), len(context.dataset.classes), dtype=torch.float64, device=context.device)
    mean = np.mean([probabilities(net, each) for each in views], axis=0)
    scores[first:last] = torch.from_numpy(mean).to(context.device)
    every = sum_tensor(scores).cpu().numpy()
    return np.where(labelled, rows.labels, every.argmax(axis=1)), labelled | (every.max(axis=1) >= settings.sure)


def as_many(labelled: np.ndarray, is_usable: np.ndarray, *, seed: tuple[int, int]) -> np.ndarray:
    """Positions to learn from in one epoch, as many as there are rows, shape (rows,).

    Rows with labels of the network's own once each, three quarters of all at most; the rest are those with true labels,
    again and again. So an epoch has as many steps whatever the method is.
    """
    own = np.flatnonzero(is_usable & ~labelled)
    own = np.random.RandomState(seed).permutation(own)[: len(labelled) * 3 // 4]
    return np.concatenate([own, np.resize(np.flatnonzero(labelled), len(labelled) - len(own))])


def epoch_of(num_rows: int, batch_size: int, context: Context, epoch: int) -> Iterator[Batch]:
    """This rank's parts of the batches of an epoch."""
    ranks = {"rank": context.rank, "world_size": context.world_size}
    return batches(num_rows, global_batch=batch_size, **ranks, seed=context.seed, epoch=epoch)


def view(pictures: Tensor, batch: Batch, settings: Settings, *, seed: tuple[int, ...], rank: int) -> Tensor:
    """This rank's pictures of a batch, each moved, turned and stretched at random.

    Drawn for the whole global batch on every rank alike: what happens to a picture does not depend on who has it.
    """
    first, last = shard_range(batch.num_global, rank=rank, world_size=batch.world_size)
    moves = draw_moves(batch.num_global, seed=seed)[first:last]
    return move(pictures, moves, shift=settings.shift, turn=settings.turn, stretch=settings.stretch)


def lit(views: Tensor, batch: Batch, settings: Settings, *, std: Tensor, seed: tuple[int, ...], rank: int) -> Tensor:
    """Views of this rank's pictures, (views, local rows, channels, height, width), brighter or darker and with noise.

    Without, the same amount of ink, or a pixel of odd brightness, tells which views belong together, and that is all
    that is learnt: the shape of a digit is not needed for it. Drawn for the whole global batch on every rank alike.
    ``std``: of each channel, what ``noise`` is a share of.
    """
    first, last = shard_range(batch.num_global, rank=rank, world_size=batch.world_size)
    every = (len(views), batch.num_global)
    random = np.random.RandomState(seed)
    light = random.uniform(1 - settings.light, 1 + settings.light, (*every, 1, 1, 1)).astype(np.float32)
    noise = random.standard_normal((*every, *views.shape[2:])).astype(np.float32)
    brighter, rough = (torch.from_numpy(drawn[:, first:last]).to(views.device) for drawn in (light, noise))
    return views * brighter + settings.noise * std * rough


# ---- what is learnt --------------------------------------------------------------------------------------------------


def contrast(directions: Tensor, batch: Batch, *, rank: int, temperature: float) -> Tensor:
    """The loss NT-Xent of a whole global batch, the same on every rank; its gradient goes to this rank's views.

    ``directions``: of length 1, shape (2 x local rows, projection): first views, then second ones. For each view it is
    the cross-entropy of finding the other view of its picture among all other views, by similarity over
    ``temperature``. Source: Chen et al. 2020, equation 1. Every view is an opponent of every other, wherever it is, so
    ranks show each other theirs; each then has the exact gradient of the whole for what is its own.
    """
    first, last = shard_range(batch.num_global, rank=rank, world_size=batch.world_size)
    here = torch.arange(first, last, device=directions.device)
    mine = torch.cat([here, here + batch.num_global])
    every = torch.zeros(2 * batch.num_global, directions.shape[1], device=directions.device)
    every = sum_tensor(every.index_copy(0, mine, directions.detach())).index_copy(0, mine, directions)
    likeness = every @ every.T / temperature
    likeness = likeness.masked_fill(torch.eye(len(every), dtype=torch.bool, device=every.device), -math.inf)
    partners = torch.arange(len(every), device=every.device).roll(batch.num_global)
    return functional.cross_entropy(likeness, partners)


def rise_and_fall_twice(optimizer: torch.optim.Optimizer, first: int, second: int) -> Any:
    """A rate that rises over a tenth of ``first`` steps, then falls along half a cosine, and again for ``second``."""

    def share(step: int) -> float:
        done, steps = (step, first) if step < first else (step - first, max(1, second))
        return min(1.0, (done + 1) / max(1.0, 0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * min(1.0, done / steps)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


# ---- what it says ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def probabilities(net: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Class probabilities of raw pictures, shape (rows, classes), float64 and in [0, 1]."""
    net.eval()
    device = next(net.parameters()).device
    chunks = [
        net(torch.from_numpy(pictures[at : at + 512]).to(device)).double().softmax(dim=1).cpu().numpy()
        for at in range(0, max(1, len(pictures)), 512)
    ]
    return np.concatenate(chunks)


@torch.no_grad()
def show_features(model: Learner, name: str, context: Context) -> None:
    """Show the features of 600 test pictures on the plane of their first two principal components; rank 0 draws it."""
    rows = context.all_rows("test")
    if context.rank != 0 or len(rows) < 2:
        return
    features = model.features(torch.from_numpy(rows.features[:600]).to(context.device)).float().cpu().numpy()
    places = PCA(n_components=2, random_state=0).fit_transform(features)
    title = f"{len(places)} test pictures: the two directions in which their features differ most"
    context.show(name, points(places.astype(np.float64), rows.labels[:600], context.dataset.classes, title=title))


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    built_from = {name: exported.config[name] for name in ("mean", "std", "width", "blocks")}
    net = ConvolutionalNet(**built_from, classes=len(exported.document["classes"]))
    net.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(pictures: Any) -> np.ndarray:
        return probabilities(net, np.asarray(pictures, dtype=np.float32))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="contrastive", example="digits_few_labels")

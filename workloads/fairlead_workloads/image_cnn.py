"""A small convolutional network for pictures of one size, grey or colour, with two or more classes.

python -m fairlead_workloads.image_cnn --epochs=5                        trains here, alone, on scikit-learn's digits
python -m fairlead_workloads.image_cnn --data=path/to/folder             ... on a folder with one directory a class
"""

import contextlib
import copy
import math
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import num_batches
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import mistakes_sheet
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.mitigation import Mitigation, begin_mitigation
from fairlead.privacy import begin_privacy
from fairlead.probes import fit_temperature, run_probes
from fairlead.training import autocast, validate_classes
from fairlead.workload import Context, Params, Predictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``image_cnn.toml`` says the same to the platform, and a test compares the two."""

    width: int = 32
    blocks: int = 2
    lr: float = 4e-3
    weight_decay: float = 0.05
    shift: float = 0.8
    turn: float = 12.0
    stretch: float = 0.1
    epochs: int = 15
    batch_size: int = 64


class Block(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Group rather than batch normalisation: it does not look at other rows, so one rank with 64 rows and two
        # with 32 compute the same thing.
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(4, channels), channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(4, channels), channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps of the same shape."""
        return functional.gelu(maps + self.body(maps))


class ConvolutionalNet(nn.Module):
    """A stem, then residual blocks with half the size and twice the channels each, then the mean of each map."""

    def __init__(self, *, mean: list[float], std: list[float], classes: int, width: int, blocks: int) -> None:
        super().__init__()
        # Pictures arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        layers: list[nn.Module] = [nn.Conv2d(len(mean), width, 3, padding=1), nn.GELU(), Block(width)]
        for block in range(1, blocks):
            channels = width * 2**block
            layers += [nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), nn.GELU(), Block(channels)]
        self.maps = nn.Sequential(*layers)
        self.head = nn.Linear(width * 2 ** (blocks - 1), classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, shape (rows, classes)."""
        return self.head(self.maps((pictures - self.mean) / self.std).mean(dim=(2, 3)))


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the epoch with the lowest validation loss."""
    if len(context.dataset.feature_shape) != 3:
        raise BadData(f"{context.dataset.uri} holds a table, not pictures; use tabular_mlp")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    classes = len(context.dataset.classes)
    # What the spec asks for to protect single rows: mostly nothing, and then these are ordinary batches and steps.
    privacy = begin_privacy(context, rows=len(rows), batch_size=settings.batch_size, epochs=settings.epochs)
    mean, std = scale_of(privacy.rows_for_scaling(rows).features)
    config: dict[str, Any] = {"mean": mean, "std": std, "width": settings.width, "blocks": settings.blocks}
    model = ConvolutionalNet(**config, classes=classes).to(context.device)
    parallel = privacy.parallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    stepper = privacy.optimizer(optimizer)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.epochs * steps)
    mitigation = begin_mitigation(context)  # what the spec asks for against gaps between groups: mostly nothing
    best, best_loss, first_epoch = copy.deepcopy(model.state_dict()), float("inf"), 1
    if context.resume_from is not None:
        saved = torch.load(context.resume_from / "checkpoint.pt", map_location=context.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        mitigation.load_state_dict(saved.get("mitigation", {}))  # none in those of older releases
        privacy.load_state_dict(saved.get("privacy", {}))
        best, best_loss, first_epoch = saved["best"], saved["best_loss"], saved["epoch"] + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        shape = " x ".join(map(str, context.dataset.feature_shape))
        print(f"{len(rows)} pictures of {shape}, {classes} classes, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    pictures = torch.from_numpy(rows.features).to(context.device)
    labels = torch.from_numpy(rows.labels).to(context.device)
    groups = mitigation.groups(rows.records)
    most = {"shift": settings.shift, "turn": settings.turn, "stretch": settings.stretch}
    # Gradients of single rows, which privacy clips, are summed up in the precision they come in: there it is float32.
    precision = contextlib.nullcontext() if privacy.is_private else autocast(context)
    for epoch in range(first_epoch, settings.epochs + 1):
        parallel.train()
        moves = draw_moves(len(rows), seed=(context.seed, epoch, 1))
        local_loss = 0.0
        for batch in privacy.batches(epoch):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            moved = move(pictures[chosen], moves[batch.positions], **most)
            with precision:
                logits = parallel(moved)
            # Sum, then scale: the averaged gradient is that of the mean over the global batch, even if this rank
            # holds fewer rows than another or none. Losses are summed in float32 whatever the logits are in.
            logits = logits.float()
            losses = functional.cross_entropy(logits, labels[chosen], reduction="none")
            loss = mitigation.loss(
                losses, logits=logits, labels=labels[chosen], groups=groups[chosen], loss_scale=batch.loss_scale
            )
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            schedule.step()
            local_loss += losses.sum().item()
        (total_loss,) = sum_over_ranks(local_loss)
        metrics = {
            "train/loss": total_loss / len(rows),
            **validate_classes(context, partial(probabilities, model)),
            **mitigation.metrics(),
        }
        metrics |= privacy.metrics()
        # Without a validation split the last epoch is best, and also with mitigation: it costs validation loss.
        merit = -epoch if mitigation.is_in_training else metrics.get("validation/loss", -epoch)
        if merit < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), merit
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            checkpoint |= {"schedule": schedule.state_dict(), "best": best, "best_loss": best_loss}
            checkpoint |= {"mitigation": mitigation.state_dict(), "privacy": privacy.state_dict()}
            if context.rank == 0:
                torch.save(checkpoint, f"{directory}/checkpoint.pt")
            context.report(metrics, step=epoch, checkpoint=Path(directory) if context.rank == 0 else None)
        if context.should_stop():
            return  # the last checkpoint is already safe

    model.load_state_dict(best)
    temperature = fit_temperature(model, context)  # 1, unless the spec asks for one
    count_test(model, context, mitigation, temperature.used)
    run_probes(model, context, mitigation=mitigation, temperature=temperature)  # what else is to be looked at
    context.export(model.state_dict(), config=config | mitigation.config() | temperature.config())


def count_test(model: nn.Module, context: Context, mitigation: Mitigation, temperature: float = 1.0) -> None:
    """Decide the test split and count it. Thresholds of groups, if asked for, are chosen on validation rows before."""
    if mitigation.is_in_decisions:
        tuning = context.shard("validation")
        mitigation.choose(
            probabilities(model, tuning.features, temperature)[:, 1],
            labels=tuning.labels,
            groups=mitigation.groups(tuning.records),
        )
    test = context.shard("test")
    scores = sure = probabilities(model, test.features, temperature)
    if len(context.dataset.classes) == 2:
        scores = scores[:, 1]
        predictions = mitigation.decide(scores, groups=mitigation.groups(test.records))
    else:
        predictions = scores.argmax(axis=1)
    context.evaluate("test", records=test.records, predictions=predictions, scores=scores)
    context.show("mistakes.png", mistakes_sheet(test.features, sure, test.labels, context.dataset.classes))


def scale_of(pictures: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the train split; a constant channel is only centred."""
    wide = pictures.astype(np.float64)
    std = wide.std(axis=(0, 2, 3))
    return wide.mean(axis=(0, 2, 3)).tolist(), np.where(std > 0, std, 1.0).tolist()


def draw_moves(num_rows: int, *, seed: tuple[int, ...]) -> np.ndarray:
    """How pictures are moved: shares of the most, -1 to 1, shape (rows, 6): right, down, turned, wide, high, slanted.

    Drawn for all rows on every rank alike: what happens to a picture does not depend on which rank has it.
    """
    return np.random.RandomState(seed).uniform(-1, 1, size=(num_rows, 6)).astype(np.float32)


def move(pictures: Tensor, by: np.ndarray, *, shift: float, turn: float, stretch: float) -> Tensor:
    """Pictures moved by up to ``shift`` pixels, turned by ``turn`` degrees, made wider, higher, slanted by ``stretch``.

    ``by``: shares of the most, shape (rows, 6). A pixel that comes from between four others is their weighted mean; one
    from beyond the edge repeats it.
    """
    if (shift == 0 and turn == 0 and stretch == 0) or len(pictures) == 0:
        return pictures
    height, width = pictures.shape[2:]
    right, down, turned, wide, high, slant = torch.from_numpy(by).to(pictures.device).unbind(dim=1)
    cosine, sine = torch.cos(turned * math.radians(turn)), torch.sin(turned * math.radians(turn))
    # Each row of the matrix says where a pixel of the new picture lies in the old one, which goes from -1 to 1.
    across = torch.stack([cosine * (1 + stretch * wide), stretch * slant - sine, -2 / width * shift * right], dim=1)
    along = torch.stack([sine, cosine * (1 + stretch * high), -2 / height * shift * down], dim=1)
    grid = functional.affine_grid(torch.stack([across, along], dim=1), list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def probabilities(model: nn.Module, pictures: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities of raw pictures, shape (rows, classes), float64 and in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        chunks = [model(torch.from_numpy(pictures[at : at + 512]).to(device)) for at in range(0, len(pictures), 512)]
    if not chunks:
        return np.empty((0, model.head.out_features))
    return functional.softmax(torch.cat(chunks).double() / temperature, dim=1).cpu().numpy()


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    built_from = {name: exported.config[name] for name in ("mean", "std", "width", "blocks")}
    model = ConvolutionalNet(**built_from, classes=len(exported.document["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(pictures: Any) -> np.ndarray:
        return probabilities(model, np.asarray(pictures, dtype=np.float32), exported.config.get("temperature", 1.0))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="image_cnn", example="digits")

"""A U-Net that says of every pixel of a picture to which class it belongs.

python -m fairlead_workloads.image_segmentation --epochs=10              trains here, alone, on scenes of digits
python -m fairlead_workloads.image_segmentation --data=path/to/folder    ... on a folder in COCO's format
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks, sum_tensor
from fairlead.errors import BadData
from fairlead.spec import MeasureSpec
from fairlead.training import Best, autocast, compiled, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Predictor, Rows
from fairlead_workloads.image_cnn import Block

MEASURE = MeasureSpec(name="intersection over union", low=0.0, high=1.0)
# Background, then the ten colours of Tableau; classes beyond use those again.
COLOURS = "000000 1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf"
PALETTE = np.array([list(bytes.fromhex(colour)) for colour in COLOURS.split()], dtype=np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``image_segmentation.toml`` says the same to the platform, and a test compares the two."""

    width: int = 24
    levels: int = 3
    lr: float = 8e-3
    weight_decay: float = 0.05
    shift: int = 2
    zoom: float = 0.1
    turn: float = 6.0
    epochs: int = 32
    batch_size: int = 16


def halve(before: int, after: int) -> nn.Sequential:
    """To half the size, and a look around there."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU(), Block(after))


def convolve(before: int, after: int) -> nn.Sequential:
    """One convolution that keeps the size."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GELU())


class UNet(nn.Module):
    """Down a few levels, each of half the size and twice the channels, and up again beside what was seen on the way.

    Source: Ronneberger, Fischer, Brox 2015, U-Net; here with padded convolutions and short cuts on the way down.
    """

    def __init__(self, *, mean: list[float], std: list[float], classes: int, width: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        widths = [width * 2**level for level in range(levels)]
        thin = max(4, width // 3)  # at full size few channels will do: they say where ink ends, the others what it is
        self.first = convolve(len(mean), thin)
        self.halved = halve(thin, width)
        self.down = nn.ModuleList(halve(upper, lower) for upper, lower in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(lower, upper, 2, stride=2) for upper, lower in pairwise(widths))
        self.join = nn.ModuleList(convolve(2 * upper, upper) for upper, _ in pairwise(widths))
        self.last = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.hints = nn.ModuleList(nn.Conv2d(channels, classes, 1) for channels in widths)
        self.head = nn.Sequential(nn.Conv2d(thin + width, width, 1), nn.GELU(), nn.Conv2d(width, classes, 1))

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Logits, shape (rows, classes, height, width), and coarser hints after them, of half the size first."""
        height, width = pictures.shape[2:]
        whole = 2 ** (1 + len(self.down))  # sides must be halved evenly; what is added to them is cut off at the end
        filled = functional.pad(pictures, (0, -width % whole, 0, -height % whole), mode="replicate")
        edges = self.first((filled - self.mean) / self.std)
        maps, passed = self.halved(edges), []
        for down in self.down:
            passed.append(maps)
            maps = down(maps)
        every = [maps]
        for up, join, seen in zip(reversed(self.up), reversed(self.join), reversed(passed), strict=True):
            every.insert(0, join(torch.cat([seen, up(every[0])], dim=1)))
        hints = [hint(maps) for hint, maps in zip(self.hints, every, strict=True)]
        return [self.head(torch.cat([edges, self.last(every[0])], dim=1))[:, :, :height, :width], *hints]


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade each test picture, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "scenes")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    rows = context.all_rows("train")
    classes = ["background", *context.dataset.details["classes"]]
    refuse_unusable(rows, settings, context)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    mean, std = scale_of(rows.features)
    config: dict[str, Any] = {"mean": mean, "std": std, "width": settings.width, "levels": settings.levels}
    model = UNet(**config, classes=len(classes)).to(context.device)
    network = parallel(compiled(model, context), context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(
            f"{len(rows)} pictures, {len(classes)} classes with the background, {size} weights, {steps} steps an epoch"
        )
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    pictures = torch.from_numpy(rows.features).to(context.device)
    masks = torch.from_numpy(rows.targets["mask"]).to(context.device)
    for epoch in range(first_epoch, settings.epochs + 1):
        network.train()
        views = draw_views(len(rows), settings, shape=pictures.shape[2:], seed=context.seed, epoch=epoch)
        total = torch.zeros((), device=context.device)
        for batch in batches(
            len(rows),
            global_batch=settings.batch_size,
            rank=context.rank,
            world_size=context.world_size,
            seed=context.seed,
            epoch=epoch,
        ):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            seen, truth = view(pictures[chosen], masks[chosen], views[batch.positions].to(context.device))
            with autocast(context):
                answers = network(seen)
            # Sum, then scale: the averaged gradient is that of the mean over the global batch, even if this rank
            # holds fewer rows than another or none.
            loss = losses_of([answer.float() for answer in answers], truth).sum()
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        (total_loss,) = sum_over_ranks(total.item())
        metrics = {"train/loss": total_loss / len(rows), **validate(model, context)}
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    predicted = predict_masks(model, test.features)
    tables = confusion(test.targets["mask"], predicted, classes=len(classes))
    context.grade("test", records=test.records, values=mean_iou(tables), measure=MEASURE)
    whole = sum_tensor(torch.from_numpy(tables.sum(axis=0))).numpy()
    context.report({"test/mean_iou": float(mean_iou(whole[None])[0])}, step=settings.epochs)
    context.show("masks.png", draw(test.features[:8], test.targets["mask"][:8], predicted[:8]))
    context.export(model.state_dict(), config=config | {"classes": classes})


def refuse_unusable(rows: Rows, settings: Settings, context: Context) -> None:
    """Raise ``BadData`` for data that this page cannot train on."""
    if "mask" not in rows.targets:
        message = "has boxes but no masks: give every annotation a segmentation, or use object_detection"
        raise BadData(f"{context.dataset.uri} {message}")
    if not rows.targets["mask"].any():
        raise BadData(f"{context.dataset.uri}: in all {len(rows)} pictures of the train split there is background only")
    if len(rows) < max(settings.batch_size, context.world_size):
        raise BadData(
            f"{context.dataset.uri}: the train split has {len(rows)} pictures, fewer than one batch of "
            f"{settings.batch_size} over {context.world_size} ranks; take a smaller batch_size"
        )


def scale_of(pictures: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the train split; a constant channel is only centred."""
    wide = pictures.astype(np.float64)
    std = wide.std(axis=(0, 2, 3))
    return wide.mean(axis=(0, 2, 3)).tolist(), np.where(std > 0, std, 1.0).tolist()


def draw_views(num_rows: int, settings: Settings, *, shape: tuple[int, ...], seed: int, epoch: int) -> Tensor:
    """How each picture is seen this epoch, as the affine maps that ``affine_grid`` takes, shape (rows, 2, 3).

    Drawn for all rows on every rank alike: what happens to a picture does not depend on which rank has it.
    """
    random = np.random.RandomState((seed, epoch, 1))
    height, width = shape
    zooms = np.exp(random.uniform(-settings.zoom, settings.zoom, size=(2, num_rows)))
    turns = np.radians(random.uniform(-settings.turn, settings.turn, size=num_rows))
    shifts = random.uniform(-settings.shift, settings.shift, size=(num_rows, 2))
    # The map is in halves of each side: where they differ, a turn must be as round in pixels.
    across = np.stack([np.cos(turns), -np.sin(turns) * height / width]) * zooms
    down = np.stack([np.sin(turns) * width / height, np.cos(turns)]) * zooms
    maps = np.stack([across, down], axis=0).transpose(2, 0, 1)
    return torch.from_numpy(np.concatenate([maps, (shifts * 2 / (width, height))[..., None]], axis=2)).float()


def view(pictures: Tensor, masks: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures moved, turned and stretched, and their masks alike, of which the nearest pixel counts."""
    grid = functional.affine_grid(views, list(pictures.shape), align_corners=False)
    seen = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    truth = functional.grid_sample(
        masks[:, None].float(), grid, mode="nearest", padding_mode="border", align_corners=False
    )
    return seen, truth[:, 0].long()


def losses_of(answers: Sequence[Tensor], masks: Tensor) -> Tensor:
    """Loss of each picture, shape (rows,): that of the logits, and those of the hints.

    Logits: the cross-entropy of all pixels over the number of those of objects. A mean over all pixels would hardly
    notice objects; weights for them would have their edges drawn too far out. Hints: the mean cross-entropy of the
    pixels of objects alone, whose class is read off the coarse cell that they are in. Without them the deep levels
    would learn what a class looks like only by way of its edges. Source: Lee et al. 2015, Deeply-Supervised Nets.
    """
    logits, *hints = answers
    is_object = (masks > 0).unsqueeze(1)
    pixels = is_object.sum(dim=(1, 2, 3)).clamp(min=masks.shape[1] * masks.shape[2] / 100)
    total = functional.cross_entropy(logits, masks, reduction="none").sum(dim=(1, 2))
    # How many pixels of each class a coarse cell has, by the size of the cells: pooling counts them.
    truth = functional.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype) * is_object
    for level, hint in enumerate(hints, start=1):
        side = 2**level
        padding = (0, hint.shape[3] * side - masks.shape[2], 0, hint.shape[2] * side - masks.shape[1])
        counts = functional.avg_pool2d(functional.pad(truth, padding), side) * side**2
        total = total - (counts * hint.log_softmax(dim=1)).sum(dim=(1, 2, 3))
    return total / pixels


def validate(model: nn.Module, context: Context) -> Mapping[str, float]:
    """Loss and mean IoU over the whole validation split, each rank doing its shard; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    loss, predicted = 0.0, [np.zeros((0, *rows.features.shape[2:]), np.int64)]
    for answers, at in answers_of(model, rows.features):
        masks = torch.from_numpy(rows.targets["mask"][at]).to(context.device)
        loss += losses_of(answers, masks).sum().item()
        predicted.append(answers[0].argmax(dim=1).cpu().numpy())
    classes = len(context.dataset.details["classes"]) + 1
    table = confusion(rows.targets["mask"], np.concatenate(predicted), classes=classes).sum(axis=0)
    whole = sum_tensor(torch.from_numpy(table)).numpy()
    (total_loss,) = sum_over_ranks(loss)
    return {"validation/loss": total_loss / num_rows, "validation/mean_iou": float(mean_iou(whole[None])[0])}


def answers_of(model: nn.Module, pictures: np.ndarray, size: int = 256) -> Iterator[tuple[list[Tensor], slice]]:
    """What the model makes of raw pictures, some at a time, each with its place among them."""
    model.eval()
    device = next(model.parameters()).device
    for at in range(0, len(pictures), size):
        with torch.no_grad():
            yield model(torch.from_numpy(pictures[at : at + size]).to(device)), slice(at, at + size)


def predict_masks(model: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """The likeliest class of every pixel, int64, shape (rows, height, width)."""
    masks = np.zeros((len(pictures), *pictures.shape[2:]), np.int64)
    for (logits, *_), at in answers_of(model, pictures):
        masks[at] = logits.argmax(dim=1).cpu().numpy()
    return masks


def confusion(truth: np.ndarray, predicted: np.ndarray, *, classes: int) -> np.ndarray:
    """How many pixels of each picture are of a class and predicted as another, shape (rows, classes, classes)."""
    rows = len(truth)
    cells = (np.arange(rows)[:, None, None] * classes + truth) * classes + predicted
    return np.bincount(cells.ravel(), minlength=rows * classes**2).reshape(rows, classes, classes)


def mean_iou(tables: np.ndarray) -> np.ndarray:
    """Mean intersection over union of the classes, background included, that are in truth or prediction.

    ``tables``: shape (rows, classes, classes), see ``confusion``, with a pixel at least. Returns shape (rows,).
    Source: Everingham et al. 2015, The Pascal Visual Object Classes Challenge, section 4.2.2.
    """
    both = tables.diagonal(axis1=1, axis2=2)
    either = tables.sum(axis=1) + tables.sum(axis=2) - both
    return (both / np.maximum(either, 1)).sum(axis=1) / (either > 0).sum(axis=1)


def draw(pictures: np.ndarray, truth: np.ndarray, predicted: np.ndarray, *, scale: int = 6) -> bytes:
    """A PNG with a column for each picture: the picture, its true mask, the predicted one, a colour for each class."""
    low, high = pictures.min(initial=0), pictures.max(initial=1)
    shades = ((pictures - low) / (high - low) * 255).astype(np.uint8)
    colours = shades.repeat(3 // shades.shape[1], axis=1).transpose(0, 2, 3, 1)
    painted = [PALETTE[np.where(masks > 0, (masks - 1) % 10 + 1, 0)] for masks in (truth, predicted)]
    tiles = [np.pad(tile, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for tile in (colours, *painted)]
    sheet = np.concatenate([np.concatenate(list(tile), axis=1) for tile in tiles], axis=0)
    file = io.BytesIO()
    Image.fromarray(sheet.repeat(scale, axis=0).repeat(scale, axis=1)).save(file, "PNG")
    return file.getvalue()


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to masks, shape (rows, height, width).

    The number at a pixel is the place of its class in ``classes`` of the model's config; 0 is background.
    """
    exported = read_model(Path(directory))
    built_from = {name: exported.config[name] for name in ("mean", "std", "width", "levels")}
    model = UNet(**built_from, classes=len(exported.config["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    return lambda pictures: predict_masks(model, np.asarray(pictures, dtype=np.float32))


if __name__ == "__main__":
    run_alone(train, workload="image_segmentation", example="digit_masks")

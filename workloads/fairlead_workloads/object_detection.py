"""An anchor-free detector: where the middle of an object is, of which class, and how large it is.

python -m fairlead_workloads.object_detection --epochs=10                trains here, alone, on scenes of digits
python -m fairlead_workloads.object_detection --data=path/to/folder      ... on a folder in COCO's format

Source of the method: Zhou, Wang, Krähenbühl 2019, Objects as Points.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import gather_objects, seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.spec import MeasureSpec
from fairlead.training import Best, autocast, compiled, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Predictor, Rows
from fairlead_workloads.image_cnn import Block

MEASURE = MeasureSpec(name="F1 of objects found", low=0.0, high=1.0)
STRIDE = 2
"""Pixels along a side of one cell of the map."""
MOST = 50
"""Objects found in one picture at most."""
LEAST_SCORE = 0.01
LETTERS = 14
"""Height of the letters beside drawn boxes, in pixels."""
NOTHING = -1.0
"""The class of boxes that only fill up an array."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``object_detection.toml`` says the same to the platform, and a test compares the two."""

    width: int = 24
    levels: int = 3
    lr: float = 6e-3
    weight_decay: float = 0.02
    shift: int = 2
    zoom: float = 0.1
    confidence: float = 0.3
    epochs: int = 18
    batch_size: int = 16


def halve(before: int, after: int) -> nn.Sequential:
    """To half the size, and a look around there."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU(), Block(after))


def convolve(before: int, after: int) -> nn.Sequential:
    """One convolution that keeps the size."""
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GELU())


class Detector(nn.Module):
    """Two maps of cells: for each class how likely an object has its middle there, and where exactly and how large.

    Down some levels, each of half the size and twice the channels, to see whole objects, and up again to see where.
    """

    def __init__(self, *, mean: list[float], std: list[float], classes: int, width: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        widths = [width * 2**level for level in range(levels)]
        thin = max(4, width // 3)
        self.first = nn.Sequential(convolve(len(mean), thin), halve(thin, width))
        self.down = nn.ModuleList(halve(upper, lower) for upper, lower in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(lower, upper, 2, stride=2) for upper, lower in pairwise(widths))
        self.join = nn.ModuleList(convolve(2 * upper, upper) for upper, _ in pairwise(widths))
        self.middles = nn.Conv2d(width, classes, 1)
        self.extents = nn.Conv2d(width, 4, 1)
        # At first every cell holds an object with a chance of a tenth, or the many empty ones would drown the few.
        nn.init.constant_(self.middles.bias, -math.log(9))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of middles, shape (rows, classes, cells down, cells across), and extents, shape (rows, 4, ...).

        Extents are, in cells: right and down from the cell's corner to the middle, and the logarithms of both sides.
        """
        height, width = pictures.shape[2:]
        whole = STRIDE * 2 ** len(self.down)
        filled = functional.pad(pictures, (0, -width % whole, 0, -height % whole), mode="replicate")
        maps = self.first((filled - self.mean) / self.std)
        passed = []
        for down in self.down:
            passed.append(maps)
            maps = down(maps)
        for up, join, seen in zip(reversed(self.up), reversed(self.join), reversed(passed), strict=True):
            maps = join(torch.cat([seen, up(maps)], dim=1))
        return self.middles(maps), self.extents(maps)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade each test picture, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "scenes")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    rows = context.all_rows("train")
    classes = list(context.dataset.details["classes"])
    refuse_unusable(rows, settings, context)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    mean, std = scale_of(rows.features)
    config: dict[str, Any] = {"mean": mean, "std": std, "width": settings.width, "levels": settings.levels}
    model = Detector(**config, classes=len(classes)).to(context.device)
    network = parallel(compiled(model, context), context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} pictures, {len(classes)} classes, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    pictures = torch.from_numpy(rows.features).to(context.device)
    boxes = filled_up(list(rows.targets["boxes"])).to(context.device)
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
            seen, aims = view(pictures[chosen], boxes[chosen], views[batch.positions].to(context.device))
            with autocast(context):
                middles, extents = network(seen)
            # Sum, then scale: the averaged gradient is that of the mean over the global batch, even if this rank
            # holds fewer rows than another or none.
            loss = losses_of(middles.float(), extents.float(), aims).sum()
            optimizer.zero_grad()
            (loss * batch.loss_scale).backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        (total_loss,) = sum_over_ranks(total.item())
        metrics = {"train/loss": total_loss / len(rows), **validate(model, context, settings)}
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    found = find_objects(model, test.features)
    truth = list(test.targets["boxes"])
    grades = grades_of(truth, found, confidence=settings.confidence)
    context.grade("test", records=test.records, values=grades, measure=MEASURE)
    everywhere = gather_objects((truth, found))
    every_truth, every_found = ([one for pair in everywhere for one in pair[side]] for side in (0, 1))
    context.report({"test/ap50": average_precision(every_truth, every_found)}, step=settings.epochs)
    sure = [boxes[boxes[:, 5] >= settings.confidence] for boxes in found]
    context.show("boxes.png", draw(test.features[:8], truth[:8], sure[:8], classes))
    context.export(model.state_dict(), config=config | {"classes": classes})


def refuse_unusable(rows: Rows, settings: Settings, context: Context) -> None:
    """Raise ``BadData`` for data that this page cannot train on."""
    if not sum(map(len, rows.targets["boxes"])):
        raise BadData(f"{context.dataset.uri}: not one of the {len(rows)} pictures of the train split has a box")
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


def filled_up(boxes: Sequence[np.ndarray]) -> Tensor:
    """The boxes of all pictures in one tensor, shape (rows, most boxes of a picture, 5)."""
    filled = torch.full((len(boxes), max([1, *map(len, boxes)]), 5), NOTHING)
    for row, each in enumerate(boxes):
        filled[row, : len(each)] = torch.from_numpy(each)
    return filled


def draw_views(num_rows: int, settings: Settings, *, shape: tuple[int, ...], seed: int, epoch: int) -> Tensor:
    """How each picture is seen this epoch, as the affine maps that ``affine_grid`` takes, shape (rows, 2, 3).

    Drawn for all rows on every rank alike: what happens to a picture does not depend on which rank has it.
    """
    random = np.random.RandomState((seed, epoch, 1))
    maps = np.zeros((num_rows, 2, 3), np.float32)
    maps[:, [0, 1], [0, 1]] = np.exp(random.uniform(-settings.zoom, settings.zoom, size=(num_rows, 2)))
    maps[:, :, 2] = random.uniform(-settings.shift, settings.shift, size=(num_rows, 2)) * 2 / np.array(shape[::-1])
    return torch.from_numpy(maps)


def view(pictures: Tensor, boxes: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures moved and stretched, and their boxes alike; what then has its middle outside is left out."""
    grid = functional.affine_grid(views, list(pictures.shape), align_corners=False)
    seen = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    sides = torch.tensor(pictures.shape[:1:-1], device=boxes.device, dtype=boxes.dtype)
    zooms, shifts = views[:, [0, 1], [0, 1]], views[:, :, 2]
    # The map says where a pixel of the new picture comes from, from -1 to 1; a corner goes the other way.
    corners = boxes[..., :4].unflatten(-1, (2, 2)) * 2 / sides - 1
    corners = ((corners - shifts[:, None, None]) / zooms[:, None, None] + 1) / 2 * sides
    middles = corners.mean(dim=2)
    is_gone = ((middles < 0) | (middles >= sides)).any(dim=2)
    classes = torch.where(is_gone, NOTHING, boxes[..., 4])
    return seen, torch.cat([corners.clamp(torch.zeros_like(sides), sides).flatten(2), classes[..., None]], dim=2)


def losses_of(middles: Tensor, extents: Tensor, boxes: Tensor) -> Tensor:
    """Loss of each picture over the number of its objects, shape (rows,): of middles, and of extents.

    Middles: focal loss, in which an empty cell counts the less the nearer a middle of that class is. Source: Law, Deng
    2018, CornerNet, equation 1, alpha 2 and beta 4. Extents: absolute errors, in the cells with a middle.
    """
    rows, _, down, across = middles.shape
    is_object = boxes[..., 4] >= 0
    sizes = ((boxes[..., 2:4] - boxes[..., :2]) / STRIDE).clamp(min=1 / STRIDE)
    places = (boxes[..., :2] + boxes[..., 2:4]) / 2 / STRIDE
    cells = places.floor().clamp(torch.zeros_like(places), places.new_tensor([across - 1, down - 1]))
    near = closeness(cells, sizes, shape=(down, across)) * is_object[:, :, None, None]
    labels = boxes[..., 4].clamp(min=0).long()
    target = torch.zeros_like(middles).scatter_reduce(1, labels[:, :, None, None].expand_as(near), near, "amax")
    chances = middles.sigmoid()
    hit = (1 - chances) ** 2 * functional.logsigmoid(middles)
    miss = (1 - target) ** 4 * chances**2 * functional.logsigmoid(-middles)
    focal = -torch.where(target == 1, hit, miss).sum(dim=(1, 2, 3))
    wanted = torch.cat([places - cells, sizes.log()], dim=2)
    at = (cells[..., 1] * across + cells[..., 0]).long()
    given = extents.flatten(2).gather(2, at[:, None].expand(rows, 4, -1)).transpose(1, 2)
    errors = (given - wanted).abs().sum(dim=2) * is_object
    return (focal + errors.sum(dim=1)) / is_object.sum(dim=1).clamp(min=1)


def closeness(cells: Tensor, sizes: Tensor, *, shape: tuple[int, int]) -> Tensor:
    """How near each cell of the map is to the middle of each object: a normal density, 1 at the middle.

    ``cells`` and ``sizes``: across and down, shape (rows, objects, 2). Returns shape (rows, objects, *shape). The
    standard deviation is a sixth of a side: at the rim of the object nearly nothing is left.
    """
    over = [torch.arange(length, device=cells.device) for length in shape[::-1]]
    across, down = (
        torch.exp(-(((positions - cells[..., axis, None]) / (sizes[..., axis, None] / 6)) ** 2) / 2)
        for axis, positions in enumerate(over)
    )
    return down[..., :, None] * across[..., None, :]


def validate(model: nn.Module, context: Context, settings: Settings) -> Mapping[str, float]:
    """Loss and mean F1 over the whole validation split, each rank doing its shard; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    boxes, loss, found = list(rows.targets["boxes"]), 0.0, []
    truth = filled_up(boxes).to(context.device)
    for at, (middles, extents) in answers_of(model, rows.features):
        loss += losses_of(middles, extents, truth[at : at + len(middles)]).sum().item()
        found += decoded(middles, extents, shape=rows.features.shape[2:])
    grades = grades_of(boxes, found, confidence=settings.confidence)
    total_loss, total_grade = sum_over_ranks(loss, float(grades.sum()))
    return {"validation/loss": total_loss / num_rows, "validation/f1": total_grade / num_rows}


def answers_of(model: nn.Module, pictures: np.ndarray, size: int = 256) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """What the model makes of raw pictures, some at a time, each with the place of its first among them."""
    model.eval()
    device = next(model.parameters()).device
    for at in range(0, len(pictures), size):
        with torch.no_grad():
            yield at, model(torch.from_numpy(pictures[at : at + size]).to(device))


def decoded(middles: Tensor, extents: Tensor, *, shape: Sequence[int]) -> list[np.ndarray]:
    """The objects found in pictures of ``shape`` (height, width): those of the cells that no neighbour outdoes.

    Returns left, top, right, bottom, class and score, float32, shape (objects, 6), of each, the highest score first.
    """
    scores, classes = middles.sigmoid().max(dim=1)
    is_peak = scores == functional.max_pool2d(scores[:, None], 3, stride=1, padding=1)[:, 0]
    best, cells = (scores * is_peak).flatten(1).topk(min(MOST, scores[0].numel()), dim=1)
    given = extents.flatten(2).gather(2, cells[:, None].expand(-1, 4, -1)).transpose(1, 2)
    across = scores.shape[2]
    places = (torch.stack([cells % across, cells // across], dim=2) + given[..., :2]) * STRIDE
    sides = given[..., 2:].clamp(max=math.log(max(shape))).exp() * STRIDE
    limits = torch.tensor([shape[1], shape[0]] * 2, device=cells.device)
    corners = torch.cat([places - sides / 2, places + sides / 2], dim=2).clamp(torch.zeros_like(limits), limits)
    labels = classes.flatten(1).gather(1, cells)
    every = torch.cat([corners, labels[..., None], best[..., None]], dim=2).cpu().numpy()
    return [each[each[:, 5] >= LEAST_SCORE] for each in every]


def find_objects(model: nn.Module, pictures: np.ndarray) -> list[np.ndarray]:
    """What ``decoded`` gives of raw pictures, shape (rows, channels, height, width)."""
    every = (decoded(*answer, shape=pictures.shape[2:]) for _, answer in answers_of(model, pictures))
    return [found for some in every for found in some]


def grades_of(truth: Sequence[np.ndarray], found: Sequence[np.ndarray], *, confidence: float) -> np.ndarray:
    """F1 of each picture, shape (rows,): 2 hits / (objects + found ones); 1 where there are none and none is found.

    Found are those with a score from ``confidence`` up. By descending score each hits the object of its class that it
    overlaps most, by half of their union at least, if no other has hit that before.
    """
    grades = np.ones(len(truth))
    for row, (objects, every) in enumerate(zip(truth, found, strict=True)):
        sure = every[every[:, 5] >= confidence]
        overlaps = overlaps_of(sure, objects) * (sure[:, None, 4] == objects[None, :, 4])
        hits = 0
        for overlap in overlaps:
            if len(overlap) and overlap.max() >= 0.5:
                hits += 1
                overlaps[:, overlap.argmax()] = 0
        if len(sure) + len(objects):
            grades[row] = 2 * hits / (len(sure) + len(objects))
    return grades


def overlaps_of(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of all boxes of the one with all of the other, shape (some, others)."""
    corners = np.minimum(some[:, None, 2:4], others[None, :, 2:4]), np.maximum(some[:, None, :2], others[None, :, :2])
    both = (corners[0] - corners[1]).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(axis=1) for boxes in (some, others)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def average_precision(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """COCO's AP50: mean over classes of the precision at 101 recalls, a box being right from half an overlap up.

    ``truth``: boxes of each picture, ``found``: the same with scores. NaN where there is no object at all.
    """
    objects, answers = annotations(truth), annotations(found)
    if not objects or not answers:
        return 0.0 if objects else math.nan
    ground = COCO()
    ground.dataset = {
        "images": [{"id": row} for row in range(len(truth))],
        "categories": [{"id": label} for label in sorted({one["category_id"] for one in (*objects, *answers)})],
        "annotations": objects,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(answers), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][0, :, :, 0, -1]  # at all recalls, of all classes, whatever their size
    return float(precision[precision > -1].mean())


def annotations(boxes: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Boxes of each picture as COCO writes them, numbered from 1: it takes 0 for none."""
    every = [(row, *map(float, box)) for row, each in enumerate(boxes) for box in each]
    return [
        {
            "id": number,
            "image_id": row,
            "category_id": int(label),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
            "score": score[0] if score else 1.0,
        }
        for number, (row, left, top, right, bottom, label, *score) in enumerate(every, start=1)
    ]


def draw(
    pictures: np.ndarray,
    truth: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    classes: Sequence[str],
    *,
    scale: int = 8,
) -> bytes:
    """A PNG with a column for each picture: true boxes above in green, those found below in orange, with scores."""
    low, high = pictures.min(initial=0), pictures.max(initial=1)
    shades = ((pictures - low) / (high - low) * 255).astype(np.uint8)
    colours = (
        shades.repeat(3 // shades.shape[1], axis=1).transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    )
    height, width = colours.shape[1:3]
    sheet = Image.new("RGB", (len(pictures) * (width + 4), 2 * (height + 4)), "white")
    for column, colour in enumerate(colours):
        for line, (boxes, ink) in enumerate(((truth[column], "#2ca02c"), (found[column], "#ff7f0e"))):
            tile = Image.fromarray(colour).resize((width, height), Image.Resampling.NEAREST)
            pen = ImageDraw.Draw(tile)
            for left, top, right, bottom, label, *score in boxes:
                pen.rectangle([left * scale, top * scale, right * scale - 1, bottom * scale - 1], outline=ink, width=2)
                words = " ".join([classes[int(label)], *(f"{each:.2f}" for each in score)])
                above, below = top * scale - LETTERS - 4, bottom * scale
                pen.text((left * scale, above if above >= 0 else below), words, fill=ink, font_size=LETTERS)
            sheet.paste(tile, (column * (width + 4) + 2, line * (height + 4) + 2))
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to the objects in each: see ``decoded``.

    The class is the place in ``classes`` of the model's config. Returns an array of arrays, shape (rows,).
    """
    exported = read_model(Path(directory))
    built_from = {name: exported.config[name] for name in ("mean", "std", "width", "levels")}
    model = Detector(**built_from, classes=len(exported.config["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(pictures: Any) -> np.ndarray:
        found = find_objects(model, np.asarray(pictures, dtype=np.float32))
        answer = np.empty(len(found), dtype=object)
        for row, boxes in enumerate(found):
            answer[row] = boxes
        return answer

    return predict


if __name__ == "__main__":
    run_alone(train, workload="object_detection", example="digit_boxes")

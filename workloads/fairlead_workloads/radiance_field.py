"""A scene learnt from pictures of it, so that it can be seen from other places: a neural radiance field.

python -m fairlead_workloads.radiance_field --save=trained               trains here, alone, on a ray-traced scene
python -m fairlead_workloads.radiance_field --data=path/to/folder        ... on a folder with a transforms.json

Source: Mildenhall et al. 2020, NeRF. Unlike there, one network answers for the even samples and for those drawn where
something was found; the latter join the former, which are not asked again.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind, shard_range
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.spec import MeasureSpec
from fairlead.training import Best, autocast, compiled, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Rows

PSNR = MeasureSpec(name="peak signal-to-noise ratio in dB", low=0, high=100)
RAYS_AT_ONCE = 8192
FLIGHT_FRAMES, FLIGHT_SIDE = 24, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``radiance_field.toml`` says the same to the platform, and a test compares the two."""

    width: int = 48
    depth: int = 3
    frequencies: int = 4
    view_frequencies: int = 2
    coarse_samples: int = 12
    fine_samples: int = 12
    lr: float = 1e-2
    epochs: int = 12
    batch_size: int = 256


class Field(nn.Module):
    """From a place and a direction to how dense the scene is there, and which colour it shows that way."""

    def __init__(self, *, width: int, depth: int, frequencies: int, view_frequencies: int) -> None:
        super().__init__()
        self.frequencies, self.view_frequencies = frequencies, view_frequencies
        sizes = [3 + 6 * frequencies, *[width] * depth]
        pairs = itertools.pairwise(sizes)
        self.body = nn.Sequential(*(layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())))
        self.density = nn.Linear(width, 1)
        self.colour = nn.Sequential(
            nn.Linear(width + 3 + 6 * view_frequencies, width // 2), nn.ReLU(), nn.Linear(width // 2, 3)
        )

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density, shape (...), and colour, 0 to 1, (..., 3), at ``points`` along ``directions``, both (..., 3)."""
        features = self.body(encode(points, self.frequencies))
        seen = torch.cat([features, encode(directions, self.view_frequencies)], dim=-1)
        # Softplus rather than ReLU: where a place is empty by mistake there is still a slope to come back on.
        return functional.softplus(self.density(features)[..., 0].float()), self.colour(seen).float().sigmoid()


def encode(values: Tensor, frequencies: int) -> Tensor:
    """Values beside sines and cosines of them at ``2**k pi``: small moves are seen. (..., d (1 + 2 frequencies))."""
    angles = values[..., None, :] * (2.0 ** torch.arange(frequencies, device=values.device) * math.pi)[:, None]
    return torch.cat([values, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


def composite(densities: Tensor, colours: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """What a ray shows before white, shape (rays, 3), and the share of each of its pieces in it, (rays, pieces).

    ``densities``, (rays, pieces), and ``colours``, (rays, pieces, 3), hold between ``edges``, (rays, pieces + 1): of
    the light that enters a piece ``exp(-density * length)`` leaves it. Source: equation 3 of NeRF, after Max 1995.
    """
    depths = densities * edges.diff(dim=1)
    before = functional.pad(depths.cumsum(dim=1)[:, :-1], (1, 0))
    weights = (-before).exp() * (1 - (-depths).exp())
    return (weights[..., None] * colours).sum(dim=1) + 1 - weights.sum(dim=1, keepdim=True), weights


def draw_where(weights: Tensor, edges: Tensor, quantiles: Tensor) -> Tensor:
    """Distances, shape (rays, samples), that lie between ``edges`` as often as ``weights`` say, evenly in a piece.

    ``quantiles``: shape (rays, samples), 0 to 1: where the cumulated weights are inverted.
    """
    shares = weights + 1e-5  # a ray that meets nothing is sampled evenly
    cumulated = functional.pad((shares / shares.sum(dim=1, keepdim=True)).cumsum(dim=1), (1, 0))
    above = torch.searchsorted(cumulated, quantiles.contiguous(), right=True).clamp(1, weights.shape[1])
    low, high = cumulated.gather(1, above - 1), cumulated.gather(1, above)
    near, far = edges.gather(1, above - 1), edges.gather(1, above)
    return near + ((quantiles - low) / (high - low)).clamp(0, 1) * (far - near)


class Camera(nn.Module):
    """What rays show: even samples first, more where these found something, then both together."""

    def __init__(
        self, *, centre: Sequence[float], near: float, far: float, samples: Sequence[int], **field: int
    ) -> None:
        super().__init__()
        self.field = Field(**field)
        self.near, self.far, (self.coarse, self.fine) = near, far, samples
        self.register_buffer("centre", torch.tensor(centre), persistent=False)

    def forward(self, origins: Tensor, directions: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
        """Colours by all samples, and by the even ones alone: both of shape (rays, 3), 0 to 1.

        ``chances``: where in its stratum each sample lies, 0 to 1, shape (rays, coarse + fine).
        """
        strata = torch.arange(self.coarse, device=origins.device)
        even = self.near + (self.far - self.near) * (strata + chances[:, : self.coarse]) / self.coarse
        densities, colours = self.look(origins, directions, even)
        by_even, weights = composite(densities, colours, self.edges(even))
        strata = torch.arange(self.fine, device=origins.device)
        drawn = draw_where(weights.detach(), self.edges(even), (strata + chances[:, self.coarse :]) / self.fine)
        more_densities, more_colours = self.look(origins, directions, drawn)
        distances, order = torch.cat([even, drawn], dim=1).sort(dim=1)
        densities = torch.cat([densities, more_densities], dim=1).gather(1, order)
        colours = torch.cat([colours, more_colours], dim=1).gather(1, order[..., None].expand(-1, -1, 3))
        return composite(densities, colours, self.edges(distances))[0], by_even

    def look(self, origins: Tensor, directions: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour at ``distances``, shape (rays, samples), along the rays."""
        points = origins[:, None] + distances[..., None] * directions[:, None] - self.centre
        scaled = points * (2 / (self.far - self.near))  # from -1 to 1 around what the cameras look at
        return self.field(scaled, directions[:, None].expand_as(points))

    def edges(self, distances: Tensor) -> Tensor:
        """The ends of the rays, and borders half-way between samples: shape (rays, samples + 1)."""
        near, far = (torch.full_like(distances[:, :1], end) for end in (self.near, self.far))
        return torch.cat([near, (distances[:, 1:] + distances[:, :-1]) / 2, far], dim=1)


def rays_of(poses: Tensor, *, height: int, width: int, focal: float) -> tuple[Tensor, Tensor]:
    """Origins and directions (of length 1) of all pixels' rays, row by row: both of shape (views * pixels, 3)."""
    down, across = torch.meshgrid(
        (torch.arange(height, device=poses.device) + 0.5 - height / 2) / focal,
        (torch.arange(width, device=poses.device) + 0.5 - width / 2) / focal,
        indexing="ij",
    )
    seen = torch.stack([across, -down, -torch.ones_like(down)], dim=-1).reshape(-1, 3)
    directions = functional.normalize(seen @ poses[:, :, :3].transpose(1, 2), dim=-1)
    return poses[:, None, :, 3].expand_as(directions).flatten(0, 1), directions.flatten(0, 1)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade held-out views, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "views")
    settings, threads = Settings(**params), share_cores(context.world_size)
    views, (_, height, width) = context.all_rows("train"), context.dataset.feature_shape
    num_rays = len(views) * height * width
    if num_rays < settings.batch_size:
        found = f"the {len(views)} views of the train split have {num_rays} pixels"
        wanted = f"one batch has {settings.batch_size} over {context.world_size} ranks"
        raise BadData(f"{context.dataset.uri}: {found}, and {wanted}")
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    config = config_of(settings, context, views.targets["pose"])
    camera = Camera(**config).to(context.device)
    everywhere = parallel(compiled(camera, context), context)
    optimizer = torch.optim.Adam(camera.parameters(), lr=settings.lr)
    steps = num_batches(num_rays, global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=10, least=0.02)
    best = Best(camera)
    parts = {"camera": camera, "optimizer": optimizer, "schedule": schedule, "best": best}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in camera.parameters())
        print(f"{len(views)} views of {width} x {height}, {num_rays} rays, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    place = {"rank": context.rank, "world_size": context.world_size}
    origins, directions = rays_of(as_tensor(views.targets["pose"], context), **frame_of(context))
    colours = colours_of(views, context)
    for epoch in range(first_epoch, settings.epochs + 1):
        seed_epoch(context.seed, epoch=epoch, rank=0)  # ranks draw alike for the whole batch, and take their part
        error = torch.zeros((), device=context.device)
        for batch in batches(num_rays, global_batch=settings.batch_size, seed=context.seed, epoch=epoch, **place):
            chances = torch.rand(batch.num_global, sum(config["samples"]), device=context.device)
            mine = slice(*shard_range(batch.num_global, **place))
            chosen = torch.from_numpy(batch.positions).to(context.device)
            with autocast(context):
                found, by_even = everywhere(origins[chosen], directions[chosen], chances[mine])
            square, square_by_even = (
                (shown - colours[chosen]).square().mean(dim=1).sum() for shown in (found, by_even)
            )
            optimizer.zero_grad()
            # The even samples are held to the truth as well: they must find what the others are drawn by.
            ((square + square_by_even) * batch.loss_scale).backward()
            optimizer.step()
            schedule.step()
            error += square.detach()
        (total,) = sum_over_ranks(error.item())
        metrics = {"train/loss": total / num_rays, "train/psnr": decibels(total / num_rays)}
        metrics |= validate(camera, context)
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        if epoch % -(-settings.epochs // 20) == 0:
            show_view(camera, context, f"view-{epoch}.png")
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    held_out = context.shard("test")
    values = np.array([decibels(error) for error in squared_errors(camera, held_out, context)], dtype=np.float64)
    context.grade("test", records=held_out.records, values=values, measure=PSNR)
    show_view(camera, context, "view.png")
    show_flight(camera, context)
    context.export(camera.state_dict(), config=config | {"frame": frame_of(context)})


def config_of(settings: Settings, context: Context, poses: NDArray[np.float32]) -> dict[str, Any]:
    """What a camera is built from: the page's sizes, and where the scene lies."""
    sizes = asdict(settings)
    ends = {name: context.dataset.details[name] for name in ("near", "far")}
    middles = poses[:, :, 3] - (ends["near"] + ends["far"]) / 2 * poses[:, :, 2]  # a camera looks along minus z
    field = {name: sizes[name] for name in ("width", "depth", "frequencies", "view_frequencies")}
    samples = [settings.coarse_samples, settings.fine_samples]
    return {"centre": middles.mean(axis=0).tolist(), **ends, "samples": samples, **field}


def frame_of(context: Context) -> dict[str, Any]:
    """Height, width and focal length of the pictures, in pixels."""
    _, height, width = context.dataset.feature_shape
    return {"height": height, "width": width, "focal": context.dataset.details["focal"]}


def as_tensor(values: NDArray[Any], context: Context) -> Tensor:
    """On the context's device."""
    return torch.from_numpy(values).to(context.device)


def colours_of(views: Rows, context: Context) -> Tensor:
    """Of every pixel, in the order of ``rays_of``: shape (views * pixels, 3), 0 to 1."""
    return as_tensor(views.features, context).permute(0, 2, 3, 1).reshape(-1, 3) / 255


@torch.no_grad()
def render(camera: Camera, poses: Tensor, frame: Mapping[str, Any]) -> Tensor:
    """Pictures from ``poses``, shape (n, 3, 4): (n, height, width, 3), 0 to 1. Samples lie in the middle of strata."""
    rays = zip(*(part.split(RAYS_AT_ONCE) for part in rays_of(poses, **frame)), strict=True)
    middle = torch.full((RAYS_AT_ONCE, camera.coarse + camera.fine), 0.5, device=poses.device)
    shown = [camera(origins, directions, middle[: len(origins)])[0] for origins, directions in rays]
    return torch.cat(shown).reshape(len(poses), frame["height"], frame["width"], 3).clamp(0, 1)


def squared_errors(camera: Camera, views: Rows, context: Context) -> list[float]:
    """The mean squared error of each view."""
    if len(views) == 0:
        return []
    shown = render(camera, as_tensor(views.targets["pose"], context), frame_of(context))
    return (shown.flatten() - colours_of(views, context).flatten()).square().reshape(len(views), -1).mean(1).tolist()


def decibels(square: float) -> float:
    """The peak signal-to-noise ratio of a mean squared error of values from 0 to 1; at most 100."""
    return -10 * math.log10(max(square, 1e-10))


def validate(camera: Camera, context: Context) -> Mapping[str, float]:
    """Over the whole validation split, each rank doing its shard; empty without such a split."""
    num_views = context.dataset.num_by_split["validation"]
    if num_views == 0:
        return {}
    errors = squared_errors(camera, context.shard("validation"), context)
    square, ratio = sum_over_ranks(sum(errors), sum(map(decibels, errors)))
    return {"validation/loss": square / num_views, "validation/psnr": ratio / num_views}


def show_view(camera: Camera, context: Context, name: str) -> None:
    """Up to four views of the test split as they are, above what the model makes of their places."""
    views = context.all_rows("test")
    if context.rank != 0 or len(views) == 0:
        return
    made = render(camera, as_tensor(views.targets["pose"][:4], context), frame_of(context))
    real = colours_of(views, context).reshape(len(views), *made.shape[1:])[:4]
    rows = [torch.cat(list(pictures), dim=1) for pictures in (real, made)]
    context.show(name, encoded([torch.cat(rows)], "PNG"))


def show_flight(camera: Camera, context: Context) -> None:
    """A flight around the scene: a circle at the mean height and distance of the cameras, as a GIF."""
    if context.rank != 0:
        return
    frame, centre = frame_of(context), camera.centre.cpu().numpy()
    share = min(1.0, FLIGHT_SIDE / max(frame["height"], frame["width"]))
    small = {name: type(value)(value * share) for name, value in frame.items()}
    places = context.all_rows("train").targets["pose"][:, :, 3] - centre
    height, distance = places[:, 2].mean(), np.linalg.norm(places[:, :2], axis=1).mean()
    angles = np.linspace(0, 2 * np.pi, FLIGHT_FRAMES, endpoint=False)
    flown = [pose_towards(centre, distance * np.cos(at), distance * np.sin(at), height) for at in angles]
    pictures = render(camera, as_tensor(np.stack(flown).astype(np.float32), context), small)
    context.show("flight.gif", encoded(list(pictures), "GIF"))


def pose_towards(centre: NDArray[Any], x: float, y: float, z: float) -> NDArray[np.float64]:
    """The pose, shape (3, 4), of a camera at ``centre`` + (x, y, z) that looks at ``centre``, with z upward."""
    backward = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    right = np.array([-y, x, 0]) / np.hypot(x, y)
    return np.column_stack([right, np.cross(backward, right), backward, centre + np.array([x, y, z])])


def encoded(pictures: Sequence[Tensor], format_name: str) -> bytes:
    """Pictures, each (height, width, 3), 0 to 1, four times as wide, as a file; several become a moving one."""
    frames = [Image.fromarray((255 * picture).round().byte().cpu().numpy()) for picture in pictures]
    first, *others = (frame.resize((4 * frame.width, 4 * frame.height), Image.Resampling.NEAREST) for frame in frames)
    file = io.BytesIO()
    moving: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 100, "loop": 0} if others else {}
    first.save(file, format_name, **moving)
    return file.getvalue()


def load_camera(directory: Path) -> Callable[[Any], NDArray[np.float32]]:
    """From poses, shape (n, 3, 4), to pictures, (n, height, width, 3), 0 to 1. ``directory``: an exported model.

    Not called ``load``: a served model answers with classes or numbers, and this one with pictures.
    """
    exported = read_model(Path(directory))
    config = dict(exported.config)
    frame = config.pop("frame")
    camera = Camera(**config)
    camera.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})
    return lambda poses: render(camera, torch.from_numpy(np.asarray(poses, dtype=np.float32)), frame).numpy()


if __name__ == "__main__":
    run_alone(train, workload="radiance_field", example="ray_traced_scene")

"""Pictures made anew, of a class that is asked for: by a small diffusion model, or by a Wasserstein GAN.

python -m fairlead_workloads.image_generation --save=trained             trains here, alone, on scikit-learn's digits
python -m fairlead_workloads.image_generation --method=wgan_gp --data=path/to/folder    ... a GAN, on a folder of images
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.neural_network import MLPClassifier
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fairlead.data import Batch, batches, num_batches, require_kind, shard_range
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks, sum_tensor
from fairlead.errors import BadData
from fairlead.spec import MeasureSpec
from fairlead.training import autocast, compiled, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Rows

RECOGNISED = MeasureSpec(name="made pictures that a judge takes for one of their class", low=0, high=1)
JUDGE_EPOCHS, JUDGE_UNITS = 60, 64
NULL_SHARE = 0.1
"""Share of training pictures whose class the denoiser is not told: so it learns what any picture looks like, too."""
MADE_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``image_generation.toml`` says the same to the platform, and a test compares the two."""

    method: str = "diffusion"
    width: int = 16
    denoising_steps: int = 12
    guidance: float = 0.5
    noise_size: int = 32
    critic_steps: int = 3
    penalty: float = 10.0
    lr: float = 4e-3
    averaging: float = 0.98
    sample_every: int = 10
    epochs: int = 30
    batch_size: int = 64


def num_halvings(shape: Sequence[int]) -> int:
    """How often pictures of ``shape`` (channels, height, width) are halved: until about 4 pixels are left."""
    return max(0, int(math.log2(max(1, min(shape[1:]) / 4))))


def norm(channels: int) -> nn.GroupNorm:
    """Looks at one row at a time, unlike batch normalisation: two ranks compute what one does."""
    return nn.GroupNorm(math.gcd(4, channels), channels)


# ---- diffusion: learn to take noise away, then begin with nothing but noise ------------------------------------------


class Block(nn.Module):
    """Two convolutions beside a short cut; what is asked for scales and shifts the maps between them."""

    def __init__(self, channels: int, asked: int) -> None:
        super().__init__()
        self.first = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1))
        self.norm, self.asked = norm(channels), nn.Linear(asked, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor, asked: Tensor) -> Tensor:
        """Feature maps of the same shape."""
        scale, shift = self.asked(asked)[:, :, None, None].chunk(2, dim=1)
        return maps + self.second(functional.silu(self.norm(self.first(maps)) * (1 + scale) + shift))


class Denoiser(nn.Module):
    """A U-Net that tells noise from picture: down to small maps, and up again beside the maps of the way down.

    At time t a picture x and noise e are mixed to ``cos(pi t / 2) x + sin(pi t / 2) e``. What is learnt is the velocity
    ``cos(pi t / 2) e - sin(pi t / 2) x``, from which and the mixture both follow (Ho et al. 2020; Salimans, Ho 2022).
    """

    def __init__(self, *, shape: Sequence[int], classes: int, width: int, steps: int, guidance: float) -> None:
        super().__init__()
        self.noise_shape, self.classes, self.steps, self.guidance = tuple(shape), classes, steps, guidance
        asked, sizes = 4 * width, [width * 2**level for level in range(num_halvings(shape) + 1)]
        self.register_buffer("frequencies", 2.0 ** torch.arange(8) * math.pi / 2, persistent=False)
        self.time = nn.Sequential(nn.Linear(16, asked), nn.SiLU(), nn.Linear(asked, asked))
        self.label = nn.Embedding(classes + 1, asked)  # the last one: no class in particular
        self.stem = nn.Conv2d(shape[0], width, 3, padding=1)
        levels = list(itertools.pairwise(sizes))
        self.before = nn.ModuleList(Block(fine, asked) for fine, _ in levels)
        self.halve = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in levels)
        self.middle = Block(sizes[-1], asked)
        self.widen = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in reversed(levels))
        self.after = nn.ModuleList(Block(fine, asked) for fine, _ in reversed(levels))
        self.end = nn.Conv2d(width, shape[0], 3, padding=1)

    def forward(self, mixture: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """The velocity, of the shape of ``mixture``; ``time``: 0 is a picture, 1 is noise, shape (n,)."""
        angles = time[:, None] * self.frequencies
        asked = functional.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.label(labels))
        maps, earlier = self.stem(mixture), []
        for block, halve in zip(self.before, self.halve, strict=True):
            earlier.append(block(maps, asked))
            maps = halve(earlier[-1])
        maps = self.middle(maps, asked)
        for widen, block in zip(self.widen, self.after, strict=True):
            beside = earlier.pop()
            maps = block(functional.interpolate(widen(maps), size=beside.shape[2:]) + beside, asked)
        return self.end(maps)

    @torch.no_grad()
    def make(self, noise: Tensor, labels: Tensor) -> list[Tensor]:
        """What there is after each step from noise to a picture, the last, by DDIM (Song et al. 2021): no more chance.

        Guidance goes on from what any picture looks like, past what one of the class does (Ho, Salimans 2022).
        """
        states = [noise]
        for step in range(self.steps, 0, -1):
            now, then = (torch.full((len(noise),), at / self.steps, device=noise.device) for at in (step, step - 1))
            velocity = self(states[-1], now, labels)
            if self.guidance > 0:
                velocity = velocity.lerp(self(states[-1], now, torch.full_like(labels, self.classes)), -self.guidance)
            of_picture, of_noise = shares(now)
            picture = (of_picture * states[-1] - of_noise * velocity).clamp(-1, 1)
            left = (states[-1] - of_picture * picture) / of_noise
            of_picture, of_noise = shares(then)
            states.append(of_picture * picture + of_noise * left)
        return states


def shares(time: Tensor) -> tuple[Tensor, Tensor]:
    """How much of picture and noise there is at ``time``, shape (n, 1, 1, 1); their squares add up to 1."""
    angle = time[:, None, None, None] * math.pi / 2
    return angle.cos(), angle.sin()


class Diffusion:
    """How a denoiser learns."""

    sums = ("train/loss",)

    def __init__(self, settings: Settings, context: Context, *, steps: int) -> None:
        self._context = context
        self.model = model_of(config_of(settings, context)).to(context.device)
        self._parallel = parallel(compiled(self.model, context), context)
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings.lr, betas=(0.9, 0.99))
        self._schedule = warmup_cosine(self._optimizer, steps=steps, warmup=min(20, steps // 10))
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
        self.parts = {"model": self.model, "average": self.average}
        self.parts |= {"optimizer": self._optimizer, "schedule": self._schedule}

    def learn(self, pictures: Tensor, labels: Tensor, batch: Batch, mine: slice, step: int) -> Tensor:
        """One step on this rank's part of a batch, ``mine`` of it; the sum of its losses, shape (1,)."""
        # Every rank draws for the whole batch and takes its part: so one rank and two learn from the same noise.
        noise = torch.randn(batch.num_global, *self.model.noise_shape, device=pictures.device)[mine]
        time, chance = torch.rand(2, batch.num_global, device=pictures.device)[:, mine]
        told = torch.where(chance < NULL_SHARE, self.model.classes, labels)
        of_picture, of_noise = shares(time)
        with autocast(self._context):
            found = self._parallel(of_picture * pictures + of_noise * noise, time, told)
        loss = (found.float() - (of_picture * noise - of_noise * pictures)).square().mean(dim=(1, 2, 3)).sum()
        self._optimizer.zero_grad()
        (loss * batch.loss_scale).backward()
        self._optimizer.step()
        self._schedule.step()
        self.average.update_parameters(self.model)
        return loss.detach()[None]


# ---- the GAN: one network makes pictures, another tells them from real ones ------------------------------------------


class Generator(nn.Module):
    """From noise and a class to a picture: small maps first, then larger and larger ones."""

    def __init__(self, *, shape: Sequence[int], classes: int, width: int, noise_size: int) -> None:
        super().__init__()
        self.noise_shape, self.shape, levels = (noise_size,), tuple(shape), num_halvings(shape)
        self.begin = (width * 2**levels, *(-(-side // 2**levels) for side in shape[1:]))
        self.label = nn.Embedding(classes, noise_size)
        self.stem = nn.Linear(2 * noise_size, math.prod(self.begin))
        layers: list[nn.Module] = []
        for channels in (width * 2**level for level in range(levels, 0, -1)):
            layers += [norm(channels), nn.ReLU(), nn.Upsample(scale_factor=2)]
            layers += [nn.Conv2d(channels, channels // 2, 3, padding=1)]
        self.body = nn.Sequential(*layers, norm(width), nn.ReLU(), nn.Conv2d(width, shape[0], 3, padding=1), nn.Tanh())

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Pictures from -1 to 1, shape (n, channels, height, width)."""
        maps = self.stem(torch.cat([noise, self.label(labels)], dim=1)).unflatten(1, self.begin)
        return self.body(maps)[:, :, : self.shape[1], : self.shape[2]]

    @torch.no_grad()
    def make(self, noise: Tensor, labels: Tensor) -> list[Tensor]:
        """Pictures, in one step."""
        return [self(noise, labels)]


class Critic(nn.Module):
    """How real a picture of a class looks; it compares with the class at the end (Miyato, Koyama 2018)."""

    def __init__(self, *, shape: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(num_halvings(shape) + 1)]
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1), nn.LeakyReLU(0.2)]
        for fine, coarse in itertools.pairwise(sizes):
            layers += [nn.Conv2d(fine, coarse, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        pixels = math.prod(-(-side // 2 ** (len(sizes) - 1)) for side in shape[1:])
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * pixels, 8 * width), nn.LeakyReLU(0.2))
        self.score, self.label = nn.Linear(8 * width, 1), nn.Embedding(classes, 8 * width)

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        """Higher is more real, without ends; shape (n,)."""
        features = self.body(pictures)
        return self.score(features)[:, 0] + (features * self.label(labels)).mean(dim=1)


class WassersteinGan:
    """How generator and critic learn: Gulrajani et al. 2017, where a penalty keeps the critic's slope near 1.

    There is a gradient within its loss, which hooks of DistributedDataParallel would take for another: what ranks find
    is summed by hand. In float32, uncompiled, for the same reason.
    """

    sums = ("train/distance", "train/penalty")

    def __init__(self, settings: Settings, context: Context, *, steps: int) -> None:
        self._settings, config = settings, config_of(settings, context)
        self.model = model_of(config).to(context.device)
        sizes = {name: config[name] for name in ("shape", "classes", "width")}
        self._critic = Critic(**sizes).to(context.device)
        both = (self.model, self._critic)  # no momentum: each chases what the other has just left
        self._makes, self._tells = (torch.optim.Adam(one.parameters(), settings.lr, betas=(0.0, 0.9)) for one in both)
        turns = {self._makes: -(-steps // settings.critic_steps), self._tells: steps}
        self._schedules = {one: warmup_cosine(one, steps=num, least=0.05) for one, num in turns.items()}
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.averaging))
        self.parts = {"model": self.model, "average": self.average, "critic": self._critic}
        self.parts |= {"makes": self._makes, "tells": self._tells}
        self.parts |= {"schedule of makes": self._schedules[self._makes]}
        self.parts |= {"schedule of tells": self._schedules[self._tells]}

    def learn(self, pictures: Tensor, labels: Tensor, batch: Batch, mine: slice, step: int) -> Tensor:
        """A step of the critic and, once in ``critic_steps``, of the generator; sums of the critic's losses, (2,)."""
        # Every rank draws for the whole batch and takes its part: so one rank and two learn from the same noise.
        noise = torch.randn(batch.num_global, *self.model.noise_shape, device=pictures.device)[mine]
        mix = torch.rand(batch.num_global, 1, 1, 1, device=pictures.device)[mine]
        with torch.no_grad():
            made = self.model(noise, labels)
        between = pictures.lerp(made, mix).requires_grad_()
        (slopes,) = torch.autograd.grad(self._critic(between, labels).sum(), between, create_graph=True)
        penalty = (slopes.flatten(1).norm(dim=1) - 1).square().sum()
        distance = (self._critic(pictures, labels) - self._critic(made, labels)).sum()
        self._descend(self._critic, self._settings.penalty * penalty - distance, self._tells, batch)
        if step % self._settings.critic_steps == 0:
            self._descend(self.model, -self._critic(self.model(noise, labels), labels).sum(), self._makes, batch)
            self.average.update_parameters(self.model)
        return torch.stack([distance, penalty]).detach()

    def _descend(self, model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        weights = list(model.parameters())
        found = torch.cat([part.flatten() for part in torch.autograd.grad(loss / batch.num_global, weights)])
        parts = sum_tensor(found).split([weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.grad = part.view_as(weight)
        optimizer.step()
        self._schedules[optimizer].step()


# ---- a judge of what is made -----------------------------------------------------------------------------------------


class Judge:
    """A small classifier of scikit-learn's that has seen the real pictures of the train split, and trains nobody."""

    def __init__(self, pictures: NDArray[np.float32], labels: NDArray[np.int64], *, classes: int, seed: int) -> None:
        self._net = MLPClassifier((JUDGE_UNITS,), random_state=seed)
        for _ in range(JUDGE_EPOCHS):
            self._net.partial_fit(pictures.reshape(len(pictures), -1), labels, classes=np.arange(classes))

    def recognises(self, pictures: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each picture passes for one of its class, shape (n,)."""
        if len(pictures) == 0:
            return np.zeros(0, dtype=bool)
        return np.asarray(self._net.predict(pictures.reshape(len(pictures), -1)) == labels)

    def features(self, pictures: NDArray[np.float32]) -> NDArray[np.float64]:
        """What its last layer but one says of pictures, shape (n, units)."""
        flat = pictures.reshape(len(pictures), -1).astype(np.float64)
        return np.asarray(np.maximum(flat @ self._net.coefs_[0] + self._net.intercepts_[0], 0))


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Squared Frechet distance of the normal distributions with the means and covariances of rows, (n, features).

    ``|m1 - m2|**2 + trace(C1 + C2 - 2 (C1 C2)**(1/2))`` (Dowson, Landau 1982), by which Heusel et al. 2017 compare
    made pictures with real ones. C1 C2 has no eigenvalue below 0, and their roots add up to the last trace.
    """
    gap = first.mean(axis=0) - second.mean(axis=0)
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(one @ other).real.clip(0))
    return float(gap @ gap + np.trace(one) + np.trace(other) - 2 * roots.sum())


# ---- training --------------------------------------------------------------------------------------------------------


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, have a picture made for each test record judged, export the averaged model."""
    require_kind(context.dataset, "images")
    settings, threads = Settings(**params), share_cores(context.world_size)
    rows = context.all_rows("train")
    refuse_unusable(rows, settings, context)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    config = config_of(settings, context)
    real = scaled(rows, config)
    judge = Judge(real, rows.labels, classes=config["classes"], seed=context.seed)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    method = Diffusion if settings.method == "diffusion" else WassersteinGan
    learner: Diffusion | WassersteinGan = method(settings, context, steps=settings.epochs * steps)
    model = learner.average.module
    first_epoch = restore(context, learner.parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        shape = " x ".join(map(str, config["shape"]))
        print(f"{len(rows)} pictures of {shape}, {config['classes']} classes, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    pictures, labels = (torch.from_numpy(array).to(context.device) for array in (real, rows.labels))
    place = {"rank": context.rank, "world_size": context.world_size}
    looks = max(settings.sample_every, -(-settings.epochs // 100))
    for epoch in range(first_epoch, settings.epochs + 1):
        seed_epoch(context.seed, epoch=epoch, rank=0)  # the same on all ranks: see ``learn``
        sums = torch.zeros(len(learner.sums), device=context.device)
        parts = batches(len(rows), global_batch=settings.batch_size, seed=context.seed, epoch=epoch, **place)
        for step, batch in enumerate(parts, start=(epoch - 1) * steps):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            mine = slice(*shard_range(batch.num_global, **place))
            sums += learner.learn(pictures[chosen], labels[chosen], batch, mine, step)
        totals = sum_over_ranks(*sums.tolist())
        metrics = {name: total / len(rows) for name, total in zip(learner.sums, totals, strict=True)}
        if epoch % looks == 0 or epoch == settings.epochs:
            metrics |= validate(model, judge, config, context)
            show_grid(model, config, context, f"epoch-{epoch}.png")
        keep(context, metrics, step=epoch, parts=learner.parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    held_out, num_rows = context.shard("test"), context.dataset.num_by_split["test"]
    noise = noise_for(model, num_rows, seed=context.seed)[slice(*shard_range(num_rows, **place))]
    values = judge.recognises(made_by(model, noise, held_out.labels), held_out.labels).astype(np.float64)
    context.grade("test", records=held_out.records, values=values, measure=RECOGNISED)
    show_film(model, config, context)
    context.export(model.state_dict(), config=config)


def refuse_unusable(rows: Rows, settings: Settings, context: Context) -> None:
    """Raise ``BadData`` where there is too little to learn from."""
    uri, classes = context.dataset.uri, context.dataset.classes
    if len(rows) < settings.batch_size:
        wanted = f"one batch has {settings.batch_size} over {context.world_size} ranks"
        raise BadData(f"{uri}: the train split has {len(rows)} pictures, and {wanted}")
    if absent := sorted(set(range(len(classes))) - set(rows.labels.tolist())):
        raise BadData(f"{uri}: the train split has no picture of the class {classes[absent[0]]!r}")
    if rows.features.min() == rows.features.max():
        raise BadData(f"{uri}: every pixel of the train split has the value {rows.features.min():g}")


def config_of(settings: Settings, context: Context) -> dict[str, Any]:
    """What a model is built from, and what pictures are scaled by."""
    low, high = (float(end(context.all_rows("train").features)) for end in (np.min, np.max))
    config = {"shape": list(context.dataset.feature_shape), "classes": len(context.dataset.classes)}
    config |= {"low": low, "high": high, "width": settings.width}
    if settings.method == "wgan_gp":
        return config | {"noise_size": settings.noise_size}
    return config | {"steps": settings.denoising_steps, "guidance": settings.guidance}


def model_of(config: Mapping[str, Any]) -> nn.Module:
    """A new model that makes pictures: a generator where there is a size of noise, else a denoiser."""
    sizes = {name: value for name, value in config.items() if name not in ("low", "high")}
    return Generator(**sizes) if "noise_size" in config else Denoiser(**sizes)


def scaled(rows: Rows, config: Mapping[str, Any]) -> NDArray[np.float32]:
    """Pictures from -1 to 1 where those of the train split are."""
    return np.asarray((rows.features - config["low"]) * (2 / (config["high"] - config["low"])) - 1, dtype=np.float32)


def noise_for(model: nn.Module, num: int, *, seed: int) -> Tensor:
    """What ``num`` pictures begin with, the same on every rank and device."""
    return torch.randn(num, *model.noise_shape, generator=torch.Generator().manual_seed(seed))


def made_by(model: nn.Module, noise: Tensor, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pictures of classes, from -1 to 1, shape (n, channels, height, width)."""
    device = next(model.parameters()).device
    asked = zip(noise.split(MADE_AT_ONCE), torch.from_numpy(labels).split(MADE_AT_ONCE), strict=True)
    made = [model.make(some.to(device), of.to(device))[-1].clamp(-1, 1).cpu() for some, of in asked if len(some)]
    return torch.cat(made).numpy() if made else np.zeros((0,), dtype=np.float32)


def validate(model: nn.Module, judge: Judge, config: Mapping[str, Any], context: Context) -> Mapping[str, float]:
    """As many pictures as the validation split has, of its classes, judged; on every rank alike. Empty without two."""
    rows = context.all_rows("validation")
    if len(rows) < 2:
        return {}
    made = made_by(model, noise_for(model, len(rows), seed=context.seed + 1), rows.labels)
    distance = frechet_distance(judge.features(made), judge.features(scaled(rows, config)))
    recognised = float(judge.recognises(made, rows.labels).mean())
    return {"validation/recognised": recognised, "validation/frechet_distance": distance}


# ---- samples ---------------------------------------------------------------------------------------------------------


def asked_for_grid(model: nn.Module, config: Mapping[str, Any], context: Context) -> tuple[Tensor, Tensor]:
    """Noise and classes of ten pictures each of the first ten classes."""
    labels = torch.arange(min(10, config["classes"])).repeat_interleave(10)
    noise = noise_for(model, len(labels), seed=context.seed + 2)
    return noise.to(context.device), labels.to(context.device)


def show_grid(model: nn.Module, config: Mapping[str, Any], context: Context, name: str) -> None:
    """One row a class."""
    if context.rank == 0:
        context.show(name, encoded([model.make(*asked_for_grid(model, config, context))[-1]], "PNG"))


def show_film(model: nn.Module, config: Mapping[str, Any], context: Context) -> None:
    """How pictures come out of noise; of a generator, which does it in one step, how they change along with it."""
    if context.rank != 0:
        return
    noise, labels = asked_for_grid(model, config, context)
    if isinstance(model, Denoiser):
        states = model.make(noise, labels)
        context.show("denoising.gif", encoded([*states, *[states[-1]] * 10], "GIF"))
        return
    turns = (torch.tensor(2 * math.pi * at / 36) for at in range(36))
    walk = [model.make(turn.cos() * noise + turn.sin() * noise.flip(0), labels)[-1] for turn in turns]
    context.show("walk.gif", encoded(walk, "GIF"))


def encoded(grids: Sequence[Tensor], format_name: str) -> bytes:
    """Pictures from -1 to 1, shape (n, channels, height, width), in rows of ten, as a file; several grids move."""
    frames = []
    for pictures in grids:
        padded = functional.pad(pictures.clamp(-1, 1).cpu(), (1, 1, 1, 1), value=1.0)
        _, channels, height, width = padded.shape
        sheet = padded.unflatten(0, (-1, 10)).permute(0, 3, 1, 4, 2).reshape(-1, 10 * width, channels)
        pixels = ((sheet + 1) * 127.5).round().byte().numpy()
        frame = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        zoom = max(1, 64 // max(height, width))
        frames.append(frame.resize((frame.width * zoom, frame.height * zoom), Image.Resampling.NEAREST))
    file = io.BytesIO()
    moving = {"save_all": True, "append_images": frames[1:], "duration": 100, "loop": 0} if len(frames) > 1 else {}
    frames[0].save(file, format_name, **moving)
    return file.getvalue()


def load_generator(directory: Path) -> Callable[..., NDArray[np.float32]]:
    """From class indices, shape (n,), and a seed to pictures in the units of the data, (n, channels, height, width).

    Not called ``load``: a served model answers with classes or numbers, and this one with pictures.
    """
    exported = read_model(Path(directory))
    model, low, high = model_of(exported.config), exported.config["low"], exported.config["high"]
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def generate(labels: Any, *, seed: int = 0) -> NDArray[np.float32]:
        wanted = np.asarray(labels, dtype=np.int64)
        made = made_by(model, noise_for(model, len(wanted), seed=seed), wanted)
        return np.asarray(low + (made + 1) * ((high - low) / 2), dtype=np.float32)

    return generate


if __name__ == "__main__":
    run_alone(train, workload="image_generation", example="digits_made_anew")

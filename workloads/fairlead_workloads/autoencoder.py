"""An autoencoder for pictures: plain, denoising or variational. What it cannot rebuild is an anomaly.

python -m fairlead_workloads.autoencoder --epochs=50                     trains here, alone: sevens are the anomalies
python -m fairlead_workloads.autoencoder --variant=variational --code=2  ... with a code of two numbers, to look at

It learns from the pictures of the train split that are normal, class 0; those of class 1 stay aside. A picture is the
more suspect the larger the error with which it comes back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import points, sheet
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.training import Best, keep, parallel, restore, warmup_cosine
from fairlead.workload import Context, Params, Predictor

SUSPECT = 0.95
"""The share of normal validation pictures whose error is below that of a picture with score 1/2."""
SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``autoencoder.toml`` says the same to the platform, and a test compares the two."""

    variant: str = "denoising"
    code: int = 8
    width: int = 256
    noise: float = 0.1
    beta: float = 0.02
    lr: float = 3e-3
    weight_decay: float = 1e-4
    epochs: int = 150
    batch_size: int = 64


class Autoencoder(nn.Module):
    """Two layers down to a code, two layers up again, beside a straight path of matrices alone.

    The straight path is what a principal component analysis has; the bent one adds what no matrix can.
    """

    def __init__(self, *, low: float, high: float, inputs: int, code: int, width: int) -> None:
        super().__init__()
        # Pixels arrive raw; their scale is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)
        self.down = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, code))
        self.straight_down = nn.Linear(inputs, code)
        self.spread = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, code))
        self.up = nn.Sequential(nn.Linear(code, width), nn.SiLU(), nn.Linear(width, inputs))
        self.straight_up = nn.Linear(code, inputs)

    def scaled(self, pictures: Tensor) -> Tensor:
        """Pixels between 0 and 1, shape (rows, pixels)."""
        return (pictures.flatten(1) - self.low) / (self.high - self.low)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each number of the code, shape (rows, code) each."""
        return self.down(pixels) + self.straight_down(pixels), self.spread(pixels)

    def decode(self, code: Tensor) -> Tensor:
        """Pixels, shape (rows, pixels)."""
        return self.up(code) + self.straight_up(code)

    def forward(self, pixels: Tensor, draw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels as they come back, mean and log variance; ``draw``: what is drawn of the code's spread, 0: nothing."""
        mean, log_variance = self.encode(pixels)
        return self.decode(mean + draw * torch.exp(log_variance / 2)), mean, log_variance


def train(params: Params, context: Context) -> None:
    """Train on normal pictures, report once an epoch, score the test split, export the best epoch."""
    require_kind(context.dataset, "images")
    settings = Settings(**params)
    if len(context.dataset.classes) != 2:
        found = len(context.dataset.classes)
        raise BadData(f"{context.dataset.uri}: an anomaly is one class of two, and the target has {found} classes")
    share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    normal = rows.features[rows.labels == 0]
    if len(normal) <= settings.code:
        raise BadData(f"{context.dataset.uri}: {len(normal)} normal pictures in the train split, fewer than code + 1")
    low, high = float(normal.min()), float(normal.max())
    config: dict[str, Any] = {"low": low, "high": max(high, low + 1e-6), "inputs": int(np.prod(normal.shape[1:]))}
    config |= {"code": settings.code, "width": settings.width}
    model = Autoencoder(**config).to(context.device)
    # Only the variational one uses the spread; DDP must know of weights without a gradient.
    shared = parallel(model, context, find_unused_parameters=settings.variant != "variational")
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(normal), global_batch=settings.batch_size)
    schedule = warmup_cosine(optimizer, steps=settings.epochs * steps, warmup=steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    done = restore(context, parts)
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(normal)} normal pictures of {config['inputs']} pixels, {size} weights, {steps} steps an epoch")

    pixels = model.scaled(torch.from_numpy(normal).to(context.device))
    for epoch in range(done + 1, settings.epochs + 1):
        shared.train()
        noise, draws = (draw_for(settings, kind, pixels, seed=context.seed, epoch=epoch) for kind in ("noise", "code"))
        local = 0.0
        for batch in batches(
            len(normal),
            global_batch=settings.batch_size,
            rank=context.rank,
            world_size=context.world_size,
            seed=context.seed,
            epoch=epoch,
        ):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            back, mean, log_variance = shared(pixels[chosen] + noise[chosen], draws[chosen])
            losses = (back - pixels[chosen]).square().sum(dim=1)
            if settings.variant == "variational":
                losses = losses + settings.beta * divergence(mean, log_variance)
            optimizer.zero_grad()
            (losses.sum() * batch.loss_scale).backward()
            optimizer.step()
            schedule.step()
            local += losses.sum().item()
        (total,) = sum_over_ranks(local)
        metrics = {"train/loss": total / len(normal), **validate(model, context)}
        best.offer(metrics.get("validation/reconstruction", -epoch))
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    config["suspect"] = error_of_a_suspect(model, context, normal)
    test = context.shard("test")
    scores = suspicion(errors(model, test.features), config["suspect"])
    predictions = (scores >= context.threshold).astype(np.int64)
    context.evaluate("test", records=test.records, predictions=predictions, scores=scores)
    show_samples(model, context)
    context.export(model.state_dict(), config=config)


def draw_for(settings: Settings, kind: str, pixels: Tensor, *, seed: int, epoch: int) -> Tensor:
    """What is drawn for all pictures of an epoch, on every rank alike: noise of pixels, or of codes; 0 where unused."""
    is_noise = kind == "noise"
    shape = (len(pixels), pixels.shape[1] if is_noise else settings.code)
    if settings.variant != ("denoising" if is_noise else "variational"):
        return torch.zeros(shape, device=pixels.device)
    drawn = np.random.RandomState((seed, epoch, 1)).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(drawn * (settings.noise if is_noise else 1.0)).to(pixels.device)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """How far the code's distribution is from the standard normal one, in nats, shape (rows,).

    Source: Kingma, Welling 2014, Auto-Encoding Variational Bayes, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def validate(model: Autoencoder, context: Context) -> Mapping[str, float]:
    """Mean squared error of a pixel over the normal validation pictures; empty without such a split."""
    if context.dataset.num_by_split["validation"] == 0:
        return {}
    rows = context.shard("validation")
    found = errors(model, rows.features[rows.labels == 0])
    total, num = sum_over_ranks(float(found.sum()), float(len(found)))
    return {"validation/reconstruction": total / num} if num else {}


def errors(model: Autoencoder, pictures: np.ndarray) -> np.ndarray:
    """Mean squared error of a pixel, pixels between 0 and 1, of each picture; shape (rows,), float64."""
    pixels, back = rebuilt(model, pictures)
    return (back - pixels).square().double().mean(dim=1).cpu().numpy()


def rebuilt(model: Autoencoder, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pixels as they are and as they come back, shape (rows, pixels) each."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        pixels = model.scaled(torch.from_numpy(pictures).float().to(device))
        return pixels, model.decode(model.encode(pixels)[0])


def error_of_a_suspect(model: Autoencoder, context: Context, normal: np.ndarray) -> float:
    """The error that only one normal picture in twenty exceeds: of the validation split, else of the train split."""
    held = context.all_rows("validation") if context.dataset.num_by_split["validation"] else None
    pictures = normal if held is None or not (held.labels == 0).any() else held.features[held.labels == 0]
    return float(max(np.quantile(errors(model, pictures), SUSPECT), 1e-12))


def suspicion(found: np.ndarray, suspect: float) -> np.ndarray:
    """A score in [0, 1] that grows with the error and is 1/2 at ``suspect``: no probability, but an order."""
    return found / (found + suspect)


def show_samples(model: Autoencoder, context: Context) -> None:
    """Normal and anomalous pictures above what came back of them, and the codes of the test split on a plane."""
    if context.rank != 0:
        return
    test = context.all_rows("test")
    if len(test) < 2:
        return
    chosen = np.concatenate([np.flatnonzero(test.labels == label)[: SHOWN // 2] for label in (0, 1)])
    pixels, back = rebuilt(model, test.features[chosen])
    found = functional.mse_loss(back, pixels, reduction="none").mean(dim=1).tolist()
    pictures = torch.cat([pixels, back.clamp(0, 1)]).reshape(2 * len(chosen), *test.features.shape[1:]).cpu().numpy()
    captions = [context.dataset.classes[label] for label in test.labels[chosen]] + [f"{one:.4f}" for one in found]
    context.show("reconstructions.png", sheet(pictures, captions, columns=len(chosen)))
    with torch.no_grad():
        codes = model.encode(rebuilt(model, test.features)[0])[0].cpu().numpy().astype(np.float64)
    places = PCA(n_components=2, random_state=0).fit_transform(codes) if codes.shape[1] > 1 else np.repeat(codes, 2, 1)
    title = f"codes of {len(test)} test pictures, turned so that they spread most"
    context.show("codes.png", points(places, test.labels, context.dataset.classes, title=title))


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to how suspect they are, shape (rows,)."""
    exported = read_model(Path(directory))
    config: dict[str, Any] = dict(exported.config)
    suspect = config.pop("suspect")
    model = Autoencoder(**config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(pictures: Any) -> np.ndarray:
        return suspicion(errors(model, np.asarray(pictures, dtype=np.float32)), suspect)

    return predict


if __name__ == "__main__":
    run_alone(train, workload="autoencoder", example="digit_anomalies")

"""A small network for spoken words: a picture of each sound's frequencies, convolutions, and cells that read it.

python -m fairlead_workloads.speech_commands --epochs=5              ten words spoken by espeak-ng, if it is installed
python -m fairlead_workloads.speech_commands --data=path/to/folder   sounds of a folder with one directory a word
"""

import io
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.training import Best, autocast, clip, compiled, keep, parallel, restore, validate_classes
from fairlead.workload import Context, Params, Predictor, Rows

WINDOW_S, STEP_S = 0.025, 0.010
"""Seconds of sound that one column of the picture is made of, and from one column to the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``speech_commands.toml`` says the same to the platform, and a test compares the two."""

    bands: int = 40
    width: int = 16
    hidden: int = 48
    lr: float = 6e-3
    weight_decay: float = 0.05
    shift: float = 0.05
    mask: int = 6
    epochs: int = 12
    batch_size: int = 32


def mel_bands(*, bands: int, num_frequencies: int, sample_rate: int) -> Tensor:
    """Triangles that sum frequencies into bands, equally wide to the ear, shape (num_frequencies, bands).

    Frequencies go evenly from 0 to half the sample rate. Source: O'Shaughnessy 1987, mel = 2595 log10(1 + f / 700).
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    frequencies = torch.linspace(0, sample_rate / 2, num_frequencies, dtype=torch.float64)[:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp_min(0).float()


class LogMel(nn.Module):
    """From samples, shape (rows, samples), to the logarithm of each band's power, shape (rows, bands, columns)."""

    def __init__(self, *, sample_rate: int, bands: int) -> None:
        super().__init__()
        self.step = max(1, round(STEP_S * sample_rate))
        self.window = max(2, round(WINDOW_S * sample_rate))
        self.points = 2 ** math.ceil(math.log2(self.window))
        filters = mel_bands(bands=bands, num_frequencies=self.points // 2 + 1, sample_rate=sample_rate)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("shape", torch.hann_window(self.window), persistent=False)

    def forward(self, sounds: Tensor) -> Tensor:
        """Each sound less its mean over columns and bands: how loud somebody speaks says nothing of the word."""
        if len(sounds) == 0:  # a rank without rows in a batch; the Fourier transform refuses to transform nothing
            return sounds.new_zeros(0, self.filters.shape[1], sounds.shape[1] // self.step + 1)
        waves = torch.stft(
            sounds, self.points, self.step, self.window, self.shape, pad_mode="constant", return_complex=True
        )
        power = torch.einsum("rft,fb->rbt", waves.real.square() + waves.imag.square(), self.filters)
        decibels = torch.log(power + 1e-6)
        return decibels - decibels.mean(dim=(1, 2), keepdim=True)


class SpeechNet(nn.Module):
    """Two convolutions that see shapes in the picture, then gated cells that read it in both directions."""

    def __init__(self, *, sample_rate: int, bands: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.picture = LogMel(sample_rate=sample_rate, bands=bands)
        # Group rather than batch normalisation: it does not look at other rows, so it does not depend on ranks.
        self.shapes = nn.Sequential(
            nn.Conv2d(1, width, (5, 3), stride=(2, 1), padding=(2, 1)),
            nn.GroupNorm(math.gcd(4, width), width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=(2, 2), padding=1),
            nn.GroupNorm(math.gcd(4, width), width),
            nn.GELU(),
        )
        self.cells = nn.GRU(width * math.ceil(math.ceil(bands / 2) / 2), hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, sounds: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits, shape (rows, classes). ``masks``: 0 where a band is hidden while training, shape (rows, bands)."""
        picture = self.picture(sounds)
        if masks is not None:
            picture = picture * masks[:, :, None]
        shapes = self.shapes(picture[:, None] / 4)  # (rows, width, bands / 4, columns / 2)
        states, _ = self.cells(shapes.flatten(1, 2).transpose(1, 2))
        return self.head(states.amax(dim=1))  # the moment that says most, wherever the word lies


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "audio")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    rate = int(context.dataset.details["sample_rate"])
    refuse_unusable(rows, context, settings, rate)
    config = {"sample_rate": rate, "bands": settings.bands, "width": settings.width, "hidden": settings.hidden}
    model = SpeechNet(**config, classes=len(context.dataset.classes)).to(context.device)
    shared = parallel(compiled(model, context), context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.epochs * steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    done = restore(context, parts)
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        long = rows.features.shape[1] / rate
        print(f"{len(rows)} sounds of {long:.2f} s, {rate} samples a second, {len(context.dataset.classes)} words")
        print(f"{size} weights, {steps} batches an epoch, {context.world_size} ranks of {threads} threads", flush=True)

    sounds = torch.from_numpy(rows.features).to(context.device)
    labels = torch.from_numpy(rows.labels).to(context.device)
    for epoch in range(done + 1, settings.epochs + 1):
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)
        shared.train()
        most = round(settings.shift * rows.features.shape[1])
        shifts, masks = draw_changes(len(rows), settings, most=most, seed=context.seed, epoch=epoch)
        total_loss = torch.zeros((), device=context.device)
        drawn = {"global_batch": settings.batch_size, "rank": context.rank, "world_size": context.world_size}
        for batch in batches(len(rows), **drawn, seed=context.seed, epoch=epoch):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            heard = shift(sounds[chosen], shifts[batch.positions])
            with autocast(context):
                logits = shared(heard, torch.from_numpy(masks[batch.positions]).to(context.device))
            losses = functional.cross_entropy(logits.float(), labels[chosen], reduction="none")
            # Sum, then scale: averaged over ranks this is the gradient of the mean over the global batch.
            optimizer.zero_grad()
            (losses.sum() * batch.loss_scale).backward()
            clip(model, 1.0)
            optimizer.step()
            schedule.step()
            total_loss += losses.detach().sum()
        (summed,) = sum_over_ranks(total_loss.item())
        metrics = {"train/loss": summed / len(rows), **validate_classes(context, partial(probabilities, model))}
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    scores = probabilities(model, test.features)
    is_binary = len(context.dataset.classes) == 2
    predictions = (scores[:, 1] >= context.threshold).astype(np.int64) if is_binary else scores.argmax(axis=1)
    shown = scores[:, 1] if is_binary else scores
    context.evaluate("test", records=test.records, predictions=predictions, scores=shown)
    show_some(model, test, predictions, context, rate)
    context.export(model.state_dict(), config=config)


def refuse_unusable(rows: Rows, context: Context, settings: Settings, rate: int) -> None:
    """Raise ``BadData`` for too few sounds, or such as have no picture."""
    uri, ranks = context.dataset.uri, context.world_size
    if len(rows) < settings.batch_size:
        raise BadData(
            f"{uri}: the {len(rows)} rows of the train split are fewer than one batch of {settings.batch_size} over "
            f"{ranks} ranks; lower batch_size"
        )
    if rows.features.shape[1] < WINDOW_S * rate:
        long = rows.features.shape[1] / rate
        raise BadData(f"{uri}: sounds of {long:.3f} s are shorter than the {WINDOW_S} s of one column of their picture")


def draw_changes(
    num_rows: int, settings: Settings, *, most: int, seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """By how many samples each sound moves this epoch, shape (rows,), and which bands it keeps, shape (rows, bands).

    Drawn for all rows on every rank alike: what happens to a sound does not depend on which rank has it. Source of the
    masks: Park et al. 2019, SpecAugment, its frequency masks.
    """
    random = np.random.RandomState((seed, epoch, 1))
    shifts = random.randint(-most, most + 1, size=num_rows)
    wide = random.randint(0, min(settings.mask, settings.bands - 1) + 1, size=num_rows)
    begin = (random.random_sample(num_rows) * (settings.bands - wide + 1)).astype(np.int64)
    band = np.arange(settings.bands)
    is_hidden = (band >= begin[:, None]) & (band < (begin + wide)[:, None])
    return shifts, np.where(is_hidden, np.float32(0), np.float32(1))


def shift(sounds: Tensor, by: np.ndarray) -> Tensor:
    """Sounds moved later (or earlier, where negative) by whole samples; what leaves at one end enters at the other."""
    places = torch.arange(sounds.shape[1], device=sounds.device) - torch.from_numpy(by).to(sounds.device)[:, None]
    return sounds.gather(1, places % sounds.shape[1])


def probabilities(model: nn.Module, sounds: np.ndarray) -> np.ndarray:
    """Class probabilities of sounds, shape (rows, classes), float64 and in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        chunks = [model(torch.from_numpy(sounds[at : at + 256]).to(device)) for at in range(0, len(sounds), 256)]
    if not chunks:
        return np.empty((0, model.head.out_features))
    return functional.softmax(torch.cat(chunks).double(), dim=1).cpu().numpy()


def show_some(
    model: SpeechNet, rows: Rows, predictions: np.ndarray, context: Context, rate: int, most: int = 4
) -> None:
    """A few sounds with their pictures, low frequencies below; mistakes first, named by word and answer."""
    classes = context.dataset.classes
    wrong_first = np.argsort(predictions == rows.labels, kind="stable")
    for place, row in enumerate(wrong_first[:most], start=1):
        name = f"{place}-{classes[rows.labels[row]]}-taken-for-{classes[predictions[row]]}"
        name = "".join(letter if letter.isascii() and (letter.isalnum() or letter == "-") else "_" for letter in name)
        recording = io.BytesIO()
        soundfile.write(recording, rows.features[row], rate, format="WAV", subtype="PCM_16")
        context.show(f"{name}.wav", recording.getvalue())
        with torch.no_grad():
            picture = model.picture(torch.from_numpy(rows.features[row : row + 1]).to(context.device))[0].cpu().numpy()
        low, high = np.quantile(picture, [0.05, 0.999])
        grey = (255 * np.clip((picture[::-1] - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
        drawn = io.BytesIO()
        Image.fromarray(grey).resize((8 * grey.shape[1], 8 * grey.shape[0]), Image.Resampling.NEAREST).save(
            drawn, "PNG"
        )
        context.show(f"{name}.png", drawn.getvalue())


def load(directory: Path) -> Predictor:
    """From sounds, shape (rows, samples), at the rate of the training data, to probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    model = SpeechNet(**exported.config, classes=len(exported.document["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(sounds: Any) -> np.ndarray:
        return probabilities(model, np.asarray(sounds, dtype=np.float32))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="speech_commands", example="spoken_words")

"""A recurrent network for series: it foretells their next steps, or says which class each one is of.

python -m fairlead_workloads.sequence_rnn --epochs=5                             foretells made-up monthly numbers
python -m fairlead_workloads.sequence_rnn --data=builtin://cylinder_bell_funnel  says which of three forms a series has

The data decide: windows cut from a table of moments (``data.windows``) have a future to foretell, series with a label
have a class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.spec import MeasureSpec
from fairlead.training import Best, autocast, clip, keep, parallel, restore
from fairlead.workload import Context, Params, Predictor, Rows

CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
MEASURE = MeasureSpec(name="mean absolute scaled error", low=0.0, high=100.0, better="lower")
"""Of a window: the mean error of its foretold steps, as a multiple of the error of repeating the last season."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``sequence_rnn.toml`` says the same to the platform, and a test compares the two."""

    cell: str = "gru"
    hidden: int = 48
    layers: int = 1
    lr: float = 8e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    epochs: int = 10
    batch_size: int = 64


class RecurrentNet(nn.Module):
    """Cells that read a series step by step, and one linear layer on what they remember in the end and on average."""

    def __init__(
        self, *, mean: list[float], std: list[float], cell: str, hidden: int, layers: int, outputs: int, foretells: bool
    ) -> None:
        super().__init__()
        # Series arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.foretells = foretells
        inputs = len(mean) * (2 if foretells else 1)
        self.cells = CELLS[cell](inputs, hidden, num_layers=layers, batch_first=True)
        self.head = nn.Linear(2 * hidden, outputs)

    def forward(self, series: Tensor) -> Tensor:
        """From series, shape (rows, steps, channels), to logits (rows, classes) or to the future (rows, horizon)."""
        scaled = (series - self.mean) / self.std
        if not self.foretells:
            return self._read(scaled)
        # A window is told relative to its own mean and spread: what was learnt at one level then holds at others, which
        # a series with a trend will reach. The spread itself is an input; the floor is for windows without a change.
        centre = scaled.mean(dim=1, keepdim=True)
        spread = (scaled - centre).square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-2)
        own = (scaled - centre) / spread
        change = self._read(torch.cat([own, spread.log().expand_as(own)], dim=2))
        # The first channel is the one to foretell: its last step plus a change, on its own scale and then on the raw.
        future = (own[:, -1, :1] + change) * spread[:, 0, :1] + centre[:, 0, :1]
        return future * self.std[0] + self.mean[0]

    def _read(self, inputs: Tensor) -> Tensor:
        states, _ = self.cells(inputs)
        return self.head(torch.cat([states[:, -1], states.mean(dim=1)], dim=1))


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, grade or count the test split, export the epoch with the lowest validation loss."""
    require_kind(context.dataset, "sequences")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    if len(rows) < settings.batch_size:
        raise BadData(
            f"{context.dataset.uri}: the {len(rows)} rows of the train split are fewer than one batch of "
            f"{settings.batch_size} over {context.world_size} ranks; lower batch_size"
        )
    mean, std = scale_of(rows.features)
    foretells = "future" in rows.targets
    config: dict[str, Any] = {
        **{"mean": mean, "std": std, "cell": settings.cell, "hidden": settings.hidden, "layers": settings.layers},
        **{"outputs": rows.targets["future"].shape[1] if foretells else len(context.dataset.classes)},
        "foretells": foretells,
    }
    model = RecurrentNet(**config).to(context.device)
    shared = parallel(model, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.epochs * steps)
    best = Best(model)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "best": best}
    done = restore(context, parts)
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        what = f"foretelling {config['outputs']} steps" if foretells else f"{config['outputs']} classes"
        print(f"{len(rows)} series of {rows.features.shape[1]} steps and {len(mean)} channels, {what}")
        print(f"{size} weights, {steps} batches an epoch, {context.world_size} ranks of {threads} threads", flush=True)

    series, wanted = torch.from_numpy(rows.features).to(context.device), answers_to(rows, context.device)
    for epoch in range(done + 1, settings.epochs + 1):
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)
        shared.train()
        total_loss = torch.zeros((), device=context.device)
        drawn = {"global_batch": settings.batch_size, "rank": context.rank, "world_size": context.world_size}
        for batch in batches(len(rows), **drawn, seed=context.seed, epoch=epoch):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            with autocast(context):
                answers = shared(series[chosen])
            losses = losses_of(answers.float(), {name: value[chosen] for name, value in wanted.items()})
            # Sum, then scale: averaged over ranks this is the gradient of the mean over the global batch.
            optimizer.zero_grad()
            (losses.sum() * batch.loss_scale).backward()
            clip(model, settings.clip)  # of long series, gradients may grow from step to step
            optimizer.step()
            schedule.step()
            total_loss += losses.detach().sum()
        (summed,) = sum_over_ranks(total_loss.item())
        metrics = {"train/loss": summed / len(rows), **validate(model, context)}
        best.offer(metrics.get("validation/loss", -epoch))  # without a validation split the last epoch is best
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    best.put_back()
    test = context.shard("test")
    answers = answer(model, test.features)
    if foretells:
        errors = losses_of(torch.from_numpy(answers), answers_to(test, "cpu")).numpy().astype(np.float64)
        context.grade("test", records=test.records, values=np.minimum(errors, MEASURE.high), measure=MEASURE)
    else:
        scores = functional.softmax(torch.from_numpy(answers).double(), dim=1).numpy()
        is_binary = len(context.dataset.classes) == 2
        predictions = (scores[:, 1] >= context.threshold).astype(np.int64) if is_binary else scores.argmax(axis=1)
        shown = scores[:, 1] if is_binary else scores
        context.evaluate("test", records=test.records, predictions=predictions, scores=shown)
    context.show("test.svg", draw(test, answers, context.dataset.classes))
    context.export(model.state_dict(), config=config)


def scale_of(series: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the train split; a constant channel is only centred."""
    wide = series.astype(np.float64)
    std = wide.std(axis=(0, 1))
    return wide.mean(axis=(0, 1)).tolist(), np.where(std > 0, std, 1.0).tolist()


def answers_to(rows: Rows, device: str) -> Mapping[str, Tensor]:
    """What is to be learnt: the future, shape (n, horizon), and its scale, shape (n,); or the label, shape (n,)."""
    wanted = rows.targets if "future" in rows.targets else {"label": rows.labels}
    kinds = {"future": torch.float32, "scale": torch.float32, "label": torch.int64}
    return {name: torch.from_numpy(value).to(device, kinds[name]) for name, value in wanted.items()}


def losses_of(answers: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """The loss of each row, shape (n,): the mean absolute scaled error of a future, the cross-entropy of a class.

    Source: Hyndman, Koehler 2006, Another look at measures of forecast accuracy.
    """
    if "future" in wanted:
        return (answers - wanted["future"]).abs().mean(dim=1) / wanted["scale"]
    return functional.cross_entropy(answers, wanted["label"], reduction="none")


def answer(model: nn.Module, series: np.ndarray) -> np.ndarray:
    """Answers to raw series, shape (rows, outputs), float32."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        chunks = [model(torch.from_numpy(series[at : at + 1024]).to(device)) for at in range(0, len(series), 1024)]
    return torch.cat(chunks).cpu().numpy() if chunks else np.empty((0, model.head.out_features), np.float32)


def validate(model: nn.Module, context: Context) -> Mapping[str, float]:
    """Loss, and accuracy of classes, over the whole validation split, each rank doing its shard; empty without one."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    answers = answer(model, rows.features)
    loss = losses_of(torch.from_numpy(answers), answers_to(rows, "cpu")).sum().item()
    total_loss, hits = sum_over_ranks(loss, float((answers.argmax(axis=1) == rows.labels).sum()))
    if "future" in rows.targets:
        return {"validation/loss": total_loss / num_rows}
    return {"validation/loss": total_loss / num_rows, "validation/accuracy": hits / num_rows}


def draw(rows: Rows, answers: np.ndarray, classes: Sequence[str], *, most: int = 6) -> str:
    """Some rows over the whole split as an SVG picture: what was seen, what came after it, and what was answered."""
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
    width, height = 720, 130
    panels = []
    for place, row in enumerate(chosen):
        seen = rows.features[row, :, 0]
        lines = [("#555", 0, seen)]
        if "future" in rows.targets:
            lines += [("#000", len(seen) - 1, np.r_[seen[-1], rows.targets["future"][row]])]
            lines += [("#d1495b", len(seen) - 1, np.r_[seen[-1], answers[row]])]
            title = "seen: grey, what came: black, foretold: red; "
        else:
            title = f"{classes[rows.labels[row]]}, taken for {classes[answers[row].argmax()]}; "
        end = max(start + len(values) for _, start, values in lines)
        low, high = (f(np.concatenate([values for _, _, values in lines])) for f in (np.min, np.max))
        drawn = []
        for colour, start, values in lines:
            x = 10 + (width - 20) * (start + np.arange(len(values))) / max(1, end - 1)
            y = (place + 1) * height - 12 - (height - 40) * (values - low) / max(high - low, 1e-9)
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
            drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
        panels.append(
            f'<text x="10" y="{place * height + 16}">{escape(title)}{low:.3g} to {high:.3g}</text>' + "".join(drawn)
        )
    size = f'width="{width}" height="{height * len(chosen)}"'
    style = '<rect width="100%" height="100%" fill="#fff"/><g font-family="sans-serif" font-size="12">'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{"".join(panels)}</g></svg>\n'


def load(directory: Path) -> Predictor:
    """From series, shape (rows, steps, channels), to the future (rows, horizon) or to probabilities (rows, classes)."""
    exported = read_model(Path(directory))
    model = RecurrentNet(**exported.config)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(series: Any) -> np.ndarray:
        answers = answer(model, np.asarray(series, dtype=np.float32))
        if exported.config["foretells"]:
            return answers
        return functional.softmax(torch.from_numpy(answers).double(), dim=1).numpy()

    return predict


if __name__ == "__main__":
    run_alone(train, workload="sequence_rnn", example="cycles")

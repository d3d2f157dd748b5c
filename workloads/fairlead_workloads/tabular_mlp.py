"""A small neural network for tables with two or more classes.

python -m fairlead_workloads.tabular_mlp --epochs=5          trains here, alone, on scikit-learn's diabetes data
python -m fairlead_workloads.tabular_mlp --spec my.yaml      takes data, parameters and seed from a spec
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import matrix_of, num_batches
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData
from fairlead.mitigation import Mitigation, begin_mitigation
from fairlead.privacy import begin_privacy
from fairlead.probes import fit_temperature, run_probes
from fairlead.workload import Context, Params, Predictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``tabular_mlp.toml`` says the same to the platform, and a test compares the two."""

    hidden: Sequence[int] = (16,)
    lr: float = 3e-3
    weight_decay: float = 0.3
    dropout: float = 0.2
    epochs: int = 60
    batch_size: int = 64


class Perceptron(nn.Module):
    """A linear model plus a multilayer correction that starts at zero.

    On a few hundred rows the linear part does most of the work, and the correction grows only as far as it pays:
    a plain network of the same size first has to find the line again.
    """

    def __init__(self, *, mean: list[float], std: list[float], classes: int, settings: Settings) -> None:
        super().__init__()
        # Inputs arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.linear = nn.Linear(len(mean), classes)
        nn.init.zeros_(self.linear.weight)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((len(mean), *settings.hidden)):
            layers += [nn.Linear(inputs, outputs), nn.GELU(), nn.Dropout(settings.dropout)]
        last = nn.Linear((len(mean), *settings.hidden)[-1], classes, bias=False)
        nn.init.zeros_(last.weight)
        self.correction = nn.Sequential(*layers, last)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, shape (rows, classes)."""
        scaled = (rows - self.mean) / self.std
        return self.linear(scaled) + self.correction(scaled)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the epoch with the lowest validation loss."""
    if len(context.dataset.feature_shape) != 1:
        raise BadData(f"{context.dataset.uri} holds pictures, not a table; use image_cnn")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    # What the spec asks for to protect single rows: mostly nothing, and then these are ordinary batches and steps.
    privacy = begin_privacy(context, rows=len(rows), batch_size=settings.batch_size, epochs=settings.epochs)
    mean, std = scale_of(privacy.rows_for_scaling(rows).features)
    classes = len(context.dataset.classes)
    model = Perceptron(mean=mean, std=std, classes=classes, settings=settings).to(context.device)
    parallel = privacy.parallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    stepper = privacy.optimizer(optimizer)
    mitigation = begin_mitigation(context)  # what the spec asks for against gaps between groups: mostly nothing
    best, best_loss, first_epoch = copy.deepcopy(model.state_dict()), float("inf"), 1
    if context.resume_from is not None:
        saved = torch.load(context.resume_from / "checkpoint.pt", map_location=context.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        mitigation.load_state_dict(saved.get("mitigation", {}))  # none in those of older releases
        privacy.load_state_dict(saved.get("privacy", {}))
        best, best_loss, first_epoch = saved["best"], saved["best_loss"], saved["epoch"] + 1
    if context.rank == 0:
        steps = num_batches(len(rows), global_batch=settings.batch_size)
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} rows x {len(mean)} inputs, {classes} classes, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    features = torch.from_numpy(rows.features).to(context.device)
    labels = torch.from_numpy(rows.labels).to(context.device)
    groups = mitigation.groups(rows.records)
    for epoch in range(first_epoch, settings.epochs + 1):
        parallel.train()
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)  # dropout differs between ranks, and resumes
        local_loss = 0.0
        for batch in privacy.batches(epoch):
            chosen = torch.from_numpy(batch.positions).to(context.device)
            # Sum, then scale: the averaged gradient is that of the mean over the global batch, even if this rank
            # holds fewer rows than another or none.
            logits = parallel(features[chosen])
            losses = functional.cross_entropy(logits, labels[chosen], reduction="none")
            loss = mitigation.loss(
                losses, logits=logits, labels=labels[chosen], groups=groups[chosen], loss_scale=batch.loss_scale
            )
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            local_loss += losses.sum().item()
        (total_loss,) = sum_over_ranks(local_loss)
        metrics = {"train/loss": total_loss / len(rows), **validate(model, context), **mitigation.metrics()}
        metrics |= privacy.metrics()
        # Without a validation split the last epoch is best, and also with mitigation: it costs validation loss.
        merit = -epoch if mitigation.is_in_training else metrics.get("validation/loss", -epoch)
        if merit < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), merit
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            checkpoint |= {"mitigation": mitigation.state_dict(), "privacy": privacy.state_dict()}
            if context.rank == 0:
                torch.save({**checkpoint, "best": best, "best_loss": best_loss}, f"{directory}/checkpoint.pt")
            context.report(metrics, step=epoch, checkpoint=Path(directory) if context.rank == 0 else None)
        if context.should_stop():
            return  # the last checkpoint is already safe

    model.load_state_dict(best)
    temperature = fit_temperature(model, context)  # 1, unless the spec asks for one
    count_test(model, context, mitigation, temperature.used)
    run_probes(model, context, mitigation=mitigation, temperature=temperature)  # what else is to be looked at
    config = {"mean": mean, "std": std, "hidden": list(settings.hidden)}
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
    scores = probabilities(model, test.features, temperature)
    if len(context.dataset.classes) == 2:
        scores = scores[:, 1]
        predictions = mitigation.decide(scores, groups=mitigation.groups(test.records))
    else:
        predictions = scores.argmax(axis=1)
    context.evaluate("test", records=test.records, predictions=predictions, scores=scores)


def scale_of(features: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each input over the train split; a constant input is only centred."""
    wide = features.astype(np.float64)
    std = wide.std(axis=0)
    return wide.mean(axis=0).tolist(), np.where(std > 0, std, 1.0).tolist()


def validate(model: nn.Module, context: Context) -> Mapping[str, float]:
    """Loss and accuracy over the whole validation split, each rank doing its shard; empty without such a split."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    scores = probabilities(model, rows.features)
    chosen = scores[np.arange(len(rows)), rows.labels]
    loss = -np.log(np.clip(chosen, 1e-12, 1)).sum()
    hits = (scores.argmax(axis=1) == rows.labels).sum()
    total_loss, total_hits = sum_over_ranks(float(loss), float(hits))
    return {"validation/loss": total_loss / num_rows, "validation/accuracy": total_hits / num_rows}


def probabilities(model: nn.Module, features: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities of raw inputs, shape (rows, classes), float64 and in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        chunks = [model(torch.from_numpy(features[at : at + 4096]).to(device)) for at in range(0, len(features), 4096)]
    if not chunks:
        return np.empty((0, model.linear.out_features))
    return functional.softmax(torch.cat(chunks).double() / temperature, dim=1).cpu().numpy()


def load(directory: Path) -> Predictor:
    """From a DataFrame of raw columns, or an array of inputs, to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    settings = Settings(hidden=exported.config["hidden"])
    model = Perceptron(
        mean=exported.config["mean"],
        std=exported.config["std"],
        classes=len(exported.document["classes"]),
        settings=settings,
    )
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(rows: Any) -> np.ndarray:
        is_array = isinstance(rows, np.ndarray)
        matrix = rows.astype(np.float32) if is_array else matrix_of(rows, exported.document["features"])
        return probabilities(model, matrix, exported.config.get("temperature", 1.0))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="tabular_mlp", example="diabetes_risk")

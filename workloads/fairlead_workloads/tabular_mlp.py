"""A small neural network for tables: two or more classes, or a number to come near to.

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
from fairlead.data.mapped import parts_of
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks, tensor_of
from fairlead.errors import BadData, BadInput
from fairlead.mitigation import Mitigation, begin_mitigation
from fairlead.privacy import begin_privacy
from fairlead.probes import fit_temperature, run_probes
from fairlead.training import warmup_cosine
from fairlead.workload import Context, DatasetInfo, Params, Predictor, Rows

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
OF_CLASSES, OF_NUMBERS = ("cross_entropy", "focal"), ("mse", "huber")
FOCUS = 2.0
"""The exponent of the focal loss: rows that are right with 90 % weigh a hundredth. Source: Lin et al. 2017."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``tabular_mlp.toml`` says the same to the platform, and a test compares the two."""

    hidden: Sequence[int] = (16,)
    activation: str = "gelu"
    loss: str = "auto"
    optimizer: str = "adamw"
    lr: float = 3e-3
    schedule: str = "constant"
    weight_decay: float = 0.3
    dropout: float = 0.2
    imbalance: str = "none"
    patience: int = 0
    epochs: int = 60
    batch_size: int = 64


class Perceptron(nn.Module):
    """A linear model plus a multilayer correction that starts at zero.

    On a few hundred rows the linear part does most of the work, and the correction grows only as far as it pays:
    a plain network of the same size first has to find the line again.
    """

    def __init__(self, *, mean: list[float], std: list[float], outputs: int, settings: Settings) -> None:
        super().__init__()
        # Inputs arrive raw; scaling is part of the model, so that an exported one needs nothing beside it.
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.linear = nn.Linear(len(mean), outputs)
        nn.init.zeros_(self.linear.weight)
        layers: list[nn.Module] = []
        for before, after in pairwise((len(mean), *settings.hidden)):
            layers += [nn.Linear(before, after), ACTIVATIONS[settings.activation](), nn.Dropout(settings.dropout)]
        last = nn.Linear((len(mean), *settings.hidden)[-1], outputs, bias=False)
        nn.init.zeros_(last.weight)
        self.correction = nn.Sequential(*layers, last)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, shape (rows, classes), or scaled numbers, shape (rows, 1)."""
        scaled = (rows - self.mean) / self.std
        return self.linear(scaled) + self.correction(scaled)


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the epoch with the lowest validation loss."""
    if len(context.dataset.feature_shape) != 1:
        raise BadData(f"{context.dataset.uri} holds pictures, not a table; use image_cnn")
    settings = Settings(**params)
    refuse_contradictions(settings, context)
    threads = share_cores(context.world_size)
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same weights
    rows = context.all_rows("train")
    # What the spec asks for to protect single rows: mostly nothing, and then these are ordinary batches and steps.
    privacy = begin_privacy(context, rows=len(rows), batch_size=settings.batch_size, epochs=settings.epochs)
    mean, std = scale_of(privacy.rows_for_scaling(rows).features)
    target = target_scale(context.dataset, rows)
    outputs = len(context.dataset.classes) or 1
    model = Perceptron(mean=mean, std=std, outputs=outputs, settings=settings).to(context.device)
    parallel = privacy.parallel(model)
    optimizer = make_optimizer(model, settings)
    stepper = privacy.optimizer(optimizer)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = make_schedule(optimizer, settings, steps=settings.epochs * steps)
    mitigation = begin_mitigation(context)  # what the spec asks for against gaps between groups: mostly nothing
    best, best_loss, best_epoch, first_epoch = copy.deepcopy(model.state_dict()), float("inf"), 0, 1
    if context.resume_from is not None:
        saved = torch.load(context.resume_from / "checkpoint.pt", map_location=context.device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        mitigation.load_state_dict(saved.get("mitigation", {}))  # none in those of older releases
        privacy.load_state_dict(saved.get("privacy", {}))
        best, best_loss, first_epoch = saved["best"], saved["best_loss"], saved["epoch"] + 1
        if "schedule" in saved:  # not in those of older releases, which kept the rate as it was
            schedule.load_state_dict(saved["schedule"])
        best_epoch = saved.get("best_epoch", saved["epoch"])
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        what = f"{outputs} classes" if context.dataset.classes else "a number"
        print(f"{len(rows)} rows x {len(mean)} inputs, {what}, {size} weights, {steps} steps an epoch")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    features = tensor_of(rows.features, context.device)
    labels = torch.from_numpy(rows.labels).to(context.device)
    weights = class_weights(rows, outputs, settings).to(context.device)
    groups = mitigation.groups(rows.records)
    for epoch in range(first_epoch, settings.epochs + 1):
        if settings.patience and epoch - 1 - best_epoch >= settings.patience:
            break  # no better for so many epochs; a resumed run looks at the same numbers
        parallel.train()
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)  # dropout differs between ranks, and resumes
        order = draw_rows(rows, outputs, settings, seed=context.seed, epoch=epoch)
        local_loss = 0.0
        for batch in privacy.batches(epoch):
            chosen = torch.from_numpy(order[batch.positions]).to(context.device)
            # Sum, then scale: the averaged gradient is that of the mean over the global batch, even if this rank
            # holds fewer rows than another or none.
            logits = parallel(features[chosen])
            losses = losses_of(logits, labels[chosen], settings.loss, target) * weights[chosen]
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
            **validate(model, context, settings.loss, target),
            **mitigation.metrics(),
        }
        metrics |= privacy.metrics()
        # Without a validation split the last epoch is best, and also with mitigation: it costs validation loss.
        merit = -epoch if mitigation.is_in_training else metrics.get("validation/loss", -epoch)
        if merit < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(model.state_dict()), merit, epoch
        with tempfile.TemporaryDirectory() as directory:
            checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            checkpoint |= {"mitigation": mitigation.state_dict(), "privacy": privacy.state_dict()}
            checkpoint |= {"schedule": schedule.state_dict(), "best": best, "best_loss": best_loss}
            checkpoint |= {"best_epoch": best_epoch}
            if context.rank == 0:
                torch.save(checkpoint, f"{directory}/checkpoint.pt")
            context.report(metrics, step=epoch, checkpoint=Path(directory) if context.rank == 0 else None)
        if context.should_stop():
            return  # the last checkpoint is already safe

    model.load_state_dict(best)
    config = {"mean": mean, "std": std, "hidden": list(settings.hidden), "activation": settings.activation}
    if not context.dataset.classes:
        test = context.shard("test")
        context.evaluate("test", records=test.records, predictions=numbers(model, test.features, target))
        context.export(model.state_dict(), config=config | {"target": list(target)})
        return
    temperature = fit_temperature(model, context)  # 1, unless the spec asks for one
    count_test(model, context, mitigation, temperature.used)
    run_probes(model, context, mitigation=mitigation, temperature=temperature)  # what else is to be looked at
    context.export(model.state_dict(), config=config | mitigation.config() | temperature.config())


def refuse_contradictions(settings: Settings, context: Context) -> None:
    """Raise ``BadInput`` for parameters that do not go together, or not with the target."""
    fitting = OF_CLASSES if context.dataset.classes else OF_NUMBERS
    if settings.loss not in ("auto", *fitting):
        what = "has classes" if context.dataset.classes else "is a number"
        raise BadInput(
            f"loss {settings.loss}: the target {context.dataset.target!r} {what}; take {' or '.join(fitting)}"
        )
    if settings.imbalance != "none" and not context.dataset.classes:
        raise BadInput(f"imbalance {settings.imbalance}: it is about classes, and the target is a number; take none")
    if settings.imbalance == "oversample" and context.privacy is not None:
        raise BadInput("imbalance oversample: privacy counts each row once in a batch; take weights")
    if settings.patience and context.dataset.num_by_split["validation"] == 0:
        raise BadInput("patience: without a validation split nothing says when to stop; give it rows, or take 0")


def target_scale(dataset: DatasetInfo, rows: Rows) -> tuple[float, float]:
    """Mean and standard deviation of a target that is a number; classes are left alone."""
    return (0.0, 1.0) if dataset.classes else (float(rows.labels.mean()), float(rows.labels.std()))


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Momentum is 0.9. Only AdamW decays weights apart from the gradient; the others add it as an L2 penalty."""
    rates = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    match settings.optimizer:
        case "sgd":
            return torch.optim.SGD(model.parameters(), **rates)
        case "momentum":
            return torch.optim.SGD(model.parameters(), momentum=0.9, **rates)
        case "adam":
            return torch.optim.Adam(model.parameters(), **rates)
    return torch.optim.AdamW(model.parameters(), **rates)


def make_schedule(optimizer: Any, settings: Settings, *, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """How the rate goes over all ``steps``; warming up takes a tenth of them."""
    match settings.schedule:
        case "cosine":
            return warmup_cosine(optimizer, steps=steps)
        case "warmup_cosine":
            return warmup_cosine(optimizer, steps=steps, warmup=max(1, steps // 10))
        case "one_cycle":
            return torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def class_shares(rows: Rows, classes: int) -> np.ndarray:
    """Rows of a class if all had as many, over the rows it has, for each row: rare classes weigh more; mean 1."""
    counts = np.bincount(rows.labels, minlength=classes)
    return (len(rows) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[rows.labels]


def class_weights(rows: Rows, classes: int, settings: Settings) -> Tensor:
    """What each row's loss is multiplied with, shape (rows,)."""
    weights = class_shares(rows, classes) if settings.imbalance == "weights" else np.ones(len(rows))
    return torch.from_numpy(weights.astype(np.float32))


def draw_rows(rows: Rows, classes: int, settings: Settings, *, seed: int, epoch: int) -> np.ndarray:
    """Which row stands in each place of this epoch, on all ranks alike: itself, or one drawn as often by class."""
    if settings.imbalance != "oversample":
        return np.arange(len(rows))
    chances = class_shares(rows, classes)
    return np.random.RandomState((seed, epoch, 1)).choice(len(rows), size=len(rows), p=chances / chances.sum())


def losses_of(outputs: Tensor, labels: Tensor, loss: str, target: tuple[float, float]) -> Tensor:
    """The loss of each row, shape (rows,). Numbers are compared in standard deviations of the train split."""
    if not labels.dtype.is_floating_point:
        losses = functional.cross_entropy(outputs, labels, reduction="none")
        # exp(-cross entropy) is the probability of the right class
        return losses * (1 - torch.exp(-losses)) ** FOCUS if loss == "focal" else losses
    mean, std = target
    compare = functional.huber_loss if loss == "huber" else functional.mse_loss
    return compare(outputs.squeeze(1), ((labels - mean) / std).float(), reduction="none")


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
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts_of(features)) / len(features)
    squares = sum(np.square(part - mean).sum(axis=0) for part in parts_of(features))
    std = np.sqrt(squares / len(features))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()


def validate(model: nn.Module, context: Context, loss: str, target: tuple[float, float]) -> Mapping[str, float]:
    """Loss and accuracy (or mean absolute error) over the validation split, each rank doing its shard."""
    num_rows = context.dataset.num_by_split["validation"]
    if num_rows == 0:
        return {}
    rows = context.shard("validation")
    if not context.dataset.classes:
        predicted = torch.from_numpy(numbers(model, rows.features, target))
        truth = torch.from_numpy(rows.labels)
        losses = losses_of(((predicted - target[0]) / target[1])[:, None].float(), truth, loss, target)
        total, error = sum_over_ranks(float(losses.double().sum()), float((predicted - truth).abs().sum()))
        return {"validation/loss": total / num_rows, "validation/mean_absolute_error": error / num_rows}
    scores = probabilities(model, rows.features)
    chosen = scores[np.arange(len(rows)), rows.labels]
    loss = -np.log(np.clip(chosen, 1e-12, 1)).sum()
    hits = (scores.argmax(axis=1) == rows.labels).sum()
    total_loss, total_hits = sum_over_ranks(float(loss), float(hits))
    return {"validation/loss": total_loss / num_rows, "validation/accuracy": total_hits / num_rows}


def numbers(model: nn.Module, features: np.ndarray, target: tuple[float, float]) -> np.ndarray:
    """Predicted numbers in the unit of the target, shape (rows,), float64."""
    return answers(model, features).double().squeeze(1).cpu().numpy() * target[1] + target[0]


def probabilities(model: nn.Module, features: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Class probabilities of raw inputs, shape (rows, classes), float64 and in [0, 1]."""
    return functional.softmax(answers(model, features).double() / temperature, dim=1).cpu().numpy()


def answers(model: nn.Module, features: np.ndarray) -> Tensor:
    """What the model says of raw inputs, shape (rows, outputs)."""
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        chunks = [model(torch.from_numpy(features[at : at + 4096]).to(device)) for at in range(0, len(features), 4096)]
    return torch.cat(chunks) if chunks else torch.empty(0, model.linear.out_features)


def load(directory: Path) -> Predictor:
    """From raw columns, or an array of inputs, to class probabilities, shape (rows, classes), or numbers, (rows,)."""
    exported = read_model(Path(directory))
    settings = Settings(hidden=exported.config["hidden"], activation=exported.config.get("activation", "gelu"))
    model = Perceptron(
        mean=exported.config["mean"],
        std=exported.config["std"],
        outputs=len(exported.document["classes"]) or 1,
        settings=settings,
    )
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(rows: Any) -> np.ndarray:
        is_array = isinstance(rows, np.ndarray)
        matrix = rows.astype(np.float32) if is_array else matrix_of(rows, exported.document["features"])
        if "target" in exported.config:
            return numbers(model, matrix, tuple(exported.config["target"]))
        return probabilities(model, matrix, exported.config.get("temperature", 1.0))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="tabular_mlp", example="diabetes_risk")

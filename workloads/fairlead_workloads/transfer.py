"""Transfer learning: a network that knows pictures of one kind learns to tell others apart, from a few labels a class.

python -m fairlead_workloads.transfer                                    learns digits 0 to 4, then 5 to 9 from 10 each
python -m fairlead_workloads.transfer --start=trained/model --method=lora   ... begins with a model that was saved

What it begins with is its ``start``: the directory of an exported ``image_cnn`` or ``transfer`` model, or one of
Hugging Face's for image classification (``config.json`` beside ``model.safetensors``). Without a start it first trains
a network of its own on ``source``. The *body*, which makes features of pictures, is taken over; the *head*, which makes
classes of features, is new: it begins as a logistic regression on the features of the rows with labels. Four methods
say what then learns:

- ``thaw``: the head alone, and from ``thaw_epoch`` on the body too.
- ``freeze``: the head alone.
- ``lora``: the head, and to each weight matrix of the body a product of two narrow ones is added that learns, while
  the matrix stays (Hu et al. 2021, LoRA; carried out by peft). They are added up for the exported model.
- ``scratch``: all of it, and nothing is taken over: what the others are to be held against.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data import batches, num_batches, open_dataset, require_kind
from fairlead.data.alone import run_alone
from fairlead.data.export import read_model
from fairlead.data.sheets import mistakes_sheet
from fairlead.data.torch import seed_epoch, share_cores, sum_over_ranks
from fairlead.errors import BadData, BadInput
from fairlead.spec import DataSpec, SplitSpec
from fairlead.training import autocast, keep, parallel, restore, validate_classes
from fairlead.workload import Context, Params, Predictor, Rows
from fairlead_workloads.image_cnn import ConvolutionalNet, draw_moves, move, scale_of

CNN = "image_cnn"
HUGGING_FACE = "huggingface"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The parameters; ``transfer.toml`` says the same to the platform, and a test compares the two."""

    start: str = ""
    source: str = "builtin://digits?first=0&last=4"
    source_epochs: int = 4
    source_lr: float = 4e-3
    width: int = 16
    method: str = "thaw"
    thaw_epoch: int = 3
    lora_rank: int = 4
    labels_per_class: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.05
    shift: float = 0.8
    turn: float = 12.0
    stretch: float = 0.1
    epochs: int = 40
    batch_size: int = 50


class HuggingFaceNet(nn.Module):
    """One of Hugging Face's image classifiers, for raw pictures of any size, grey or colour."""

    def __init__(self, *, described: Mapping[str, Any], mean: list[float], std: list[float], classes: int) -> None:
        super().__init__()
        transformers = load_library("transformers")
        config = transformers.AutoConfig.for_model(**{**described, "num_labels": classes})
        self.inner = transformers.AutoModelForImageClassification.from_config(config)
        self.channels = config.num_channels
        self.size = getattr(config, "image_size", None)  # networks of convolutions alone take any size
        # Pictures are scaled by the rows that this network learns from: their unit is theirs, not the start's.
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, shape (rows, classes)."""
        scaled = (pictures - self.mean) / self.std
        if self.size is not None:
            scaled = functional.interpolate(scaled, self.size, mode="bilinear", align_corners=False)
        return self.inner(pixel_values=scaled.expand(-1, self.channels, -1, -1)).logits


def build(config: Mapping[str, Any], *, classes: int) -> nn.Module:
    """A network with new weights, of the kind and size that ``config`` says."""
    if config["family"] == HUGGING_FACE:
        return HuggingFaceNet(**{name: config[name] for name in ("described", "mean", "std")}, classes=classes)
    return ConvolutionalNet(**{name: config[name] for name in ("mean", "std", "width", "blocks")}, classes=classes)


def body_of(model: nn.Module) -> nn.Module:
    """What makes features of pictures."""
    return model.inner.base_model if isinstance(model, HuggingFaceNet) else model.maps


def head_of(model: nn.Module) -> nn.Module:
    """What makes classes of features."""
    return model.inner.classifier if isinstance(model, HuggingFaceNet) else model.head


def train(params: Params, context: Context) -> None:
    """Train, report once per epoch, count the test split, export the last epoch: few labels leave none to choose by."""
    require_kind(context.dataset, "images")
    settings = Settings(**params)
    threads = share_cores(context.world_size)
    rows = some_of(context.all_rows("train"), settings.labels_per_class, context)
    classes = context.dataset.classes
    begun = begin(settings, rows, context)
    if begun is None:
        return  # asked to stop while the source was learnt; the next attempt learns it again
    model, config = begun
    model = with_lora(model, settings) if settings.method == "lora" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    steps = num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, total_steps=settings.epochs * steps)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first_epoch = restore(context, parts) + 1
    if context.rank == 0:
        size = sum(weight.numel() for weight in model.parameters())
        print(f"{len(rows)} pictures with labels, {len(classes)} classes, {size} weights, {settings.method}")
        print(f"{context.world_size} ranks on {context.device}, {threads} threads each, from epoch {first_epoch}")

    ranks = None
    for epoch in range(first_epoch, settings.epochs + 1):
        if ranks is None or epoch == settings.thaw_epoch:
            learns(model, settings, epoch)
            ranks = parallel(model, context)  # anew: ranks average the gradients of what learnt when it was made
        ranks.train()
        seed_epoch(context.seed, epoch=epoch, rank=context.rank)  # for networks with dropout
        loss = train_epoch(ranks, rows, optimizer, schedule, settings, context, epoch=epoch)
        learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        metrics = {
            "train/loss": loss,
            "train/weights": float(learning),
            **validate_classes(context, partial(probabilities, model)),
        }
        keep(context, metrics, step=epoch, parts=parts)
        if context.should_stop():
            return  # the last checkpoint is already safe

    model = model.merge_and_unload() if settings.method == "lora" else model
    test = context.shard("test")
    answers = probabilities(model, test.features)
    scores = answers if len(classes) > 2 else answers[:, 1]
    context.evaluate("test", records=test.records, predictions=answers.argmax(axis=1), scores=scores)
    context.show("mistakes.png", mistakes_sheet(test.features, answers, test.labels, classes))
    context.export(model.state_dict(), config=config)


def train_epoch(
    ranks: nn.Module,
    rows: Rows,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    settings: Settings,
    context: Context,
    *,
    epoch: int,
) -> float:
    """One pass over ``rows``; returns the mean loss of a row. Collective."""
    pictures = torch.from_numpy(rows.features).to(context.device)
    labels = torch.from_numpy(rows.labels).to(context.device)
    moves = draw_moves(len(rows), seed=(context.seed, epoch, 1))
    most = {"shift": settings.shift, "turn": settings.turn, "stretch": settings.stretch}
    local_loss = torch.zeros((), device=context.device)
    for batch in batches(
        len(rows),
        global_batch=settings.batch_size,
        rank=context.rank,
        world_size=context.world_size,
        seed=context.seed,
        epoch=epoch,
    ):
        chosen = torch.from_numpy(batch.positions).to(context.device)
        moved = move(pictures[chosen], moves[batch.positions], **most)
        with autocast(context):
            logits = ranks(moved)
        losses = functional.cross_entropy(logits.float(), labels[chosen], reduction="none")
        optimizer.zero_grad()
        (losses.sum() * batch.loss_scale).backward()
        optimizer.step()
        schedule.step()
        local_loss += losses.detach().sum()
    (total,) = sum_over_ranks(local_loss.item())
    return total / len(rows)


# ---- where it begins ------------------------------------------------------------------------------------------------


def begin(settings: Settings, rows: Rows, context: Context) -> tuple[nn.Module, dict[str, Any]] | None:
    """The network with the body of its start and a new head, and what rebuilds it; None: asked to stop on the way.

    Raises ``BadInput`` for a start that is none, ``BadData`` for pictures that do not fit it.
    """
    body, config = start_of(settings, rows, context)
    channels = len(config["mean"])
    if channels != context.dataset.feature_shape[0]:
        have = context.dataset.feature_shape[0]
        raise BadData(f"{context.dataset.uri}: pictures have {have} channels, and the start's have {channels}")
    if body is None and settings.method != "scratch" and context.resume_from is None:
        body = learn_source(settings, config, context)
        if body is None:
            return None
    seed_epoch(context.seed, epoch=0, rank=0)  # every rank starts from the same head
    model = build(config, classes=len(context.dataset.classes)).to(context.device)
    if body is not None and settings.method != "scratch":
        body_of(model).load_state_dict(body)
        fit_head(model, rows)
    return model, config


def start_of(settings: Settings, rows: Rows, context: Context) -> tuple[Mapping[str, Tensor] | None, dict[str, Any]]:
    """The weights of the body to begin with, None where they must be learnt, and what builds a network around them."""
    if not settings.start:
        mean, std = scale_of(rows.features if settings.method == "scratch" else source_of(settings, context).features)
        return None, {"family": CNN, "mean": mean, "std": std, "width": settings.width, "blocks": 2}
    directory = Path(settings.start)
    if (directory / "config.json").is_file():
        return hugging_face_start(directory, rows)
    exported = read_model(directory)
    family = exported.config.get("family", CNN)
    if exported.document["workload"] not in (CNN, "transfer") or family != CNN:
        made_by = exported.document["workload"]
        raise BadInput(f"start: {directory} is a model of {made_by} ({family}); begin with one of {CNN}")
    config = {name: exported.config[name] for name in ("mean", "std", "width", "blocks")}
    tensors = {name: torch.from_numpy(array) for name, array in exported.tensors.items()}
    return {key.removeprefix("maps."): one for key, one in tensors.items() if key.startswith("maps.")}, {
        "family": CNN,
        **config,
    }


def hugging_face_start(directory: Path, rows: Rows) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """The body of a model that Hugging Face's ``save_pretrained`` wrote; nothing is fetched from anywhere."""
    transformers = load_library("transformers")
    try:
        loaded = transformers.AutoModelForImageClassification.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise BadInput(f"start: {directory} holds no image classifier that transformers can read: {said}") from error
    mean, std = scale_of(rows.features)
    body = {name: tensor.float() for name, tensor in loaded.base_model.state_dict().items()}
    return body, {"family": HUGGING_FACE, "described": loaded.config.to_dict(), "mean": mean, "std": std}


def source_of(settings: Settings, context: Context) -> Rows:
    """Every row of the source. Raises ``BadData`` where it has other pictures than the data to learn."""
    source = open_dataset(DataSpec(uri=settings.source, split=SplitSpec(train=1.0, validation=0.0, test=0.0)))
    require_kind(source.info, "images")
    if source.info.feature_shape[0] != context.dataset.feature_shape[0]:
        have, need = source.info.feature_shape, context.dataset.feature_shape
        raise BadData(f"source: pictures of {settings.source} have shape {have}, those of {context.dataset.uri} {need}")
    return source.rows("train")


def learn_source(settings: Settings, config: Mapping[str, Any], context: Context) -> Mapping[str, Tensor] | None:
    """The body of a network after it has learnt the source; None: asked to stop. Collective."""
    rows = with_symmetries(source_of(settings, context))
    seed_epoch(context.seed, epoch=0, rank=0)
    model = build(config, classes=int(rows.labels.max()) + 1).to(context.device)
    ranks = parallel(model, context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.source_lr, weight_decay=settings.weight_decay)
    steps = settings.source_epochs * num_batches(len(rows), global_batch=settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.source_lr, total_steps=steps)
    for epoch in range(1, settings.source_epochs + 1):
        loss = train_epoch(ranks, rows, optimizer, schedule, settings, context, epoch=epoch)
        if context.rank == 0:
            print(f"source, epoch {epoch}: loss {loss:.4f}")
        if context.should_stop():
            return None
    return body_of(model).state_dict()


def some_of(rows: Rows, labels_per_class: int, context: Context) -> Rows:
    """``labels_per_class`` rows of each class, drawn by the seed; 0: all rows.

    Raises ``BadData`` where a class has fewer, and where the rows are fewer than the ranks.
    """
    if labels_per_class > 0:
        order = np.random.RandomState(context.seed).permutation(len(rows))
        found = []
        for place, name in enumerate(context.dataset.classes):
            of_class = order[rows.labels[order] == place][:labels_per_class]
            if len(of_class) < labels_per_class:
                have = f"the train split has {len(of_class)} of class {name!r}"
                raise BadData(f"{context.dataset.uri}: {have}, and labels_per_class asks for {labels_per_class}")
            found.append(of_class)
        chosen = np.sort(np.concatenate(found))
        rows = Rows(records=rows.records[chosen], features=rows.features[chosen], labels=rows.labels[chosen])
    if len(rows) < context.world_size:
        raise BadData(
            f"{context.dataset.uri}: {len(rows)} rows to learn from are too few for {context.world_size} ranks"
        )
    return rows


def with_symmetries(rows: Rows) -> Rows:
    """The rows in all eight ways to turn and mirror them by quarters, each way with classes of its own.

    What tells five classes apart is little, and of small use for others; to tell forty apart takes a richer body.
    Source: Lee, Hwang, Shin 2020, Self-supervised label augmentation via input transformations.
    """
    ways = [
        np.rot90(mirrored, turns, axes=(2, 3))
        for mirrored in (rows.features, rows.features[..., ::-1])
        for turns in range(4)
    ]
    return Rows(
        records=np.tile(rows.records, 8),
        features=np.ascontiguousarray(np.concatenate(ways)),
        labels=np.concatenate([rows.labels * 8 + way for way in range(8)]),
    )


@torch.no_grad()
def fit_head(model: nn.Module, rows: Rows) -> None:
    """Let the head begin with the answers of a logistic regression on the body's features of the rows with labels.

    A head of small random numbers would send noise through the body, and need most of the epochs to grow.
    """
    head = head_of(model)
    if not isinstance(head, nn.Linear):
        return
    seen: list[Tensor] = []
    watch = head.register_forward_pre_hook(lambda _, given: seen.append(given[0].double().cpu()))
    probabilities(model, rows.features)
    watch.remove()
    features = torch.cat(seen).numpy()
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    fitted = LogisticRegression(max_iter=1000).fit((features - mean) / std, rows.labels)
    weights = softmax_weights(fitted.coef_) / std
    head.weight.copy_(torch.from_numpy(weights))
    head.bias.copy_(torch.from_numpy(softmax_weights(fitted.intercept_[:, None])[:, 0] - weights @ mean))


def softmax_weights(weights: np.ndarray) -> np.ndarray:
    """One row a class: of two classes scikit-learn fits the log-odds of the second alone."""
    return np.concatenate([-weights / 2, weights / 2]) if len(weights) == 1 else weights


# ---- what learns ----------------------------------------------------------------------------------------------------


def learns(model: nn.Module, settings: Settings, epoch: int) -> None:
    """Say which weights have gradients in ``epoch``. LoRA's have said it themselves."""
    if settings.method == "lora":
        return
    for weight in body_of(model).parameters():
        weight.requires_grad = settings.method == "scratch" or (
            settings.method == "thaw" and epoch >= settings.thaw_epoch
        )


def with_lora(model: nn.Module, settings: Settings) -> nn.Module:
    """The network with narrow matrices beside each weight matrix and convolution of its body; they and the head learn.

    A weight W becomes W + 2 B A, with A of ``lora_rank`` rows and B, zero at first, of as many columns.
    """
    peft = load_library("peft")
    body = body_of(model)
    inside = {id(module) for module in body.modules()}
    matrices = [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    head = [weight for weight in model.parameters() if id(weight) not in {id(one) for one in body.parameters()}]
    config = peft.LoraConfig(r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules=matrices)
    tuned = peft.get_peft_model(model, config)
    for weight in head:
        weight.requires_grad = True
    return tuned


def load_library(name: str) -> Any:
    """transformers or peft, late: loading them takes longer than many a training here."""
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise BadInput(f"{name} is not installed on this node: install fairlead[huggingface]") from error


# ---- what it says ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def probabilities(model: nn.Module, pictures: np.ndarray) -> np.ndarray:
    """Class probabilities of raw pictures, shape (rows, classes), float64 and in [0, 1]."""
    model.eval()
    device = next(model.parameters()).device
    chunks = [
        model(torch.from_numpy(pictures[at : at + 512]).to(device)).double().softmax(dim=1).cpu().numpy()
        for at in range(0, max(1, len(pictures)), 512)
    ]
    return np.concatenate(chunks)


def load(directory: Path) -> Predictor:
    """From raw pictures, shape (rows, channels, height, width), to class probabilities, shape (rows, classes)."""
    exported = read_model(Path(directory))
    model = build(exported.config, classes=len(exported.document["classes"]))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in exported.tensors.items()})

    def predict(pictures: Any) -> np.ndarray:
        return probabilities(model, np.asarray(pictures, dtype=np.float32))

    return predict


if __name__ == "__main__":
    run_alone(train, workload="transfer", example="digits_transfer")

"""Looks at a trained model beyond its answers for the test split, for every workload.

    count_test(...)                                  # context.evaluate("test", ...): the rows as they are
    run_probes(model, context, mitigation=mitigation)

``model`` turns raw inputs, shape (n, *feature_shape), into logits, shape (n, classes), or (n,) for two classes, and is
differentiable. What the spec asks for decides what this does; where it asks for nothing it returns at once, so a page
is written once. Collective: all ranks call it, each looks at its own rows of the test split.

**Changed inputs.** Distances are in units of each input: the standard deviation of a column of numbers over the train
split; for pictures the range of all values there, within which they also stay. Inputs made of texts and constant ones
are not touched. With s the units, g the gradient of the cross-entropy of the row's own label:

- **fgsm**: ``x + eps s sign(g)``; for ``l2`` ``x + eps s (s g) / |s g|``. Goodfellow, Shlens, Szegedy 2015 (arXiv
  1412.6572).
- **pgd**: ``steps`` such steps of length ``2.5 eps / steps``, each followed by the way back into the ball, from
  ``restarts`` starts: the row itself, then points of the ball. Madry et al. 2018 (arXiv 1706.06083). Of all points on
  the way, the row itself and that of fgsm, one counts at which the model is wrong, and of several the one of largest
  loss: so pgd is never weaker than fgsm on any row.
- **noise**: ``x + eps s z`` with z standard normal.

These are attacks that were tried, not all there are: a model may be weaker than they find, never stronger.

**Temperature**: ``fit_temperature`` before anything is counted; ``run_probes`` then counts the test split with the
other temperature too, so that the report has calibration before and after.

**Explanations**: the values of one column after the other are dealt out anew among the rows of the test split.

**Attributions**: integrated gradients of rows drawn from it, see ``fairlead.attributions``.

**Drift** needs no model: rows of both splits are counted in bins, see ``fairlead.data.drift``.

Rows are worked on in blocks of the split that do not depend on the number of ranks, and random numbers belong to the
block: so the counts do not either. A rank whose share ends inside a block works on the whole block, and counts its own
rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairlead.attributions import measure_attributions
from fairlead.data.context import keep_measurement, level_codes
from fairlead.data.drift import DriftCounter
from fairlead.data.probes import explained_groups, explained_levels, left_out_levels
from fairlead.data.torch import sum_over_ranks, sum_tensor
from fairlead.errors import BadData, BadInput
from fairlead.evaluation.explanations import ExplanationCounts, ShuffledColumn
from fairlead.evaluation.temperature import FittedTemperature
from fairlead.mitigation import Mitigation, begin_mitigation
from fairlead.spec import PerturbationSpec
from fairlead.workload import Context, DatasetInfo, Rows

BLOCK_ROWS = 256
STEP_LENGTH = 2.5
"""Times eps over steps: far enough to cross the ball and to turn back in it."""
Model = Callable[[Tensor], Tensor]
Scores = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """By what logits are divided: ``used`` for whatever the model is to answer, ``fitted`` had it been applied."""

    fitted: float = 1.0
    used: float = 1.0
    is_asked_for: bool = False

    def config(self) -> dict[str, float]:
        """What the exported model's ``config`` must hold where a temperature is used."""
        return {"temperature": self.used} if self.is_asked_for else {}


def fit_temperature(model: Model, context: Context) -> Temperature:
    """The temperature of the lowest log loss on the validation split, where the spec asks for one. Collective.

    To be called before thresholds are chosen and anything is counted: its ``used`` belongs to all of that.
    Source: Guo et al. 2017 (arXiv 1706.04599). Newton's method on 1/T, in which the loss is convex, kept in a bracket.
    """
    asked = context.probes.temperature if context.probes else None
    if asked is None:
        return Temperature()
    if isinstance(model, nn.Module):
        model.eval()
    rows = context.shard("validation")
    judge = Judge(model, context, Mitigation(context, None))
    starts = range(0, len(rows), BLOCK_ROWS)
    parts = [rows.features[start : start + BLOCK_ROWS] for start in starts]
    with torch.no_grad():
        logits = [judge.logits(torch.from_numpy(part).to(context.device)).double().cpu() for part in parts]
    every = torch.cat(logits) if logits else torch.zeros((0, judge.num_classes), dtype=torch.float64)
    fitted = lowest_loss(every, torch.from_numpy(rows.labels))
    keep_measurement(context, "temperature", fitted.model_dump(mode="json"))
    used = fitted.temperature if asked.apply else 1.0
    return Temperature(fitted=fitted.temperature, used=used, is_asked_for=True)


def lowest_loss(logits: Tensor, labels: Tensor) -> FittedTemperature:
    """The temperature from 0.01 to 100 of the lowest log loss of all ranks' rows together. Collective.

    Where the loss falls without end it is 1, and ``reason`` says so. ``logits``: shape (n, classes), float64;
    ``labels``: shape (n,). n may be 0 here, but not everywhere. Raises ``BadData`` if it is.
    """

    def look(sharpness: float) -> tuple[float, float, float, float]:
        """Loss, slope and bend at 1/T, and rows, over all ranks."""
        own = logits.gather(1, labels[:, None])[:, 0]
        shares = functional.softmax(sharpness * logits, dim=1)
        mean = (shares * logits).sum(dim=1)
        spread = (shares * (logits - mean[:, None]) ** 2).sum(dim=1)
        loss = torch.logsumexp(sharpness * logits, dim=1) - sharpness * own
        sums = (float(loss.sum()), float((mean - own).sum()), float(spread.sum()), float(len(labels)))
        return sum_over_ranks(*sums)  # type: ignore[return-value]  # as many as are given

    before, slope, bend, num_rows = look(1.0)
    if num_rows == 0:
        raise BadData("a temperature is fitted on the validation split, and it has no rows")
    if reason := _no_lowest(logits, labels):
        loss = max(0.0, before / num_rows)
        return FittedTemperature(
            temperature=1.0, n_validation=int(num_rows), log_loss_before=loss, log_loss_after=loss, reason=reason
        )
    low, high, sharpness = 0.01, 100.0, 1.0
    for _ in range(100):
        low, high = (low, sharpness) if slope > 0 else (sharpness, high)
        step = sharpness - slope / bend if bend > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        is_settled = abs(following - sharpness) <= 1e-12 * sharpness
        sharpness = following
        after, slope, bend, _ = look(sharpness)
        if is_settled or slope == 0:
            break
    return FittedTemperature(
        temperature=1 / sharpness,
        n_validation=int(num_rows),
        log_loss_before=max(0.0, before / num_rows),
        log_loss_after=max(0.0, after / num_rows),
    )


def _no_lowest(logits: Tensor, labels: Tensor) -> str | None:
    """Why the loss has no lowest point at any temperature; None if it has one. Collective."""
    own = logits.gather(1, labels[:, None])[:, 0]
    to_largest, to_mean = sum_over_ranks(
        float((logits.amax(dim=1) - own).sum()), float((logits.mean(dim=1) - own).sum())
    )
    if to_largest == 0:
        return "every validation row is predicted right, and the surer the model were, the lower its loss"
    if to_mean >= 0:
        return (
            "on the validation rows the model is no better than chance, and the less sure it were, the lower its loss"
        )
    return None


def run_probes(
    model: Model,
    context: Context,
    *,
    mitigation: Mitigation | None = None,
    temperature: Temperature | None = None,
) -> None:
    """Look at ``model`` in every way that the spec asks for, and count what it answers. Collective.

    ``mitigation``: what decides with thresholds of groups, if the workload uses any; ``temperature``: from
    ``fit_temperature``. Raises ``BadData`` where nothing of the inputs can be changed, ``BadInput`` where the spec asks
    for a temperature and none is given.
    """
    if context.probes is None:
        return
    if isinstance(model, nn.Module):
        model.eval()
    if context.probes.temperature is not None and temperature is None:
        raise BadInput("the spec asks for a temperature: call fit_temperature before counting, and hand it over here")
    temperature = temperature or Temperature()
    judge = Judge(model, context, mitigation or begin_mitigation(context), temperature=temperature.used)
    if context.probes.temperature is not None:
        other = 1.0 if context.probes.temperature.apply else temperature.fitted
        _count_tempered(judge, other, context.probes.temperature.condition, context)
    for perturbation in context.probes.robustness:
        _count_perturbed(perturbation, judge, context)
    if context.probes.explanations is not None:
        _measure_importance(judge, context)
    if context.probes.attributions is not None:
        measure_attributions(
            context,
            context.probes.attributions,
            logits=judge.logits,
            predict=lambda inputs, records: judge.answers(inputs, records).predictions,
        )
    if context.probes.drift is not None:
        _measure_drift(context)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What the model says of some rows."""

    predictions: NDArray[np.int64]
    """Shape (n,)."""
    scores: Scores
    """As ``Context.evaluate`` wants them."""


class Judge:
    """The model with all that belongs to its decisions."""

    def __init__(self, model: Model, context: Context, mitigation: Mitigation, *, temperature: float = 1.0) -> None:
        self._model, self._mitigation, self._temperature = model, mitigation, temperature
        self.num_classes = len(context.dataset.classes)

    @property
    def has_group_thresholds(self) -> bool:
        """Whether thresholds were chosen for the scores that are used, and for no others."""
        return self._mitigation.is_in_decisions

    def logits(self, inputs: Tensor) -> Tensor:
        """Shape (n, classes)."""
        answer = self._model(inputs)
        return torch.stack([torch.zeros_like(answer), answer], dim=1) if answer.ndim == 1 else answer

    def groups(self, records: NDArray[np.int64]) -> Tensor:
        """What ``decide`` asks for."""
        return self._mitigation.groups(records)

    def decide(self, logits: Tensor, groups: Tensor, *, temperature: float | None = None) -> Answers:
        """Scores and predictions, as they are made for the test split."""
        tempered = logits.detach().double() / (self._temperature if temperature is None else temperature)
        scores = functional.softmax(tempered, dim=1).cpu().numpy()
        if self.num_classes > 2:
            return Answers(predictions=scores.argmax(axis=1), scores=scores)
        scores = scores[:, 1]
        return Answers(predictions=self._mitigation.decide(scores, groups=groups), scores=scores)

    def answers(self, inputs: Tensor, records: NDArray[np.int64]) -> Answers:
        """What the model says of rows."""
        with torch.no_grad():
            return self.decide(self.logits(inputs), self.groups(records))


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some rows of a split, cut at the same places whatever the number of ranks."""

    number: int
    rows: Rows
    is_mine: NDArray[np.bool_]
    """Which of them this rank counts."""


def blocks_of(context: Context, split: str) -> Iterator[Block]:
    """Every block of ``split`` that holds rows of this rank, whole."""
    rows, mine = context.all_rows(split), np.isin(context.all_rows(split).records, context.shard(split).records)
    for number, start in enumerate(range(0, len(rows), BLOCK_ROWS)):
        part = slice(start, start + BLOCK_ROWS)
        if mine[part].any():
            kept = Rows(records=rows.records[part], features=rows.features[part], labels=rows.labels[part])
            yield Block(number=number, rows=kept, is_mine=mine[part])


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    """How far rows may be moved: ``eps`` units, within ``low`` and ``high``."""

    eps: float
    norm: str
    units: Tensor
    """Shape (1, *feature_shape); 0 where an input is not to be touched."""
    low: float
    high: float

    def toward(self, inputs: Tensor, gradient: Tensor, length: float) -> Tensor:
        """``inputs``, each row moved by ``length`` units to where its loss grows fastest."""
        if self.norm == "linf":
            return self.inside(inputs + length * self.units * gradient.sign())
        return self.inside(inputs + length * self.units * _unit(self.units * gradient))

    def back(self, inputs: Tensor, centre: Tensor) -> Tensor:
        """The point of each row's ball round ``centre`` that is nearest to it, in units."""
        units = torch.where(self.units > 0, self.units, torch.ones_like(self.units))
        moved = (inputs - centre) / units
        if self.norm == "linf":
            moved = moved.clamp(-self.eps, self.eps)
        else:
            moved = moved * (self.eps / _length(moved).clamp(min=self.eps)) if self.eps > 0 else torch.zeros_like(moved)
        return self.inside(centre + moved * self.units)

    def start(self, centre: Tensor, generator: np.random.Generator) -> Tensor:
        """A random point of each row's ball."""
        shape = tuple(centre.shape)
        if self.norm == "linf":
            moved = generator.uniform(-self.eps, self.eps, size=shape)
        else:
            moved = generator.standard_normal(shape)
            flat = np.sqrt((moved.reshape(len(moved), -1) ** 2).sum(axis=1))
            reach = self.eps * generator.uniform(0, 1, size=len(moved)) / np.maximum(flat, 1e-12)
            moved = moved * reach.reshape(-1, *(1,) * (len(shape) - 1))
        return self.back(centre + _tensor(moved, centre) * self.units, centre)

    def inside(self, inputs: Tensor) -> Tensor:
        """``inputs`` within the range of values there are."""
        return inputs.clamp(self.low, self.high)


def ball_of(perturbation: PerturbationSpec, dataset: DatasetInfo, train: Rows, device: str) -> Ball:
    """The ball of ``perturbation`` in the units of the train split. Raises ``BadData`` if no input may be moved."""
    wide = train.features.astype(np.float64)
    low, high = -np.inf, np.inf
    if len(dataset.feature_shape) > 1:
        low, high = (float(wide.min()), float(wide.max())) if wide.size else (0.0, 0.0)
        units = np.full(dataset.feature_shape, high - low)
    else:
        is_number = [np.full(max(1, len(each.levels)), not each.levels) for each in dataset.features]
        units = np.where(np.concatenate(is_number), wide.std(axis=0), 0.0)
    if not units.any():
        raise BadData(f"{perturbation.condition}: there is no input that could be changed: all are texts or constant")
    tensor = torch.from_numpy(units).to(device=device, dtype=torch.from_numpy(train.features[:0]).dtype)
    return Ball(eps=perturbation.eps, norm=perturbation.norm_used, units=tensor[None], low=low, high=high)


def perturbed(
    perturbation: PerturbationSpec,
    ball: Ball,
    judge: Judge,
    rows: Rows,
    *,
    inputs: Tensor,
    generator: np.random.Generator,
) -> Tensor:
    """``inputs`` of ``rows`` changed in the way asked for: the worst that was found for each row."""
    if perturbation.method == "noise":
        noise = _tensor(generator.standard_normal(tuple(inputs.shape)), inputs)
        return ball.inside(inputs + perturbation.eps * ball.units * noise)
    worst = Worst(judge, rows, inputs)
    full = ball.toward(inputs, worst.look(inputs), perturbation.eps)
    if perturbation.method == "fgsm":
        return full
    worst.look(full)
    length = STEP_LENGTH * perturbation.eps / perturbation.steps_used
    for restart in range(perturbation.restarts_used):
        at = inputs if restart == 0 else ball.start(inputs, generator)
        for _ in range(perturbation.steps_used):
            at = ball.back(ball.toward(at, worst.look(at), length), inputs)
        worst.look(at)
    return worst.inputs


class Worst:
    """The worst inputs seen so far for each row: wrong before right, then by loss."""

    def __init__(self, judge: Judge, rows: Rows, inputs: Tensor) -> None:
        self._judge, self._groups = judge, judge.groups(rows.records)
        self._labels = torch.from_numpy(rows.labels).to(inputs.device)
        self._merit = torch.full((len(rows), 2), -torch.inf, dtype=torch.float64, device=inputs.device)
        self.inputs = inputs.clone()

    def look(self, inputs: Tensor) -> Tensor:
        """Keep what is worse than before; the gradient of each row's loss by its inputs."""
        free = inputs.detach().requires_grad_(True)
        logits = self._judge.logits(free)
        losses = functional.cross_entropy(logits.double(), self._labels, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), free)
        predictions = torch.from_numpy(self._judge.decide(logits, self._groups).predictions).to(inputs.device)
        merit = torch.stack([(predictions != self._labels).double(), losses.detach()], dim=1)
        is_worse = merit[:, 0] > self._merit[:, 0]
        is_worse |= (merit[:, 0] == self._merit[:, 0]) & (merit[:, 1] > self._merit[:, 1])
        self._merit[is_worse], self.inputs[is_worse] = merit[is_worse], inputs[is_worse]
        return gradient


def _count_perturbed(perturbation: PerturbationSpec, judge: Judge, context: Context) -> None:
    ball = ball_of(perturbation, context.dataset, context.all_rows("train"), context.device)
    number = context.probes.conditions.index(perturbation.condition) if context.probes else 0
    for block in blocks_of(context, "test"):
        inputs = torch.from_numpy(block.rows.features).to(context.device)
        generator = np.random.default_rng((context.seed, number, block.number))
        changed = perturbed(perturbation, ball, judge, block.rows, inputs=inputs, generator=generator)
        clean, answers = (judge.answers(each, block.rows.records) for each in (inputs, changed))
        context.evaluate(
            "test",
            records=block.rows.records[block.is_mine],
            predictions=answers.predictions[block.is_mine],
            scores=answers.scores[block.is_mine],
            condition=perturbation.condition,
            clean=clean.predictions[block.is_mine],
        )


def _count_tempered(judge: Judge, temperature: float, condition: str, context: Context) -> None:
    """Count the test split with another temperature than the model is exported with.

    Thresholds of groups belong to the scores they were chosen for: where there are any, decisions stay what they are.
    """
    for block in blocks_of(context, "test"):
        records = block.rows.records
        groups = judge.groups(records)
        with torch.no_grad():
            logits = judge.logits(torch.from_numpy(block.rows.features).to(context.device))
        clean, answers = judge.decide(logits, groups), judge.decide(logits, groups, temperature=temperature)
        decided = clean if judge.has_group_thresholds else answers
        context.evaluate(
            "test",
            records=records[block.is_mine],
            predictions=decided.predictions[block.is_mine],
            scores=answers.scores[block.is_mine],
            condition=condition,
            clean=clean.predictions[block.is_mine],
        )


def _measure_importance(judge: Judge, context: Context) -> None:
    """Deal out each column of the test split anew, and count over all ranks who is right as it is and then."""
    info = context.dataset
    if len(info.feature_shape) > 1:
        raise BadData("permutation importance is about columns, and these data are pictures: take explanations out")
    whole = context.all_rows("test")
    codes = level_codes(context, whole.records)
    explained = explained_levels(info, codes)
    groups = explained_groups(info, explained)
    counts = np.zeros((len(info.features), len(groups), 4), dtype=np.int64)
    places = np.cumsum([0, *(max(1, len(feature.levels)) for feature in info.features)])
    blocks = list(blocks_of(context, "test"))
    clean = [_is_right(judge, block, block.rows.features, context.device) for block in blocks]
    for number in range(len(info.features)):
        dealt = np.random.default_rng((context.seed, number, len(whole))).permutation(len(whole))
        inputs = slice(int(places[number]), int(places[number + 1]))
        for block, was_right in zip(blocks, clean, strict=True):
            start = block.number * BLOCK_ROWS
            features = block.rows.features.copy()
            features[:, inputs] = whole.features[dealt[start : start + len(features)], inputs]
            is_right = _is_right(judge, block, features, context.device)
            kinds = (2 * ~was_right + ~is_right)[block.is_mine]
            counts[number] += _by_level(context, block.rows.records[block.is_mine], kinds, explained)
    total = sum_tensor(torch.from_numpy(counts).to(context.device)).cpu().numpy()
    columns = [
        ShuffledColumn(name=feature.name, counts=tuple(tuple(row) for row in table.tolist()))
        for feature, table in zip(info.features, total, strict=True)
    ]
    left_out = left_out_levels(info, codes, explained)
    found = ExplanationCounts(n=len(whole), groups=groups, columns=tuple(columns), left_out=left_out)
    keep_measurement(context, "explanations", found.model_dump(mode="json"))


def _is_right(judge: Judge, block: Block, features: NDArray[np.float32], device: str) -> NDArray[np.bool_]:
    """Whether the model is right about each row of a block with these features."""
    answers = judge.answers(torch.from_numpy(features).to(device), block.rows.records)
    return np.asarray(answers.predictions == block.rows.labels, dtype=np.bool_)


def _by_level(
    context: Context, records: NDArray[np.int64], kinds: NDArray[np.int64], explained: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Rows of each kind, over all rows and then for the ``explained`` levels of every attribute, shape (groups, 4)."""
    codes = level_codes(context, records)
    tables = [np.bincount(kinds, minlength=4)[None]]
    for place, attribute in enumerate(context.dataset.attributes):
        num_levels = len(attribute.levels) + 1
        table = np.bincount(codes[:, place].astype(np.int64) * 4 + kinds, minlength=4 * num_levels)
        tables.append(table.reshape(num_levels, 4)[explained[place]])
    return np.concatenate(tables)


def _measure_drift(context: Context) -> None:
    """Count both splits in the bins of the train split, over all ranks."""
    counter = DriftCounter(context.dataset, context.all_rows("train"))
    shards = [context.shard(split) for split in ("train", "test")]
    counts = np.stack([counter.count(rows, level_codes(context, rows.records)) for rows in shards])
    total = sum_tensor(torch.from_numpy(counts).to(context.device)).cpu().numpy()
    keep_measurement(context, "drift", counter.counts(*total).model_dump(mode="json"))


def _tensor(values: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(device=like.device, dtype=like.dtype)


def _length(moved: Tensor) -> Tensor:
    """Euclidean length of each row, shape (n, 1, ...)."""
    return moved.flatten(1).norm(dim=1).reshape(-1, *(1,) * (moved.ndim - 1))


def _unit(direction: Tensor) -> Tensor:
    return direction / _length(direction).clamp(min=1e-12)

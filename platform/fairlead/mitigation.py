"""Mitigation in training, for every workload: a loss that is told the groups, and decisions that may be.

    mitigation = begin_mitigation(context)
    groups = mitigation.groups(rows.records)            # once, on every rank, for all rows
    ...
    loss = mitigation.loss(losses, logits=logits, labels=labels, groups=groups[chosen], loss_scale=batch.loss_scale)
    loss.backward()
    ...
    if mitigation.is_in_decisions:
        mitigation.choose(scores, labels=..., groups=...)  # this rank's validation rows; collective
    predictions = mitigation.decide(scores, groups=...)

What the spec asks for decides what these do; where it asks for nothing the loss is the plain one and the threshold the
common one, so a page is written once. ``loss`` is collective: all ranks make the same number of steps. Losses are
scaled as ``fairlead.data.splits.Batch`` says, so that gradients averaged over ranks are those of the global batch.
Rates of groups are running means over all ranks: a batch without some group divides nothing by zero. What has a memory
(multipliers, weights, running means, the adversary) is in ``state_dict``: keep it in checkpoints.

Mitigation pulls against accuracy, so the epoch with the lowest plain validation loss is often the least mitigated one:
where ``is_in_training``, export the last epoch.

- **reweighing**: a row counts n_g n_y / (n n_gy), by which label and group are independent of each other. Kamiran,
  Calders 2012, Data preprocessing techniques for classification without discrimination.
- **group_dro**: the loss is sum_g q_g loss_g over groups by label, q_g growing as exp(step loss_g): the worst counts
  most. Sagawa, Koh, Hashimoto, Liang 2020 (arXiv 1911.08731); with running losses, so that a group that a batch
  lacks keeps its place.
- **lagrangian**: each group's distance from the common rate has a multiplier. Agarwal et al. 2018 (arXiv 1803.02453).
  Multipliers look at decisions, gradients at soft rates: Cotter, Jiang, Sridharan 2019 (arXiv 1804.06500).
- **adversarial**: an adversary tells the group from the logit (for equal opportunity, that of positive rows), and its
  gradient is reversed. Ganin, Lempitsky 2015 (arXiv 1409.7495); Zhang, Lemoine, Mitchell 2018 (arXiv 1801.07593).
- **thresholds**: one threshold a group, chosen on validation rows. Hardt, Price, Srebro 2016 (arXiv 1610.02413).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairlead.data.mitigation import Groups, choose_thresholds, groups_of, row_weights, score_counts
from fairlead.data.torch import sum_tensor
from fairlead.errors import BadInput
from fairlead.spec import MitigationSpec
from fairlead.workload import Context

MEMORY_ROWS = 20_000
"""Rows after which a batch counts 1/e in running means: enough to know a rate to a hundredth."""
ALLOWED_GAP = 0.0
LAGRANGIAN_STEP = 0.1
DRO_STEP = 0.01
STRENGTH = 20.0
MOST_PULL = 50.0
"""A multiplier that has come so far will not get there: more of it only makes training unstable."""
ADVERSARY_WIDTH = 16
ADVERSARY_LR = 0.01


def begin_mitigation(context: Context) -> "Mitigation":
    """What ``context``'s spec asks for, ready for training. All ranks get the same."""
    spec = context.mitigation
    if spec is None:
        return Mitigation(context, None)
    kinds = {
        "reweighing": Reweighing,
        "group_dro": GroupDro,
        "lagrangian": Lagrangian,
        "adversarial": Adversarial,
        "thresholds": Thresholds,
    }
    return kinds[spec.method](context, spec)


class Mitigation:
    """No mitigation: the plain loss, one threshold, nothing to keep. The methods extend it."""

    def __init__(self, context: Context, spec: MitigationSpec | None) -> None:
        self._context = context
        self._spec = spec
        by = spec.by if spec else ()
        self._groups: Groups = groups_of(context.dataset.attributes, by)
        self._world_size = context.world_size
        self._device = torch.device(context.device)

    @property
    def is_in_training(self) -> bool:
        """Whether the loss is another than the plain one."""
        return self._spec is not None and self._spec.is_in_training

    @property
    def is_in_decisions(self) -> bool:
        """Whether ``choose`` has something to learn; without it ``decide`` needs no validation rows."""
        return self._spec is not None and not self._spec.is_in_training

    def groups(self, records: NDArray[np.int64]) -> Tensor:
        """The group of each record as a tensor on the context's device, shape (n,), from 0 to ``num_groups - 1``."""
        return torch.from_numpy(self._context.groups(records)).to(self._device)

    @property
    def num_groups(self) -> int:
        """Groups, that of rows with an unknown level included: it has the last number."""
        return self._groups.num

    def loss(self, losses: Tensor, *, logits: Tensor, labels: Tensor, groups: Tensor, loss_scale: float) -> Tensor:
        """One number to call ``backward`` on.

        ``losses``: of each row, shape (n,), not reduced. ``logits``: shape (n, classes), or (n,) for two classes.
        ``labels`` and ``groups``: whole numbers, shape (n,). n may be 0, on ranks without rows in a batch.
        ``loss_scale``: ``batch.loss_scale``; for one process with whole batches 1 over their rows.
        """
        return losses.sum() * loss_scale

    def choose(self, scores: NDArray[np.float64], *, labels: NDArray[np.int64], groups: Tensor) -> None:
        """Learn from this rank's validation rows how to decide. Collective. ``scores``: of class 1, shape (n,)."""

    def decide(self, scores: NDArray[np.float64], *, groups: Tensor) -> NDArray[np.int64]:
        """Classes, shape (n,), from scores of class 1, shape (n,)."""
        return (scores >= self._context.threshold).astype(np.int64)

    def config(self) -> dict[str, Any]:
        """What the exported model's ``config`` must hold, so that whoever serves it decides in the same way."""
        return {}

    def metrics(self) -> dict[str, float]:
        """How it stands, for ``context.report``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must keep: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""

    def _tensor(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self._device)

    def _key(self, group: int) -> str:
        return "-".join(self._groups.keys[group]) if group < len(self._groups.keys) else "unknown"


class Reweighing(Mitigation):
    """Weighted losses; weights from the whole train split, so there is nothing to keep."""

    def __init__(self, context: Context, spec: MitigationSpec) -> None:
        super().__init__(context, spec)
        train = context.all_rows("train")
        weights = row_weights(
            context.groups(train.records),
            train.labels,
            num_groups=self.num_groups,
            num_classes=len(context.dataset.classes),
        )
        self._weights = torch.from_numpy(weights).float().to(self._device)

    def loss(self, losses: Tensor, *, logits: Tensor, labels: Tensor, groups: Tensor, loss_scale: float) -> Tensor:
        """The weighted sum."""
        return (losses * self._weights[groups, labels]).sum() * loss_scale

    def metrics(self) -> dict[str, float]:
        """The largest weight."""
        return {"mitigation/largest_weight": float(self._weights.max())}


class _Running:
    """Sums and counts of groups over all ranks, in which old batches fade by the number of rows since."""

    def __init__(self, sums: Tensor, counts: Tensor) -> None:
        self.sums, self.counts = sums, counts

    def add(self, sums: Tensor, counts: Tensor) -> None:
        kept = math.exp(-float(counts.sum()) / MEMORY_ROWS)
        self.sums = kept * self.sums + sums
        self.counts = kept * self.counts + counts

    @property
    def means(self) -> Tensor:
        """NaN for a group that has not been seen."""
        return self.sums / self.counts


class GroupDro(Mitigation):
    """The loss of the worst group counts most; groups are those of ``by``, apart for each label, as in the source."""

    def __init__(self, context: Context, spec: MitigationSpec) -> None:
        super().__init__(context, spec)
        self._classes = len(context.dataset.classes)
        cells = self.num_groups * self._classes
        self._step = spec.step_size or DRO_STEP
        self._running = _Running(self._tensor(cells), self._tensor(cells))
        self._log_weights = self._tensor(cells)

    def loss(self, losses: Tensor, *, logits: Tensor, labels: Tensor, groups: Tensor, loss_scale: float) -> Tensor:
        """``sum_g q_g loss_g`` over the groups of the global batch, their weights made to add up to 1."""
        cells = groups * self._classes + labels
        sums, counts = self._sums(losses.detach(), cells)
        self._running.add(sums, counts)
        is_known = self._running.counts > 0
        if not bool((counts > 0).any()):
            return losses.sum() * loss_scale  # nobody has rows: nothing to weigh, and zero it is
        means = torch.where(is_known, self._running.means, torch.zeros_like(sums))
        self._log_weights = self._log_weights + self._step * means
        self._log_weights -= self._log_weights[is_known].max()  # only differences matter
        weights = torch.where(counts > 0, self._log_weights.exp(), torch.zeros_like(sums))
        weights = weights / weights.sum() / counts.clamp(min=1)
        return (losses * weights[cells].to(losses.dtype)).sum() * self._world_size

    def _sums(self, values: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.zeros((2, len(self._log_weights)), dtype=torch.float64, device=self._device)
        both[0].index_add_(0, cells, values.double())
        both[1].index_add_(0, cells, torch.ones_like(values, dtype=torch.float64))
        sums, counts = sum_tensor(both)
        return sums, counts

    def metrics(self) -> dict[str, float]:
        """The worst group's running loss, and the largest weight."""
        is_known = self._running.counts > 0
        if not bool(is_known.any()):
            return {}
        weights = torch.softmax(self._log_weights[is_known], dim=0)
        return {
            "mitigation/worst_group_loss": float(self._running.means[is_known].max()),
            "mitigation/largest_weight": float(weights.max()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Weights and running losses."""
        return {"log_weights": self._log_weights, "sums": self._running.sums, "counts": self._running.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on."""
        self._log_weights = state["log_weights"].to(self._device)
        self._running = _Running(state["sums"].to(self._device), state["counts"].to(self._device))


class Lagrangian(Mitigation):
    """Multipliers push each group's rate towards the common rate until the gap of decisions is allowed.

    With h_g the share of group g that is decided positive (of its positive rows, for equal opportunity) and h that of
    all groups, |h_g - h| <= allowed_gap / 2 for every group makes the gap at most ``allowed_gap``. Each side of each
    group has a multiplier: up by ``step_size`` times what is beyond, down while nothing is, never below 0. Decisions
    have no gradient, so the loss gets ``sum_g (up_g - down_g) (s_g - s)`` with s the mean of the sigmoid of the logit's
    distance from the threshold.
    """

    def __init__(self, context: Context, spec: MitigationSpec) -> None:
        super().__init__(context, spec)
        groups = len(self._groups.keys)
        self._allowed = ALLOWED_GAP if spec.allowed_gap is None else spec.allowed_gap
        self._step = spec.step_size or LAGRANGIAN_STEP
        self._is_of_positives = spec.goal_used == "equal_opportunity"
        self._running = _Running(self._tensor(groups), self._tensor(groups))
        self._pulls = self._tensor(2, groups)
        chance = min(max(context.threshold, 1e-6), 1 - 1e-6)
        self._logit_of_threshold = math.log(chance / (1 - chance))

    def loss(self, losses: Tensor, *, logits: Tensor, labels: Tensor, groups: Tensor, loss_scale: float) -> Tensor:
        """The plain loss and the multipliers' part."""
        known = groups < len(self._groups.keys)
        concerned = known & (labels == 1) if self._is_of_positives else known
        margins = _margins(logits)[concerned] - self._logit_of_threshold
        places = groups[concerned]
        both = self._tensor(2, len(self._groups.keys))
        both[0].index_add_(0, places, (margins.detach() >= 0).double())
        both[1].index_add_(0, places, torch.ones_like(places, dtype=torch.float64))
        decided, counts = sum_tensor(both)
        self._running.add(decided, counts)
        self._move(int(counts.sum()))
        pulls = self._pulls[0] - self._pulls[1]
        there = counts > 0
        pulls = torch.where(there, pulls, torch.zeros_like(pulls))
        # sum_g pull_g (s_g - s), written as a weight a row: s is the mean over all rows concerned.
        total = counts.sum().clamp(min=1)
        weights = (pulls / counts.clamp(min=1) - pulls.sum() / total) * self._world_size
        soft = torch.sigmoid(margins)
        return losses.sum() * loss_scale + (soft * weights[places].to(soft.dtype)).sum()

    def _move(self, rows: int) -> None:
        """One step of the multipliers, shorter for a smaller batch: an epoch moves them as far whatever its batches."""
        seen = self._running.counts > 0
        if int(seen.sum()) < 2:
            return
        away = self._running.means - self._running.sums.sum() / self._running.counts.sum()
        beyond = torch.stack([away, -away]) - self._allowed / 2
        beyond = torch.where(seen, beyond, torch.zeros_like(beyond))
        self._pulls = (self._pulls + self._step * min(1.0, rows / 1000) * beyond).clamp(0, MOST_PULL)

    def metrics(self) -> dict[str, float]:
        """The running gap, and each group's multiplier, signed: above 0 it is pushed down."""
        seen = self._running.counts > 0
        if not bool(seen.any()):
            return {}
        rates = self._running.means[seen]
        pulls = (self._pulls[0] - self._pulls[1]).tolist()
        shown = {f"mitigation/multiplier/{self._key(group)}": pull for group, pull in enumerate(pulls[:20])}
        return {"mitigation/gap": float(rates.max() - rates.min()), **shown}

    def state_dict(self) -> dict[str, Any]:
        """Multipliers and running rates."""
        return {"pulls": self._pulls, "sums": self._running.sums, "counts": self._running.counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on."""
        self._pulls = state["pulls"].to(self._device)
        self._running = _Running(state["sums"].to(self._device), state["counts"].to(self._device))


class Adversarial(Mitigation):
    """A small network tells the group from the logit; the model is paid for misleading it.

    The adversary takes its own step first, on logits without gradient; then its loss, weights held fixed, is taken off
    the model's: that is gradient reversal. For equal opportunity it is shown positive rows alone.
    """

    def __init__(self, context: Context, spec: MitigationSpec) -> None:
        super().__init__(context, spec)
        self._strength = spec.strength or STRENGTH
        self._is_of_positives = spec.goal_used == "equal_opportunity"
        generator = torch.Generator().manual_seed(context.seed)  # the same adversary on every rank
        self._adversary = _adversary(len(self._groups.keys), generator).to(self._device)
        self._optimizer = torch.optim.Adam(self._adversary.parameters(), lr=ADVERSARY_LR)
        self._last_loss = math.nan
        self._chance_loss = math.nan

    def loss(self, losses: Tensor, *, logits: Tensor, labels: Tensor, groups: Tensor, loss_scale: float) -> Tensor:
        """The plain loss less ``strength`` times the adversary's mean loss over the global batch."""
        known = groups < len(self._groups.keys)
        concerned = known & (labels == 1) if self._is_of_positives else known
        margins, places = _margins(logits)[concerned], groups[concerned]
        counts = self._tensor(len(self._groups.keys))
        counts.index_add_(0, places, torch.ones_like(places, dtype=torch.float64))
        counts = sum_tensor(counts)
        if not bool(counts.sum() > 0):
            return losses.sum() * loss_scale
        # Every group counts alike, however many rows it has, so that guessing the largest one is worth nothing.
        seen = counts > 0
        weights = torch.where(seen, 1 / counts.clamp(min=1), torch.zeros_like(counts)) / seen.sum()
        row_weights = weights[places].to(margins.dtype)
        self._learn(margins.detach(), places, row_weights)
        self._chance_loss = math.log(int(seen.sum()))
        answers = functional.cross_entropy(self._frozen(margins), places, reduction="none")
        reversed_loss = (answers * row_weights).sum() * self._world_size
        return losses.sum() * loss_scale - self._strength * reversed_loss

    def _learn(self, margins: Tensor, places: Tensor, row_weights: Tensor) -> None:
        answers = functional.cross_entropy(self._adversary(margins[:, None]), places, reduction="none")
        own = (answers * row_weights).sum()
        parameters = list(self._adversary.parameters())
        gradients = torch.autograd.grad(own, parameters)
        flat = sum_tensor(torch.cat([own.detach().reshape(1), *(gradient.flatten() for gradient in gradients)]))
        self._last_loss = float(flat[0])
        place = 1
        for parameter in parameters:
            parameter.grad = flat[place : place + parameter.numel()].view_as(parameter).clone()
            place += parameter.numel()
        self._optimizer.step()

    def _frozen(self, margins: Tensor) -> Tensor:
        """The adversary's answers, with a gradient towards the margins and none towards its weights."""
        fixed = {name: weight.detach() for name, weight in self._adversary.named_parameters()}
        return torch.func.functional_call(self._adversary, fixed, (margins[:, None],))

    def metrics(self) -> dict[str, float]:
        """The adversary's loss, and what guessing would give: alike, it can tell nothing."""
        if math.isnan(self._last_loss):
            return {}
        return {"mitigation/adversary_loss": self._last_loss, "mitigation/guessing_loss": self._chance_loss}

    def state_dict(self) -> dict[str, Any]:
        """The adversary and its optimizer."""
        return {"adversary": self._adversary.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on."""
        self._adversary.load_state_dict(state["adversary"])
        self._optimizer.load_state_dict(state["optimizer"])


class Thresholds(Mitigation):
    """The plain loss; afterwards one threshold a group. It uses the attribute whenever it decides."""

    def __init__(self, context: Context, spec: MitigationSpec) -> None:
        super().__init__(context, spec)
        self._thresholds: NDArray[np.float64] | None = None

    def choose(self, scores: NDArray[np.float64], *, labels: NDArray[np.int64], groups: Tensor) -> None:
        """Count, add the counts of all ranks, choose. Groups without rows keep the common threshold."""
        assert self._spec is not None, "made with a spec"
        counts = score_counts(scores, labels, groups.cpu().numpy(), num_groups=self.num_groups)[:-1]
        counts = sum_tensor(torch.from_numpy(counts).to(self._device)).cpu().numpy()
        concerned = counts.sum(axis=1) if self._spec.goal_used == "demographic_parity" else counts[:, 1]
        there = concerned.sum(axis=1) > 0
        self._thresholds = np.full(self.num_groups, self._context.threshold)
        self._thresholds[:-1][there] = choose_thresholds(counts[there], self._spec.goal_used)

    def decide(self, scores: NDArray[np.float64], *, groups: Tensor) -> NDArray[np.int64]:
        """Each row by its group's threshold. Raises ``BadInput`` before ``choose``."""
        at: NDArray[np.float64] = self._chosen[groups.cpu().numpy()]
        return (scores >= at).astype(np.int64)

    @property
    def _chosen(self) -> NDArray[np.float64]:
        if self._thresholds is None:
            raise BadInput("thresholds of groups are not chosen yet: call choose with the validation rows first")
        return self._thresholds

    def config(self) -> dict[str, Any]:
        """``group_thresholds``: by which attributes, and each group's threshold; ``fairlead.serving`` reads it."""
        chosen = zip(self._groups.keys, self._chosen, strict=False)  # without the unknown group
        found = [{"key": list(key), "threshold": float(at)} for key, at in chosen]
        return {"group_thresholds": {"by": list(self._groups.by), "thresholds": found}}

    def metrics(self) -> dict[str, float]:
        """Each group's threshold, once chosen."""
        if self._thresholds is None:
            return {}
        found = enumerate(self._thresholds[:-1][:20])
        return {f"mitigation/threshold/{self._key(group)}": float(at) for group, at in found}


def _margins(logits: Tensor) -> Tensor:
    """The log odds of class 1, shape (n,)."""
    return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits


def _adversary(groups: int, generator: torch.Generator) -> nn.Module:
    network = nn.Sequential(nn.Linear(1, ADVERSARY_WIDTH), nn.GELU(), nn.Linear(ADVERSARY_WIDTH, groups))
    with torch.no_grad():
        for parameter in network.parameters():
            reach = 1 / math.sqrt(parameter.shape[-1] if parameter.ndim > 1 else ADVERSARY_WIDTH)
            parameter.copy_(torch.empty_like(parameter).uniform_(-reach, reach, generator=generator))
    return network

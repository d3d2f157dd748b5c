"""What each answer of a model is made of, for ``fairlead.probes``: integrated gradients. The only door to captum.

With F the answer (of two classes the log-odds, else the logit of one), x a row and x' the baseline, input i gets
``(x_i - x'_i)`` times the mean of ``dF/dx_i`` between x' and x, by Gauss and Legendre's rule. Sources and words are in
``fairlead.evaluation.attributions``.

Rows are drawn from the whole test split by the seed and worked on in blocks, one rank a block; sums of blocks are added
in the order of the blocks. So they do not depend on the number of ranks, not even in the last digit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairlead.data.context import keep_measurement, level_codes
from fairlead.data.probes import attributed_features, explained_groups, explained_levels, left_out_levels
from fairlead.data.torch import sum_tensor
from fairlead.evaluation.attributions import AttributedFeature, AttributionSums, ShareSums
from fairlead.spec import AttributionsSpec
from fairlead.workload import Context, DatasetInfo, Rows

BLOCK_ROWS = 64
MOST_AT_ONCE = 256
"""Rows times steps of one pass through the model."""
Model = Callable[[Tensor], Tensor]
Predict = Callable[[Tensor, NDArray[np.int64]], NDArray[np.int64]]
_FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attributed:
    """What came of some rows; float64 throughout."""

    values: _FloatArray
    """Shape (n, inputs)."""
    errors: _FloatArray
    """What they add up to, less the change of the answer; shape (n,)."""

    @property
    def changes(self) -> _FloatArray:
        """The answer for the row, less that for the baseline, shape (n,)."""
        return np.asarray(self.values.sum(axis=1) - self.errors, dtype=np.float64)


def measure_attributions(context: Context, asked: AttributionsSpec, *, logits: Model, predict: Predict) -> None:
    """Explain rows of the test split, and keep what all ranks found together. Collective.

    ``logits``: from raw inputs, shape (n, *feature_shape), to shape (n, classes), differentiable. ``predict``: from raw
    inputs and records to classes, shape (n,).
    """
    rows = drawn(context.all_rows("test"), asked.rows, seed=context.seed)
    tally = Tally(context.dataset, asked, level_codes(context, rows.records))
    outputs = answers_of(logits, num_classes=len(context.dataset.classes))
    baseline = baseline_of(asked, context)
    starts = range(0, len(rows), BLOCK_ROWS)
    for first in range(0, len(starts), context.world_size):
        found = np.zeros((context.world_size, tally.size))
        if first + context.rank < len(starts):
            start = starts[first + context.rank]
            part = slice(start, start + BLOCK_ROWS)
            inputs = torch.from_numpy(rows.features[part]).to(context.device)
            classes = np.ones(len(inputs), dtype=np.int64)
            if asked.target == "predicted":
                classes = predict(inputs, rows.records[part])
            each = attributed(outputs, inputs, baseline=baseline, classes=classes, steps=asked.steps)
            found[context.rank] = tally.sums_of(each, part)
        for block in sum_tensor(torch.from_numpy(found).to(context.device)).cpu().numpy():
            tally.add(block)
    sums = tally.total(n=len(rows), n_split=context.dataset.num_by_split["test"])
    keep_measurement(context, "attributions", sums.model_dump(mode="json"))


def drawn(rows: Rows, most: int, *, seed: int) -> Rows:
    """At most ``most`` of ``rows``, in their order, drawn without replacement."""
    if len(rows) <= most:
        return rows
    chosen = np.sort(np.random.default_rng((seed, len(rows))).choice(len(rows), size=most, replace=False))
    return Rows(records=rows.records[chosen], features=rows.features[chosen], labels=rows.labels[chosen])


def answers_of(logits: Model, *, num_classes: int) -> Model:
    """What is explained, shape (n, classes): of two classes the log-odds of each, else the logits.

    Of two logits only the difference means anything, and a model that gives a single one has no other answer.
    """
    if num_classes != 2:
        return logits

    def log_odds(inputs: Tensor) -> Tensor:
        found = logits(inputs)
        of_second = found[:, 1] - found[:, 0]
        return torch.stack([-of_second, of_second], dim=1)

    return log_odds


def baseline_of(asked: AttributionsSpec, context: Context) -> Tensor:
    """Where the way to every row begins, shape (1, *feature_shape)."""
    values = np.zeros(context.dataset.feature_shape, dtype=np.float32)
    if asked.baseline == "mean":
        values = context.all_rows("train").features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return torch.from_numpy(values)[None].to(context.device)


def attributed(
    outputs: Model, inputs: Tensor, *, baseline: Tensor, classes: NDArray[np.int64], steps: int
) -> Attributed:
    """Attributions of the ``outputs`` of ``classes``, one a row, shape (n,). At least one row."""
    from captum.attr import IntegratedGradients  # late: only who asks for attributions needs it

    values, errors = IntegratedGradients(outputs).attribute(
        inputs,
        baselines=baseline,
        target=torch.from_numpy(classes).to(inputs.device),
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=max(MOST_AT_ONCE, len(inputs)),
        return_convergence_delta=True,
    )
    return Attributed(
        values=values.detach().flatten(1).double().cpu().numpy(), errors=errors.detach().double().cpu().numpy()
    )


class Tally:
    """Adds up what blocks of rows give, as one array of numbers a block, ``size`` long."""

    def __init__(self, info: DatasetInfo, asked: AttributionsSpec, codes: NDArray[Any]) -> None:
        self._info, self._codes = info, codes
        self._explained = explained_levels(info, codes)
        self._groups = explained_groups(info, self._explained)
        self._names, self._feature_of_input = attributed_features(info)
        # A part of a picture may be called like an attribute, such as left.
        sensitive = {one.name for one in info.attributes} & {one.name for one in info.features}
        self._is_shared = np.array([name in (asked.share_of or sensitive) for name in self._names], dtype=bool)
        self._ends = np.cumsum([len(self._groups) * len(self._names) * 3, len(self._groups), 5, 3])
        self._largest, self._total = 0.0, np.zeros(self.size - 1)

    @property
    def size(self) -> int:
        """Numbers a block: sums, and at the end the largest error."""
        return int(self._ends[-1]) + 1

    def sums_of(self, each: Attributed, part: slice) -> _FloatArray:
        """What the rows of ``part`` add, shape (size,)."""
        is_finite = np.isfinite(each.values).all(axis=1) & np.isfinite(each.errors)
        values, errors, changes = (
            each.values[is_finite],
            np.abs(each.errors[is_finite]),
            np.abs(each.changes[is_finite]),
        )
        features = self._by_feature(values)
        rows = np.zeros(len(self._groups))
        table = np.zeros((len(self._groups), len(self._names), 3))
        numbers = np.stack([np.abs(features), features, features**2], axis=2)
        for groups in self._groups_of(self._codes[part][is_finite]).T:
            is_in = groups >= 0
            np.add.at(rows, groups[is_in], 1.0)
            np.add.at(table, groups[is_in], numbers[is_in])
        whole, shared = np.abs(features).sum(axis=1), np.abs(features[:, self._is_shared]).sum(axis=1)
        share = [shared.sum(), whole.sum(), (shared**2).sum(), (shared * whole).sum(), (whole**2).sum()]
        rest = [errors.sum(), changes.sum(), float((~is_finite).sum()), errors.max(initial=0.0)]
        return np.concatenate([table.ravel(), rows, share, rest])

    def add(self, block: _FloatArray) -> None:
        """Take in one block, after those before it."""
        self._total += block[:-1]
        self._largest = max(self._largest, float(block[-1]))

    def total(self, *, n: int, n_split: int) -> AttributionSums:
        """Of all blocks. ``n``: rows that were drawn, ``n_split``: those there are."""
        table, rows, share, rest = np.split(self._total, self._ends[:-1])
        by_feature = table.reshape(len(self._groups), len(self._names), 3).transpose(1, 0, 2).tolist()
        part, whole, part_squares, products, whole_squares = share.tolist()
        return AttributionSums(
            n=n,
            n_split=n_split,
            n_not_finite=int(rest[2]),
            kind="column" if len(self._info.feature_shape) == 1 else "part",
            rows=tuple(rows.astype(np.int64).tolist()),
            groups=self._groups,
            features=tuple(
                AttributedFeature(name=name, sums=tuple(tuple(sums) for sums in groups))
                for name, groups in zip(self._names, by_feature, strict=True)
            ),
            left_out=left_out_levels(self._info, self._codes, self._explained),
            error_sum=float(rest[0]),
            error_largest=self._largest,
            change_sum=float(rest[1]),
            share=ShareSums(
                columns=tuple(name for name, is_in in zip(self._names, self._is_shared, strict=True) if is_in),
                part=part,
                whole=whole,
                part_squares=part_squares,
                products=products,
                whole_squares=whole_squares,
            ),
            library=_library(),
        )

    def _by_feature(self, values: _FloatArray) -> _FloatArray:
        """Sums over the inputs of each feature, shape (n, features)."""
        width = len(self._names)
        places = np.arange(len(values))[:, None] * width + self._feature_of_input
        sums = np.bincount(places.ravel(), weights=values.ravel(), minlength=len(values) * width)
        return np.asarray(sums.reshape(-1, width), dtype=np.float64)

    def _groups_of(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Numbers of the groups that rows belong to, shape (n, 1 + attributes); -1 where a level is not explained."""
        found = [np.zeros(len(codes), dtype=np.int64)]
        first = 1
        for place, levels in enumerate(self._explained):
            at = np.searchsorted(levels, codes[:, place])
            is_there = levels[np.minimum(at, len(levels) - 1)] == codes[:, place]
            found.append(np.where(is_there, first + at, -1))
            first += len(levels)
        return np.stack(found, axis=1)


def _library() -> str:
    import captum  # late, as above

    return f"captum {captum.__version__}"

"""Who is compared: groups are margins of the cells, and a grouping is all combinations of some attributes' levels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.estimates import IntArray
from fairlead.evaluation.metrics import Counts
from fairlead.evaluation.state import UNKNOWN, CountState
from fairlead.spec import EvaluationSpec, GateSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Grouping:
    """All groups of one set of attributes, in the order of their levels; ``by`` is empty for all rows as one."""

    by: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    """Levels of each group, ``__unknown__`` where missing."""
    counts: Counts
    calibration: IntArray | None
    score_sums: IntArray | None

    @property
    def sizes(self) -> IntArray:
        """Rows of each group, shape (groups,)."""
        return np.asarray(self.counts.table.sum(axis=(1, 2)), dtype=np.int64)

    @property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Groups with a missing level: shown, but in no gap."""
        return np.array([UNKNOWN in key for key in self.keys], dtype=bool)

    def key(self, group: int) -> dict[str, str]:
        """Attribute to level."""
        return dict(zip(self.by, self.keys[group], strict=True))


def grouping(state: CountState, by: Sequence[str] = ()) -> Grouping:
    """Sum the cells of ``state`` over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute.

    An intersection with a missing level is listed only if it has rows.
    """
    names = [attribute.name for attribute in state.attributes]
    if missing := [name for name in by if name not in names]:
        raise ValueError(f"no attribute is called {missing[0]!r}; there are {', '.join(names) or 'none'}")
    axes = [names.index(name) for name in by]
    levels = [(*state.attributes[axis].levels, UNKNOWN) for axis in axes]
    keys = tuple(product(*levels))
    table = _margin(state, state.counts, axes)
    is_listed = np.array([len(by) < 2 or UNKNOWN not in key for key in keys]) | (table.sum(axis=(1, 2)) > 0)
    listed = np.flatnonzero(is_listed)
    calibration = _listed_margin(state, state.calibration, axes, listed)
    score_sums = _listed_margin(state, state.score_sums, axes, listed)
    replicates = None if state.replicates is None else np.moveaxis(state.replicates, 0, 1)
    counts = Counts(
        table=table[listed],
        classes=state.classes,
        histogram=_listed_margin(state, state.histogram, axes, listed),
        calibration=calibration,
        score_sums=score_sums,
        weights=_listed_margin(state, state.weights, axes, listed),
        squares=_listed_margin(state, state.squares, axes, listed),
        replicates=_listed_margin(state, replicates, axes, listed),
        paired=_listed_margin(state, state.paired, axes, listed),
    )
    return Grouping(
        by=tuple(by),
        keys=tuple(keys[index] for index in listed),
        counts=counts,
        calibration=calibration,
        score_sums=score_sums,
    )


def requested_groupings(
    evaluation: EvaluationSpec, gates: Iterable[GateSpec], attributes: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """The spec's groupings and those its gates ask for, each set of attributes once, unknown ones left out."""
    asked = every_subset(attributes) if evaluation.groupings == "all" else evaluation.groupings
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for by in (*asked, *(gate.by for gate in gates)):
        if by and set(by) <= set(attributes):
            found.setdefault(frozenset(by), tuple(dict.fromkeys(by)))
    return tuple(found.values())


def every_subset(attributes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """All non-empty subsets, smaller ones first."""
    sizes = range(1, len(attributes) + 1)
    return tuple(subset for size in sizes for subset in combinations(attributes, size))


def _margin(state: CountState, array: IntArray, axes: Sequence[int]) -> IntArray:
    shape = state.cell_shape
    inner = array.shape[1:]
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    summed = array.reshape(*shape, *inner).sum(axis=others)
    kept = sorted(axes)
    order = [kept.index(axis) for axis in axes] + [len(kept) + axis for axis in range(len(inner))]
    groups = int(np.prod([shape[axis] for axis in axes], dtype=np.int64))
    result: IntArray = summed.transpose(order).reshape(groups, *inner)
    return result


def _listed_margin(
    state: CountState, array: IntArray | None, axes: Sequence[int], listed: NDArray[np.int64]
) -> IntArray | None:
    return None if array is None else _margin(state, array, axes)[listed]

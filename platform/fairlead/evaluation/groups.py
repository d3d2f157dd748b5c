"""Who is compared: groups are margins of the cells, and a grouping is all combinations of some attributes' levels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.cells import UNKNOWN, IntArray, groups_of_cells, keys_of, listed, margin
from fairlead.evaluation.exact import ExactScores
from fairlead.evaluation.metrics import Counts
from fairlead.evaluation.state import CountState
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
    is_unknown: NDArray[np.bool_] = field(init=False)
    """Groups with a missing level: shown, but in no gap."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_unknown", np.array([UNKNOWN in key for key in self.keys], dtype=bool))

    @property
    def sizes(self) -> IntArray:
        """Rows of each group, shape (groups,)."""
        return np.asarray(self.counts.table.sum(axis=(1, 2)), dtype=np.int64)

    def key(self, group: int) -> dict[str, str]:
        """Attribute to level."""
        return dict(zip(self.by, self.keys[group], strict=True))


def grouping(state: CountState, by: Sequence[str] = ()) -> Grouping:
    """Sum the cells of ``state`` over all attributes but ``by``. Raises ``ValueError`` for an unknown attribute.

    An intersection with a missing level is listed only if it has rows.
    """
    keys = keys_of(state.attributes, by)
    table = margin(state.attributes, state.counts, by)
    chosen = listed(keys, np.asarray(table.sum(axis=(1, 2)), dtype=np.int64))

    def of_groups(array: IntArray | None) -> IntArray | None:
        return None if array is None else margin(state.attributes, array, by)[chosen]

    calibration, score_sums = of_groups(state.calibration), of_groups(state.score_sums)
    counts = Counts(
        table=table[chosen],
        classes=state.classes,
        histogram=of_groups(state.histogram),
        calibration=calibration,
        score_sums=score_sums,
        weights=of_groups(state.weights),
        squares=of_groups(state.squares),
        replicates=of_groups(None if state.replicates is None else np.moveaxis(state.replicates, 0, 1)),
        losses=of_groups(state.losses),
        paired=of_groups(state.paired),
        exact=_exact(state, by, chosen),
    )
    return Grouping(
        by=tuple(by),
        keys=tuple(keys[index] for index in chosen),
        counts=counts,
        calibration=calibration,
        score_sums=score_sums,
    )


def _exact(state: CountState, by: Sequence[str], chosen: IntArray) -> ExactScores | None:
    table = state.exact_scores
    if table is None or table.is_dropped:
        return None
    return ExactScores(table=table, group_of_cell=groups_of_cells(state.attributes, by), groups=chosen)


def requested_groupings(
    evaluation: EvaluationSpec,
    gates: Iterable[GateSpec],
    attributes: Sequence[str],
    *,
    also: Sequence[tuple[str, ...]] = (),
) -> tuple[tuple[str, ...], ...]:
    """The spec's groupings, those its gates ask for and ``also``: each set of attributes once, without unknown ones."""
    compared = [name for name in attributes if name not in evaluation.control]
    asked = every_subset(compared) if evaluation.groupings == "all" else evaluation.groupings
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for by in (*asked, *(gate.by for gate in gates), *also):
        if by and set(by) <= set(attributes):
            found.setdefault(frozenset(by), tuple(dict.fromkeys(by)))
    return tuple(found.values())


def every_subset(attributes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """All non-empty subsets, smaller ones first."""
    sizes = range(1, len(attributes) + 1)
    return tuple(subset for size in sizes for subset in combinations(attributes, size))

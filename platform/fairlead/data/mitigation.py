"""The arithmetic of mitigation that needs no torch: who is in which group, weights of rows, thresholds of groups.

A *group* here is one combination of the levels of ``mitigation.by``, numbered in the order of the levels, the last
attribute fastest. All rows with a level unknown make up one group more, the last number: its rows are trained on, but
take no part in gaps and are read with the common threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fairlead.data.dataset import Dataset
from fairlead.data.groups import Codes
from fairlead.errors import BadData, Problem
from fairlead.spec import MitigationSpec
from fairlead.spec.mitigation import Goal
from fairlead.workload import Attribute

MOST_GROUPS = 1000
THRESHOLD_STEPS = 1024
"""Thresholds are multiples of 1/1024: the score bins of the evaluation's counts."""

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """The groups of ``by``."""

    by: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    """Levels of each known group, in the order of their numbers; the unknown group's number is ``len(keys)``."""

    @property
    def num(self) -> int:
        """Groups, the unknown one included."""
        return len(self.keys) + 1


def groups_of(attributes: Sequence[Attribute], by: Sequence[str]) -> Groups:
    """The groups that ``by`` makes. Raises ``ValueError`` for a name that is no attribute."""
    by_name = {attribute.name: attribute for attribute in attributes}
    if strangers := [name for name in by if name not in by_name]:
        raise ValueError(f"{strangers[0]!r} is not one of the sensitive attributes {', '.join(by_name) or '(none)'}")
    return Groups(by=tuple(by), keys=tuple(product(*(by_name[name].levels for name in by))))


def group_numbers(attributes: Sequence[Attribute], codes: Codes, by: Sequence[str]) -> IntArray:
    """The group of each row. ``codes``: shape (n, attributes); returns shape (n,), from 0 to ``len(keys)``."""
    numbers = np.zeros(len(codes), dtype=np.int64)
    is_unknown = np.zeros(len(codes), dtype=bool)
    sizes = 1
    names = [attribute.name for attribute in attributes]
    for name in by:
        place = names.index(name)
        levels = len(attributes[place].levels)
        numbers = numbers * levels + codes[:, place]
        is_unknown |= codes[:, place] == levels
        sizes *= levels
    return np.where(is_unknown, sizes, numbers)


def row_weights(groups: IntArray, labels: IntArray, *, num_groups: int, num_classes: int) -> FloatArray:
    """Reweighing: ``n_g n_y / (n n_gy)``, by which label and group are independent. Shape (num_groups, num_classes).

    ``groups``, ``labels``: shape (n,). The last group is the unknown one: its rows weigh 1 and are not counted.
    Combinations that no row has get 0; their number never comes up. The weights of the rows of known groups add up to
    their number where every group that has rows has all classes (``problems_with`` refuses other data).
    Source: Kamiran, Calders 2012, Data preprocessing techniques for classification without discrimination.
    """
    cells = np.zeros((num_groups, num_classes), dtype=np.float64)
    np.add.at(cells, (groups, labels), 1.0)
    cells[-1] = 0.0
    expected = cells.sum(axis=1, keepdims=True) * cells.sum(axis=0, keepdims=True) / max(1.0, cells.sum())
    weights = np.divide(expected, cells, out=np.zeros_like(cells), where=cells > 0)
    weights[-1] = 1.0
    return weights


def score_counts(scores: FloatArray, labels: IntArray, groups: IntArray, *, num_groups: int) -> IntArray:
    """Rows by group, label and score bin, shape (num_groups, 2, 1024); adding those of all ranks is merging them."""
    bins = np.minimum((np.asarray(scores, dtype=np.float64) * THRESHOLD_STEPS).astype(np.int64), THRESHOLD_STEPS - 1)
    counts = np.zeros((num_groups, 2, THRESHOLD_STEPS), dtype=np.int64)
    np.add.at(counts, (groups, labels, bins), 1)
    return counts


def choose_thresholds(counts: IntArray, goal: Goal) -> FloatArray:
    """Thresholds a group that make selection rates (or true positive rates) alike at the highest accuracy.

    ``counts``: rows by known group, label and score bin, shape (groups, 2, 1024), of rows that are not the test split.
    Returns shape (groups,), multiples of 1/1024: scores at and above a group's threshold are predicted positive; one
    above 1 selects nobody.

    For each common rate r on a grid of 1,000, every group takes the threshold whose rate lies nearest to r, and of
    several such the one with the most rows predicted correctly; of these the r with the most is kept, ties broken for
    the smaller gap. Without randomisation, so rates agree only as well as the groups' scores allow. Raises
    ``ValueError`` where a group has no row that counts.
    Source: Hardt, Price, Srebro 2016, Equality of opportunity in supervised learning (there also with two thresholds).
    """
    above = counts[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]  # rows at and above the lower edge of each bin
    above = np.concatenate([above, np.zeros_like(above[:, :, :1])], axis=2)  # one edge more, that selects nobody
    concerned = above.sum(axis=1) if goal == "demographic_parity" else above[:, 1]
    if (empty := np.flatnonzero(concerned[:, 0] == 0)).size:
        raise ValueError(f"group {int(empty[0])} has no row that counts")
    rates = concerned / concerned[:, :1]
    right = above[:, 1] + (counts[:, 0].sum(axis=1, keepdims=True) - above[:, 0])
    best: tuple[int, float] | None = None
    chosen = np.zeros(len(counts), dtype=np.int64)
    rows = np.arange(len(counts))
    for rate in np.linspace(0, 1, 1001):
        distances = np.abs(rates - rate)
        edges = np.where(distances == distances.min(axis=1, keepdims=True), right, -1).argmax(axis=1)
        found = rates[rows, edges]
        merit = int(right[rows, edges].sum()), float(found.min() - found.max())
        if best is None or merit > best:
            best, chosen = merit, edges
    return np.where(chosen < THRESHOLD_STEPS, chosen, THRESHOLD_STEPS + 1) / THRESHOLD_STEPS  # a score may be 1


def problems_with(spec: MitigationSpec, dataset: Dataset) -> tuple[Problem, ...]:
    """Why the method cannot work on these data; empty if it can. To be asked before training begins."""
    info = dataset.info
    known = [attribute.name for attribute in info.attributes]
    if strangers := [name for name in spec.by if name not in known]:
        message = f"{strangers[0]!r} is not one of the sensitive attributes"
        hint = f"there are {', '.join(known) or 'none'}"
        return (Problem(pointer="/mitigation/by", message=message, suggestion=hint),)
    if not info.classes:
        message = f"mitigation is about classes, and the target {info.target!r} has none"
        return (Problem(pointer="/mitigation/method", message=message, suggestion="take mitigation out"),)
    if spec.needs_two_classes and len(info.classes) != 2:
        message = f"{spec.method} is for two classes, and the target {info.target!r} has {len(info.classes)}"
        hint = "reweighing and group_dro take any number"
        return (Problem(pointer="/mitigation/method", message=message, suggestion=hint),)
    groups = groups_of(info.attributes, spec.by)
    if len(groups.keys) > MOST_GROUPS:
        message = f"{', '.join(spec.by)} make {len(groups.keys)} groups; at most {MOST_GROUPS} are taken"
        hint = "name fewer attributes, or coarser bins"
        return (Problem(pointer="/mitigation/by", message=message, suggestion=hint),)
    return _support_problems(spec, dataset, groups)


def _support_problems(spec: MitigationSpec, dataset: Dataset, groups: Groups) -> tuple[Problem, ...]:
    split = "train" if spec.is_in_training else "validation"
    cells = _cells(dataset, spec.by, split)
    found = []
    if np.count_nonzero(cells[:-1].sum(axis=1)) < 2:
        message = f"fewer than two groups by {' and '.join(spec.by)} have rows in the {split} split"
        return (Problem(pointer="/mitigation/by", message=message),)
    for number, key in enumerate(groups.keys):  # rows of unknown group take no part in gaps
        if lacking := _lacks(spec, cells[number], dataset.info.classes):
            message = f"{spec.method} needs {lacking} of each group in the {split} split; {' · '.join(key)} has none"
            hint = "name coarser groups, or another method"
            found.append(Problem(pointer="/mitigation/by", message=message, suggestion=hint))
    return tuple(found[:20])


def _lacks(spec: MitigationSpec, counts: IntArray, classes: Sequence[str]) -> str | None:
    """What a group with rows lacks: all classes for reweighing, the positive one for equal opportunity."""
    if not counts.sum():
        return None
    if spec.method == "reweighing" and not counts.all():
        return f"rows labelled {classes[int(np.argmin(counts))]!r}"
    if spec.needs_two_classes and spec.goal_used == "equal_opportunity" and not counts[1]:
        return f"rows labelled {classes[1]!r}"
    return None


def _cells(dataset: Dataset, by: Sequence[str], split: str) -> IntArray:
    """Rows of a split by group (the unknown one last) and class."""
    info, positions = dataset.info, dataset.by_split[split]
    groups = group_numbers(info.attributes, dataset.groups(positions), by)
    cells = np.zeros((groups_of(info.attributes, by).num, len(info.classes)), dtype=np.int64)
    np.add.at(cells, (groups, dataset.labels(positions)), 1)
    return cells


def refuse_unusable(spec: MitigationSpec | None, dataset: Dataset) -> None:
    """Raise ``BadData`` with every problem, before anything is trained."""
    problems = () if spec is None else problems_with(spec, dataset)
    if problems:
        raise BadData("; ".join(problem.message for problem in problems), problems=problems)

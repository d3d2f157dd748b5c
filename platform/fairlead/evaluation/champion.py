"""How far a model is from the present champion, on the same rows: what gates against it look at.

The distance is the model's value less the champion's. A rate over all rows has Newcombe's paired limits. For the
extremes of many groups two bounds hold, each with half of alpha, and the smaller counts:

- *paired*: of the worst pair of groups (or the worst group) of one model the other model's value is at most as good as
  that of the same pair, so the distance is at most a contrast of this one fixed pair, and the largest limit of any pair
  bounds it without a correction for their number. With d for the model and e for the champion, the distance of gaps is
  at most min(d - e, d + e) of the pair, each with a quarter of alpha. Limits of d -/+ e combine those of the groups'
  paired differences (sums) as Newcombe does those of two rates: groups share no rows, and within each the correlation
  phi is used.
- *apart*: the upper bound of one less the lower bound of the other, each with a quarter of alpha; where pairing is not
  possible each with half.

A lower bound is an upper one with the models exchanged. Conservative by construction.
Sources: Newcombe 1998 (paired differences, method 10); Zou and Donner 2008 (combining limits).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from fairlead.evaluation.disparities import Extreme, Question, answer, question_of
from fairlead.evaluation.estimates import Estimates, IntArray, is_defined
from fairlead.evaluation.groups import Grouping
from fairlead.evaluation.intervals import Bounds, FloatArray, Limits, single_bounds
from fairlead.evaluation.metrics import (
    EQUALIZED_ODDS,
    PUBLISHED,
    RATES,
    SPREADS,
    WHOLE_RATES,
    Counts,
    Family,
    Task,
    canonical,
    group_estimates,
    is_over_groups,
    needs_scores,
    split_aggregate,
)
from fairlead.evaluation.paired import (
    PAIRED_RATES,
    PairedDifferences,
    champion_counts,
    keeps_classes,
    paired_differences,
)
from fairlead.evaluation.state import CountState
from fairlead.spec import RegisterSpec
from fairlead.spec.predictions import ColumnsSpec

_BLOCK = 256
"""Groups whose pairs are looked at together."""
_EXTREMES = ("difference", "group_min", "group_max")
_APART_ONLY = ("ratio", "difference_to_overall")
_ALIKE = ("count", "base_rate")
"""Rows and labels: the same for both models."""
_UNPAIRED = {
    "binary": (
        "precision_score",
        "false_discovery_rate",
        "negative_predictive_value",
        "false_omission_rate",
        "f1_score",
        "balanced_accuracy_score",
    ),
    "multiclass": ("balanced_accuracy_score",),
}
"""Metrics over all rows whose denominators depend on predictions, or have several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """Whom gates hold a model against. Without ``state``, ``why_not`` says why nothing can be compared."""

    experiment: str | None = None
    name: str | None = None
    """Of the registered model."""
    version: str | None = None
    alias: str | None = None
    column: str | None = None
    """Which held its predictions, where they were made elsewhere."""
    state: CountState | None = field(default=None, repr=False)
    """Counts of the same rows, with the champion's answers beside the model's."""
    why_not: str = "nobody was named to compare with"
    is_absent: bool = False
    """There is none yet: then there is nothing that a model could be worse than."""

    @property
    def identity(self) -> dict[str, str | None]:
        """Who it is, as reports say it."""
        return {name: getattr(self, name) for name in ("experiment", "name", "version", "alias", "column")}

    def problem_with(self, state: CountState) -> str | None:
        """Why a gate on the counts of ``state`` cannot be decided; None if it can."""
        if self.state is None:
            return self.why_not
        if self.state.parts.has_weights or self.state.parts.replicates:
            return "rows count by weight or by cluster, and pairs of answers do not"
        if self.state.attributes != state.attributes or self.state.classes != state.classes:
            return "the pairs of answers are of other groups or classes"
        return None


UNNAMED = Champion()
"""Where nobody is compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distance:
    """How far a gap, ratio or extreme of the model is from the champion's, twice: over all groups, and over those with
    enough support. Positions are in the grouping."""

    of_all: Extreme
    of_supported: Extreme
    low_support: tuple[int, ...]
    """Groups with a value of both from fewer than ``min_support`` rows of either."""
    undefined: tuple[int, ...]
    """Groups without a value of one of the two."""
    of_model: float | None
    of_champion: float | None
    """What both have over the groups of ``of_supported``."""


def compared_metrics(task: Task, *, over_groups: bool) -> tuple[str, ...]:
    """What gates may hold against a champion, by name; aliases aside."""
    if not over_groups:
        return (*WHOLE_RATES, *(PAIRED_RATES if task == "binary" else ()), *_UNPAIRED[task])
    rates = (*WHOLE_RATES, *(name for name in RATES if name not in _ALIKE))
    own = [f"{rate}_{aggregate}" for rate in rates for aggregate in (*_EXTREMES, *_APART_ONLY)]
    others = [f"{metric}_{each}" for metric in ("f1_score", "balanced_accuracy_score") for each in _EXTREMES]
    return (*PUBLISHED, *EQUALIZED_ODDS, *own, *others)


def problem_with_comparison(metric: str, task: Task) -> str | None:
    """Why ``metric``, which is known, is never held against a champion, with what is; None if it is."""
    if task not in _UNPAIRED:
        return f"a {task} is not held against a champion: ask for a number"
    name, is_grouped = canonical(metric), is_over_groups(metric, task)
    there = compared_metrics(task, over_groups=is_grouped)
    if name in there:
        return None
    base = split_aggregate(name)[0] if is_grouped and name not in SPREADS else name
    listed = ", ".join(_shown(there, is_grouped=is_grouped))
    if base in _ALIKE:
        return f"{metric!r} is the same for the champion, which answers the same rows; what differs: {listed}"
    why = "of the champion's scores nothing is kept" if needs_scores(metric) else "it has no bound of that distance"
    return f"{metric!r} cannot be held against the champion: {why}; what can: {listed}"


def _shown(names: Sequence[str], *, is_grouped: bool) -> Sequence[str]:
    """Those over groups are many: without those that have a second name, and of each rate the gap alone."""
    if not is_grouped:
        return names
    gaps = [name for name in names if name not in PUBLISHED and name.endswith("_difference")]
    return [*gaps, "and of these rates group_min, group_max, ratio"]


def problem_with_champion(columns: ColumnsSpec | None, register: RegisterSpec | None) -> str | None:
    """Why there can never be a champion for the gates of a spec, with what to do about it; None if there can.

    ``columns``: of predictions made elsewhere; None: a model is trained, and maybe registered as ``register``.
    """
    if columns is not None and columns.champion is None:
        return "the champion's predictions must lie beside the model's: name their column as columns.champion"
    if columns is not None and columns.weight is not None:
        return "rows with weights are not held against a champion: leave columns.weight out, or ask for a number"
    if columns is None and register is None:
        return "the champion is the model that is registered under the same name: add register, or ask for a number"
    return None


# ---- all rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OverAllRows:
    """One metric of both models over all rows."""

    ours: Estimates
    theirs: Estimates
    paired: PairedDifferences | None

    @classmethod
    def of(cls, metric: str, counts: Counts) -> "OverAllRows":
        """``counts``: one group, with pairs. Raises ``ValueError`` for what cannot be compared so."""
        name = canonical(metric)
        _refuse_collapsed(name, counts)
        is_paired = name in WHOLE_RATES or (name in PAIRED_RATES and counts.task == "binary")
        return cls(
            ours=group_estimates(name, counts),
            theirs=group_estimates(name, champion_counts(counts)),
            paired=paired_differences(name, counts) if is_paired else None,
        )

    @property
    def support(self) -> int:
        """Rows behind the value that has fewer."""
        return int(min(self.ours.support[0], self.theirs.support[0]))

    @property
    def reason(self) -> str | None:
        """Why there is no distance; None where there is one."""
        return self.ours.reason(0) or self.theirs.reason(0)

    @property
    def values(self) -> tuple[float | None, float | None]:
        """The model's and the champion's; None where undefined."""
        ours, theirs = (None if each.reason(0) else float(each.values[0]) for each in (self.ours, self.theirs))
        return ours, theirs

    @property
    def value(self) -> float:
        """The distance; only where there is one."""
        exact = self.exact
        return float(self.ours.values[0] - self.theirs.values[0]) if exact is None else float(exact)

    @property
    def exact(self) -> Fraction | None:
        """The distance without rounding."""
        ours, theirs = self.ours.exact(0), self.theirs.exact(0)
        return None if ours is None or theirs is None else ours - theirs

    def bounds(self, alpha: float) -> Bounds:
        """Of the distance; only where there is one."""
        if self.paired is not None:
            return single_bounds(self.paired, alpha=alpha)
        return _at(lambda level: _apart(*self._each(level)), alpha)

    def _each(self, alpha: float) -> tuple[Bounds, Bounds]:
        return single_bounds(self.ours, alpha=alpha / 2), single_bounds(self.theirs, alpha=alpha / 2)


# ---- groups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class OverGroups:
    """One gap, ratio or extreme over groups of both models; families in the same order."""

    known: IntArray
    """Groups without an unknown level."""
    ours: Question
    theirs: Question
    pairs: tuple[PairedDifferences, ...]
    """Of each family; empty where they cannot be paired."""

    @classmethod
    def of(cls, metric: str, groups: Grouping, overall: Counts) -> "OverGroups":
        """``groups`` and ``overall``, all rows as one group, hold pairs. Raises ``ValueError`` for what cannot be
        compared so."""
        name, counts = PUBLISHED.get(canonical(metric), canonical(metric)), groups.counts
        _refuse_collapsed(name, counts)
        ours = question_of(name, counts, overall)
        can_pair = ours.aggregate in _EXTREMES and not ours.is_mean
        can_pair = can_pair and all(family.metric in (*WHOLE_RATES, *PAIRED_RATES) for family in ours.families)
        classes = {each: index for index, each in enumerate(counts.classes)}
        places = [(one.metric, 1 if one.class_name is None else classes[one.class_name]) for one in ours.families]
        return cls(
            known=np.flatnonzero(~groups.is_unknown),
            ours=ours,
            theirs=question_of(name, champion_counts(counts), champion_counts(overall)),
            pairs=tuple(paired_differences(one, counts, positive=at) for one, at in places) if can_pair else (),
        )

    def distance(self, *, alpha: float, min_support: int) -> Distance:
        """With bounds at ``alpha``. A group without a value of one of the two models, or of low support for one, is
        left out for both."""
        each = [(one.estimates, two.estimates) for one, two in self._families]
        defined = np.stack([is_defined(one) & is_defined(two) for one, two in each])[:, self.known]
        support = np.stack([np.minimum(one.support, two.support) for one, two in each])[:, self.known]
        has_enough = defined & (support >= min_support)
        is_low, is_undefined = (defined & ~has_enough).any(axis=0), ~defined.all(axis=0)
        of_all, *values = self._answered([self.known[there] for there in defined], alpha)
        of_supported = of_all
        if is_low.any() or is_undefined.any():
            of_supported, *values = self._answered([self.known[enough] for enough in has_enough], alpha)
        return Distance(
            of_all=of_all,
            of_supported=of_supported,
            low_support=tuple(self.known[is_low].tolist()),
            undefined=tuple(self.known[is_undefined].tolist()),
            of_model=values[0],
            of_champion=values[1],
        )

    @property
    def _families(self) -> list[tuple[Family, Family]]:
        return list(zip(self.ours.families, self.theirs.families, strict=True))

    def _answered(self, groups: Sequence[IntArray], alpha: float) -> tuple[Extreme, float | None, float | None]:
        """The distance over some ``groups`` of each family, and the values of both that it lies between."""
        ours, theirs = (answer(question, groups, alpha=alpha) for question in (self.ours, self.theirs))
        if ours.value is None or theirs.value is None:
            missing = Extreme(value=None, reason=ours.reason or theirs.reason, num_groups=ours.num_groups)
            return missing, ours.value, theirs.value
        exact = None if ours.exact is None or theirs.exact is None else ours.exact - theirs.exact
        found = Extreme(
            value=float(exact) if exact is not None else ours.value - theirs.value,
            exact=exact,
            num_groups=ours.num_groups,
            bounds=None if ours.bounds is None or theirs.bounds is None else self._bounds(groups, alpha),
        )
        return found, ours.value, theirs.value

    def _bounds(self, groups: Sequence[IntArray], alpha: float) -> Bounds:
        chosen = zip(self.pairs, groups if self.pairs else (), strict=True)
        paired = [pair.take(some) for pair, some in chosen if len(some) >= 2]

        def limits(level: float) -> tuple[float, float]:
            share = level / 4 if paired else level / 2
            ours, theirs = (answer(question, groups, alpha=share).bounds for question in (self.ours, self.theirs))
            assert ours is not None, "asked by the caller"
            assert theirs is not None, "asked by the caller"
            lower, upper = _apart(ours, theirs)
            if not paired:
                return lower, upper
            low, high = _paired_limits(self.ours.aggregate, paired, level / 2)
            return max(lower, low), min(upper, high)

        return _at(limits, alpha)


def _paired_limits(aggregate: str, pairs: Sequence[PairedDifferences], tail: float) -> tuple[float, float]:
    """Limits of the distance from contrasts of single groups or pairs of them, each beyond with ``tail`` at most."""
    if aggregate == "difference":
        exchanged = [PairedDifferences(table=pair.table[:, [0, 2, 1, 3]]) for pair in pairs]
        lower, upper = (max(_largest_contrast(one, tail / 2) for one in each) for each in (exchanged, pairs))
        return -lower, upper
    limits = [pair.limits(tail) for pair in pairs]
    return float(min(each.lower.min() for each in limits)), float(max(each.upper.max() for each in limits))


def _largest_contrast(pair: PairedDifferences, tail: float) -> float:
    """max over i != j of min(U-, U+): upper limits of (p_i - q_i) - (p_j - q_j) and of (p_i + q_i) - (p_j + q_j)."""
    both = [(pair.values, pair.limits(tail)), (pair.sums, pair.limits_of_sums(tail))]
    largest = -np.inf
    for start in range(0, len(pair.table), _BLOCK):
        rows = slice(start, start + _BLOCK)
        smaller = np.minimum(*(_upper_contrasts(values, limits, rows) for values, limits in both))
        own = np.arange(start, start + len(smaller))
        smaller[np.arange(len(smaller)), own] = -np.inf
        largest = max(largest, float(smaller.max()))
    return largest


def _upper_contrasts(values: FloatArray, limits: Limits, rows: slice) -> FloatArray:
    """v_i - v_j + hypot(u_i - v_i, v_j - l_j), i among ``rows`` and j any; shape (rows, groups)."""
    above, below = (limits.upper - values)[rows], values - limits.lower
    gaps = values[rows, None] - values[None, :] + np.hypot(above[:, None], below[None, :])
    return np.asarray(gaps, dtype=np.float64)


def _apart(ours: Bounds, theirs: Bounds) -> tuple[float, float]:
    """Limits of a difference from limits of both: nothing is assumed of how they depend on each other."""
    return ours.lower - theirs.upper, ours.upper - theirs.lower


def _at(limits: Callable[[float], tuple[float, float]], alpha: float) -> Bounds:
    """One-sided bounds at ``alpha``, and the interval whose sides have half of it each."""
    lower, upper = limits(alpha)
    return Bounds(lower=lower, upper=upper, interval=limits(alpha / 2))


def _refuse_collapsed(name: str, counts: Counts) -> None:
    if not keeps_classes(counts) and not name.startswith(WHOLE_RATES):
        raise ValueError(f"of {len(counts.classes)} classes pairs keep only right and wrong answers")

"""How far apart groups are: differences, ratios and extremes of one metric over a grouping, with bounds.

Groups without a value are left out, counted, and make the result *incomplete*; with fewer than two values there is
none (``single_group``). Groups with an unknown level take no part. Every result is given twice: over all groups and
over those with enough support.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from fairlead.evaluation.estimates import (
    Bootstrapped,
    Estimates,
    IntArray,
    Jackknifed,
    MeanSquares,
    Rates,
    SampleMeans,
    WeightedRates,
    is_defined,
    logarithms,
)
from fairlead.evaluation.groups import Grouping
from fairlead.evaluation.intervals import (
    Bounds,
    FloatArray,
    average,
    gap_bounds,
    maximum_bounds,
    minimum_bounds,
    overall_gap_bounds,
    ratio_bounds,
    ratio_of_gap,
)
from fairlead.evaluation.metrics import (
    PUBLISHED,
    SPREADS,
    Counts,
    Family,
    canonical,
    families,
    split_aggregate,
)

_NEARLY = 1e-12  # floats this close are told apart by their exact fractions


@dataclass(frozen=True, kw_only=True, slots=True)
class Extreme:
    """An aggregate over groups. ``highest`` and ``lowest`` are positions in the grouping."""

    value: float | None
    exact: Fraction | None = None
    reason: str | None = None
    highest: int | None = None
    lowest: int | None = None
    class_name: str | None = None
    bounds: Bounds | None = None
    method: str | None = None
    num_groups: int = 0
    is_complete: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Disparity:
    """One gap, ratio or extreme of a grouping."""

    metric: str
    by: tuple[str, ...]
    aggregate: str
    of_all: Extreme
    of_supported: Extreme
    low_support: tuple[int, ...]
    """Groups with a value from fewer than ``min_support`` rows."""
    undefined: tuple[int, ...]
    """Groups without a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What is compared, ready to be answered for any selection of groups."""

    aggregate: str
    families: tuple[Family, ...]
    totals: tuple[Estimates, ...]
    """The same statistics over all rows."""
    needs_all: bool = False
    """Without a value in one family there is none at all."""
    is_mean: bool = False
    """The mean over families instead of the worst."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One family, reduced to the groups that take part."""

    family: Family
    groups: IntArray
    estimates: Estimates
    total: Estimates


def disparity(metric: str, groups: Grouping, overall: Counts, *, alpha: float, min_support: int) -> Disparity:
    """Compute one gap, ratio or extreme. Raises ``ValueError`` for a name that is none, or not for this task."""
    name = PUBLISHED.get(canonical(metric), canonical(metric))
    known = np.flatnonzero(~groups.is_unknown)
    if name in SPREADS:
        return _spread(metric, groups, known, min_support)
    question = question_of(name, groups.counts, overall)
    return _asked(question, metric, groups.by, known, alpha=alpha, min_support=min_support)


def compare(
    metric: str,
    *,
    aggregate: str,
    estimates: Estimates,
    total: Estimates,
    by: tuple[str, ...],
    is_unknown: NDArray[np.bool_],
    alpha: float,
    min_support: int,
) -> Disparity:
    """The same of any statistic: ``estimates`` of every group, ``total`` of all rows as one group."""
    family = Family(metric=metric, class_name=None, estimates=estimates)
    question = Question(aggregate=aggregate, families=(family,), totals=(total,))
    return _asked(question, metric, by, np.flatnonzero(~is_unknown), alpha=alpha, min_support=min_support)


def gap_spreads(name: str, groups: Grouping, overall: Counts, *, min_support: int) -> tuple[Estimates, ...]:
    """What a difference is taken over: families with two known groups or more that have a value, if all have limits.

    Groups of low support take part only where those of enough have no difference, as in what is shown of it.
    """
    question = question_of(name, groups.counts, overall)
    known = np.flatnonzero(~groups.is_unknown)
    usable: tuple[Estimates, ...] = ()
    for least in (min_support, 0):
        pairs = zip(question.families, question.totals, strict=True)
        parts = [_part(each, total, known[each.estimates.support[known] >= least]) for each, total in pairs]
        usable = usable or tuple(part.estimates for part in parts if len(part.groups) >= 2)
    return usable if all(each.method for each in usable) else ()


def _asked(
    question: Question, metric: str, by: tuple[str, ...], known: IntArray, *, alpha: float, min_support: int
) -> Disparity:
    supports = np.stack([family.estimates.support for family in question.families])
    defined = np.stack([is_defined(family.estimates) for family in question.families])
    is_low: NDArray[np.bool_] = np.asarray((defined & (supports < min_support)).any(axis=0), dtype=bool)
    of_all = answer(question, [known] * len(supports), alpha=alpha)
    of_supported = of_all
    if is_low[known].any() or not defined[:, known].all():
        enough = [known[is_enough[known]] for is_enough in supports >= min_support]
        of_supported = replace(answer(question, enough, alpha=alpha), is_complete=of_all.is_complete)
    return Disparity(
        metric=metric,
        by=by,
        aggregate=question.aggregate,
        of_all=of_all,
        of_supported=of_supported,
        low_support=tuple(known[is_low[known]].tolist()),
        undefined=tuple(known[~defined[:, known].all(axis=0)].tolist()),
    )


def question_of(name: str, counts: Counts, overall: Counts) -> Question:
    """What ``name`` compares. Raises ``ValueError`` for a name that is no aggregate."""
    if name.startswith("equalized_odds"):
        both = [families(metric, counts) for metric in ("true_positive_rate", "false_positive_rate")]
        totals = [families(metric, overall) for metric in ("true_positive_rate", "false_positive_rate")]
        return Question(
            aggregate="ratio" if name.endswith("ratio") else "difference",
            families=(*both[0], *both[1]),
            totals=tuple(family.estimates for pair in totals for family in pair),
            needs_all=True,
            is_mean="_mean_" in name,
        )
    metric, aggregate = split_aggregate(name)
    totals_of_one = tuple(family.estimates for family in families(metric, overall))
    return Question(aggregate=aggregate, families=families(metric, counts), totals=totals_of_one)


def answer(question: Question, groups: Sequence[IntArray], *, alpha: float) -> Extreme:
    """Answer ``question`` for some ``groups`` of each of its families."""
    parts = [
        _part(family, total, chosen)
        for family, total, chosen in zip(question.families, question.totals, groups, strict=True)
    ]
    usable = [part for part in parts if len(part.groups) >= 2]
    num_groups = max((len(part.groups) for part in parts), default=0)
    is_complete = all(len(part.groups) == len(chosen) for part, chosen in zip(parts, groups, strict=True))
    if not usable or (question.needs_all and len(usable) < len(parts)):
        return Extreme(value=None, reason="single_group", num_groups=num_groups, is_complete=False)
    if question.aggregate in ("ratio", "ratio_to_overall"):
        with_ratio = [part for part in usable if not _is_all_zero(part)]
        if not with_ratio or (question.needs_all and len(with_ratio) < len(usable)):
            return Extreme(value=None, reason="both_zero", num_groups=num_groups, is_complete=False)
        is_complete = is_complete and len(with_ratio) == len(usable)
        usable = with_ratio
    each = [_extreme(question.aggregate, part) for part in usable]
    found = _mean(each) if question.is_mean else _worst(question.aggregate, each)
    method, bounds = _bounds(question, usable, alpha)
    return replace(
        found, bounds=bounds, method=method, num_groups=num_groups, is_complete=is_complete and len(usable) > 0
    )


def _part(family: Family, total: Estimates, chosen: IntArray) -> _Part:
    groups = chosen[is_defined(family.estimates)[chosen]]
    return _Part(family=family, groups=groups, estimates=family.estimates.take(groups), total=total)


def _is_all_zero(part: _Part) -> bool:
    return bool(np.all(part.estimates.values == 0))


def _extreme(aggregate: str, part: _Part) -> Extreme:
    if aggregate.endswith("_to_overall"):
        return _to_overall(aggregate, part)
    high, low = _argextreme(part.estimates, sign=1), _argextreme(part.estimates, sign=-1)
    top, bottom = part.estimates.exact(high), part.estimates.exact(low)
    exact = None if top is None or bottom is None else _combine(aggregate, top, bottom)
    values = part.estimates.values
    rounded = float(exact) if exact is not None else _combine_floats(aggregate, values[high], values[low])
    return Extreme(
        value=rounded,
        exact=exact,
        highest=int(part.groups[high]),
        lowest=int(part.groups[low]),
        class_name=part.family.class_name,
    )


def _argextreme(estimates: Estimates, *, sign: int) -> int:
    """The group with the largest (or smallest) value, told apart exactly, the first of equals."""
    values = sign * estimates.values
    near = np.flatnonzero(values >= values.max() - _NEARLY)
    exacts = [estimates.exact(int(group)) for group in near]
    if len(near) == 1 or any(exact is None for exact in exacts):
        return int(near[np.argmax(values[near])])
    best = max(range(len(near)), key=lambda index: (sign * (exacts[index] or Fraction(0)), -index))
    return int(near[best])


def _combine(aggregate: str, top: Fraction, bottom: Fraction) -> Fraction:
    match aggregate:
        case "difference":
            return top - bottom
        case "ratio":
            return bottom / top
        case "group_min":
            return bottom
        case _:
            return top


def _combine_floats(aggregate: str, top: float, bottom: float) -> float | None:
    match aggregate:
        case "difference":
            return float(top - bottom)
        case "ratio":
            return float(bottom / top) if bottom >= 0 < top else None  # signed values have no ratio
        case "group_min":
            return float(bottom)
        case _:
            return float(top)


def _to_overall(aggregate: str, part: _Part) -> Extreme:
    """The group farthest from the value over all rows."""
    is_ratio = aggregate == "ratio_to_overall"
    whole_exact, whole = part.total.exact(0), float(part.total.values[0])
    values = part.estimates.values
    if np.isnan(whole) or (is_ratio and whole <= 0):
        return Extreme(value=None, reason="overall_undefined" if np.isnan(whole) else "both_zero")
    distances = np.abs(values - whole)
    if is_ratio:
        quotients = values / whole
        with np.errstate(divide="ignore"):
            distances = 1 - np.minimum(quotients, np.where(quotients > 0, 1 / quotients, 0.0))
    farthest = int(np.argmax(distances))
    own = part.estimates.exact(farthest)
    exact = None
    if own is not None and whole_exact:
        exact = min(own / whole_exact, whole_exact / own if own else Fraction(0)) if is_ratio else None
    if own is not None and whole_exact is not None and not is_ratio:
        exact = abs(own - whole_exact)
    rounded = 1 - float(distances[farthest]) if is_ratio else float(distances[farthest])
    return Extreme(
        value=rounded if exact is None else float(exact),
        exact=exact,
        highest=int(part.groups[farthest]),
        class_name=part.family.class_name,
    )


def _worst(aggregate: str, each: Sequence[Extreme]) -> Extreme:
    """The most unfavourable over families: the largest gap or maximum, the smallest ratio or minimum."""
    there = [extreme for extreme in each if extreme.value is not None]
    if not there:
        return each[0]
    is_small_worst = aggregate in ("ratio", "ratio_to_overall", "group_min")
    sign = -1 if is_small_worst else 1
    return max(there, key=lambda extreme: sign * (extreme.exact if extreme.exact is not None else extreme.value or 0.0))


def _mean(each: Sequence[Extreme]) -> Extreme:
    exacts = [extreme.exact for extreme in each if extreme.exact is not None]
    if len(exacts) < len(each):
        return Extreme(value=None, reason="single_group")
    exact = sum(exacts, Fraction(0)) / len(exacts)
    return Extreme(value=float(exact), exact=exact)


def _bounds(question: Question, parts: Sequence[_Part], alpha: float) -> tuple[str | None, Bounds | None]:
    """Bounds and how they were made; none for statistics without limits."""
    estimates = [part.estimates for part in parts]
    if question.is_mean:
        return _mean_bounds(question.aggregate, estimates, alpha)
    if any(one.method is None for one in estimates):
        return None, None
    rates = [one for one in estimates if isinstance(one, Rates | WeightedRates)]
    is_counted = len(rates) == len(estimates)
    match question.aggregate:
        case "difference":
            return _pairs_method(estimates[0]), gap_bounds(estimates, alpha=alpha)
        case "group_min":
            return f"worst-{estimates[0].method}", minimum_bounds(estimates, alpha=alpha)
        case "group_max":
            return f"worst-{estimates[0].method}", maximum_bounds(estimates, alpha=alpha)
        case "ratio" if is_counted:
            return "pairs-koopman", ratio_bounds(rates, alpha=alpha)
        case "ratio" if all(_is_positive_mean(one) for one in estimates):
            return f"pairs-{estimates[0].method}-log", ratio_of_gap([logarithms(one) for one in estimates], alpha=alpha)
        case "difference_to_overall" if all(isinstance(one, Rates) for one in estimates):
            totals = [part.total for part in parts]
            wholes = [(float(t.numerators[0]), float(t.denominators[0])) for t in totals if isinstance(t, Rates)]
            counted = [one for one in rates if isinstance(one, Rates)]
            return "newcombe-rest", overall_gap_bounds(counted, totals=wholes, alpha=alpha)
        case _:
            return None, None


def _is_positive_mean(estimates: Estimates) -> bool:
    return isinstance(estimates, SampleMeans | MeanSquares | Jackknifed) and bool(np.all(estimates.values > 0))


def _pairs_method(estimates: Estimates) -> str:
    """How two groups are compared: the limits of each, combined as Newcombe does."""
    if isinstance(estimates, SampleMeans | MeanSquares | Jackknifed | Bootstrapped):
        return f"pairs-{estimates.method}"
    return "pairs-newcombe"


def _mean_bounds(aggregate: str, estimates: Sequence[Estimates], alpha: float) -> tuple[str | None, Bounds | None]:
    """Each half of alpha goes to one half of the rates: those over positives and those over negatives."""
    rates = [one for one in estimates if isinstance(one, Rates | WeightedRates)]
    share = alpha / len(rates)
    if aggregate == "difference":
        return "pairs-newcombe-mean", average([gap_bounds([rate], alpha=share) for rate in rates])
    return "pairs-koopman-mean", average([ratio_bounds([rate], alpha=share) for rate in rates])


def _spread(metric: str, groups: Grouping, known: IntArray, min_support: int) -> Disparity:
    """The largest distance between two groups' distributions: of predictions, or of scores."""
    shares, rows = _distributions(metric, groups)
    there = known[rows[known] > 0]
    enough = known[rows[known] >= max(min_support, 1)]
    is_complete = len(there) == len(known)
    distance = _half_of_sum if metric.startswith("total_variation") else _largest_of_sums
    of_all, of_supported = (
        replace(_farthest_pair(shares, chosen, distance), is_complete=is_complete) for chosen in (there, enough)
    )
    return Disparity(
        metric=metric,
        by=groups.by,
        aggregate=metric.removesuffix("_distance"),
        of_all=of_all,
        of_supported=of_supported,
        low_support=tuple(int(group) for group in there if rows[group] < min_support),
        undefined=tuple(int(group) for group in known if rows[group] == 0),
    )


def _distributions(metric: str, groups: Grouping) -> tuple[FloatArray, IntArray]:
    """Shares of each group's rows by prediction or by score, and their number."""
    counted = groups.counts.table.sum(axis=1)
    if not metric.startswith("total_variation"):
        if groups.counts.histogram is None:
            raise ValueError(f"{metric!r} needs scores, and this state has none")
        counted = groups.counts.histogram.sum(axis=1)
    rows = counted.sum(axis=1)
    return counted / np.maximum(rows, 1)[:, None], np.asarray(rows, dtype=np.int64)


def _half_of_sum(gaps: FloatArray) -> FloatArray:
    """Total variation distance."""
    return np.asarray(np.abs(gaps).sum(axis=1) / 2, dtype=np.float64)


def _largest_of_sums(gaps: FloatArray) -> FloatArray:
    """Kolmogorov and Smirnov's distance."""
    return np.asarray(np.abs(np.cumsum(gaps, axis=1)).max(axis=1), dtype=np.float64)


def _farthest_pair(
    shares: FloatArray, groups: NDArray[np.int64], distance: Callable[[FloatArray], FloatArray]
) -> Extreme:
    if len(groups) < 2:
        return Extreme(value=None, reason="single_group", num_groups=len(groups))
    chosen = shares[groups]
    best, pair = -1.0, (0, 0)
    for index, share in enumerate(chosen):
        distances = distance(chosen - share)
        other = int(np.argmax(distances))
        if distances[other] > best:
            best, pair = float(distances[other]), (index, other)
    first, second = (int(groups[index]) for index in pair)
    return Extreme(value=best, highest=first, lowest=second, num_groups=len(groups))

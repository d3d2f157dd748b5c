"""What the measurements must prove. A gate passes, fails, or is inconclusive: too little is known to say.

A gate on a bound passes when the bound that had to be proven meets the limit, fails when the opposite bound
violates it, and is inconclusive in between. A gate on the value alone compares exact fractions. A value that does
not exist never passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import ceil

import numpy as np

from fairlead.evaluation.disparities import Extreme, Question, disparity, question_of
from fairlead.evaluation.estimates import Estimates, Rates
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.intervals import (
    Bounds,
    gap_bounds,
    maximum_bounds,
    minimum_bounds,
    ratio_bounds,
    single_bounds,
)
from fairlead.evaluation.metrics import (
    COUNT,
    PUBLISHED,
    SPREADS,
    Counts,
    Task,
    canonical,
    group_estimates,
    is_over_groups,
    known_metric,
    nearest_metric,
    needs_scores,
)
from fairlead.evaluation.state import CountState
from fairlead.spec import EvaluationSpec, GateSpec

_MOST_ROWS = 2**40


class Outcome(StrEnum):
    """How a gate, or all of them together, turned out."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateOutcome:
    """What became of one gate, and why."""

    id: str
    metric: str
    by: tuple[str, ...]
    require: str
    evidence: str
    limit: Fraction
    outcome: Outcome
    why: str
    value: float | None = None
    bound: float | None = None
    """The number that was compared with the limit."""
    lower95: float | None = None
    upper95: float | None = None
    rows_needed_per_group: int | None = None
    """Only when inconclusive: rows each group would need at the observed rates; None where that cannot be said."""
    excluded: tuple[str, ...] = ()
    """Groups left out for low support, when the spec allows it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    """What a gate looks at: a value and its bounds, and how these would be with other numbers of rows."""

    value: float | None
    exact: Fraction | None
    bounds: Bounds | None
    missing: str | None
    """Why this proves nothing whatever the limit; None if it may."""


def problem_with_gate(gate: GateSpec, *, task: Task, attributes: Sequence[str]) -> str | None:
    """Why ``gate`` can never be evaluated, with what to do about it; None if it can."""
    if not known_metric(gate.metric, task):
        near = nearest_metric(gate.metric, task)
        hint = f"did you mean {near!r}?" if near else "see the report for the names that exist"
        return f"no metric of a {task} task is called {gate.metric!r}; {hint}"
    if unknown := [name for name in gate.by if name not in attributes]:
        there = ", ".join(attributes) or "none: name some under data.sensitive"
        return f"{unknown[0]!r} is not a sensitive attribute; there are {there}"
    if is_over_groups(gate.metric, task) and not gate.by:
        return f"{gate.metric!r} compares groups: say which with by, such as [{next(iter(attributes), 'sex')}]"
    if gate.by and not is_over_groups(gate.metric, task):
        return f"{gate.metric!r} is one value for all rows: drop by, or ask for {gate.metric}_group_min"
    wrong = "lower_bound" if gate.requirement.is_upper else "upper_bound"
    if gate.evidence_used == wrong:
        right = "upper_bound" if gate.requirement.is_upper else "lower_bound"
        return f"{wrong} proves nothing about {gate.require!r}: ask for {right}, or for point"
    return None


def evaluate_gates(state: CountState, gates: Sequence[GateSpec], evaluation: EvaluationSpec) -> tuple[GateOutcome, ...]:
    """Decide every gate from the counts alone."""
    overall = grouping(state)
    return tuple(_evaluate(state, gate, evaluation, overall) for gate in gates)


def overall_outcome(outcomes: Sequence[GateOutcome]) -> Outcome:
    """Fail if one fails, else inconclusive if one is, else pass; without gates, pass."""
    found = {outcome.outcome for outcome in outcomes}
    return next((one for one in (Outcome.FAIL, Outcome.INCONCLUSIVE) if one in found), Outcome.PASS)


def _evaluate(state: CountState, gate: GateSpec, evaluation: EvaluationSpec, overall: Grouping) -> GateOutcome:
    attributes = [attribute.name for attribute in state.attributes]
    problem = problem_with_gate(gate, task=overall.counts.task, attributes=attributes)
    if problem is not None:
        return _outcome(gate, Outcome.INCONCLUSIVE, f"not measured: {problem}")
    if gate.by:
        return _over_groups(gate, evaluation, grouping(state, gate.by), overall.counts)
    return _over_all_rows(gate, evaluation, overall)


def _over_all_rows(gate: GateSpec, evaluation: EvaluationSpec, overall: Grouping) -> GateOutcome:
    metric = canonical(gate.metric)
    if metric == COUNT:
        rows = int(overall.sizes[0])
        exactly = Bounds(lower=rows, upper=rows, interval=(rows, rows))
        counted = _Evidence(value=float(rows), exact=Fraction(rows), bounds=exactly, missing=None)
        return _decide(gate, counted)
    if needs_scores(metric) and overall.counts.calibration is None:
        return _outcome(gate, Outcome.INCONCLUSIVE, "not measured: the model gave no scores")
    estimates = group_estimates(metric, overall.counts)
    alpha = 1 - evaluation.confidence
    reason = estimates.reason(0)
    bounds = single_bounds(estimates, alpha=alpha) if estimates.method and reason is None else None
    value = None if reason else float(estimates.values[0])
    evidence = _Evidence(value=value, exact=estimates.exact(0), bounds=bounds, missing=_no_value(reason))
    outcome = _decide(gate, evidence)
    support = int(estimates.support[0])
    if outcome.outcome is Outcome.PASS and support < evaluation.min_support:
        why = f"{support} rows count for this, fewer than the {evaluation.min_support} that support needs"
        outcome = _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)
    if outcome.outcome is not Outcome.INCONCLUSIVE or not isinstance(estimates, Rates):
        return outcome
    rows_needed = _rows_needed(
        gate, evidence, _single_at(estimates, alpha), [(estimates, overall)], evaluation.min_support
    )
    return _with_rows(outcome, rows_needed)


def _over_groups(gate: GateSpec, evaluation: EvaluationSpec, groups: Grouping, overall: Counts) -> GateOutcome:
    if needs_scores(gate.metric) and groups.counts.calibration is None:
        return _outcome(gate, Outcome.INCONCLUSIVE, "not measured: the model gave no scores")
    alpha = 1 - evaluation.confidence
    found = disparity(gate.metric, groups, overall, alpha=alpha, min_support=evaluation.min_support)
    left_out = sorted({*found.low_support, *found.undefined})
    names = tuple(group_name(groups, group) for group in left_out)
    if left_out and found.of_supported.value is None:
        why = f"fewer than two groups have {evaluation.min_support} rows that count; too few or none: {_listed(names)}"
        outcome = _outcome(gate, Outcome.INCONCLUSIVE, why, _evidence(found.of_all))
    else:
        evidence = _evidence(found.of_supported)  # the same as of all, where no group is left out
        outcome = _decide(gate, evidence)
        if left_out and outcome.outcome is Outcome.PASS:
            outcome = _despite_low_support(gate, evaluation, evidence, outcome, names)
    if outcome.outcome is not Outcome.INCONCLUSIVE:
        return outcome
    name = PUBLISHED.get(canonical(gate.metric), canonical(gate.metric))
    if name in SPREADS:
        return outcome
    question = question_of(name, groups.counts, overall)
    at = _bounds_at(question, groups, alpha)
    families = [(family.estimates, groups) for family in question.families]
    evidence_of_all = _evidence(found.of_all)
    return _with_rows(outcome, _rows_needed(gate, evidence_of_all, at, families, evaluation.min_support))


def _despite_low_support(
    gate: GateSpec,
    evaluation: EvaluationSpec,
    evidence: _Evidence,
    outcome: GateOutcome,
    names: tuple[str, ...],
) -> GateOutcome:
    """The groups with enough rows pass: what of the others?"""
    few = f"fewer than {evaluation.min_support} rows count for {_listed(names)}"
    if evaluation.low_support == "exclude":
        why = f"{outcome.why}; left out, since {few}"
        return _outcome(gate, Outcome.PASS, why, evidence, excluded=names)
    why = f"the other groups pass, but {few}: no conclusion about them"
    return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)


def _evidence(extreme: Extreme) -> _Evidence:
    return _Evidence(value=extreme.value, exact=extreme.exact, bounds=extreme.bounds, missing=_no_value(extreme.reason))


def _no_value(reason: str | None) -> str | None:
    return REASONS.get(reason, reason) if reason else None


REASONS = {
    "empty": "there are no rows",
    "no_positive_labels": "no row has a positive label",
    "no_negative_labels": "no row has a negative label",
    "no_positive_predictions": "no row is predicted positive",
    "no_negative_predictions": "no row is predicted negative",
    "no_positives_at_all": "no row is labelled or predicted positive",
    "no_false_positives": "there are no false positives to compare with",
    "no_variation": "labels or predictions do not vary",
    "no_weight": "all rows have a weight of zero",
    "too_few_rows_in_every_bin": "no score bin has two rows",
    "single_group": "fewer than two groups have a value to compare",
    "both_zero": "all rates are zero, so they have no ratio",
    "overall_undefined": "there is no value over all rows to compare with",
}
"""What the reasons for an absent value mean."""


def _decide(gate: GateSpec, evidence: _Evidence) -> GateOutcome:
    """Compare with the limit. A value that does not exist never passes."""
    requirement = gate.requirement
    if evidence.value is None:
        return _outcome(gate, Outcome.INCONCLUSIVE, f"no value: {evidence.missing or 'undefined'}", evidence)
    if gate.evidence_used == "point":
        exact = evidence.exact if evidence.exact is not None else Fraction(evidence.value)
        admitted = requirement.admits(exact)
        verb = "meets" if admitted else "does not meet"
        why = f"the value {_short(evidence.value)} {verb} {gate.require.strip()}"
        return _outcome(gate, Outcome.PASS if admitted else Outcome.FAIL, why, evidence)
    if evidence.bounds is None:
        why = "this metric has no bound: ask for evidence point, or for another metric"
        return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)
    return _decide_by_bounds(gate, evidence, evidence.bounds)


def _decide_by_bounds(gate: GateSpec, evidence: _Evidence, bounds: Bounds) -> GateOutcome:
    requirement = gate.requirement
    proven, opposite = bounds.lower, bounds.upper
    words = ("lower", "upper")
    if requirement.is_upper:
        proven, opposite, words = opposite, proven, ("upper", "lower")
    if requirement.admits(Fraction(proven)):
        why = f"the {words[0]} bound {_short(proven)} meets {gate.require.strip()}"
        return _outcome(gate, Outcome.PASS, why, evidence)
    if not requirement.admits(Fraction(opposite)):
        why = f"even the {words[1]} bound {_short(opposite)} does not meet {gate.require.strip()}"
        return _outcome(gate, Outcome.FAIL, why, evidence)
    why = f"bounds {_short(bounds.lower)} to {_short(bounds.upper)} contain the limit"
    return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)


def _outcome(
    gate: GateSpec,
    outcome: Outcome,
    why: str,
    evidence: _Evidence | None = None,
    *,
    excluded: tuple[str, ...] = (),
) -> GateOutcome:
    bounds = evidence.bounds if evidence else None
    value = evidence.value if evidence else None
    compared = {
        "point": value,
        "upper_bound": bounds.upper if bounds else None,
        "lower_bound": bounds.lower if bounds else None,
    }
    return GateOutcome(
        id=gate.name,
        metric=gate.metric,
        by=gate.by,
        require=gate.require.strip(),
        evidence=gate.evidence_used,
        limit=gate.requirement.limit,
        outcome=outcome,
        why=why,
        value=value,
        bound=compared[gate.evidence_used],
        lower95=bounds.lower if bounds else None,
        upper95=bounds.upper if bounds else None,
        excluded=excluded,
    )


def _with_rows(outcome: GateOutcome, rows: int | None) -> GateOutcome:
    fields = {name: getattr(outcome, name) for name in GateOutcome.__slots__}
    return GateOutcome(**{**fields, "rows_needed_per_group": rows})


class _BoundsAt:
    """Bounds as they would be with ``rows`` in every denominator, at the observed rates."""

    def __init__(self, question: Question | None, rates: Sequence[Rates], alpha: float) -> None:
        self._question, self._rates, self._alpha = question, rates, alpha

    def __call__(self, rows: int) -> Bounds | None:
        scaled = [rate.scaled(rows) for rate in self._rates]
        if self._question is None:
            return single_bounds(scaled[0], alpha=self._alpha)
        match self._question.aggregate:
            case "difference" if not self._question.is_mean:
                return gap_bounds(scaled, alpha=self._alpha)
            case "ratio" if not self._question.is_mean:
                return ratio_bounds(scaled, alpha=self._alpha)
            case "group_min":
                return minimum_bounds(scaled, alpha=self._alpha)
            case "group_max":
                return maximum_bounds(scaled, alpha=self._alpha)
            case _:
                return None


def _single_at(rates: Rates, alpha: float) -> _BoundsAt:
    return _BoundsAt(None, [rates], alpha)


def _bounds_at(question: Question, groups: Grouping, alpha: float) -> _BoundsAt | None:
    known = np.flatnonzero(~groups.is_unknown)
    rates: list[Rates] = []
    for family in question.families:
        if not isinstance(family.estimates, Rates):
            return None
        defined = known[family.estimates.denominators[known] > 0]
        if len(defined) >= 2:
            rates.append(family.estimates.take(defined))
    return _BoundsAt(question, rates, alpha) if rates else None


def _rows_needed(
    gate: GateSpec,
    evidence: _Evidence,
    at: _BoundsAt | None,
    families: Sequence[tuple[Estimates, Grouping]],
    min_support: int,
) -> int | None:
    """Rows per group that would settle the gate if the rates stayed as they are; None if no number would."""
    if at is None or evidence.value is None:
        return None
    exact = evidence.exact if evidence.exact is not None else Fraction(evidence.value)
    if gate.evidence_used == "point":
        denominator: int | None = min_support
    else:
        denominator = _smallest_deciding(gate, at, is_met=gate.requirement.admits(exact))
    if denominator is None:
        return None
    share = min((_smallest_share(estimates, groups) for estimates, groups in families), default=1.0)
    return ceil(max(denominator, min_support) / share) if share > 0 else None


def _smallest_deciding(gate: GateSpec, at: _BoundsAt, *, is_met: bool) -> int | None:
    """The smallest denominator at which the gate is decided, by doubling and halving."""

    def decides(rows: int) -> bool:
        bounds = at(rows)
        if bounds is None:
            return False
        looks_at_upper = gate.requirement.is_upper is is_met
        bound = bounds.upper if looks_at_upper else bounds.lower
        return gate.requirement.admits(Fraction(bound)) is is_met

    rows = 1
    while not decides(rows):
        rows *= 2
        if rows > _MOST_ROWS:
            return None
    low, high = rows // 2, rows
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


def _smallest_share(estimates: Estimates, groups: Grouping) -> float:
    """The smallest share of a group's rows that its denominator holds, over groups that have any."""
    sizes, support = groups.sizes, estimates.support
    there = (support > 0) & ~groups.is_unknown
    return float((support[there] / sizes[there]).min()) if there.any() else 1.0


def group_name(groups: Grouping, group: int) -> str:
    """A group as people write it: ``sex=F, age_band=40-60``."""
    return ", ".join(f"{name}={level}" for name, level in groups.key(group).items()) or "all rows"


def _listed(names: Sequence[str]) -> str:
    shown = "; ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}; and {len(names) - 5} more"


def _short(number: float) -> str:
    return f"{number:.4f}"

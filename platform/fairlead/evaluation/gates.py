"""What the measurements must prove. A gate passes, fails, or is inconclusive: too little is known to say.

A gate on a bound passes when the bound that had to be proven meets the limit, fails when the opposite bound
violates it, and is inconclusive in between. A gate on the value alone compares exact fractions. A value that does
not exist never passes. A gate held against the champion looks at the distance to it, on the same rows. With many gates
some pass by chance: ``evaluation.correction`` takes back those passes that do not stand among the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from functools import partial
from math import ceil, exp, isfinite, log
from typing import Any, Protocol

import numpy as np

from fairlead.evaluation.champion import (
    UNNAMED,
    Champion,
    Distance,
    OverAllRows,
    OverGroups,
    problem_with_comparison,
)
from fairlead.evaluation.disparities import Disparity, Extreme, Question, disparity, question_of
from fairlead.evaluation.estimates import Bootstrapped, Estimates, Rates
from fairlead.evaluation.groups import Grouping, grouping
from fairlead.evaluation.intervals import (
    Bounds,
    gap_bounds,
    maximum_bounds,
    minimum_bounds,
    ratio_bounds,
    single_bounds,
)
from fairlead.evaluation.measured import METRICS, NOTHING, Measurements, problem_with_measured_gate
from fairlead.evaluation.metrics import (
    COUNT,
    PUBLISHED,
    SPREADS,
    Counts,
    Task,
    canonical,
    group_estimates,
    has_bounds,
    is_over_groups,
    known_metric,
    nearest_metric,
    needs_losses,
    needs_scores,
    task_of_metric,
)
from fairlead.evaluation.multiplicity import SMALLEST_P, adjusted
from fairlead.evaluation.quantities import (
    NumberGroups,
    NumberState,
    number_disparity,
    number_estimates,
    number_grouping,
    task_of,
)
from fairlead.evaluation.replicates import REPLICATES
from fairlead.evaluation.state import CountState
from fairlead.evaluation.stratified import CONDITIONAL, rate_within, stratified_gaps
from fairlead.spec import Document, EvaluationSpec, GateSpec
from fairlead.spec.evaluation import Correction

CORRECTIONS = {"none": "no correction", "holm": "Holm", "benjamini_hochberg": "Benjamini and Hochberg"}
"""Corrections as people write them."""
_MOST_ROWS = 2**40
_P_TOLERANCE = 1e-7
_At = Callable[[int], Bounds | None]
"""Bounds as they would be with so many rows in every denominator, at the observed rates."""


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
    condition: str | None = None
    """The probe whose counts it looked at; None: the rows as they are."""
    within: tuple[str, ...] = ()
    """Attributes within whose strata groups were compared."""
    value: float | None = None
    bound: float | None = None
    """The number that was compared with the limit."""
    lower95: float | None = None
    upper95: float | None = None
    rows_needed_per_group: int | None = None
    """Only when inconclusive: rows each group would need at the observed rates; None where that cannot be said."""
    excluded: tuple[str, ...] = ()
    """Groups left out for low support, when the spec allows it."""
    p_value: float | None = None
    """The smallest alpha at which it passes; only where a correction was asked for and it passes for itself."""
    p_adjusted: float | None = None
    """The same among all gates on bounds."""
    is_relative: bool = False
    """Whether value and bounds are those of the distance to the champion, the model's value less the champion's."""
    of_model: float | None = None
    """Of a gate held against the champion: the model's own value."""
    of_champion: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    """What a gate looks at: a value and its bounds, and how these would be with other numbers of rows."""

    value: float | None
    exact: Fraction | None
    bounds: Bounds | None
    missing: str | None
    """Why this proves nothing whatever the limit; None if it may."""
    of_model: float | None = None
    of_champion: float | None = None
    """Where the rest is about the distance of the two."""


def problem_with_gate(
    gate: GateSpec, *, task: Task, attributes: Sequence[str], asked: Mapping[str, Document] | None = None
) -> str | None:
    """Why ``gate`` can never be evaluated, with what to do about it; None if it can.

    ``asked``: what the spec wants measured beside the counts, ``ExperimentSpec.measured``; None: nothing was trained.
    """
    if gate.requirement.is_relative and (gate.metric in METRICS or gate.condition is not None or gate.within):
        what = f"{gate.metric!r}" if gate.metric in METRICS else f"condition {gate.condition!r}"
        what = "a gap within strata" if gate.within else what
        return f"{what} of the champion is not known: ask for a number, or for a metric of the rows as they are"
    if gate.metric in METRICS and gate.within:
        return f"{gate.metric!r} has nothing to do with strata: drop within"
    if gate.metric in METRICS and gate.condition is not None:
        return f"{gate.metric!r} has nothing to do with a condition: drop it"
    if gate.metric in METRICS:
        return problem_with_measured_gate(gate, asked) or _wrong_bound(gate)
    if not known_metric(gate.metric, task):
        return f"no metric of a {task} task is called {gate.metric!r}; {_hint(gate.metric, task)}"
    if unknown := [name for name in gate.by if name not in attributes]:
        there = ", ".join(attributes) or "none: name some under data.sensitive"
        return f"{unknown[0]!r} is not a sensitive attribute; there are {there}"
    if is_over_groups(gate.metric, task) and not gate.by:
        return f"{gate.metric!r} compares groups: say which with by, such as [{next(iter(attributes), 'sex')}]"
    if gate.within and (problem := _problem_within(gate, task, attributes)) is not None:
        return problem
    if gate.by and not is_over_groups(gate.metric, task):
        return f"{gate.metric!r} is one value for all rows: drop by, or ask for {gate.metric}_group_min"
    if gate.requirement.is_relative and (problem := problem_with_comparison(gate.metric, task)):
        return problem
    return _wrong_bound(gate) or _no_bound(gate, task)


def _problem_within(gate: GateSpec, task: Task, attributes: Sequence[str]) -> str | None:
    """Why ``gate`` can never be evaluated within strata."""
    if task != "binary":
        return "gaps within strata are those of two classes: drop within"
    if rate_within(canonical(gate.metric)) is None:
        return f"{gate.metric!r} is not compared within strata: that are {', '.join(CONDITIONAL)}"
    if both := [name for name in gate.within if name in gate.by]:
        return f"{both[0]!r} is what groups are compared by: they cannot be compared within it as well"
    if unknown := [name for name in gate.within if name not in attributes]:
        return f"{unknown[0]!r} is not an attribute; there are {', '.join(attributes) or 'none'}"
    return None


def _no_bound(gate: GateSpec, task: Task) -> str | None:
    if gate.evidence_used == "point" or has_bounds(gate.metric, task):
        return None
    return f"bounds of {gate.metric!r} are not known: ask for evidence: point, or for another metric"


def _hint(metric: str, task: Task) -> str:
    """What may have been meant by a metric that ``task`` does not have."""
    other = task_of_metric(metric)
    if other in ("regression", "ranking", "quality"):
        return f"it is one of a {other}: of predictions made elsewhere evaluation.task says what they are"
    near = nearest_metric(metric, task)
    return f"did you mean {near!r}?" if near else "see the report for the names that exist"


def _wrong_bound(gate: GateSpec) -> str | None:
    wrong = "lower_bound" if gate.requirement.is_upper else "upper_bound"
    if gate.evidence_used == wrong:
        right = "upper_bound" if gate.requirement.is_upper else "lower_bound"
        return f"{wrong} proves nothing about {gate.require!r}: ask for {right}, or for point"
    return None


def evaluate_gates(
    state: CountState,
    gates: Sequence[GateSpec],
    evaluation: EvaluationSpec,
    measurements: Measurements = NOTHING,
    *,
    conditions: Mapping[str, CountState] | None = None,
    champion: Champion = UNNAMED,
) -> tuple[GateOutcome, ...]:
    """Decide every gate from counts and ``measurements``, and together if the spec asks for a correction.

    ``conditions``: counts of the same rows under the conditions that gates may name. ``champion``: whom gates name so.
    """
    states: dict[str | None, CountState] = {None: state}
    states.update((conditions or {}).items())
    overall = {condition: grouping(counted) for condition, counted in states.items()}
    alpha = 1 - evaluation.confidence
    measurements = replace(measurements, alpha=alpha)
    sections = measurements.sections
    cases = [
        _measured_case(gate, evaluation, measurements, sections)
        if gate.metric in METRICS
        else _relative_case(state, gate, evaluation, champion)
        if gate.requirement.is_relative
        else _case(states[gate.condition], gate, evaluation, overall[gate.condition])
        if gate.condition in states
        else _uncounted(gate)
        for gate in gates
    ]
    return _together(cases, evaluation, champion)


def evaluate_number_gates(
    state: NumberState, gates: Sequence[GateSpec], evaluation: EvaluationSpec
) -> tuple[GateOutcome, ...]:
    """The same of counts of a regression or a ranking."""
    overall = number_grouping(state)
    cases = [_number_case(state, gate, evaluation, overall) for gate in gates]
    return _together(cases, evaluation, UNNAMED)


def _together(cases: Sequence["_Case"], evaluation: EvaluationSpec, champion: Champion) -> tuple[GateOutcome, ...]:
    alpha = 1 - evaluation.confidence
    outcomes = [_judged(case, alpha) for case in cases]
    if evaluation.correction == "none":
        return tuple(outcomes)
    return tuple(_corrected(cases, outcomes, evaluation.correction, alpha, champion))


def is_tested(gate: GateSpec, champion: Champion = UNNAMED) -> bool:
    """Whether ``gate`` claims something that chance may have brought about.

    Not so a number of rows, a plain value, and the distance to a ``champion`` that there is not.
    """
    if gate.metric in METRICS and METRICS[gate.metric].is_exact:
        return False
    if gate.requirement.is_relative and champion.is_absent:
        return False
    return gate.evidence_used != "point" and canonical(gate.metric) != COUNT


def overall_outcome(outcomes: Sequence[GateOutcome]) -> Outcome:
    """Fail if one fails, else inconclusive if one is, else pass; without gates, pass."""
    found = {outcome.outcome for outcome in outcomes}
    return next((one for one in (Outcome.FAIL, Outcome.INCONCLUSIVE) if one in found), Outcome.PASS)


class _Case(Protocol):
    """One gate before its evidence, which can be asked at any level."""

    @property
    def gate(self) -> GateSpec:
        """What it asks."""
        ...

    def outcome(self, alpha: float) -> GateOutcome:
        """What became of it, with bounds at ``alpha``."""
        ...

    def rows_needed(self, alpha: float) -> int | None:
        """Rows each group would need; see ``_rows_needed``."""
        ...

    @property
    def smallest_p(self) -> float:
        """The smallest p-value that its limits can resolve."""
        ...


def _case(state: CountState, gate: GateSpec, evaluation: EvaluationSpec, overall: Grouping) -> _Case:
    attributes = [attribute.name for attribute in state.attributes]
    problem = problem_with_gate(gate, task=overall.counts.task, attributes=attributes)
    if problem is None and needs_scores(gate.metric) and overall.counts.calibration is None:
        problem = "the model gave no scores"
    if problem is None and needs_losses(gate.metric) and overall.counts.losses is None:
        problem = "these counts hold no losses; those of before there were any do not"
    if problem is None and gate.within and overall.counts.is_resampled:
        problem = "gaps within strata count rows, and these have weights or come in clusters"
    if problem is not None:
        return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, f"not measured: {problem}"))
    if gate.within:
        try:
            return _WithinStrata(gate, evaluation, state)
        except ValueError as error:  # of very many groups or strata
            return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, f"not measured: {error}"))
    if gate.by:
        return _OverGroups(gate, evaluation, grouping(state, gate.by), overall.counts)
    if canonical(gate.metric) == COUNT:
        return _Settled(gate, _decide(gate, _exactly(int(overall.sizes[0]))))
    return _OverAllRows(gate, evaluation, overall)


def _relative_case(state: CountState, gate: GateSpec, evaluation: EvaluationSpec, champion: Champion) -> _Case:
    """A gate on the distance to the champion. Where there is none yet it passes, and says so."""
    attributes = [attribute.name for attribute in state.attributes]
    problem = problem_with_gate(gate, task=grouping(state).counts.task, attributes=attributes)
    if problem is None and champion.is_absent:
        return _Settled(gate, _outcome(gate, Outcome.PASS, champion.why_not))
    problem = problem or champion.problem_with(state)
    if problem is None and champion.state is not None:
        overall = grouping(champion.state)
        try:
            if gate.by:
                return _RelativeOverGroups(gate, evaluation, grouping(champion.state, gate.by), overall.counts)
            return _RelativeOverAllRows(gate, evaluation, overall)
        except ValueError as error:  # of very many classes pairs keep only right and wrong
            problem = str(error)
    return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, f"not compared: {problem}"))


def _number_case(state: NumberState, gate: GateSpec, evaluation: EvaluationSpec, overall: NumberGroups) -> _Case:
    attributes = [attribute.name for attribute in state.attributes]
    if (problem := problem_with_gate(gate, task=task_of(state), attributes=attributes)) is not None:
        return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, f"not measured: {problem}"))
    if canonical(gate.metric) == COUNT:
        return _Settled(gate, _decide(gate, _exactly(int(overall.sizes[0]))))
    groups = number_grouping(state, gate.by) if gate.by else overall
    without = state.book.n_nan_scores
    return _OverNumbers(gate, evaluation, groups, overall, num_unpredicted=without)


def _measured_case(
    gate: GateSpec, evaluation: EvaluationSpec, measurements: Measurements, sections: Mapping[str, Mapping[str, Any]]
) -> _Case:
    """A gate on a number that was measured beside the counts."""
    problem = problem_with_gate(gate, task="binary", attributes=(), asked=measurements.asked)
    section = {} if problem else sections[METRICS[gate.metric].section]
    entry = section.get("metrics", {}).get(gate.metric)
    if problem is None and (entry is None or entry["value"] is None):
        problem = (entry or {}).get("reason") or section["why_not_measured"] or "it has no value"
    if problem is not None:
        return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, f"not measured: {problem}"))
    assert entry is not None, "else there is a problem"
    if METRICS[gate.metric].is_exact:
        return _Settled(gate, _decide_exactly(gate, entry["value"]))
    support = _Support(rows=section.get("n"), needed=evaluation.min_support)
    return _Measured(gate, entry["value"], measurements.limits(gate.metric), support)


def _decide_exactly(gate: GateSpec, value: float) -> GateOutcome:
    """By the value, whatever bound was asked for. It may be tiny: a kilowatt-hour is much."""
    admitted = gate.requirement.admits(Fraction(value))
    why = f"the value {value:.4g} {'meets' if admitted else 'does not meet'} {gate.require.strip()}"
    return _outcome(gate, Outcome.PASS if admitted else Outcome.FAIL, why, _exactly(value))


def _exactly(value: float) -> _Evidence:
    """A number that chance has no part in: its bounds are itself."""
    bounds = Bounds(lower=value, upper=value, interval=(value, value))
    return _Evidence(value=float(value), exact=Fraction(value), bounds=bounds, missing=None)


def _uncounted(gate: GateSpec) -> _Case:
    why = f"not measured: there are no counts under {gate.condition}"
    return _Settled(gate, _outcome(gate, Outcome.INCONCLUSIVE, why))


def _judged(case: _Case, alpha: float) -> GateOutcome:
    outcome = case.outcome(alpha)
    return outcome if outcome.outcome is not Outcome.INCONCLUSIVE else _with_rows(outcome, case.rows_needed(alpha))


def _corrected(
    cases: Sequence[_Case], outcomes: Sequence[GateOutcome], correction: Correction, alpha: float, champion: Champion
) -> list[GateOutcome]:
    """Passes that do not stand among the others become inconclusive; nothing else changes.

    The p-value of a gate is the smallest alpha at which it passes. Gates that do not pass count as 1, which changes no
    decision: they are above alpha, so that the adjusted values of those below them that it could change are too.
    """
    tested = [index for index, case in enumerate(cases) if is_tested(case.gate, champion)]
    passing = [index for index in tested if outcomes[index].outcome is Outcome.PASS]
    p_values = {index: _p_value(cases[index], alpha) if index in passing else 1.0 for index in tested}
    found = list(outcomes)
    for index, beyond in zip(tested, adjusted(list(p_values.values()), correction).tolist(), strict=True):
        if index not in passing:
            continue
        found[index] = replace(outcomes[index], p_value=p_values[index], p_adjusted=beyond)
        if beyond > alpha:
            found[index] = _not_among_others(cases[index], found[index], len(tested), correction, alpha)
    return found


def _not_among_others(
    case: _Case, outcome: GateOutcome, num_gates: int, correction: Correction, alpha: float
) -> GateOutcome:
    assert outcome.p_value is not None, "it passes for itself"
    assert outcome.p_adjusted is not None, "set together with the p-value"
    method = CORRECTIONS[correction]
    why = (
        f"{outcome.why} for itself, but not as one of {num_gates} gates: its p-value {_short(outcome.p_value)} counts "
        f"as {_short(outcome.p_adjusted)} ({method}), above {alpha:.4g}"
    )
    rows = case.rows_needed(alpha * outcome.p_value / outcome.p_adjusted)
    return replace(outcome, outcome=Outcome.INCONCLUSIVE, why=why, rows_needed_per_group=rows)


def _p_value(case: _Case, alpha: float) -> float:
    """The smallest level up to ``alpha`` at which the gate passes, by halving; it passes at ``alpha``."""
    low, high = log(case.smallest_p), log(alpha)
    if low >= high or case.outcome(exp(low)).outcome is Outcome.PASS:
        return min(exp(low), alpha)
    while high - low > _P_TOLERANCE:
        middle = (low + high) / 2
        passes = case.outcome(exp(middle)).outcome is Outcome.PASS
        low, high = (low, middle) if passes else (middle, high)
    return min(exp(high), alpha)


@dataclass(frozen=True, slots=True)
class _Settled:
    """Nothing that depends on chance."""

    gate: GateSpec
    known: GateOutcome

    def outcome(self, alpha: float) -> GateOutcome:
        return self.known

    def rows_needed(self, alpha: float) -> int | None:
        return None

    @property
    def smallest_p(self) -> float:
        return SMALLEST_P


@dataclass(frozen=True, kw_only=True, slots=True)
class _Support:
    """Rows that count for a value, and those that it needs to pass; None where a value is no mean over rows."""

    rows: int | None
    needed: int

    def decided(self, gate: GateSpec, evidence: _Evidence) -> GateOutcome:
        """Compared with the limit; a pass from too few rows is none."""
        outcome = _decide(gate, evidence)
        if outcome.outcome is not Outcome.PASS or self.rows is None or self.rows >= self.needed:
            return outcome
        why = f"{self.rows} rows count for this, fewer than the {self.needed} that support needs"
        return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)


class _Measured:
    """A gate on a measured number with bounds."""

    def __init__(
        self, gate: GateSpec, value: float, limits: Callable[[float], tuple[float, float]], support: _Support
    ) -> None:
        self.gate, self._value, self._limits, self._support = gate, value, limits, support

    def outcome(self, alpha: float) -> GateOutcome:
        lower, upper = self._limits(alpha)
        bounds = Bounds(lower=lower, upper=upper, interval=(lower, upper))
        return self._support.decided(self.gate, _Evidence(value=self._value, exact=None, bounds=bounds, missing=None))

    def rows_needed(self, alpha: float) -> int | None:
        return None

    @property
    def smallest_p(self) -> float:
        return SMALLEST_P


class _OverAllRows:
    """A gate on one value for all rows."""

    def __init__(self, gate: GateSpec, evaluation: EvaluationSpec, overall: Grouping) -> None:
        self.gate, self._evaluation, self._overall = gate, evaluation, overall
        self._estimates = group_estimates(canonical(gate.metric), overall.counts)

    def outcome(self, alpha: float) -> GateOutcome:
        support = _Support(rows=self._support, needed=self._evaluation.min_support)
        return support.decided(self.gate, self._evidence(alpha))

    def rows_needed(self, alpha: float) -> int | None:
        if not isinstance(self._estimates, Rates):
            return None
        at, families = _single_at(self._estimates, alpha), [(self._estimates, self._overall)]
        return _rows_needed(self.gate, self._evidence(alpha), at, families, self._evaluation.min_support)

    @property
    def smallest_p(self) -> float:
        return _smallest_p([self._estimates])

    @property
    def _support(self) -> int:
        return int(self._estimates.support[0])

    def _evidence(self, alpha: float) -> _Evidence:
        estimates = self._estimates
        reason = estimates.reason(0)
        bounds = single_bounds(estimates, alpha=alpha) if estimates.method and reason is None else None
        value = None if reason else float(estimates.values[0])
        return _Evidence(value=value, exact=estimates.exact(0), bounds=bounds, missing=_no_value(reason))


class _RelativeOverAllRows(_OverAllRows):
    """The same of the distance to the champion's value."""

    def __init__(self, gate: GateSpec, evaluation: EvaluationSpec, overall: Grouping) -> None:
        super().__init__(gate, evaluation, overall)
        self._both = OverAllRows.of(gate.metric, overall.counts)

    def rows_needed(self, alpha: float) -> int | None:
        paired, families = self._both.paired, [(self._estimates, self._overall)]
        if paired is None:
            return None
        at = partial(paired.bounds_with, alpha=alpha)
        return _rows_needed(self.gate, self._evidence(alpha), at, families, self._evaluation.min_support)

    @property
    def _support(self) -> int:
        return self._both.support

    def _evidence(self, alpha: float) -> _Evidence:
        both = self._both
        ours, theirs = both.values
        is_there = both.reason is None
        return _Evidence(
            value=both.value if is_there else None,
            exact=both.exact,
            bounds=both.bounds(alpha) if is_there else None,
            missing=_no_value(both.reason),
            of_model=ours,
            of_champion=theirs,
        )


class _OverGroups:
    """A gate on a comparison of groups."""

    def __init__(self, gate: GateSpec, evaluation: EvaluationSpec, groups: Grouping, overall: Counts) -> None:
        self.gate, self._evaluation, self._groups, self._overall = gate, evaluation, groups, overall

    def outcome(self, alpha: float) -> GateOutcome:
        gate, min_support = self.gate, self._evaluation.min_support
        found = self._found(alpha)
        left_out = sorted({*found.low_support, *found.undefined})
        names = tuple(group_name(self._groups, group) for group in left_out)
        if left_out and found.of_supported.value is None:
            why = f"fewer than two groups have {min_support} rows that count; too few or none: {_listed(names)}"
            return _outcome(gate, Outcome.INCONCLUSIVE, why, _evidence(found, found.of_all))
        evidence = _evidence(found, found.of_supported)  # the same as of all, where no group is left out
        outcome = _decide(gate, evidence)
        if left_out and outcome.outcome is Outcome.PASS:
            return _despite_low_support(gate, self._evaluation, evidence, outcome, names)
        return outcome

    def rows_needed(self, alpha: float) -> int | None:
        question = self._question()
        if question is None:
            return None
        found = self._found(alpha)
        at = _bounds_at(question, self._groups, alpha)
        families = [(family.estimates, self._groups) for family in question.families]
        return _rows_needed(self.gate, _evidence(found, found.of_all), at, families, self._evaluation.min_support)

    def _found(self, alpha: float) -> Disparity | Distance:
        min_support = self._evaluation.min_support
        return disparity(self.gate.metric, self._groups, self._overall, alpha=alpha, min_support=min_support)

    @property
    def smallest_p(self) -> float:
        question = self._question()
        return _smallest_p([family.estimates for family in question.families]) if question else SMALLEST_P

    def _question(self) -> Question | None:
        name = PUBLISHED.get(canonical(self.gate.metric), canonical(self.gate.metric))
        return None if name in SPREADS else question_of(name, self._groups.counts, self._overall)


class _RelativeOverGroups(_OverGroups):
    """The same of the distance to the champion's value; how many rows would decide it is not said."""

    def __init__(self, gate: GateSpec, evaluation: EvaluationSpec, groups: Grouping, overall: Counts) -> None:
        super().__init__(gate, evaluation, groups, overall)
        self._both = OverGroups.of(gate.metric, groups, overall)

    def rows_needed(self, alpha: float) -> int | None:
        return None

    def _found(self, alpha: float) -> Distance:
        return self._both.distance(alpha=alpha, min_support=self._evaluation.min_support)


class _WithinStrata:
    """A gate on a comparison of groups within strata."""

    def __init__(self, gate: GateSpec, evaluation: EvaluationSpec, state: CountState) -> None:
        self.gate, self._evaluation = gate, evaluation
        rate = rate_within(canonical(gate.metric))
        assert rate is not None, "a problem with the gate otherwise"
        self._groups = grouping(state, gate.by)
        self._gaps = stratified_gaps(state, gate.by, gate.within, rate)
        is_enough = self._gaps.support >= max(evaluation.min_support, 1)
        self._few = tuple(self._named(int(pair)) for pair in np.flatnonzero(~is_enough))
        self._enough = self._gaps.take([int(pair) for pair in np.flatnonzero(is_enough)])

    def outcome(self, alpha: float) -> GateOutcome:
        gate, least, gaps = self.gate, self._evaluation.min_support, self._enough
        if not gaps.pairs:
            why = f"no two groups have {least} rows each in strata with rows of both"
            return _outcome(gate, Outcome.INCONCLUSIVE, f"{why}: {_listed(self._few)}" if self._few else why)
        largest = int(np.argmax(np.abs(gaps.values)))
        exact = abs(gaps.exact(largest))
        evidence = _Evidence(value=float(exact), exact=exact, bounds=gaps.bounds(alpha), missing=None)
        outcome = _decide(gate, evidence)
        if self._few and outcome.outcome is Outcome.PASS:
            outcome = _despite_low_support(gate, self._evaluation, evidence, outcome, self._few)
        num_silent = int((~gaps.is_informative[largest]).sum())
        if num_silent:
            told = f"{num_silent} of {gaps.is_informative.shape[1]} strata tell nothing: they lack one of the groups"
            outcome = replace(outcome, why=f"{outcome.why}; {told}")
        return outcome

    def rows_needed(self, alpha: float) -> int | None:
        return None  # it depends on the strata that they are in

    @property
    def smallest_p(self) -> float:
        return SMALLEST_P

    def _named(self, pair: int) -> str:
        return " against ".join(group_name(self._groups, group) for group in self._gaps.pairs[pair])


class _OverNumbers:
    """A gate on a value for all rows, or on a comparison of groups, of a regression or a ranking."""

    def __init__(
        self,
        gate: GateSpec,
        evaluation: EvaluationSpec,
        groups: NumberGroups,
        overall: NumberGroups,
        *,
        num_unpredicted: int,
    ) -> None:
        self.gate, self._evaluation, self._groups, self._overall = gate, evaluation, groups, overall
        self._num_unpredicted = num_unpredicted

    def outcome(self, alpha: float) -> GateOutcome:
        found = self._of_groups(alpha) if self.gate.by else self._of_all_rows(alpha)
        if found.outcome is not Outcome.PASS or not self._num_unpredicted:
            return found
        why = f"{self._num_unpredicted} rows have no prediction, and how far off it would be there nobody knows"
        return replace(found, outcome=Outcome.INCONCLUSIVE, why=why)

    def rows_needed(self, alpha: float) -> int | None:
        return None  # nobody knows how other rows would vary

    @property
    def smallest_p(self) -> float:
        return SMALLEST_P

    def _of_groups(self, alpha: float) -> GateOutcome:
        gate, groups, least = self.gate, self._groups, self._evaluation.min_support
        found = number_disparity(gate.metric, groups, self._overall, alpha=alpha, min_support=least)
        left_out = sorted({*found.low_support, *found.undefined})
        names = tuple(named(dict(zip(groups.by, groups.keys[group], strict=True))) for group in left_out)
        if left_out and found.of_supported.value is None:
            why = f"fewer than two groups have {least} rows or queries that count; too few or none: {_listed(names)}"
            return _outcome(gate, Outcome.INCONCLUSIVE, why, _bounded(gate, _evidence(found, found.of_all)))
        evidence = _bounded(gate, _evidence(found, found.of_supported))
        outcome = _decide(gate, evidence)
        if left_out and outcome.outcome is Outcome.PASS:
            return _despite_low_support(gate, self._evaluation, evidence, outcome, names)
        return outcome

    def _of_all_rows(self, alpha: float) -> GateOutcome:
        gate, estimates = self.gate, number_estimates(self.gate.metric, self._overall)
        reason, support = estimates.reason(0), int(estimates.support[0])
        bounds = single_bounds(estimates, alpha=alpha) if estimates.method and reason is None else None
        value = None if reason else float(estimates.values[0])
        evidence = _bounded(gate, _Evidence(value=value, exact=None, bounds=bounds, missing=_no_value(reason)))
        outcome = _decide(gate, evidence)
        if outcome.outcome is Outcome.PASS and support < self._evaluation.min_support:
            why = f"{support} rows or queries count for this, fewer than the {self._evaluation.min_support} needed"
            return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)
        return outcome


def _bounded(gate: GateSpec, evidence: _Evidence) -> _Evidence:
    """Without bounds that know nothing on one side: infinity is no number that a limit could be compared with."""
    bounds = evidence.bounds
    if bounds is None or (isfinite(bounds.lower) and isfinite(bounds.upper)):
        return evidence
    if gate.evidence_used == "point":
        return replace(evidence, bounds=None)
    return replace(evidence, value=None, bounds=None, missing="one row, or one list, does not tell how far it varies")


def _smallest_p(estimates: Sequence[Estimates]) -> float:
    """Limits from resamplings cannot resolve more than these are many."""
    return 1 / REPLICATES if any(isinstance(each, Bootstrapped) for each in estimates) else SMALLEST_P


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


def _evidence(found: Disparity | Distance, extreme: Extreme) -> _Evidence:
    values = (found.of_model, found.of_champion) if isinstance(found, Distance) else (None, None)
    return _Evidence(
        value=extreme.value,
        exact=extreme.exact,
        bounds=extreme.bounds,
        missing=_no_value(extreme.reason),
        of_model=values[0],
        of_champion=values[1],
    )


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
    "below_resolution": "the numbers are too small beside their range to be told from rounding",
    "no_relevance": "no row has any relevance",
    "no_query_of_its_own": "no query of two rows or more, one of them relevant, is of one group alone",
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
        what = f"value {_short(evidence.value)}"
        if requirement.is_relative:
            what = f"difference {_short(evidence.value)} to the champion"
        why = f"the {what} {verb} {gate.require.strip()}"
        return _outcome(gate, Outcome.PASS if admitted else Outcome.FAIL, why, evidence)
    if evidence.bounds is None:
        why = "this metric has no bound: ask for evidence point, or for another metric"
        return _outcome(gate, Outcome.INCONCLUSIVE, why, evidence)
    return _decide_by_bounds(gate, evidence, evidence.bounds)


def _decide_by_bounds(gate: GateSpec, evidence: _Evidence, bounds: Bounds) -> GateOutcome:
    requirement = gate.requirement
    proven, opposite = bounds.lower, bounds.upper
    of_what = " of the difference to the champion" if requirement.is_relative else ""
    words = ("lower", "upper")
    if requirement.is_upper:
        proven, opposite, words = opposite, proven, ("upper", "lower")
    if requirement.admits(Fraction(proven)):
        why = f"the {words[0]} bound {_short(proven)}{of_what} meets {gate.require.strip()}"
        return _outcome(gate, Outcome.PASS, why, evidence)
    if not requirement.admits(Fraction(opposite)):
        why = f"even the {words[1]} bound {_short(opposite)}{of_what} does not meet {gate.require.strip()}"
        return _outcome(gate, Outcome.FAIL, why, evidence)
    why = f"bounds {_short(bounds.lower)} to {_short(bounds.upper)}{of_what} contain the limit"
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
        condition=gate.condition,
        within=gate.within,
        value=value,
        bound=compared[gate.evidence_used],
        lower95=bounds.lower if bounds else None,
        upper95=bounds.upper if bounds else None,
        is_relative=gate.requirement.is_relative,
        of_model=evidence.of_model if evidence else None,
        of_champion=evidence.of_champion if evidence else None,
        excluded=excluded,
    )


def _with_rows(outcome: GateOutcome, rows: int | None) -> GateOutcome:
    return replace(outcome, rows_needed_per_group=rows)


class _BoundsAt:
    """Satisfies ``_At`` for rates and what is made of them."""

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
    at: _At | None,
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


def _smallest_deciding(gate: GateSpec, at: _At, *, is_met: bool) -> int | None:
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
    return named(groups.key(group))


def named(key: Mapping[str, str]) -> str:
    """A group's levels as people write them; without any: all rows."""
    return ", ".join(f"{name}={level}" for name, level in key.items()) or "all rows"


def _listed(names: Sequence[str]) -> str:
    shown = "; ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown}; and {len(names) - 5} more"


def _short(number: float) -> str:
    size = abs(number)
    return f"{number:.1f}" if size >= 1e4 else f"{number:.2g}" if 0 < size < 5e-4 else f"{number:.4f}"

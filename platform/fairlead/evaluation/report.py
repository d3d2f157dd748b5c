"""The report: everything measured, as one JSON document of schema ``rai-report/1``.

A pure function of the counts, the spec and where both come from. Full precision, sorted keys, never NaN: a value
that does not exist is null and has a reason. Rounding is the page's business.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import resources
from itertools import permutations
from math import isfinite
from types import MappingProxyType
from typing import Any

import numpy as np

from fairlead.evaluation.cells import Book
from fairlead.evaluation.champion import UNNAMED, Champion
from fairlead.evaluation.comparison import Baseline, mitigation_section, why_not_comparable
from fairlead.evaluation.disparities import disparity
from fairlead.evaluation.entries import disparity_of, values_of
from fairlead.evaluation.estimates import Estimates, IntArray, Rates
from fairlead.evaluation.exact import ENTRY_BYTES, MOST_ENTRIES
from fairlead.evaluation.gap_tests import GapTest, gap_tests
from fairlead.evaluation.gates import (
    CORRECTIONS,
    GateOutcome,
    evaluate_gates,
    evaluate_number_gates,
    is_tested,
    overall_outcome,
)
from fairlead.evaluation.groups import Grouping, grouping, requested_groupings
from fairlead.evaluation.intervals import gap_bounds, wilson_interval
from fairlead.evaluation.measured import METRICS, NOTHING, SECTIONS, Measurements
from fairlead.evaluation.metrics import (
    PUBLISHED,
    Counts,
    aggregate_names,
    benefit_counts,
    between_group_entropy,
    class_estimates,
    cross_area,
    differential_fairness,
    generalized_entropy,
    group_estimates,
    metric_names,
    one_against_rest,
    theil_index,
)
from fairlead.evaluation.number_report import (
    NO_CLASSES,
    number_data,
    number_disparities,
    number_groups,
    number_limitations,
    number_section,
)
from fairlead.evaluation.pooling import pooled_rates, prior_of
from fairlead.evaluation.quantities import AnyState, NumberGroups, NumberState, number_grouping, number_tests, task_of
from fairlead.evaluation.recalibration import before_and_after
from fairlead.evaluation.robustness import robustness_section
from fairlead.evaluation.scores import calibration, roc_points, sweep
from fairlead.evaluation.scoring_rates import scoring_section
from fairlead.evaluation.state import CountState
from fairlead.evaluation.stratified import (
    Conditional,
    Pooled,
    association_test,
    conditional_gaps,
    odds_ratio,
    risk_difference,
)
from fairlead.evaluation.tracked import OVERALL, key_of, slugs
from fairlead.spec import EvaluationSpec, GateSpec, MitigationSpec, ProbesSpec

SCHEMA = "rai-report/1"
HEADLINES = (
    "accuracy_score",
    "balanced_accuracy_score",
    "f1_score",
    "roc_auc_score",
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "precision_score",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "predictive_parity_difference",
    "accuracy_score_difference",
    "accuracy_score_group_min",
    "roc_auc_score_difference",
    "total_variation_distance",
    "mean_absolute_error",
    "root_mean_squared_error",
    "mean_error",
    "r2_score",
    "mean_absolute_error_difference",
    "mean_absolute_error_group_max",
    "ndcg_score",
    "ndcg_score_difference",
    "exposure_ratio",
    "exposure_per_relevance_ratio",
    "mean_quality",
    "mean_quality_difference",
)
"""Metrics that are sent to tracking unless others are asked for; those of gates always are."""

_NEW_LINE = "\n"
_text = json.encoder.encode_basestring
_SCALARS = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_PER_CLASS = ("selection_rate", "base_rate", "true_positive_rate", "false_positive_rate", "precision_score")
_SETTINGS = {"min_support", "min_display", "low_support", "on_inconclusive"}
_MOST_CLASSES_SHOWN = 50
_MOST_CROSSED = 10
_BESIDE_COUNTS = ("attributions", "drift", "energy", "explanations", "privacy", "robustness")
"""What is only measured where the spec asks for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where counts come from: what the report needs beside them."""

    experiment: str
    attempt: int
    created: datetime
    data_uri: str
    data_digest: str
    n_expected: int
    """Rows the split has."""
    split: str = "test"
    target: str | None = None
    model_digest: str | None = None
    code_digest: str | None = None
    remarks: tuple[str, ...] = ()
    """What else readers must know; they stand among the limitations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """What was found beyond the counts of the rows as they are."""

    measurements: Measurements = NOTHING
    probes: ProbesSpec | None = None
    conditions: Mapping[str, CountState] = field(default_factory=dict)
    champion: Champion = UNNAMED

    def sections(
        self, state: CountState, groupings: Sequence[tuple[str, ...]], evaluation: EvaluationSpec
    ) -> dict[str, Any]:
        """The report's sections of what the spec asks for; absent where it asks for nothing."""
        found: dict[str, Any] = dict(replace(self.measurements, alpha=1 - evaluation.confidence).sections)
        if self.probes is not None and self.probes.robustness:
            found["robustness"] = robustness_section(state, self.conditions, self.probes, groupings, evaluation)
        asked = self.probes.temperature if self.probes else None
        if asked is not None and not found["temperature"]["why_not_measured"]:
            other = self.conditions.get(asked.condition)
            found["temperature"] |= before_and_after(state, other, asked, groupings, evaluation)
        return found


def build_report(
    state: AnyState,
    *,
    provenance: Provenance,
    evaluation: EvaluationSpec,
    gates: Sequence[GateSpec] = (),
    mitigation: MitigationSpec | None = None,
    baseline: Baseline | None = None,
    measurements: Measurements = NOTHING,
    probes: ProbesSpec | None = None,
    conditions: Mapping[str, CountState] | None = None,
    champion: Champion = UNNAMED,
) -> dict[str, Any]:
    """Measure everything and write it down; equal arguments give equal reports.

    With ``mitigation`` it says what that changed against ``baseline``, measured in the same way. What ``measurements``
    ask for gets a section each. ``conditions``: counts of the same rows by the conditions that ``probes`` made.
    ``champion``: whom gates hold the model against. Only classes have any of these.
    """
    if not isinstance(state, CountState):
        return _of_numbers(state, provenance, evaluation, gates)
    looks = Looks(measurements=measurements, probes=probes, conditions=conditions or {}, champion=champion)
    if mitigation is None:
        return _measured(state, provenance, evaluation, gates, looks)
    after = _measured(state, provenance, evaluation, gates, looks, also=mitigation.by)
    why_not = why_not_comparable(state, baseline)
    before = None
    if why_not is None and baseline is not None and baseline.state is not None:
        earlier = replace(provenance, experiment=baseline.experiment)
        counted = [gate for gate in gates if gate.condition is None and gate.metric not in METRICS]
        counted = [gate for gate in counted if not gate.requirement.is_relative]
        before = _measured(baseline.state, earlier, evaluation, counted, Looks(), also=mitigation.by)
    after["mitigation"] = mitigation_section(mitigation, after, before, why_not=why_not)
    after["limitations"] += _limits_of_mitigation(mitigation, is_compared=before is not None)
    return dict(sorted(after.items()))


def _limits_of_mitigation(mitigation: MitigationSpec, *, is_compared: bool) -> list[str]:
    found = []
    if not mitigation.is_in_training:
        found.append(
            f"The model has a threshold for each group by {' and '.join(mitigation.by)}: it uses the group whenever it "
            "decides, which some laws forbid."
        )
    if is_compared:
        found.append(
            "Bounds before and after mitigation are not those of the change: both models judged the same rows."
        )
    return found


def _measured(
    state: CountState,
    provenance: Provenance,
    evaluation: EvaluationSpec,
    gates: Sequence[GateSpec],
    looks: Looks,
    *,
    also: tuple[str, ...] = (),
) -> dict[str, Any]:
    overall = grouping(state)
    names = [attribute.name for attribute in state.attributes]
    groupings = [grouping(state, by) for by in requested_groupings(evaluation, gates, names, also=(also,))]
    outcomes = evaluate_gates(
        state, gates, evaluation, looks.measurements, conditions=looks.conditions, champion=looks.champion
    )
    beside = {**looks.champion.identity, "why_not_compared": looks.champion.problem_with(state)}
    sections = looks.sections(state, [groups.by for groups in groupings], evaluation)
    disparities = [entry for groups in groupings for entry in _disparities(groups, overall, evaluation)]
    tests = gap_tests(groupings, overall, evaluation.disparity_correction, min_support=evaluation.min_support)
    simple = [overall, *(groups for groups in groupings if len(groups.by) == 1)]
    report = {
        **_envelope(state, provenance, evaluation, outcomes, gates, beside),
        "state": _counts(state),
        "data": _data(state, provenance),
        "task": overall.counts.task,
        "classes": list(state.classes),
        "positive_class": state.classes[1] if len(state.classes) == 2 else None,
        "threshold": {"value": evaluation.threshold, "origin": "spec"} if len(state.classes) == 2 else None,
        "groups": [entry for groups in (overall, *groupings) for entry in _groups(groups, evaluation)],
        "disparities": disparities,
        "conditional": [entry for groups in groupings for entry in _conditional(state, groups.by, evaluation)],
        "multiplicity": _multiplicity(gates, tests, evaluation, looks.champion),
        "resolution": [_resolution(groups, overall, evaluation) for groups in groupings],
        "inequality": _inequality(overall, groupings),
        "calibration": [entry for groups in simple for entry in _calibrations(groups, evaluation.confidence)],
        "cross_areas": [entry for groups in groupings for entry in _cross_areas(groups, evaluation)],
        "curves": [entry for groups in simple for entry in _curves(groups)],
        "thresholds": [entry for groups in groupings for entry in _sweep(groups, overall)],
        "names": _names(groupings),
        "not_measured": _not_measured(state, sections),
        "limitations": [*_limitations(state, evaluation, overall, groupings, tests), *provenance.remarks],
        **scoring_section(overall, groupings),
        **sections,
    }
    return dict(sorted(report.items()))


def _envelope(
    state: AnyState,
    provenance: Provenance,
    evaluation: EvaluationSpec,
    outcomes: Sequence[GateOutcome],
    gates: Sequence[GateSpec],
    champion: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """What every report has: of what, when, with which settings, and how the gates turned out.

    ``champion``: who was compared with, for gates that hold the model against it.
    """
    return {
        "schema": SCHEMA,
        "created": provenance.created.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "experiment": provenance.experiment,
        "attempt": provenance.attempt,
        "confidence": evaluation.confidence,
        "outcome": overall_outcome(outcomes).value,
        "gates": [_gate(outcome, gate, champion) for outcome, gate in zip(outcomes, gates, strict=True)],
        "model": {"digest": provenance.model_digest},
        "code": {"digest": provenance.code_digest},
        "state": {"digest": state.digest()},
        "settings": evaluation.model_dump(mode="json", include=_SETTINGS),
        "attributes": [
            {
                "name": attribute.name,
                "levels": list(attribute.levels),
                "role": "control" if attribute.name in evaluation.control else "sensitive",
            }
            for attribute in state.attributes
        ],
    }


def _of_numbers(
    state: NumberState, provenance: Provenance, evaluation: EvaluationSpec, gates: Sequence[GateSpec]
) -> dict[str, Any]:
    """The report of a regression, a ranking or a quality."""
    overall, names = number_grouping(state), [attribute.name for attribute in state.attributes]
    groupings = [number_grouping(state, by) for by in requested_groupings(evaluation, gates, names)]
    outcomes = evaluate_number_gates(state, gates, evaluation)
    least, correction = evaluation.min_support, evaluation.disparity_correction
    tests = number_tests(task_of(state), groupings, correction, min_support=least)
    limits = number_limitations(state, [overall, *groupings], evaluation)
    report = {
        **_envelope(state, provenance, evaluation, outcomes, gates),
        **NO_CLASSES,
        "data": _source(provenance) | number_data(state),
        "task": task_of(state),
        "groups": [entry for groups in (overall, *groupings) for entry in number_groups(state, groups, evaluation)],
        "disparities": [
            entry for groups in groupings for entry in number_disparities(state, groups, overall, evaluation)
        ],
        "multiplicity": _multiplicity(gates, tests, evaluation, UNNAMED),
        "names": _names(groupings),
        "not_measured": sorted(_BESIDE_COUNTS),
        "limitations": [*_always(state.book, evaluation, groupings, tests), *limits, *provenance.remarks],
        **number_section(state, [overall, *groupings]),
    }
    return dict(sorted(report.items()))


def report_bytes(report: Mapping[str, Any]) -> bytes:
    """The one way a report is written: UTF-8, sorted keys, a line feed at the end. Raises ``ValueError`` for NaN."""
    return f"{_written(report, _NEW_LINE)}\n".encode()


def report_sha256(report: Mapping[str, Any]) -> str:
    """Hexadecimal digest of ``report_bytes``."""
    return hashlib.sha256(report_bytes(report)).hexdigest()


def _written(value: Any, margin: str) -> str:
    """What ``json.dumps`` writes with sorted keys and an indent of 1, several times as fast: reports are large."""
    if isinstance(value, dict) and value:
        inner = f"{margin} "
        items = [f"{_text(key)}: {_written(value[key], inner)}" for key in sorted(value)]
        return f"{{{inner}{f',{inner}'.join(items)}{margin}}}"
    if isinstance(value, list) and value:
        inner = f"{margin} "
        return f"[{inner}{f',{inner}'.join([_written(item, inner) for item in value])}{margin}]"
    if type(value) is float and isfinite(value):
        return repr(value)
    if type(value) is str:
        return _text(value)
    return _SCALARS.encode(value)


def report_schema() -> dict[str, Any]:
    """JSON Schema of the report, as shipped with the package."""
    text = resources.files("fairlead.evaluation").joinpath("report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@dataclass(frozen=True, kw_only=True, slots=True)
class FlatMetrics:
    """A report as named numbers, for tracking."""

    values: dict[str, float]
    """``rai/<metric>/<grouping>``, with suffixes ``.lower95`` and ``.upper95`` for bounds."""
    undefined: tuple[str, ...]
    """Names of metrics without a value."""


def flat_metrics(report: Mapping[str, Any], *, metrics: Collection[str] | None = HEADLINES) -> FlatMetrics:
    """The report's numbers for tracking: ``metrics``, those that gates name, and those measured beside; None: all."""
    wanted = None if metrics is None else {*metrics, *(gate["metric"] for gate in report["gates"])}
    slug_of = {tuple(by): slug for slug, by in report["names"].items()}
    overall = next(group for group in report["groups"] if not group["by"])
    found = [(metric, OVERALL, entry) for metric, entry in overall["metrics"].items()]
    found += [(entry["metric"], slug_of[tuple(entry["by"])], entry) for entry in report["disparities"]]
    sections = [report[name] for name in SECTIONS if name in report]
    beside = [(metric, OVERALL, entry) for section in sections for metric, entry in section["metrics"].items()]
    values: dict[str, float] = {}
    undefined = []
    for metric, place, entry in [*found, *beside]:
        if wanted is not None and metric not in wanted and metric not in METRICS:
            continue
        key = key_of(metric, place)
        if entry["value"] is None:
            undefined.append(key)
            continue
        values[key] = float(entry["value"])
        values |= {f"{key}.{bound}": entry[bound] for bound in ("lower95", "upper95") if entry[bound] is not None}
    values |= _flat_robustness(report, slug_of)
    return FlatMetrics(values=values, undefined=tuple(undefined))


def _flat_robustness(report: Mapping[str, Any], slug_of: Mapping[tuple[str, ...], str]) -> dict[str, float]:
    """Accuracy under each condition, and its gaps: ``rai/<metric>/<grouping>/under/<condition>``."""
    values: dict[str, float] = {}
    for one in report.get("robustness", ()):
        overall = next(group for group in one["groups"] if not group["by"])
        found = [
            ("accuracy_score", OVERALL, overall["accuracy_score"]),
            ("accuracy_change", OVERALL, overall["change"]),
        ]
        found += [(entry["metric"], slug_of[tuple(entry["by"])], entry) for entry in one["disparities"]]
        for metric, place, entry in found:
            key = f"rai/{metric}/{place}/under/{one['condition']}"
            there = {"": entry["value"], **{f".{bound}": entry[bound] for bound in ("lower95", "upper95")}}
            values |= {f"{key}{suffix}": float(value) for suffix, value in there.items() if value is not None}
    return values


def _gate(outcome: GateOutcome, gate: GateSpec, champion: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "metric": outcome.metric,
        "by": list(outcome.by),
        "require": outcome.require,
        **({"within": list(outcome.within)} if outcome.within else {}),
        **({} if outcome.condition is None else {"condition": outcome.condition}),
        "evidence": outcome.evidence,
        "limit": gate.limit_text,
        "outcome": outcome.outcome.value,
        "why": outcome.why,
        "value": outcome.value,
        "bound": outcome.bound,
        "lower95": outcome.lower95,
        "upper95": outcome.upper95,
        "rows_needed_per_group": outcome.rows_needed_per_group,
        "excluded": list(outcome.excluded),
        **({"champion": {**champion, **_two_values(outcome)}} if outcome.is_relative else {}),
        **({} if outcome.p_value is None else {"p_value": outcome.p_value, "p_adjusted": outcome.p_adjusted}),
    }


def _two_values(outcome: GateOutcome) -> dict[str, Any]:
    """Those whose difference the gate's own numbers are."""
    return {"of_model": outcome.of_model, "of_champion": outcome.of_champion}


def _multiplicity(
    gates: Sequence[GateSpec], tests: Sequence[GapTest], evaluation: EvaluationSpec, champion: Champion
) -> dict[str, Any]:
    """How many comparisons were made, and how they were judged together."""
    level = round(1 - evaluation.confidence, 12)
    return {
        "gates": {
            "correction": evaluation.correction,
            "comparisons": sum(is_tested(gate, champion) for gate in gates),
            "level": level,
        },
        "disparities": {
            "correction": evaluation.disparity_correction,
            "comparisons": sum(test.p_value is not None for test in tests),
            "level": level,
            "tests": [
                {
                    "metric": test.metric,
                    "by": list(test.by),
                    "p_value": test.p_value,
                    "p_adjusted": test.p_adjusted,
                    "beyond_chance": None if test.p_adjusted is None else test.p_adjusted <= level,
                }
                for test in tests
            ],
        },
    }


def _counts(state: CountState) -> dict[str, Any]:
    """The digest of the counts and, where every different score was asked for, how many there are."""
    found: dict[str, Any] = {"digest": state.digest()}
    if (table := state.exact_scores) is not None:
        num_entries = len(table.entries)
        kept = {"entries": num_entries, "bytes": ENTRY_BYTES * num_entries, "dropped": table.is_dropped}
        found["exact_scores"] = kept
    return found


def _source(provenance: Provenance) -> dict[str, Any]:
    return {
        "uri": provenance.data_uri,
        "digest": provenance.data_digest,
        "split": provenance.split,
        "target": provenance.target,
        "n_expected": provenance.n_expected,
    }


def _data(state: CountState, provenance: Provenance) -> dict[str, Any]:
    abstained = state.counts[:, :, -1].sum()
    unknown = {}
    for attribute in state.attributes:
        groups = grouping(state, (attribute.name,))
        unknown[attribute.name] = int(groups.sizes[groups.is_unknown].sum())
    return {
        **_source(provenance),
        "n": state.n,
        "n_unknown": unknown,
        "n_nan_labels": state.n_nan_labels,
        "n_nan_scores": state.n_nan_scores,
        "n_abstained": int(abstained),
    }


def _groups(groups: Grouping, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """The entries of one grouping; values are computed for all its groups at once."""
    counts = groups.counts
    names = metric_names(counts.task, has_scores=counts.calibration is not None, has_losses=counts.losses is not None)
    metrics = {}
    for name in names:
        estimates = group_estimates(name, counts)
        metrics[name] = values_of(estimates, evaluation)
        _pool(metrics[name], estimates, groups, evaluation)
    tables = _tables(counts, evaluation)
    return [
        {
            "by": list(groups.by),
            "key": groups.key(index),
            "n": int(size),
            "unknown": bool(groups.is_unknown[index]),
            "metrics": {name: values[index] for name, values in metrics.items()},
            **tables[index],
        }
        for index, size in enumerate(groups.sizes)
    ]


def _pool(
    entries: Sequence[dict[str, Any]], estimates: Estimates, groups: Grouping, evaluation: EvaluationSpec
) -> None:
    """Add to the rates of known groups of few rows what the others suggest."""
    if not isinstance(estimates, Rates) or not groups.by:
        return
    known = np.flatnonzero(~groups.is_unknown)
    numerators, denominators = estimates.numerators[known], estimates.denominators[known]
    prior = prior_of(numerators, denominators)
    if prior is None or not 0 < prior.mean < 1 or prior.rows == 0:
        return
    few = denominators < evaluation.min_support
    found = pooled_rates(numerators[few], denominators[few], prior, confidence=evaluation.confidence)
    for index, value, lower, upper in zip(known[few], *found, strict=True):
        entries[index]["pooled"] = {"value": float(value), "interval": [float(lower), float(upper)]}


def _tables(counts: Counts, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """What each group's values are made of: a confusion table, or one for all classes and values of each."""
    if counts.task == "binary":
        return [{"counts": table} for table in _confusions(counts.table)]
    if len(counts.classes) > _MOST_CLASSES_SHOWN:
        return [{} for _ in counts.table]
    classes = {name: _class_values(counts, index, evaluation) for index, name in enumerate(counts.classes)}
    return [
        {
            "confusion": table.tolist(),
            "classes": {
                name: {metric: each[index] for metric, each in values.items()} for name, values in classes.items()
            },
        }
        for index, table in enumerate(counts.table)
    ]


def _confusions(table: IntArray) -> list[dict[str, int]]:
    confusion = one_against_rest(table, 1)
    abstained = confusion.abstained_negative + confusion.abstained_positive
    return [
        {name: int(getattr(confusion, name)[index]) for name in ("tn", "fp", "fn", "tp")}
        | ({"abstained": int(rows)} if rows else {})
        for index, rows in enumerate(abstained)
    ]


def _class_values(counts: Counts, positive: int, evaluation: EvaluationSpec) -> dict[str, list[dict[str, Any]]]:
    names = (*_PER_CLASS, "f1_score")
    return {name: values_of(class_estimates(name, counts, positive), evaluation) for name in names}


def _disparities(groups: Grouping, overall: Grouping, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """Every gap of one grouping; those known under a second name are computed once."""
    has_scores = groups.counts.calibration is not None
    has_losses = groups.counts.losses is not None
    names = aggregate_names(groups.counts.task, has_scores=has_scores, has_losses=has_losses)
    alpha, min_support = 1 - evaluation.confidence, evaluation.min_support
    found = {
        name: disparity(name, groups, overall.counts, alpha=alpha, min_support=min_support)
        for name in names
        if name not in PUBLISHED
    }
    keys = [groups.key(index) for index in range(len(groups.keys))]
    return [disparity_of(replace(found[PUBLISHED.get(name, name)], metric=name), keys) for name in names]


def _conditional(state: CountState, by: tuple[str, ...], evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """Gaps within strata of the control attributes; none where these are compared themselves, nor in other tasks."""
    names = [attribute.name for attribute in state.attributes]
    control = tuple(name for name in evaluation.control if name in names)
    if not control or set(control) & set(by) or len(state.classes) != 2:
        return []
    groups, found = conditional_gaps(state, by, control)
    return [_conditional_entry(groups, one, control, evaluation.confidence) for one in found]


def _conditional_entry(groups: Grouping, one: Conditional, control: Sequence[str], confidence: float) -> dict[str, Any]:
    strata = one.strata
    difference, ratio = (pool(strata, confidence=confidence) for pool in (risk_difference, odds_ratio))
    test = association_test(strata)
    each = zip(one.keys, strata.x, strata.n, strata.reference_x, strata.reference_n, strict=True)
    return {
        "metric": one.metric,
        "by": list(groups.by),
        "control": list(control),
        "key": groups.key(one.group),
        "reference": groups.key(one.reference),
        "unconditional": one.crude,
        "difference": {**_pooled(difference), "method": "mantel-haenszel-sato"},
        "odds_ratio": {**_pooled(ratio), "method": "mantel-haenszel-robins-breslow-greenland"},
        "statistic": test[0] if test else None,
        "p_value": test[1] if test else None,
        "reversed": one.is_reversed,
        "n_strata_left_out": int((~strata.is_informative).sum()),
        "strata": [
            {
                "key": key,
                "num": int(x),
                "den": int(n),
                "reference_num": int(y),
                "reference_den": int(m),
                "difference": float(x / n - y / m) if n and m else None,
            }
            for key, x, n, y, m in each
        ],
    }


def _pooled(pooled: Pooled) -> dict[str, Any]:
    interval = None if pooled.interval is None else list(pooled.interval)
    return {"value": pooled.value, "interval": interval}


def _resolution(groups: Grouping, overall: Grouping, evaluation: EvaluationSpec) -> dict[str, Any]:
    """The smallest gap this sample could prove to be absent: the upper bound if all groups had the overall rate.

    For selection rates in binary tasks and for accuracy in multi-class ones.
    """
    metric = "selection_rate" if groups.counts.task == "binary" else "accuracy_score"
    whole = group_estimates(metric, overall.counts)
    sizes = groups.sizes[~groups.is_unknown].astype(np.float64)
    sizes = sizes[sizes > 0]
    smallest = None
    if len(sizes) >= 2 and not np.isnan(whole.values[0]):
        alike = Rates(
            numerators=sizes * whole.values[0],
            denominators=sizes,
            undefined="empty",
            is_empty=np.zeros(len(sizes), dtype=bool),
        )
        smallest = gap_bounds([alike], alpha=1 - evaluation.confidence).upper
    return {"by": list(groups.by), "metric": f"{metric}_difference", "smallest_provable_gap": smallest}


def _inequality(overall: Grouping, groupings: Sequence[Grouping]) -> dict[str, Any]:
    """How unequally errors fall on single rows, and between groups; benefit = prediction - label + 1."""
    between = []
    for groups in groupings:
        known = groups.counts.table[~groups.is_unknown]
        is_binary = groups.counts.task == "binary"
        between.append(
            {
                "by": list(groups.by),
                "generalized_entropy_index": between_group_entropy(one_against_rest(known, 1)) if is_binary else None,
                "differential_fairness": differential_fairness(known),
            }
        )
    if overall.counts.task != "binary":
        return {"generalized_entropy_index": None, "theil_index": None, "between_groups": between}
    weights = benefit_counts(one_against_rest(overall.counts.table, 1))[0].tolist()
    return {
        "generalized_entropy_index": generalized_entropy((0, 1, 2), weights),
        "theil_index": theil_index((0, 1, 2), weights),
        "between_groups": between,
    }


def _calibrations(groups: Grouping, confidence: float) -> list[dict[str, Any]]:
    if groups.calibration is None or groups.score_sums is None:
        return []
    return [
        _calibration(groups, index, groups.calibration[index], groups.score_sums[index], confidence)
        for index in range(len(groups.keys))
        if groups.calibration[index].any()
    ]


def _calibration(
    groups: Grouping, index: int, counts: IntArray, score_sums: IntArray, confidence: float
) -> dict[str, Any]:
    found = calibration(counts, score_sums)
    width = 1 / len(found.rows)
    lower, upper = wilson_interval(counts[1], found.rows, confidence=confidence)
    return {
        "by": list(groups.by),
        "key": groups.key(index),
        "n": found.n,
        "expected_calibration_error": found.error,
        "maximum_calibration_error": found.largest_error,
        "squared_calibration_error_debiased": found.squared_error_debiased,
        "calibration_in_the_large": found.in_the_large,
        "bins": [
            {
                "from": at * width,
                "to": (at + 1) * width,
                "n": int(rows),
                "num": int(counts[1, at]),
                "mean_score": float(found.mean_score[at]),
                "rate": float(found.hit_rate[at]),
                "interval": [float(lower[at]), float(upper[at])],
            }
            for at, rows in enumerate(found.rows)
            if rows
        ],
    }


def _curves(groups: Grouping) -> list[dict[str, Any]]:
    if groups.counts.histogram is None:
        return []
    curves = [(index, roc_points(histogram)) for index, histogram in enumerate(groups.counts.histogram)]
    return [
        {"by": list(groups.by), "key": groups.key(index), "roc": [list(point) for point in points]}
        for index, points in curves
        if points is not None
    ]


def _cross_areas(groups: Grouping, evaluation: EvaluationSpec) -> list[dict[str, Any]]:
    """Areas under the ROC curve of each group's positives among each other's negatives, where groups are few."""
    known = [int(group) for group in np.flatnonzero(~groups.is_unknown & (groups.sizes > 0))]
    if len(known) > _MOST_CROSSED:
        return []
    found = []
    for positives, negatives in permutations(known, 2):
        area = cross_area(groups.counts, positives, negatives)
        if area is not None:
            keys = {"positives": groups.key(positives), "negatives": groups.key(negatives)}
            found.append({"by": list(groups.by), **keys, **values_of(area, evaluation)[0]})
    return found


def _sweep(groups: Grouping, overall: Grouping) -> list[dict[str, Any]]:
    """Accuracy of all rows and the gap in selection rates, had the threshold been another."""
    if groups.counts.histogram is None or overall.counts.histogram is None:
        return []
    thresholds, whole = sweep(overall.counts.histogram)
    _, tables = sweep(groups.counts.histogram[~groups.is_unknown])
    rows = tables.sum(axis=2)
    there = rows[:, 0] > 0
    if there.sum() < 2 or not whole[0].any():
        return []
    selected = (tables[there, :, 1] + tables[there, :, 3]) / rows[there]
    accuracy = (whole[0, :, 0] + whole[0, :, 3]) / whole[0].sum(axis=1)
    gaps = selected.max(axis=0) - selected.min(axis=0)
    points = zip(thresholds, accuracy, gaps, strict=True)
    return [
        {
            "by": list(groups.by),
            "points": [
                {"threshold": float(at), "accuracy_score": float(hit), "selection_rate_difference": float(gap)}
                for at, hit, gap in points
            ],
        }
    ]


def _not_measured(state: CountState, sections: Mapping[str, Any]) -> list[str]:
    without = {name for name, found in sections.items() if isinstance(found, Mapping) and found["why_not_measured"]}
    scores = [] if state.has_scores else ["calibration", "roc_auc_score"]
    if state.has_scores and len(state.classes) > 2:
        scores = ["roc_auc_score"]
    measured = sections.keys() - without
    return sorted([*scores, *(name for name in _BESIDE_COUNTS if name not in measured)])


def _always(
    book: Book, evaluation: EvaluationSpec, groupings: Sequence[Grouping | NumberGroups], tests: Sequence[GapTest]
) -> list[str]:
    """Limits that counts of any kind have."""
    found = [
        "Bounds and intervals hold for one statistic at a time; among many, some will miss the truth by chance.",
        *_beyond_chance(tests, evaluation),
        "Counts describe this split of these data; they say nothing about people who are not in it.",
    ]
    if book.n < 1000:
        found.append(f"The split has {book.n} rows: small gaps can be neither proven nor excluded.")
    if not groupings:
        found.append("No groups were compared: the spec names no grouping.")
    if abs(evaluation.confidence - 0.95) > 1e-12:
        found.append(f"Bounds named lower95 and upper95 were computed at confidence {evaluation.confidence:g}.")
    if book.n_unknown:
        found.append(f"{book.n_unknown} rows lack a sensitive value; they are shown but take no part in gaps.")
    return found


def _limitations(
    state: CountState,
    evaluation: EvaluationSpec,
    overall: Grouping,
    groupings: Sequence[Grouping],
    tests: Sequence[GapTest],
) -> list[str]:
    found = _always(state.book, evaluation, groupings, tests)
    if state.n_nan_labels:
        found.append(f"{state.n_nan_labels} rows have no label and are in no metric.")
    if state.n_nan_scores:
        found.append(f"{state.n_nan_scores} rows have a score that is not a number; they count as abstained.")
    if abstained := int(overall.counts.table[:, :, -1].sum()):
        found.append(f"{abstained} rows have no prediction; they count as neither selected nor right.")
    if state.parts.has_weights:
        found.append(
            "Rates and their gaps are weighted. Numbers of rows, areas under ROC curves, losses, calibration, "
            "thresholds and inequality are not."
        )
    if state.clipped is not None and state.clipped.any():
        rows = int(state.clipped.sum())
        found.append(f"{rows} rows gave their own class no probability; the log loss of each counts as 36.")
    if state.n_zero_weights:
        found.append(f"{state.n_zero_weights} rows have a weight of 0: they are counted, and add nothing to any rate.")
    found += _limits_of_exactness(state, evaluation)
    if evaluation.control and len(state.classes) != 2:
        found.append("Gaps within strata were not computed: they are defined for two classes.")
    if evaluation.control and state.parts.has_weights:
        found.append("Gaps within strata count rows, not weights.")
    for groups in groupings:
        few = int(((groups.sizes < evaluation.min_support) & ~groups.is_unknown).sum())
        if few:
            by = " and ".join(groups.by)
            have = "1 group by {} has" if few == 1 else f"{few} groups by {{}} have"
            found.append(f"{have.format(by)} fewer than {evaluation.min_support} rows.")
    return found


def _limits_of_exactness(state: CountState, evaluation: EvaluationSpec) -> list[str]:
    """Why areas under the ROC curve are not exact though the spec asks for it."""
    if not evaluation.exact_auc:
        return []
    if (table := state.exact_scores) is None:
        why = "there are more than two classes" if len(state.classes) > 2 else "there are no scores"
        return [f"No area under a ROC curve is exact, as evaluation.exact_auc asks: {why}."]
    if table.is_dropped:
        return [
            f"More than {MOST_ENTRIES:,} scores differ by group and label, too many to keep: areas under the ROC curve "
            "come from 1,024 bins after all, and how far off that may be stands beside each (bin_error)."
        ]
    return []


def _beyond_chance(tests: Sequence[GapTest], evaluation: EvaluationSpec) -> list[str]:
    there = [test.p_adjusted for test in tests if test.p_adjusted is not None]
    if not there:
        return []
    level = round(1 - evaluation.confidence, 12)
    method = CORRECTIONS[evaluation.disparity_correction]
    above = sum(p_value <= level for p_value in there)
    is_more = "is" if above == 1 else "are"
    return [f"Of {len(there)} gaps tested, {above} {is_more} more than chance explains ({method}, level {level:g})."]


def _names(groupings: Sequence[Grouping | NumberGroups]) -> dict[str, list[str]]:
    """Groupings by the name under which they are tracked."""
    found = [groups.by for groups in groupings]
    return {slug: list(by) for slug, by in zip(slugs(found), found, strict=True)}

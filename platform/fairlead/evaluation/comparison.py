"""What mitigation changed: the report's values beside those of the same rows before it.

Pure over two reports. Each column has its own bounds, and they are not bounds of the change: both models judged the
same rows, so their errors are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairlead.evaluation.measured import METRICS
from fairlead.evaluation.metrics import canonical
from fairlead.evaluation.state import CountState
from fairlead.spec import MitigationSpec

Report = Mapping[str, Any]
OVERALL = ("accuracy_score", "balanced_accuracy_score", "roc_auc_score", "selection_rate")
GAPS = (
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "accuracy_score_difference",
    "accuracy_score_group_min",
)
OF_GROUPS = ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy_score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """The experiment to compare with. Without ``state``, ``why_not`` says why it has no counts."""

    experiment: str
    state: CountState | None = None
    why_not: str = "it has no counts"


def why_not_comparable(state: CountState, baseline: Baseline | None) -> str | None:
    """Why ``baseline`` is no "before" of ``state``; None if it is: the same rows, groups, classes and labels."""
    if baseline is None:
        return "the spec names no experiment to compare with"
    other = baseline.state
    if other is None:
        return f"experiment {baseline.experiment}: {baseline.why_not}"
    is_alike = (state.n, state.record_sum, state.record_xor) == (other.n, other.record_sum, other.record_xor)
    if not is_alike or state.attributes != other.attributes or state.classes != other.classes:
        return f"experiment {baseline.experiment} counted other rows, groups or classes"
    labelled = [one.counts.sum(axis=2) for one in (state, other)]  # by group and label, whatever was predicted
    if not np.array_equal(*labelled):
        return f"experiment {baseline.experiment} counted the same records with other labels or groups"
    return None


def mitigation_section(
    mitigation: MitigationSpec, after: Report, before: Report | None, *, why_not: str | None
) -> dict[str, Any]:
    """The report's ``mitigation``: the method, and what there is before and after it."""
    return {
        "method": mitigation.method,
        "by": list(mitigation.by),
        "goal": mitigation.goal_used if mitigation.needs_two_classes else None,
        "options": mitigation.model_dump(mode="json", include={"allowed_gap", "step_size", "strength"}),
        "decides_by_group": not mitigation.is_in_training,
        "before": None if before is None else {"experiment": before["experiment"], "state": before["state"]["digest"]},
        "why_not_compared": why_not,
        "comparison": [] if before is None else _comparison(mitigation.by, before, after),
        "groups": [] if before is None else _groups(mitigation.by, before, after),
        "gates": [] if before is None else _gates(before, after),
    }


def _comparison(by: Sequence[str], before: Report, after: Report) -> list[dict[str, Any]]:
    asked: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in OVERALL] + [(name, tuple(by)) for name in GAPS]
    asked += [
        (gate["metric"], tuple(gate["by"])) for gate in after["gates"] if not {"condition", "within"} & gate.keys()
    ]
    found = []
    once = {(canonical(metric), frozenset(groups)): groups for metric, groups in reversed(asked)}  # the first spelling
    for (metric, _), groups in reversed(once.items()):
        sides = {"before": _entry(before, metric, groups), "after": _entry(after, metric, groups)}
        if all(sides.values()):
            values = {side: {name: entry[name] for name in _KEPT} for side, entry in sides.items() if entry}
            found.append({"metric": metric, "by": list(groups), **values})
    return found


_KEPT = ("value", "lower95", "upper95")
_BESIDE = {"condition", "champion"}
"""Keys of gates that look at other counts than those of the rows as they are."""


def _entry(report: Report, metric: str, by: Sequence[str]) -> Mapping[str, Any] | None:
    if not by:
        overall: Mapping[str, Any] = next(group for group in report["groups"] if not group["by"])
        entry: Mapping[str, Any] | None = overall["metrics"].get(metric)
        return entry
    found = (one for one in report["disparities"] if one["metric"] == metric and set(one["by"]) == set(by))
    one = next(found, None)
    supported = one["supported"] if one else None
    return supported if supported is not None and supported["value"] is not None else one


def _groups(by: Sequence[str], before: Report, after: Report) -> list[dict[str, Any]]:
    """Rates of each group before and after: who gains, and who pays."""
    sides = {side: _by_key(report, by) for side, report in (("before", before), ("after", after))}
    return [
        {
            "key": dict(key),
            "n": group["n"],
            "metrics": {
                metric: {side: groups[key]["metrics"][metric]["value"] for side, groups in sides.items()}
                for metric in OF_GROUPS
                if metric in group["metrics"]
            },
        }
        for key, group in sides["after"].items()
        if key in sides["before"]
    ]


def _by_key(report: Report, by: Sequence[str]) -> dict[tuple[tuple[str, str], ...], Mapping[str, Any]]:
    return {tuple(group["key"].items()): group for group in report["groups"] if set(group["by"]) == set(by)}


def _gates(before: Report, after: Report) -> list[dict[str, str]]:
    """What the same requirements would have said before; those on what its counts do not hold are left out."""
    outcomes = {gate["id"]: gate["outcome"] for gate in before["gates"]}
    counted = [gate for gate in after["gates"] if gate["metric"] not in METRICS and not gate.keys() & _BESIDE]
    return [{"id": gate["id"], "before": outcomes[gate["id"]], "after": gate["outcome"]} for gate in counted]

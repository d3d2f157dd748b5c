"""The report as one HTML page: no script, no network, readable in a frame, on paper and in the dark.

The page shows what the report holds and computes nothing but positions on paper. Groups of fewer rows than
``min_display`` are hidden, and with them a second one wherever a hidden number could be had by subtraction; the
report itself has everything. All strings from data are escaped. Colour is never the only signal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from jinja2 import Template

from fairlead.evaluation.cells import UNKNOWN
from fairlead.evaluation.drawing import (
    CHART,
    SHARES,
    Chart,
    Key,
    Mark,
    Report,
    Scale,
    Series,
    count,
    figure,
    group_name,
    hidden_by,
    hidden_groups,
    listed_by,
    mark_of_bounds,
    mark_of_difference,
    mark_of_interval,
    number,
    percent,
    place,
    round_end,
    sentence,
    short,
    signed,
)
from fairlead.evaluation.gates import CORRECTIONS
from fairlead.evaluation.layout import style, template
from fairlead.evaluation.measured import METRICS
from fairlead.evaluation.metrics import canonical, needs_losses, split_aggregate
from fairlead.evaluation.page_attributions import attributions_part
from fairlead.evaluation.page_measured import energy_part, privacy_part
from fairlead.evaluation.page_numbers import (
    COLUMNS,
    LADDER,
    MEANINGS,
    TILES,
    TITLES,
    WORDS,
    facts,
    is_of_numbers,
    prediction_chart,
    scale_of_gap,
    scale_of_metric,
)
from fairlead.evaluation.page_probes import changed_inputs, drift_part, importance_part, temperature_part, way_name
from fairlead.evaluation.report import report_sha256
from fairlead.representation import ChampionView

_MOST_SERIES = 6
_MOST_BANDS = 3  # all rows, or two groups and the unknown
_MOST_GROUPS = 200
_OPERATORS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}
_TITLES = {
    "accuracy_score": "accuracy",
    "zero_one_loss": "error rate",
    "selection_rate": "selection rate",
    "base_rate": "share of positive labels",
    "true_positive_rate": "true positive rate",
    "false_negative_rate": "false negative rate",
    "false_positive_rate": "false positive rate",
    "true_negative_rate": "true negative rate",
    "precision_score": "precision",
    "false_discovery_rate": "false discovery rate",
    "negative_predictive_value": "negative predictive value",
    "false_omission_rate": "false omission rate",
    "balanced_accuracy_score": "balanced accuracy",
    "f1_score": "F1 score",
    "matthews_corrcoef": "Matthews correlation",
    "treatment_equality": "false negatives per false positive",
    "expected_calibration_error": "calibration error",
    "maximum_calibration_error": "largest calibration error",
    "squared_calibration_error_debiased": "squared calibration error, sampling noise taken off",
    "calibration_in_the_large": "mean score less share of hits",
    "roc_auc_score": "area under the ROC curve",
    "brier_score_loss": "Brier score",
    "log_loss": "log loss",
    "count": "number of rows",
    **TITLES,
}
_NAMED = {
    "demographic_parity_difference": "gap in selection rate (demographic parity)",
    "demographic_parity_ratio": "lowest over highest selection rate (demographic parity)",
    "impact_ratio": "lowest over highest selection rate (impact ratio)",
    "equal_opportunity_difference": "gap in true positive rate (equal opportunity)",
    "equal_opportunity_ratio": "lowest over highest true positive rate (equal opportunity)",
    "predictive_parity_difference": "gap in precision (predictive parity)",
    "predictive_parity_ratio": "lowest over highest precision (predictive parity)",
    "equalized_odds_difference": "larger of the gaps in true and false positive rate (equalized odds)",
    "equalized_odds_ratio": "smaller of the ratios of true and false positive rates (equalized odds)",
    "equalized_odds_mean_difference": "mean of the gaps in true and false positive rate (equalized odds)",
    "equalized_odds_mean_ratio": "mean of the ratios of true and false positive rates (equalized odds)",
    "total_variation_distance": "distance between distributions of predictions",
    "kolmogorov_smirnov_distance": "distance between distributions of scores",
}
_AGGREGATES = {
    "difference": "gap in {}",
    "ratio": "lowest over highest {}",
    "group_min": "lowest {} of any group",
    "group_max": "highest {} of any group",
    "difference_to_overall": "largest distance from the overall {}",
    "ratio_to_overall": "smallest ratio to the overall {}",
}
_MEANINGS = {
    "accuracy_score": "share of rows predicted correctly",
    "balanced_accuracy_score": "mean over classes of the share predicted correctly",
    "selection_rate": "share of rows predicted {positive}",
    "true_positive_rate": "of rows that are {positive}, the share predicted so",
    "false_positive_rate": "of rows that are not {positive}, the share predicted so nevertheless",
    "precision_score": "of rows predicted {positive}, the share that are",
    "roc_auc_score": "chance that a row that is {positive} scores above one that is not",
    "f1_score": "balance of precision and true positive rate",
    "brier_score_loss": "mean squared distance of score and label: 0 is best, a score of one half has 0.25",
    "log_loss": "mean surprise at the label, in nats: 0 is best",
    **MEANINGS,
}
_COLUMNS = {
    "binary": ("selection_rate", "true_positive_rate", "false_positive_rate", "accuracy_score"),
    "multiclass": ("accuracy_score", "balanced_accuracy_score", "f1_score"),
    **COLUMNS,
}
_TILES = {
    "binary": (
        "accuracy_score",
        "roc_auc_score",
        "selection_rate",
        "true_positive_rate",
        "false_positive_rate",
        "precision_score",
        "brier_score_loss",
        "log_loss",
    ),
    "multiclass": ("accuracy_score", "balanced_accuracy_score", "f1_score", "precision_score", "log_loss"),
    **TILES,
}
_LADDER = {
    "binary": (
        "demographic_parity_difference",
        "equal_opportunity_difference",
        "equalized_odds_difference",
        "predictive_parity_difference",
        "accuracy_score_difference",
        "roc_auc_score_difference",
    ),
    "multiclass": (
        "demographic_parity_difference",
        "equal_opportunity_difference",
        "accuracy_score_difference",
        "f1_score_difference",
    ),
    **LADDER,
}
_METHODS = {
    "reweighing": "While training, rows counted more or less, so that of the weighted rows the label says nothing of "
    "the group (reweighing).",
    "group_dro": "While training, the groups on which the model was worst counted most (group distributionally robust "
    "optimization).",
    "lagrangian": "While training, distances between the groups’ {goal} had a price that rose while they lasted "
    "(Lagrangian constraint).",
    "adversarial": "While training, a second model tried to tell the group from the score, and the first was paid for "
    "misleading it (adversary with gradient reversal); the aim was equal {goal}.",
    "thresholds": "After training, each group got a threshold of its own, chosen on validation rows for equal {goal}: "
    "the model uses the group whenever it decides.",
}
_GOALS = {"demographic_parity": "selection rates", "equal_opportunity": "true positive rates"}
_MEASURED = {"privacy": privacy_part, "energy": energy_part}
"""Sections of what no count holds, in the order of the page."""
_SYMBOLS = {"pass": "✓", "fail": "✕", "inconclusive": "?"}


@dataclass(frozen=True, kw_only=True, slots=True)
class GateCard:
    """One gate in words and on a scale."""

    outcome: str
    symbol: str
    sentence: str
    why: str
    advice: str
    mark: Mark
    start: str
    """The value at the left end of the scale."""
    end: str
    """The value at the right end of the scale."""
    limit_at: float | None
    is_upper: bool
    champion: str
    """Whom the model is held against, and both values; empty where the limit is a number."""
    champion_at: float | None
    """Where the scale has the champion; None where the limit is a number."""
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRow:
    """One group of a table."""

    name: str
    rows: str
    share: str
    flags: tuple[str, ...]
    marks: tuple[Mark, ...]
    counts: tuple[str, ...]
    hidden_because: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """One gap of the ladder."""

    name: str
    mark: Mark
    between: str
    limit_at: float | None
    is_upper: bool = True
    """Whether the limit is one that must not be exceeded."""
    ends: tuple[str, str] | None = None
    """Of its own scale; None: it is that of the whole ladder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatCell:
    """One intersection: its value, how dark it is drawn (0 to 1), and whether it is hatched."""

    text: str
    rows: str
    shade: float
    is_hatched: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Intersections of two attributes."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One metric before and after mitigation, both on the same scale."""

    name: str
    before: Mark
    after: Mark
    limit_at: float | None
    is_upper: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MitigationPart:
    """What was done against gaps, and what it changed."""

    text: str
    why_not_compared: str
    before: str
    gates: tuple[tuple[str, str, str], ...]
    """Each gate: what it asks, before, and after."""
    gaps: tuple[Change, ...]
    gaps_end: str
    losses: tuple[Change, ...]
    losses_end: str
    overall: tuple[Change, ...]
    columns: tuple[str, ...]
    groups: tuple[tuple[str, str, tuple[str, ...]], ...]
    """Each group: name, rows, and "before → after" of each column; no columns where it is hidden."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Everything about one grouping."""

    title: str
    columns: tuple[tuple[str, str, tuple[str, str] | None], ...]
    """Name, meaning, and the ends of its scale where that is not from 0 to 1."""
    count_names: tuple[str, ...]
    rows: tuple[GroupRow, ...]
    num_more: int
    overall: tuple[float | None, ...]
    ladder: tuple[Rung, ...]
    ladder_end: str
    """The value at the right end of the ladder's scale."""
    heat_map: HeatMap | None
    crossed: HeatMap | None
    """Areas under the ROC curve across groups."""
    charts: tuple[Chart, ...]
    resolution: str
    """Empty where nothing can be said."""
    conditional: tuple[str, ...]
    """Its gaps within strata, in sentences."""
    beyond_chance: str
    """Which of its gaps chance alone does not explain; empty where a report does not say."""

    @property
    def is_pooled(self) -> bool:
        """Whether any value stands beside what all groups together suggest."""
        return any(mark.pooled for row in self.rows for mark in row.marks)


def render_page(report: Report, *, sha256: str | None = None) -> str:
    """The page of a ``rai-report/1`` document, as HTML. ``sha256``: of its bytes, where the caller has them."""
    charts = _charts(report, by=())
    return _template().render(
        style=style("colours.css", "style.css"),
        report=report,
        digest=sha256 or report_sha256(report),
        headline=_headline(report),
        gates=[_gate_card(report, gate) for gate in report["gates"]],
        together=_together(report),
        control=listed_by([one["name"] for one in report["attributes"] if one["role"] == "control"]),
        mitigation=_mitigation_part(report) if "mitigation" in report else None,
        measured=[part(report[name]) for name, part in _MEASURED.items() if name in report],
        accuracy=_accuracy_by_group(report),
        attributions=attributions_part(report),
        changed_inputs=changed_inputs(report),
        drift=drift_part(report),
        importance=importance_part(report),
        temperature=temperature_part(report),
        tiles=_tiles(report),
        who=[_who(report, attribute["name"]) for attribute in report["attributes"]],
        facts=facts(report),
        words=WORDS.get(report["task"], {}),
        is_of_numbers=is_of_numbers(report),
        charts=charts,
        classes=_class_rows(report),
        sections=[_section(report, by) for by in _groupings(report)],
        confidence=f"{100 * report['confidence']:g} %",
        count=count,
        chart_size=CHART,
    )


@cache
def _template() -> Template:
    return template("page.html.j2")


def metric_title(metric: str) -> str:
    """A metric's name as people say it."""
    if metric in METRICS:
        return METRICS[metric].title
    name = canonical(metric)
    if name in _NAMED:
        return _NAMED[name]
    if name in _TITLES:
        return _TITLES[name]
    base, aggregate = split_aggregate(name)
    return _AGGREGATES[aggregate].format(_TITLES[base])


def _headline(report: Report) -> dict[str, str]:
    gates, outcome = report["gates"], report["outcome"]
    total = len(gates)
    matching = sum(gate["outcome"] == outcome for gate in gates)
    if not gates:
        return {"kind": "none", "symbol": "–", "title": "No requirements were set", "text": "Nothing was to be proven."}
    of_total = f"{matching} of {total} requirement{'s' if total > 1 else ''}"
    titles = {
        "pass": "The requirement is met" if total == 1 else f"All {total} requirements are met",
        "fail": f"{of_total} {'is' if matching == 1 else 'are'} not met",
        "inconclusive": f"{of_total} could not be decided",
    }
    texts = {
        "pass": "The limits below hold on these test data with the stated certainty. "
        "This says nothing about what was not measured.",
        "fail": "On these test data the model breaks a limit that was set for it.",
        "inconclusive": "The test data neither prove nor disprove that the limits hold. Undecided is not passed.",
    }
    return {"kind": outcome, "symbol": _SYMBOLS[outcome], "title": titles[outcome], "text": texts[outcome]}


def _gate_card(report: Report, gate: Mapping[str, Any]) -> GateCard:
    operator = gate["require"][: len(gate["require"]) - len(gate["require"].lstrip("<>="))]
    by = f" by {listed_by(gate['by'])}" if gate["by"] else ""
    within = f", within {listed_by(gate['within'])}" if "within" in gate else ""
    under = f", under {_condition(report, gate['condition'])}" if "condition" in gate else ""
    title = metric_title(gate["metric"]) if gate["metric"] else ""
    rows = gate["rows_needed_per_group"]
    where = "rows in each group" if gate["by"] else "rows"
    is_count = gate["metric"] == "count"
    scale = _scale_of_gate(report, gate)
    limit = _of_champion(gate) if "champion" in gate else gate["limit"].strip()
    return GateCard(
        outcome=gate["outcome"],
        symbol=_SYMBOLS[gate["outcome"]],
        sentence=f"{title[:1].upper()}{title[1:]}{by}{within}{under}: {_OPERATORS[operator]} {limit}",
        why=sentence(gate["why"]),
        advice=f"At the observed rates about {_roughly(rows)} {where} would decide it." if rows else "",
        mark=Mark(text=count(gate["value"])) if is_count and gate["value"] is not None else _mark_of_gate(gate, scale),
        end=_brief(scale.end),
        start=_brief(scale.start),
        limit_at=None if is_count else scale.at(float(gate["limit"])),
        is_upper=operator.startswith("<"),
        id=gate["id"],
        champion=_champion_of(gate),
        champion_at=scale.at(0.0) if "champion" in gate else None,
    )


def _brief(value: float) -> str:
    """An end of a scale in few letters."""
    text = figure(value)
    return text if len(text) <= 7 else f"{value:g}".replace("-", "\u2212")


def _scale_of_gate(report: Report, gate: Mapping[str, Any]) -> Scale:
    """Of a difference to the champion it has room for either sign."""
    limit = float(gate["limit"])
    if is_of_numbers(report) and gate["metric"] not in METRICS:
        return scale_of_gap(gate["metric"], [gate], [limit])
    reach = [gate[name] for name in (*_REACH, "lower95")] + [limit]
    if "champion" in gate:
        end = round_end([None if value is None else abs(value) for value in reach], least=0.01)
        return Scale(start=-end, end=end)
    is_open = gate["metric"] in _SMALL or gate["metric"] in METRICS or needs_losses(gate["metric"])
    return Scale(end=round_end(reach) if is_open else 1.0)


def _of_champion(gate: Mapping[str, Any]) -> str:
    """A limit that is a margin, in words."""
    margin = gate["limit"].removeprefix("-")
    if not float(margin):
        return "that of the champion"
    return f"that of the champion {'less' if gate['limit'].startswith('-') else 'plus'} {margin}"


def _champion_of(gate: Mapping[str, Any]) -> str:
    """Whom a gate holds the model against, and the values of both."""
    told = gate.get("champion")
    if told is None:
        return ""
    column = None if told["column"] is None else short(told["column"])
    found = ChampionView.model_validate({**told, "column": column})
    values = f" {sentence(found.values)}" if found.values else ""
    return f"Champion: {found.who}.{values}" if found.who else ""


def _mark_of_gate(gate: Mapping[str, Any], scale: Scale) -> Mark:
    if "champion" in gate:
        return mark_of_difference(gate, scale=scale)
    mark = mark_of_bounds(gate, scale=scale)
    return replace(mark, text=f"{gate['value']:.4g}") if gate["metric"] in METRICS and mark.at is not None else mark


def _condition(report: Report, name: str) -> str:
    """A condition as people say it; its own name where it was not counted."""
    return next((way_name(one) for one in report.get("robustness", ()) if one["condition"] == name), name)


def _plain_gates(report: Report) -> list[Mapping[str, Any]]:
    """Gates whose limit is a number, on all rows as they are."""
    return [gate for gate in report["gates"] if not {"condition", "champion", "within"} & gate.keys()]


def _mitigation_part(report: Report) -> MitigationPart:
    section = report["mitigation"]
    by = section["by"]
    text = _METHODS[section["method"]].format(goal=_GOALS.get(section["goal"], ""))
    compared = section["comparison"]
    losses = [one for one in compared if needs_losses(one["metric"])]
    gaps = [one for one in compared if one["metric"] in _SMALL and one not in losses]
    others = [one for one in compared if one not in gaps and one not in losses]
    end, losses_end = (_end_of(report, changes) for changes in (gaps, losses))
    hidden = hidden_by(report, by)
    columns = [metric for metric in _COLUMNS[report["task"]] if any(metric in g["metrics"] for g in section["groups"])]
    return MitigationPart(
        text=f"{text} Groups: by {listed_by(by)}.",
        why_not_compared=sentence(section["why_not_compared"]) if section["why_not_compared"] else "",
        before=section["before"]["experiment"] if section["before"] else "",
        gates=_gates_before_and_after(report),
        gaps=tuple(_change(report, one, end=end) for one in gaps),
        gaps_end=f"{end:g}",
        losses=tuple(_change(report, one, end=losses_end) for one in losses),
        losses_end=f"{losses_end:g}",
        overall=tuple(_change(report, one, end=1.0) for one in others),
        columns=tuple(_TITLES[metric] for metric in columns),
        groups=tuple(_group_change(group, columns, hidden) for group in section["groups"] if group["n"]),
    )


_SIDES = ("before", "after")
_REACH = ("value", "upper95")
_SMALL = frozenset(name for names in _LADDER.values() for name in names)
"""Metrics that are gaps: drawn on a scale that ends where they do."""


def _end_of(report: Report, changes: Sequence[Mapping[str, Any]]) -> float:
    """Where a scale ends on which all of these are drawn, with the limits that gates set for them."""
    metrics = {one["metric"] for one in changes}
    limits = [float(gate["limit"]) for gate in _plain_gates(report) if canonical(gate["metric"]) in metrics]
    return round_end([*limits, *(one[side][name] for one in changes for side in _SIDES for name in _REACH)])


def _gates_before_and_after(report: Report) -> tuple[tuple[str, str, str], ...]:
    sentences = {gate["id"]: _gate_card(report, gate).sentence for gate in report["gates"]}
    return tuple((sentences[one["id"]], one["before"], one["after"]) for one in report["mitigation"]["gates"])


def _change(report: Report, one: Mapping[str, Any], *, end: float) -> Change:
    title = metric_title(one["metric"])
    asked = [gate for gate in _plain_gates(report) if set(gate["by"]) == set(one["by"])]
    gate = next((gate for gate in asked if canonical(gate["metric"]) == one["metric"]), None)
    before, after = (mark_of_bounds(one[side], end=end) for side in _SIDES)
    return Change(
        name=f"{title[:1].upper()}{title[1:]}",
        before=before,
        after=after,
        limit_at=percent(float(gate["limit"]) / end) if gate else None,
        is_upper=gate is None or gate["require"].startswith("<"),
    )


def _group_change(
    group: Mapping[str, Any], columns: Sequence[str], hidden: frozenset[Key]
) -> tuple[str, str, tuple[str, ...]]:
    key = tuple(group["key"].values())
    if key in hidden:
        return group_name(key), "not shown", ()
    pairs = (group["metrics"][metric] for metric in columns)
    return group_name(key), count(group["n"]), tuple(f"{number(p['before'])} → {number(p['after'])}" for p in pairs)


def _tiles(report: Report) -> list[tuple[str, str, Mark]]:
    """Headline values over all rows: name, meaning, value."""
    metrics = _overall(report)["metrics"]
    scale = Scale(is_open=is_of_numbers(report))
    return [
        (_TITLES[metric], _meaning(report, metric), mark_of_interval(metrics[metric], scale=scale))
        for metric in _TILES[report["task"]]
        if metric in metrics
    ]


def _accuracy_by_group(report: Report) -> list[tuple[str, list[GroupRow]]]:
    """Accuracy of each level of each single attribute that was a grouping."""
    found = []
    for by in _groupings(report) if not is_of_numbers(report) else ():
        if len(by) == 1:
            groups = [group for group in report["groups"] if group["by"] == list(by)]
            hidden = hidden_groups(groups, min_display=report["settings"]["min_display"])
            there = [group for group in groups if group["n"]][:_MOST_GROUPS]
            rows = [_group_row(report, group, hidden, scales={"accuracy_score": SHARES}) for group in there]
            found.append((by[0], rows))
    return found


def _who(report: Report, attribute: str) -> tuple[str, list[GroupRow]]:
    """How many rows each level has; the levels of a single attribute, whether or not it was a grouping."""
    found = [group for group in report["groups"] if group["by"] == [attribute]]
    hidden = hidden_groups(found, min_display=report["settings"]["min_display"])
    return attribute, [_group_row(report, group, hidden, scales={}) for group in found[:_MOST_GROUPS]]


def _section(report: Report, by: Sequence[str]) -> Section:
    found = [group for group in report["groups"] if group["by"] == list(by)]
    hidden = hidden_groups(found, min_display=report["settings"]["min_display"])
    listed = [group for group in found if group["n"] or not group["unknown"]]
    scales = {metric: scale_of_metric(report, by, metric, hidden) for metric in _COLUMNS[report["task"]]}
    overall = _overall(report)["metrics"]
    end = _ladder_end(report, by)
    return Section(
        title=f"By {listed_by(by)}",
        columns=tuple(
            (_TITLES[metric], _meaning(report, metric), scale.ends if scale.is_open else None)
            for metric, scale in scales.items()
        ),
        count_names=_count_names(report),
        rows=tuple(_group_row(report, group, hidden, scales=scales) for group in listed[:_MOST_GROUPS]),
        num_more=max(0, len(listed) - _MOST_GROUPS),
        overall=tuple(scale.at(overall[metric]["value"]) for metric, scale in scales.items()),
        ladder=_ladder(report, by, hidden, end=end),
        ladder_end="" if is_of_numbers(report) else f"{end:g}",
        heat_map=_heat_map(report, found, hidden) if len(by) == 2 else None,
        crossed=_crossed(report, by, hidden),
        charts=_charts(report, by=tuple(by), hidden=hidden),
        resolution=_resolution(report, by),
        conditional=_conditional(report, by, hidden),
        beyond_chance=_beyond_chance(report, by),
    )


def _group_row(
    report: Report, group: Mapping[str, Any], hidden: frozenset[Key], *, scales: Mapping[str, Scale]
) -> GroupRow:
    key = tuple(group["key"].values())
    is_hidden = key in hidden
    total = max(1, sum(one["n"] for one in report["groups"] if not one["by"]))
    is_small = 0 < group["n"] < report["settings"]["min_support"]
    least = report["settings"]["min_display"]
    rows = count(group["n"])
    hidden_because = ""
    if is_hidden:
        is_few = group["n"] < least
        rows = f"under {least}" if is_few else "not shown"
        hidden_because = "too few rows to show" if is_few else "not shown: a smaller group could be computed from it"
    flags = (
        ("no rows", group["n"] == 0),
        ("few rows", is_small),
    )
    return GroupRow(
        name=group_name(key),
        rows=rows,
        share="" if is_hidden else f"{100 * group['n'] / total:.1f} %",
        flags=tuple(name for name, is_set in flags if is_set),
        marks=()
        if is_hidden
        else tuple(mark_of_interval(group["metrics"][metric], scale=scale) for metric, scale in scales.items()),
        counts=() if is_hidden else tuple(count(group["counts"].get(name, 0)) for name in _count_names(report)),
        hidden_because=hidden_because,
    )


def _count_names(report: Report) -> tuple[str, ...]:
    if report["task"] != "binary":
        return ()
    return ("tn", "fp", "fn", "tp", *(("abstained",) if report["data"]["n_abstained"] else ()))


def _shown(entry: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The gap among groups with enough rows where there is one, else among all; and which it is."""
    supported = entry["supported"]
    if supported is None:
        return entry, ""
    if supported["value"] is None and entry["value"] is not None:
        return entry, "some groups have few rows"
    return supported, "groups with enough rows only"


def _ladder_end(report: Report, by: Sequence[str]) -> float:
    """A round number that no bound and no limit of the ladder exceeds."""
    gates = [gate for gate in _plain_gates(report) if gate["metric"] in _LADDER[report["task"]]]
    reach = [float(gate["limit"]) for gate in gates if set(gate["by"]) == set(by)]
    for entry in report["disparities"]:
        if entry["by"] == list(by) and entry["metric"] in _LADDER[report["task"]]:
            shown, _ = _shown(entry)
            reach += [shown[name] for name in ("value", "upper95") if shown[name] is not None]
    return round_end(reach)


def _ladder(report: Report, by: Sequence[str], hidden: frozenset[Key], *, end: float) -> tuple[Rung, ...]:
    found = {entry["metric"]: entry for entry in report["disparities"] if entry["by"] == list(by)}
    gates = {gate["metric"]: gate for gate in _plain_gates(report) if set(gate["by"]) == set(by)}
    return tuple(
        _rung(metric, found[metric], hidden, gate=gates.get(metric), end=None if is_of_numbers(report) else end)
        for metric in _LADDER[report["task"]]
        if metric in found
    )


def _rung(
    metric: str,
    entry: Mapping[str, Any],
    hidden: frozenset[Key],
    *,
    gate: Mapping[str, Any] | None,
    end: float | None,
) -> Rung:
    """``end``: of the whole ladder's scale; None: each rung has a scale of its own, since their units differ."""
    title = metric_title(metric)
    name = f"{title[:1].upper()}{title[1:]}"
    shown, remark = _shown(entry)
    keys = [tuple(shown[which].values()) for which in ("max", "min") if shown[which]]
    if any(key in hidden for key in keys):
        return Rung(name=name, mark=Mark(text="not shown", note="to protect a small group"), between="", limit_at=None)
    is_apart = len(keys) == 2 and keys[0] != keys[1]
    between = f"highest {group_name(keys[0])}, lowest {group_name(keys[1])}" if is_apart else ""
    if "class" in shown:
        between = f"class “{short(shown['class'])}”: {between}"
    between = "; ".join(text for text in (between, remark) if text)
    limits = [float(gate["limit"])] if gate else []
    scale = scale_of_gap(metric, [shown], limits) if end is None else Scale(end=end)
    return Rung(
        name=name,
        mark=mark_of_bounds(shown, scale=scale),
        between=between,
        limit_at=scale.at(limits[0]) if limits else None,
        is_upper=gate is None or gate["require"].startswith("<"),
        ends=scale.ends if end is None else None,
    )


def _heat_map(report: Report, found: Sequence[Mapping[str, Any]], hidden: frozenset[Key]) -> HeatMap | None:
    metric = _COLUMNS[report["task"]][0]
    by_key = {tuple(group["key"].values()): group for group in found}
    columns = list(dict.fromkeys(key[1] for key in by_key if UNKNOWN not in key))
    rows = list(dict.fromkeys(key[0] for key in by_key if UNKNOWN not in key))
    if len(columns) > 12 or len(rows) > 40:
        return None
    shown = [g["metrics"][metric]["value"] for k, g in by_key.items() if k not in hidden and UNKNOWN not in k]
    values = [value for value in shown if value is not None]
    low, high, scale = min(values, default=0.0), max(values, default=1.0), Scale(is_open=is_of_numbers(report))
    return HeatMap(
        title=f"{_TITLES[metric][:1].upper()}{_TITLES[metric][1:]} at the intersections",
        columns=tuple(short(column) for column in columns),
        rows=tuple(
            (
                short(row),
                tuple(
                    _heat_cell(by_key[row, column], metric, (row, column) in hidden, scale, low, high)
                    for column in columns
                ),
            )
            for row in rows
        ),
    )


def _crossed(report: Report, by: Sequence[str], hidden: frozenset[Key]) -> HeatMap | None:
    """Reports of before there were any have none."""
    found = [entry for entry in report.get("cross_areas", ()) if entry["by"] == list(by)]
    own = {tuple(group["key"].values()): group for group in report["groups"] if group["by"] == list(by)}
    cells = {tuple(tuple(one[side].values()) for side in ("positives", "negatives")): one for one in found}
    cells |= {(key, key): group["metrics"]["roc_auc_score"] for key, group in own.items() if found}
    keys = list(dict.fromkeys(key for key, _ in cells if UNKNOWN not in key and own[key]["n"]))
    shown = [one["value"] for pair, one in cells.items() if not hidden & set(pair) and one["value"] is not None]
    if not found or not shown:
        return None
    low, high = min(shown), max(shown)
    return HeatMap(
        title="Area under the ROC curve across groups",
        columns=tuple(group_name(key) for key in keys),
        rows=tuple(
            (
                group_name(row),
                tuple(_area_cell(cells[row, column], bool(hidden & {row, column}), low, high) for column in keys),
            )
            for row in keys
        ),
    )


def _area_cell(entry: Mapping[str, Any], is_hidden: bool, low: float, high: float) -> HeatCell:
    if is_hidden:
        return HeatCell(text="not shown", rows="", shade=0.0, is_hatched=True)
    mark = mark_of_interval(entry)
    shade = (entry["value"] - low) / (high - low) if entry["value"] is not None and high > low else 0.5
    return HeatCell(text=mark.text, rows=mark.note, shade=shade, is_hatched=entry["support"] != "ok")


def _heat_cell(
    group: Mapping[str, Any], metric: str, is_hidden: bool, scale: Scale, low: float, high: float
) -> HeatCell:
    entry = group["metrics"][metric]
    if is_hidden:
        return HeatCell(text="not shown", rows="", shade=0.0, is_hatched=True)
    if entry["value"] is None:
        return HeatCell(text="–", rows="no rows", shade=0.0, is_hatched=True)
    shade = (entry["value"] - low) / (high - low) if high > low else 0.5
    is_low, text = entry["support"] != "ok", scale.text(entry["value"])
    return HeatCell(text=text, rows=f"n = {count(group['n'])}", shade=shade, is_hatched=is_low)


def _charts(report: Report, *, by: tuple[str, ...], hidden: frozenset[Key] = frozenset()) -> tuple[Chart, ...]:
    if is_of_numbers(report):
        return prediction_chart(report, by, hidden)
    reliability = _entries(report["calibration"], by, hidden)
    curves = _entries(report["curves"], by, hidden)
    sizes = {tuple(g["key"].values()): g["n"] for g in report["groups"] if g["by"] == list(by)}
    charts = []
    if curves:
        charts.append(
            Chart(
                title="ROC curve",
                x_axis="false positive rate",
                y_axis="true positive rate",
                series=tuple(_series(index, entry, sizes, entry["roc"]) for index, entry in enumerate(curves)),
                has_diagonal=True,
            )
        )
    if reliability:
        charts.append(
            Chart(
                title="Reliability",
                x_axis="mean score" if report["task"] == "binary" else "mean confidence",
                y_axis="share of positive labels" if report["task"] == "binary" else "share predicted correctly",
                series=tuple(_reliability_series(index, entry, sizes) for index, entry in enumerate(reliability)),
                has_diagonal=True,
            )
        )
    sweep = next((entry for entry in report["thresholds"] if entry["by"] == list(by)), None)
    if sweep and not hidden:
        charts.append(_sweep_chart(report, sweep["points"]))
    return tuple(charts)


def _entries(entries: Sequence[Mapping[str, Any]], by: tuple[str, ...], hidden: frozenset[Key]) -> list[Any]:
    found = [entry for entry in entries if entry["by"] == list(by) and tuple(entry["key"].values()) not in hidden]
    return [entry for entry in found if UNKNOWN not in entry["key"].values()][:_MOST_SERIES]


def _series(
    index: int, entry: Mapping[str, Any], sizes: Mapping[Key, int], points: Sequence[Sequence[float]]
) -> Series:
    key = tuple(entry["key"].values())
    return Series(
        name=f"{group_name(key) if key else 'all rows'} (n = {count(sizes.get(key, 0))})",
        style=index,
        points=tuple(place(x, y) for x, y in points),
        has_markers=False,
    )


def _reliability_series(index: int, entry: Mapping[str, Any], sizes: Mapping[Key, int]) -> Series:
    """Bins as markers, with their intervals as long as these can be told apart."""
    plain = _series(index, entry, sizes, [(one["mean_score"], one["rate"]) for one in entry["bins"]])
    bands = tuple(
        (one["mean_score"] * CHART, (1 - one["interval"][0]) * CHART, (1 - one["interval"][1]) * CHART)
        for one in entry["bins"]
        if len(sizes) <= _MOST_BANDS
    )
    return Series(name=plain.name, style=index, points=plain.points, has_markers=True, bands=bands)


def _sweep_chart(report: Report, points: Sequence[Mapping[str, float]]) -> Chart:
    lines = (("accuracy", "accuracy_score"), ("gap in selection rate", "selection_rate_difference"))
    decides_by_group = report.get("mitigation", {}).get("decides_by_group", False)
    threshold = report["threshold"]["value"] if report["threshold"] and not decides_by_group else None
    return Chart(
        title="If all groups had one threshold" if decides_by_group else "If the threshold were another",
        x_axis="threshold",
        y_axis="accuracy and gap",
        series=tuple(
            Series(
                name=name,
                style=index,
                points=tuple(place(point["threshold"], point[field]) for point in points),
                has_markers=False,
            )
            for index, (name, field) in enumerate(lines)
        ),
        has_diagonal=False,
        marker_at=None if threshold is None else threshold * CHART,
    )


def _class_rows(report: Report) -> list[tuple[str, list[Mark]]]:
    """Precision, recall and share of each class of a multi-class task, over all rows."""
    classes = _overall(report).get("classes", {})
    metrics = ("base_rate", "selection_rate", "true_positive_rate", "precision_score")
    return [(short(name), [mark_of_interval(entry[metric]) for metric in metrics]) for name, entry in classes.items()]


def _resolution(report: Report, by: Sequence[str]) -> str:
    if is_of_numbers(report):
        return ""
    entry = next((one for one in report["resolution"] if one["by"] == list(by)), None)
    if entry is None or entry["smallest_provable_gap"] is None:
        return "With so few rows no gap can be bounded here."
    metric = _TITLES[entry["metric"].removesuffix("_difference")]
    gap = number(entry["smallest_provable_gap"])
    return (
        f"Even if all groups had exactly the same {metric}, groups of these sizes could only prove "
        f"that the gap stays below {gap}. Smaller limits need more rows."
    )


def _conditional(report: Report, by: Sequence[str], hidden: frozenset[Key]) -> tuple[str, ...]:
    """Each gap over all rows beside the one within strata; groups that are hidden stay so."""
    found = []
    for one in report.get("conditional", []):
        keys = [tuple(one[side].values()) for side in ("key", "reference")]
        if one["by"] != list(by) or set(keys) & hidden or one["difference"]["value"] is None:
            continue
        low, high = one["difference"]["interval"]
        ratio, names = one["odds_ratio"]["value"], [group_name(key) for key in keys]
        said = (
            f"{_NAMED[one['metric']][:1].upper()}{_NAMED[one['metric']][1:]}, {names[0]} less {names[1]}: "
            f"{signed(one['unconditional'])} over all rows, {signed(one['difference']['value'])} within strata "
            f"({signed(low)} to {signed(high)}"
            + (f"; common odds ratio {ratio:.3f}" if ratio is not None else "")
            + (f"; p {one['p_value']:.3g})." if one["p_value"] is not None else ").")
        )
        if one["reversed"]:
            said += f" The sign changes: by {listed_by(one['control'])} the groups are spread differently."
        found.append(said)
    return tuple(found)


def _beyond_chance(report: Report, by: Sequence[str]) -> str:
    """Reports of before there were corrections say nothing."""
    known = report.get("multiplicity", {}).get("disparities")
    tests = [test for test in known["tests"] if test["by"] == list(by) and test["p_value"] is not None] if known else []
    if not tests:
        return ""
    found = [metric_title(test["metric"]) for test in tests if test["beyond_chance"]]
    how = f"{CORRECTIONS[known['correction']]}, level {known['level']:g}"
    which = f"{len(found)} of these {len(tests)} gaps {'is' if len(found) == 1 else 'are'} more than chance explains"
    names = f": {', '.join(found)}" if found else ""
    return f"Counted among all {known['comparisons']} gaps tested in this report ({how}), {which}{names}."


def _together(report: Report) -> str:
    """How requirements were judged together; empty for one, and for older reports."""
    known = report.get("multiplicity", {}).get("gates")
    if not known or known["comparisons"] < 2:
        return ""
    if known["correction"] == "none":
        return (
            f"{known['comparisons']} requirements are on bounds, and each is judged for itself: the more there are, "
            "the likelier one is met by chance."
        )
    what = {
        "holm": "the chance that any of them is met wrongly",
        "benjamini_hochberg": "the share of those met that are expected to be met wrongly",
    }[known["correction"]]
    how = CORRECTIONS[known["correction"]]
    which = f"{known['comparisons']} requirements are on bounds, judged together ({how})"
    return f"{which}: {what} is {known['level']:g} at most."


def _groupings(report: Report) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(group["by"]) for group in report["groups"] if group["by"]))


def _overall(report: Report) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(group for group in report["groups"] if not group["by"])
    return found


def _meaning(report: Report, metric: str) -> str:
    if metric not in _MEANINGS:
        return ""
    if report["task"] == "multiclass" and metric not in ("accuracy_score", "balanced_accuracy_score"):
        return "mean over classes"
    return _MEANINGS[metric].format(positive=f"“{short(report['positive_class'] or '')}”")


def _roughly(rows: int) -> str:
    """Two leading digits are all that a forecast is worth."""
    return count(round(rows, 2 - len(str(rows)))) if rows >= 1000 else count(rows)

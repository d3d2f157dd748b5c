"""A model card: as Markdown that Hugging Face reads the head of, and as a CycloneDX bill of materials."""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from fairlead.evaluation.profiles.documents import (
    Cell,
    certainty,
    hidden_in,
    is_gap_hidden,
    key_of,
    name_of,
    plain,
    shown_gap,
    text_of,
)

Report = Mapping[str, Any]
CARD_METRICS = (
    "accuracy_score",
    "balanced_accuracy_score",
    "f1_score",
    "precision_score",
    "true_positive_rate",
    "false_positive_rate",
    "roc_auc_score",
    "mean_absolute_error",
    "root_mean_squared_error",
    "r2_score",
    "ndcg_score",
    "exposure",
)
"""Of all rows and of each group, as far as the report has them."""
CARD_GAPS = (
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "accuracy_score_difference",
    "mean_absolute_error_difference",
    "ndcg_score_difference",
    "exposure_ratio",
)
_WORSE_ABOVE = ("mean_absolute_error_difference",)
"""Gaps at whose upper end it is worse to be."""
_HUGGING_FACE_NAMES = {
    "accuracy_score": "accuracy",
    "f1_score": "f1",
    "precision_score": "precision",
    "roc_auc_score": "roc_auc",
}
_TASKS = {"regression": "tabular-regression", "ranking": "text-ranking", "quality": "other"}
_NAMESPACE = uuid.UUID("c4f0a8f5-4a0e-5c9c-9a1d-0f3f9b2c7e11")
"""Of serial numbers that follow from a report's own digests."""


def model_card(report: Report) -> str:
    """A card as Markdown, with the head (YAML) that model hubs read: ``model-index`` with the values over all rows."""
    overall = next(group for group in report["groups"] if not group["by"])
    name = str(report["experiment"])
    lines = [_head(report, overall), f"# Model card: {plain(name)}", ""]
    lines += ["Written from the responsible-AI report of the experiment; parts in italics are for people to write.", ""]
    for title, text in (
        ("Intended use", "*To be written: for what, by whom, and for what it must not be used.*"),
        ("Training data", "*To be written: where the data come from, who is in them, and who is not.*"),
    ):
        lines += [f"## {title}", "", text, ""]
    lines += ["## Evaluation data", "", *_facts(report), ""]
    lines += ["## How well it does", "", *_table(report), ""]
    if gaps := list(_gap_lines(report)):
        lines += [
            "## How far groups are apart",
            "",
            f"| Distance | By | Value | {certainty(report)} bounds |",
            "| --- | --- | --- | --- |",
        ]
        lines += [*gaps, ""]
    lines += ["## Requirements", "", *(_gate_lines(report) or ["None were set."]), ""]
    lines += ["## Limits", "", *(f"- {plain(text)}" for text in report["limitations"])]
    lines += [f"- Not measured: {plain(text_of(report['not_measured']))}.", ""]
    return "\n".join(lines)


def _head(report: Report, overall: Mapping[str, Any]) -> str:
    """YAML in the form of JSON, which YAML is a superset of: no text of data can break out of it."""
    metrics = [
        {"type": _HUGGING_FACE_NAMES.get(metric, metric), "name": metric, "value": overall["metrics"][metric]["value"]}
        for metric in CARD_METRICS
        if overall["metrics"].get(metric, {}).get("value") is not None
    ]
    result = {
        "task": {"type": _TASKS.get(report["task"], "tabular-classification")},
        "dataset": {"name": report["data"]["uri"], "type": report["data"]["uri"], "split": report["data"]["split"]},
        "metrics": metrics,
    }
    index = [{"name": report["experiment"], "results": [result]}]
    fields = {"library_name": "fairlead", "tags": ["fairlead", str(report["task"])], "model-index": index}
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---"])


def _facts(report: Report) -> Iterator[str]:
    data = report["data"]
    facts = {
        "Data": data["uri"],
        "Digest": data["digest"],
        "Split": f"{data['split']}, {data['n']} rows",
        "Label": data["target"],
        "Model": report["model"]["digest"],
        "Measured": report["created"],
        "Counts": report["state"]["digest"],
    }
    return (f"- {name}: {plain(text_of(value))}" for name, value in facts.items())


def _table(report: Report) -> list[str]:
    metrics = _shown(report)
    lines = [f"| Group | Rows | {' | '.join(map(plain, metrics))} |", "| --- " * (len(metrics) + 2) + "|"]
    for group in _visible(report):
        cells = " | ".join(_cell(group["metrics"][metric]).text for metric in metrics)
        lines.append(f"| {plain(name_of(group))} | {group['n']} | {cells} |")
    return lines


def _shown(report: Report) -> list[str]:
    return [name for name in CARD_METRICS if all(name in group["metrics"] for group in report["groups"])][:5]


def _visible(report: Report) -> Iterator[Mapping[str, Any]]:
    """All rows, and groups of one attribute; not those that the page hides."""
    for by in dict.fromkeys(tuple(group["by"]) for group in report["groups"] if len(group["by"]) < 2):
        hidden = hidden_in(report, by)
        for group in report["groups"]:
            is_one = tuple(group["by"]) == by and (group["n"] or not by) and not group["unknown"]
            if is_one and key_of(group) not in hidden:
                yield group


def _cell(entry: Mapping[str, Any]) -> Cell:
    if entry["value"] is None:
        return Cell(text="none")
    interval = "" if entry["interval"] is None else f" ({entry['interval'][0]:.3f} to {entry['interval'][1]:.3f})"
    return Cell(text=f"{entry['value']:.3f}{interval}")


def _gap_lines(report: Report) -> Iterator[str]:
    for entry in report["disparities"]:
        gap = shown_gap(entry)[0]
        if entry["metric"] in CARD_GAPS and gap["value"] is not None and not is_gap_hidden(report, entry):
            bounds = (
                "none" if None in (gap["lower95"], gap["upper95"]) else f"{gap['lower95']:.3f} to {gap['upper95']:.3f}"
            )
            by = plain(" x ".join(entry["by"]))
            yield f"| {plain(entry['metric'])} | {by} | {gap['value']:.3f} | {bounds} |"


def _gate_lines(report: Report) -> list[str]:
    if not report["gates"]:
        return []
    lines = ["| Requirement | By | On which inputs | Asked | Outcome |", "| --- | --- | --- | --- | --- |"]
    for gate in report["gates"]:
        inputs = gate.get("condition") or "as they are"
        within = f" within {' x '.join(gate['within'])}" if "within" in gate else ""
        cells = (gate["metric"], f"{' x '.join(gate['by'])}{within}", inputs, gate["require"], gate["outcome"])
        lines.append(f"| {' | '.join(plain(cell) for cell in cells)} |")
    return lines


# ---- CycloneDX ------------------------------------------------------------------------------------------------------


def cyclonedx(report: Report) -> bytes:
    """A CycloneDX 1.6 document (ECMA-424) whose one component is the model, with its ``modelCard``; UTF-8 JSON."""
    digest, data_uri = report["model"]["digest"], report["data"]["uri"]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "name": report["experiment"],
        "version": f"attempt {report['attempt']}",
        "bom-ref": "model",
        "modelCard": {
            "modelParameters": {
                "task": report["task"],
                "datasets": [{"type": "dataset", "name": data_uri, "contents": {"url": data_uri}}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_performance(report))},
            "considerations": {
                "technicalLimitations": list(report["limitations"]),
                "fairnessAssessments": list(_assessments(report)),
            },
        },
    }
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": str(digest).removeprefix("sha256:")}]
    key = "|".join(str(part) for part in (report["experiment"], report["attempt"], report["state"]["digest"]))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, key)}",
        "version": 1,
        "metadata": {"timestamp": report["created"]},
        "components": [component],
    }
    return f"{json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def _performance(report: Report) -> Iterator[dict[str, Any]]:
    for group in _visible(report):
        for metric in CARD_METRICS:
            entry = group["metrics"].get(metric)
            if entry is None or entry["value"] is None:
                continue
            found: dict[str, Any] = {"type": metric, "value": repr(entry["value"])}
            if group["by"]:
                found["slice"] = ", ".join(f"{name}={level}" for name, level in group["key"].items())
            if entry["interval"] is not None:
                low, high = map(repr, entry["interval"])
                found["confidenceInterval"] = {"lowerBound": low, "upperBound": high}
            yield found


def _assessments(report: Report) -> Iterator[dict[str, str]]:
    """Gaps that stand in the report, in words: at the group that fares worse than the others."""
    for entry in report["disparities"]:
        gap = shown_gap(entry)[0]
        worst = "max" if entry["metric"] in _WORSE_ABOVE else "min"
        is_told = gap["value"] is not None and gap[worst] and not is_gap_hidden(report, entry)
        if entry["metric"] in CARD_GAPS and is_told:
            level = ", ".join(f"{name}={value}" for name, value in gap[worst].items())
            low, high = gap["lower95"], gap["upper95"]
            bounds = "" if low is None or high is None else f", {certainty(report)} bounds {low:.3f} to {high:.3f}"
            place = "highest" if worst == "max" else "lowest"
            yield {"groupAtRisk": level, "harms": f"{entry['metric']} {gap['value']:.3f}{bounds}: the {place} group"}

"""A sweep's report as tables: which trials are best, what keeps the constraints, what failed, what matters."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from fairlead.cli.output import table
from fairlead.evaluation.drawing import figure
from fairlead.evaluation.sweep_axes import shown
from fairlead.evaluation.sweep_report import shown_metrics

COLUMN_WIDTH = 16
"""Characters: a narrow terminal gets fewer columns rather than broken ones."""
MOST_LINES = 20

Report = Mapping[str, Any]


def print_sweep_report(console: Console, content: Report) -> None:
    """The headline, the best trials, constraints, importance, failures, and what to bear in mind."""
    headline = str(content["headline"])
    console.print(f"[bold]{escape(headline[:1].upper() + headline[1:])}[/]")
    _print_ranking(console, content)
    _print_constraints(console, content)
    _print_importance(console, content)
    for name, title in (("failures", "Why trials failed"), ("prunings", "Why trials were stopped early")):
        rows = table("reason", "#trials", "such as", title=f"\n{title}")
        for one in content[name][:MOST_LINES]:
            rows.add_row(escape(one["reason"] or "none given"), str(one["num"]), ", ".join(map(str, one["trials"])))
        if rows.row_count:
            console.print(rows)
    for text in content["limitations"]:
        console.print(f"[dim]note: {escape(text)}[/]")


def _print_ranking(console: Console, content: Report) -> None:
    """The best trials, with as many parameters as there is room for, the most important first."""
    ranking, metrics = content["ranking"][:MOST_LINES], shown_metrics(content)
    known = [one["parameter"] for one in content["importance"]]
    used = dict.fromkeys([*known, *(name for one in ranking for name in one["params"])])
    columns = list(used)[: max(2, console.width // COLUMN_WIDTH - len(metrics) - 2)]
    is_front = {one["no"] for one in content["front"]}
    kept = ["constraints"] if content["constraints"] else []
    rows = table("#trial", *kept, *(f"#{name}" for name in metrics), *columns, title="\nTrials, the best first")
    for one in ranking:
        params = (escape(shown(one["params"].get(name, "\u2013"))) for name in columns)
        no = f"{one['no']} \u25c6" if one["no"] in is_front else str(one["no"])
        told = ["keeps all" if one["keeps"] else "breaks one"] if kept else []
        rows.add_row(no, *told, *(_value(one, name) for name in metrics), *params)
    if rows.row_count:
        console.print(rows)
    if is_front:
        console.print(f"[dim]\u25c6 on the Pareto front, on which {content['num_on_front']} are[/]")


def _print_constraints(console: Console, content: Report) -> None:
    rows = table("constraint", "#keep it", "#ran to the end", "#without a value", title="\nConstraints")
    for one in content["constraints"]:
        cells = (str(number) for number in (one["num_keeping"], one["num"], one["num"] - one["num_known"]))
        rows.add_row(escape(one["text"]), *cells)
    if rows.row_count:
        console.print(rows)


def _print_importance(console: Console, content: Report) -> None:
    objective = content["objectives"][0]["metric"]
    rows = table("parameter", f"#share of the spread of {escape(objective)}", title="\nImportance")
    for one in content["importance"][:MOST_LINES]:
        rows.add_row(escape(one["parameter"]), f"{100 * one['share']:.0f} %")
    if rows.row_count:
        console.print(rows)


def _value(one: Report, metric: str) -> str:
    """A value, and its bounds where there are any."""
    value, bounds = one["values"][metric], one["bounds"].get(metric)
    told = f" [dim]{figure(bounds[0])} to {figure(bounds[1])}[/]" if bounds else ""
    return "\u2013" if value is None else f"{figure(value)}{told}"

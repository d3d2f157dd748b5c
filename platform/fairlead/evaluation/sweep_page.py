"""A sweep's report as one HTML page: no script, no network, readable on paper and in the dark.

It shows what the report holds and computes nothing but positions on paper. All strings from specs and trials are
escaped; a trial's shape says what became of it, not its colour alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Template

from fairlead.evaluation.drawing import count, figure, short
from fairlead.evaluation.layout import style, template
from fairlead.evaluation.report import report_sha256
from fairlead.evaluation.sweep_axes import level_name, shown, tick
from fairlead.evaluation.sweep_plots import MOST_NAMED, Plot, plots_of
from fairlead.evaluation.sweep_report import ENDINGS, Report, search_of, shown_metrics
from fairlead.spec.search import DimensionSpec, SearchSpec

MOST_COLUMNS = 12
"""Parameters in the table of the best trials."""
_STATES = (
    ("succeeded", "ran to the end"),
    ("pruned", "stopped early"),
    ("failed", "failed"),
    ("running", "had not ended"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What became of the sweep, at the top."""

    kind: str
    """``pass``: there is a best trial; ``inconclusive``: none keeps all constraints; ``fail``: none has a value."""
    symbol: str
    title: str
    text: str


def render_sweep_page(report: Report, *, sha256: str | None = None, plots: Sequence[Plot] | None = None) -> str:
    """The page of a ``sweep-report/1`` document. ``sha256`` and ``plots``: where the caller has them already."""
    search = search_of(report)
    drawn = plots_of(report) if plots is None else plots
    columns, metrics = _columns(report, search), shown_metrics(report)
    return _template().render(
        style=style("colours.css", "style.css", "plots.css"),
        report=report,
        digest=sha256 or report_sha256(report),
        headline=_headline(report),
        tiles=_tiles(report),
        found=_found(report),
        constraints=report["constraints"],
        plots=[plot for plot in drawn if not plot.is_small],
        slices=[plot for plot in drawn if plot.is_small],
        num_parameters=len(search.space),
        columns=columns,
        metrics=metrics,
        ranking=[_row(one, columns, metrics) for one in report["ranking"]],
        on_front={one["no"] for one in report["front"]},
        space=[(name, _range(dimension)) for name, dimension in search.space.items()],
        is_named=len(report["trials"]) <= MOST_NAMED,
        algorithm=search.chosen.name,
        count=_count,
        shown=shown,
        short=short,
    )


def plot_files(plots: Sequence[Plot]) -> dict[str, bytes]:
    """Each plot as a file of its own, by name."""
    return {f"{plot.name}.svg": plot.standalone() for plot in plots}


@cache
def _template() -> Template:
    return template("sweep_page.html.j2")


def _headline(report: Report) -> Headline:
    text = f"{report['headline'][:1].upper()}{report['headline'][1:]}."
    if report["best"] is not None:
        title = f"Trial {report['best']['no']} is the best of {_count(report['num_trials'])}"
        return Headline(kind="pass", symbol="✓", title=title, text=text)
    if report["num_on_front"]:
        num = report["num_on_front"]
        title = f"{'One trial is' if num == 1 else f'{_count(num)} trials are'} on the Pareto front"
        return Headline(kind="pass", symbol="✓", title=title, text=text)
    if report["nearest"] is not None:
        title = f"No trial keeps all constraints; trial {report['nearest']['no']} comes nearest"
        return Headline(kind="inconclusive", symbol="?", title=title, text=text)
    title = "No trial ran to its end with a value" if report["num_trials"] else "No trial was begun"
    return Headline(kind="fail", symbol="✕", title=title, text=text)


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """Name, value and what it means."""
    counts, time = report["counts"], report["time"]
    why = ENDINGS.get(report["ended_because"], str(report["ended_because"]))
    tiles = [("Trials", _count(report["num_trials"]), why)]
    tiles += [(words[:1].upper() + words[1:], _count(counts[state]), "") for state, words in _STATES if counts[state]]
    if report["constraints"]:
        tiles.append(("Keep all constraints", _count(report["num_keeping"]), "of those that ran to the end"))
    if time["wall_s"] is not None:
        tiles.append(("Took", _duration(time["wall_s"]), "from the first begin to the last end"))
    if time["median_trial_s"] is not None:
        tiles.append(("A trial", _duration(time["median_trial_s"]), "the median"))
    if time["trials_an_hour"] is not None:
        at_a_time = f"{time['mean_concurrency']:.1f} at a time on average"
        tiles.append(("Trials an hour", figure(float(f"{time['trials_an_hour']:.3g}")), at_a_time))
    return tiles


def _count(value: float) -> str:
    return count(value).replace(" ", "\u00a0")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.2g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def _found(report: Report) -> dict[str, Any] | None:
    """The best trial, or the nearest miss, in full."""
    one = report["best"] or report["nearest"]
    if one is None:
        return None
    beyond = [(text, excess) for text, excess in one["excesses"].items() if excess is None or excess > 0]
    return {
        "title": f"{'The best' if report['best'] else 'The nearest'}: trial {one['no']}",
        "values": [(metric, _value(one, metric)) for metric in shown_metrics(report)],
        "params": [(name, shown(value)) for name, value in one["params"].items()],
        "beyond": [(text, "no value" if excess is None else f"by {figure(excess)}") for text, excess in beyond],
    }


def _value(one: Mapping[str, Any], metric: str) -> str:
    value = one["values"][metric]
    if value is None:
        return "–"
    bounds = one["bounds"].get(metric)
    return figure(value) + (f" ({figure(bounds[0])} to {figure(bounds[1])})" if bounds else "")


def _columns(report: Report, search: SearchSpec) -> list[str]:
    known = [one["parameter"] for one in report["importance"] if one["parameter"] in search.space]
    return [*known, *(name for name in search.space if name not in known)][:MOST_COLUMNS]


def _row(one: Mapping[str, Any], columns: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "no": one["no"],
        "keeps": one["keeps"],
        "values": [_value(one, metric) for metric in metrics],
        "params": [shown(one["params"][name]) if name in one["params"] else "" for name in columns],
        "took": "" if one["took_s"] is None else _duration(one["took_s"]),
    }


def _range(dimension: DimensionSpec) -> str:
    """Where a parameter was looked for, in words."""
    condition = "".join(
        f"; only where {name} is {' or '.join(map(level_name, values))}" for name, values in dimension.when.items()
    )
    if dimension.choice is not None:
        listed = ", ".join(map(level_name, dimension.choice[:12]))
        more = f" and {len(dimension.choice) - 12} more" if len(dimension.choice) > 12 else ""
        return f"one of {listed}{more}{condition}"
    low, high = dimension.bounds
    kind = ", whole numbers" if dimension.is_whole else ""
    steps = f", in steps of {figure(dimension.step)}" if dimension.step is not None else ""
    scale = ", logarithmic" if dimension.is_log else ""
    return f"{tick(low)} to {tick(high)}{kind}{steps}{scale}{condition}"

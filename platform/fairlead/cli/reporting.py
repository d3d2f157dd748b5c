"""``fairlead report``: what the evaluation found, as tables, as a page or as a link."""

import json
import tempfile
import webbrowser
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import (
    OUTCOME_STYLES,
    err,
    number,
    out,
    print_champions,
    print_json,
    styled,
    table,
    with_values,
)
from fairlead.cli.sweep_reporting import print_sweep_report
from fairlead.errors import BadInput
from fairlead.evaluation.sweep_report import SCHEMA as SWEEP_SCHEMA
from fairlead.representation import ChampionView, GateView, ProfileName

GROUP_METRICS = (
    "accuracy_score",
    "selection_rate",
    "true_positive_rate",
    "false_positive_rate",
    "precision_score",
    "roc_auc_score",
    "mean_absolute_error",
    "root_mean_squared_error",
    "mean_error",
    "r2_score",
    "ndcg_score",
    "exposure",
    "exposure_per_relevance",
)
"""Columns of the table of groups, as far as the report has them; the page and --json have all."""
GAPS = (
    "demographic_parity_difference",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "accuracy_score_difference",
    "total_variation_distance",
    "mean_error_difference",
    "mean_absolute_error_difference",
    "root_mean_squared_error_difference",
    "ndcg_score_difference",
    "exposure_ratio",
    "exposure_per_relevance_ratio",
)

GROUP_COLUMN_WIDTH, METRIC_COLUMN_WIDTH = 20, 23
"""Characters: a narrow terminal gets fewer columns rather than broken ones."""

MOST_GROUPS = 100
"""Lines of a grouping: more would scroll away what matters."""

Report = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How a report is to be shown; with nothing said, as tables."""

    is_opened: bool = False
    html: Path | None = None
    is_linked: bool = False
    profile: str | None = None


def report(where: Where, experiment_id: str, wanted: Wanted) -> None:
    """Show, write, open or link a report."""
    if experiment_id.endswith(".json"):  # no id has a dot
        _show_file(where, Path(experiment_id), wanted)
        return
    with connect(where) as client:
        experiment = client.get(experiment_id)
        if wanted.is_linked:
            link = experiment.link()
            print_json(link) if where.as_json else print(link.url)
        elif wanted.profile is not None:
            print(experiment.report_profile(_profile_name(wanted.profile)), end="")
        elif wanted.is_opened or wanted.html is not None:
            _write_page(
                experiment.report_html(), experiment.id, wanted.html, is_opened=wanted.is_opened, as_json=where.as_json
            )
        elif where.as_json:
            print_json(experiment.report())
        else:
            print_report(out(), experiment.report())
            _print_overrides(out(), experiment.view.gates)


def _print_overrides(console: Console, gates: Iterable[GateView]) -> None:
    for gate in gates:
        if (one := gate.override) is not None:
            until = f", to be looked at again by {one.expires_at[:10]}" if one.expires_at else ""
            outcome = styled(gate.outcome, OUTCOME_STYLES)
            console.print(f"{escape(gate.id)}: {outcome}, overridden by {escape(one.by)} on {one.at[:10]}{until}")
            console.print(f"  [dim]{escape(one.reason)}[/]")


def _show_file(where: Where, path: Path, wanted: Wanted) -> None:
    content = _read_report(path)
    if wanted.is_linked:
        raise BadInput("a file has no address: --link is for experiments")
    if wanted.profile is not None:
        from fairlead.evaluation.profiles import render_profile

        if _is_of_sweep(content):
            raise BadInput("a sweep has no profiles: they are for the report of a trial that was promoted")
        print(render_profile(content, wanted.profile)[0].decode(), end="")
    elif wanted.is_opened or wanted.html is not None:
        _write_page(_page_of(content), path.stem, wanted.html, is_opened=wanted.is_opened, as_json=where.as_json)
    elif where.as_json:
        print_json(content)
    else:
        print_report(out(), content)


def _is_of_sweep(content: Report) -> bool:
    return bool(content.get("schema") == SWEEP_SCHEMA)


def _page_of(content: Report) -> str:
    """The page of a report of either kind."""
    if _is_of_sweep(content):
        from fairlead.evaluation.sweep_page import render_sweep_page

        return render_sweep_page(content)
    from fairlead.evaluation.page import render_page

    return render_page(content)


def _read_report(path: Path) -> dict[str, Any]:
    content = _read_object(path)
    if content.get("schema") not in ("rai-report/1", SWEEP_SCHEMA):
        raise BadInput(f"{path} is no report: it does not say that its schema is rai-report/1 or {SWEEP_SCHEMA}")
    return content


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} is no report: it holds a {type(content).__name__}")
    return content


def _profile_name(name: str) -> ProfileName:
    found: ProfileName | None = next((one for one in get_args(ProfileName) if one == name), None)
    if found is None:
        raise BadInput(f"there is no profile {name!r}; there are {', '.join(get_args(ProfileName))}")
    return found


def verify(where: Where, path: Path, *, key: str | None) -> None:
    """Say who signed a report, or the record of an override.

    Raises ``BadInput`` where it is not what was signed, or by another key than asked.
    """
    from fairlead.evaluation.signing import verify as check

    content = _read_object(path)
    found = check(content)
    trusted, whose = key, "the key given"
    if key is None:
        with connect(where) as client:
            known = client.version().report_key
        if known is None:
            raise BadInput("this server is of a release that signs no reports; give the key with --key")
        trusted, whose = known.public_key, f"the server at {client.url}"
    check(content, trusted)
    if where.as_json:
        print_json({"is_valid": True, "key_id": found, "experiment": content.get("experiment")})
    else:
        out().print(f"[green]signed[/] by {escape(whose)} (key {found}), and unchanged since")


def print_report(console: Console, content: Report) -> None:
    """Outcome, gates, overall metrics, each grouping, gaps, and what was not measured; of a sweep, its trials."""
    if _is_of_sweep(content):
        print_sweep_report(console, content)
        return
    data = content.get("data", {})
    outcome = styled(str(content.get("outcome", "")), OUTCOME_STYLES)
    console.print(
        f"[bold]outcome[/] {outcome}  [dim]{data.get('n', '?')} rows of {escape(str(data.get('uri', '')))}[/]"
    )
    _print_gates(console, content.get("gates", ()))
    if section := content.get("mitigation"):
        _print_mitigation(console, section)
    _print_measured(console, content)
    print_groups(console, content)
    _print_gaps(console, content.get("disparities", ()))
    if missing := content.get("not_measured"):
        console.print(f"\n[dim]not measured: {escape(', '.join(missing))}[/]")
    for text in content.get("limitations", ()):
        console.print(f"[dim]note: {escape(_sentence(text))}[/]")


def _print_measured(console: Console, content: Report) -> None:
    """Numbers that no count holds, or why there are none."""
    rows = table("measured", "#value", "why not", title="\nMeasured beside the counts")
    sections = ((name, one) for name, one in content.items() if isinstance(one, Mapping) and "why_not_measured" in one)
    for name, section in sections:
        for metric, entry in section["metrics"].items():
            value = "" if entry["value"] is None else f"{entry['value']:.4g}"
            rows.add_row(escape(metric), value, escape(str(entry["reason"] or "")))
        if section["why_not_measured"] and not section["metrics"]:
            rows.add_row(escape(name), "", escape(str(section["why_not_measured"])))
    if rows.row_count:
        console.print(rows)


def _print_mitigation(console: Console, section: Report) -> None:
    """The method, and each value before and after it, or why there is no before."""
    title = f"\nMitigation: {section['method']} by {' x '.join(section['by'])}"
    if section["before"] is None:
        console.print(f"[bold]{escape(title)}[/]\n[dim]not compared: {escape(str(section['why_not_compared']))}[/]")
        return
    rows = table("", f"#before ({section['before']['experiment']})", "#after", title=title)
    for one in section["comparison"]:
        place = f" by {' x '.join(one['by'])}" if one["by"] else ""
        rows.add_row(escape(f"{one['metric']}{place}"), *(_side(one[side]) for side in ("before", "after")))
    console.print(rows)


def _side(entry: Report) -> str:
    bounds = "" if entry["lower95"] is None else f" [dim]{entry['lower95']:.4f} to {entry['upper95']:.4f}[/]"
    return f"{number(entry['value'])}{bounds}"


def print_groups(console: Console, content: Report) -> None:
    """Overall, and each group, with intervals; groups too small to tell are marked."""
    groups = content.get("groups", ())
    least = int(content.get("settings", {}).get("min_display", 0))
    measured = [name for name in GROUP_METRICS if any(name in group["metrics"] for group in groups)]
    columns = measured[: max(2, (console.width - GROUP_COLUMN_WIDTH) // METRIC_COLUMN_WIDTH)]
    confidence = f"{100 * float(content.get('confidence', 0.95)):g} %"
    for by in dict.fromkeys(tuple(group["by"]) for group in groups):
        title = f"By {' and '.join(by)}" if by else f"Overall, with {confidence} intervals"
        rows = table(" x ".join(by) or "", "#rows", *(f"#{name}" for name in columns), title=f"\n{title}")
        listed = [group for group in groups if tuple(group["by"]) == by and not _is_vacant(group)]
        for group in listed[:MOST_GROUPS]:
            is_hidden = bool(by) and group["n"] < least
            cells = ("hidden" if is_hidden else _cell(group["metrics"].get(name)) for name in columns)
            rows.add_row(escape(_key(group["key"], by) or "all"), str(group["n"]), *cells)
        console.print(rows)
        if len(listed) > MOST_GROUPS:
            console.print(f"[dim]and {len(listed) - MOST_GROUPS} more groups: the report has all[/]")
    settings = content.get("settings", {})
    what = "rows, or of NDCG lists," if content.get("task") == "ranking" else "rows"
    console.print(f"[dim]* fewer than {settings.get('min_support', '?')} {what} to tell from[/]")
    if any(group["by"] and 0 < group["n"] < least for group in groups):
        console.print(f"[dim]hidden: fewer than {least} rows, to protect the few people in the group[/]")


def _is_vacant(group: Report) -> bool:
    """The group of unknown values, where every value is known."""
    return bool(group.get("unknown")) and group["n"] == 0


def _print_gates(console: Console, gates: Iterable[Report]) -> None:
    rows = table("gate", "requires", "#value", "#lower", "#upper", "outcome", "why", title="\nGates")
    champions: list[ChampionView | None] = []
    for gate in gates:
        place = f" by {' x '.join(gate['by'])}" if gate.get("by") else ""
        place += f" within {' x '.join(gate['within'])}" if gate.get("within") else ""
        place += f" under {gate['condition']}" if gate.get("condition") else ""
        asked = escape(f"{gate.get('metric', '')}{place} {gate.get('require', '')}")
        numbers = (number(gate.get(name)) for name in ("value", "lower95", "upper95"))
        champion = ChampionView.model_validate(gate["champion"]) if gate.get("champion") else None
        champions.append(champion)
        why = escape(with_values(str(gate.get("why", "")), champion))
        rows.add_row(escape(gate["id"]), asked, *numbers, styled(gate["outcome"], OUTCOME_STYLES), why)
    if rows.row_count:
        console.print(rows)
    print_champions(console, champions)


def _print_gaps(console: Console, disparities: Iterable[Report]) -> None:
    rows = table("gap", "by", "#value", "interval", "highest", "lowest", title="\nGaps between groups")
    for gap in disparities:
        if gap["metric"] in GAPS:
            ends = (escape(_key(gap.get(end) or {}, gap["by"])) for end in ("max", "min"))
            name, by = escape(gap["metric"]), escape(" x ".join(gap["by"]))
            rows.add_row(name, by, number(gap["value"]), _interval(gap.get("interval")), *ends)
    if rows.row_count:
        console.print(rows)


def _cell(entry: Report | None) -> str:
    if entry is None:
        return ""
    if entry.get("value") is None:
        return escape(f"– ({entry.get('reason', 'undefined')})")
    mark = "" if entry.get("support", "ok") == "ok" else " *"
    return f"{number(entry['value'])} {_interval(entry.get('interval'))}{mark}"


def _interval(bounds: Any) -> str:
    return f"[dim]{_end(bounds[0])} to {_end(bounds[1])}[/]" if bounds else ""


def _end(value: float) -> str:
    """Two decimals, as shares have; of what is larger or smaller about as many digits as of the value beside it."""
    if abs(value) >= 100:
        return f"{value:,.1f}"
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.01 else number(value)


def _key(key: Any, by: Iterable[str]) -> str:
    """A group's levels in the order of its grouping."""
    return ", ".join(str(key[name]) for name in by if name in key) if isinstance(key, Mapping) else str(key)


def _sentence(text: Any) -> str:
    return str(text.get("text", text)) if isinstance(text, Mapping) else str(text)


def _write_page(page: str, name: str, path: Path | None, *, is_opened: bool, as_json: bool) -> None:
    if path is None:
        directory = Path(tempfile.mkdtemp(prefix="fairlead-report-"))  # mode 0700: reports name groups of people
        path = directory / f"{name}.html"
    path.write_text(page, encoding="utf-8")
    if as_json:
        print_json({"path": str(path.absolute())})
    else:
        print(path.absolute())
    if is_opened and not webbrowser.open(path.absolute().as_uri()):
        err().print("[yellow]no browser was found[/]; open the file yourself, or use 'fairlead report --link'")

"""The commands about sweeps: look at trials, amend one that runs, go on from one that has ended, promote its best."""

import csv
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect, hand_over
from fairlead.cli.output import err, number, out, print_json, print_json_line, styled, table
from fairlead.cli.picture import TRIAL_STYLES, constraint_is_kept, kept_text, trials_table, value_of
from fairlead.cli.searching import value_text
from fairlead.cli.sweep_watching import MOST_A_PAGE
from fairlead.client import Experiment
from fairlead.errors import BadInput
from fairlead.evaluation.sweep_report import cell_of
from fairlead.representation import MetricPointView, TrialDetail, TrialView
from fairlead.search.trials import TrialState
from fairlead.spec.document import load_yaml
from fairlead.spec.search import SearchSpec

BEST_FIRST = "best"
"""The order that this side adds: by the first objective, the good end first."""
BOUNDS = (".lower95", ".upper95")
_SPARKS = "▁▂▃▄▅▆▇█"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def search_of(experiment: Experiment) -> SearchSpec:
    """What a sweep looks for. Raises ``BadInput`` for an experiment that is none."""
    search = experiment.spec.search
    if search is None:
        raise BadInput(f"{experiment.id} is no sweep: its spec has no 'search', so it has no trials")
    return search


# ---- look at trials -------------------------------------------------------------------------------------------------


def list_trials(
    where: Where, experiment_id: str, *, state: str | None, sort: str, limit: int | None, csv_file: Path | None
) -> None:
    """Print trials as a table or as JSON, or write them to a file; without ``limit`` all of them."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search = search_of(experiment)
        page = MOST_A_PAGE if limit is None else min(limit, MOST_A_PAGE)
        found = islice(experiment.trials(state=state, sort=_order(search, sort), limit=page), limit)
        if csv_file is not None:
            _tell_written(where, csv_file, _write_csv(csv_file, search, found))
        elif where.as_json:
            print_json(list(found))
        else:
            _print_trials(experiment, search, list(found), is_limited=limit is not None)


def _order(search: SearchSpec, sort: str) -> str:
    if sort != BEST_FIRST:
        return sort
    return "-value" if search.objectives[0].is_maximized else "value"


def _print_trials(experiment: Experiment, search: SearchSpec, trials: list[TrialView], *, is_limited: bool) -> None:
    if not trials:
        err().print(f"No trials. 'fairlead show {experiment.id}' says how it stands.")
        return
    console, sections = out(), [("", trials)]
    rows, _ = trials_table(console, search, sections, width=console.width, now=datetime.now(UTC))
    console.print(rows)
    sweep = experiment.view.sweep
    there = sum(sweep.counts.values()) if sweep is not None else len(trials)
    if is_limited and len(trials) < there:
        err().print(f"[dim]{len(trials)} of {there}; --limit or --all shows more[/]")


def _write_csv(path: Path, search: SearchSpec, trials: Iterable[TrialView]) -> int:
    """A line a trial: what it was, its parameters, its values; returns how many."""
    facts = ("no", "state", "origin", "parent", "attempt_no", "tries", "last_step", "started_at", "ended_at", "reason")
    count = 0
    with _opened(path) as file:
        writer = csv.writer(file)
        writer.writerow([*facts, *(f"params.{name}" for name in search.space), *search.metrics])
        for count, trial in enumerate(trials, start=1):  # noqa: B007  # counted for the caller
            content = trial.model_dump(mode="json")
            point = [trial.params.get(name) for name in search.space]
            values = [trial.non_finite.get(metric, trial.values.get(metric)) for metric in search.metrics]
            cells = [*(content.get(name) for name in facts), *point, *values]
            writer.writerow([cell_of(cell) for cell in cells])
    return count


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    if str(path) == "-":
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from error


def _tell_written(where: Where, path: Path, count: int) -> None:
    if str(path) == "-":
        return
    if where.as_json:
        print_json({"path": str(path.absolute()), "trials": count})
    else:
        out().print(f"{count} trials written to {escape(str(path))}", soft_wrap=True)


def show_trial(where: Where, experiment_id: str, no: int) -> None:
    """Print all that is known of one trial."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search = search_of(experiment)
        trial = experiment.trial(no)
    if where.as_json:
        print_json(trial)
    else:
        print_trial(out(), experiment.id, search, trial)


def print_trial(console: Console, sweep_id: str, search: SearchSpec, trial: TrialDetail) -> None:
    """State, parameters, values with their constraints, curves, the reason, and how to go on."""
    console.print(f"[bold]trial {trial.no}[/] [dim]of {sweep_id}, {_origin(trial)}[/] {_state(trial)}")
    if trial.reason:
        console.print(escape(trial.reason))
    step = "" if trial.last_step is None else f"; step {trial.last_step}"
    tries = f"; begun {trial.tries} times" if trial.tries > 1 else ""
    console.print(f"[dim]attempt {trial.attempt_no}{step}{tries}{_took(trial)}[/]")
    rows = table("parameter", "value", title="\nParameters")
    for name, value in trial.params.items():
        rows.add_row(escape(name), escape(value_text(value)))
    console.print(rows)
    _print_values(console, search, trial)
    _print_curves(console, trial)
    if trial.detail:
        console.print(f"\n{escape(trial.detail)}", style="dim")
    if address := trial.links.get("mlflow"):
        console.print(f"[dim]MLflow[/] {escape(address)}", soft_wrap=True)
    err().print(f"[dim]what it printed: fairlead logs {sweep_id} --trial {trial.no}[/]")


def _origin(trial: TrialView) -> str:
    parent = f" from trial {trial.parent}" if trial.parent is not None else ""
    return f"{trial.origin}{parent}"


def _state(trial: TrialView) -> str:
    return styled(trial.state, TRIAL_STYLES)


def _took(trial: TrialView) -> str:
    if trial.started_at is None or trial.ended_at is None:
        return ""
    return f"; took {(trial.ended_at - trial.started_at).total_seconds():.1f} s"


def _print_values(console: Console, search: SearchSpec, trial: TrialDetail) -> None:
    rows = table("what counts", "#value", "asked", "kept", title="\nValues")
    for one in search.objectives:
        rows.add_row(escape(one.metric), value_of(trial, one.metric), "large" if one.is_maximized else "small", "")
    for index, (text, (metric, _)) in enumerate(zip(search.constraints, search.requirements, strict=True)):
        asked = text.strip().partition(" ")[2].strip()
        is_so = constraint_is_kept(search, index, trial)
        rows.add_row(escape(metric), value_of(trial, metric), escape(asked), kept_text(is_so))
    console.print(rows)


def _print_curves(console: Console, trial: TrialDetail) -> None:
    """Courses and last values; the bounds of a value stand beside it."""
    rows = table("metric", "course", "#first", "#last", "interval", title="\nMetrics")
    names = [*trial.curves, *(name for name in sorted(trial.metrics) if name not in trial.curves)]
    for name in names:
        if name.endswith(BOUNDS):
            continue
        points = trial.curves.get(name, ())
        known = [point.value for point in points if point.value is not None]
        last = trial.non_finite.get(name) or number(trial.metrics.get(name, known[-1] if known else None))
        low, high = (trial.metrics.get(f"{name}{bound}") for bound in BOUNDS)
        interval = "" if low is None or high is None else f"[dim]{low:.2f} to {high:.2f}[/]"
        rows.add_row(escape(name), sparkline(points), number(known[0]) if known else "", escape(last), interval)
    if rows.row_count:
        console.print(rows)


def sparkline(points: Iterable[MetricPointView], width: int = 40) -> str:
    """A curve in one line: the lowest value is the lowest block; what is not finite leaves a gap."""
    values = [point.value for point in points]
    if len(values) > width:
        values = [values[place * len(values) // width] for place in range(width - 1)] + values[-1:]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if one is None else _SPARKS[round((one - low) / span * (len(_SPARKS) - 1))] for one in values)


# ---- amend ----------------------------------------------------------------------------------------------------------


def amend(
    where: Where,
    experiment_id: str,
    *,
    add_trials: int | None,
    concurrency: int | None,
    priority: int | None,
    enqueue: list[str],
    stop_trial: int | None,
) -> None:
    """Change a sweep that runs, and print each change under its number."""
    numbers = {"add_trials": add_trials, "concurrency": concurrency, "priority": priority, "stop_trial": stop_trial}
    wanted: list[dict[str, Any]] = [{name: value} for name, value in numbers.items() if value is not None]
    wanted += [{"enqueue": read_point(text)} for text in enqueue]
    if not wanted:
        raise BadInput("nothing to amend: give --add-trials, --concurrency, --priority, --enqueue or --stop-trial")
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search_of(experiment)
        for change in wanted:
            view = experiment.amend(**change)
            if where.as_json:
                print_json_line(view)
            else:
                out().print(f"{experiment_id}: amendment {view.no}: {escape(_change_text(change))}")
    if not where.as_json:
        err().print(f"[dim]it takes effect within seconds: fairlead watch {experiment_id}[/]")


def _change_text(change: Mapping[str, Any]) -> str:
    ((kind, value),) = change.items()
    match kind:
        case "add_trials":
            return f"{value} more trials"
        case "concurrency":
            return f"at most {value} trials at a time"
        case "priority":
            return f"priority {value}"
        case "stop_trial":
            return f"trial {value} is to stop"
    return "next: " + ", ".join(f"{name}={value_text(one)}" for name, one in value.items())


def read_point(text: str) -> dict[str, Any]:
    """A point as people type it: ``lr=0.01,hidden=[16]``, or a mapping in YAML or JSON. Raises ``BadInput``."""
    found = load_yaml(text if text.lstrip().startswith("{") or "=" not in text else "{" + _as_mapping(text) + "}")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise BadInput(f"{text!r} is no point: write lr=0.01,hidden=[16], or a mapping in YAML or JSON")
    return {name: _number(value) for name, value in found.items()}


def _as_mapping(text: str) -> str:
    """``a=1,b=[2,3]`` as the inside of a mapping; commas within brackets and quotes separate nothing."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        depth += 0 if quote else (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return ", ".join(": ".join(part.strip() for part in one.split("=", 1)) for one in parts)


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for a text."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def finish(where: Where, experiment_id: str) -> None:
    """Ask a sweep to begin no more trials and to keep the best."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search_of(experiment)
        view = experiment.finish().view
    if where.as_json:
        print_json(view)
        return
    running = view.sweep.counts.get(TrialState.RUNNING, 0) if view.sweep is not None else 0
    out().print(f"{experiment_id}: asked to finish; no trial is begun any more, {running} still run")


# ---- go on from one -------------------------------------------------------------------------------------------------


def extend(where: Where, experiment_id: str, *, trials: int, is_watched: bool) -> int:
    """Go on from an ended sweep with more trials, as an experiment of its own; returns the exit code."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search_of(experiment)
        made = experiment.extend(trials)
        if not where.as_json:
            err().print(f"[dim]{trials} more trials; it knows those of {experiment_id} that have ended[/]")
        return hand_over(where, made, is_watched=is_watched, is_quiet=False)


def promote(
    where: Where, experiment_id: str, *, trial: int | None, is_trained_again: bool, name: str | None, is_watched: bool
) -> int:
    """Have a trial judged on the untouched test split, as an experiment of its own; returns the exit code."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        search_of(experiment)
        made = experiment.promote(trial=trial, take=False if is_trained_again else None, name=name)
        if not where.as_json:
            err().print(f"[dim]{escape(_promoted(made, trial))}[/]")
        return hand_over(where, made, is_watched=is_watched, is_quiet=False)


def _promoted(made: Experiment, trial: int | None) -> str:
    taken = made.spec.start_from
    number = taken.trial if taken is not None else trial
    which = "the best trial" if number is None else f"trial {number}"
    how = "is trained again" if taken is None else "is taken as it is"
    gates = len(made.spec.gates)
    judged = f"{gates} gates decide on the test split" if gates else "it has no gates: the report says how it did"
    return f"{which} {how}; {judged}"

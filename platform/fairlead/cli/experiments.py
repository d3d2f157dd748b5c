"""The commands that make experiments, end them and look at them."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.output import (
    OUTCOME_STYLES,
    STATE_STYLES,
    ago,
    err,
    number,
    out,
    print_champions,
    print_json,
    print_json_line,
    starts_in,
    styled,
    table,
    with_values,
)
from fairlead.cli.picture import Look, Standing, failures_text, has_best, progress_text, promotion
from fairlead.cli.searching import point_text, print_search, value_text
from fairlead.cli.sweep_watching import Looker
from fairlead.cli.watching import follow
from fairlead.client import Client, Experiment
from fairlead.client.session import SpecLike
from fairlead.lifecycle import State
from fairlead.representation import AmendmentView, EventView, ExperimentDetail, ExperimentView, GateView, PlanView
from fairlead.spec.document import load_yaml

DONE, FAILED, BAD, WITHHELD = 0, 1, 2, 3


def connect(where: Where) -> Client:
    """The API that the options, the environment or the stack's own file name."""
    return Client(where.url, home=where.home if where.url is None else None)


def submit(where: Where, spec: str, *, code: Path | None, is_watched: bool, is_quiet: bool, key: str | None) -> int:
    """Create an experiment; returns the exit code."""
    document = _read(spec)
    with connect(where) as client:
        return hand_over(where, client.submit(document, code=code, key=key), is_watched=is_watched, is_quiet=is_quiet)


def hand_over(where: Where, experiment: Experiment, *, is_watched: bool, is_quiet: bool) -> int:
    """Tell of a new experiment, and follow it if that is asked for; returns the exit code."""
    if is_quiet:
        sys.stdout.write(f"{experiment.id}\n")
        sys.stdout.flush()
    elif not where.as_json:
        _tell_submitted(experiment)
    elif not is_watched:
        print_json(experiment.view)
    return _follow(where, experiment) if is_watched else DONE


def plan(where: Where, spec: str, *, code: Path | None) -> int:
    """Ask what would become of a spec; returns the exit code."""
    document = _read(spec)
    with connect(where) as client:
        answer = client.plan(document, code=code)
    if where.as_json:
        print_json(answer)
    else:
        _print_plan(answer)
        if answer.spec is not None:
            print_search(out(), answer.spec)
    return DONE if answer.is_valid else BAD


def watch(where: Where, experiment_id: str) -> int:
    """Follow an experiment; returns the exit code."""
    with connect(where) as client:
        return _follow(where, client.get(experiment_id))


def logs(
    where: Where,
    experiment_id: str,
    *,
    rank: int,
    attempt: int | None,
    trial: int | None = None,
    tail: int | None,
    is_followed: bool,
) -> None:
    """Print lines as they are, or each as a JSON document."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        lines = experiment.logs(rank=rank, attempt=attempt, trial=trial, tail=tail, follow=is_followed)
        _print_lines(where, lines)


def stacks(where: Where, experiment_id: str, *, rank: int, attempt: int | None) -> None:
    """Print what the threads of a worker were doing when it stalled."""
    with connect(where) as client:
        _print_lines(where, client.get(experiment_id).stacks(rank=rank, attempt=attempt))


def _print_lines(where: Where, lines: Iterable[str]) -> None:
    for line in lines:
        if where.as_json:
            print_json_line({"line": line})
        else:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def list_experiments(where: Where, *, state: str | None, project: str | None, limit: int) -> None:
    """Print a table of experiments."""
    with connect(where) as client:
        found = client.list(state=state, project=project, limit=min(limit, 500))
        views = [experiment.view for experiment in islice(found, limit)]
    if where.as_json:
        print_json(views)
    elif not views:
        err().print("No experiments. Make one with 'fairlead submit SPEC'.")
    else:
        _print_list(views)


def show(where: Where, experiment_id: str, *, has_events: bool) -> None:
    """Print all that is known of an experiment."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        detail = experiment.detail()
        events = list(experiment.events(follow=False)) if has_events else []
        is_swept = detail.sweep is not None and not where.as_json
        look = Looker(experiment).look(has_running=False) if is_swept else None
        amendments = experiment.amendments() if is_swept else ()
    if where.as_json:
        found = detail.model_dump(mode="json", by_alias=True)
        print_json({**found, "events": [event.model_dump(mode="json") for event in events]} if has_events else found)
        return
    console = out()
    print_detail(console, detail, look)
    _print_amendments(console, amendments)
    if has_events:
        _print_events(console, events)


def cancel(where: Where, experiment_id: str) -> None:
    """Ask an experiment to end, and say how it stands."""
    with connect(where) as client:
        view = client.get(experiment_id).cancel().view
    _tell(where, view, "asked to cancel", "" if view.state.is_final else "; it ends as soon as its workers have")


def pause(where: Where, experiment_id: str) -> None:
    """Ask an experiment to wait, and say how it stands."""
    with connect(where) as client:
        view = client.get(experiment_id).pause().view
    is_there = view.state in (State.PAUSED, State.ACCEPTED)
    _tell(where, view, "asked to pause", "" if is_there else "; it waits as soon as its workers have stopped")


def resume(where: Where, experiment_id: str) -> None:
    """Ask a paused experiment to go on, and say how it stands."""
    with connect(where) as client:
        view = client.get(experiment_id).resume().view
    _tell(where, view, "asked to resume", "")


def release(where: Where, experiment_id: str) -> None:
    """Let a held experiment go on, and say how it stands."""
    with connect(where) as client:
        view = client.get(experiment_id).release().view
    later = "; it goes on as soon as the control loops look at it" if view.state is State.HELD else ""
    _tell(where, view, "released", later)


def override(where: Where, experiment_id: str, gate: str, *, reason: str, expires: datetime | None) -> None:
    """Override a gate, and say what becomes of the model."""
    with connect(where) as client:
        experiment = client.get(experiment_id)
        at = None if expires is None else expires.replace(tzinfo=UTC)
        view = experiment.override_gate(gate, reason=reason, expires_at=at)
        detail = experiment.detail()
    if where.as_json:
        print_json(view)
        return
    out().print(f"{experiment_id}: gate {escape(gate)} ({styled(view.outcome, OUTCOME_STYLES)}) is overridden")
    registration = detail.registration
    if registration is not None:
        out().print(f"[dim]registration: {escape(registration.reason or str(registration.name))}[/]")


def declare_lost(where: Where, experiment_id: str, attempt_no: int, *, reason: str, is_forced: bool) -> None:
    """Vouch for an attempt's death."""
    with connect(where) as client:
        view = client.get(experiment_id).declare_lost(attempt_no, reason=reason, force=is_forced)
    if where.as_json:
        print_json(view)
    else:
        out().print(f"{experiment_id}: attempt {attempt_no} on cluster {escape(view.cluster)} is declared lost")


def _tell(where: Where, view: ExperimentView, what: str, later: str) -> None:
    if where.as_json:
        print_json(view)
    else:
        out().print(f"{view.id}: {what}, now {styled(view.state, STATE_STYLES)}{later}")


def exit_code(detail: ExperimentDetail) -> int:
    """What scripts are told of an experiment's end: did it work, and did its gates let it pass?

    Of a sweep: is there a trial that keeps the constraints?
    """
    if detail.state is not State.SUCCEEDED:
        return FAILED
    if detail.sweep is not None:
        return DONE if has_best(detail.sweep) else WITHHELD
    blocks = detail.spec.evaluation.on_inconclusive == "block"
    is_withheld = detail.report_outcome == "fail" or (detail.report_outcome == "inconclusive" and blocks)
    return WITHHELD if is_withheld else DONE


def print_detail(console: Console, detail: ExperimentDetail, look: Look | None = None) -> None:
    """State, progress, attempts, metrics, gates, registration and addresses; ``look``: of a sweep."""
    console.print(f"[bold]{escape(detail.name)}[/] [dim]{detail.id} · {detail.project} · {detail.workload}[/]")
    console.print(f"{styled(detail.state, STATE_STYLES)}  {escape(detail.reason)}")
    if detail.waiting:
        console.print(f"waits for: {escape(detail.waiting)}")
    if detail.derived_from:
        console.print(f"derived from: {detail.derived_from}")
    if look is not None:
        print_sweep(console, look)
    elif detail.last_step is not None:
        console.print(f"step {detail.last_step}" + (f" of {detail.total_steps}" if detail.total_steps else ""))
    _print_attempts(console, detail)
    if look is None:
        print_metrics(console, detail)
    print_gates(console, detail.gates)
    print_registration(console, detail)
    if address := detail.links.get("mlflow"):
        console.print(f"[dim]MLflow[/] {escape(address)}", soft_wrap=True)


def print_sweep(console: Console, look: Look) -> None:
    """How many trials, and the best of them."""
    console.print(progress_text(look))
    if failures := failures_text(look):
        console.print(failures)
    console.print()
    console.print(Standing(look=look))


def print_metrics(console: Console, view: ExperimentView) -> None:
    """Last values."""
    if not view.metrics:
        return
    rows = table("metric", "#last value", title="\nMetrics")
    for name, value in sorted(view.metrics.items()):
        rows.add_row(escape(name), view.non_finite.get(name) or number(value))
    console.print(rows)


def print_gates(console: Console, gates: tuple[GateView, ...]) -> None:
    """Each gate, what it asks, what was found, and the verdict."""
    if not gates:
        return
    rows = table("gate", "requires", "#value", "#bound", "outcome", "why", title="\nGates")
    for gate in gates:
        place = f" by {' x '.join(gate.by)}" if gate.by else ""
        place += f" within {' x '.join(gate.within)}" if gate.within else ""
        place += f" under {gate.condition}" if gate.condition else ""
        asked = escape(f"{gate.metric}{place} {gate.require} ({gate.evidence})")
        outcome = styled(gate.outcome, OUTCOME_STYLES)
        why = escape(with_values(gate.why, gate.champion))
        rows.add_row(escape(gate.id), asked, number(gate.value), number(gate.bound), outcome, why)
    console.print(rows)
    print_champions(console, (gate.champion for gate in gates))


def print_registration(console: Console, view: ExperimentView) -> None:
    """The model version, or why there is none."""
    found = view.registration
    if found is None:
        return
    if found.is_registered:
        alias = f" as @{found.alias}" if found.alias else ""
        console.print(f"\n[green]registered[/] {escape(f'{found.name} version {found.version}{alias}')}")
    else:
        verdict = "[yellow]not registered yet[/]" if found.is_pending else "[yellow]not registered[/]"
        console.print(f"\n{verdict} {escape(found.reason)}")


def _read(spec: str) -> SpecLike:
    return load_yaml(sys.stdin.read()) if spec == "-" else Path(spec)


def _follow(where: Where, experiment: Experiment) -> int:
    try:
        follow(experiment, as_json=where.as_json)
    except KeyboardInterrupt:
        err().print(
            f"\n{experiment.id} goes on without you. Watch it: 'fairlead watch {experiment.id}'; "
            f"end it: 'fairlead cancel {experiment.id}'."
        )
        return 130
    detail = experiment.detail()
    if where.as_json:
        print_json_line(detail)
    else:
        _tell_end(experiment, detail)
    return exit_code(detail)


def _tell_submitted(experiment: Experiment) -> None:
    view = experiment.view
    out().print(f"[bold]{view.id}[/] {styled(view.state, STATE_STYLES)}: {escape(view.reason)}")
    print_search(err(), experiment.spec)
    err().print(f"[dim]follow it: fairlead watch {view.id}[/]")


def _tell_end(experiment: Experiment, detail: ExperimentDetail) -> None:
    console = out()
    console.print(f"{detail.id} {styled(detail.state, STATE_STYLES)}: {escape(detail.reason)}")
    if detail.sweep is not None:
        return _tell_end_of_sweep(console, experiment, detail)
    print_gates(console, detail.gates)
    print_registration(console, detail)
    if detail.state is State.SUCCEEDED:
        err().print(f"[dim]the report: fairlead report {detail.id}[/]")
    else:
        err().print(f"[dim]what its workers printed: fairlead logs {detail.id}[/]")


def _tell_end_of_sweep(console: Console, experiment: Experiment, detail: ExperimentDetail) -> None:
    print_sweep(console, Looker(experiment).look(has_running=False))
    sweep = detail.sweep
    if sweep is not None and has_best(sweep):
        err().print(
            f"[dim]judge it on the test split: {promotion(detail.id, sweep)}; all: fairlead trials {detail.id}[/]"
        )
    else:
        err().print(f"[dim]all trials: fairlead trials {detail.id}; one: fairlead trial {detail.id} NO[/]")


def _print_plan(answer: PlanView) -> None:
    console = out()
    if not answer.is_valid:
        console.print("[bold red]not accepted[/]")
        for problem in answer.problems:
            hint = f" [dim]({escape(problem.suggestion)})[/]" if problem.suggestion else ""
            console.print(f"  [bold]{escape(problem.pointer or '/')}[/] {escape(problem.message)}{hint}")
        return
    fits = "[green]fits now[/]" if answer.fits else "[yellow]would wait[/]"
    console.print(f"[green]valid[/], {fits}: {escape(answer.why)}")
    console.print(f"asks for {answer.cpus:g} CPUs and {answer.gpus:g} GPUs; {answer.ahead} ahead of it")
    if answer.ahead_ids:
        console.print(f"behind {', '.join(reversed(answer.ahead_ids))}")
    if answer.basis:
        console.print(f"might start: {starts_in(answer.estimated_start_at)} [dim]({escape(answer.basis)})[/]")
    for warning in answer.warnings:
        console.print(f"[yellow]note[/] {escape(warning)}")


def _print_list(views: list[ExperimentView]) -> None:
    now = datetime.now(UTC)
    rows = table("id", "name", "workload", "state", "#step", "gates", "#age", "reason")
    for view in views:
        age = ago((now - view.created_at).total_seconds())
        gates = styled(view.report_outcome or "", OUTCOME_STYLES) if view.gates else ""
        state = styled(view.state, STATE_STYLES)
        reason = escape(view.waiting or view.reason)
        rows.add_row(view.id, escape(view.name), escape(view.workload), state, _step(view), gates, age, reason)
    out().print(rows)


def _step(view: ExperimentView) -> str:
    """How far it is: steps, or, of a sweep, trials and the best value."""
    if view.sweep is not None:
        best = f", best {number(view.sweep.value)}" if view.sweep.value is not None else ""
        return f"{view.sweep.ended}/{view.sweep.trials} trials{best}"
    return "" if view.last_step is None else f"{view.last_step}/{view.total_steps or '?'}"


def _print_attempts(console: Console, detail: ExperimentDetail) -> None:
    if not detail.attempts:
        return
    rows = table("#attempt", "cluster", "outcome", "seen", "#last step", "reason", title="\nAttempts")
    for attempt in detail.attempts:
        step = "" if attempt.last_step is None else str(attempt.last_step)
        outcome = attempt.outcome or "open"
        rows.add_row(
            str(attempt.attempt_no), attempt.cluster, outcome, attempt.observation, step, escape(attempt.reason)
        )
    console.print(rows)
    if last_words := detail.attempts[-1].detail:
        console.print(escape(last_words), style="dim")


def _print_amendments(console: Console, amendments: Iterable[AmendmentView]) -> None:
    rows = table("#amendment", "at", "by", "what", title="\nAmendments")
    for one in amendments:
        at = one.at.astimezone().strftime("%H:%M:%S")
        values = (point_text(value) if isinstance(value, dict) else value_text(value) for value in one.payload.values())
        what = " ".join([one.kind, *values])
        rows.add_row(str(one.no), at, escape(one.actor), escape(what))
    if rows.row_count:
        console.print(rows)


def _print_events(console: Console, events: list[EventView]) -> None:
    rows = table("#seq", "at", "event", "by", "reason", title="\nEvents")
    for event in events:
        moved = f"{event.kind}: {event.from_state or '–'} → {event.to_state}" if event.to_state else event.kind
        at = event.at.astimezone().strftime("%H:%M:%S")
        rows.add_row(str(event.seq), at, escape(moved), escape(event.actor), escape(event.reason))
    console.print(rows)

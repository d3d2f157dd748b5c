"""The commands about the queue: who waits, why, until when, and what a project may hold."""

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import STATE_STYLES, ago, err, out, print_json, starts_in, styled, table
from fairlead.errors import BadInput
from fairlead.representation import QueueView, QuotaView, WhyView

LIMITS = {"workers": int, "cpus": float, "gpus": float, "experiments": int, "weight": float}


def queue(where: Where, *, project: str | None, limit: int) -> None:
    """Print who waits, in order."""
    with connect(where) as client:
        view = client.queue(project=project, limit=limit)
    if where.as_json:
        print_json(view)
    elif not view.items:
        err().print("Nobody waits.")
    else:
        _print_queue(view)


def why(where: Where, experiment_id: str) -> None:
    """Print why one is not running."""
    with connect(where) as client:
        view = client.why(experiment_id)
    if where.as_json:
        print_json(view)
    else:
        _print_why(view)


def quota(where: Where, project: str, *, limits: list[str]) -> None:
    """Print what a project may hold, after setting what is to be set."""
    wanted = dict(_limit(one) for one in limits)
    with connect(where) as client:
        view = client.set_quota(project, **wanted) if wanted else client.quota(project)
    if where.as_json:
        print_json(view)
    else:
        _print_quota(view)


def _limit(text: str) -> tuple[str, float | None]:
    name, sign, value = text.partition("=")
    if name not in LIMITS or not sign:
        raise BadInput(f"{text!r} is no limit: write one of {', '.join(LIMITS)} and =, such as gpus=8")
    if not value:
        return name, None
    try:
        return name, LIMITS[name](value)
    except ValueError as error:
        raise BadInput(f"{name} must be a number, not {value!r}") from error


def _print_queue(view: QueueView) -> None:
    rows = table("#place", "id", "name", "project", "#priority", "asks for", "#waits", "#starts", "why")
    for one in view.items:
        rows.add_row(
            str(one.position),
            one.id,
            escape(one.name),
            escape(one.project),
            str(one.priority),
            f"{one.cpus:g} CPUs" + (f", {one.gpus:g} GPUs" if one.gpus else ""),
            ago((view.as_of - one.enqueued_at).total_seconds()),
            starts_in(one.estimated_start_at, view.as_of),
            escape(one.waiting or "looked at next"),
        )
    out().print(rows)
    if view.next:
        err().print(f"[dim]{view.total} wait in all; --limit shows more[/]")


def _print_why(view: WhyView) -> None:
    console = out()
    console.print(f"{view.id}: {styled(view.state, STATE_STYLES)}: {escape(view.reason)}")
    if view.position is None:
        return
    ahead = f", behind {', '.join(reversed(view.ahead))}" if view.ahead else ""
    console.print(f"place {view.position} of {view.total}{ahead}")
    console.print(f"might start: {starts_in(view.estimated_start_at)} [dim]({escape(view.basis)})[/]")


def _print_quota(view: QuotaView) -> None:
    rows = table("project", "what", "#holds", "#may hold")
    for what in ("workers", "cpus", "gpus", "experiments"):
        limit = getattr(view, what)
        rows.add_row(
            escape(view.project), what, f"{getattr(view, f'{what}_held'):g}", "–" if limit is None else f"{limit:g}"
        )
    out().print(rows)
    out().print(f"weight {view.weight:g}; recent use {view.used_cpu_hours:.3g} CPU hours (a GPU counts as 16 CPUs)")

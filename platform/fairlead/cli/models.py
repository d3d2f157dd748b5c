"""The command about registered models: which there are, and what in MLflow is not what was registered."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from rich.markup import escape

from fairlead.cli.app import Where
from fairlead.cli.experiments import connect
from fairlead.cli.output import OUTCOME_STYLES, ago, err, out, print_json, styled, table
from fairlead.representation import ModelVersionView, RegistryFlagsView, RegistryFlagView

FLAGGED = 3
"""Exit code where what the registry says cannot be believed: as for a model that did not pass its gates."""
LEVEL_STYLES = {"error": "red", "warning": "yellow", "notice": "dim"}


def list_models(where: Where, *, project: str | None, name: str | None, limit: int) -> int:
    """Print a table of versions, then every flag with what to do next. Returns the exit code."""
    with connect(where) as client:
        found = client.registry_flags()
        pages = client.models(project=project, name=name, limit=min(limit, 500))
        versions = tuple(islice(pages, limit))
    wanted = sorted((one for one in found.items if _is_wanted(one, project, name)), key=_badness)
    is_everything = project is None and name is None
    if where.as_json:
        print_json({"checked_at": _moment(found), "versions": list(versions), "flags": wanted})
    else:
        _print(versions, wanted, found, is_everything=is_everything)
    return FLAGGED if any(one.level == "error" for one in wanted) else 0


def _is_wanted(flag: RegistryFlagView, project: str | None, name: str | None) -> bool:
    return project in (None, flag.project) and name in (None, flag.name)


def _badness(flag: RegistryFlagView) -> int:
    """Worst first; a level of a newer server last."""
    return next((place for place, level in enumerate(LEVEL_STYLES) if level == flag.level), len(LEVEL_STYLES))


def _moment(found: RegistryFlagsView) -> str | None:
    return found.checked_at.isoformat() if found.checked_at else None


def _print(
    versions: Sequence[ModelVersionView],
    flags: Sequence[RegistryFlagView],
    found: RegistryFlagsView,
    *,
    is_everything: bool,
) -> None:
    if versions:
        out().print(_table(versions))
    elif not is_everything:
        err().print("No registered model is of that project and name.")
    else:
        err().print("No model has been registered. 'register' in a spec does it, once its gates have passed.")
    for flag in flags:
        out().print(f"\n{styled(flag.level, LEVEL_STYLES)} {escape(flag.code)}: {escape(flag.message)}")
        out().print(f"  [dim]{escape(flag.advice)}[/]")
    if found.checked_at is not None:
        seconds = (datetime.now(UTC) - found.checked_at).total_seconds()
        err().print(f"[dim]MLflow's registry was compared with this {ago(seconds)} ago.[/]")
    elif versions:
        err().print("[yellow]MLflow's registry has not been compared with this yet.[/]")


def _table(versions: Sequence[ModelVersionView]) -> object:
    rows = table("name", "#version", "alias", "project", "experiment", "outcome", "registered", "flag")
    for view in versions:
        over = f", overridden: {escape(', '.join(view.overridden))}" if view.overridden else ""
        worst = next((one.level for one in view.flags if one.level == "error"), None)
        codes = escape(", ".join(one.code for one in view.flags))
        rows.add_row(
            escape(view.name),
            escape(view.version),
            escape(view.alias),
            escape(view.project),
            escape(view.experiment_id),
            f"{styled(view.report_outcome or '–', OUTCOME_STYLES)}{over}",
            view.registered_at.isoformat(sep=" ", timespec="minutes"),
            f"[{LEVEL_STYLES[worst or 'warning']}]{codes}[/]" if codes else "",
        )
    return rows

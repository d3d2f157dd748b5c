"""How the command line speaks: tables for people, JSON for programs, errors with what to do next."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fairlead.errors import BadInput, FairleadError, NotFound, Problem, Unauthorized, Unavailable
from fairlead.representation import ChampionView

WIDE = 160
"""Columns where no terminal says how many: a pipe should not cut tables short."""

STATE_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "held": "magenta",
    "running": "cyan",
    "evaluating": "cyan",
}
CLUSTER_STYLES = {"active": "green", "draining": "yellow", "suspect": "magenta", "retired": "red"}
OUTCOME_STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_ADVICE: dict[type[FairleadError], str] = {
    NotFound: "'fairlead list' shows what there is.",
    Unauthorized: "Set FAIRLEAD_TOKEN, or FAIRLEAD_HOME to the stack's data directory.",
}


def out() -> Console:
    """Standard output, for people. Honours NO_COLOR."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)


def err() -> Console:
    """Standard error, for everything that is not the answer."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else WIDE, highlight=False)


def print_json(content: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_json_line(content: Any) -> None:
    """One JSON document on one line."""
    sys.stdout.write(json.dumps(_plain(content), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(content: Any) -> Any:
    if isinstance(content, BaseModel):
        return content.model_dump(mode="json", by_alias=True)
    if isinstance(content, list | tuple):
        return [_plain(item) for item in content]
    if isinstance(content, Mapping):
        return {key: _plain(value) for key, value in content.items()}
    return content


def exit_code_of(error: FairleadError) -> int:
    """2 for what the user wrote, 4 for an API out of reach, 1 for the rest."""
    if isinstance(error, BadInput):
        return 2
    return 4 if isinstance(error, Unavailable | Unauthorized) else 1


def tell(error: FairleadError, *, as_json: bool = False) -> None:
    """Print an error to standard error: what is wrong, where, and what to do next."""
    problems = error.problems if isinstance(error, BadInput) else ()
    if as_json:
        errors = [{"pointer": p.pointer, "message": p.message, "suggestion": p.suggestion} for p in problems]
        document = {"code": error.code, "detail": str(error), "errors": errors}
        sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
        return
    console = err()
    console.print(f"[bold red]error[/] {escape(str(error))}" if not problems else "[bold red]error[/] not accepted:")
    for problem in problems:
        console.print(_line(problem))
    for hint in [
        *getattr(error, "__notes__", []),
        *(text for kind, text in _ADVICE.items() if isinstance(error, kind)),
    ]:
        console.print(f"[dim]{escape(hint)}[/]")


def _line(problem: Problem) -> str:
    hint = f" [dim]({escape(problem.suggestion)})[/]" if problem.suggestion else ""
    return f"  [bold]{escape(problem.pointer or '/')}[/] {escape(problem.message)}{hint}"


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table. Columns that begin with ``#`` hold numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column.removeprefix("#"), justify="right" if column.startswith("#") else "left")
    return made


def styled(text: str, styles: Mapping[str, str]) -> str:
    """``text`` in the colour of its meaning; the word itself says it too."""
    style = styles.get(text)
    return f"[{style}]{escape(text)}[/]" if style else escape(text)


def number(value: float | None) -> str:
    """A measured value for people: four digits behind the point are more than the data carry."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def with_values(why: str, champion: ChampionView | None) -> str:
    """Why a gate ended so, and the values that were compared where it held the model against the champion."""
    return f"{why}: {champion.values}" if champion is not None and champion.values else why


def print_champions(console: Console, champions: Iterable[ChampionView | None]) -> None:
    """Whom gates held a model against, once."""
    for who in dict.fromkeys(one.who for one in champions if one is not None and one.who):
        console.print(f"[dim]champion: {escape(who)}[/]")


def ago(seconds: float) -> str:
    """A length of time in its largest sensible unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def starts_in(at: datetime | None, now: datetime | None = None) -> str:
    """An estimate for people."""
    if at is None:
        return "–"
    seconds = (at - (now or datetime.now(UTC))).total_seconds()
    return "now" if seconds < 1 else f"in {ago(seconds)}"

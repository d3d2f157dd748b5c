"""What a profile is made of, and how it is written as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairlead.evaluation.drawing import Key, hidden_groups

UNKNOWN = "not in the report"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A text, and where in the report it comes from (a JSON pointer); empty where it is no value of it."""

    text: str
    path: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a heading; each row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """A layout of one report."""

    title: str
    about: str
    """What it follows, and what it is not."""
    facts: tuple[tuple[str, Cell], ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...] = ()


def markdown(profile: Profile) -> str:
    """GitHub's Markdown. Text from data is escaped; paths stand behind the tables."""
    parts = [f"# {plain(profile.title)}", plain(profile.about)]
    parts += [_table(("", ""), [(Cell(text=name), cell) for name, cell in profile.facts])]
    for table in profile.tables:
        parts += [f"## {plain(table.title)}", _table(table.columns, table.rows), *map(plain, table.notes)]
    if profile.notes:
        parts += ["## What this does not say", "\n".join(f"- {plain(note)}" for note in profile.notes)]
    parts += ["## Where each value stands in report.json", _paths(profile)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    lines = [_line(map(plain, columns)), _line(["---"] * len(columns))]
    return "\n".join([*lines, *(_line([plain(cell.text) for cell in row]) for row in rows)])


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _paths(profile: Profile) -> str:
    named = [(name, cell) for name, cell in profile.facts if cell.path]
    for table in profile.tables:
        for row in table.rows:
            heading = " ".join((table.title, row[0].text))
            named += [
                (f"{heading}: {column}", cell) for column, cell in zip(table.columns, row, strict=True) if cell.path
            ]
    return "\n".join(f"- {plain(name)}: {plain(cell.path)}" for name, cell in named)


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    kept = " ".join(text.split())
    for sign in "\\`*_[]<>|#~":
        kept = kept.replace(sign, f"\\{sign}")
    return kept


# ---- values of a report ---------------------------------------------------------------------------------------------


def value_at(report: Mapping[str, Any], path: str, *, digits: int = 3) -> Cell:
    """What stands at a path, as text. Raises ``KeyError`` where nothing does."""
    return Cell(text=text_of(_found(report, path), digits=digits), path=path)


def _found(report: Mapping[str, Any], path: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to."""
    found: Any = report
    for step in path.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def text_of(value: Any, *, digits: int = 3) -> str:
    """A value as people read it."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, list):
        return ", ".join(map(text_of, value)) or "none"
    return str(value)


def with_interval(report: Mapping[str, Any], path: str) -> Cell:
    """A value of a group with its two-sided interval, or why it has none."""
    cell, found = value_at(report, f"{path}/value"), _found(report, path)
    if found["value"] is None:
        return Cell(text=f"none: {str(found.get('reason', '')).replace('_', ' ')}", path=f"{path}/value")
    if found["interval"] is None:
        return cell
    low, high = found["interval"]
    return Cell(text=f"{cell.text} ({low:.3f} to {high:.3f})", path=cell.path)


def name_of(group: Mapping[str, Any]) -> str:
    """A group as its levels; all rows together have none."""
    return " x ".join(map(str, group["key"].values())) or "all rows"


def hidden_in(report: Mapping[str, Any], by: Sequence[str]) -> frozenset[Key]:
    """Groups of one grouping that the page hides to protect the few people in them; nobody where all are one group."""
    if not by:
        return frozenset()
    found = [group for group in report["groups"] if tuple(group["by"]) == tuple(by)]
    return hidden_groups(found, min_display=report["settings"]["min_display"])


def key_of(group: Mapping[str, Any]) -> Key:
    """Its levels, by which it is hidden or not."""
    return tuple(group["key"].values())


def is_gap_hidden(report: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether a distance would tell of a hidden group, as the page has it."""
    gap, hidden = shown_gap(entry)[0], hidden_in(report, entry["by"])
    return any(tuple(gap[end].values()) in hidden for end in ("max", "min") if gap[end])


def certainty(report: Mapping[str, Any]) -> str:
    """The confidence of all limits in the report."""
    return f"{100 * float(report['confidence']):g} %"


def shown_gap(entry: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The distance among groups with enough rows, where there is one apart, and the step of the path to it."""
    supported = entry["supported"]
    return (entry, "") if supported is None else (supported, "/supported")

"""Memory of many processes without counting a page twice: *proportional set size* shares each page among its users."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """One process. ``pss_mb``: its share of all its pages; ``shared_mb``: resident pages that others use too."""

    name: str
    pid: int
    pss_mb: float
    rss_mb: float
    shared_mb: float


def footprints(processes: Iterable[psutil.Process]) -> list[Footprint]:
    """Those that still run, largest first."""
    found = (footprint(process) for process in processes)
    return sorted((each for each in found if each is not None), key=lambda each: -each.pss_mb)


def footprint(process: psutil.Process) -> Footprint | None:
    """One process; None when it is gone or has no memory of its own."""
    try:
        sizes = read_rollup(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
        name = short_name(process.cmdline(), process.name())
    except (OSError, psutil.Error):
        return None
    if not sizes:
        return None
    shared_kb = sizes["Shared_Clean"] + sizes["Shared_Dirty"]
    return Footprint(
        name=name,
        pid=process.pid,
        pss_mb=round(sizes["Pss"] / 1024, 1),
        rss_mb=round(sizes["Rss"] / 1024, 1),
        shared_mb=round(shared_kb / 1024, 1),
    )


def read_rollup(text: str) -> dict[str, int]:
    """Kilobytes by name, from the text of ``smaps_rollup``; empty for a process that has ended."""
    rows = (line.split() for line in text.splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def short_name(command: list[str], otherwise: str) -> str:
    """What a process is called in a table: its module, script or program, without paths."""
    if not command:
        return otherwise
    if command[0].startswith("ray::"):
        return command[0]
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, otherwise)
        if word.endswith(".py"):
            return Path(word).name
        if word == "-c":
            return f"{Path(command[0]).name} -c {next(words, '')[:40]}".split("(")[0].strip()
        if not word.startswith("-"):
            break
    program = Path(command[0]).name
    script = next((Path(word).name for word in command[1:2] if "/" in word), "")
    return f"{program} {script}".strip() if program.startswith("python") else program


def total_mb(found: Iterable[Footprint]) -> float:
    """Their proportional set sizes together."""
    return round(sum(each.pss_mb for each in found), 1)

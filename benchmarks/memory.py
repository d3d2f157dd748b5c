"""Memory of many processes without counting a page twice: *proportional set size* shares each page among its users."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 2**20
GROUPS = {
    "fairlead.agent": "agent",
    "fairlead.agent.process": "agent",
    "fairlead.cli": "supervisor",
    "fairlead.run.warm.root": "warm servers",
    "fairlead.tracking": "MLflow",
    "fairlead_api": "API",
    "dashboard.py": "Ray",
    "gcs_server": "Ray",
    "keeper.py": "Ray",
    "ray.scripts.scripts": "Ray",
    "raylet": "Ray",
}
"""What a process of a stack belongs to, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """One process. ``pss_mb``: its share of all its pages; ``shared_mb``: resident pages that others use too."""

    name: str
    pid: int
    pss_mb: float
    rss_mb: float
    shared_mb: float
    cpu_s: float = 0.0
    """Processor time since it began."""

    @property
    def group(self) -> str:
        """What it belongs to."""
        return "Ray" if self.name.startswith(("ray::", "ray-dashboard-")) else GROUPS.get(self.name, "other")


def footprints(processes: Iterable[psutil.Process]) -> list[Footprint]:
    """Those that still run, largest first."""
    found = (footprint(process) for process in processes)
    return sorted((each for each in found if each is not None), key=lambda each: -each.pss_mb)


def footprint(process: psutil.Process) -> Footprint | None:
    """One process; None when it is gone or has no memory of its own."""
    try:
        sizes = read_rollup(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
        name = short_name(process.cmdline(), process.name())
        times = process.cpu_times()
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
        cpu_s=round(times.user + times.system, 2),
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


def process_table(found: Iterable[Footprint], busy_percent: Mapping[int, float]) -> str:
    """Groups, largest first, each with its processes. ``busy_percent``: share of one core, by process number."""
    groups: dict[str, list[Footprint]] = {}
    for each in found:
        groups.setdefault(each.group, []).append(each)
    lines = [f"{'PSS MB':>8}  {'RSS MB':>8}  {'core %':>6}"]
    for name, members in sorted(groups.items(), key=lambda item: -total_mb(item[1])):
        lines.append(_line(name, members, busy_percent))
        lines += [_line(f"    {each.name}", [each], busy_percent) for each in members]
    everyone = [each for members in groups.values() for each in members]
    return "\n".join([*lines, _line("together (no sum of RSS: it counts shared pages twice)", everyone, busy_percent)])


def _line(name: str, members: list[Footprint], busy_percent: Mapping[int, float]) -> str:
    rss_mb = f"{members[0].rss_mb:.1f}" if len(members) == 1 else ""
    busy = sum(busy_percent.get(each.pid, 0.0) for each in members)
    return f"{total_mb(members):8.1f}  {rss_mb:>8}  {busy:6.1f}  {name}"
